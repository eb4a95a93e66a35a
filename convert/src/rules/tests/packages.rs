// SPDX-License-Identifier: Apache-2.0
use super::*;

const DEBCONF: &str = "\
Name: grub-pc/install_devices
Template: grub-pc/install_devices
Value: /dev/disk/by-id/ata-QEMU_HARDDISK_QM00001
Owners: grub-pc
Flags: seen
Variables:
 CHOICES = /dev/sda (21474 MB; QEMU_HARDDISK)
 RAW_CHOICES = /dev/disk/by-id/ata-QEMU_HARDDISK_QM00001

Name: grub-pc/install_devices_empty
Template: grub-pc/install_devices_empty
Value: false
Owners: grub-pc

Name: other/install_devices
Template: other/install_devices
Value: /dev/sda
Owners: other

";

const LINK: &str = "/dev/disk/by-id/unmoor-deadbeef";

#[test]
fn grub_pc_gets_a_link_that_udev_makes_on_any_hardware() {
    let guest = Guest::new(&[("/var/cache/debconf/config.dat", DEBCONF)]);
    let outcome = guest.plan();
    let new = outcome.text("/var/cache/debconf/config.dat");
    assert_eq!(
        new,
        DEBCONF.replacen("Value: /dev/disk/by-id/ata-QEMU_HARDDISK_QM00001", &format!("Value: {LINK}"), 1)
    );
    assert!(outcome.text("/etc/udev/rules.d/61-unmoor-disks.rules").ends_with(
        "SUBSYSTEM==\"block\", ENV{DEVTYPE}==\"disk\", ENV{ID_PART_TABLE_UUID}==\"deadbeef\", SYMLINK+=\"disk/by-id/unmoor-deadbeef\"\n"
    ));

    // debconf itself reads the answer.
    put(guest.folder.path(), "/config.dat", new);
    let file = guest.folder.path().join("config.dat");
    let templates = guest.folder.path().join("templates.dat");
    fs::write(&templates, "Name: grub-pc/install_devices\nType: multiselect\nChoices: ${CHOICES}\nDescription: x\nOwners: grub-pc/install_devices\n\n").unwrap();
    let script = format!(
        "printf 'GET grub-pc/install_devices\\n' | DEBCONF_DB_REPLACE='File{{{}}}' DEBCONF_TEMPLATEDB='File{{{}}}' debconf-communicate grub-pc",
        file.display(),
        templates.display()
    );
    assert_eq!(ask("debconf", "sh", &["-c", &script]), format!("0 {LINK}\n"));
}

/// The check of grub-pc's postinst (2.06 and 2.12), word by word what decides whether it asks.
#[test]
fn the_package_finds_its_answer_where_the_link_is() {
    let guest = Guest::new(&[]);
    let link = guest.folder.path().join("unmoor-deadbeef");
    let check = |answer: &Path| {
        let script = format!(
            "valid=1; RET='{}'; for device in $RET; do if [ ! -e \"${{device%,}}\" ]; then valid=0; break; fi; done; echo $valid",
            answer.display()
        );
        ask("dash", "sh", &["-c", &script])
    };
    assert_eq!(check(&link), "0\n");
    symlink("/dev/null", &link).unwrap();
    assert_eq!(check(&link), "1\n");
}

#[test]
fn a_disk_that_cannot_be_told_is_left_to_the_administrator() {
    let mut guest = Guest::new(&[("/var/cache/debconf/config.dat", DEBCONF)]);
    guest.devices.tables = vec![None];
    let outcome = guest.plan();
    assert!(outcome.files.is_empty());
    assert!(outcome.finding("not told").remedy.as_ref().unwrap().contains("dpkg-reconfigure grub-pc"));
}

#[test]
fn suse_and_ubuntu_answers_are_changed_too() {
    let mut guest = Guest::new(&[
        (
            "/etc/default/grub_installdevice",
            "/dev/disk/by-id/ata-QEMU_HARDDISK_QM00001\nactivate\ngeneric_mbr\n",
        ),
        (
            "/var/cache/debconf/config.dat",
            "Name: grub-efi/install_devices\nTemplate: x\nValue: /dev/disk/by-id/nvme-eui.1-part7, /dev/disk/by-id/nvme-eui.2-part7\n\n",
        ),
    ]);
    guest.devices.devices.push(Device {
        partition_type: Some("c12a7328-f81f-11d2-ba4b-00a0c93ec93b".into()),
        ..device(0, 7, "vfat", "1234-ABCD", &["/dev/sda7"])
    });
    let outcome = guest.plan();
    assert_eq!(outcome.text("/etc/default/grub_installdevice"), format!("{LINK}\nactivate\ngeneric_mbr\n"));
    assert!(
        outcome.text("/var/cache/debconf/config.dat").contains("Value: /dev/disk/by-partuuid/deadbeef-07\n")
    );
}
