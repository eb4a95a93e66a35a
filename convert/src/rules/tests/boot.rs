// SPDX-License-Identifier: Apache-2.0
use super::*;
use crate::inspection::{Loader, LoaderKind};

const GRUB: &str = "\
set default=\"0\"
function load_video {
  insmod all_video
}
menuentry 'Debian GNU/Linux' --class debian $menuentry_id_option 'gnulinux-simple-/dev/sda1' {
\tsearch --no-floppy --fs-uuid --set=root --hint-bios=hd0,msdos1 0b7c1d3e-0000-4000-8000-000000000001
\techo\t'Loading Linux ...'
\tlinux\t/boot/vmlinuz-6.1.0-32-amd64 root=/dev/sda1 ro resume=/dev/sdz5 resume_offset=34 console=tty0 console=ttyS1,115200n8 quiet
\tinitrd\t/boot/initrd.img-6.1.0-32-amd64
}
submenu 'Advanced' {
  menuentry 'without initramfs' {
\tlinux16\t/boot/vmlinuz-5 \"root=/dev/sda1\" ro $vt_handoff
  }
}
";

#[test]
fn grub_cfg_gets_uuids_and_the_new_console_and_no_resume_from_what_is_not_there() {
    let guest = Guest::new(&[
        ("/boot/grub/grub.cfg", GRUB),
        ("/boot/grub/device.map", "(hd0)\t/dev/disk/by-id/ata-x\n"),
    ]);
    let outcome = guest.plan();
    let text = outcome.text("/boot/grub/grub.cfg");
    assert_eq!(
        text,
        GRUB.replace(
            "root=/dev/sda1 ro resume=/dev/sdz5 resume_offset=34 console=tty0 console=ttyS1,115200n8",
            &format!("root=UUID={ROOT} ro noresume console=tty0 console=ttyS0,115200n8"),
        )
        // The kernel itself finds partitions by PARTUUID only.
        .replace("\"root=/dev/sda1\"", "\"root=PARTUUID=deadbeef-01\"")
    );
    assert_eq!(outcome.text("/boot/grub/device.map"), "(removed)");
    put(guest.folder.path(), "/new.cfg", text);
    ask("grub-common", "grub-script-check", &[guest.folder.path().join("new.cfg").to_str().unwrap()]);
}

#[test]
fn a_root_that_was_not_captured_is_refused() {
    let guest = Guest::new(&[("/boot/grub/grub.cfg", "linux /vmlinuz root=/dev/sdb7\ninitrd /i\n")]);
    let outcome = guest.plan();
    assert!(outcome.plan.is_refused());
    assert!(outcome.finding("root=/dev/sdb7").remedy.is_some());
}

#[test]
fn entries_with_initramfs_of_bls_systemd_boot_and_extlinux_are_changed_in_place() {
    let mut guest = Guest::new(&[
        (
            "/boot/loader/entries/a-6.1.conf",
            "title Fedora\nlinux /vmlinuz\ninitrd /i.img\noptions root=/dev/sda1 ro $tuned_params\ngrub_users $grub_users\n",
        ),
        ("/efi/loader/entries/arch.conf", "title\tArch\nlinux\t/vmlinuz\noptions\troot=/dev/sda1 rw\n"),
        (
            "/boot/extlinux/extlinux.conf",
            "DEFAULT linux\nLABEL linux\n  LINUX vmlinuz\n  INITRD initramfs\n  APPEND root=/dev/sda1 modules=ext4 console=hvc0\n",
        ),
        ("/etc/kernel/cmdline", "root=/dev/sda1 rw console=ttyS0\n"),
        ("/boot/strange/menu.conf", "append root=/dev/sda1 initrd=x\n"),
    ]);
    guest.inspection.boot.loaders.push(Loader {
        kind: LoaderKind::Extlinux,
        firmware: Firmware::Bios,
        config: Some("/boot/strange/menu.conf".into()),
        binaries: Vec::new(),
        shim: false,
    });
    let outcome = guest.plan();
    assert_eq!(
        outcome.text("/boot/loader/entries/a-6.1.conf"),
        format!(
            "title Fedora\nlinux /vmlinuz\ninitrd /i.img\noptions root=UUID={ROOT} ro $tuned_params\ngrub_users $grub_users\n"
        )
    );
    assert!(
        outcome.text("/efi/loader/entries/arch.conf").ends_with("options\troot=PARTUUID=deadbeef-01 rw\n")
    );
    assert!(
        outcome
            .text("/boot/extlinux/extlinux.conf")
            .ends_with(&format!("  APPEND root=UUID={ROOT} modules=ext4 console=ttyS0\n"))
    );
    assert_eq!(outcome.text("/etc/kernel/cmdline"), format!("root=UUID={ROOT} rw console=ttyS0\n"));
    assert_eq!(outcome.text("/boot/strange/menu.conf"), format!("append root=UUID={ROOT} initrd=x\n"));
}

