// SPDX-License-Identifier: Apache-2.0
//! Against xfsprogs (`xfs_db`, `xfs_repair -n`, `xfs_logprint`) and the host's kernel.

use std::collections::BTreeSet;
use std::fs;
use std::ops::Range;

use super::{probe, used};
use crate::filesystem::loops::{Damaged, Disk, Random, tool, tool_text};
use crate::filesystem::{Condition, FilesystemKind};
use crate::{BlockSource, ErrorKind, RangeSet};

const PACKAGE: &str = "xfsprogs";
const MIB: u64 = 1 << 20;

/// `mkfs.xfs` in a file; `--unsupported` allows less than 300 MiB.
fn made(size: u64, options: &str) -> Disk {
    let disk = Disk::new(size);
    let mut arguments = vec!["--unsupported", "-f", "-q"];
    arguments.extend(options.split_whitespace());
    arguments.push(disk.path());
    tool_text(PACKAGE, "mkfs.xfs", &arguments);
    disk
}

/// As [`made`] and, where the kernel mounts it, lived in.
fn aged(size: u64, options: &str) -> Disk {
    let disk = made(size, options);
    if let Some(mounted) = disk.mount("xfs", "nouuid") {
        mounted.live_in(2500, 7);
    }
    disk
}

/// Version 4, which current kernels do not mount: made with 900 files, every second inode spoiled, and
/// `xfs_repair` frees their blocks and builds trees of two levels.
fn aged_v4() -> Disk {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, content: &[u8]| {
        let path = folder.path().join(name);
        fs::write(&path, content).unwrap();
        path.display().to_string()
    };
    let one = file("one", &Random(3).bytes(1500));
    let files: String = (0..900).map(|index| format!("f{index} ---644 0 0 {one}\n")).collect();
    let prototype = file("prototype", format!("/none\n0 0\nd--755 0 0\n{files}$\n").as_bytes());
    let disk = made(128 * MIB, &format!("-m crc=0 -b size=512 -d agcount=2 -p {prototype}"));

    let listed =
        tool_text(PACKAGE, "xfs_db", &["-r", "-f", "-c", "blockget -n", "-c", "ncheck", disk.path()]);
    let inodes = listed.lines().filter_map(|line| line.split_whitespace().next());
    let spoil: String =
        inodes.step_by(2).map(|inode| format!("inode {inode}\nwrite -c core.mode 0\n")).collect();
    let script = format!("xfs_db -x -f {} < {}", disk.path(), file("spoil", spoil.as_bytes()));
    tool("dash", "sh", &["-c", &script]);
    tool_text(PACKAGE, "xfs_repair", &["-f", disk.path()]);
    assert!(used(&disk).unwrap().ranges.ranges().len() > 300);
    disk
}

/// The free extents by `xfs_db`, in bytes, and of those the bytes on the groups' free lists, which are in use.
fn free_by_xfs_db(disk: &Disk) -> (RangeSet, u64) {
    let block = u64::from(probe(disk).unwrap().unwrap().block_size);
    let numbers = |command: &[&str]| -> Vec<u64> {
        let mut arguments = vec!["-r", "-f"];
        arguments.extend(command.iter().flat_map(|command| ["-c", command]));
        arguments.push(disk.path());
        let text = tool_text(PACKAGE, "xfs_db", &arguments);
        text.lines().filter_map(|line| line.rsplit("= ").next()?.trim().parse().ok()).collect()
    };
    let groups = numbers(&["sb 0", "p agcount"])[0];
    let group_blocks = numbers(&["sb 0", "p agblocks"])[0];
    let lists: Vec<String> =
        (0..groups).flat_map(|group| [format!("agf {group}"), "p flcount".into()]).collect();
    let listed: u64 = numbers(&lists.iter().map(String::as_str).collect::<Vec<_>>()).iter().sum();
    let text = tool_text(PACKAGE, "xfs_db", &["-r", "-f", "-c", "freesp -d", disk.path()]);
    let mut free = RangeSet::new();
    for line in text.lines().skip(1) {
        let row: Vec<u64> = line.split_whitespace().map_while(|word| word.parse().ok()).collect();
        // The histogram below the list has two columns of whole numbers more.
        let [group, start, len] = row[..] else { break };
        let at = (group * group_blocks + start) * block;
        free.insert(at..at + len * block);
    }
    (free, listed * block)
}

