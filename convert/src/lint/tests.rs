// SPDX-License-Identifier: Apache-2.0
#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::files::Directory;
use crate::inspection::{BootEntry, Initramfs, Kernel, Layer, Loader, Unlock};
use crate::plan::{DiskEdit, Finding};
use crate::rules::tests::{Guest, ROOT, Tree};

const TREE: Tree<'_> = &[
    ("/boot/vmlinuz-6.1", "x"),
    ("/boot/initrd.img-6.1", "x"),
    ("/etc/fstab", "UUID=0b7c1d3e-0000-4000-8000-000000000001 / ext4 defaults 0 1\n"),
];

/// A guest that boots.
fn guest(tree: Tree<'_>) -> Guest {
    let mut guest = Guest::new(tree);
    guest.inspection.kernels.push(Kernel {
        release: "6.1".into(),
        image: Some("/boot/vmlinuz-6.1".into()),
        modules: Some("/usr/lib/modules/6.1".into()),
        initramfs: vec![Initramfs {
            path: "/boot/initrd.img-6.1".into(),
            made_by: "initramfs-tools".into(),
            host_only: false,
            compression: vec!["zstd".into()],
            broken: None,
            size: 1,
        }],
        config: None,
        bootable: true,
        special: None,
    });
    guest.inspection.boot.loaders.push(Loader {
        kind: LoaderKind::Grub2,
        firmware: Firmware::Bios,
        config: None,
        binaries: Vec::new(),
        shim: false,
    });
    guest.inspection.boot.entries.push(BootEntry {
        file: "/boot/grub/grub.cfg".into(),
        lines: Some((1, 3)),
        style: "grub".into(),
        title: "Debian".into(),
        kernel: Some("/boot/vmlinuz-6.1".into()),
        initramfs: vec!["/boot/initrd.img-6.1".into()],
        arguments: vec![format!("root=UUID={ROOT}"), "ro".into()],
        default: true,
    });
    guest
}

fn findings(guest: &Guest, prepare: impl Fn(&mut Draft<'_>)) -> Vec<Finding> {
    let directory = Directory::open(guest.folder.path()).unwrap();
    let mut draft = Draft::new(&directory);
    prepare(&mut draft);
    lint(&mut draft, &guest.inspection, &guest.devices, &guest.request).unwrap();
    draft.findings().to_vec()
}

/// The one finding of a guest that is changed in one way.
fn only(tree: Tree<'_>, change: impl Fn(&mut Guest)) -> (Severity, String, String) {
    let mut guest = guest(tree);
    change(&mut guest);
    let found = findings(&guest, |_| {});
    assert_eq!(found.len(), 1, "{found:#?}");
    let found = found.into_iter().next().unwrap();
    (found.severity, format!("{}: {}", found.rule, found.text), found.remedy.unwrap_or_default())
}

#[test]
fn a_guest_that_boots_has_no_findings() {
    assert_eq!(findings(&guest(TREE), |_| {}), []);
}

#[test]
fn a_guest_without_a_bootable_kernel_is_refused() {
    let (severity, text, _) = only(TREE, |guest| guest.inspection.kernels[0].bootable = false);
    assert_eq!(
        (severity, text.as_str()),
        (Severity::Error, "kernel: no boot entry starts a kernel that is installed")
    );
    let (severity, text, _) = only(&TREE[1..], |_| {});
    assert_eq!(severity, Severity::Error);
    assert!(text.contains("loads /boot/vmlinuz-6.1, which is not there"), "{text}");
    let (severity, ..) = only(&TREE[1..], |guest| guest.inspection.boot.entries[0].default = false);
    assert_eq!(severity, Severity::Warning);
}

#[test]
fn a_broken_or_missing_initramfs_is_told_or_refused() {
    let mut broken = guest(TREE);
    broken.inspection.kernels[0].initramfs[0].broken = Some("it ends early".into());
    let found = findings(&broken, |_| {});
    assert!(
        found.iter().any(|found| found.severity == Severity::Error && found.rule == "initramfs"),
        "{found:#?}"
    );
    let mut second = broken.inspection.kernels[0].clone();
    second.initramfs[0].broken = None;
    broken.inspection.kernels.push(second);
    assert!(findings(&broken, |_| {}).iter().all(|found| found.severity == Severity::Warning));

    let (severity, text, _) = only(TREE, |guest| guest.inspection.kernels[0].initramfs.clear());
    assert_eq!(severity, Severity::Warning, "{text}");
    let (severity, text, _) = only(TREE, |guest| {
        guest.inspection.kernels[0].initramfs.clear();
        guest.inspection.root.push(Layer::LogicalVolume { vg: "a".into(), lv: "b".into() });
    });
    assert_eq!(severity, Severity::Error, "{text}");
}

#[test]
fn a_root_that_only_the_old_machine_opens_is_refused_with_the_command_that_helps() {
    let luks = |passphrase, bound: &[&str]| {
        let bound = bound.iter().map(|token| (*token).to_owned()).collect();
        Layer::Luks { uuid: Some("1-2".into()), version: 2, unlock: Unlock { passphrase, bound } }
    };
    let (severity, text, remedy) =
        only(TREE, |guest| guest.inspection.root = vec![luks(0, &["systemd-tpm2"])]);
    assert_eq!(severity, Severity::Error, "{text}");
    assert!(remedy.contains("systemd-cryptenroll --recovery-key /dev/disk/by-uuid/1-2"), "{remedy}");
    let (severity, text, _) = only(TREE, |guest| guest.inspection.root = vec![luks(1, &["clevis"])]);
    assert!(
        severity == Severity::Warning && text.contains("clevis of the old machine no longer opens root"),
        "{text}"
    );
    assert_eq!(
        findings(
            &{
                let mut guest = guest(TREE);
                guest.inspection.root = vec![luks(1, &[])];
                guest
            },
            |_| {}
        ),
        []
    );
}

#[test]
fn a_root_or_mount_on_no_captured_disk_is_told() {
    let (severity, text, _) =
        only(TREE, |guest| guest.inspection.boot.entries[0].arguments[0] = "root=UUID=dead".into());
    assert!(severity == Severity::Error && text.contains("root=UUID=dead"), "{text}");
    let fstab = |line: &'static str| -> [(&'static str, &'static str); 3] {
        [TREE[0], TREE[1], ("/etc/fstab", line)]
    };
    let (severity, text, _) = only(&fstab("LABEL=gone /data ext4 defaults 0 2\n"), |_| {});
    assert!(severity == Severity::Warning && text.contains("/data is mounted from LABEL=gone"), "{text}");
    let (severity, ..) = only(&fstab("UUID=dead /usr ext4 defaults 0 2\n"), |_| {});
    assert_eq!(severity, Severity::Error);
    assert_eq!(findings(&guest(&fstab("LABEL=gone /data ext4 nofail 0 2\n#LABEL=x / ext4\n")), |_| {}), []);
    // What a LUKS container holds cannot be seen.
    let mut hidden = guest(&fstab("LABEL=gone /data ext4 defaults 0 2\n"));
    hidden.devices.devices[1].kind = "crypto_LUKS".into();
    assert_eq!(findings(&hidden, |_| {}), []);
}

