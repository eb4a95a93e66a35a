// SPDX-License-Identifier: Apache-2.0
//! The files that the kernel has once it unpacked an initramfs.
//!
//! Entries are put where init/initramfs.c would put them: later ones replace earlier, links of the archive itself are followed
//! in the parents of a name, and an entry whose parent is not there is dropped.

use std::collections::{BTreeMap, HashMap};

/// Most bytes of a path (`PATH_MAX`).
pub(super) const LONGEST: usize = 4096;
/// Most links in one look-up (`MAXSYMLINKS`).
const MOST_LINKS: usize = 40;

/// Content of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// Length in bytes.
    pub size: u64,
    /// The bytes, where [`super::Limits`] let them be kept.
    pub bytes: Option<Vec<u8>>,
}

/// What a name stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Kind {
    Directory,
    File(Content),
    Link(String),
    /// A device, pipe or socket: file type bits of its mode, and major and minor number.
    Special {
        format: u32,
        device: (u32, u32),
    },
}

/// A file of an initramfs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// What it is.
    pub kind: Kind,
    /// Permission bits, `07777`.
    pub mode: u32,
    /// Owner and group.
    pub owner: (u32, u32),
    /// Seconds since 1970.
    pub mtime: u32,
    /// Some entry of an archive made it; false for what every kernel begins with.
    given: bool,
    names: BTreeMap<String, usize>,
}

/// An entry of an archive.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) path: String,
    pub(super) kind: Kind,
    pub(super) mode: u32,
    pub(super) owner: (u32, u32),
    pub(super) mtime: u32,
    /// Number of names, device and inode: names of the same file share them.
    pub(super) links: u32,
    pub(super) identity: (u32, u32, u32),
}

/// A tree of files.
#[derive(Debug, Clone)]
pub struct Tree {
    nodes: Vec<Node>,
    /// First names of files with several, by identity and type (`find_link`).
    shared: HashMap<((u32, u32, u32), u32), usize>,
}

const ROOT: usize = 0;
const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const LINK: u32 = 0o120_000;

fn format_of(kind: &Kind) -> u32 {
    match kind {
        Kind::Directory => DIRECTORY,
        Kind::File(_) => REGULAR,
        Kind::Link(_) => LINK,
        Kind::Special { format, .. } => *format,
    }
}

impl Default for Tree {
    /// What every kernel begins with (usr/default_cpio_list).
    fn default() -> Self {
        let node =
            |kind, mode| Node { kind, mode, owner: (0, 0), mtime: 0, given: false, names: BTreeMap::new() };
        let mut tree = Self { nodes: vec![node(Kind::Directory, 0o755)], shared: HashMap::new() };
        let dev = tree.put(ROOT, "dev", node(Kind::Directory, 0o755));
        tree.put(dev, "console", node(Kind::Special { format: 0o020_000, device: (5, 1) }, 0o600));
        tree.put(ROOT, "root", node(Kind::Directory, 0o700));
        tree
    }
}

impl Tree {
    fn put(&mut self, parent: usize, name: &str, node: Node) -> usize {
        let index = self.nodes.len();
        self.nodes.push(node);
        self.name(parent, name, index);
        index
    }

    fn name(&mut self, parent: usize, name: &str, index: usize) {
        if let Some(parent) = self.nodes.get_mut(parent) {
            parent.names.insert(name.to_owned(), index);
        }
    }

    fn child(&self, parent: usize, name: &str) -> Option<usize> {
        self.nodes.get(parent)?.names.get(name).copied()
    }

    fn is_directory(&self, index: usize) -> bool {
        self.nodes.get(index).is_some_and(|node| node.kind == Kind::Directory)
    }

    /// The way to `path` from the root: names and nodes. A link at the end is followed if so said.
    fn walk(&self, path: &str, follow: bool) -> Option<Vec<(&str, usize)>> {
        let mut way: Vec<(&str, usize)> = Vec::new();
        let mut links = 0;
        let mut todo: Vec<&str> = path.split('/').rev().collect();
        while let Some(part) = todo.pop() {
            let at = way.last().map_or(ROOT, |(_, index)| *index);
            match part {
                "" | "." => {}
                ".." => drop(way.pop()),
                name => {
                    let (name, &index) = self.nodes.get(at)?.names.get_key_value(name)?;
                    let last = todo.iter().all(|part| part.is_empty());
                    match &self.nodes.get(index)?.kind {
                        Kind::Link(target) if !last || follow => {
                            links += 1;
                            if links > MOST_LINKS || target.len() > LONGEST {
                                return None;
                            }
                            if target.starts_with('/') {
                                way.clear();
                            }
                            todo.extend(target.split('/').rev());
                        }
                        Kind::Directory => way.push((name, index)),
                        _ if last => way.push((name, index)),
                        _ => return None,
                    }
                }
            }
        }
        Some(way)
    }

    fn find(&self, path: &str, follow: bool) -> Option<usize> {
        Some(self.walk(path, follow)?.last().map_or(ROOT, |(_, index)| *index))
    }

    /// What `path` leads to, links followed. Paths may begin with a slash or not.
    pub fn node(&self, path: &str) -> Option<&Node> {
        self.nodes.get(self.find(path, true)?)
    }

