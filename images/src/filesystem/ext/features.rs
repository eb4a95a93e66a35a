// SPDX-License-Identifier: Apache-2.0
//! Feature bits of the superblock: their names as `dumpe2fs` prints them, and which of them this reader knows.
//!
//! A bit in the incompatible or read-only-compatible word can change what a bitmap means (`bigalloc` did), so an
//! unknown one there means "not to be trusted". An unknown bit in the compatible word cannot: a kernel
//! that ignores it may still allocate from the bitmaps, so they hold everything in use.

pub(super) const HAS_JOURNAL: u32 = 0x4;
pub(super) const SPARSE_SUPER2: u32 = 0x200;
pub(super) const STABLE_INODES: u32 = 0x800;

pub(super) const NEEDS_RECOVERY: u32 = 0x4;
pub(super) const JOURNAL_DEV: u32 = 0x8;
pub(super) const META_BG: u32 = 0x10;
pub(super) const BITS_64: u32 = 0x80;
pub(super) const CSUM_SEED: u32 = 0x2000;
pub(super) const MMP: u32 = 0x100;
pub(super) const EA_INODE: u32 = 0x400;
pub(super) const ENCRYPT: u32 = 0x10000;
/// filetype, needs_recovery, journal_dev, meta_bg, extent, 64bit, mmp, flex_bg, ea_inode, metadata_csum_seed,
/// large_dir, inline_data, encrypt, casefold.
const KNOWN_INCOMPAT: u32 = 0x2 | 0x4 | 0x8 | 0x10 | 0x40 | 0x80 | 0x100 | 0x200 | 0x400 | 0x3e000;

pub(super) const SPARSE_SUPER: u32 = 0x1;
pub(super) const GDT_CSUM: u32 = 0x10;
pub(super) const BIGALLOC: u32 = 0x200;
pub(super) const METADATA_CSUM: u32 = 0x400;
/// All that mke2fs 1.47 can make, the kernel can set, and `read-only` and `shared_blocks`, which change no bitmap.
const KNOWN_RO_COMPAT: u32 = 0x7f | 0x100 | 0x200 | 0x400 | 0x1000 | 0x2000 | 0x4000 | 0x8000 | 0x10000;

/// What ext2 may have: filetype, meta_bg; sparse_super, large_file, btree_dir. ext3 may also need recovery.
const EXT2_INCOMPAT: u32 = 0x2 | META_BG;
const EXT3_INCOMPAT: u32 = EXT2_INCOMPAT | NEEDS_RECOVERY;
const EXT3_RO_COMPAT: u32 = 0x1 | 0x2 | 0x4;

const COMPAT_NAMES: &[(u32, &str)] = &[
    (0x1, "dir_prealloc"),
    (0x2, "imagic_inodes"),
    (0x4, "has_journal"),
    (0x8, "ext_attr"),
    (0x10, "resize_inode"),
    (0x20, "dir_index"),
    (0x40, "lazy_bg"),
    (0x100, "snapshot_bitmap"),
    (0x200, "sparse_super2"),
    (0x400, "fast_commit"),
    (0x800, "stable_inodes"),
    (0x1000, "orphan_file"),
];

const INCOMPAT_NAMES: &[(u32, &str)] = &[
    (0x1, "compression"),
    (0x2, "filetype"),
    (0x4, "needs_recovery"),
    (0x8, "journal_dev"),
    (0x10, "meta_bg"),
    (0x40, "extent"),
    (0x80, "64bit"),
    (0x100, "mmp"),
    (0x200, "flex_bg"),
    (0x400, "ea_inode"),
    (0x1000, "dirdata"),
    (0x2000, "metadata_csum_seed"),
    (0x4000, "large_dir"),
    (0x8000, "inline_data"),
    (0x10000, "encrypt"),
    (0x20000, "casefold"),
];

const RO_COMPAT_NAMES: &[(u32, &str)] = &[
    (0x1, "sparse_super"),
    (0x2, "large_file"),
    (0x8, "huge_file"),
    (0x10, "uninit_bg"),
    (0x20, "dir_nlink"),
    (0x40, "extra_isize"),
    (0x100, "quota"),
    (0x200, "bigalloc"),
    (0x400, "metadata_csum"),
    (0x800, "replica"),
    (0x1000, "read-only"),
    (0x2000, "project"),
    (0x4000, "shared_blocks"),
    (0x8000, "verity"),
    (0x10000, "orphan_present"),
];

/// The three words of feature bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Features {
    pub(super) compat: u32,
    pub(super) incompat: u32,
    pub(super) ro_compat: u32,
}

/// Which of the three drivers of old would have mounted it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Generation {
    Ext2,
    Ext3,
    Ext4,
    JournalDevice,
}

impl Features {
    /// The rule by which `blkid` tells the kinds apart (libblkid, superblocks/ext.c).
    pub(super) fn generation(self) -> Generation {
        if self.incompat & JOURNAL_DEV != 0 {
            Generation::JournalDevice
        } else if self.ro_compat & !EXT3_RO_COMPAT != 0 || self.incompat & !EXT3_INCOMPAT != 0 {
            Generation::Ext4
        } else if self.compat & HAS_JOURNAL != 0 {
            Generation::Ext3
        } else {
            Generation::Ext2
        }
    }

    /// Names of the bits for which this reader cannot vouch.
    pub(super) fn unknown(self) -> Vec<String> {
        let mut names = named(self.incompat & !KNOWN_INCOMPAT, 'I', INCOMPAT_NAMES);
        names.extend(named(self.ro_compat & !KNOWN_RO_COMPAT, 'R', RO_COMPAT_NAMES));
        names
    }

    /// All names, in the order in which `dumpe2fs` prints them.
    pub(super) fn names(self) -> Vec<String> {
        let mut names = named(self.compat, 'C', COMPAT_NAMES);
        names.extend(named(self.incompat, 'I', INCOMPAT_NAMES));
        names.extend(named(self.ro_compat, 'R', RO_COMPAT_NAMES));
        names
    }
}

/// A bit without a name prints as `FEATURE_C14`, as e2fsprogs has it.
fn named(word: u32, letter: char, table: &[(u32, &str)]) -> Vec<String> {
    (0..32u32)
        .filter(|bit| word >> bit & 1 != 0)
        .map(|bit| match table.iter().find(|(mask, _)| *mask == 1 << bit) {
            Some((_, name)) => (*name).to_owned(),
            None => format!("FEATURE_{letter}{bit}"),
        })
        .collect()
}