fn is_clean_by_logprint(disk: &Disk) -> bool {
    let text = tool_text(PACKAGE, "xfs_logprint", &["-t", disk.path()]);
    match (text.contains("<CLEAN>"), text.contains("<DIRTY>")) {
        (clean, dirty) if clean != dirty => clean,
        _ => panic!("xfs_logprint says neither: {text}"),
    }
}

fn repair(disk: &Disk) -> (Option<i32>, String) {
    let output = tool(PACKAGE, "xfs_repair", &["-n", "-f", disk.path()]);
    let text = [output.stdout, output.stderr].concat();
    // The file's name and running numbers of worker threads are of no interest.
    let text = String::from_utf8_lossy(&text).replace(disk.path(), "DISK");
    let mut lines: Vec<&str> = text.lines().filter(|line| !line.trim_start().starts_with("- agno")).collect();
    lines.sort_unstable();
    (output.status.code(), lines.join("\n"))
}

/// Exact against `xfs_db`; then a copy of only the used bytes must satisfy the checker and the kernel.
fn assert_exact(disk: &Disk, mounts: bool, name: &str) {
    let mut map = used(disk).unwrap_or_else(|error| panic!("{name}: {}", error.chain()));
    assert_eq!(map.everything_because, None, "{name}");
    assert!(is_clean_by_logprint(disk), "{name}");
    let (mut free, listed) = free_by_xfs_db(disk);
    let facts = probe(disk).unwrap().unwrap();
    let gaps = map.ranges.gaps(facts.size_bytes);
    assert!(gaps.iter().all(|gap| free.covers(gap.clone())), "{name}: the map misses used blocks");
    let ours: u64 = gaps.iter().map(|gap| gap.end - gap.start).sum();
    assert_eq!(ours, free.bytes() - listed, "{name}: the map holds more than is used");

    let copy = disk.only(&mut map.ranges);
    assert_eq!(repair(&copy), repair(disk), "{name}");
    if mounts && let Some(mounted) = disk.mount("xfs", "ro,nouuid") {
        let files = mounted.listing();
        drop(mounted);
        assert_eq!(copy.mount("xfs", "ro,nouuid").unwrap().listing(), files, "{name}");
    }
}

#[test]
fn used_blocks_are_exactly_those_xfs_db_does_not_call_free() {
    // Options, size in MiB, and whether current kernels mount it.
    let cases = [
        ("", 192, true),
        ("-m reflink=0", 192, true),
        ("-m rmapbt=1,reflink=1 -i nrext64=1", 192, true),
        ("-m bigtime=0,inobtcount=0,finobt=0 -i sparse=0", 192, true),
        ("-b size=1024", 192, true),
        ("-b size=1024 -s size=512 -d agcount=11", 240, true),
        ("-s size=4096", 192, true),
        ("-l su=256k", 192, true),
        ("-b size=65536", 2048, false),
        ("-b size=32768 -s size=32768", 1024, false),
        ("-m crc=0", 192, false),
        ("-m crc=0 -b size=512 -l version=1,lazy-count=0", 128, false),
        ("-m crc=0 -n ftype=1 -s size=4096 -d agcount=5", 192, false),
    ];
    for (options, size, mounts) in cases {
        let disk = if mounts { aged(size * MIB, options) } else { made(size * MIB, options) };
        assert_exact(&disk, mounts, options);
    }
    assert_exact(&aged_v4(), false, "version 4 with files deleted");
}

#[test]
fn a_tree_of_several_levels_is_read_through() {
    let disk = made(256 * MIB, "-b size=1024 -d agcount=2 -m rmapbt=0");
    let Some(mounted) = disk.mount("xfs", "nouuid") else { return };
    // Every second block of a full file is freed: 12,000 free extents, 121 a leaf at most.
    let path = mounted.path().join("comb");
    fs::write(&path, vec![0x11; 24 << 20]).unwrap();
    mounted.sync();
    let commands: String = (0..12 << 10).map(|index| format!("fpunch {}k 1k\n", index * 2)).collect();
    let list = mounted.path().join("commands");
    fs::write(&list, commands).unwrap();
    let script = format!("xfs_io {} < {} > /dev/null", path.display(), list.display());
    tool_text("dash", "sh", &["-c", &script]);
    drop(mounted);
    assert!(used(&disk).unwrap().ranges.ranges().len() > 12_000);
    assert_exact(&disk, true, "comb");
}

