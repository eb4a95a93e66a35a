// SPDX-License-Identifier: Apache-2.0
#![allow(clippy::unwrap_used, reason = "tests")]
//! Against each filesystem's own checker, blkid, and the host's kernel.

use super::change;
use crate::filesystem::loops::{Damaged, Disk, Random, tool, tool_text};
use crate::{BlockSource, ErrorKind};

const MIB: u64 = 1 << 20;
const NEW: [u8; 16] =
    [0x5e, 0xed, 0xba, 0x5e, 0x00, 0x11, 0x42, 0x22, 0x83, 0x33, 0xfe, 0xdc, 0xba, 0x98, 0x76, 0x54];

fn blkid(disk: &Disk, tag: &str) -> String {
    tool_text("util-linux", "blkid", &["-p", "-o", "value", "-s", tag, disk.path()]).trim().to_owned()
}

/// Changes the UUID, and holds what blkid says before and after against what the change says.
fn renamed(disk: &Disk, new: &[u8; 16]) -> Vec<&'static str> {
    let label = blkid(disk, "LABEL");
    let change = change(disk, new).unwrap();
    assert_eq!(blkid(disk, "UUID"), change.old);
    for (at, bytes) in &change.writes {
        disk.write(bytes, *at);
    }
    assert_eq!((blkid(disk, "UUID"), blkid(disk, "LABEL")), (change.new.clone(), label));
    assert_ne!(change.old, change.new);
    change.adds
}

fn check(program: &str, package: &str, arguments: &[&str], disk: &Disk) {
    let output = tool(package, program, &[arguments, &[disk.path()]].concat());
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {}: {said}", output.status);
    for word in ["mismatch", "bad ", "ERROR", "orphan"] {
        assert!(!said.contains(word), "{program}: {said}");
    }
}

/// Lives in a filesystem, renames it there and back, and finds all content each time.
fn there_and_back(disk: &Disk, kind: &str, options: &str, checked: &dyn Fn(&Disk)) -> Vec<&'static str> {
    let before = disk.mount(kind, options).map(|mounted| {
        mounted.live_in(300, 11);
        mounted.listing()
    });
    let old = crate::filesystem::probe(disk).unwrap().unwrap().uuid.unwrap();
    let adds = renamed(disk, &NEW);
    checked(disk);
    let check_content = || {
        if let (Some(before), Some(mounted)) = (&before, disk.mount(kind, options)) {
            assert!(mounted.listing() == *before);
        }
        checked(disk);
    };
    check_content();
    let hex: Vec<u8> = old.bytes().filter(|byte| *byte != b'-').collect();
    let mut bytes = [0; 16];
    for (to, pair) in bytes.iter_mut().zip(hex.chunks(2)) {
        *to = u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    }
    renamed(disk, &bytes);
    assert_eq!(blkid(disk, "UUID"), old);
    check_content();
    adds
}

fn ext(size: u64, arguments: &str) -> Disk {
    let disk = Disk::new(size);
    let mut all = vec!["-q", "-F", "-L", "of-ext"];
    all.extend(arguments.split_whitespace());
    all.push(disk.path());
    tool_text("e2fsprogs", "mke2fs", &all);
    disk
}

fn e2fsck(disk: &Disk) {
    check("e2fsck", "e2fsprogs", &["-f", "-n"], disk);
    // Every copy of the superblock opens, with its checksum, and so do the descriptors behind it. e2fsck is no judge of what else they
    // say: mke2fs writes them before it is done.
    let first = tool_text("e2fsprogs", "dumpe2fs", &[disk.path()]);
    let field = |name: &str| {
        let line = first.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().to_owned()
    };
    let (size, uuid) = (format!("blocksize={}", field("Block size:")), field("Filesystem UUID:"));
    let backups = first.lines().filter_map(|line| line.trim().strip_prefix("Backup superblock at "));
    for place in backups.map(|rest| rest.split([',', ' ']).next().unwrap()) {
        let place = format!("superblock={place}");
        let said = tool_text("e2fsprogs", "dumpe2fs", &["-h", "-o", &place, "-o", &size, disk.path()]);
        assert!(said.contains(&uuid), "{place}: {said}");
        // Stops before the groups where bitmaps have checksums, which a copy does not keep in step.
        let output = tool("e2fsprogs", "dumpe2fs", &["-o", &place, "-o", &size, disk.path()]);
        let groups = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(!groups.contains("EXPECTED"), "{place}: {groups}");
    }
}