    /// As [`node`](Self::node), but a link at the end is told as a link.
    pub fn link_node(&self, path: &str) -> Option<&Node> {
        self.nodes.get(self.find(path, false)?)
    }

    /// The content of the file at `path`, where it was kept.
    pub fn read(&self, path: &str) -> Option<&[u8]> {
        match &self.node(path)?.kind {
            Kind::File(content) => content.bytes.as_deref(),
            _ => None,
        }
    }

    /// Names in the directory at `path`, sorted; none where there is no directory.
    pub fn list(&self, path: &str) -> Vec<&str> {
        self.node(path).map(|node| node.names.keys().map(String::as_str).collect()).unwrap_or_default()
    }

    /// The path without links to what `path` leads to, without a slash before it; `None` where there is nothing.
    pub fn real_path(&self, path: &str) -> Option<String> {
        let way = self.walk(path, true)?;
        Some(way.iter().map(|(name, _)| *name).collect::<Vec<_>>().join("/"))
    }

    /// Every name below `path` and what it stands for, without slash before it, parents first. Links are not followed.
    pub fn below(&self, path: &str) -> Vec<(String, &Node)> {
        let Some(start) = self.real_path(path) else { return Vec::new() };
        let Some(index) = self.find(path, true) else { return Vec::new() };
        let mut found = Vec::new();
        let mut todo = vec![(start, index)];
        while let Some((path, index)) = todo.pop() {
            let Some(node) = self.nodes.get(index) else { continue };
            for (name, child) in node.names.iter().rev() {
                let path = if path.is_empty() { name.clone() } else { format!("{path}/{name}") };
                if path.len() <= LONGEST {
                    todo.push((path, *child));
                }
            }
            if node.given && !path.is_empty() {
                found.push((path, node));
            }
        }
        found
    }

    /// Puts an entry where the kernel would; false where it would drop it.
    pub(super) fn insert(&mut self, entry: Entry) -> bool {
        let Entry { path, kind, mode, owner, mtime, links, identity } = entry;
        let path = path.trim_end_matches('/');
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        let node = |kind| Node { kind, mode, owner, mtime, given: true, names: BTreeMap::new() };
        if matches!(name, "" | "." | "..") {
            return name != "..";
        }
        let Some(parent) = self.find(parent, true).filter(|index| self.is_directory(*index)) else {
            return false;
        };
        let format = format_of(&kind);
        let mut there = self.child(parent, name);
        // clean_path(): another type gives way, unless it is a directory that is not empty. A link always gives way to a link.
        if let Some(index) = there {
            let old = self.nodes.get(index).map(|node| (format_of(&node.kind), node.names.is_empty()));
            if let Some((old_format, empty)) = old
                && (old_format != format || format == LINK)
            {
                if old_format == DIRECTORY && !empty {
                    return false;
                }
                self.unname(parent, name);
                there = None;
            }
        }
        match kind {
            Kind::Directory => match there.and_then(|index| self.nodes.get_mut(index)) {
                Some(node) => {
                    (node.mode, node.owner, node.mtime, node.given) = (mode, owner, mtime, true);
                }
                None => drop(self.put(parent, name, node(Kind::Directory))),
            },
            Kind::Link(_) => drop(self.put(parent, name, node(kind))),
            Kind::File(_) | Kind::Special { .. } => {
                let first = self.share(links, identity, format);
                match (first, there, kind) {
                    (Some(first), _, kind) => {
                        // Another name of a file that is there; its content may come with any of the names.
                        self.name(parent, name, first);
                        if let (Kind::File(content), Some(node)) = (kind, self.nodes.get_mut(first))
                            && content.size > 0
                        {
                            node.kind = Kind::File(content);
                        }
                    }
                    (None, Some(index), kind @ Kind::File(_)) => {
                        // O_TRUNC: the same inode, so that its other names change as well.
                        if let Some(old) = self.nodes.get_mut(index) {
                            (old.kind, old.mode, old.owner) = (kind, mode, owner);
                            (old.mtime, old.given) = (mtime, true);
                        }
                        self.remember(links, identity, format, index);
                    }
                    // mknod() fails where there is something.
                    (None, Some(_), _) => return false,
                    (None, None, kind) => {
                        let index = self.put(parent, name, node(kind));
                        self.remember(links, identity, format, index);
                    }
                }
            }
        }
        true
    }

    fn unname(&mut self, parent: usize, name: &str) {
        if let Some(parent) = self.nodes.get_mut(parent) {
            parent.names.remove(name);
        }
    }

    fn share(&self, links: u32, identity: (u32, u32, u32), format: u32) -> Option<usize> {
        if links < 2 { None } else { self.shared.get(&(identity, format)).copied() }
    }

    fn remember(&mut self, links: u32, identity: (u32, u32, u32), format: u32, index: usize) {
        if links >= 2 {
            self.shared.insert((identity, format), index);
        }
    }

    /// At a trailer, names of one archive are no longer names of files of the next (`free_hash`).
    pub(super) fn end_archive(&mut self) {
        self.shared.clear();
    }
}
