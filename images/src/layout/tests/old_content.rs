// SPDX-License-Identifier: Apache-2.0
//! Targets full of old signatures: after a restore, probing finds what the source has and nothing else.

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use super::*;
use crate::volume::lvm::tests::Disk;

const MIB: u64 = 1 << 20;
const SIZE: u64 = 150 * MIB;
/// A partition of the second source.
const PART: (u64, u64) = (MIB, 130 * MIB);

fn run(command: &str, package: &str) -> String {
    let output =
        Command::new("sh").arg("-c").arg(format!("PATH=$PATH:/usr/sbin:/sbin; {command}")).output().unwrap();
    assert!(
        output.status.success() || output.status.code() == Some(2),
        "{command} (Debian package {package}): {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What blkid and wipefs find on the whole of `file`, and blkid on its partition.
fn probe_all(file: &Path, partition: bool) -> String {
    let file = file.display();
    let place = format!("-O {} -S {}", PART.0, PART.1);
    let mut found = run(&format!("wipefs -n {file} | sed 's/source\\|target/disk/'"), "util-linux");
    for place in ["", &place].into_iter().take(1 + usize::from(partition)) {
        found += "\n--\n";
        found += &run(&format!("blkid -p -o export {place} {file} | grep -v DEVNAME; true"), "util-linux");
    }
    found
}

/// Writes a disk into a file, without the blank parts that most of it is.
fn save(path: &Path, disk: &[u8]) {
    let _ = std::fs::remove_file(path);
    let file = std::fs::File::create(path).unwrap();
    file.set_len(disk.len() as u64).unwrap();
    for (at, chunk) in (0..).step_by(65536).zip(disk.chunks(65536)) {
        if !crate::merkle::is_zero(chunk) {
            file.write_all_at(chunk, at).unwrap();
        }
    }
}

/// Old content that tools make on a device of any size: (command, package).
const MADE: [(&str, &str); 8] = [
    ("mkfs.btrfs -q -f", "btrfs-progs"),
    ("mkfs.xfs -q -f --unsupported", "xfsprogs"),
    ("mkfs.ext4 -q -F", "e2fsprogs"),
    ("mkfs.ntfs -q -F -f", "ntfs-3g"),
    ("mkfs.vfat -F 32", "dosfstools"),
    ("mkfs.exfat", "exfatprogs"),
    ("mdadm-0.90", ""),
    (
        "echo secret | cryptsetup luksFormat -q --type luks2 --pbkdf pbkdf2 --pbkdf-force-iterations 1000",
        "cryptsetup-bin",
    ),
];

/// Signatures that stand near the ends, written by hand into a device of `disk`, at `base` and `len` long.
fn brand(disk: &mut [u8], base: u64, len: u64) {
    let mut put = |at: u64, bytes: &[u8]| {
        let at = (base + at) as usize;
        disk[at..at + bytes.len()].copy_from_slice(bytes);
    };
    put(len - 1024, b"Intel Raid ISM Cfg Sig. 1.0.00\0");
    put(len - 512, b"$XIDE$");
    put(len - 11 * 512, b"\xf3\x16\x78\x5a");
    put(len - 3087 * 512, b"Promise Technology, Inc.");
    put(len - 63 * 512, b"Promise Technology, Inc.");
    put(len - 4096 + 60, b"\x83\x74\x02\x6b");
    put(0x20_0000, b"\x5e\xf1\xab\x2f");
    put(0x10_0000, b"\x0d\xd0\x01\xc0");
    put(0x1000 + 24, b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81");
    put(0x40_0040, b"_BHRfS_M");
    // Second LUKS2 headers.
    for at in crate::volume::luks::SECOND_OFFSETS {
        put(at, b"SKUL\xba\xbe\0\x02");
        put(at + 256, &at.to_be_bytes());
    }
    // ZFS: the head of a label's list of names and values.
    for label in [0, 256 * 1024, len / 262_144 * 262_144 - 524_288, len / 262_144 * 262_144 - 262_144] {
        put(label + 16 * 1024, b"\x01\x01\0\0\0\0\0\0\0\0\0\x01\0\0\0\x20\0\0\0\x20\0\0\0\x09pool_guid");
    }
}

#[test]
fn probing_a_restored_disk_finds_the_signatures_of_the_source_and_no_others() {
    let dir = tempfile::tempdir().unwrap();
    let (source_path, target_path, part_path) =
        (dir.path().join("source"), dir.path().join("target"), dir.path().join("part"));
    // Swap uses one page: nearly everything is a hole.
    for table in ["", "TABLE 1+130:fs"] {
        let file = std::fs::File::create(&source_path).unwrap();
        file.set_len(SIZE).unwrap();
        let source = source_path.display();
        let mut disk = if table.is_empty() {
            run(&format!("mkswap -U 11111111-2222-3333-4444-555555555555 {source}"), "util-linux");
            Disk(std::fs::read(&source_path).unwrap())
        } else {
            std::fs::File::create(&part_path).unwrap().set_len(PART.1).unwrap();
            run(&format!("mkswap -L part {}", part_path.display()), "util-linux");
            let mut disk = Disk(vec![0; SIZE as usize]);
            let part = std::fs::read(&part_path).unwrap();
            disk.0[PART.0 as usize..][..part.len()].copy_from_slice(&part);
            // An MBR with one Linux partition, and what the stub reader reads instead of it.
            disk.0[446..462].copy_from_slice(&[0, 0, 0, 0, 0x82, 0, 0, 0, 0, 8, 0, 0, 0, 0x10, 4, 0]);
            disk.0[510..512].copy_from_slice(&[0x55, 0xaa]);
            disk
        };
        save(&source_path, &disk.0);
        let want = probe_all(&source_path, !table.is_empty());
        assert!(want.contains("swap"), "{want}");
        disk.0[64..64 + table.len()].copy_from_slice(table.as_bytes());
        let layout = analyze(&[&disk], &Options::default(), STUB).unwrap().pop().unwrap();
        assert!(layout.extents.bytes(State::Hole) > 120 * MIB);

        for (index, (command, package)) in MADE.iter().enumerate() {
            let mut target = vec![0; SIZE as usize];
            if package.is_empty() {
                // A member's superblock of 0.90 has no checksum that blkid verifies.
                for (base, len) in [(0, SIZE), PART] {
                    let at = (base + len / 65536 * 65536 - 65536) as usize;
                    target[at..at + 16].copy_from_slice(b"\xfc\x4e\x2b\xa9\0\0\0\0\x5a\0\0\0\0\0\0\0");
                }
            } else {
                for (base, len) in [(0, SIZE), PART] {
                    std::fs::File::create(&part_path).unwrap().set_len(len).unwrap();
                    run(&format!("{command} {} >/dev/null", part_path.display()), package);
                    let made = std::fs::read(&part_path).unwrap();
                    // Without blanks, so that what was made first still speaks where it can.
                    for (start, chunk) in (0..).step_by(512).zip(made.chunks(512)) {
                        if chunk.iter().any(|byte| *byte != 0) {
                            target[base as usize + start..][..chunk.len()].copy_from_slice(chunk);
                        }
                    }
                }
            }
            if index % 2 == 0 {
                brand(&mut target, 0, SIZE);
                brand(&mut target, PART.0, PART.1);
            }
            save(&target_path, &target);
            assert_ne!(probe_all(&target_path, !table.is_empty()), want, "{command} left no signature");
            restore(&layout, &disk, &mut target);
            target[64..64 + table.len()].fill(0);
            save(&target_path, &target);
            assert_eq!(probe_all(&target_path, !table.is_empty()), want, "after {command}, {table:?}");
        }
    }
}
