// SPDX-License-Identifier: Apache-2.0
//! Which kernel mounts a filesystem: its feature bits, and the Linux release that learned each.
//!
//! The releases are those whose source first accepts the bit without an option of its build: fs/ext4/ext4.h and fs/ext4/super.c,
//! fs/xfs/libxfs/xfs_format.h, fs/btrfs/fs.h and fs/btrfs/ctree.h. Experimental ones count: they mount.

use serde::Serialize;
use unmoor_images::parse::{Bytes, read_vec};
use unmoor_images::{BlockSource, Result};

/// A bit, its name, and the release that knows it; (0, 0) where no release does.
type Row = (u64, &'static str, (u32, u32));

const EXT_INCOMPAT: &[Row] = &[
    (0x1, "compression", (0, 0)),
    (0x2, "filetype", (2, 6)),
    (0x4, "needs_recovery", (2, 6)),
    (0x8, "journal_dev", (2, 6)),
    (0x10, "meta_bg", (2, 6)),
    (0x40, "extent", (2, 6)),
    (0x80, "64bit", (2, 6)),
    (0x100, "mmp", (3, 0)),
    (0x200, "flex_bg", (2, 6)),
    (0x400, "ea_inode", (4, 13)),
    (0x1000, "dirdata", (0, 0)),
    (0x2000, "metadata_csum_seed", (4, 4)),
    (0x4000, "large_dir", (4, 13)),
    (0x8000, "inline_data", (3, 8)),
    (0x1_0000, "encrypt", (4, 1)),
    (0x2_0000, "casefold", (5, 2)),
];
const EXT_RO_COMPAT: &[Row] = &[
    (0x1, "sparse_super", (2, 6)),
    (0x2, "large_file", (2, 6)),
    (0x8, "huge_file", (2, 6)),
    (0x10, "uninit_bg", (2, 6)),
    (0x20, "dir_nlink", (2, 6)),
    (0x40, "extra_isize", (2, 6)),
    (0x100, "quota", (3, 6)),
    (0x200, "bigalloc", (3, 2)),
    (0x400, "metadata_csum", (3, 6)),
    (0x1000, "read-only", (3, 19)),
    (0x2000, "project", (4, 5)),
    (0x4000, "shared_blocks", (0, 0)),
    (0x8000, "verity", (5, 4)),
    (0x1_0000, "orphan_present", (5, 15)),
];
const XFS_INCOMPAT: &[Row] = &[
    (0x1, "ftype", (3, 10)),
    (0x2, "sparse inodes", (4, 2)),
    (0x4, "meta_uuid", (4, 3)),
    (0x8, "bigtime", (5, 10)),
    (0x10, "needsrepair", (0, 0)),
    (0x20, "nrext64", (5, 19)),
    (0x40, "exchange", (6, 10)),
    (0x80, "parent", (6, 10)),
    (0x100, "metadir", (6, 13)),
    (0x200, "zoned", (6, 15)),
    (0x400, "zone gaps", (6, 15)),
];
const XFS_RO_COMPAT: &[Row] = &[
    (0x1, "finobt", (3, 16)),
    (0x2, "rmapbt", (4, 8)),
    (0x4, "reflink", (4, 9)),
    (0x8, "inobtcount", (5, 10)),
];
const BTRFS_INCOMPAT: &[Row] = &[
    (0x1, "mixed-backref", (2, 6)),
    (0x2, "default-subvol", (2, 6)),
    (0x4, "mixed-bg", (2, 6)),
    (0x8, "compress-lzo", (2, 6)),
    (0x10, "compress-zstd", (4, 14)),
    (0x20, "big-metadata", (3, 4)),
    (0x40, "extref", (3, 7)),
    (0x80, "raid56", (3, 9)),
    (0x100, "skinny-metadata", (3, 10)),
    (0x200, "no-holes", (3, 14)),
    (0x400, "metadata-uuid", (5, 0)),
    (0x800, "raid1c34", (5, 5)),
    (0x1000, "zoned", (5, 12)),
    (0x2000, "extent-tree-v2", (0, 0)),
    (0x4000, "raid-stripe-tree", (6, 7)),
    (0x1_0000, "squota", (6, 7)),
];
const BTRFS_RO_COMPAT: &[Row] = &[
    (0x1, "free-space-tree", (4, 5)),
    (0x2, "free-space-tree-valid", (4, 9)),
    (0x4, "verity", (5, 15)),
    (0x8, "block-group-tree", (6, 1)),
];

/// What a filesystem asks of a kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Needs {
    /// "ext4", "xfs", "btrfs".
    pub filesystem: &'static str,
    /// The oldest Linux that mounts it for reading, as major and minor.
    pub to_read: (u32, u32),
    /// The oldest that mounts it for writing.
    pub to_write: (u32, u32),
    /// The features that those two come from.
    pub because: Vec<&'static str>,
    /// Features that no Linux known here mounts.
    pub unknown: Vec<String>,
}

