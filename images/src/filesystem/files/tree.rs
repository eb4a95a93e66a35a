// SPDX-License-Identifier: Apache-2.0
//! Paths, resolved within one directory as the guest itself would within its root.

use std::collections::VecDeque;

use super::{Id, Kind, Node, Volume};
use crate::Result;

/// As the kernel's `MAXSYMLINKS`.
const MOST_LINKS: u32 = 40;
/// As the kernel's `PATH_MAX`.
const LONGEST_LINK: u64 = 4096;
/// Steps of one path, what its links add included.
const MOST_STEPS: u32 = 4096;

/// A volume seen from one of its directories; no path and no link leads out of it.
pub struct Tree<'a> {
    volume: Box<dyn Volume + 'a>,
    root: Id,
}

impl<'a> Tree<'a> {
    /// Seen from the volume's own root.
    pub fn new(volume: Box<dyn Volume + 'a>) -> Self {
        let root = volume.root();
        Self { volume, root }
    }

    /// Looks from another directory from now on.
    pub fn set_root(&mut self, root: Id) {
        self.root = root;
    }

    /// See [`Volume::other_roots`].
    pub fn other_roots(&mut self) -> Result<Vec<(String, Id)>> {
        self.volume.other_roots()
    }

    /// See [`Volume::note`].
    pub fn note(&self) -> Option<String> {
        self.volume.note()
    }

    /// What `path` leads to, links followed; `None` where there is nothing or where the links are a ring.
    pub fn find(&mut self, path: &str) -> Result<Option<Node>> {
        let parts = |text: &[u8]| -> Vec<Vec<u8>> {
            text.split(|&byte| byte == b'/').filter(|part| !part.is_empty()).map(<[u8]>::to_vec).collect()
        };
        let mut rest: VecDeque<Vec<u8>> = parts(path.as_bytes()).into();
        let mut above = Vec::new();
        let mut here = self.volume.node(self.root)?;
        let (mut links, mut steps) = (0, 0);
        while let Some(part) = rest.pop_front() {
            steps += 1;
            if steps > MOST_STEPS {
                return Ok(None);
            }
            if here.kind != Kind::Directory {
                return Ok(None);
            }
            match part.as_slice() {
                b"." => continue,
                b".." => {
                    here = above.pop().unwrap_or(here);
                    continue;
                }
                _ => {}
            }
            let Some(next) = self.entry(here.id, &part)? else { return Ok(None) };
            let next = self.volume.node(next)?;
            if next.kind != Kind::Link {
                above.push(here);
                here = next;
                continue;
            }
            links += 1;
            if links > MOST_LINKS || next.size > LONGEST_LINK {
                return Ok(None);
            }
            let target = self.volume.read(next.id, 0, next.size as usize)?;
            if target.first() == Some(&b'/') {
                above.clear();
                here = self.volume.node(self.root)?;
            }
            for part in parts(&target).into_iter().rev() {
                rest.push_front(part);
            }
        }
        Ok(Some(here))
    }

    /// The first `most` bytes of the file at `path`; `None` where there is no file.
    pub fn read(&mut self, path: &str, most: usize) -> Result<Option<Vec<u8>>> {
        match self.find(path)? {
            Some(node) if node.kind == Kind::File => {
                let len = node.size.min(most as u64) as usize;
                self.volume.read(node.id, 0, len).map(Some)
            }
            _ => Ok(None),
        }
    }

    /// Sorted names in the directory at `path`, at most `most` of them; empty where there is no directory.
    pub fn list(&mut self, path: &str, most: usize) -> Result<Vec<String>> {
        let Some(node) = self.find(path)?.filter(|node| node.kind == Kind::Directory) else {
            return Ok(Vec::new());
        };
        let mut names = Vec::new();
        self.volume.entries(node.id, &mut |name, _| {
            if name != b"." && name != b".." {
                names.push(String::from_utf8_lossy(name).into_owned());
            }
            names.len() < most
        })?;
        names.sort();
        Ok(names)
    }

    fn entry(&mut self, directory: Id, wanted: &[u8]) -> Result<Option<Id>> {
        let mut all = Vec::new();
        // The volume cannot be asked for its rule while it calls back, so what could be meant is collected first.
        self.volume.entries(directory, &mut |name, id| {
            if name.eq_ignore_ascii_case(wanted) {
                all.push((name.to_vec(), id));
            }
            all.len() < MOST_STEPS as usize
        })?;
        let exact = all.iter().find(|(name, _)| name == wanted);
        let same = exact.or_else(|| all.iter().find(|(name, _)| self.volume.same_name(wanted, name)));
        Ok(same.map(|(_, id)| *id))
    }
}
