// SPDX-License-Identifier: Apache-2.0
//! Every file of volumes that mke2fs, mkfs.xfs, mkfs.btrfs and mtools filled from a directory.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Kind, Limited, Tree, open};
use crate::BlockSource;
use crate::adapt::Memory;
use crate::filesystem::probe;
use crate::formats::{self, Format, OpenOptions};

fn run(package: &str, program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output();
    let output =
        output.unwrap_or_else(|error| panic!("{program} is needed (Debian package {package}): {error}"));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {text}");
}

/// Paths (without a leading slash) and content; `links` adds links, some of which end nowhere.
fn fill(root: &Path, links: bool) -> BTreeMap<String, Vec<u8>> {
    let mut noise = 1u64;
    let mut bytes = |len: usize| -> Vec<u8> {
        (0..len)
            .map(|_| {
                noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (noise >> 56) as u8
            })
            .collect()
    };
    let mut files = BTreeMap::new();
    let mut add = |path: String, content: Vec<u8>| {
        fs::create_dir_all(root.join(&path).parent().unwrap()).unwrap();
        fs::write(root.join(&path), &content).unwrap();
        files.insert(path, content);
    };
    for (path, len) in
        [("usr/lib/os-release", 267), ("etc/hostname", 6), ("etc/empty", 0), ("a/b/c/d/e/f", 70_000)]
    {
        add(path.into(), bytes(len));
    }
    add("etc/fstab".into(), b"few bytes repeat ".repeat(3000));
    add("large".into(), bytes(3 << 20));
    // Most of it zeros, which mke2fs leaves out; not at the end, where 1.47.0 with inline_data loses them.
    let mut holes = vec![0; 1 << 20];
    holes[300_000..500_000].copy_from_slice(&bytes(200_000));
    holes[(1 << 20) - 1] = 1;
    add("holes".into(), holes);
    (0..300).for_each(|number| {
        add(format!("many/a-rather-long-name-of-file-number-{number}"), vec![number as u8; 40]);
    });
    if links {
        fs::create_dir_all(root.join("links")).unwrap();
        let long = format!("{}usr/lib/os-release", "../links/./".repeat(30) + "../");
        for (name, target) in [
            ("links/relative", "../usr/lib/os-release"),
            ("links/absolute", "/usr/lib/os-release"),
            ("links/above", "../../../../../usr/lib/os-release"),
            ("links/long", &long),
            ("links/ring", "ring"),
            ("links/nowhere", "/no/such/file"),
            ("lib", "usr/lib"),
        ] {
            symlink(target, root.join(name)).unwrap();
        }
    }
    files
}

fn assert_same(volume: &Path, files: &BTreeMap<String, Vec<u8>>, links: bool) {
    let raw = OpenOptions { format: Some(Format::Raw), ..OpenOptions::default() };
    let source = formats::open(volume, &raw).unwrap().source;
    let facts = probe(&source).unwrap().unwrap();
    let limited = Limited::new(&source, 1 << 30);
    let mut tree = Tree::new(open(&limited, facts.kind).unwrap());
    for (path, content) in files {
        let found = tree.read(path, 64 << 20).unwrap().unwrap_or_else(|| panic!("{path} is missing"));
        let differs = found.iter().zip(content).position(|(a, b)| a != b);
        assert!(found == *content, "{path} differs at {differs:?} in {facts:?}");
    }
    assert_eq!(tree.read("large", 1000).unwrap().unwrap(), files["large"][..1000]);
    let names = tree.list("/many", 5000).unwrap();
    let want: Vec<_> =
        files.keys().filter_map(|path| path.strip_prefix("many/")).map(str::to_owned).collect();
    assert_eq!(names, want);
    assert_eq!(tree.list("many", 10).unwrap().len(), 10);
    assert_eq!(tree.find("/etc/../etc/./hostname/x").unwrap(), None);
    assert_eq!(tree.find("/etc").unwrap().unwrap().kind, Kind::Directory);
    if links {
        for path in ["links/relative", "links/absolute", "links/above", "links/long", "lib/os-release"] {
            assert_eq!(tree.read(path, 4096).unwrap().as_ref(), Some(&files["usr/lib/os-release"]), "{path}");
        }
        for path in ["links/ring", "links/nowhere"] {
            assert_eq!(tree.read(path, 4096).unwrap(), None, "{path}");
        }
    }
    assert_eq!(tree.note(), None);
}

