// SPDX-License-Identifier: Apache-2.0
use super::*;

#[test]
fn fstab_gets_uuids_and_keeps_columns_comments_and_order() {
    let guest = Guest::new(&[(
        "/etc/fstab",
        "# <file system> <mount point>   <type>  <options>\n\
         /dev/sda1                                 /          ext4  errors=remount-ro 0 1\n\
         /dev/disk/by-id/ata-QEMU_HARDDISK_QM00001-part5\tnone\tswap\tsw\t0\t0 # swap\n\
         \n\
         /dev/sr0        /media/cdrom0   udf,iso9660 user,noauto     0       0\n\
         /dev/mapper/vg-home /home xfs defaults 0 0\n\
         server:/export /mnt nfs defaults 0 0\n\
         \"/dev/disk/by-path/pci-0000:00:1f.2-ata-1-part1\" /again ext4 ro 0 0",
    )]);
    let outcome = guest.plan();
    assert_eq!(
        outcome.text("/etc/fstab"),
        format!(
            "# <file system> <mount point>   <type>  <options>\n\
             UUID={ROOT} /          ext4  errors=remount-ro 0 1\n\
             UUID={SWAP}\tnone\tswap\tsw\t0\t0 # swap\n\
             \n\
             /dev/sr0        /media/cdrom0   udf,iso9660 user,noauto     0       0\n\
             /dev/mapper/vg-home /home xfs defaults 0 0\n\
             server:/export /mnt nfs defaults 0 0\n\
             \"UUID={ROOT}\" /again ext4 ro 0 0"
        )
    );
    assert_eq!(outcome.plan.findings, []);
    // util-linux reads the same fields.
    put(guest.folder.path(), "/new", outcome.text("/etc/fstab"));
    let path = guest.folder.path().join("new");
    let seen = ask(
        "util-linux",
        "findmnt",
        &["--fstab", "--tab-file", path.to_str().unwrap(), "-n", "-r", "-o", "SOURCE,TARGET,FSTYPE,OPTIONS"],
    );
    let first = seen.lines().next().unwrap();
    assert_eq!(first, format!("UUID={ROOT} / ext4 errors=remount-ro"));
    assert_eq!(seen.lines().count(), 6, "{seen}");
}

#[test]
fn partitions_without_a_uuid_of_their_own_get_partuuids() {
    let mut guest =
        Guest::new(&[("/etc/fstab", "/dev/sda1 / ext4 defaults 0 1\n/dev/sda5 /raw ext4 defaults 0 2\n")]);
    guest.devices.devices[0].uuid = Some(SWAP.into());
    guest.devices.devices[1].kind = "ext4".into();
    let outcome = guest.plan();
    assert_eq!(
        outcome.text("/etc/fstab"),
        "PARTUUID=deadbeef-01 / ext4 defaults 0 1\nPARTUUID=deadbeef-05 /raw ext4 defaults 0 2\n"
    );
}

#[test]
fn a_disk_that_was_not_captured_gets_nofail_and_is_told_unless_the_system_needs_it() {
    let guest = Guest::new(&[(
        "/etc/fstab",
        "/dev/sda1 / ext4 defaults 0 1\n/dev/sdq1 /data ext4 defaults,noatime 0 2\n/dev/sdq2 /more ext4 nofail 0 2\n",
    )]);
    let outcome = guest.plan();
    assert!(outcome.text("/etc/fstab").contains("/dev/sdq1 /data ext4 defaults,noatime,nofail 0 2\n"));
    assert!(outcome.text("/etc/fstab").contains("/dev/sdq2 /more ext4 nofail 0 2\n"));
    assert_eq!(outcome.finding("/dev/sdq1 (/data, ext4)").severity, Severity::Warning);

    let guest = Guest::new(&[("/etc/fstab", "/dev/sdq1 /usr ext4 defaults 0 2\n")]);
    let outcome = guest.plan();
    assert_eq!(outcome.finding("/usr is mounted from /dev/sdq1").severity, Severity::Error);
    assert!(outcome.plan.is_refused());
}

#[test]
fn crypttab_and_the_swap_to_resume_from_get_uuids() {
    let guest = Guest::new(&[
        (
            "/etc/crypttab",
            "# name device key\nroot  /dev/sda1   none  luks,discard\nswap /dev/sda5 /dev/urandom swap\nold /dev/sdz9 none noauto\n",
        ),
        ("/etc/initramfs-tools/conf.d/resume", "RESUME=/dev/sda5\n"),
        ("/etc/initramfs-tools/initramfs.conf", "MODULES=most\n# RESUME=/dev/sda5\n"),
    ]);
    let outcome = guest.plan();
    assert_eq!(
        outcome.text("/etc/crypttab"),
        format!(
            "# name device key\nroot  UUID={ROOT} none  luks,discard\nswap UUID={SWAP} /dev/urandom swap\nold /dev/sdz9 none noauto\n"
        )
    );
    assert_eq!(outcome.text("/etc/initramfs-tools/conf.d/resume"), format!("RESUME=UUID={SWAP}\n"));
    assert_eq!(outcome.initramfs["/conf/conf.d/zz-unmoor-resume"], format!("RESUME=UUID={SWAP}\n"));
    assert!(!outcome.files.contains_key("/etc/initramfs-tools/initramfs.conf"));
}

#[test]
fn a_swap_to_resume_from_that_is_not_there_is_dropped() {
    let guest = Guest::new(&[("/etc/initramfs-tools/conf.d/resume", "RESUME=UUID=00000000-dead\n")]);
    let outcome = guest.plan();
    assert_eq!(outcome.text("/etc/initramfs-tools/conf.d/resume"), "RESUME=none\n");
    assert_eq!(outcome.initramfs["/conf/conf.d/zz-unmoor-resume"], "RESUME=none\n");
}

#[test]
fn text_that_is_not_utf_8_stays_byte_for_byte() {
    let guest = Guest::new(&[]);
    let mut text = b"# gr\xfc\xdfe \xff\n/dev/sda1 / ext4 defaults 0 1\n".to_vec();
    fs::create_dir_all(guest.folder.path().join("etc")).unwrap();
    fs::write(guest.folder.path().join("etc/fstab"), &text).unwrap();
    let outcome = guest.plan();
    let crate::plan::Change::Write { content, .. } = &outcome.plan.edits[0].change else { unreachable!() };
    text.truncate(b"# gr\xfc\xdfe \xff\n".len());
    text.extend(format!("UUID={ROOT} / ext4 defaults 0 1\n").into_bytes());
    assert_eq!(content.bytes(), text);
}

#[test]
fn a_journal_on_another_disk_and_a_disk_that_is_lost_change_the_same_options() {
    let guest = Guest::new(&[(
        "/etc/fstab",
        "/dev/sda1 / ext4 defaults 0 1\n/dev/sdq1 /data ext4 noatime,journal_path=/dev/sda5,ro 0 2\n\
         UUID=9 /x ext4 journal_path=/dev/sda5 0 0\n",
    )]);
    let outcome = guest.plan();
    let by_uuid = format!("journal_path=/dev/disk/by-uuid/{SWAP}");
    assert_eq!(
        outcome.text("/etc/fstab"),
        format!(
            "UUID={ROOT} / ext4 defaults 0 1\n/dev/sdq1 /data ext4 noatime,{by_uuid},ro,nofail 0 2\nUUID=9 /x ext4 {by_uuid} 0 0\n"
        )
    );
}
