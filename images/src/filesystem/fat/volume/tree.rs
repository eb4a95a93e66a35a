// SPDX-License-Identifier: Apache-2.0
//! Directories and files of a FAT volume, read whole; the content of files only as where it lies.
//!
//! Source: Microsoft, "FAT: General Overview of On-Disk Format" 1.03.

use crate::filesystem::FilesystemKind;
use crate::filesystem::fat::{Boot, end_mark, table};
use crate::parse::{Bytes, c_text, read_vec};
use crate::{BlockSource, Error, Result};

/// Bytes of a directory entry.
pub(super) const ENTRY: usize = 32;
const DOT: &[u8; 11] = b".          ";
const DOT_DOT: &[u8; 11] = b"..         ";
/// A directory has at most 65536 entries (the specification's limit).
const MOST_DIRECTORY: u64 = 65536 * ENTRY as u64;
/// An EFI system partition has a few hundred entries; 8 MiB are 262144 of them.
const MOST_ENTRIES: usize = 8 << 20;
/// Fragments of files; more than that on a volume for boot loaders is nonsense.
const MOST_RUNS: usize = 1 << 20;
/// A long name takes at most this many entries.
const MOST_LONG: usize = 20;

pub(super) const LABEL: u8 = 0x08;
pub(super) const DIRECTORY: u8 = 0x10;
pub(super) const ARCHIVE: u8 = 0x20;
pub(super) const LONG_NAME: u8 = 0x0F;

/// A volume's content. Directory 0 is the root; a directory stands behind its parent.
#[derive(Debug)]
pub(super) struct Tree {
    pub(super) directories: Vec<Directory>,
}

#[derive(Debug)]
pub(super) struct Directory {
    /// Its parent's index; the root has none.
    pub(super) parent: Option<usize>,
    /// Entries "." and "..".
    pub(super) dots: [[u8; ENTRY]; 2],
    pub(super) items: Vec<Item>,
}

impl Directory {
    /// Bytes of its entries.
    pub(super) fn bytes(&self) -> usize {
        let dots = if self.parent.is_some() { 2 * ENTRY } else { 0 };
        dots + self.items.iter().map(|item| item.raw.len()).sum::<usize>()
    }
}

/// A file, subdirectory or label.
#[derive(Debug)]
pub(super) struct Item {
    /// Its long name's entries and, last, its own.
    pub(super) raw: Vec<u8>,
    pub(super) child: Child,
}

#[derive(Debug)]
pub(super) enum Child {
    /// No cluster: an empty file or the label.
    Nothing,
    /// Content that stays where it lies on the old volume: (first byte, length in bytes), in order.
    File(Vec<(u64, u64)>),
    /// Content that is new.
    Bytes(Vec<u8>),
    /// Index of the directory.
    Directory(usize),
}

fn broken(because: impl Into<String>) -> Error {
    let because = format!("{}; repair it with fsck.fat first", because.into());
    Error::malformed("reading the files of the FAT volume", because)
}

/// Reads all directories.
pub(super) fn read(source: &dyn BlockSource, boot: &Boot) -> Result<Tree> {
    let copy = u64::from(boot.active.unwrap_or(0));
    if copy >= boot.fats {
        return Err(broken("the active FAT does not exist"));
    }
    let start = boot.fat + copy * boot.fat_size;
    let bits = match boot.kind {
        FilesystemKind::Fat32 => 32,
        FilesystemKind::Fat16 => 16,
        _ => 12,
    };
    let needed = ((boot.clusters + 2) * bits).div_ceil(8).next_multiple_of(2).min(boot.fat_size);
    let reader = Reader {
        source,
        boot,
        fat: read_vec(source, start, needed as usize)?,
        left: boot.clusters,
        bytes: 0,
        runs: 0,
    };
    reader.all()
}

struct Reader<'a> {
    source: &'a dyn BlockSource,
    boot: &'a Boot,
    fat: Vec<u8>,
    /// Clusters that may still be visited: in a sound volume each belongs to one file, so this ends every ring.
    left: u64,
    bytes: usize,
    runs: usize,
}

