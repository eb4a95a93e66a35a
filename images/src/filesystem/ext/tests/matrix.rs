// SPDX-License-Identifier: Apache-2.0
//! Feature sets and block sizes against dumpe2fs, blkid, e2fsck and debugfs.

use super::*;

/// Name, KiB, mke2fs arguments.
type Case = (&'static str, u64, &'static [&'static str]);

const SMALL_BLOCKS: &[Case] = &[
    ("ext2", 40_000, &["-t", "ext2", "-b", "1024"]),
    ("revision 0", 40_003, &["-t", "ext2", "-b", "1024", "-r", "0"]),
    (
        "ext2 with every backup",
        30_000,
        &["-t", "ext2", "-b", "2048", "-g", "2048", "-O", "^sparse_super,^resize_inode"],
    ),
    ("ext3", 60_000, &["-t", "ext3", "-b", "1024"]),
    ("ext4", 90_001, &["-t", "ext4", "-b", "1024", "-L", "a label"]),
    ("2 KiB blocks", 90_000, &["-t", "ext4", "-b", "2048", "-g", "4096"]),
    ("uninit_bg", 90_000, &["-t", "ext4", "-b", "1024", "-O", "^metadata_csum,uninit_bg"]),
    ("uninit_bg, not 64bit", 90_000, &["-t", "ext4", "-b", "1024", "-O", "^metadata_csum,uninit_bg,^64bit"]),
    ("no checksums", 90_000, &["-t", "ext4", "-b", "1024", "-O", "^metadata_csum,^uninit_bg"]),
    ("meta_bg", 90_000, &["-t", "ext4", "-b", "1024", "-O", "meta_bg,^resize_inode"]),
    (
        "meta_bg, 32-bit",
        290_000,
        &["-t", "ext4", "-b", "1024", "-O", "meta_bg,^resize_inode,^64bit,^flex_bg"],
    ),
    ("ext3 with meta_bg", 290_000, &["-t", "ext3", "-b", "1024", "-O", "meta_bg,^resize_inode"]),
    ("sparse_super2", 90_000, &["-t", "ext4", "-b", "1024", "-O", "sparse_super2"]),
    (
        "one backup",
        90_000,
        &["-t", "ext4", "-b", "1024", "-O", "sparse_super2,^resize_inode", "-E", "num_backup_sb=1"],
    ),
    ("no flex_bg", 90_000, &["-t", "ext4", "-b", "1024", "-O", "^flex_bg"]),
    ("bigalloc, 1 KiB blocks", 120_000, &["-t", "ext4", "-b", "1024", "-O", "bigalloc", "-C", "8192"]),
    ("stride", 90_000, &["-t", "ext4", "-b", "1024", "-E", "stride=16,stripe-width=64", "-G", "4"]),
    ("a huge table for growth", 50_000, &["-t", "ext4", "-b", "1024", "-E", "resize=4000000"]),
];

const LARGE_BLOCKS: &[Case] = &[
    ("Debian's default", 300_000, &["-t", "ext4"]),
    ("small groups", 100_000, &["-t", "ext4", "-b", "4096", "-g", "1024"]),
    ("ext3", 100_000, &["-t", "ext3", "-b", "4096", "-g", "2048"]),
    ("no journal", 100_000, &["-t", "ext4", "-b", "4096", "-g", "2048", "-O", "^has_journal"]),
    (
        "1.47 upstream default",
        100_000,
        &["-t", "ext4", "-b", "4096", "-g", "2048", "-O", "metadata_csum_seed,orphan_file"],
    ),
    (
        "everything",
        120_000,
        &[
            "-t",
            "ext4",
            "-b",
            "4096",
            "-g",
            "2048",
            "-I",
            "512",
            "-E",
            "encoding=utf8",
            "-O",
            "metadata_csum_seed,orphan_file,fast_commit,stable_inodes,encrypt,verity,casefold,inline_data,\
             ea_inode,large_dir,quota,project,mmp",
        ],
    ),
    (
        "inline_data and ea_inode",
        100_000,
        &["-t", "ext4", "-b", "4096", "-g", "2048", "-O", "inline_data,ea_inode"],
    ),
    ("mmp", 60_000, &["-t", "ext4", "-b", "4096", "-g", "2048", "-O", "mmp,quota"]),
    ("bigalloc", 200_000, &["-t", "ext4", "-b", "4096", "-O", "bigalloc", "-C", "65536"]),
    (
        "bigalloc, small groups",
        200_000,
        &["-t", "ext4", "-b", "4096", "-O", "bigalloc", "-C", "16384", "-g", "8192"],
    ),
    (
        "packed_meta_blocks",
        100_000,
        &["-t", "ext4", "-b", "4096", "-g", "2048", "-E", "packed_meta_blocks=1"],
    ),
    (
        "small inodes, eager tables",
        90_000,
        &["-t", "ext4", "-b", "4096", "-g", "2048", "-I", "128", "-E", "lazy_itable_init=0"],
    ),
    ("lazy tables", 90_000, &["-t", "ext4", "-b", "4096", "-g", "2048", "-E", "lazy_itable_init=1"]),
    ("8 KiB blocks", 120_000, &["-t", "ext4", "-b", "8192", "-g", "2048"]),
    ("16 KiB blocks", 120_000, &["-t", "ext2", "-b", "16384", "-g", "1024"]),
    ("32 KiB blocks", 120_000, &["-t", "ext4", "-b", "32768", "-g", "512", "-O", "meta_bg,^resize_inode"]),
    ("64 KiB blocks", 200_000, &["-t", "ext4", "-b", "65536", "-g", "256"]),
];

fn hold_against_the_tools(cases: &[Case]) {
    for (name, size, args) in cases {
        println!("{name}");
        let lab = Lab::new(*size, args);
        compare(name, &lab);
        match lab.try_mount("defaults") {
            Ok(mounted) => {
                age(&mounted.0, 250);
                drop(mounted);
                compare(name, &lab);
            }
            Err(why) => println!("{name}: not aged, for it cannot be mounted here: {why}"),
        }
    }
}

/// Facts equal blkid's and dumpe2fs', the map covers dumpe2fs' and little more, and a copy of the used bytes alone
/// is the same to e2fsck and debugfs.
fn compare(name: &str, lab: &Lab) {
    let source = lab.source();
    let (facts, mut used) = read(&source).unwrap().unwrap();
    assert_eq!(used.everything_because, None, "{name}");
    assert_eq!(facts.condition, crate::filesystem::Condition::Clean, "{name}");
    compare_facts(name, lab, &facts);

    let mut truth = lab.truth();
    assert_eq!(missing(&mut used.ranges, &mut truth), None, "{name}");
    let (ours, theirs) = (used.ranges.bytes(), truth.bytes());
    assert!(ours - theirs <= theirs / 100, "{name}: {ours} bytes for {theirs}");
    assert!(ours < facts.size_bytes, "{name}: nothing is free");

    let copy = lab.restored(&mut used);
    assert_eq!(copy.check("-fn"), lab.check("-fn"), "{name}");
    assert_eq!(copy.check("-fn").0, Some(0), "{name}: {:?}", copy.check("-fn"));
    assert_eq!(copy.files(), lab.files(), "{name}");
}

fn compare_facts(name: &str, lab: &Lab, facts: &FilesystemFacts) {
    let text = run_ok(lab.dir(), "blkid", &["-p", "-o", "export", "fs.img"]);
    let value =
        |key: &str| text.lines().find_map(|line| line.strip_prefix(key)).map(|text| text.replace('\\', ""));
    assert_eq!(Some(facts.kind.name().to_owned()), value("TYPE="), "{name}");
    assert_eq!(facts.uuid, value("UUID="), "{name}");
    assert_eq!(facts.label, value("LABEL="), "{name}");
    assert_eq!(Some(facts.block_size.to_string()), value("BLOCK_SIZE="), "{name}");

    let text = run_ok(lab.dir(), "dumpe2fs", &["-h", "fs.img"]);
    let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)).unwrap().trim().to_owned();
    let features = if facts.features.is_empty() { "(none)".into() } else { facts.features.join(" ") };
    assert_eq!(features, value("Filesystem features:"), "{name}");
    assert_eq!((facts.size_bytes / u64::from(facts.block_size)).to_string(), value("Block count:"), "{name}");
}