#[test]
fn ext_of_every_generation_has_its_new_uuid_in_all_copies() {
    let seed = vec!["metadata_csum_seed"];
    for (arguments, adds) in [
        ("-t ext2", vec![]),
        ("-t ext3", vec![]),
        ("-t ext4 -O metadata_csum,^metadata_csum_seed,64bit", seed.clone()),
        ("-t ext4 -O metadata_csum,^metadata_csum_seed,^64bit -b 1024", seed.clone()),
        ("-t ext4 -O metadata_csum,metadata_csum_seed", vec![]),
        ("-t ext4 -O ^metadata_csum,uninit_bg,^64bit -b 1024 -g 4096", vec![]),
        ("-t ext4 -O ^metadata_csum,uninit_bg,64bit", vec![]),
        ("-t ext4 -O ^metadata_csum,uninit_bg,^64bit,meta_bg,^resize_inode -b 1024 -g 1024", vec![]),
        ("-t ext4 -O metadata_csum,^metadata_csum_seed,bigalloc,inline_data", seed.clone()),
        ("-t ext4 -O metadata_csum,^metadata_csum_seed,sparse_super2,orphan_file", seed.clone()),
        ("-t ext4 -O metadata_csum,^metadata_csum_seed,ea_inode,mmp", seed),
    ] {
        let disk = ext(64 * MIB, arguments);
        let kind = arguments.split_whitespace().nth(1).unwrap();
        let got = there_and_back(&disk, kind, "rw", &e2fsck);
        assert_eq!(got, adds, "{arguments}");
    }
    // Not every kernel mounts these.
    let disk = ext(64 * MIB, "-t ext4 -O metadata_csum,^metadata_csum_seed,quota,project");
    assert_eq!(renamed(&disk, &NEW), ["metadata_csum_seed"]);
    e2fsck(&disk);
}

#[test]
fn ext_with_a_seed_is_what_tune2fs_makes_of_it() {
    let disk = ext(64 * MIB, "-t ext4 -O metadata_csum,^metadata_csum_seed");
    let other = disk.snapshot();
    renamed(&disk, &NEW);
    let uuid = blkid(&disk, "UUID");
    tool_text("e2fsprogs", "tune2fs", &["-O", "metadata_csum_seed", other.path()]);
    tool_text("e2fsprogs", "tune2fs", &["-U", &uuid, other.path()]);
    let facts = |disk: &Disk| {
        let said = tool_text("e2fsprogs", "dumpe2fs", &["-h", disk.path()]);
        let wanted = ["Filesystem UUID", "Filesystem features", "Checksum seed"];
        said.lines()
            .filter(|line| wanted.iter().any(|name| line.starts_with(name)))
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect::<Vec<_>>()
    };
    assert_eq!(facts(&disk), facts(&other));
    assert_eq!(facts(&disk).len(), 3);
}

#[test]
fn ext_that_is_bound_to_its_uuid_or_not_in_order_keeps_it() {
    let disk = ext(64 * MIB, "-t ext4 -O encrypt,stable_inodes");
    assert!(change(&disk, &NEW).unwrap_err().chain().contains("encrypted"));

    let disk = ext(64 * MIB, "-t ext4 -O ^metadata_csum,ea_inode");
    assert!(change(&disk, &NEW).unwrap_err().chain().contains("ea_inode"));

    let disk = ext(64 * MIB, "-t ext4");
    let script = "feature needs_recovery";
    tool_text("e2fsprogs", "debugfs", &["-w", "-R", script, disk.path()]);
    let error = change(&disk, &NEW).unwrap_err();
    assert!(
        error.kind() == ErrorKind::Refused && error.chain().contains("mount it once"),
        "{}",
        error.chain()
    );

    let journal = Disk::new(16 * MIB);
    tool_text("e2fsprogs", "mke2fs", &["-q", "-F", "-O", "journal_dev", "-b", "4096", journal.path()]);
    assert_eq!(change(&journal, &NEW).unwrap_err().kind(), ErrorKind::Refused);
}