impl Reader<'_> {
    fn all(mut self) -> Result<Tree> {
        let root = Directory { parent: None, dots: [[0; ENTRY]; 2], items: Vec::new() };
        let mut directories = vec![root];
        let raw = match self.boot.kind {
            FilesystemKind::Fat32 => self.chain_bytes(self.boot.root_cluster)?,
            _ => read_vec(self.source, self.boot.root, self.boot.root_size as usize)?,
        };
        let mut waiting = Vec::new();
        self.directory(0, &raw, &mut directories, &mut waiting)?;
        while let Some((index, first)) = waiting.pop() {
            let raw = self.chain_bytes(first)?;
            self.directory(index, &raw, &mut directories, &mut waiting)?;
        }
        Ok(Tree { directories })
    }

    /// Takes a directory's bytes apart and queues its subdirectories by their first clusters.
    fn directory(
        &mut self,
        index: usize,
        raw: &[u8],
        directories: &mut Vec<Directory>,
        waiting: &mut Vec<(usize, u64)>,
    ) -> Result<()> {
        let mut items = Vec::new();
        let mut long: Vec<u8> = Vec::new();
        for raw in raw.chunks_exact(ENTRY) {
            let entry = Bytes::new(raw, "directory entry");
            let attributes = entry.u8(11)?;
            match entry.u8(0)? {
                0 => break,
                0xE5 => {
                    // A long name whose own entry is gone belongs to no file.
                    long.clear();
                    continue;
                }
                _ if attributes & 0x3F == LONG_NAME => {
                    if long.len() >= MOST_LONG * ENTRY {
                        return Err(broken("a name is too long"));
                    }
                    long.extend_from_slice(raw);
                    continue;
                }
                _ => {}
            }
            let dot = [DOT, DOT_DOT].iter().position(|name| raw.starts_with(*name));
            if let (Some(dot), true) = (dot, index != 0) {
                let own = directories.get_mut(index).and_then(|directory| directory.dots.get_mut(dot));
                own.into_iter().for_each(|own| own.copy_from_slice(raw));
                long.clear();
                continue;
            }
            let mut all = std::mem::take(&mut long);
            all.extend_from_slice(raw);
            self.bytes += all.len();
            if self.bytes > MOST_ENTRIES {
                return Err(broken("it has too many files"));
            }
            let child = match attributes {
                _ if attributes & LABEL != 0 => Child::Nothing,
                _ if attributes & DIRECTORY != 0 => {
                    let child = directories.len();
                    directories.push(Directory { parent: Some(index), dots: dots(raw), items: Vec::new() });
                    waiting.push((child, self.first_cluster(&entry)?));
                    Child::Directory(child)
                }
                _ => match entry.u32_le(28)? {
                    0 => Child::Nothing,
                    size => Child::File(self.file(self.first_cluster(&entry)?, size, raw)?),
                },
            };
            items.push(Item { raw: all, child });
        }
        if let Some(directory) = directories.get_mut(index) {
            directory.items = items;
        }
        Ok(())
    }

    fn first_cluster(&self, entry: &Bytes<'_>) -> Result<u64> {
        let high = match self.boot.kind {
            FilesystemKind::Fat32 => entry.u16_le(20)?,
            // There OS/2 keeps extended attributes.
            _ => 0,
        };
        Ok(u64::from(high) << 16 | u64::from(entry.u16_le(26)?))
    }

    /// Visits `cluster`.
    fn visit(&mut self, cluster: u64) -> Result<u64> {
        if !(2..self.boot.clusters + 2).contains(&cluster) {
            return Err(broken(format!("cluster {cluster} is named and does not exist")));
        }
        self.left =
            self.left.checked_sub(1).ok_or_else(|| broken("files share clusters, or a chain is a ring"))?;
        Ok(self.boot.cluster_at(cluster))
    }

    /// The cluster after `cluster`, or the chain's end.
    fn next(&self, cluster: u64) -> Result<Option<u64>> {
        let value = table::entry(&self.fat, self.boot.kind, cluster)?;
        Ok((value < end_mark(self.boot.kind) - 7).then_some(value.into()))
    }

    fn chain_bytes(&mut self, first: u64) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let mut next = Some(first);
        while let Some(cluster) = next {
            let at = self.visit(cluster)?;
            if bytes.len() as u64 >= MOST_DIRECTORY {
                return Err(broken("a directory is too long"));
            }
            bytes.extend(read_vec(self.source, at, self.boot.cluster_size as usize)?);
            next = self.next(cluster)?;
        }
        Ok(bytes)
    }

    fn file(&mut self, first: u64, size: u32, raw: &[u8]) -> Result<Vec<(u64, u64)>> {
        let mut runs: Vec<(u64, u64)> = Vec::new();
        let (mut left, mut next) = (u64::from(size), Some(first));
        while left > 0 {
            let Some(cluster) = next else {
                let name = c_text(raw.get(..11).unwrap_or(raw));
                return Err(broken(format!("the file {name:?} is shorter than its size says")));
            };
            let at = self.visit(cluster)?;
            let len = left.min(self.boot.cluster_size.into());
            match runs.last_mut() {
                Some((start, run)) if *start + *run == at => *run += len,
                _ => {
                    runs.push((at, len));
                    self.runs += 1;
                }
            }
            if self.runs > MOST_RUNS {
                return Err(broken("its files are in too many pieces"));
            }
            left -= len;
            next = self.next(cluster)?;
        }
        Ok(runs)
    }
}

/// "." and ".." as a directory gets them that has none: with its own attributes and times.
pub(super) fn dots(entry: &[u8]) -> [[u8; ENTRY]; 2] {
    [DOT, DOT_DOT].map(|name| {
        let mut dot = [0; ENTRY];
        dot.copy_from_slice(entry.get(..ENTRY).unwrap_or(&[0; ENTRY]));
        if let Some(field) = dot.get_mut(..name.len()) {
            field.copy_from_slice(name);
        }
        dot
    })
}