#[test]
fn what_update_grub_reads_keeps_its_quoting_and_writes_uuids_from_now_on() {
    let text = "# comment root=/dev/sda1\n\
                GRUB_DEFAULT=0\n\
                GRUB_DISTRIBUTOR=`lsb_release -i -s 2> /dev/null || echo Debian`\n\
                GRUB_CMDLINE_LINUX_DEFAULT='quiet splash resume=/dev/sda5'\n\
                export GRUB_CMDLINE_LINUX=\"root=/dev/sda1 dyndbg=\\\"file x +p\\\" \\\n   console=ttyS1,9600\"\n\
                GRUB_DISABLE_LINUX_UUID=true\n\
                GRUB_DISABLE_OS_PROBER=false\n";
    let guest = Guest::new(&[("/etc/default/grub", text), ("/etc/sysconfig/grub", "-> /etc/default/grub")]);
    let outcome = guest.plan();
    let new = outcome.text("/etc/default/grub");
    assert_eq!(
        new,
        text.replace("resume=/dev/sda5", &format!("resume=UUID={SWAP}"))
            .replace("\"root=/dev/sda1", &format!("\"root=UUID={ROOT}"))
            .replace("ttyS1", "ttyS0")
            .replace("LINUX_UUID=true", "LINUX_UUID=false")
    );
    // The shell reads it as meant.
    put(guest.folder.path(), "/new", new);
    let script = format!(
        ". {}; printf %s \"$GRUB_CMDLINE_LINUX|$GRUB_CMDLINE_LINUX_DEFAULT\"",
        guest.folder.path().join("new").display()
    );
    assert_eq!(
        ask("dash", "sh", &["-c", &script]),
        format!(
            "root=UUID={ROOT} dyndbg=\"file x +p\"    console=ttyS0,9600|quiet splash resume=UUID={SWAP}"
        )
    );
}

#[test]
fn grubenv_keeps_its_size_and_grub_reads_it() {
    let mut block = "# GRUB Environment Block\nsaved_entry=abc\nkernelopts=root=/dev/sda1 ro crashkernel=auto resume=/dev/sda5 \nboot_success=0\n".to_owned();
    block.push_str(&"#".repeat(1024 - block.len()));
    let guest = Guest::new(&[
        ("/boot/efi/EFI/redhat/grubenv", &block),
        ("/boot/grub2/grubenv", "-> ../efi/EFI/redhat/grubenv"),
    ]);
    let outcome = guest.plan();
    let new = outcome.text("/boot/efi/EFI/redhat/grubenv");
    assert_eq!(new.len(), 1024);
    put(guest.folder.path(), "/new", new);
    let seen =
        ask("grub-common", "grub-editenv", &[guest.folder.path().join("new").to_str().unwrap(), "list"]);
    assert_eq!(
        seen,
        format!(
            "saved_entry=abc\nkernelopts=root=UUID={ROOT} ro crashkernel=auto resume=UUID={SWAP} \nboot_success=0\n"
        )
    );
}

#[test]
fn a_full_grubenv_is_refused() {
    let mut block = "# GRUB Environment Block\nkernelopts=root=/dev/sda1 ".to_owned();
    block.push_str(&"x".repeat(1020 - block.len()));
    block.push_str("\n###");
    let guest = Guest::new(&[("/boot/grub2/grubenv", &block)]);
    let outcome = guest.plan();
    assert!(outcome.plan.is_refused());
    assert_eq!(outcome.finding("no room").rule, "grubenv");
    assert!(outcome.files.is_empty());
}

#[test]
fn consoles_follow_the_new_machine() {
    let cases = [
        (Some("ttyS0"), "a console=tty0 console=hvc0", "a console=tty0 console=ttyS0"),
        (Some("ttyS0"), "a console=ttyS0,9600 console=hvc0", "a console=ttyS0,9600"),
        (Some("ttyS0"), "a console=ttyS1 console=ttyS2", "a console=ttyS0"),
        (Some("ttyS0"), "a console=tty1", "a console=tty1"),
        (Some("hvc0"), "a console=ttyS0,115200n8 b", "a console=hvc0 b"),
        (None, "a console=tty0 console=xvc0 b", "a console=tty0 b"),
        (None, "a console=ttyS0", "a console=ttyS0"),
    ];
    for (serial, old, new) in cases {
        let mut guest = Guest::new(&[("/etc/kernel/cmdline", old)]);
        guest.request.hardware.serial = serial.map(str::to_owned);
        let outcome = guest.plan();
        let text = outcome.files.get("/etc/kernel/cmdline").map_or(old, String::as_str);
        assert_eq!(text, new, "{old} on {serial:?}");
    }
}