fn xfs(size: u64, options: &str) -> Disk {
    let disk = Disk::new(size);
    let mut arguments = vec!["--unsupported", "-f", "-q", "-L", "of-xfs"];
    arguments.extend(options.split_whitespace());
    arguments.push(disk.path());
    tool_text("xfsprogs", "mkfs.xfs", &arguments);
    disk
}

fn xfs_repair(disk: &Disk) {
    let output = tool("xfsprogs", "xfs_repair", &["-n", "-f", disk.path()]);
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {said}", output.status);
    for word in ["mismatched uuid", "bad ", "ERROR", "would "] {
        assert!(!said.contains(word), "{word}: {said}");
    }
    // Every copy of the superblock says the same.
    let groups =
        tool_text("xfsprogs", "xfs_db", &["-r", "-f", "-c", "sb 0", "-c", "print agcount", disk.path()]);
    let groups: u32 = groups.trim().rsplit(' ').next().unwrap().parse().unwrap();
    let uuids: Vec<String> = (0..groups)
        .map(|group| {
            let place = format!("sb {group}");
            tool_text("xfsprogs", "xfs_db", &["-r", "-f", "-c", &place, "-c", "print uuid", disk.path()])
        })
        .collect();
    assert!(uuids.iter().all(|uuid| uuid == &uuids[0]), "{uuids:?}");
}

#[test]
fn xfs_of_version_5_keeps_its_first_uuid_within_and_mounts_by_the_new_one() {
    for options in [
        "-m crc=1,bigtime=0",
        "-m crc=1 -s size=4096 -d agcount=7",
        "-m crc=1,reflink=1,rmapbt=1 -b size=1024",
    ] {
        let disk = xfs(128 * MIB, options);
        // Without "nouuid": the kernel holds the log's record against the superblock.
        let adds = there_and_back(&disk, "xfs", "rw", &xfs_repair);
        assert_eq!(adds, ["meta_uuid"], "{options}");
        let flags = tool_text("xfsprogs", "xfs_db", &["-r", "-f", "-c", "version", disk.path()]);
        assert!(!flags.to_lowercase().contains("meta_uuid"), "back to the first UUID: {flags}");
    }
}

#[test]
fn xfs_gets_a_second_new_uuid_as_it_got_the_first() {
    let disk = xfs(128 * MIB, "-m crc=1");
    if let Some(mounted) = disk.mount("xfs", "rw") {
        mounted.live_in(200, 3);
    }
    assert_eq!(renamed(&disk, &NEW), ["meta_uuid"]);
    let mut other = NEW;
    other[0] = 1;
    assert!(renamed(&disk, &other).is_empty());
    xfs_repair(&disk);
    if let Some(mounted) = disk.mount("xfs", "rw") {
        mounted.live_in(200, 4);
    }
    xfs_repair(&disk);
}

#[test]
fn xfs_of_version_4_has_it_in_superblocks_and_log_alone() {
    let disk = xfs(128 * MIB, "-m crc=0");
    assert!(renamed(&disk, &NEW).is_empty());
    xfs_repair(&disk);
}

#[test]
fn xfs_with_a_dirty_log_is_refused() {
    let disk = xfs(128 * MIB, "-m crc=1");
    let Some(mounted) = disk.mount("xfs", "rw") else { return };
    mounted.live_in(50, 5);
    let crashed = disk.snapshot();
    drop(mounted);
    assert_eq!(change(&crashed, &NEW).unwrap_err().kind(), ErrorKind::Refused);
}