#[test]
fn facts_are_those_the_tools_print() {
    let disk = made(192 * MIB, "-L somewhere -m rmapbt=1 -i nrext64=1 -s size=4096");
    let facts = probe(&disk).unwrap().unwrap();
    let blkid = |field: &str| {
        tool_text("util-linux", "blkid", &["-p", "-o", "value", "-s", field, disk.path()]).trim().to_owned()
    };
    assert_eq!(facts.kind, FilesystemKind::Xfs);
    assert_eq!(facts.uuid, Some(blkid("UUID")));
    assert_eq!(facts.label.as_deref(), Some("somewhere"));
    assert_eq!((facts.block_size, facts.max_sector_size, facts.size_bytes), (4096, 4096, 192 * MIB));
    let printed = tool_text(PACKAGE, "xfs_info", &[disk.path()]).replace(' ', "");
    for name in facts.features {
        assert!(printed.contains(&format!("{name}=1")), "{name} in {printed}");
    }
    // A new UUID leaves the old one in the metadata.
    tool_text(PACKAGE, "xfs_admin", &["-U", "generate", disk.path()]);
    assert_eq!(probe(&disk).unwrap().unwrap().uuid, Some(blkid("UUID")));
    assert_exact(&disk, true, "meta_uuid");
}

/// Everything, and a reason with this word.
fn assert_everything(disk: &dyn BlockSource, word: &str) {
    let mut map = used(disk).unwrap();
    let why = map.everything_because.unwrap_or_default();
    assert!(why.contains(word), "{why:?} lacks {word:?}");
    assert!(map.ranges.covers(0..disk.size()));
}

#[test]
fn a_log_is_clean_where_xfs_logprint_says_so_turn_after_turn() {
    let disk = made(128 * MIB, "-l su=64k");
    assert!(is_clean_by_logprint(&disk) && probe(&disk).unwrap().unwrap().condition == Condition::Clean);
    let mut cycles = BTreeSet::new();
    for turn in 0..8 {
        let Some(mounted) = disk.mount("xfs", "nouuid") else { return };
        mounted.live_in(700, turn + 1);
        let running = disk.snapshot();
        assert!(!is_clean_by_logprint(&running), "turn {turn}");
        assert_everything(&running, "dirty log");
        assert!(matches!(probe(&running).unwrap().unwrap().condition, Condition::Dirty(_)), "turn {turn}");
        drop(mounted);
        assert!(is_clean_by_logprint(&disk), "turn {turn}");
        assert_eq!(used(&disk).unwrap().everything_because, None, "turn {turn}");
        let log = tool_text(PACKAGE, "xfs_logprint", &["-t", disk.path()]);
        cycles.extend(log.lines().filter(|line| line.contains("log tail")).map(str::to_owned));
    }
    assert!(cycles.len() > 4, "the head did not move: {cycles:?}");
}

#[test]
fn a_filesystem_that_was_shut_down_is_captured_whole() {
    let disk = made(128 * MIB, "");
    let Some(mounted) = disk.mount("xfs", "nouuid") else { return };
    mounted.live_in(300, 3);
    fs::write(mounted.path().join("late"), "late").unwrap();
    tool_text(PACKAGE, "xfs_io", &["-x", "-c", "shutdown -f", mounted.path().to_str().unwrap()]);
    drop(mounted);
    assert!(!is_clean_by_logprint(&disk));
    assert_everything(&disk, "dirty log");
    // Mounting once is the advice; it helps.
    drop(disk.mount("xfs", "nouuid"));
    assert_exact(&disk, true, "after recovery");
}

#[test]
fn other_devices_and_unfinished_repairs_mean_everything() {
    let (log, realtime) = (Disk::new(32 * MIB), Disk::new(32 * MIB));
    let disk = made(128 * MIB, &format!("-l logdev={},size=8m", log.path()));
    assert_everything(&disk, "another device");
    let disk = made(128 * MIB, &format!("-r rtdev={}", realtime.path()));
    assert_everything(&disk, "realtime");
    for (feature, word) in [("0x1b", "needing repair"), ("0x10b", "metadir"), ("0x80000003", "0x80000000")] {
        let disk = made(128 * MIB, "");
        let command = format!("write -d features_incompat {feature}");
        tool(PACKAGE, "xfs_db", &["-x", "-f", "-c", "sb 0", "-c", &command, disk.path()]);
        match used(&disk) {
            Ok(map) => assert!(map.everything_because.unwrap().contains(word)),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Unsupported, "{}", error.chain());
                assert!(error.chain().contains(word), "{}", error.chain());
            }
        }
    }
}