#[test]
fn maps_of_small_blocks_equal_those_of_the_tools() {
    hold_against_the_tools(SMALL_BLOCKS);
}

#[test]
fn maps_of_large_blocks_equal_those_of_the_tools() {
    hold_against_the_tools(LARGE_BLOCKS);
}

#[test]
fn resized_filesystems_are_mapped_too() {
    for args in [
        ["-t", "ext4", "-b", "1024", "-E", "resize=9000000"],
        ["-t", "ext4", "-b", "1024", "-O", "^metadata_csum"],
    ] {
        let lab = Lab::new(40_000, &args);
        for size in ["150000K", "300M"] {
            File::options().write(true).open(lab.image()).unwrap().set_len(320 << 20).unwrap();
            run_ok(lab.dir(), "resize2fs", &["-f", "fs.img", size]);
            compare("grown", &lab);
        }
        run_ok(lab.dir(), "resize2fs", &["-f", "fs.img", "60000K"]);
        compare("shrunk", &lab);
    }
}

#[test]
fn what_cannot_be_trusted_is_kept_whole_or_refused_with_the_reason() {
    let lab = Lab::new(20_000, &["-t", "ext2", "-b", "1024"]);
    let set = |at: u64, value: &[u8]| {
        let file = File::options().write(true).open(lab.image()).unwrap();
        file.write_all_at(value, 1024 + at).unwrap();
    };
    let reason = |lab: &Lab| {
        let (facts, mut used) = read(&lab.source()).unwrap().unwrap();
        assert_eq!(used.ranges.bytes(), 20_000 * 1024);
        (facts.condition, used.everything_because.unwrap())
    };
    set(0x3a, &[0]);
    let (condition, because) = reason(&lab);
    assert!(matches!(condition, crate::filesystem::Condition::Dirty(_)));
    assert!(because.contains("not unmounted") && because.contains("e2fsck"), "{because}");
    set(0x3a, &[3]);
    assert!(reason(&lab).1.contains("errors"));
    set(0x3a, &[1]);
    set(0x60, &0x4000_0002u32.to_le_bytes());
    let error = read(&lab.source()).unwrap_err();
    assert_eq!(error.kind(), crate::ErrorKind::Unsupported);
    assert!(error.chain().contains("FEATURE_I30"), "{}", error.chain());
    set(0x60, &2u32.to_le_bytes());
    set(0x64, &0x4000_0001u32.to_le_bytes());
    assert!(read(&lab.source()).unwrap_err().chain().contains("FEATURE_R30"));
    set(0x64, &1u32.to_le_bytes());
    set(0x4, &20_001u32.to_le_bytes());
    assert!(read(&lab.source()).unwrap_err().chain().contains("larger than its device"));
}

