// SPDX-License-Identifier: Apache-2.0
//! A guest on raw disks, held against the plain directory that it was made from.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;
use std::process::Command;

use unmoor_images::formats::{self, Format, OpenOptions};
use unmoor_images::layout::{self, Hibernated, Options};
use unmoor_images::monitor::Silent;

use super::look;
use crate::devices::Devices;
use crate::files::{Directory, Files, Kind};
use crate::os;

const M: u64 = 1 << 20;

fn run(package: &str, program: &str, arguments: &[&str]) {
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let output = Command::new(program).args(arguments).env("PATH", path).output();
    let output =
        output.unwrap_or_else(|error| panic!("{program} is needed (Debian package {package}): {error}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {errors}");
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// /boot is ext4 of its own, /boot/efi FAT, / what `make` makes of a directory.
fn disk(folder: &Path, make: (&str, &str, &[&str])) -> std::path::PathBuf {
    let root = folder.join("root");
    let write = |path: &str, content: &[u8]| {
        let at = root.join(path);
        fs::create_dir_all(at.parent().unwrap()).unwrap();
        fs::write(at, content).unwrap();
    };
    write("usr/lib/os-release", b"ID=debian\n");
    write("etc/big", &b"0123456789abcdef".repeat(700_000));
    write("usr/bin/env", b"");
    write("etc/fstab", b"/dev/sda3 /boot/efi vfat defaults 0 1\nLABEL=boot /boot ext4 defaults 0 2\nLABEL=root / auto defaults 0 1\n/dev/sdb1 /data ext4 nofail 0 0\n");
    fs::create_dir_all(root.join("boot")).unwrap();
    symlink("../usr/lib/os-release", root.join("etc/os-release")).unwrap();
    symlink("/etc", root.join("usr/link")).unwrap();
    symlink("loop", root.join("loop")).unwrap();
    symlink("../../../boot", root.join("up")).unwrap();
    let boot = folder.join("boot");
    fs::create_dir_all(boot.join("efi")).unwrap();
    fs::create_dir_all(boot.join("grub")).unwrap();
    fs::write(boot.join("vmlinuz-6.1.0"), "kernel").unwrap();
    fs::write(boot.join("grub/grub.cfg"), "menuentry x { linux /vmlinuz-6.1.0 root=LABEL=root\n}\n").unwrap();
    symlink("/boot/vmlinuz-6.1.0", boot.join("vmlinuz")).unwrap();

    let path = folder.join("disk");
    File::create(&path).unwrap().set_len(400 * M).unwrap();
    let parts = ["-n", "1:2048:+300M", "-n", "2:0:+32M", "-n", "3:0:+40M", "-t", "3:ef00"];
    run("gdisk", "sgdisk", &[&parts[..], &[text(&path)]].concat());
    let part = folder.join("part");
    let place = |start: u64| {
        let (bytes, file) = (fs::read(&part).unwrap(), File::options().write(true).open(&path).unwrap());
        file.write_all_at(&bytes, start).unwrap();
    };
    let empty = |size: u64| File::create(&part).unwrap().set_len(size).unwrap();
    empty(300 * M);
    let (package, program, arguments) = make;
    run(package, program, &[arguments, &[text(&root), text(&part)]].concat());
    place(M);
    empty(32 * M);
    run("e2fsprogs", "mke2fs", &["-q", "-F", "-t", "ext4", "-L", "boot", "-d", text(&boot), text(&part)]);
    place(301 * M);
    empty(40 * M);
    run("dosfstools", "mkfs.vfat", &["-F", "32", text(&part)]);
    run("mtools", "mmd", &["-i", text(&part), "::/EFI", "::/EFI/debian"]);
    let stub = folder.join("stub");
    fs::write(&stub, "the stub").unwrap();
    run("mtools", "mcopy", &["-i", text(&part), text(&stub), "::/EFI/debian/GRUBX64.EFI"]);
    place(333 * M);
    path
}

/// Both show the same below `path`.
fn compare(raw: &dyn Files, plain: &dyn Files, path: &str) {
    let names: Vec<String> =
        raw.list(path).unwrap().into_iter().filter(|name| name != "lost+found").collect();
    assert_eq!(names, plain.list(path).unwrap(), "{path}");
    for name in names {
        let at = format!("{}/{name}", path.trim_end_matches('/'));
        let (mine, theirs) =
            (raw.link_metadata(&at).unwrap().unwrap(), plain.link_metadata(&at).unwrap().unwrap());
        assert_eq!(mine.kind, theirs.kind, "{at}");
        assert_eq!(raw.read_link(&at).unwrap(), plain.read_link(&at).unwrap(), "{at}");
        assert_eq!(raw.real_path(&at).unwrap(), plain.real_path(&at).unwrap(), "{at}");
        assert_eq!(raw.read(&at, 1 << 30).unwrap(), plain.read(&at, 1 << 30).unwrap(), "{at}");
        if mine.kind == Kind::Directory {
            compare(raw, plain, &at);
        }
    }
}

#[test]
fn raw_disks_show_what_a_mounted_guest_shows() {
    for make in [
        ("e2fsprogs", "mke2fs", &["-q", "-F", "-t", "ext4", "-L", "root", "-d"][..]),
        ("btrfs-progs", "mkfs.btrfs", &["-q", "-L", "root", "-r"][..]),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let path = disk(dir.path(), make);
        let options = OpenOptions { format: Some(Format::Raw), ..OpenOptions::default() };
        let source = formats::open(&path, &options).unwrap().source;
        let sources = [&*source as _];
        let options = Options { all: false, hibernated: Hibernated::Keep };
        let layouts = layout::analyze(&sources, &options, &Silent).unwrap();
        let systems = os::find(&layouts, &sources, &Silent);
        let devices = Devices::of(&layouts, &sources, None);
        look(&layouts, &sources, &devices, &systems[0], |guest| {
            assert_eq!(guest.notes(), &[] as &[String]);
            // What is mounted on /boot covers what was there.
            let boot = dir.path().join("boot");
            fs::write(boot.join("efi/.covered"), "").unwrap();
            let plain = dir.path().join("root");
            let root_of = Directory::open(&plain).unwrap();
            for top in ["/etc", "/usr"] {
                compare(guest, &root_of, top);
            }
            assert_eq!(guest.read("/up/vmlinuz", 100).unwrap().as_deref(), Some(&b"kernel"[..]));
            assert_eq!(guest.real_path("/boot/vmlinuz").unwrap().as_deref(), Some("/boot/vmlinuz-6.1.0"));
            assert_eq!(
                guest.read("/boot/efi/efi/Debian/grubx64.efi", 100).unwrap().as_deref(),
                Some(&b"the stub"[..])
            );
            assert_eq!(guest.metadata("/loop").unwrap(), None);
            assert!(guest.read("/etc/big", 1000).is_err());
            let device = |path: &str| guest.metadata(path).unwrap().unwrap().device;
            assert!(device("/etc") != device("/boot") && device("/boot") != device("/boot/efi"));
            let room = guest.room("/boot/grub/not/there").unwrap().bytes;
            assert!(room > 8 * M && room < 32 * M, "{room}");

            let found = crate::inspect::inspect(guest, &devices, None).unwrap();
            assert_eq!(found.boot.entries[0].kernel.as_deref(), Some("/boot/vmlinuz-6.1.0"));
            assert_eq!(found.boot.esps[0].mountpoint.as_deref(), Some("/boot/efi"));
            assert_eq!(found.boot.loaders[0].binaries, ["/boot/efi/EFI/debian/GRUBX64.EFI"]);
            assert_eq!(
                found.fstab.iter().map(|line| line.device).collect::<Vec<_>>(),
                [Some(2), Some(1), Some(0), None]
            );
            Ok(())
        })
        .unwrap();
    }
}