fn empty(dir: &Path, size: u64) -> PathBuf {
    let path = dir.join("volume");
    let _ = fs::remove_file(&path);
    File::create(&path).unwrap().set_len(size).unwrap();
    path
}

#[test]
fn every_file_and_link_of_ext_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    let files = fill(&root, true);
    for options in [
        "-t ext4",
        "-t ext4 -I 128 -b 1024",
        "-t ext2 -b 1024",
        "-t ext3 -b 2048",
        "-t ext4 -O inline_data,meta_bg,^resize_inode -I 1024",
        "-t ext4 -O bigalloc",
        "-t ext4 -O ^metadata_csum,^64bit",
        "-t ext4 -b 65536",
    ] {
        let volume = empty(dir.path(), 96 << 20);
        let mut arguments: Vec<&str> = options.split(' ').collect();
        arguments.extend(["-q", "-F", "-d", root.to_str().unwrap(), volume.to_str().unwrap()]);
        run("e2fsprogs", "mke2fs", &arguments);
        assert_same(&volume, &files, true);
    }
}

/// The directory as mkfs.xfs' prototype file.
fn prototype(root: &Path) -> String {
    fn directory(text: &mut String, path: &Path) {
        for entry in fs::read_dir(path).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            if path.is_symlink() {
                writeln!(text, "{name} l--777 0 0 {}", fs::read_link(&path).unwrap().display()).unwrap();
            } else if path.is_dir() {
                writeln!(text, "{name} d--755 0 0").unwrap();
                directory(text, &path);
            } else {
                writeln!(text, "{name} ---644 0 0 {}", path.display()).unwrap();
            }
        }
        writeln!(text, "$").unwrap();
    }
    let mut text = "/dev/null\n0 0\nd--755 0 0\n".to_owned();
    directory(&mut text, root);
    text
}

#[test]
fn every_file_and_link_of_xfs_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    let files = fill(&root, true);
    let proto = dir.path().join("prototype");
    fs::write(&proto, prototype(&root)).unwrap();
    for options in ["", "-m crc=0", "-b size=1024", "-n size=16384 -i size=1024", "-m crc=0 -n ftype=0"] {
        let volume = empty(dir.path(), 310 << 20);
        let mut arguments: Vec<&str> = options.split_whitespace().collect();
        arguments.extend(["-q", "-f", "-p", proto.to_str().unwrap(), volume.to_str().unwrap()]);
        run("xfsprogs", "mkfs.xfs", &arguments);
        assert_same(&volume, &files, true);
    }
}

#[test]
fn every_file_and_link_of_btrfs_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    let files = fill(&root, true);
    for options in ["", "-d single -m single -n 4096 -s 4096", "--mixed", "--csum xxhash -O ^no-holes"] {
        let volume = empty(dir.path(), 256 << 20);
        let mut arguments: Vec<&str> = options.split_whitespace().collect();
        arguments.extend(["-q", "-f", "-r", root.to_str().unwrap(), volume.to_str().unwrap()]);
        run("btrfs-progs", "mkfs.btrfs", &arguments);
        assert_same(&volume, &files, true);
    }
}

