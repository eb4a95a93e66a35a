// SPDX-License-Identifier: Apache-2.0
//! A disk that has had another life: full of 0xA5, with the signatures of RAID, ZFS, LVM, file systems and partition tables
//! where probing looks for them. After a restore none of them may be found.

use crate::run::{Result, While};
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// Fills the new file `path` with `size` bytes of old content.
pub(crate) fn fill(path: &Path, size: u64) -> Result {
    let mut file = File::create(path).while_doing(format_args!("creating {}", path.display()))?;
    let block = vec![0xA5; 4 << 20];
    let mut left = size;
    while left > 0 {
        let length = usize::try_from(left).map_or(block.len(), |left| left.min(block.len()));
        file.write_all(&block[..length]).while_doing(format_args!("filling {}", path.display()))?;
        left -= length as u64;
    }
    // The old disk as a whole, and parts of it at the usual starts of partitions, up to the end and to the middle.
    for (start, end) in [(0, size), (MIB, size), (MIB, size / 2), (257 * MIB, size), (769 * MIB, size)] {
        if end <= size && start + 16 * MIB < end {
            for (offset, signature) in signatures(end - start) {
                file.write_all_at(&signature, start + offset)
                    .while_doing(format_args!("writing a signature at {:#x}", start + offset))?;
            }
        }
    }
    Ok(())
}

/// Offsets and bytes of signatures on a device of `size` bytes, as libblkid's probes (libblkid/src/superblocks) look for them.
fn signatures(size: u64) -> Vec<(u64, Vec<u8>)> {
    let mut found: Vec<(u64, Vec<u8>)> = vec![
        // Intel's RAID metadata lies in the second-last sector.
        (size - 1024, b"Intel Raid ISM Cfg Sig. 1.1.00".to_vec()),
        // md 0.90 in the last 64 KiB-aligned 64 KiB, 1.0 in the last 8 KiB, 1.1 at the start, 1.2 at 4 KiB.
        (size / (64 * KIB) * (64 * KIB) - 64 * KIB, md_0_90()),
        ((size - 8 * KIB) & !(4 * KIB - 1), md_1((size - 8 * KIB) & !(4 * KIB - 1))),
        (4 * KIB, md_1(4 * KIB)),
        // LVM's label in the second sector.
        (512, b"LABELONE\x01\0\0\0\0\0\0\0".to_vec()),
        (536, b"LVM2 001".to_vec()),
        // btrfs' copies of its superblock.
        (64 * KIB + 64, b"_BHRfS_M".to_vec()),
        (64 * MIB + 64, b"_BHRfS_M".to_vec()),
        // The second header of LUKS2, at two of its possible places.
        (16 * KIB, b"SKUL\xba\xbe\x00\x02".to_vec()),
        (32 * KIB, b"SKUL\xba\xbe\x00\x02".to_vec()),
        // XFS, swap, FAT, ReiserFS, JFS, ISO 9660.
        (4 * KIB - 10, b"SWAPSPACE2".to_vec()),
        (64 * KIB + 52, b"ReIsEr2Fs".to_vec()),
        (32 * KIB + 1, b"CD001".to_vec()),
        // The protective MBR and both headers of an old GPT.
        (510, vec![0x55, 0xAA]),
        (size - 512, b"EFI PART\0\0\x01\0\x5c\0\0\0".to_vec()),
    ];
    // ZFS keeps four labels of 256 KiB, each with an array of uberblocks in its second half.
    let aligned = size / (256 * KIB) * (256 * KIB);
    for label in [0, 256 * KIB, aligned - 512 * KIB, aligned - 256 * KIB] {
        for slot in 0..128 {
            found.push((label + 128 * KIB + slot * KIB, 0x00ba_b10c_u64.to_le_bytes().to_vec()));
        }
    }
    found.retain(|(offset, bytes)| offset + bytes.len() as u64 <= size);
    found
}

/// An md superblock of version 0.90 (Linux, include/uapi/linux/raid/md_p.h), as much as probing reads.
fn md_0_90() -> Vec<u8> {
    let mut words = [0u32; 32];
    words[..8].copy_from_slice(&[0xa92b_4efc, 0, 90, 0, 0, 0x1234_5678, 0x6000_0000, 1]);
    words.into_iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// An md superblock of version 1.x that says it lies at `offset`.
fn md_1(offset: u64) -> Vec<u8> {
    let mut bytes = vec![0u8; 256];
    bytes[..4].copy_from_slice(&0xa92b_4efc_u32.to_le_bytes());
    bytes[4] = 1;
    bytes[16..32].copy_from_slice(b"old array's uuid");
    bytes[32..39].copy_from_slice(b"old:md0");
    bytes[144..152].copy_from_slice(&(offset / 512).to_le_bytes());
    // One word is summed as it stands, with its own field zero (Linux, drivers/md/md.c, calc_sb_1_csum).
    let sum: u64 = bytes
        .chunks_exact(4)
        .map(|word| u64::from(u32::from_le_bytes([word[0], word[1], word[2], word[3]])))
        .sum();
    let folded = u32::try_from((sum & 0xffff_ffff) + (sum >> 32)).unwrap_or(0);
    bytes[216..220].copy_from_slice(&folded.to_le_bytes());
    bytes
}
