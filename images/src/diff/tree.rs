// SPDX-License-Identifier: Apache-2.0
//! Two trees of files, side by side.

use std::collections::HashSet;
use std::fmt;

use super::Difference;
use crate::filesystem::files::{Id, Kind, Node, Run, Status, Volume};
use crate::{Error, ErrorKind, Monitor, RangeSet, Result};

/// A file that is not the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileChange {
    /// From the filesystem's root, with a slash in front. Names need not be text.
    pub path: Vec<u8>,
    /// How it differs.
    pub change: Change,
}

/// How a file differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// It is new.
    Added {
        /// What it is.
        kind: Kind,
        /// Length in bytes.
        size: u64,
    },
    /// It is gone.
    Removed {
        /// What it was.
        kind: Kind,
        /// Length in bytes.
        size: u64,
    },
    /// It is another one.
    Changed {
        /// In what, at least one.
        what: Vec<What>,
        /// Length in bytes, before and after.
        sizes: (u64, u64),
    },
    /// It cannot be compared; why.
    Unreadable(String),
}

/// What of a file has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// File, directory, link.
    Type,
    /// Its bytes, or where a link leads.
    Content,
    /// Its permissions.
    Mode,
    /// Owner or group.
    Owner,
    /// The numbers of a device.
    Device,
    /// When it was modified, though it has the same content.
    Time,
    /// Only the time of its last change: extended attributes (access lists, labels, capabilities) or links may be others.
    Attributes,
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Type => "type",
            Self::Content => "content",
            Self::Mode => "mode",
            Self::Owner => "owner",
            Self::Device => "device",
            Self::Time => "time",
            Self::Attributes => "attributes",
        })
    }
}

/// Names of one directory, and directories within each other, that are followed.
const MOST_NAMES: usize = 2_000_000;
const DEEPEST: usize = 2048;
/// Bytes of content that are compared at a time.
const PIECE: u64 = 1 << 20;
/// Longest link (the kernel's `PATH_MAX`).
const LONGEST_LINK: u64 = 4096;

/// A walk through both.
pub(super) struct Walk<'a, 'b> {
    one: Box<dyn Volume + 'a>,
    two: Box<dyn Volume + 'a>,
    /// Where the filesystem's bytes differ; absent where all may.
    changed: Option<RangeSet>,
    monitor: &'b dyn Monitor,
    each: &'b mut dyn FnMut(Difference) -> Result<()>,
    /// Directories that the walk is in.
    above: HashSet<(Id, Id)>,
}

/// A directory's names, in order.
type Names = Vec<(Vec<u8>, Id)>;

impl<'a, 'b> Walk<'a, 'b> {
    pub(super) fn new(
        one: Box<dyn Volume + 'a>,
        two: Box<dyn Volume + 'a>,
        changed: Option<RangeSet>,
        monitor: &'b dyn Monitor,
        each: &'b mut dyn FnMut(Difference) -> Result<()>,
    ) -> Self {
        let changed = changed.map(|mut changed| {
            for replaced in [one.replaced(), two.replaced()].iter_mut() {
                changed.insert_all(replaced, 0);
            }
            changed
        });
        Self { one, two, changed, monitor, each, above: HashSet::new() }
    }