#[test]
fn every_feature_bit_has_the_name_that_dumpe2fs_prints() {
    let lab = Lab::new(8_000, &["-t", "ext2", "-b", "1024"]);
    let file = File::options().write(true).open(lab.image()).unwrap();
    // All but those with which the rest of this superblock makes no sense to dumpe2fs.
    for (at, without) in [(0x5c, 0u32), (0x60, 0x8 | 0x80), (0x64, 0x200 | 0x400)] {
        file.write_all_at(&(!without).to_le_bytes(), 1024 + at).unwrap();
    }
    let text = run_ok(lab.dir(), "dumpe2fs", &["-f", "-h", "fs.img"]);
    let theirs = text.lines().find_map(|line| line.strip_prefix("Filesystem features:")).unwrap().trim();
    let facts = crate::filesystem::probe(&lab.source()).unwrap().unwrap();
    assert_eq!(facts.features.join(" "), theirs);
}

#[test]
fn a_journal_on_another_device_is_named() {
    let dir = folder();
    File::create(dir.path().join("journal.img")).unwrap().set_len(16 << 20).unwrap();
    run_ok(dir.path(), "mke2fs", &["-q", "-F", "-b", "4096", "-O", "journal_dev", "journal.img"]);
    let journal = FileSource::open(&dir.path().join("journal.img"));
    let (facts, mut used) = read(&journal).unwrap().unwrap();
    assert_eq!(facts.kind, crate::filesystem::FilesystemKind::Jbd);
    assert_eq!(used.ranges.bytes(), 16 << 20);
    let blkid = run_ok(dir.path(), "blkid", &["-p", "-o", "export", "journal.img"]);
    let uuid = facts.uuid.unwrap();
    assert!(blkid.contains("TYPE=jbd") && blkid.contains(&format!("LOGUUID={uuid}")), "{blkid}");

    // mke2fs takes a block device only; the superblock's fields are what counts.
    let lab = Lab::new(20_000, &["-t", "ext4", "-b", "1024", "-O", "^metadata_csum"]);
    for command in
        ["set_super_value journal_inum 0".to_owned(), format!("set_super_value journal_uuid {uuid}")]
    {
        run_ok(lab.dir(), "debugfs", &["-w", "-R", &command, "fs.img"]);
    }
    let (_, mut used) = read(&lab.source()).unwrap().unwrap();
    assert!(used.everything_because.unwrap().contains(&uuid));
    assert_eq!(used.ranges.bytes(), 20_000 * 1024);
}

#[test]
fn a_terabyte_is_mapped() {
    let dir = folder();
    let image = dir.path().join("fs.img");
    File::create(&image).unwrap().set_len(1 << 40).unwrap();
    let lazy = "lazy_itable_init=1,lazy_journal_init=1";
    run_ok(dir.path(), "mke2fs", &["-q", "-F", "-t", "ext4", "-E", lazy, "fs.img"]);
    let lab = Lab(dir);
    if let Ok(mounted) = lab.try_mount("noinit_itable") {
        // Holes in every bitmap: 60 MiB of every 64 MiB are allocated.
        for number in 0..100 {
            let file = File::create(mounted.0.join(format!("{number}"))).unwrap();
            let length = 8 << 30;
            nix::fcntl::fallocate(&file, nix::fcntl::FallocateFlags::empty(), 0, length).unwrap();
            for at in (0..length).step_by(64 << 20) {
                let punch = nix::fcntl::FallocateFlags::FALLOC_FL_PUNCH_HOLE
                    | nix::fcntl::FallocateFlags::FALLOC_FL_KEEP_SIZE;
                nix::fcntl::fallocate(&file, punch, at, 4 << 20).unwrap();
            }
        }
    }
    let source = lab.source();
    let started = std::time::Instant::now();
    let (facts, mut used) = read(&source).unwrap().unwrap();
    println!(
        "{} ranges, {} GiB in {:?}",
        used.ranges.ranges().len(),
        used.ranges.bytes() >> 30,
        started.elapsed()
    );
    assert_eq!((facts.size_bytes, used.everything_because), (1 << 40, None));
    assert_eq!(missing(&mut used.ranges, &mut lab.truth()), None);
}
