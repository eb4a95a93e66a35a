// SPDX-License-Identifier: Apache-2.0
//! FAT volumes made anew: of nothing, or of another volume's files, names, times, label and serial number.
//!
//! ```text
//!   old volume --tree::read--+
//!                            +--> Tree: directories (raw entries), files (new bytes, or runs of the old volume)
//!   put, remove -----names---+             |
//!   length, sector size --geometry---------+--write--> Made: boot sectors, FATs, directories; new content; moves of old content
//! ```
//!
//! The content of files that stay is never held in memory. A volume is not changed in place: it is small, and one made
//! anew has no fragments and no leftovers.

mod geometry;
mod names;
mod paths;
#[cfg(test)]
mod tests;
mod tree;
mod write;

use super::{Boot, FilesystemKind};
use crate::parse::read_vec;
use crate::{BlockSource, Error, Result};
use geometry::{Geometry, Shape, put};
pub use names::Stamp;
use tree::{Child, Tree};

/// Content of a file that is taken from the old volume. Bytes, from the start of each volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Move {
    /// First byte on the new volume.
    pub to: u64,
    /// First byte on the old one.
    pub from: u64,
    /// Length.
    pub len: u64,
}

/// A volume's bytes. What is in none of the lists is zero below `structures`, and free above.
#[derive(Debug, Clone, Default)]
pub struct Made {
    /// Boot sectors, tables, directories: first byte, bytes, what it is. Nothing in them that is all zero.
    pub patches: Vec<(u64, Vec<u8>, &'static str)>,
    /// Content of new files: first byte, bytes.
    pub content: Vec<(u64, Vec<u8>)>,
    /// Content of old files.
    pub moves: Vec<Move>,
    /// Length of boot sectors, tables and the fixed root directory in bytes: free clusters lie behind.
    pub structures: u64,
}

impl Made {
    /// All writes that make the volume on a disk with any content: (first byte from the volume's start, bytes), in order of
    /// address. `old` is where moved content comes from.
    ///
    /// # Errors
    ///
    /// `Io`; `Malformed` where the structures or a file are larger than 64 MiB.
    pub fn writes(&self, old: Option<&dyn BlockSource>) -> Result<Vec<(u64, Vec<u8>)>> {
        const MOST: u64 = 64 << 20;
        if self.structures > MOST {
            return Err(Error::malformed("making a FAT volume", "its tables are larger than 64 MiB"));
        }
        let mut head = vec![0; self.structures as usize];
        let mut writes = Vec::new();
        for (at, bytes, _) in &self.patches {
            if *at < self.structures {
                put(&mut head, *at as usize, bytes);
            } else {
                writes.push((*at, bytes.clone()));
            }
        }
        writes.push((0, head));
        writes.extend(self.content.iter().cloned());
        for part in &self.moves {
            let old = old.ok_or_else(|| Error::malformed("making a FAT volume", "it has no old volume"))?;
            writes.push((part.to, read_vec(old, part.from, part.len as usize)?));
        }
        writes.sort_by_key(|(at, _)| *at);
        Ok(writes)
    }
}

/// A volume in the making.
#[derive(Debug)]
pub struct Volume {
    /// The boot sector that becomes the new one.
    boot: Vec<u8>,
    media: u8,
    shape: Shape,
    tree: Tree,
}

impl Volume {
    /// What is at byte 0 of `source`; `None` where that is no FAT volume. Its directories are read.
    ///
    /// # Errors
    ///
    /// `Malformed` for broken structures; `Io`.
    pub fn read(source: &dyn BlockSource) -> Result<Option<Self>> {
        let Some(boot) = Boot::read(source)? else { return Ok(None) };
        let tree = tree::read(source, &boot)?;
        let raw = read_vec(source, 0, 512)?;
        Ok(Some(Self { boot: raw, media: boot.media, shape: Shape::from(&boot), tree }))
    }

