// SPDX-License-Identifier: Apache-2.0
//! The superblock at 64 KiB: geometry, roots and feature bits.

use super::checksum::Checksum;
use crate::parse::{Bytes, read_vec};
use crate::{BlockSource, Error, Result};

/// Byte at which the superblock stands.
pub(super) const AT: u64 = 64 << 10;
/// Its length in bytes.
pub(super) const LEN: u64 = 4096;
/// Its copies, where the device reaches that far.
pub(super) const COPIES: [u64; 2] = [64 << 20, 256 << 30];
const READING: &str = "reading the btrfs superblock";
/// Where the array of system chunks stands, and how long it may be.
const CHUNK_ARRAY: (usize, usize) = (811, 2048);

/// What the reader needs of `struct btrfs_super_block`.
pub(super) struct Superblock {
    pub(super) checksum: Checksum,
    /// As people and `blkid` see it.
    pub(super) fsid: [u8; 16],
    /// As tree blocks bear it (differs after `btrfstune -m`).
    pub(super) metadata_uuid: [u8; 16],
    pub(super) generation: u64,
    pub(super) root: Root,
    pub(super) chunk_root: Root,
    log_root: u64,
    devices: u64,
    /// Allocation unit of data in bytes, 4096 to 65536.
    pub(super) sector_size: u32,
    /// Bytes of a tree block, `sector_size` to 65536.
    pub(super) node_size: u32,
    pub(super) device_id: u64,
    pub(super) device_bytes: u64,
    pub(super) label: [u8; 256],
    /// Keys and chunk items, enough to find the chunk tree.
    pub(super) system_chunks: Vec<u8>,
    flags: u64,
    incompat: u64,
    ro_compat: u64,
}

/// Where a tree begins.
#[derive(Debug, Clone, Copy)]
pub(super) struct Root {
    /// Logical address of its top block.
    pub(super) logical: u64,
    pub(super) level: u8,
    /// Transaction in which that block was written.
    pub(super) generation: u64,
}

impl Root {
    /// From a root item, behind its inode item of 160 bytes.
    pub(super) fn of_item(item: Bytes<'_>) -> Result<Self> {
        Ok(Self { generation: item.u64_le(160)?, logical: item.u64_le(176)?, level: item.u8(238)? })
    }
}

const FLAG_WRITTEN: u64 = 1 << 0;
const FLAG_RELOC: u64 = 1 << 1;
const FLAG_SEEDING: u64 = 1 << 32;

pub(super) const INCOMPAT_METADATA_UUID: u64 = 1 << 10;
const INCOMPAT_ZONED: u64 = 1 << 12;

