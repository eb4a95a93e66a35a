// SPDX-License-Identifier: Apache-2.0
//! Guests of a few files, on disks that other people's tools made.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use unmoor_images::formats::{self, Format, OpenOptions};
use unmoor_images::layout::{self, Hibernated, Options, Place};
use unmoor_images::monitor::Silent;
use unmoor_images::{BlockSource, Result};

use super::{Firmware, OsFacts, find};

const M: u64 = 1 << 20;

fn run(package: &str, program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).env("LVM_SUPPRESS_FD_WARNINGS", "1").output();
    let output =
        output.unwrap_or_else(|error| panic!("{program} is needed (Debian package {package}): {error}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {errors}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn is_root() -> bool {
    run("coreutils", "id", &["-u"]) == "0"
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn empty(path: &Path, size: u64) {
    File::create(path).unwrap().set_len(size).unwrap();
}

/// Copies the parts of a file that are not zero.
fn place(from: &Path, range: std::ops::Range<u64>, to: &Path, at: u64) {
    let (from, to) = (File::open(from).unwrap(), File::options().write(true).open(to).unwrap());
    let mut piece = vec![0; M as usize];
    for offset in range.clone().step_by(M as usize) {
        let part = &mut piece[..(range.end - offset).min(M) as usize];
        from.read_exact_at(part, offset).unwrap();
        if part.iter().any(|byte| *byte != 0) {
            to.write_all_at(part, at + offset - range.start).unwrap();
        }
    }
}

const FSTAB: &str = "# <file system> <mount point>\nUUID=0b7c1d3e-0000-4000-8000-000000000001 /boot ext2 defaults 0 2\n\
                     /dev/mapper/my--vg-root /\text4 errors=remount-ro 0 1\nUUID=4D2A-77C1 /boot/efi vfat umask=0077\n";

/// A Debian of a few files.
fn guest(root: &Path) {
    for folder in ["etc", "boot", "usr/bin", "usr/sbin", "usr/lib/systemd", "usr/lib/modules/6.1.0-18-amd64"]
    {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    let release = "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nNAME=\"Debian GNU/Linux\"\nVERSION_ID=\"12\"\nID=debian\n";
    let mut program = b"\x7fELF\x02\x01\x01".to_vec();
    program.resize(100, 0);
    program[18] = 62;
    for (path, content) in [
        ("usr/lib/os-release", release.as_bytes()),
        ("etc/hostname", b"web01\n"),
        ("etc/machine-id", b"00112233445566778899aabbccddeeff\n"),
        ("etc/fstab", FSTAB.as_bytes()),
        ("usr/bin/bash", &program),
        ("usr/lib/systemd/systemd", &program),
        ("boot/vmlinuz-6.1.0-18-amd64", b"kernel"),
        ("boot/initrd.img-6.1.0-18-amd64", b"initrd"),
    ] {
        fs::write(root.join(path), content).unwrap();
    }
    for (target, link) in [
        ("../usr/lib/os-release", "etc/os-release"),
        ("usr/bin", "bin"),
        ("usr/sbin", "sbin"),
        ("/usr/lib", "lib"),
        ("bash", "usr/bin/sh"),
        ("/lib/systemd/systemd", "usr/sbin/init"),
    ] {
        symlink(target, root.join(link)).unwrap();
    }
}

fn look(source: &dyn BlockSource) -> Result<Vec<OsFacts>> {
    let options = Options { all: false, hibernated: Hibernated::Keep };
    let layouts = layout::analyze(&[source], &options, &Silent)?;
    Ok(find(&layouts, &[source], &Silent))
}

fn open(path: &Path) -> Box<dyn BlockSource> {
    formats::open(path, &OpenOptions { format: Some(Format::Raw), ..OpenOptions::default() }).unwrap().source
}

fn only(path: &Path) -> OsFacts {
    let mut systems = look(&*open(path)).unwrap();
    assert_eq!(systems.len(), 1, "{systems:#?}");
    systems.remove(0)
}

fn assert_debian(system: &OsFacts) {
    assert_eq!(system.name.as_deref(), Some("Debian GNU/Linux 12 (bookworm)"));
    assert_eq!((system.id.as_deref(), system.version_id.as_deref()), (Some("debian"), Some("12")));
    assert_eq!(system.architecture.as_deref(), Some("x86_64"));
    assert_eq!(system.hostname.as_deref(), Some("web01"));
    assert_eq!(system.machine_id.as_deref(), Some("00112233445566778899aabbccddeeff"));
    assert_eq!(system.init.as_deref(), Some("systemd"));
    assert_eq!(system.fstab.len(), 3);
    assert_eq!(system.fstab[1].mountpoint, "/");
    assert!(system.notes.is_empty(), "{:?}", system.notes);
}

#[test]
fn a_guest_is_recognised_on_ext4_xfs_and_btrfs() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    guest(&root);
    let volume = dir.path().join("volume");
    let proto = dir.path().join("prototype");
    let prototype = "/dev/null\n0 0\nd--755 0 0\netc d--755 0 0\nfstab ---644 0 0 ROOT/etc/fstab\n\
         hostname ---644 0 0 ROOT/etc/hostname\nmachine-id ---644 0 0 ROOT/etc/machine-id\n\
         os-release l--777 0 0 ../usr/lib/os-release\n$\nbin l--777 0 0 usr/bin\nusr d--755 0 0\nbin d--755 0 0\n\
         bash ---755 0 0 ROOT/usr/bin/bash\n$\nlib d--755 0 0\nos-release ---644 0 0 ROOT/usr/lib/os-release\n\
         systemd d--755 0 0\nsystemd ---755 0 0 ROOT/usr/bin/bash\n$\nmodules d--755 0 0\n6.1.0-18-amd64 d--755 0 0\n$\n$\n$\n$\n$\n";
    fs::write(&proto, prototype.replace("ROOT", text(&root))).unwrap();
    let (root, volume_text) = (text(&root), text(&volume));
    for (package, program, arguments, kind) in [
        ("e2fsprogs", "mke2fs", vec!["-q", "-F", "-t", "ext4", "-d", root, volume_text], "ext4"),
        ("xfsprogs", "mkfs.xfs", vec!["-q", "-f", "-p", text(&proto), volume_text], "xfs"),
        ("btrfs-progs", "mkfs.btrfs", vec!["-q", "-f", "-r", root, volume_text], "btrfs"),
    ] {
        empty(&volume, 310 * M);
        run(package, program, &arguments);
        let system = only(&volume);
        assert_debian(&system);
        assert_eq!(system.filesystem, kind);
        assert_eq!(system.kernels, ["6.1.0-18-amd64"]);
        assert_eq!((system.firmware, system.subvolume), (None, None));
        serde_json::to_string(&only(&volume)).unwrap();
    }
}

/// Unmounts when dropped.
struct Mount(PathBuf);

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

#[test]
fn a_guest_in_a_compressed_btrfs_subvolume_is_found_by_the_option_that_mounts_it() {
    if !is_root() {
        println!("skipped: needs root to mount a btrfs");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (volume, mountpoint) = (dir.path().join("volume"), dir.path().join("mnt"));
    empty(&volume, 200 * M);
    run("btrfs-progs", "mkfs.btrfs", &["-q", text(&volume)]);
    fs::create_dir(&mountpoint).unwrap();
    for compression in ["zstd", "zlib"] {
        run(
            "mount",
            "mount",
            &["-o", &format!("loop,compress-force={compression}"), text(&volume), text(&mountpoint)],
        );
        let mount = Mount(mountpoint.clone());
        let root = mountpoint.join("@rootfs");
        if root.exists() {
            fs::remove_dir_all(&root).unwrap();
        }
        run("btrfs-progs", "btrfs", &["subvolume", "create", text(&root)]);
        guest(&root);
        // Long enough to be compressed outside of the inode.
        fs::write(root.join("etc/fstab"), FSTAB.to_owned() + &"# filler of no meaning\n".repeat(1000))
            .unwrap();
        drop(mount);
        let system = only(&volume);
        assert_debian(&system);
        assert_eq!(system.subvolume.as_deref(), Some("subvol=@rootfs"));
    }
}

/// Detaches a loop device when dropped.
struct Loop(String);

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["-d", &self.0]).status();
    }
}