#[test]
fn btrfs_keeps_its_first_uuid_within_whatever_its_checksum() {
    for options in ["--csum crc32c", "--csum xxhash", "--csum sha256", "--csum blake2 -m single"] {
        let disk = Disk::new(160 * MIB);
        let mut arguments = vec!["-q", "-L", "of-btrfs"];
        arguments.extend(options.split_whitespace());
        arguments.push(disk.path());
        tool_text("btrfs-progs", "mkfs.btrfs", &arguments);
        let checked = |disk: &Disk| {
            check("btrfs", "btrfs-progs", &["check", "--readonly"], disk);
            // The copy at 64 MiB is as good as the first.
            check("btrfs", "btrfs-progs", &["check", "--readonly", "-s", "1"], disk);
        };
        let adds = there_and_back(&disk, "btrfs", "rw", &checked);
        assert_eq!(adds, ["metadata-uuid"], "{options}");
    }
}

#[test]
fn btrfs_on_several_devices_is_refused() {
    let (one, two) = (Disk::new(160 * MIB), Disk::new(160 * MIB));
    tool_text("btrfs-progs", "mkfs.btrfs", &["-q", "-d", "single", "-m", "raid1", one.path(), two.path()]);
    let error = change(&one, &NEW).unwrap_err();
    assert!(error.chain().contains("spans 2 devices"), "{}", error.chain());
}

#[test]
fn fat_has_its_serial_number_in_both_boot_sectors() {
    for bits in ["12", "16", "32"] {
        let disk = Disk::new(if bits == "12" { 4 * MIB } else { 40 * MIB });
        tool_text("dosfstools", "mkfs.fat", &["-F", bits, "-n", "OF-FAT", disk.path()]);
        assert!(renamed(&disk, &NEW).is_empty());
        check("fsck.fat", "dosfstools", &["-n"], &disk);
        if bits == "32" {
            let (mut first, mut copy) = ([0; 512], [0; 512]);
            disk.read_at(&mut first, 0).unwrap();
            disk.read_at(&mut copy, 6 * 512).unwrap();
            assert!(first == copy);
        }
    }
}

#[test]
fn swap_is_what_mkswap_would_have_made() {
    let (disk, wanted) = (Disk::new(4 * MIB), Disk::new(4 * MIB));
    tool_text("util-linux", "mkswap", &["-L", "of-swap", disk.path()]);
    renamed(&disk, &NEW);
    let uuid = blkid(&disk, "UUID");
    tool_text("util-linux", "mkswap", &["-L", "of-swap", "-U", &uuid, wanted.path()]);
    let all = |disk: &Disk| {
        let mut bytes = vec![0; 8192];
        disk.read_at(&mut bytes, 0).unwrap();
        bytes
    };
    assert!(all(&disk) == all(&wanted));
    disk.write(b"S1SUSPEND\0", 4086);
    assert_eq!(change(&disk, &NEW).unwrap_err().kind(), ErrorKind::Refused);
}

#[test]
fn what_is_damaged_is_an_error_and_never_a_panic() {
    let btrfs = Disk::new(160 * MIB);
    tool_text("btrfs-progs", "mkfs.btrfs", &["-q", btrfs.path()]);
    let fat = Disk::new(40 * MIB);
    tool_text("dosfstools", "mkfs.fat", &["-F", "32", fat.path()]);
    let all = [
        ext(8 * MIB, "-t ext4 -O ^metadata_csum,uninit_bg"),
        ext(8 * MIB, "-t ext4"),
        xfs(64 * MIB, ""),
        btrfs,
        fat,
    ];
    let mut random = Random(77);
    for disk in &all {
        // Superblocks and what stands beside them.
        let places = [0..4096, 64 << 10..68 << 10];
        for _ in 0..400 {
            let _ = change(&Damaged::flipped(disk, &places, &mut random), &NEW);
        }
    }
}
