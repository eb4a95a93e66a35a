// SPDX-License-Identifier: Apache-2.0
//! Partitions of a disk in a file, mounted by this machine's kernel.

use std::os::unix::fs::symlink;
use std::path::Path;

use unmoor_images::layout::Place;
use unmoor_initramfs::activate::{Activated, Filesystem, Options, activate, mount_guest};

use crate::support::{disk, hash, loops_of, may_mount, put, tool};

const READ_ONLY: Options = Options { read_only: true, keys: Vec::new(), sector_size: 512 };
const LINUX: &str = "L";

fn partition(activated: &Activated, number: u32, options: &str) -> Filesystem {
    let of = |place: &Place| matches!(place, Place::Disk { partition: Some(n), .. } if *n == number);
    let node = activated.nodes.iter().find(|node| of(&node.place)).unwrap();
    activated.filesystem(0, &node.place, options).unwrap()
}

/// ESP, /boot on ext4 with a journal, root on XFS; and a folder with what lies in root.
fn machine(folder: &Path) -> std::path::PathBuf {
    let path = disk(folder, "disk", &[(34, "U"), (64, LINUX), (400, LINUX)]);
    put(&path, 1, 34, |file| drop(tool("dosfstools", "mkfs.vfat", &["-F", "32", file])));
    let boot = folder.join("boot");
    std::fs::create_dir_all(boot.join("efi")).unwrap();
    std::fs::write(boot.join("vmlinuz"), "a kernel").unwrap();
    let ext4 = ["-q", "-t", "ext4", "-d", boot.to_str().unwrap()];
    put(&path, 35, 64, |file| drop(tool("e2fsprogs", "mke2fs", &[&ext4[..], &[file]].concat())));
    put(&path, 99, 400, |file| drop(tool("xfsprogs", "mkfs.xfs", &["-q", file])));
    path
}

#[test]
fn a_guest_is_mounted_with_all_its_filesystems_and_taken_down_without_a_trace() {
    if !may_mount() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = machine(folder.path());
    let at = folder.path().join("at");
    std::fs::create_dir(&at).unwrap();

    // Writing: make root's directories, as an installation does.
    let activated = activate(std::slice::from_ref(&path), &Options::default()).unwrap();
    assert_eq!(activated.warnings, [""; 0]);
    assert_eq!(activated.nodes.len(), 3);
    let root = partition(&activated, 3, "");
    let mounted = mount_guest(&root, &[], &at, false).unwrap();
    std::fs::create_dir_all(at.join("boot")).unwrap();
    std::fs::create_dir_all(at.join("etc")).unwrap();
    std::fs::write(at.join("etc/fstab"), "of this guest").unwrap();
    std::fs::write(at.join("tool"), "#!/bin/sh\n").unwrap();
    tool("coreutils", "chmod", &["+x", at.join("tool").to_str().unwrap()]);
    let refused = std::process::Command::new(at.join("tool")).status().unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EACCES), "nothing of a guest is executed");
    mounted.unmount().unwrap();
    activated.finish().unwrap();
    assert_eq!(loops_of(&path), "");
    tool(
        "xfsprogs",
        "xfs_repair",
        &["-n", "-f", "-o", "force_geometry", &cut(folder.path(), &path, 99, 400)],
    );

    // Reading: inner mounts in whatever order they are named, and nothing is written.
    let before = hash(&path);
    let activated = activate(std::slice::from_ref(&path), &READ_ONLY).unwrap();
    let boot = partition(&activated, 2, "defaults");
    let esp = partition(&activated, 1, "umask=0077");
    let others = [("/boot/efi".to_owned(), esp), ("/boot".to_owned(), boot)];
    let mounted = mount_guest(&partition(&activated, 3, ""), &others, &at, true).unwrap();
    assert_eq!(std::fs::read_to_string(at.join("etc/fstab")).unwrap(), "of this guest");
    assert_eq!(std::fs::read_to_string(at.join("boot/vmlinuz")).unwrap(), "a kernel");
    assert!(std::fs::write(at.join("etc/new"), "").is_err());
    let known = std::fs::read_to_string("/proc/filesystems").unwrap();
    if known.contains("vfat") {
        assert_eq!(mounted.points().collect::<Vec<_>>(), ["/", "/boot", "/boot/efi"]);
    } else {
        assert_eq!(mounted.points().collect::<Vec<_>>(), ["/", "/boot"]);
        let [(point, why)] = mounted.failed.as_slice() else { panic!("{:?}", mounted.failed) };
        assert!(point == "/boot/efi" && why.contains("this kernel has no vfat"), "{point}: {why}");
    }
    mounted.unmount().unwrap();
    activated.finish().unwrap();
    assert_eq!(hash(&path), before);
    assert_eq!(loops_of(&path), "");
    assert_eq!(std::fs::read_dir(&at).unwrap().count(), 0);
}

