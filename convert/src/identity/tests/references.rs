// SPDX-License-Identifier: Apache-2.0
//! Files that name what gets another identity.

use std::collections::BTreeMap;

use unmoor_images::layout::Place;
use unmoor_initramfs::archive::Writer;

use crate::files::{Directory, Files};
use crate::identity::{Clone, Names, plan};
use crate::inspection::{Initramfs, Inspection, Kernel};
use crate::plan::{Draft, Identified, Severity};
use crate::rules::tests::{Tree, inspection, put};

const ROOT: &str = "0b7c1d3e-0000-4000-8000-000000000001";
const SWAP: &str = "0b7c1d3e-0000-4000-8000-000000000005";
const NEW_ROOT: &str = "aaaaaaaa-1111-4222-8333-bbbbbbbbbbbb";
const NEW_SWAP: &str = "cccccccc-1111-4222-8333-dddddddddddd";

fn clone() -> Clone {
    let one = |partition: u32, kind: &str, old: &str, new: &str| Identified::Filesystem {
        disk: 0,
        place: Place::Disk { offset: 1 << 20, len: 1 << 20, partition: Some(partition) },
        kind: kind.to_owned(),
        old: old.to_owned(),
        new: new.to_owned(),
    };
    let edits = vec![
        one(1, "ext4", ROOT, NEW_ROOT),
        one(5, "swap", SWAP, NEW_SWAP),
        one(2, "vfat", "1A2B-3C4D", "5555-6666"),
    ];
    Clone { names: Names::new(edits.iter().flat_map(Identified::names)), edits }
}

struct Outcome {
    files: BTreeMap<String, String>,
    initramfs: BTreeMap<String, String>,
    findings: Vec<String>,
    identities: usize,
}

fn planned(tree: Tree<'_>, change: impl FnOnce(&std::path::Path, &mut Inspection)) -> Outcome {
    let folder = tempfile::tempdir().unwrap();
    for (path, content) in tree {
        put(folder.path(), path, content);
    }
    let mut inspection = inspection();
    change(folder.path(), &mut inspection);
    let directory = Directory::open(folder.path()).unwrap();
    let mut draft = Draft::new(&directory);
    plan(&mut draft, &inspection, &clone()).unwrap();
    let paths: Vec<String> = draft.edits().map(|edit| edit.path.clone()).collect();
    let shown = |path: &String| match draft.read_link(path).unwrap() {
        Some(target) => format!("-> {target}"),
        None => draft.text(path).unwrap().unwrap_or_else(|| "(removed)".into()),
    };
    let files = paths.iter().map(|path| (path.clone(), shown(path))).collect();
    let initramfs = draft.initramfs_files().iter();
    let initramfs = initramfs
        .map(|file| (file.path.clone(), String::from_utf8_lossy(file.content.bytes()).into_owned()))
        .collect();
    let plan = draft.finish();
    let findings = plan.findings.iter().map(|finding| {
        assert_eq!(finding.severity, Severity::Warning);
        finding.text.clone()
    });
    Outcome { files, initramfs, findings: findings.collect(), identities: plan.identities.len() }
}

#[test]
fn every_file_that_names_an_old_uuid_names_the_new_one() {
    let unit = r"dev-disk-by\x2duuid-0b7c1d3e\x2d0000\x2d4000\x2d8000\x2d000000000005.swap";
    let new_unit = r"dev-disk-by\x2duuid-cccccccc\x2d1111\x2d4222\x2d8333\x2ddddddddddddd.swap";
    let wants = format!("/etc/systemd/system/swap.target.wants/{unit}");
    let unit_path = format!("/etc/systemd/system/{unit}");
    let fstab = format!(
        "# keep\nUUID={ROOT}\t/\text4 defaults 0 1\nUUID=1a2b-3c4d /boot/efi vfat umask=0077 0 1\nLABEL=x /x ext4 nofail 0 0\n"
    );
    let grub = format!(
        "search --no-floppy --fs-uuid --set=root --hint-bios=hd0,msdos1 {ROOT}\nlinux /vmlinuz root=UUID={ROOT} resume=UUID={SWAP}\n"
    );
    let stub = format!("search.fs_uuid {ROOT} root hd0,gpt2\nset prefix=($root)'/boot/grub'\n");
    let outcome = planned(
        &[
            ("/etc/fstab", &fstab),
            ("/etc/initramfs-tools/conf.d/resume", &format!("RESUME=UUID={SWAP}\n")),
            ("/etc/crypttab", &format!("luks-{ROOT} UUID={ROOT} none\n")),
            ("/etc/kernel/cmdline", &format!("root=UUID={ROOT}\n")),
            ("/boot/grub/grub.cfg", &grub),
            ("/boot/loader/entries/x.conf", &format!("options root=UUID={ROOT}\n")),
            ("/boot/efi/EFI/debian/grub.cfg", &stub),
            (&unit_path, &format!("[Swap]\nWhat=/dev/disk/by-uuid/{SWAP}\n")),
            (&wants, &format!("-> ../{unit}")),
            ("/etc/motd", "nothing\n"),
            ("/etc/monitoring/disks", &format!("check {ROOT}\n")),
        ],
        |_, _| {},
    );
    let new =
        |text: &str| text.replace(ROOT, NEW_ROOT).replace(SWAP, NEW_SWAP).replace("1a2b-3c4d", "5555-6666");
    assert_eq!(outcome.files["/etc/fstab"], new(&fstab));
    assert_eq!(outcome.files["/boot/grub/grub.cfg"], new(&grub));
    assert_eq!(outcome.files["/boot/efi/EFI/debian/grub.cfg"], new(&stub));
    assert_eq!(outcome.files["/etc/crypttab"], format!("luks-{NEW_ROOT} UUID={NEW_ROOT} none\n"));
    for path in ["/etc/initramfs-tools/conf.d/resume", "/etc/kernel/cmdline", "/boot/loader/entries/x.conf"] {
        assert!(outcome.files.contains_key(path), "{path}");
    }
    assert_eq!(outcome.files[&unit_path], "(removed)");
    assert_eq!(outcome.files[&wants], "(removed)");
    assert!(outcome.files[&format!("/etc/systemd/system/{new_unit}")].contains(NEW_SWAP));
    assert_eq!(
        outcome.files[&format!("/etc/systemd/system/swap.target.wants/{new_unit}")],
        format!("-> ../{new_unit}")
    );
    assert_eq!(outcome.files.len(), 11, "{:?}", outcome.files.keys());
    assert_eq!(outcome.identities, 3);
    let [finding] = outcome.findings.as_slice() else { unreachable!("{:?}", outcome.findings) };
    assert!(finding.contains("/etc/monitoring/disks") && finding.contains(ROOT), "{finding}");
}

