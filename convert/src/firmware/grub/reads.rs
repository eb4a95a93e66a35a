// SPDX-License-Identifier: Apache-2.0
//! What a GRUB can read: features of filesystems by the version whose driver learned them.
//!
//! GRUB's drivers refuse a filesystem with an incompatible feature that they do not know, whether or not a file on it uses it
//! (`grub-core/fs/ext2.c`: `EXT2_DRIVER_SUPPORTED_INCOMPAT`; `fs/xfs.c`: `XFS_SB_FEAT_INCOMPAT_SUPPORTED`). Features are named
//! as the filesystem's own tools do. The rows for Debian's revisions name the
//! lowest that was held against its own driver (grub-fstest).

use unmoor_images::filesystem::FilesystemKind;

/// A version of GRUB: upstream's, and the revision of Debian's package or of one that derives from it, since Debian patches
/// drivers within a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// 2.06 is (2, 6).
    pub upstream: (u32, u32),
    /// The number behind the first dash of "2.06-13+deb12u2"; 0 where there is none.
    pub debian: u32,
}

impl Version {
    /// From "2.06-13+deb12u2", "2.12", "2.02~beta2-22".
    pub fn parse(text: &str) -> Option<Self> {
        let (upstream, revision) = text.split_once('-').unwrap_or((text, ""));
        let digits = |text: &str| -> Option<u32> {
            text.split(|letter: char| !letter.is_ascii_digit()).next()?.parse().ok()
        };
        let (major, minor) = upstream.split_once('.')?;
        Some(Self { upstream: (digits(major)?, digits(minor)?), debian: digits(revision).unwrap_or(0) })
    }

    fn is_at_least(self, needed: &Since) -> bool {
        match *needed {
            Since::Never => false,
            Since::Upstream(upstream) => self.upstream >= upstream,
            Since::Debian(upstream, revision, later) => {
                self.upstream >= later || (self.upstream == upstream && self.debian >= revision)
            }
        }
    }
}

/// When a driver learned something.
#[derive(Debug, Clone, Copy)]
enum Since {
    Never,
    Upstream((u32, u32)),
    /// Debian's revision of a version, and the upstream version.
    Debian((u32, u32), u32, (u32, u32)),
}

const EXT: &[(&str, Since)] = &[
    ("64bit", Since::Upstream((2, 0))),
    ("meta_bg", Since::Upstream((2, 0))),
    ("mmp", Since::Upstream((2, 2))),
    ("encrypt", Since::Upstream((2, 4))),
    ("metadata_csum_seed", Since::Debian((2, 6), 13, (2, 12))),
    ("large_dir", Since::Debian((2, 6), 13, (2, 12))),
    ("bigalloc", Since::Never),
    ("inline_data", Since::Never),
    ("ea_inode", Since::Never),
    ("casefold", Since::Never),
    ("dirdata", Since::Never),
    ("compression", Since::Never),
    ("journal_dev", Since::Never),
];

const XFS: &[(&str, Since)] = &[
    ("crc", Since::Upstream((2, 2))),
    ("sparse", Since::Upstream((2, 4))),
    ("bigtime", Since::Debian((2, 6), 13, (2, 12))),
    ("needsrepair", Since::Debian((2, 6), 13, (2, 12))),
    ("nrext64", Since::Debian((2, 6), 13, (2, 12))),
    ("exchange", Since::Upstream((2, 14))),
    ("parent", Since::Upstream((2, 14))),
    ("metadir", Since::Upstream((2, 14))),
    ("zoned", Since::Never),
];

/// Features of a filesystem that `version` does not read, with the version that does; empty where it reads it.
pub fn unreadable(
    kind: FilesystemKind,
    features: &[String],
    version: Version,
) -> Vec<(String, Option<String>)> {
    let table = match kind {
        FilesystemKind::Ext2 | FilesystemKind::Ext3 | FilesystemKind::Ext4 => EXT,
        FilesystemKind::Xfs => XFS,
        FilesystemKind::Btrfs | FilesystemKind::Fat12 | FilesystemKind::Fat16 | FilesystemKind::Fat32 => &[],
        other => return vec![(other.name().to_owned(), None)],
    };
    let missing = table.iter().filter(|(name, since)| {
        features.iter().any(|feature| feature == name) && !version.is_at_least(since)
    });
    missing
        .map(|(name, since)| {
            let since = match *since {
                Since::Never => None,
                Since::Upstream((major, minor)) | Since::Debian(.., (major, minor)) => {
                    Some(format!("{major}.{minor:02}"))
                }
            };
            ((*name).to_owned(), since)
        })
        .collect()
}