/// A part of the disk in a file of its own.
fn cut(folder: &Path, disk: &Path, mib: u64, len: u64) -> String {
    let part = folder.join("part").to_str().unwrap().to_owned();
    let (from, to) = (format!("if={}", disk.display()), format!("of={part}"));
    let place = [&*format!("skip={mib}"), &*format!("count={len}")];
    tool("coreutils", "dd", &[&[&*from, &to, "bs=1M", "conv=sparse"][..], &place].concat());
    part
}

#[test]
fn a_journal_that_waits_for_its_replay_is_left_as_it_is_when_only_reading() {
    if !may_mount() {
        return;
    }
    for kind in ["ext4", "xfs"] {
        let folder = tempfile::tempdir().unwrap();
        let path = disk(folder.path(), "disk", &[(400, LINUX)]);
        put(&path, 1, 400, |file| match kind {
            "xfs" => drop(tool("xfsprogs", "mkfs.xfs", &["-q", file])),
            _ => drop(tool("e2fsprogs", "mke2fs", &["-q", "-t", kind, file])),
        });
        let at = folder.path().join("at");
        std::fs::create_dir(&at).unwrap();
        // As after a power cut: a copy of the disk while it is mounted and written to.
        let activated = activate(std::slice::from_ref(&path), &Options::default()).unwrap();
        let mounted = mount_guest(&partition(&activated, 1, ""), &[], &at, false).unwrap();
        std::fs::write(at.join("file"), "content").unwrap();
        tool("coreutils", "sync", &["-f", at.to_str().unwrap()]);
        let copy = folder.path().join("copy");
        tool("coreutils", "sync", &[path.to_str().unwrap()]);
        tool("coreutils", "cp", &["--sparse=always", path.to_str().unwrap(), copy.to_str().unwrap()]);
        mounted.unmount().unwrap();
        activated.finish().unwrap();

        let before = hash(&copy);
        let activated = activate(std::slice::from_ref(&copy), &READ_ONLY).unwrap();
        let dirty = activated.layouts[0].regions.iter().any(|region| {
            let facts = region.filesystem();
            facts.is_some_and(|facts| facts.condition != unmoor_images::filesystem::Condition::Clean)
        });
        assert!(dirty, "{kind}: the copy has nothing to replay");
        let mounted = mount_guest(&partition(&activated, 1, ""), &[], &at, true).unwrap();
        mounted.unmount().unwrap();
        activated.finish().unwrap();
        assert_eq!(hash(&copy), before, "{kind}");
        // Written to, the kernel replays it.
        let activated = activate(std::slice::from_ref(&copy), &Options::default()).unwrap();
        let mounted = mount_guest(&partition(&activated, 1, ""), &[], &at, false).unwrap();
        assert_eq!(std::fs::read_to_string(at.join("file")).unwrap(), "content", "{kind}");
        mounted.unmount().unwrap();
        activated.finish().unwrap();
    }
}