#[test]
fn the_boot_loaders_package_finds_the_clones_disk() {
    let folder = tempfile::tempdir().unwrap();
    let rule = |id: &str| {
        format!(
            "SUBSYSTEM==\"block\", ENV{{DEVTYPE}}==\"disk\", ENV{{ID_PART_TABLE_UUID}}==\"{id}\", SYMLINK+=\"disk/by-id/unmoor-{id}\"\n"
        )
    };
    let answer = |id: &str| format!("Name: grub-pc/install_devices\nValue: /dev/disk/by-id/unmoor-{id}\n\n");
    let (rules, answers) = ("/etc/udev/rules.d/61-unmoor-disks.rules", "/var/cache/debconf/config.dat");
    put(folder.path(), answers, &answer("1234abcd"));
    let directory = Directory::open(folder.path()).unwrap();
    let mut draft = Draft::new(&directory);
    // One that this conversion has made itself, and whose folder is not there yet.
    draft.write(rules, rule("1234abcd").into_bytes(), "test", "test").unwrap();
    let names = Names::new([("1234ABCD", "99887766"), ("1234abcd-01", "99887766-01")]);
    crate::identity::references::plan(&mut draft, &inspection(), &names).unwrap();
    assert_eq!(draft.text(rules).unwrap().unwrap(), rule("99887766"));
    assert_eq!(draft.text(answers).unwrap().unwrap(), answer("99887766"));
}

#[test]
fn an_initramfs_gets_what_it_has_of_old_names_again_and_waits_for_none() {
    let device = r"dev-disk-by\x2duuid-0b7c1d3e\x2d0000\x2d4000\x2d8000\x2d000000000001.device";
    let mut writer = Writer::new(0);
    for directory in [
        "etc",
        "etc/cmdline.d",
        "etc/systemd",
        "etc/systemd/system",
        "etc/systemd/system/initrd.target.wants",
        "conf",
        "conf/conf.d",
        "bin",
    ] {
        writer.directory(directory, 0o755).unwrap();
    }
    writer.file("etc/cmdline.d/95root-dev.conf", 0o644, format!(" root=UUID={ROOT} ").as_bytes()).unwrap();
    writer.file("conf/conf.d/resume", 0o600, format!("RESUME=UUID={SWAP}\n").as_bytes()).unwrap();
    writer.file("bin/tool", 0o755, format!("\x7fELF\0{ROOT}\0").as_bytes()).unwrap();
    writer.file("etc/other", 0o644, b"nothing").unwrap();
    writer
        .link(&format!("etc/systemd/system/initrd.target.wants/{device}"), &format!("../{device}"))
        .unwrap();
    let image = writer.finish().unwrap();
    let outcome = planned(&[("/boot/vmlinuz", "x")], |root, inspection| {
        std::fs::write(root.join("boot/initrd.img"), &image).unwrap();
        let initramfs = Initramfs {
            path: "/boot/initrd.img".into(),
            made_by: "dracut".into(),
            host_only: true,
            compression: Vec::new(),
            broken: None,
            size: image.len() as u64,
        };
        inspection.kernels.push(Kernel {
            release: "6.1.0".into(),
            image: Some("/boot/vmlinuz".into()),
            modules: None,
            initramfs: vec![initramfs],
            config: None,
            bootable: true,
            special: None,
        });
    });
    assert_eq!(
        outcome.files.len(),
        0,
        "the image itself is inject-drivers' to append to: {:?}",
        outcome.files.keys()
    );
    assert_eq!(outcome.initramfs["/etc/cmdline.d/95root-dev.conf"], format!(" root=UUID={NEW_ROOT} "));
    assert_eq!(outcome.initramfs["/conf/conf.d/resume"], format!("RESUME=UUID={NEW_SWAP}\n"));
    assert_eq!(outcome.initramfs[&format!("/etc/systemd/system/{device}")], "");
    assert_eq!(outcome.initramfs.len(), 3, "{:?}", outcome.initramfs.keys());
    let [finding] = outcome.findings.as_slice() else { unreachable!("{:?}", outcome.findings) };
    assert!(finding.contains("bin/tool within /boot/initrd.img"), "{finding}");
}

#[test]
fn nothing_that_has_another_identity_leaves_all_files_alone() {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), "/etc/fstab", &format!("UUID={ROOT} / ext4 defaults 0 1\n"));
    let directory = Directory::open(folder.path()).unwrap();
    let mut draft = Draft::new(&directory);
    plan(&mut draft, &inspection(), &Clone::default()).unwrap();
    let made = draft.finish();
    assert!(made.edits.is_empty() && made.identities.is_empty() && made.findings.is_empty());
}
