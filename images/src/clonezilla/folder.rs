// SPDX-License-Identifier: Apache-2.0
//! The files of an image directory, by the names that Clonezilla gives them.

use std::collections::BTreeSet;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::swap::Swap;
use crate::formats::partclone::Parts;
use crate::{Error, Result, ResultExt};

/// More of a small file is not read, in bytes. The longest is `sda-hidden-data-after-mbr`, usually 1 MiB.
const MOST: u64 = 64 << 20;
const MOST_FILES: usize = 200_000;

/// An image directory.
pub(super) struct Folder {
    path: PathBuf,
    names: BTreeSet<String>,
}

/// What there is of a device.
pub(super) enum Saved {
    Partclone(Parts),
    Swap,
    Nothing,
}

/// True if `path` is a directory that looks like an image of Clonezilla.
pub fn is_one(path: &Path) -> bool {
    path.is_dir() && ["parts", "disk", "clonezilla-img"].iter().any(|name| path.join(name).is_file())
}

impl Folder {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let doing = |error| Error::io("listing", error).path(path);
        let mut names = BTreeSet::new();
        for entry in std::fs::read_dir(path).map_err(doing)? {
            names.insert(entry.map_err(doing)?.file_name().to_string_lossy().into_owned());
            if names.len() > MOST_FILES {
                return Err(Error::unsupported("listing", "it has too many files").path(path));
            }
        }
        Ok(Self { path: path.to_owned(), names })
    }

    /// Images whose content is not to be had.
    pub(super) fn refuse_what_is_not_read(&self) -> Result<()> {
        let refuse = |because: &str| {
            Err(Error::unsupported(format!("opening {}", self.path.display()), because.to_owned()))
        };
        if ["ecryptfs.info", "gocryptfs.info"].iter().any(|name| self.names.contains(*name)) {
            return refuse("the image is encrypted: decrypt it with ocs-decrypt-img first");
        }
        let listed =
            |text: String| text.lines().any(|line| !line.trim().is_empty() && !line.starts_with('#'));
        if self.text("luks-dev.list")?.is_some_and(listed) {
            return refuse("its LUKS containers were open when it was saved, and are not put together here");
        }
        if self.names.contains("dmraid.table") {
            return refuse("it is of a BIOS RAID (dmraid.table)");
        }
        Ok(())
    }

    /// The disks that were saved, or whose partitions were.
    pub(super) fn disks(&self) -> Result<Vec<String>> {
        let mut disks: Vec<String> = Vec::new();
        let mut add = |name: &str| {
            if !disks.iter().any(|disk| disk == name) {
                disks.push(name.to_owned());
            }
        };
        let listed = self.text("disk")?.unwrap_or_default();
        listed.split_whitespace().for_each(&mut add);
        self.names.iter().filter_map(|name| name.strip_suffix("-pt.sf")).for_each(&mut add);
        Ok(disks)
    }

    /// What was saved of `device`: "sda1", "vg/root".
    pub(super) fn saved(&self, device: &str) -> Result<Saved> {
        let device = device.replace('/', "-");
        let prefix = format!("{device}.");
        for name in self.names.range(prefix.clone()..).take_while(|name| name.starts_with(&prefix)) {
            let rest = name.get(prefix.len()..).unwrap_or_default();
            let refuse = |what: &str| {
                Err(Error::unsupported(
                    "opening",
                    format!("{what} made it, which is not read here: save it again with partclone (Clonezilla's -q2)"),
                )
                .path(self.path.join(name)))
            };
            // "ext4-ptcl-img", "ext4-ptcl-img.gz", "ext4-ptcl-img.zst.aa"
            if let Some((_, end)) = rest.split_once("-ptcl-img") {
                let split = end.rsplit('.').next().is_some_and(|end| {
                    matches!(end.len(), 2 | 3)
                        && end.starts_with('a')
                        && end.bytes().all(|byte| byte.is_ascii_lowercase())
                });
                let first = end.ends_with(".aa") || end.ends_with(".aaa");
                if first || !split {
                    return Parts::of(&self.path.join(name)).map(Saved::Partclone);
                }
            } else if rest.starts_with("ntfs-img") {
                return refuse("ntfsclone");
            } else if rest.starts_with("dd-img") {
                return refuse("dd");
            } else if matches!(rest, "000" | "aa") || rest.starts_with("000.") {
                return refuse("partimage");
            }
        }
        Ok(if self.names.contains(&format!("swappt-{device}.info")) { Saved::Swap } else { Saved::Nothing })
    }

    pub(super) fn swap(&self, device: &str) -> Result<Swap> {
        let name = format!("swappt-{}.info", device.replace('/', "-"));
        Ok(Swap::parse(&self.text(&name)?.unwrap_or_default()))
    }

    /// A file's content; `None` where there is none.
    pub(super) fn bytes(&self, name: &str) -> Result<Option<Vec<u8>>> {
        if !self.names.contains(name) {
            return Ok(None);
        }
        let path = self.path.join(name);
        let doing = || format!("reading {}", path.display());
        let mut bytes = Vec::new();
        let file = std::fs::File::open(&path).doing(doing)?;
        file.take(MOST + 1).read_to_end(&mut bytes).doing(doing)?;
        if bytes.len() as u64 > MOST {
            return Err(Error::malformed(doing(), "it is larger than 64 MiB"));
        }
        Ok(Some(bytes))
    }

    pub(super) fn text(&self, name: &str) -> Result<Option<String>> {
        Ok(self.bytes(name)?.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
    }
}
