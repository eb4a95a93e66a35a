// SPDX-License-Identifier: Apache-2.0
//! Against btrfs-progs (`dump-tree`, `btrfs check`) and the host's kernel.

use std::fs::{self, File};
use std::io::Write;
use std::ops::Range;

use super::{checksum, probe, superblock, used};
use crate::filesystem::loops::{Damaged, Disk, Random, tool, tool_text};
use crate::filesystem::{Condition, FilesystemKind};
use crate::{BlockSource, ErrorKind, RangeSet};

const PACKAGE: &str = "btrfs-progs";
const MIB: u64 = 1 << 20;

fn made(size: u64, options: &str) -> Disk {
    let disk = Disk::new(size);
    let mut arguments = vec!["-f", "-q"];
    arguments.extend(options.split_whitespace());
    arguments.push(disk.path());
    tool_text(PACKAGE, "mkfs.btrfs", &arguments);
    disk
}

/// As [`made`] and lived in, with a snapshot of a subvolume that changed since.
fn aged(size: u64, options: &str, mount_options: &str) -> Disk {
    let disk = made(size, options);
    let Some(mounted) = disk.mount("btrfs", mount_options) else { return disk };
    let (first, second) = (mounted.path().join("first"), mounted.path().join("second"));
    tool_text(PACKAGE, "btrfs", &["subvolume", "create", first.to_str().unwrap()]);
    fs::write(first.join("text"), "all work and no play\n".repeat(60_000)).unwrap();
    fs::write(first.join("small"), "inline").unwrap();
    tool_text(
        PACKAGE,
        "btrfs",
        &["subvolume", "snapshot", first.to_str().unwrap(), second.to_str().unwrap()],
    );
    mounted.live_in(700, 9);
    let mut text = File::options().append(true).open(first.join("text")).unwrap();
    text.write_all(&Random(1).bytes(300_000)).unwrap();
    drop(text);
    mounted.sync();
    drop(mounted);
    disk
}

/// The extents by `dump-tree`, through the chunks by `dump-tree`.
fn extents_by_dump_tree(disk: &Disk) -> RangeSet {
    let dump =
        |tree: &str| tool_text(PACKAGE, "btrfs", &["inspect-internal", "dump-tree", "-t", tree, disk.path()]);
    let number = |line: &str, after: &str| -> Option<u64> {
        line.split_once(after)?.1.split(|letter: char| !letter.is_ascii_digit()).next()?.parse().ok()
    };
    let node_size = u64::from(superblock::Superblock::read(disk).unwrap().unwrap().node_size);
    // Logical address, length, places.
    let mut chunks: Vec<(u64, u64, Vec<u64>)> = Vec::new();
    for line in dump("chunk").lines() {
        if let Some(logical) = number(line, "CHUNK_ITEM ") {
            chunks.push((logical, 0, Vec::new()));
        } else if let (Some(chunk), Some(len)) = (chunks.last_mut(), number(line, "\tlength ")) {
            chunk.1 = len;
        } else if let (Some(chunk), Some(place)) = (chunks.last_mut(), number(line, "devid 1 offset ")) {
            chunk.2.push(place);
        }
    }
    let mut extents = RangeSet::new();
    for line in dump("extent").lines() {
        let Some((_, key)) = line.split_once(" key (") else { continue };
        let len = match (number(key, " EXTENT_ITEM "), key.contains(" METADATA_ITEM ")) {
            (Some(len), _) => len,
            (None, true) => node_size,
            (None, false) => continue,
        };
        let logical = number(key, "").unwrap();
        let chunk = chunks.iter().find(|chunk| (chunk.0..chunk.0 + chunk.1).contains(&logical)).unwrap();
        for place in &chunk.2 {
            extents.insert(place + (logical - chunk.0)..place + (logical - chunk.0) + len);
        }
    }
    extents
}

fn check(disk: &Disk) -> (Option<i32>, String) {
    let output = tool(PACKAGE, "btrfs", &["check", "--readonly", "--check-data-csum", disk.path()]);
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&text).replace(disk.path(), "DISK"))
}

/// Equal to `dump-tree`'s extents and the fixed places; a copy of only the used bytes satisfies the checker and the kernel.
fn assert_exact(disk: &Disk, mounts: bool, name: &str) {
    let mut map = used(disk).unwrap_or_else(|error| panic!("{name}: {}", error.chain()));
    assert_eq!((map.everything_because, map.warnings), (None, Vec::new()), "{name}");
    let mut truth = extents_by_dump_tree(disk);
    truth.insert(0..MIB);
    truth.insert(64 * MIB..64 * MIB + 4096);
    truth.truncate(disk.size());
    assert_eq!(map.ranges.ranges(), truth.ranges(), "{name}");

    let copy = disk.only(&mut map.ranges);
    let checked = check(disk);
    assert_eq!(checked.0, Some(0), "{name}: {}", checked.1);
    assert_eq!(check(&copy), checked, "{name}");
    if mounts && let Some(mounted) = disk.mount("btrfs", "ro") {
        let files = mounted.listing();
        drop(mounted);
        assert_eq!(copy.mount("btrfs", "ro").unwrap().listing(), files, "{name}");
    }
}