/// A volume group whose logical volume "root" lies in two pieces.
fn volume_group(path: &Path) {
    let device = Loop(run("mount", "losetup", &["-f", "--show", text(path)]));
    let config = format!(
        "devices {{ filter=[\"a|^{}$|\",\"r|.*|\"] use_devicesfile=0 obtain_device_list_from_udev=0 }} \
         activation {{ udev_sync=0 udev_rules=0 }} global {{ activation=0 }}",
        device.0
    );
    let create = ["-an", "-Zn", "-Wn", "-n"];
    run("lvm2", "pvcreate", &["-q", "--config", &config, &device.0]);
    run("lvm2", "vgcreate", &["-q", "--config", &config, "my-vg", &device.0]);
    for (name, extents) in [("swap", "4"), ("root", "10"), ("tail", "5")] {
        run(
            "lvm2",
            "lvcreate",
            &[&["--config", &config], &create[..], &[name, "-l", extents, "my-vg"]].concat(),
        );
    }
    run("lvm2", "lvextend", &["--config", &config, "-l", "+5", "my-vg/root"]);
}

#[test]
fn a_guest_on_lvm_with_boot_and_system_partitions_is_put_together() {
    if !is_root() {
        println!("skipped: needs root to make a volume group on a loop device");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let (tree, disk) = (path("root"), path("disk"));
    guest(&tree);
    fs::create_dir_all(path("boot/grub")).unwrap();
    for kernel in ["6.1.0-17-amd64", "6.1.0-18-amd64"] {
        fs::write(path("boot").join(format!("vmlinuz-{kernel}")), "kernel").unwrap();
    }
    fs::create_dir_all(path("esp/EFI/debian")).unwrap();
    for file in ["shimx64.efi", "grubx64.efi"] {
        fs::write(path("esp/EFI/debian").join(file), "program").unwrap();
    }
    empty(&disk, 256 * M);
    fs::write(path("script"), "label: gpt\nstart=2048, size=65536, type=U\nstart=67584, size=65536, type=L\nstart=133120, size=344064, type=V\n").unwrap();
    run("fdisk", "sh", &["-c", &format!("sfdisk -q {} < {}", text(&disk), text(&path("script")))]);

    empty(&path("esp.img"), 32 * M);
    run("dosfstools", "mkfs.fat", &["-F16", text(&path("esp.img"))]);
    run("mtools", "mcopy", &["-i", text(&path("esp.img")), "-s", text(&path("esp/EFI")), "::"]);
    place(&path("esp.img"), 0..32 * M, &disk, M);

    empty(&path("boot.img"), 32 * M);
    let uuid = "0b7c1d3e-0000-4000-8000-000000000001";
    run(
        "e2fsprogs",
        "mke2fs",
        &["-q", "-t", "ext2", "-I", "128", "-U", uuid, "-d", text(&path("boot")), text(&path("boot.img"))],
    );
    place(&path("boot.img"), 0..32 * M, &disk, 33 * M);

    let (pv, root) = (path("pv.img"), path("root.img"));
    empty(&pv, 168 * M);
    volume_group(&pv);
    empty(&root, 60 * M);
    run("e2fsprogs", "mke2fs", &["-q", "-t", "ext4", "-d", text(&tree), text(&root)]);
    // Extents of 4 MiB from 1 MiB on: 0-3 are swap, 14-18 the third volume.
    place(&root, 0..40 * M, &pv, M + 16 * M);
    place(&root, 40 * M..60 * M, &pv, M + 76 * M);
    place(&pv, 0..168 * M, &disk, 65 * M);

    let system = only(&disk);
    assert_debian(&system);
    assert_eq!(system.place, Place::LogicalVolume { vg: "my-vg".into(), lv: "root".into(), len: 60 * M });
    assert_eq!(system.kernels, ["6.1.0-17-amd64", "6.1.0-18-amd64"]);
    assert_eq!(system.boot_loaders, ["GRUB with shim (EFI)"]);
    assert_eq!(system.firmware, Some(Firmware::Uefi));
}

#[test]
fn grub_in_the_first_sector_means_bios() {
    let dir = tempfile::tempdir().unwrap();
    let (tree, disk, root) = (dir.path().join("tree"), dir.path().join("disk"), dir.path().join("root.img"));
    guest(&tree);
    empty(&root, 32 * M);
    run("e2fsprogs", "mke2fs", &["-q", "-t", "ext4", "-d", text(&tree), text(&root)]);
    empty(&disk, 40 * M);
    run(
        "fdisk",
        "sh",
        &[
            "-c",
            &format!("echo 'start=2048, size=65536, type=83, bootable' | sfdisk -q -X dos {}", text(&disk)),
        ],
    );
    place(&root, 0..32 * M, &disk, M);
    let code = fs::read("/usr/lib/grub/i386-pc/boot.img")
        .expect("GRUB's boot.img is needed (Debian package grub-pc-bin)");
    File::options().write(true).open(&disk).unwrap().write_all_at(&code[..440], 0).unwrap();
    let system = only(&disk);
    assert_debian(&system);
    assert_eq!(system.boot_loaders, ["GRUB (MBR)"]);
    assert_eq!(system.firmware, Some(Firmware::Bios));
    assert_eq!(system.place, Place::Disk { offset: M, len: 32 * M, partition: Some(1) });
}

/// Some bytes of a disk changed.
struct Damaged<'a> {
    inner: &'a dyn BlockSource,
    changes: Vec<(u64, u8)>,
}

