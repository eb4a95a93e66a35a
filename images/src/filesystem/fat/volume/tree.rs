// SPDX-License-Identifier: Apache-2.0
//! Directories and files of a FAT volume, read whole; the content of files only as where it lies.
//!
//! Source: Microsoft, "FAT: General Overview of On-Disk Format" 1.03.

use super::geometry::put;
use super::names::{self, Stamp};
use crate::filesystem::FilesystemKind;
use crate::filesystem::fat::{Boot, end_mark, files, table};
use crate::parse::{Bytes, c_text, read_vec};
use crate::{BlockSource, Error, ErrorKind, Result};

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
const ARCHIVE: u8 = 0x20;
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

/// A path's names.
pub(super) fn parts(path: &str) -> Vec<&str> {
    path.split(['/', '\\']).filter(|part| !part.is_empty()).collect()
}

impl Item {
    /// The name by which it is known: the long one, if it has one.
    fn name(&self) -> String {
        let own = self.raw.len().saturating_sub(ENTRY);
        let (long, own) = self.raw.split_at(own);
        if long.is_empty() {
            return files::short_name(&Bytes::new(own, "directory entry")).unwrap_or_default();
        }
        files::long_name(&long.chunks_exact(ENTRY).collect::<Vec<_>>())
    }

    fn short(&self) -> &[u8] {
        let own = self.raw.len().saturating_sub(ENTRY);
        self.raw.get(own..own + 11).unwrap_or_default()
    }

    fn is_label(&self) -> bool {
        let own = self.raw.len().saturating_sub(ENTRY);
        self.raw.get(own + 11).is_some_and(|attributes| attributes & LABEL != 0)
    }

    fn answers_to(&self, name: &str) -> bool {
        !self.is_label()
            && (self.name().to_lowercase() == name.to_lowercase()
                || files::short_name(&Bytes::new(self.own(), "directory entry"))
                    .is_ok_and(|short| short.eq_ignore_ascii_case(name)))
    }

    fn own(&self) -> &[u8] {
        self.raw.get(self.raw.len().saturating_sub(ENTRY)..).unwrap_or_default()
    }
}

impl Tree {
    /// Only a root, with nothing in it.
    pub(super) fn empty() -> Self {
        Self { directories: vec![Directory { parent: None, dots: [[0; ENTRY]; 2], items: Vec::new() }] }
    }

    pub(super) fn set_label(&mut self, label: &[u8; 11], time: Stamp) {
        let mut raw = vec![0; ENTRY];
        put(&mut raw, 0, label);
        put(&mut raw, 11, &[LABEL]);
        names::touch(&mut raw, time);
        if let Some(root) = self.directories.first_mut() {
            root.items.insert(0, Item { raw, child: Child::Nothing });
        }
    }

    fn directory_at(&self, path: &[&str]) -> Option<usize> {
        path.iter().try_fold(0, |at, name| {
            let item = self.directories.get(at)?.items.iter().find(|item| item.answers_to(name))?;
            match item.child {
                Child::Directory(child) => Some(child),
                _ => None,
            }
        })
    }

    pub(super) fn find(&self, path: &str) -> Option<&Item> {
        let parts = parts(path);
        let (name, parents) = parts.split_last()?;
        let directory = self.directories.get(self.directory_at(parents)?)?;
        directory.items.iter().find(|item| item.answers_to(name))
    }

    pub(super) fn list(&self, path: &str) -> Vec<String> {
        let directory = self.directory_at(&parts(path)).and_then(|at| self.directories.get(at));
        let items = directory.into_iter().flat_map(|directory| &directory.items);
        items.filter(|item| !item.is_label()).map(Item::name).collect()
    }

    /// Makes what is missing of the directories `path`; the last one's index.
    pub(super) fn make_directories(&mut self, path: &[&str], time: Stamp) -> Result<usize> {
        let mut at = 0;
        for name in path {
            let known = self.directories.get(at).and_then(|directory| {
                directory.items.iter().find(|item| item.answers_to(name)).map(|item| match item.child {
                    Child::Directory(child) => Some(child),
                    _ => None,
                })
            });
            at = match known {
                Some(Some(child)) => child,
                Some(None) => return Err(other(name, "it is a file, and a directory is to be there")),
                None => {
                    let child = self.directories.len();
                    let raw = self.entries(at, name, DIRECTORY, time)?;
                    let dots = dots(raw.get(raw.len().saturating_sub(ENTRY)..).unwrap_or_default());
                    self.directories.push(Directory { parent: Some(at), dots, items: Vec::new() });
                    self.add(at, Item { raw, child: Child::Directory(child) });
                    child
                }
            };
        }
        Ok(at)
    }

    /// See [`super::Volume::put`].
    pub(super) fn put(&mut self, path: &str, child: Child, size: u32, time: Stamp) -> Result<()> {
        let parts = parts(path);
        let Some((name, parents)) = parts.split_last() else {
            return Err(other(path, "a file needs a name"));
        };
        let at = self.make_directories(parents, time)?;
        let items = self.directories.get_mut(at).map(|directory| &mut directory.items);
        let known = items.into_iter().flatten().find(|item| item.answers_to(name));
        if let Some(item) = known {
            if matches!(item.child, Child::Directory(_)) {
                return Err(other(name, "it is a directory, and a file is to be there"));
            }
            let own = item.raw.len().saturating_sub(ENTRY);
            if let Some(own) = item.raw.get_mut(own..) {
                put(own, 28, &size.to_le_bytes());
                names::touch(own, time);
            }
            item.child = child;
            return Ok(());
        }
        let mut raw = self.entries(at, name, ARCHIVE, time)?;
        let own = raw.len().saturating_sub(ENTRY);
        put(&mut raw, own + 28, &size.to_le_bytes());
        self.add(at, Item { raw, child });
        Ok(())
    }

    fn entries(&self, at: usize, name: &str, attributes: u8, time: Stamp) -> Result<Vec<u8>> {
        let items = self.directories.get(at).map(|directory| directory.items.as_slice()).unwrap_or_default();
        names::entries(name, attributes, time, |short| items.iter().any(|item| item.short() == short))
    }

    fn add(&mut self, at: usize, item: Item) {
        if let Some(directory) = self.directories.get_mut(at) {
            directory.items.push(item);
        }
    }
}

fn other(name: &str, because: &'static str) -> Error {
    Error::new(ErrorKind::Usage, format!("putting {name:?} on a FAT volume")).because(because)
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