#[test]
fn used_bytes_are_exactly_the_extents_dump_tree_shows() {
    // Options of mkfs, size in MiB, options of mount; none where current kernels do not mount it.
    let cases = [
        ("", 256, Some("compress=zstd")),
        ("-m single -d single -O ^no-holes", 160, Some("nodatacow")),
        ("-m dup -d dup --csum xxhash", 320, Some("compress=lzo")),
        ("--mixed -n 4096", 96, Some("autodefrag")),
        ("-n 4096 --csum sha256", 256, Some("compress=zlib")),
        ("-n 65536 --csum blake2", 256, Some("noatime")),
        ("-R ^free-space-tree", 256, Some("nospace_cache")),
        ("-O ^skinny-metadata", 256, Some("discard=async")),
        ("-s 65536 -n 65536", 256, None),
    ];
    for (options, size, mount) in cases {
        let disk = match mount {
            Some(mount) => aged(size * MIB, options, mount),
            None => made(size * MIB, options),
        };
        assert_exact(&disk, mount.is_some(), options);
    }
}

/// By mkfs.btrfs 6.14 (`--mixed -n 4096 -O block-group-tree`; Debian 12's 6.2 reads, but does not make it), mounted by
/// Linux 6.18, 400 files written, two of three deleted, a snapshot.
fn with_block_group_tree() -> Disk {
    let data = zstd::decode_all(&include_bytes!("block-group-tree.img.zst")[..]).unwrap();
    let disk = Disk::new(data.len() as u64);
    for (index, block) in
        data.chunks(4096).enumerate().filter(|(_, block)| block.iter().any(|byte| *byte != 0))
    {
        disk.write(block, index as u64 * 4096);
    }
    disk
}

#[test]
fn block_groups_may_have_a_tree_of_their_own() {
    let disk = with_block_group_tree();
    assert!(probe(&disk).unwrap().unwrap().features.contains(&"block-group-tree".to_owned()));
    assert_exact(&disk, true, "block-group-tree");
}

#[test]
fn facts_are_those_the_tools_print() {
    let disk = made(192 * MIB, "-L somewhere --csum xxhash");
    let blkid = |field: &str| {
        tool_text("util-linux", "blkid", &["-p", "-o", "value", "-s", field, disk.path()]).trim().to_owned()
    };
    let facts = probe(&disk).unwrap().unwrap();
    assert_eq!((facts.kind, &facts.condition), (FilesystemKind::Btrfs, &Condition::Clean));
    assert_eq!(facts.uuid, Some(blkid("UUID")));
    assert_eq!(facts.label.as_deref(), Some("somewhere"));
    assert_eq!((facts.block_size, facts.size_bytes), (4096, 192 * MIB));
    let names = ["xxhash", "extref", "skinny-metadata", "no-holes", "free-space-tree"];
    assert!(names.iter().all(|name| facts.features.iter().any(|feature| feature == name)), "{facts:?}");
    // A new UUID that leaves the old one in the tree blocks.
    tool_text(PACKAGE, "btrfstune", &["-f", "-m", disk.path()]);
    assert_eq!(probe(&disk).unwrap().unwrap().uuid, Some(blkid("UUID")));
    assert_exact(&disk, true, "metadata_uuid");
}

/// Everything, and a reason with this word.
fn assert_everything(disk: &dyn BlockSource, word: &str) {
    let mut map = used(disk).unwrap();
    let why = map.everything_because.unwrap_or_default();
    assert!(why.contains(word), "{why:?} lacks {word:?}");
    assert!(map.ranges.covers(0..disk.size()));
}

#[test]
fn a_log_tree_means_everything_until_it_is_replayed() {
    let disk = made(192 * MIB, "");
    let Some(mounted) = disk.mount("btrfs", "commit=300") else { return };
    mounted.live_in(200, 2);
    let mut file = File::create(mounted.path().join("synced")).unwrap();
    // Committed first: an fsync that needs a new chunk commits all instead of logging.
    file.write_all(&Random(4).bytes(9000)).unwrap();
    mounted.sync();
    file.write_all(&Random(5).bytes(9000)).unwrap();
    file.sync_all().unwrap();
    let crashed = disk.snapshot();
    drop(file);
    drop(mounted);
    assert_everything(&crashed, "log to replay");
    assert!(matches!(probe(&crashed).unwrap().unwrap().condition, Condition::Dirty(_)));
    drop(crashed.mount("btrfs", "noatime"));
    assert_exact(&crashed, true, "after the replay");
    // A committed state without a log is the whole truth, mounted or not.
    let Some(mounted) = disk.mount("btrfs", "noatime") else { return };
    mounted.live_in(200, 3);
    let running = disk.snapshot();
    drop(mounted);
    assert_exact(&running, true, "mounted");
}