impl BlockSource for Damaged<'_> {
    fn size(&self) -> u64 {
        self.inner.size()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.inner.read_at(buf, offset)?;
        for (at, byte) in &self.changes {
            if let Some(place) = at.checked_sub(offset).and_then(|index| buf.get_mut(index as usize)) {
                *place = *byte;
            }
        }
        Ok(())
    }
}

#[test]
fn a_damaged_guest_is_described_as_far_as_it_can_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let (tree, volume) = (dir.path().join("tree"), dir.path().join("volume"));
    guest(&tree);
    empty(&volume, 8 * M);
    run(
        "e2fsprogs",
        "mke2fs",
        &["-q", "-t", "ext4", "-O", "^metadata_csum", "-d", text(&tree), text(&volume)],
    );
    let bytes = fs::read(&volume).unwrap();
    let used: Vec<u64> = (0..bytes.len()).filter(|at| bytes[*at] != 0).map(|at| at as u64).collect();
    let source = open(&volume);
    let (mut noise, mut found) = (3u64, 0);
    for _ in 0..200 {
        let mut next = || {
            noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (noise >> 24) as usize
        };
        let changes = (0..next() % 30 + 1).map(|_| (used[next() % used.len()], next() as u8)).collect();
        found += look(&Damaged { inner: &*source, changes }).unwrap().len();
    }
    assert!((1..=200).contains(&found), "{found}");
}
