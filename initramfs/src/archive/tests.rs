// SPDX-License-Identifier: Apache-2.0
//! Against cpio, the compressors, Debian's lsinitramfs and the `cpio` crate. What the kernel does with the same images is shown
//! by the lab.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};

use unmoor_images::ErrorKind;

use super::*;

fn shell(folder: &Path, script: &str) -> Vec<u8> {
    let output = Command::new("sh").args(["-ec", script]).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

fn piped(program: &str, input: &[u8]) -> Vec<u8> {
    let mut child = Command::new("sh")
        .args(["-ec", program])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let writer = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    assert!(output.status.success(), "{program}");
    output.stdout
}

/// A small initramfs as distributions lay it out: merged /usr, modules, hard links, a device.
fn system(folder: &Path) -> Vec<u8> {
    let root = folder.join("root");
    fs::create_dir_all(root.join("usr/lib/modules/6.1.0/kernel/fs")).unwrap();
    fs::create_dir_all(root.join("usr/bin")).unwrap();
    fs::create_dir_all(root.join("etc")).unwrap();
    symlink("usr/lib", root.join("lib")).unwrap();
    symlink("usr/bin", root.join("bin")).unwrap();
    fs::write(root.join("usr/bin/busybox"), vec![7u8; 100_000]).unwrap();
    fs::hard_link(root.join("usr/bin/busybox"), root.join("usr/bin/sh")).unwrap();
    symlink("busybox", root.join("usr/bin/cat")).unwrap();
    fs::write(root.join("usr/lib/modules/6.1.0/kernel/fs/ext4.ko"), b"module").unwrap();
    fs::write(root.join("usr/lib/modules/6.1.0/modules.dep"), b"kernel/fs/ext4.ko:\n").unwrap();
    fs::write(root.join("etc/fstab"), b"").unwrap();
    fs::write(root.join("init"), b"#!/bin/sh\n").unwrap();
    shell(
        &root,
        "mkdir dev; mknod dev/null c 1 3; chmod 755 init; find . | LC_ALL=C sort | cpio -o -H newc --quiet",
    )
}

const COMPRESSORS: [(&str, Compression); 7] = [
    ("cat", Compression::None),
    ("gzip -n9", Compression::Gzip),
    ("xz --check=crc32 -6", Compression::Xz),
    ("xz --format=lzma", Compression::Lzma),
    ("zstd -q -19", Compression::Zstd),
    ("zstd -q --ultra -22 --long=27", Compression::Zstd),
    ("lz4 -l -9 -c", Compression::Lz4),
];

/// Path, type, length and target as `cpio -itv` tells them.
fn listing(archive: &Archive) -> Vec<String> {
    archive
        .tree
        .below("")
        .into_iter()
        .map(|(path, node)| match &node.kind {
            Kind::Directory => format!("d{:o} {path}", node.mode),
            Kind::File(content) => format!("f{:o} {} {path}", node.mode, content.size),
            Kind::Link(target) => format!("l {path} -> {target}"),
            Kind::Special { format, device } => format!("{format:o} {}:{} {path}", device.0, device.1),
        })
        .collect()
}

/// The same of what cpio itself unpacks.
fn unpacked_by_cpio(folder: &Path, image: &[u8]) -> Vec<String> {
    let out = folder.join("out");
    let _ = fs::remove_dir_all(&out);
    fs::create_dir_all(&out).unwrap();
    fs::write(folder.join("image"), image).unwrap();
    let script = "cd out; cpio -idmu --quiet --no-absolute-filenames < ../image; find . -mindepth 1 \
        '(' -type d -printf 'd%m %P\\n' ')' -o '(' -type f -printf 'f%m %s %P\\n' ')' -o '(' -type l -printf 'l %P -> %l\\n' ')' -o -printf '20000 1:3 %P\\n'";
    let mut lines: Vec<String> =
        String::from_utf8(shell(folder, script)).unwrap().lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

fn sorted(mut lines: Vec<String>) -> Vec<String> {
    lines.sort();
    lines
}

#[test]
fn every_compression_gives_the_tree_that_cpio_unpacks() {
    let folder = tempfile::tempdir().unwrap();
    let plain = system(folder.path());
    let expected = unpacked_by_cpio(folder.path(), &plain);
    assert!(expected.len() > 12, "{expected:?}");
    for (program, compression) in COMPRESSORS {
        let image = piped(program, &plain);
        let archive = read(&image, &Limits::keep_all()).unwrap();
        assert_eq!(sorted(listing(&archive)), expected, "{program}");
        assert_eq!(archive.segments.len(), 1, "{program}");
        assert_eq!(archive.segments[0].compression, compression, "{program}");
        if compression != Compression::None {
            assert_eq!(archive.segments[0].length, image.len() as u64, "{program}");
        }
        assert_eq!(
            archive.tree.read("/bin/sh").unwrap(),
            vec![7u8; 100_000],
            "{program}: a hard link has the content"
        );
        assert_eq!(archive.tree.read("lib/modules/6.1.0/modules.dep").unwrap(), b"kernel/fs/ext4.ko:\n");
        assert!(archive.dropped.is_empty());
    }
}

#[test]
fn archives_behind_each_other_are_merged_as_the_kernel_merges_them() {
    let folder = tempfile::tempdir().unwrap();
    let plain = system(folder.path());
    let mut early = Writer::new(0);
    early.directory("kernel", 0o755).unwrap();
    early.directory("kernel/x86", 0o755).unwrap();
    early.file("kernel/x86/code.bin", 0o644, b"microcode").unwrap();
    let early = early.finish().unwrap();
    let mut late = Writer::new(0);
    late.file("etc/fstab", 0o600, b"new").unwrap();
    late.file("lib/through-the-link", 0o644, b"x").unwrap();
    late.file("no/parent", 0o644, b"lost").unwrap();
    late.directory("bin", 0o755).unwrap();
    let late = late.finish().unwrap();
    for (program, compression) in COMPRESSORS {
        let mut image = early.clone();
        image.extend([0; 512]);
        image.extend(piped(program, &plain));
        if compression == Compression::Lz4 {
            image.extend([0; 512]);
        }
        pad_to_4(&mut image);
        image.extend(&late);
        let archive = read(&image, &Limits::keep_all()).unwrap();
        let compressions: Vec<_> = archive.segments.iter().map(|segment| segment.compression).collect();
        assert_eq!(compressions, [Compression::None, compression, Compression::None], "{program}");
        for segment in &archive.segments {
            let start = &image[segment.offset as usize..];
            assert_eq!(Compression::of(start).unwrap_or(Compression::None), segment.compression);
        }
        assert_eq!(archive.tree.read("kernel/x86/code.bin").unwrap(), b"microcode");
        assert_eq!(archive.tree.read("etc/fstab").unwrap(), b"new");
        assert_eq!(archive.tree.real_path("lib/through-the-link").unwrap(), "usr/lib/through-the-link");
        assert_eq!(archive.dropped, ["no/parent"]);
        assert_eq!(archive.tree.link_node("bin").unwrap().kind, Kind::Directory, "an entry replaces a link");
        assert!(archive.tree.node("bin/sh").is_none() && archive.tree.node("usr/bin/sh").is_some());
    }
}

fn pad_to_4(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

#[test]
fn lsinitramfs_lists_the_same_names() {
    let folder = tempfile::tempdir().unwrap();
    let plain = system(folder.path());
    // Debian 12's lsinitramfs fails on an image of one uncompressed archive: it takes it for the early one.
    for program in ["gzip -n9", "xz --check=crc32", "zstd -q", "lz4 -l -c"] {
        let image = piped(program, &plain);
        fs::write(folder.path().join("initrd"), &image).unwrap();
        let listed = String::from_utf8(shell(folder.path(), "lsinitramfs initrd")).unwrap();
        let mut listed: Vec<&str> = listed.lines().filter(|line| *line != ".").collect();
        listed.sort_unstable();
        let archive = read(&image, &Limits::default()).unwrap();
        let below = archive.tree.below("");
        let mut ours: Vec<&str> = below.iter().map(|(path, _)| path.as_str()).collect();
        ours.sort_unstable();
        assert_eq!(ours, listed, "{program}");
    }
}

#[test]
fn what_is_written_reads_back_with_the_cpio_crate() {
    let mut writer = Writer::new(1_700_000_000);
    writer.directory("a", 0o750).unwrap();
    writer.file("a/b", 0o640, b"content").unwrap();
    writer.link("a/c", "b").unwrap();
    writer.character_device("a/d", 0o600, (5, 1)).unwrap();
    let bytes = writer.finish().unwrap();
    let mut rest = bytes.as_slice();
    let mut found = Vec::new();
    loop {
        let mut reader = cpio::newc::Reader::new(rest).unwrap();
        if reader.entry().is_trailer() {
            break;
        }
        let mut content = Vec::new();
        std::io::Read::read_to_end(&mut reader, &mut content).unwrap();
        let entry = reader.entry();
        found.push((entry.name().to_owned(), entry.mode(), entry.mtime(), content));
        rest = reader.finish().unwrap();
    }
    let time = 1_700_000_000;
    assert_eq!(
        found,
        [
            ("a".to_owned(), 0o040_750, time, vec![]),
            ("a/b".to_owned(), 0o100_640, time, b"content".to_vec()),
            ("a/c".to_owned(), 0o120_777, time, b"b".to_vec()),
            ("a/d".to_owned(), 0o020_600, time, vec![]),
        ]
    );
}

#[test]
fn what_is_appended_is_there_after_every_compression_and_twice_is_once() {
    let folder = tempfile::tempdir().unwrap();
    let plain = system(folder.path());
    let additions = [
        Addition::file("lib/modules/6.1.0/kernel/drivers/block/virtio_blk.ko", *b"driver"),
        Addition::file("lib/modules/6.1.0/modules.dep", *b"replaced"),
        Addition::File { path: "/conf/conf.d/unmoor".into(), mode: 0o755, content: b"x=1\n".to_vec() },
        Addition::Link { path: "etc/link".into(), target: "fstab".into() },
        Addition::Directory { path: "etc/udev/rules.d".into(), mode: 0o755 },
    ];
    for (program, compression) in COMPRESSORS {
        let mut image = piped(program, &plain);
        let archive = read(&image, &Limits::default()).unwrap();
        let added = append(&image, &archive, &additions, 1).unwrap();
        assert_eq!(added, append(&image, &archive, &additions, 1).unwrap(), "the same bytes each time");
        let zeros = added.iter().take_while(|byte| **byte == 0).count();
        assert_eq!((image.len() + zeros) % 4, 0);
        assert_eq!(zeros >= 512, compression == Compression::Lz4, "{program}: {zeros}");
        let names = String::from_utf8(piped("cpio -it --quiet", &added[zeros..])).unwrap();
        assert_eq!(
            names.lines().collect::<Vec<_>>(),
            [
                "usr/lib/modules/6.1.0/kernel/drivers",
                "usr/lib/modules/6.1.0/kernel/drivers/block",
                "usr/lib/modules/6.1.0/kernel/drivers/block/virtio_blk.ko",
                "usr/lib/modules/6.1.0/modules.dep",
                "conf",
                "conf/conf.d",
                "conf/conf.d/unmoor",
                "etc/link",
                "etc/udev",
                "etc/udev/rules.d",
            ]
        );
        image.extend(&added);
        let after = read(&image, &Limits::default()).unwrap();
        assert_eq!(after.segments.last().unwrap().compression, Compression::None);
        assert_eq!(after.tree.read("lib/modules/6.1.0/modules.dep").unwrap(), b"replaced");
        assert_eq!(after.tree.node("conf/conf.d/unmoor").unwrap().mode, 0o755);
        assert!(matches!(after.tree.link_node("lib").unwrap().kind, Kind::Link(_)), "the link stays");
        let rest: Vec<Addition> = additions[1..].to_vec();
        assert_eq!(append(&image, &after, &rest, 1).unwrap(), b"", "{program}: all is there");
    }
}

#[test]
fn only_files_are_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let image = system(folder.path());
    let archive = read(&image, &Limits::default()).unwrap();
    let refused = |addition: Addition| append(&image, &archive, &[addition], 0).unwrap_err();
    for addition in [
        Addition::file("lib", *b"x"),
        Addition::file("usr/lib", *b"x"),
        Addition::file("dev/null", *b"x"),
        Addition::file("etc/fstab/below-a-file", *b"x"),
        Addition::file("../outside", *b"x"),
        Addition::Link { path: "etc/fstab".into(), target: "x".into() },
        Addition::Link { path: "lib".into(), target: "usr/lib64".into() },
        Addition::Directory { path: "init".into(), mode: 0o755 },
    ] {
        let text = format!("{addition:?}");
        assert_eq!(refused(addition).kind(), ErrorKind::Refused, "{text}");
    }
    // Through a link to a file, the file is replaced.
    let added = append(&image, &archive, &[Addition::file("bin/cat", *b"x")], 0).unwrap();
    assert_eq!(
        piped("cpio -it --quiet", &added[added.iter().take_while(|b| **b == 0).count()..]),
        b"usr/bin/busybox\n"
    );
}

#[test]
fn images_that_the_kernel_would_give_up_on_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    let plain = system(folder.path());
    let error = |image: &[u8]| read(image, &Limits::default()).unwrap_err();
    for (program, compression) in COMPRESSORS {
        let image = piped(program, &plain);
        let half = error(&image[..image.len() / 2]);
        assert_eq!(half.kind(), ErrorKind::Malformed, "{program}: {}", half.chain());
        let mut junk = image.clone();
        pad_to_4(&mut junk);
        if compression == Compression::Lz4 {
            junk.extend([0; 512]);
        }
        junk.extend(b"this is no archive");
        assert_eq!(error(&junk).kind(), ErrorKind::Malformed, "{program}");
    }
    let mut moved = plain.clone();
    moved.extend([0, 0]);
    moved.extend(&plain);
    assert!(error(&moved).chain().contains("padding"), "an archive must begin at a multiple of 4");
    assert_eq!(error(b"BZh91AY").kind(), ErrorKind::Unsupported);
    assert!(error(b"BZh91AY").chain().contains("bzip2"));
    let frame = piped("lz4 -c", &plain);
    assert_eq!(error(&frame).kind(), ErrorKind::Malformed, "the kernel takes lz4 -l only");
    let sums = piped("cpio -o -H crc --quiet", b"/etc/hostname\n/etc/passwd\n");
    assert!(read(&sums, &Limits::default()).is_ok());
    let at = sums.windows(5).position(|bytes| bytes == b"root:").unwrap();
    let mut wrong = sums;
    wrong[at] ^= 1;
    assert!(error(&wrong).chain().contains("checksum"));
}

#[test]
fn limits_bound_what_is_unpacked_and_kept() {
    let folder = tempfile::tempdir().unwrap();
    let bomb =
        shell(folder.path(), "truncate -s 300M zeros; echo zeros | cpio -o -H newc --quiet | zstd -q -3");
    let limits = Limits { unpacked: 64 << 20, ..Limits::default() };
    assert_eq!(read(&bomb, &limits).unwrap_err().kind(), ErrorKind::Unsupported);
    let archive = read(&bomb, &Limits::default()).unwrap();
    let Kind::File(content) = &archive.tree.node("zeros").unwrap().kind else { panic!("no file") };
    assert_eq!((content.size, content.bytes.as_ref()), (300 << 20, None));
    let many: BTreeMap<u32, ()> = (0..300).map(|number| (number, ())).collect();
    let mut writer = Writer::new(0);
    many.keys().for_each(|number| writer.file(&format!("f{number}"), 0o644, b"").unwrap());
    let limits = Limits { entries: 200, ..Limits::default() };
    assert_eq!(read(&writer.finish().unwrap(), &limits).unwrap_err().kind(), ErrorKind::Unsupported);
}

#[test]
fn rings_of_links_lead_nowhere() {
    let mut writer = Writer::new(0);
    writer.link("a", "b").unwrap();
    writer.link("b", "a").unwrap();
    writer.link("up", "../../../etc").unwrap();
    writer.directory("etc", 0o755).unwrap();
    writer.file("a/x", 0o644, b"x").unwrap();
    writer.file("up/x", 0o644, b"y").unwrap();
    let archive = read(&writer.finish().unwrap(), &Limits::default()).unwrap();
    assert!(archive.tree.node("a").is_none());
    assert_eq!(archive.dropped, ["a/x"]);
    assert_eq!(archive.tree.read("etc/x").unwrap(), b"y", "nothing is above the root");
}