#[test]
fn boot_loaders_and_firmware_have_to_fit() {
    let (severity, text, remedy) = only(TREE, |guest| guest.inspection.boot.loaders.clear());
    assert!(severity == Severity::Error && text.contains("no boot loader") && !remedy.is_empty(), "{text}");
    let (severity, text, _) = only(TREE, |guest| guest.inspection.boot.loaders[0].kind = LoaderKind::Unknown);
    assert!(severity == Severity::Error && text.contains("no boot loader"), "{text}");
    let (severity, ..) = only(TREE, |guest| guest.inspection.boot.loaders[0].kind = LoaderKind::Lilo);
    assert_eq!(severity, Severity::Warning);
    let (severity, text, _) = only(TREE, |guest| guest.request.firmware = Some(Firmware::Uefi));
    assert!(severity == Severity::Error && text.contains("EFI system partition"), "{text}");
    let mut made = guest(TREE);
    made.request.firmware = Some(Firmware::Uefi);
    let with_esp = |draft: &mut Draft<'_>| {
        draft.disk(DiskEdit { reasons: Vec::new(), disk: 0, summary: Vec::new(), writes: Vec::new() });
    };
    assert_eq!(findings(&made, with_esp), []);
}

#[test]
fn a_suspended_guest_is_refused() {
    let (severity, text, _) = only(TREE, |guest| guest.devices.devices[1].kind = "swsuspend".into());
    assert!(severity == Severity::Error && text.contains("/dev/sda5 holds a suspended system"), "{text}");
}

#[test]
fn files_for_which_there_is_no_room_are_refused() {
    let free = {
        let guest = guest(TREE);
        let directory = Directory::open(guest.folder.path()).unwrap();
        crate::files::Files::room(&directory, "/").unwrap().bytes
    };
    // A file that claims more than is free: its room is asked for, its content is not read.
    struct Small(Directory);
    impl crate::files::Files for Small {
        fn metadata(&self, path: &str) -> Result<Option<crate::files::Metadata>> {
            self.0.metadata(path)
        }
        fn link_metadata(&self, path: &str) -> Result<Option<crate::files::Metadata>> {
            self.0.link_metadata(path)
        }
        fn read(&self, path: &str, most: u64) -> Result<Option<Vec<u8>>> {
            self.0.read(path, most)
        }
        fn list(&self, path: &str) -> Result<Vec<String>> {
            self.0.list(path)
        }
        fn read_link(&self, path: &str) -> Result<Option<String>> {
            self.0.read_link(path)
        }
        fn real_path(&self, path: &str) -> Result<Option<String>> {
            self.0.real_path(path)
        }
        fn room(&self, _: &str) -> Result<crate::files::Room> {
            Ok(crate::files::Room { bytes: 100_000, inodes: 100 })
        }
    }
    assert!(free > 100_000);
    let guest = guest(TREE);
    let small = Small(Directory::open(guest.folder.path()).unwrap());
    let mut draft = Draft::new(&small);
    draft.append("/boot/initrd.img-6.1", vec![0; 200_000], "drivers", "because").unwrap();
    lint(&mut draft, &guest.inspection, &guest.devices, &guest.request).unwrap();
    let found = draft.findings();
    assert!(
        found.len() == 1 && found[0].rule == "room" && found[0].text.contains("97.7 KiB free"),
        "{found:#?}"
    );
}