/// A feature bit, its name, and whether it leaves alone what this reader relies on.
type Bit = (u64, &'static str, bool);

/// Names as `mkfs.btrfs -O` and `btrfs filesystem` use. A `true` says that the extent tree and the chunk tree stay as this
/// reader knows them (simple quotas add an inline reference to an extent item; raid56 and raid1c34 show in the chunks).
const INCOMPAT: &[Bit] = &[
    (1 << 0, "mixed-backref", true),
    (1 << 1, "default-subvol", true),
    (1 << 2, "mixed-bg", true),
    (1 << 3, "compress-lzo", true),
    (1 << 4, "compress-zstd", true),
    (1 << 5, "big-metadata", true),
    (1 << 6, "extref", true),
    (1 << 7, "raid56", true),
    (1 << 8, "skinny-metadata", true),
    (1 << 9, "no-holes", true),
    (INCOMPAT_METADATA_UUID, "metadata-uuid", true),
    (1 << 11, "raid1c34", true),
    (INCOMPAT_ZONED, "zoned", false),
    (1 << 13, "extent-tree-v2", false),
    (1 << 14, "raid-stripe-tree", false),
    (1 << 16, "squota", true),
];

const RO_COMPAT: &[Bit] = &[
    (1 << 0, "free-space-tree", true),
    (1 << 1, "free-space-tree-valid", true),
    (1 << 2, "verity", true),
    (1 << 3, "block-group-tree", true),
];

impl Superblock {
    /// `None` without the magic.
    pub(super) fn read(source: &dyn BlockSource) -> Result<Option<Self>> {
        if source.size() < AT + LEN {
            return Ok(None);
        }
        let data = read_vec(source, AT, LEN as usize)?;
        let raw = Bytes::new(&data, "the btrfs superblock");
        if raw.slice(64, 8)? != b"_BHRfS_M" {
            return Ok(None);
        }
        let Some(checksum) = Checksum::from_number(raw.u16_le(196)?) else {
            return Err(Error::unsupported(READING, format!("checksum type {}", raw.u16_le(196)?)).at(AT));
        };
        if !checksum.matches(&data) {
            return Err(bad("checksum mismatch"));
        }
        if raw.u64_le(48)? != AT {
            return Err(bad("it was written for another place"));
        }
        let superblock = Self::parse(raw, checksum)?;
        superblock.check()?;
        Ok(Some(superblock))
    }

    fn parse(raw: Bytes<'_>, checksum: Checksum) -> Result<Self> {
        let incompat = raw.u64_le(188)?;
        let fsid = array(raw, 32)?;
        let array_len = raw.u32_le(160)? as usize;
        if array_len > CHUNK_ARRAY.1 {
            return Err(bad(format!("{array_len} bytes of system chunks")));
        }
        let generation = raw.u64_le(72)?;
        Ok(Self {
            checksum,
            fsid,
            metadata_uuid: if incompat & INCOMPAT_METADATA_UUID != 0 { array(raw, 571)? } else { fsid },
            generation,
            root: Root { logical: raw.u64_le(80)?, level: raw.u8(198)?, generation },
            chunk_root: Root { logical: raw.u64_le(88)?, level: raw.u8(199)?, generation: raw.u64_le(164)? },
            log_root: raw.u64_le(96)?,
            devices: raw.u64_le(136)?,
            sector_size: raw.u32_le(144)?,
            node_size: raw.u32_le(148)?,
            device_id: raw.u64_le(201)?,
            device_bytes: raw.u64_le(209)?,
            label: array(raw, 299)?,
            system_chunks: raw.slice(CHUNK_ARRAY.0, array_len)?.to_vec(),
            flags: raw.u64_le(56)?,
            incompat,
            ro_compat: raw.u64_le(180)?,
        })
    }

    /// The limits of the kernel's `btrfs_validate_super`.
    fn check(&self) -> Result<()> {
        let size_fits = |size: u32| (4096..=65536).contains(&size) && size.is_power_of_two();
        if !size_fits(self.sector_size) || !size_fits(self.node_size) || self.node_size < self.sector_size {
            return Err(bad(format!("sector size {}, node size {}", self.sector_size, self.node_size)));
        }
        if self.device_bytes < 1 << 20 || self.device_bytes > i64::MAX as u64 {
            return Err(bad(format!("a device of {} bytes", self.device_bytes)));
        }
        Ok(())
    }

    /// What would change the filesystem at its next mount, if anything.
    pub(super) fn pending(&self) -> Option<String> {
        (self.log_root != 0).then(|| {
            "log to replay after a crash or power cut: mount it once, or boot the machine and shut it down".into()
        })
    }

    /// Why other devices may hold parts of it, or this one may be bound to its place.
    pub(super) fn other_devices(&self) -> Option<String> {
        if self.devices != 1 {
            return Some(format!("it spans {} devices", self.devices));
        }
        if self.device_id == 0 {
            return Some("this device is the unfinished target of a device replacement".into());
        }
        if self.flags & FLAG_SEEDING != 0 {
            return Some("it is a seed device".into());
        }
        (self.incompat & INCOMPAT_ZONED != 0).then(|| "it is zoned".into())
    }

    fn tables(&self) -> [(u64, &'static [Bit]); 2] {
        [(self.incompat, INCOMPAT), (self.ro_compat, RO_COMPAT)]
    }

    /// As `mkfs.btrfs` spells them, the checksum first.
    pub(super) fn feature_names(&self) -> Vec<String> {
        let mut names = vec![self.checksum.name().to_owned()];
        for (bits, table) in self.tables() {
            names.extend(
                table.iter().filter(|(bit, ..)| bits & bit != 0).map(|(_, name, _)| (*name).to_owned()),
            );
        }
        names
    }

    /// True if block group items have a tree of their own.
    pub(super) fn has_block_group_tree(&self) -> bool {
        self.ro_compat & 1 << 3 != 0
    }

    /// `Unsupported` where a bit is set whose effect on the trees is not known, or a conversion is unfinished.
    pub(super) fn refuse_unknown_features(&self) -> Result<()> {
        for (bits, table) in self.tables() {
            if let Some((_, name, _)) = table.iter().find(|(bit, _, fine)| bits & bit != 0 && !fine) {
                return Err(Error::unsupported(READING, format!("feature {name}")).at(AT));
            }
            let unknown = bits & !table.iter().fold(0, |known, (bit, ..)| known | bit);
            if unknown != 0 {
                return Err(Error::unsupported(READING, format!("feature bits {unknown:#x}")).at(AT));
            }
        }
        match self.flags & !(FLAG_WRITTEN | FLAG_RELOC) {
            0 => Ok(()),
            flags => Err(Error::unsupported(READING, format!("state flags {flags:#x}")).at(AT)),
        }
    }
}

pub(super) fn array<const N: usize>(raw: Bytes<'_>, offset: usize) -> Result<[u8; N]> {
    let mut out = [0; N];
    out.copy_from_slice(raw.slice(offset, N)?);
    Ok(out)
}

fn bad(because: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::malformed(READING, because).at(AT)
}