    pub(super) fn run(mut self) -> Result<()> {
        // Of several roots (btrfs' subvolumes) the first holds all others.
        let root = |volume: &mut Box<dyn Volume + 'a>| -> Result<Id> {
            Ok(volume.other_roots()?.first().map_or(volume.root(), |(_, id)| *id))
        };
        let roots = (root(&mut self.one)?, root(&mut self.two)?);
        let mut path = Vec::new();
        self.pair(&mut path, roots)
    }

    fn report(&mut self, path: &[u8], change: Change) -> Result<()> {
        let path = if path.is_empty() { b"/".to_vec() } else { path.to_vec() };
        (self.each)(Difference::File(FileChange { path, change }))
    }

    /// An entry that both have. What cannot be read is told, and the walk goes on.
    fn pair(&mut self, path: &mut Vec<u8>, ids: (Id, Id)) -> Result<()> {
        if self.monitor.cancelled() {
            return Err(Error::new(ErrorKind::Cancelled, "comparing files").because("stopped on request"));
        }
        match self.compare(path, ids) {
            Ok(()) => Ok(()),
            Err(error) if matches!(error.kind(), ErrorKind::Malformed | ErrorKind::Unsupported) => {
                self.report(path, Change::Unreadable(error.chain()))
            }
            Err(error) => Err(error),
        }
    }

    fn compare(&mut self, path: &mut Vec<u8>, ids: (Id, Id)) -> Result<()> {
        let nodes = (self.one.node(ids.0)?, self.two.node(ids.1)?);
        let states = (self.one.status(ids.0)?, self.two.status(ids.1)?);
        let mut what = Vec::new();
        if nodes.0.kind != nodes.1.kind {
            what.push(What::Type);
        } else if nodes.0.kind != Kind::Directory && !self.same_content(nodes)? {
            what.push(What::Content);
        }
        what.extend(attributes(states, nodes.1.kind, what.is_empty()));
        if !what.is_empty() {
            let sizes = (nodes.0.size, nodes.1.size);
            self.report(path, Change::Changed { what, sizes })?;
        }
        match (nodes.0.kind, nodes.1.kind) {
            (Kind::Directory, Kind::Directory) => self.directories(path, ids),
            (Kind::Directory, _) => self.all(path, ids.0, false),
            (_, Kind::Directory) => self.all(path, ids.1, true),
            _ => Ok(()),
        }
    }

    fn directories(&mut self, path: &mut Vec<u8>, ids: (Id, Id)) -> Result<()> {
        if self.above.len() >= DEEPEST || !self.above.insert(ids) {
            return Err(Error::malformed("comparing directories", "they lead in a circle"));
        }
        let (old, new) = (names(&mut *self.one, ids.0)?, names(&mut *self.two, ids.1)?);
        let (mut old, mut new) = (old.into_iter().peekable(), new.into_iter().peekable());
        loop {
            let order = match (old.peek(), new.peek()) {
                (None, None) => break,
                (Some(_), None) => std::cmp::Ordering::Less,
                (None, Some(_)) => std::cmp::Ordering::Greater,
                (Some((one, _)), Some((two, _))) => one.cmp(two),
            };
            let before = if order.is_le() { old.next() } else { None };
            let after = if order.is_ge() { new.next() } else { None };
            let len = path.len();
            let name = before.as_ref().or(after.as_ref()).map_or(&[][..], |(name, _)| name);
            path.push(b'/');
            path.extend_from_slice(name);
            match (before, after) {
                (Some((_, one)), Some((_, two))) => self.pair(path, (one, two))?,
                (Some((_, one)), None) => self.alone(path, one, false)?,
                (None, Some((_, two))) => self.alone(path, two, true)?,
                (None, None) => {}
            }
            path.truncate(len);
        }
        self.above.remove(&ids);
        Ok(())
    }

    /// An entry that only one has, and all that is in it.
    fn alone(&mut self, path: &mut Vec<u8>, id: Id, added: bool) -> Result<()> {
        let volume = if added { &mut self.two } else { &mut self.one };
        let node = match volume.node(id) {
            Ok(node) => node,
            Err(error) if error.kind() == ErrorKind::Malformed => {
                return self.report(path, Change::Unreadable(error.chain()));
            }
            Err(error) => return Err(error),
        };
        let (kind, size) = (node.kind, if node.kind == Kind::Directory { 0 } else { node.size });
        self.report(path, if added { Change::Added { kind, size } } else { Change::Removed { kind, size } })?;
        if kind == Kind::Directory { self.all(path, id, added) } else { Ok(()) }
    }

    /// All that is in a directory that only one has.
    fn all(&mut self, path: &mut Vec<u8>, id: Id, added: bool) -> Result<()> {
        if self.monitor.cancelled() {
            return Err(Error::new(ErrorKind::Cancelled, "comparing files").because("stopped on request"));
        }
        if self.above.len() >= DEEPEST || !self.above.insert((id, id)) {
            return self.report(path, Change::Unreadable("the directory leads in a circle".to_owned()));
        }
        let volume = if added { &mut self.two } else { &mut self.one };
        match names(&mut **volume, id) {
            Ok(names) => {
                for (name, id) in names {
                    let len = path.len();
                    path.push(b'/');
                    path.extend_from_slice(&name);
                    self.alone(path, id, added)?;
                    path.truncate(len);
                }
            }
            Err(error) if error.kind() == ErrorKind::Malformed => {
                self.report(path, Change::Unreadable(error.chain()))?;
            }
            Err(error) => return Err(error),
        }
        self.above.remove(&(id, id));
        Ok(())
    }

    fn same_content(&mut self, (one, two): (Node, Node)) -> Result<bool> {
        if one.kind == Kind::Other {
            return Ok(true);
        }
        if one.size != two.size {
            return Ok(false);
        }
        if one.kind == Kind::Link {
            let len = one.size.min(LONGEST_LINK) as usize;
            return Ok(self.one.read(one.id, 0, len)? == self.two.read(two.id, 0, len)?);
        }
        let runs = match (&mut self.changed, self.one.runs(one.id)?, self.two.runs(two.id)?) {
            (Some(changed), Some(old), Some(new)) if old == new => old
                .into_iter()
                .filter(|run| touches(changed, run))
                .map(|run| (run.logical, run.len))
                .collect(),
            _ => vec![(0, one.size)],
        };
        for (start, len) in runs {
            let end = start.saturating_add(len).min(one.size);
            let mut at = start;
            while at < end {
                if self.monitor.cancelled() {
                    return Err(
                        Error::new(ErrorKind::Cancelled, "comparing files").because("stopped on request")
                    );
                }
                let part = PIECE.min(end - at) as usize;
                let (old, new) = (self.one.read(one.id, at, part)?, self.two.read(two.id, at, part)?);
                if old != new {
                    return Ok(false);
                }
                if old.is_empty() {
                    break;
                }
                at += old.len() as u64;
            }
        }
        Ok(true)
    }
}