    /// An empty FAT32 volume; `label` has at most eleven characters of ASCII, and is put in upper case.
    pub fn new(label: &str, serial: u32, time: Stamp) -> Self {
        let mut padded = [b' '; 11];
        let label = label.bytes().filter(|byte| byte.is_ascii_graphic() || *byte == b' ');
        padded.iter_mut().zip(label).for_each(|(to, byte)| *to = byte.to_ascii_uppercase());
        let is_named = padded != [b' '; 11];
        let mut boot = vec![0; 512];
        // A jump to itself: there is no boot code for a BIOS here.
        put(&mut boot, 0, &[0xEB, 0xFE, 0x90]);
        put(&mut boot, 3, b"mkfs.fat");
        put(&mut boot, 21, &[0xF8]);
        // 63 sectors a track and 255 heads, as everybody says since LBA; first hard disk.
        put(&mut boot, 24, &[63, 0, 255, 0]);
        put(&mut boot, 64, &[0x80, 0, 0x29]);
        put(&mut boot, 67, &serial.to_le_bytes());
        put(&mut boot, 71, if is_named { &padded } else { b"NO NAME    " });
        let mut tree = Tree::empty();
        if is_named {
            tree.set_label(&padded, time);
        }
        // Small clusters: they become larger where there would be too many.
        let shape = Shape { kind: FilesystemKind::Fat32, cluster_size: 512, fats: 2, root_size: 0 };
        Self { boot, media: 0xF8, shape, tree }
    }

    /// Puts a file at `path` ("EFI/BOOT/BOOTX64.EFI"; case does not matter), with the directories that lead there. An existing
    /// file keeps its name, its attributes and the time at which it was made.
    ///
    /// # Errors
    ///
    /// `Usage` for a name that FAT cannot have, for a directory where the file is to be and the reverse; `Refused` for more
    /// than 4 GiB.
    pub fn put(&mut self, path: &str, content: Vec<u8>, time: Stamp) -> Result<()> {
        let size = u32::try_from(content.len()).map_err(|_| {
            Error::refused(format!("putting {path} on a FAT volume"), "it has more than 4 GiB")
        })?;
        let child = if content.is_empty() { Child::Nothing } else { Child::Bytes(content) };
        self.tree.put(path, child, size, time)
    }

    /// Makes a directory, and those that lead there.
    ///
    /// # Errors
    ///
    /// As [`put`](Self::put).
    pub fn make_directory(&mut self, path: &str, time: Stamp) -> Result<()> {
        self.tree.make_directories(&paths::parts(path), time).map(|_| ())
    }

    /// Whether there is a file or directory at `path`.
    pub fn contains(&self, path: &str) -> bool {
        self.tree.find(path).is_some()
    }

    /// Names in the directory at `path`; empty where there is none.
    pub fn list(&self, path: &str) -> Vec<String> {
        self.tree.list(path)
    }

    /// The content of the file at `path`, at most 64 MiB; `source` is the volume that was read.
    ///
    /// # Errors
    ///
    /// `Io`; `Malformed` where it is larger.
    pub fn content(&self, path: &str, source: Option<&dyn BlockSource>) -> Result<Option<Vec<u8>>> {
        match self.tree.find(path).map(|item| &item.child) {
            None | Some(Child::Directory(_)) => Ok(None),
            Some(Child::Nothing) => Ok(Some(Vec::new())),
            Some(Child::Bytes(bytes)) => Ok(Some(bytes.clone())),
            Some(Child::File(runs)) => {
                let missing = || Error::malformed(format!("reading {path}"), "its volume is not there");
                let source = source.ok_or_else(missing)?;
                let mut all = Vec::new();
                for (at, len) in runs {
                    if all.len() as u64 + len > 64 << 20 {
                        return Err(Error::malformed(format!("reading {path}"), "it is larger than 64 MiB"));
                    }
                    all.extend(read_vec(source, *at, *len as usize)?);
                }
                Ok(Some(all))
            }
        }
    }

    /// The volume's bytes for `len` bytes from byte `start` of a disk with sectors of `sector_size` bytes.
    ///
    /// # Errors
    ///
    /// `Refused` where the files do not fit, or no size of clusters does.
    pub fn make(&self, len: u64, sector_size: u32, start: u64) -> Result<Made> {
        let geometry = Geometry::new(self.shape, len, sector_size)?;
        write::write(&self.boot, self.media, &self.tree, &geometry, start)
    }
}
