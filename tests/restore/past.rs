// SPDX-License-Identifier: Apache-2.0
//! Disks that had another life: full of 0xA5, with signatures where probing looks for them.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::disks::partition;
use crate::support::{MIB, signatures};

const KIB: u64 = 1 << 10;

/// Makes `path` a disk of `size` bytes with an old GPT and, in the whole disk and in each of `parts`, the marks of RAID, ZFS, LVM,
/// LUKS and filesystems.
pub(crate) fn disk(path: &Path, size: u64, parts: &[(u64, u64)]) {
    full(path, size);
    let file = File::options().write(true).open(path).unwrap();
    partition(path, "label: gpt\nstart=2048, size=8192\n");
    for (start, len) in parts.iter().copied().chain([(0, size)]) {
        for (offset, bytes) in marks(len) {
            let at = start + offset;
            // The old GPT stays whole: probing shall find it.
            let gpt = (446..34 * 512).contains(&at) || at + bytes.len() as u64 > size - 33 * 512;
            if !gpt || bytes.starts_with(b"Intel") {
                file.write_all_at(&bytes, at).unwrap();
            }
        }
    }
    let found = signatures(path);
    for old in ["zfs_member", "linux_raid_member", "isw_raid_member", "crypto_LUKS", "gpt"] {
        // ZFS takes no disk under 64 MiB.
        let expected = found.contains(old) || (old == "zfs_member" && size < 64 * MIB);
        assert!(expected, "the past lacks {old}: {found}");
    }
}

/// A disk of nothing but 0xA5.
pub(crate) fn full(path: &Path, size: u64) {
    let file = File::create(path).unwrap();
    let block = vec![0xA5; MIB as usize];
    for at in (0..size).step_by(block.len()) {
        file.write_all_at(&block[..(size - at).min(MIB) as usize], at).unwrap();
    }
}

/// Where libblkid's probes (libblkid/src/superblocks) look on a device of `size` bytes, and what they look for.
fn marks(size: u64) -> Vec<(u64, Vec<u8>)> {
    let md_1_0 = (size - 8 * KIB) & !(4 * KIB - 1);
    let mut found: Vec<(u64, Vec<u8>)> = vec![
        (size - 1024, b"Intel Raid ISM Cfg Sig. 1.1.00".to_vec()),
        (size / (64 * KIB) * (64 * KIB) - 64 * KIB, md_0_90()),
        (md_1_0, md_1(md_1_0, OLD)),
        (0, md_1(0, OLD)),
        (4 * KIB, md_1(4 * KIB, OLD)),
        (512, b"LABELONE\x01\0\0\0\0\0\0\0".to_vec()),
        (536, b"LVM2 001".to_vec()),
        (64 * KIB + 64, b"_BHRfS_M".to_vec()),
        (64 * MIB + 64, b"_BHRfS_M".to_vec()),
        (4 * KIB - 10, b"SWAPSPACE2".to_vec()),
        (64 * KIB + 52, b"ReIsEr2Fs".to_vec()),
        (32 * KIB + 1, b"CD001".to_vec()),
        (1024 + 56, b"\x53\xef".to_vec()),
    ];
    for offset in [16 * KIB, 32 * KIB, 4 * MIB] {
        let mut header = vec![0; 512];
        header[..8].copy_from_slice(b"SKUL\xba\xbe\x00\x02");
        header[256..264].copy_from_slice(&offset.to_be_bytes());
        found.push((offset, header));
    }
    let aligned = size / (256 * KIB) * (256 * KIB);
    for label in [0, 256 * KIB, aligned - 512 * KIB, aligned - 256 * KIB] {
        for slot in 0..128 {
            found.push((label + 128 * KIB + slot * KIB, 0x00ba_b10c_u64.to_le_bytes().to_vec()));
        }
    }
    found.retain(|(offset, bytes)| offset + bytes.len() as u64 <= size);
    found
}

/// As much of an md superblock of version 0.90 as probing reads (Linux, include/uapi/linux/raid/md_p.h).
fn md_0_90() -> Vec<u8> {
    let mut words = [0u32; 32];
    words[..8].copy_from_slice(&[0xa92b_4efc, 0, 90, 0, 0, 0x1234_5678, 0x6000_0000, 1]);
    words.into_iter().flat_map(u32::to_le_bytes).collect()
}

const OLD: &[u8; 16] = b"old array's uuid";

/// An md superblock of version 1.x at `offset`, of a mirror with two members.
pub(crate) fn md_1(offset: u64, uuid: &[u8; 16]) -> Vec<u8> {
    let mut bytes = vec![0u8; 260];
    let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
    put(0, &0xa92b_4efc_u32.to_le_bytes());
    put(4, &1u32.to_le_bytes());
    put(16, uuid);
    put(32, b"old:md0");
    put(72, &1u32.to_le_bytes());
    put(80, &16384u64.to_le_bytes());
    put(92, &2u32.to_le_bytes());
    put(128, &2048u64.to_le_bytes());
    put(136, &16384u64.to_le_bytes());
    put(144, &(offset / 512).to_le_bytes());
    put(220, &2u32.to_le_bytes());
    // All words are summed with their own field zero (drivers/md/md.c, calc_sb_1_csum); two roles of members follow.
    put(256, &[0, 0, 1, 0]);
    let sum: u64 =
        bytes.chunks_exact(4).map(|word| u64::from(u32::from_le_bytes(word.try_into().unwrap()))).sum();
    let folded = (sum & 0xffff_ffff) as u32 + (sum >> 32) as u32;
    bytes[216..220].copy_from_slice(&folded.to_le_bytes());
    bytes
}