#[test]
fn subvolumes_are_mounted_as_fstab_names_them() {
    if !may_mount() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = disk(folder.path(), "disk", &[(300, LINUX)]);
    put(&path, 1, 300, |file| drop(tool("btrfs-progs", "mkfs.btrfs", &["-q", file])));
    let at = folder.path().join("at");
    std::fs::create_dir(&at).unwrap();
    let activated = activate(std::slice::from_ref(&path), &Options::default()).unwrap();
    let mounted = mount_guest(&partition(&activated, 1, ""), &[], &at, false).unwrap();
    for name in ["@", "@home"] {
        tool("btrfs-progs", "btrfs", &["subvolume", "create", at.join(name).to_str().unwrap()]);
    }
    std::fs::create_dir(at.join("@/home")).unwrap();
    std::fs::write(at.join("@home/user"), "at home").unwrap();
    let shown = tool("btrfs-progs", "btrfs", &["subvolume", "show", at.join("@home").to_str().unwrap()]);
    let id =
        shown.lines().find_map(|line| line.trim().strip_prefix("Subvolume ID:")).unwrap().trim().to_owned();
    mounted.unmount().unwrap();
    activated.finish().unwrap();

    let before = hash(&path);
    let activated = activate(std::slice::from_ref(&path), &READ_ONLY).unwrap();
    for options in ["rw,relatime,subvol=/@home".to_owned(), format!("subvolid={id},compress=zstd")] {
        let home = [("/home".to_owned(), partition(&activated, 1, &options))];
        let mounted = mount_guest(&partition(&activated, 1, "subvol=@"), &home, &at, true).unwrap();
        assert_eq!(mounted.failed, []);
        assert_eq!(std::fs::read_to_string(at.join("home/user")).unwrap(), "at home");
        mounted.unmount().unwrap();
    }
    activated.finish().unwrap();
    assert_eq!(hash(&path), before);
}

#[test]
fn no_mount_point_of_a_hostile_guest_lies_outside_it() {
    if !may_mount() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let outside = folder.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    let tree = folder.path().join("tree");
    std::fs::create_dir_all(tree.join("inside")).unwrap();
    symlink(&outside, tree.join("boot")).unwrap();
    symlink("../../../../../..", tree.join("up")).unwrap();
    symlink("/proc/self/root", tree.join("magic")).unwrap();
    symlink("loop", tree.join("loop")).unwrap();
    symlink("/inside", tree.join("good")).unwrap();
    std::fs::write(tree.join("file"), "").unwrap();
    let path = disk(folder.path(), "disk", &[(32, LINUX), (32, LINUX)]);
    let ext4 = ["-q", "-t", "ext4", "-d", tree.to_str().unwrap()];
    put(&path, 1, 32, |file| drop(tool("e2fsprogs", "mke2fs", &[&ext4[..], &[file]].concat())));
    put(&path, 33, 32, |file| drop(tool("e2fsprogs", "mke2fs", &["-q", "-t", "ext4", "-L", "second", file])));
    let at = folder.path().join("at");
    std::fs::create_dir(&at).unwrap();
    let activated = activate(std::slice::from_ref(&path), &READ_ONLY).unwrap();
    let mut mounted = mount_guest(&partition(&activated, 1, ""), &[], &at, true).unwrap();
    let second = partition(&activated, 2, "");
    let by_dots = format!("/up{}", outside.display());
    for point in ["/boot", &by_dots, "/magic", "/loop", "/file", "/not/there", "/", "../outside"] {
        assert!(mounted.add(point, &second).is_err(), "{point}");
        assert_eq!(mounted.points().count(), 1);
    }
    mounted.add("/good", &second).unwrap();
    assert!(at.join("inside/lost+found").exists());
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
    // Dropped, not unmounted in so many words: it leaves nothing behind either.
    drop(mounted);
    drop(activated);
    assert_eq!(std::fs::read_dir(&at).unwrap().count(), 0);
    assert_eq!(loops_of(&path), "");
}