/// Changes the superblock and gives it a good checksum.
fn patch_superblock(disk: &Disk, at: usize, value: &[u8]) {
    let mut block = vec![0; superblock::LEN as usize];
    disk.read_at(&mut block, superblock::AT).unwrap();
    block[at..at + value.len()].copy_from_slice(value);
    seal(&mut block);
    disk.write(&block, superblock::AT);
}

fn seal(block: &mut [u8]) {
    let sum = crc32c::crc32c(&block[checksum::FIELD..]).to_le_bytes();
    block[..4].copy_from_slice(&sum);
}

#[test]
fn other_devices_profiles_and_unknown_features_are_not_mapped() {
    let (first, second) = (Disk::new(192 * MIB), Disk::new(192 * MIB));
    tool_text(
        PACKAGE,
        "mkfs.btrfs",
        &["-f", "-q", "-d", "single", "-m", "raid1", first.path(), second.path()],
    );
    assert_everything(&first, "2 devices");
    assert_everything(&second, "2 devices");
    assert_everything(&made(192 * MIB, "-d raid0 -m single"), "raid");
    let seed = made(192 * MIB, "");
    tool_text(PACKAGE, "btrfstune", &["-f", "-S", "1", seed.path()]);
    assert_everything(&seed, "seed");
    let zoned = made(192 * MIB, "");
    patch_superblock(&zoned, 189, &[0x10 | 0x03]);
    assert_everything(&zoned, "zoned");
    // extent-tree-v2, raid-stripe-tree, a bit of the future, a checksum type of the future.
    for (at, value) in [(189, 0x23), (189, 0x43), (191, 0x80), (183, 0x80), (61, 0x01)] {
        let disk = made(192 * MIB, "");
        patch_superblock(&disk, at, &[value]);
        let error = used(&disk).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{}", error.chain());
    }
}

/// Superblock and tree blocks, by the filesystem UUID that each bears.
fn metadata(disk: &Disk) -> Vec<Range<u64>> {
    let superblock = superblock::Superblock::read(disk).unwrap().unwrap();
    let mut places: Vec<Range<u64>> =
        std::iter::once(superblock::AT..superblock::AT + superblock::LEN).collect();
    let mut header = [0; 48];
    for at in (MIB..disk.size()).step_by(4096) {
        disk.read_at(&mut header, at).unwrap();
        if header[32..48] == superblock.metadata_uuid {
            places.push(at..at + u64::from(superblock.node_size));
        }
    }
    places
}

#[test]
fn damaged_metadata_never_lose_a_used_byte() {
    let mut random = Random(17);
    let duplicated = aged(192 * MIB, "-n 4096 -m dup", "noatime");
    let single = aged(192 * MIB, "-n 4096 -m single --csum xxhash", "noatime");
    for (disk, copies) in [(duplicated, 2), (single, 1), (with_block_group_tree(), 1)] {
        let places = metadata(&disk);
        let mut truth = used(&disk).unwrap();
        let mut warned = 0;
        for _ in 0..500 {
            let damaged = Damaged::flipped(&disk, &places, &mut random);
            let _ = probe(&damaged);
            let Ok(mut map) = used(&damaged) else { continue };
            warned += map.warnings.len();
            for range in truth.ranges.ranges() {
                assert!(map.ranges.covers(range.clone()), "{range:x?} is lost by {:x?}", damaged.patches);
            }
        }
        assert_eq!(warned > 0, copies == 2, "the second copy serves where there is one");
    }
}

#[test]
fn contradictions_under_good_checksums_end_in_an_error_or_a_map() {
    let disk = aged(192 * MIB, "-n 4096 -m single", "noatime");
    let places = metadata(&disk);
    let mut random = Random(29);
    for _ in 0..3000 {
        let place = &places[random.below(places.len() as u64) as usize];
        let mut block = vec![0; 4096];
        disk.read_at(&mut block, place.start).unwrap();
        for _ in 0..random.below(3) + 1 {
            // Half of them among header and first items.
            let reach = [200, 4032][random.below(2) as usize];
            let at = 64 + random.below(reach) as usize;
            block[at] = match random.below(3) {
                0 => 0,
                1 => 0xff,
                _ => random.next() as u8,
            };
        }
        seal(&mut block);
        let damaged = Damaged { disk: &disk, patches: vec![(place.start, block)] };
        let _ = probe(&damaged);
        let _ = used(&damaged);
    }
}

#[test]
fn what_is_cut_off_or_something_else_is_no_filesystem_or_an_error() {
    let disk = made(192 * MIB, "");
    let mut first = vec![0; 256 << 10];
    disk.read_at(&mut first, 0).unwrap();
    for size in [0, 1, 65536, 65536 + 4095, 65536 + 4096, MIB, 64 * MIB, 192 * MIB - 4096] {
        let cut = Disk::new(size);
        cut.write(&first[..first.len().min(size as usize)], 0);
        assert!(used(&cut).is_err(), "{size}");
        let _ = probe(&cut);
    }
    assert!(probe(&Disk::new(MIB)).unwrap().is_none());
}