impl Needs {
    /// Why the kernel `release` ("6.1.0-32-amd64") does not mount it for writing, or for reading; `None` where it does.
    pub fn refusal(&self, release: &str, writing: bool) -> Option<String> {
        if !self.unknown.is_empty() {
            return Some(format!(
                "this {} has features that no kernel known to unmoor mounts: {}",
                self.filesystem,
                self.unknown.join(", ")
            ));
        }
        let wanted = if writing { self.to_write } else { self.to_read };
        (number(release) < wanted).then(|| {
            format!(
                "this {} has features ({}) for which Linux {}.{} or newer is needed, and this is {release}: make a rescue \
                 environment from a newer kernel (unmoor rescue build --kernel ...)",
                self.filesystem,
                self.because.join(", "),
                wanted.0,
                wanted.1
            )
        })
    }
}

/// The release of the kernel that this runs on.
pub fn running_release() -> String {
    std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned()
}

/// Major and minor number of a release.
fn number(release: &str) -> (u32, u32) {
    let mut numbers =
        release.split(|char: char| !char.is_ascii_digit()).map(|text| text.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// What the filesystem on `source` needs; `None` where it is none of ext2/3/4, XFS and btrfs, whose every feature is as old as any
/// kernel that is still in use.
///
/// # Errors
///
/// `Io` of the source.
pub fn needs(source: &dyn BlockSource) -> Result<Option<Needs>> {
    const BTRFS: u64 = 64 << 10;
    let head = if source.size() >= 2048 { read_vec(source, 0, 2048)? } else { return Ok(None) };
    let head = Bytes::new(&head, "a superblock");
    if head.slice(0, 4)? == b"XFSB" {
        // Version 5 in the low four bits of sb_versionnum; only that has the fields.
        if head.u16_be(100)? & 15 < 5 {
            return Ok(Some(of("xfs", &[], &[], 0, 0)));
        }
        let (ro_compat, incompat) = (u64::from(head.u32_be(212)?), u64::from(head.u32_be(216)?));
        return Ok(Some(of("xfs", XFS_INCOMPAT, XFS_RO_COMPAT, incompat, ro_compat)));
    }
    if head.u16_le(1024 + 0x38)? == 0xef53 {
        let (incompat, ro_compat) =
            (u64::from(head.u32_le(1024 + 0x60)?), u64::from(head.u32_le(1024 + 0x64)?));
        return Ok(Some(of("ext4", EXT_INCOMPAT, EXT_RO_COMPAT, incompat, ro_compat)));
    }
    if source.size() >= BTRFS + 4096 {
        let head = read_vec(source, BTRFS, 4096)?;
        let head = Bytes::new(&head, "a superblock");
        if head.slice(0x40, 8)? == b"_BHRfS_M" {
            let (ro_compat, incompat) = (head.u64_le(0xb4)?, head.u64_le(0xbc)?);
            return Ok(Some(of("btrfs", BTRFS_INCOMPAT, BTRFS_RO_COMPAT, incompat, ro_compat)));
        }
    }
    Ok(None)
}

fn of(filesystem: &'static str, incompat: &[Row], ro_compat: &[Row], has: u64, has_ro: u64) -> Needs {
    let mut needs =
        Needs { filesystem, to_read: (2, 6), to_write: (2, 6), because: Vec::new(), unknown: Vec::new() };
    for (rows, bits, for_reading) in [(incompat, has, true), (ro_compat, has_ro, false)] {
        for bit in (0..64).map(|place| 1_u64 << place).filter(|bit| bits & bit != 0) {
            match rows.iter().find(|(known, _, _)| *known == bit) {
                Some((_, name, release)) if *release != (0, 0) => {
                    let before = needs.to_write;
                    if for_reading {
                        needs.to_read = needs.to_read.max(*release);
                    }
                    needs.to_write = before.max(*release);
                    if *release > before {
                        needs.because = vec![name];
                    } else if *release == before && *release != (2, 6) {
                        needs.because.push(name);
                    }
                }
                Some((_, name, _)) => needs.unknown.push((*name).to_owned()),
                None => needs
                    .unknown
                    .push(format!("{} {bit:#x}", if for_reading { "incompat" } else { "ro_compat" })),
            }
        }
    }
    needs
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use std::process::Command;
    use unmoor_images::adapt::Memory;

    /// A filesystem made by its own tool, and what is needed for it.
    fn made(size: u64, program: &str, arguments: &[&str]) -> Needs {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        std::fs::File::create(&path).unwrap().set_len(size).unwrap();
        let done = Command::new(program).args(arguments).arg(&path).output();
        let done = done.unwrap_or_else(|error| unreachable!("{program} is needed for this test: {error}"));
        assert!(done.status.success(), "{program}: {}", String::from_utf8_lossy(&done.stderr));
        needs(&Memory::new(std::fs::read(&path).unwrap())).unwrap().unwrap()
    }

    #[test]
    fn what_mkfs_makes_needs_the_kernel_that_its_manual_names() {
        let ext = |features: &str| made(16 << 20, "mke2fs", &["-q", "-F", "-t", "ext4", "-O", features]);
        assert_eq!(ext("none,filetype,sparse_super").to_write, (2, 6));
        let casefold = ext("casefold");
        assert_eq!((casefold.to_read, casefold.because.as_slice()), ((5, 2), ["casefold"].as_slice()));
        // ext4(5): metadata_csum and bigalloc make it unwritable, not unreadable, for older kernels.
        let checked = ext("^64bit,metadata_csum,^metadata_csum_seed,^orphan_file");
        assert_eq!((checked.to_read, checked.to_write), ((2, 6), (3, 6)));
        let xfs = made(320 << 20, "mkfs.xfs", &["-q", "-m", "bigtime=1,inobtcount=1"]);
        assert!(xfs.to_read >= (5, 10) && xfs.unknown.is_empty(), "{xfs:?}");
        let btrfs = made(128 << 20, "mkfs.btrfs", &["-q", "-O", "no-holes", "-R", "free-space-tree"]);
        assert_eq!((btrfs.to_read, btrfs.to_write), ((3, 14), (4, 9)));
    }

    #[test]
    fn a_refusal_names_the_kernel_and_the_features() {
        let needs = of("ext4", EXT_INCOMPAT, EXT_RO_COMPAT, 0x2_0000, 0x1_0000);
        assert_eq!(needs.refusal("6.1.0-32-amd64", true), None);
        let refusal = needs.refusal("5.10.0-30-amd64", true).unwrap();
        assert!(refusal.contains("orphan_present") && refusal.contains("5.15"), "{refusal}");
        assert_eq!(needs.refusal("5.10.0-30-amd64", false), None);
        assert!(of("xfs", XFS_INCOMPAT, XFS_RO_COMPAT, 1 << 40, 0).refusal("9.9", false).is_some());
    }

    #[test]
    fn arbitrary_bytes_are_no_filesystem_and_no_panic() {
        for size in [0, 100, 2048, 64 << 10, (64 << 10) + 4096] {
            for byte in [0, 0xff] {
                assert_eq!(needs(&Memory::new(vec![byte; size])).unwrap(), None);
            }
        }
    }
}