#[test]
fn parent_pointers_and_exchange_range_do_not_concern_the_map() {
    // mkfs.xfs 6.1 knows neither; the bits alone, with nothing that uses them, are what newer kernels mount.
    let disk = aged(128 * MIB, "");
    let before = used(&disk).unwrap().ranges.ranges().to_vec();
    tool(
        PACKAGE,
        "xfs_db",
        &["-x", "-f", "-c", "sb 0", "-c", "write -d features_incompat 0xcb", disk.path()],
    );
    assert!(probe(&disk).unwrap().unwrap().features.contains(&"parent".to_owned()));
    assert_eq!(used(&disk).unwrap().ranges.ranges(), before);
}

/// Where the metadata are that the map depends on, by their magic.
fn metadata(disk: &Disk) -> Vec<Range<u64>> {
    let mut places: Vec<Range<u64>> = std::iter::once(0..512).collect();
    let mut block = vec![0; 512];
    let (start, len) = log_place(disk);
    for at in (0..disk.size()).step_by(512) {
        disk.read_at(&mut block, at).unwrap();
        let tree =
            [b"AB3B", b"AB3C", b"ABTB", b"ABTC", b"XAGF"].iter().any(|magic| block.starts_with(*magic));
        if tree && !(start..start + len).contains(&at) {
            places.push(at..at + 256);
        }
        if (start..start + len).contains(&at) && block.starts_with(&[0xfe, 0xed, 0xba, 0xbe]) {
            places.push(at..at + 1024);
        }
    }
    places
}

fn log_place(disk: &Disk) -> (u64, u64) {
    let superblock = super::superblock::Superblock::read(disk).unwrap().unwrap();
    let (group, block, blocks) = superblock.log().unwrap();
    (superblock.byte_of(group, block), u64::from(blocks) * u64::from(superblock.block_size))
}

#[test]
fn damaged_metadata_never_lose_a_used_block() {
    let mut random = Random(11);
    let dirty = {
        let disk = made(128 * MIB, "");
        let mounted = disk.mount("xfs", "nouuid");
        mounted.iter().for_each(|mounted| mounted.live_in(300, 5));
        let running = disk.snapshot();
        mounted.map(|_| running)
    };
    let disks = [aged(128 * MIB, "-b size=1024"), aged_v4()];
    for disk in disks.iter().chain(&dirty) {
        let places = metadata(disk);
        let mut truth = used(disk).unwrap();
        for _ in 0..600 {
            let damaged = Damaged::flipped(disk, &places, &mut random);
            let _ = probe(&damaged);
            let Ok(mut map) = used(&damaged) else { continue };
            for range in truth.ranges.ranges() {
                assert!(map.ranges.covers(range.clone()), "{range:x?} is lost by {:x?}", damaged.patches);
            }
        }
    }
}

#[test]
fn contradictions_under_good_checksums_end_in_an_error_or_a_map() {
    let disk = aged(128 * MIB, "-b size=1024");
    let places = metadata(&disk);
    let mut random = Random(23);
    for _ in 0..1500 {
        let place = &places[random.below(places.len() as u64) as usize];
        let mut block = vec![0; 1024];
        disk.read_at(&mut block, place.start).unwrap();
        // Where the checksum is, and how long its structure.
        let (field, len) = match &block[..4] {
            b"XFSB" => (224, 512),
            b"XAGF" => (216, 512),
            _ => (52, 1024),
        };
        block.truncate(len);
        for _ in 0..random.below(3) + 1 {
            let reach = [64, 256][random.below(2) as usize];
            let at = random.below(reach) as usize;
            block[at] = match random.below(3) {
                0 => 0,
                1 => 0xff,
                _ => random.next() as u8,
            };
        }
        block[field..field + 4].fill(0);
        let sum = crc32c::crc32c(&block).to_le_bytes();
        block[field..field + 4].copy_from_slice(&sum);
        let damaged = Damaged { disk: &disk, patches: vec![(place.start, block)] };
        let _ = probe(&damaged);
        let _ = used(&damaged);
    }
}

#[test]
fn what_is_cut_off_or_something_else_is_no_filesystem_or_an_error() {
    let disk = made(128 * MIB, "");
    let mut first = vec![0; 64 << 10];
    disk.read_at(&mut first, 0).unwrap();
    for size in [0, 1, 511, 512, 4096, 65536, 64 * MIB, 128 * MIB - 4096] {
        let cut = Disk::new(size);
        cut.write(&first[..first.len().min(size as usize)], 0);
        assert!(!matches!(used(&cut), Ok(map) if map.everything_because.is_none()), "{size}");
        let _ = probe(&cut);
    }
    assert!(probe(&Disk::new(MIB)).unwrap().is_none());
}