#[test]
fn every_file_of_fat_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    let files = fill(&root, false);
    for options in ["-F12 -s32", "-F16", "-F32 -s1"] {
        let volume = empty(dir.path(), 48 << 20);
        let mut arguments: Vec<&str> = options.split(' ').collect();
        arguments.push(volume.to_str().unwrap());
        run("dosfstools", "mkfs.fat", &arguments);
        let names: Vec<_> = fs::read_dir(&root).unwrap().map(|entry| entry.unwrap().path()).collect();
        let mut arguments = vec!["-i", volume.to_str().unwrap(), "-s"];
        arguments.extend(names.iter().map(|path| path.to_str().unwrap()));
        arguments.push("::");
        run("mtools", "mcopy", &arguments);
        assert_same(&volume, &files, false);
    }
}

/// Reads all that can be found from the root; says nothing of what it sees.
fn roam(source: &dyn BlockSource) {
    let Ok(Some(facts)) = probe(source) else { return };
    let limited = Limited::new(source, 4 << 20);
    let Ok(volume) = open(&limited, facts.kind) else { return };
    let mut tree = Tree::new(volume);
    for path in [
        "usr/lib/os-release",
        "links/relative",
        "links/long",
        "links/ring",
        "etc/fstab",
        "holes",
        "a/b/c/d/e/f",
    ] {
        let _ = tree.read(path, 65536);
    }
    for path in ["/", "/many", "/etc"] {
        let _ = tree.list(path, 1000);
    }
    let _ = tree.other_roots();
}

#[test]
fn damaged_volumes_end_in_errors_and_never_in_panics_or_rings() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    fill(&root, true);
    fs::remove_file(root.join("large")).unwrap();
    let (root, volume) = (root.to_str().unwrap(), empty(dir.path(), 8 << 20));
    let volume = volume.to_str().unwrap();
    let proto = dir.path().join("prototype");
    fs::write(&proto, prototype(Path::new(root))).unwrap();
    let makers: [(&str, &str, u64, Vec<&str>); 4] = [
        // Without checksums, so that damage gets far.
        (
            "e2fsprogs",
            "mke2fs",
            8 << 20,
            vec!["-q", "-F", "-t", "ext4", "-O", "^metadata_csum,inline_data", "-d", root, volume],
        ),
        ("e2fsprogs", "mke2fs", 8 << 20, vec!["-q", "-F", "-t", "ext2", "-b", "1024", "-d", root, volume]),
        (
            "xfsprogs",
            "mkfs.xfs",
            310 << 20,
            vec!["-q", "-f", "-m", "crc=0", "-p", proto.to_str().unwrap(), volume],
        ),
        ("btrfs-progs", "mkfs.btrfs", 128 << 20, vec!["-q", "-f", "-r", root, volume]),
    ];
    for (package, program, size, arguments) in makers {
        empty(dir.path(), size);
        run(package, program, &arguments);
        let bytes = fs::read(volume).unwrap();
        // Where something is: damage in free space shows nothing.
        let places: Vec<usize> =
            (0..bytes.len()).step_by(64).filter(|at| bytes[*at..*at + 64] != [0; 64]).collect();
        let mut noise = 5u64;
        let mut next = || {
            noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (noise >> 24) as usize
        };
        let memory = Memory::new(bytes);
        for _ in 0..200 {
            let mut changes = Vec::new();
            for _ in 0..next() % 24 + 1 {
                let at = places[next() % places.len()] + next() % 64;
                let byte = [0, 0xff, next() as u8][next() % 3];
                changes.push((at as u64, byte));
            }
            roam(&Damaged { inner: &memory, changes: &changes });
        }
    }
}

struct Damaged<'a> {
    inner: &'a Memory,
    changes: &'a [(u64, u8)],
}

impl BlockSource for Damaged<'_> {
    fn size(&self) -> u64 {
        self.inner.size()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> crate::Result<()> {
        self.inner.read_at(buf, offset)?;
        for (at, byte) in self.changes {
            if let Some(place) = at.checked_sub(offset).and_then(|index| buf.get_mut(index as usize)) {
                *place = *byte;
            }
        }
        Ok(())
    }
}