/// A directory's names in order, without "." and "..".
fn names(volume: &mut dyn Volume, directory: Id) -> Result<Names> {
    let mut names = Vec::new();
    volume.entries(directory, &mut |name, id| {
        if name != b"." && name != b".." {
            names.push((name.to_vec(), id));
        }
        names.len() <= MOST_NAMES
    })?;
    if names.len() > MOST_NAMES {
        return Err(Error::unsupported(
            "listing a directory",
            format!("it has more than {MOST_NAMES} names"),
        ));
    }
    names.sort();
    Ok(names)
}

fn touches(changed: &mut RangeSet, run: &Run) -> bool {
    let ranges = changed.ranges();
    let next = ranges.partition_point(|range| range.end <= run.physical);
    ranges.get(next).is_some_and(|range| range.start < run.physical.saturating_add(run.stored))
}

/// What of the status differs. A directory's times change with its entries, which are told themselves.
fn attributes((old, new): (Status, Status), kind: Kind, same_so_far: bool) -> Vec<What> {
    let mut what = Vec::new();
    if old.mode & 0o7777 != new.mode & 0o7777 {
        what.push(What::Mode);
    }
    if (old.uid, old.gid) != (new.uid, new.gid) {
        what.push(What::Owner);
    }
    if old.device != new.device {
        what.push(What::Device);
    }
    if kind != Kind::Directory && same_so_far {
        if old.modified != new.modified {
            what.push(What::Time);
        } else if what.is_empty() && old.changed != new.changed {
            what.push(What::Attributes);
        }
    }
    what
}
