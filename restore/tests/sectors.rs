// SPDX-License-Identifier: Apache-2.0
//! Whole disks restored to disks with sectors of another size, judged by the filesystems' own checkers.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use unmoor_images::formats::{self, Format};
use unmoor_images::monitor::Silent;
use unmoor_images::{ErrorKind, partition};
use unmoor_restore::execute::execute;
use unmoor_restore::image::Image;
use unmoor_restore::plan::{Options, Plan, Target};

const M: u64 = 1 << 20;

fn run(package: &str, program: &str, arguments: &[&str]) -> String {
    let output =
        Command::new(program).args(arguments).env("MTOOLS_SKIP_CHECK", "1").stdin(Stdio::null()).output();
    let output =
        output.unwrap_or_else(|error| panic!("{program} is needed (Debian package {package}): {error}"));
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {text}");
    text
}

fn copy_range(from: &Path, at: u64, to: &Path, to_at: u64, len: u64) {
    let place = |name: &str, path: &Path| format!("{name}={}", path.display());
    let arguments = [
        place("if", from),
        place("of", to),
        format!("skip={at}"),
        format!("seek={to_at}"),
        format!("count={len}"),
        "iflag=skip_bytes,count_bytes".into(),
        "oflag=seek_bytes".into(),
        "bs=1M".into(),
        "conv=notrunc,sparse".into(),
    ];
    run("coreutils", "dd", &arguments.each_ref().map(String::as_str));
}

/// GPT with 512-byte sectors: an ESP with files, and an ext4 with blocks of `block` bytes.
fn disk(dir: &Path, block: &str) -> PathBuf {
    let disk = dir.join("disk.raw");
    File::create(&disk).unwrap().set_len(200 * M).unwrap();
    let script = dir.join("script");
    fs::write(&script, "label: gpt\nstart=2048, size=131072, type=U\nstart=133120, size=262144, type=L\n")
        .unwrap();
    let command = format!("sfdisk -q {} < {}", disk.display(), script.display());
    run("fdisk", "sh", &["-c", &command]);
    let (esp, root) = (dir.join("esp"), dir.join("root"));
    File::create(&esp).unwrap().set_len(64 * M).unwrap();
    run("dosfstools", "mkfs.fat", &["-F32", "-s1", "-i", "1234ABCD", "-n", "ESP", esp.to_str().unwrap()]);
    let tree = dir.join("tree/EFI/debian");
    fs::create_dir_all(&tree).unwrap();
    (0..40).for_each(|number| {
        fs::write(tree.join(format!("a long name {number}")), vec![number as u8; 3000]).unwrap();
    });
    let tree = dir.join("tree");
    run("mtools", "mcopy", &["-i", esp.to_str().unwrap(), "-s", tree.join("EFI").to_str().unwrap(), "::"]);
    let root_path = root.to_str().unwrap();
    run(
        "e2fsprogs",
        "mke2fs",
        &["-q", "-t", "ext4", "-b", block, "-d", tree.to_str().unwrap(), root_path, "128M"],
    );
    copy_range(&esp, 0, &disk, M, 64 * M);
    copy_range(&root, 0, &disk, 65 * M, 128 * M);
    disk
}

fn plan(disk: &Path, to: &Path, sector_size: u32) -> unmoor_images::Result<(Plan, Options)> {
    let source =
        formats::open(disk, &formats::OpenOptions { format: Some(Format::Raw), ..Default::default() })?
            .source;
    let image = Image::without_manifest(disk, Format::Raw, source, Vec::new(), &Silent)?;
    let options = Options { sector_size: Some(sector_size), size: Some(200 * M), ..Options::default() };
    let target = Target::File { path: to.to_owned(), format: Format::Raw };
    Ok((Plan::new(vec![(image, target)], &options)?, options))
}

#[test]
fn a_disk_goes_to_4096_byte_sectors_and_back_with_its_esp_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    let disk = disk(dir.path(), "4096");
    let there = dir.path().join("there.raw");
    let (first, options) = plan(&disk, &there, 4096).unwrap();
    assert!(first.lines().iter().any(|line| line.contains("EFI system partition 1 is made anew")));
    execute(&first, &options, &Silent).unwrap();
    let back = dir.path().join("back.raw");
    let (second, options) = plan(&there, &back, 512).unwrap();
    execute(&second, &options, &Silent).unwrap();

    for (path, sector_size) in [(&there, 4096), (&back, 512)] {
        let raw = formats::OpenOptions { format: Some(Format::Raw), ..Default::default() };
        let table = partition::read(&*formats::open(path, &raw).unwrap().source).unwrap();
        assert_eq!((table.sector_size, table.partitions.len()), (sector_size, 2), "{:?}", table.warnings);
        for (partition, name) in table.partitions.iter().zip(["esp", "root"]) {
            let part = dir.path().join(format!("{name}-{sector_size}"));
            File::create(&part).unwrap().set_len(partition.len).unwrap();
            copy_range(path, partition.start, &part, 0, partition.len);
            let part = part.to_str().unwrap();
            if name == "root" {
                run("e2fsprogs", "e2fsck", &["-fn", part]);
                continue;
            }
            let text = run("dosfstools", "fsck.fat", &["-n", "-v", part]);
            assert!(text.contains(&format!("{sector_size} bytes per logical sector")), "{text}");
            assert!(run("util-linux", "blkid", &["-p", part]).contains("UUID=\"1234-ABCD\""));
        }
    }
    let out = dir.path().join("out");
    fs::create_dir(&out).unwrap();
    let esp = dir.path().join("esp-512");
    run("mtools", "mcopy", &["-s", "-i", esp.to_str().unwrap(), "::EFI", out.to_str().unwrap()]);
    let (want, got) = (dir.path().join("tree/EFI"), out.join("EFI"));
    run("diffutils", "diff", &["-r", want.to_str().unwrap(), got.to_str().unwrap()]);
}

#[test]
fn what_would_not_mount_on_larger_sectors_is_refused_before_anything_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let disk = disk(dir.path(), "1024");
    let there = dir.path().join("there.raw");
    let error = plan(&disk, &there, 4096).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert!(error.chain().contains("ext4 in partition 2"), "{}", error.chain());
    assert!(!there.exists());
}
