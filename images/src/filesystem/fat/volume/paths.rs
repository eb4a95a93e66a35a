// SPDX-License-Identifier: Apache-2.0
//! Files and directories of a tree by their paths: found, listed, put there.

use super::geometry::put;
use super::names::{self, Stamp};
use super::tree::{ARCHIVE, Child, DIRECTORY, Directory, ENTRY, Item, LABEL, Tree, dots};
use crate::filesystem::fat::files;
use crate::parse::Bytes;
use crate::{Error, ErrorKind, Result};

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
