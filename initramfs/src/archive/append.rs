// SPDX-License-Identifier: Apache-2.0
//! Adding files to an initramfs without unpacking it: an archive behind its end.
//!
//! The kernel unpacks it over what is there, so a wrong entry can do harm. What holds of the entries that are made here:
//!
//! - a path is written through the image's own links (`usr/lib/modules` where `lib` is a link), since an entry `lib` would
//!   replace the link by an empty directory, and take away the loader;
//! - every missing parent comes first, since the kernel drops orphans without a word;
//! - only a regular file is ever replaced, by a regular file; everything else that is there is left or the addition refused.

use unmoor_images::{Error, Result};

use super::newc::Budget;
use super::tree::{Content, Entry, Kind, Tree};
use super::write::{Writer, pad};
use super::{Archive, Compression, Limits};

/// Zeros behind an lz4 segment. Its format does not say where it ends; with few of them the kernel (6.1) reports "Decoding
/// failed" and loses what follows.
const BEHIND_LZ4: usize = 512;

/// What is to be in the initramfs.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Addition {
    /// A file with its content; replaces a file that is there.
    File { path: String, mode: u32, content: Vec<u8> },
    /// A symbolic link, where there is nothing yet.
    Link { path: String, target: String },
    /// A directory; nothing is done where there is one.
    Directory { path: String, mode: u32 },
}

impl Addition {
    /// A file that all may read.
    pub fn file(path: impl Into<String>, content: impl Into<Vec<u8>>) -> Self {
        Self::File { path: path.into(), mode: 0o644, content: content.into() }
    }

    /// Where it goes.
    pub fn path(&self) -> &str {
        match self {
            Self::File { path, .. } | Self::Link { path, .. } | Self::Directory { path, .. } => path,
        }
    }
}

/// Entries, and the image's files as they will be.
struct Adding {
    tree: Tree,
    writer: Writer,
}

fn refused(path: &str, because: impl std::fmt::Display) -> Error {
    Error::refused(format!("adding {path} to an initramfs"), because.to_string())
}

/// The bytes to put behind `image`, padding included, so that the kernel finds `additions` in it; empty where it holds all
/// of them. `archive` is what was read with `image` as the last file; `mtime` becomes the time of all entries.
///
/// # Errors
///
/// `Refused` where an addition would have to replace something other than a file; `Usage` where `archive` is of another image.
pub fn append(image: &[u8], archive: &Archive, additions: &[Addition], mtime: u32) -> Result<Vec<u8>> {
    if archive.size != image.len() as u64 {
        return Err(Error::new(unmoor_images::ErrorKind::Usage, "appending to an initramfs")
            .because("it is not the one that was read"));
    }
    let mut adding = Adding { tree: archive.tree.clone(), writer: Writer::new(mtime) };
    for addition in additions {
        adding.add(addition)?;
    }
    if adding.writer.is_empty() {
        return Ok(Vec::new());
    }
    let after_lz4 = archive.segments.last().is_some_and(|segment| segment.compression == Compression::Lz4);
    let mut whole = image.to_vec();
    pad(&mut whole);
    if after_lz4 {
        whole.resize(whole.len() + BEHIND_LZ4, 0);
    }
    let start = whole.len();
    whole.extend(adding.writer.finish()?);
    check(archive, &whole, image.len(), start, additions)?;
    whole.drain(..image.len());
    Ok(whole)
}

impl Adding {
    fn add(&mut self, addition: &Addition) -> Result<()> {
        let path = addition.path();
        let place = self.place(path)?;
        let there = self.tree.link_node(&place).map(|node| (node.kind.clone(), node.mode));
        match (addition, there) {
            (Addition::Directory { mode, .. }, None) => self.directory(&place, *mode),
            (Addition::Directory { .. }, Some((Kind::Directory, _))) => Ok(()),
            (Addition::Link { target, .. }, None) => {
                self.writer.link(&place, target)?;
                self.insert(&place, Kind::Link(target.clone()), 0o777)
            }
            (Addition::Link { target, .. }, Some((Kind::Link(old), _))) if old == *target => Ok(()),
            (Addition::File { content, mode, .. }, None) => self.file(&place, *mode, content),
            (Addition::File { content, mode, .. }, Some((Kind::File(old), old_mode))) => {
                if old.bytes.as_ref() == Some(content) && old_mode == *mode {
                    return Ok(());
                }
                self.file(&place, *mode, content)
            }
            (Addition::File { content, mode, .. }, Some((Kind::Link(_), _))) => {
                let real = self
                    .tree
                    .real_path(&place)
                    .filter(|real| matches!(self.tree.link_node(real), Some(node) if matches!(node.kind, Kind::File(_))))
                    .ok_or_else(|| refused(path, "there is a link that leads to no file"))?;
                if self.tree.read(&real) == Some(content) {
                    return Ok(());
                }
                self.file(&real, *mode, content)
            }
            (_, Some(_)) => Err(refused(path, "there is something else in its place")),
        }
    }

    /// `path` without links in its parents, which are made where they are missing.
    fn place(&mut self, path: &str) -> Result<String> {
        let mut parents: Vec<&str> =
            path.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
        if parents.contains(&"..") {
            return Err(refused(path, "it leads upwards"));
        }
        let name = parents.pop().ok_or_else(|| refused(path, "it has no name"))?;
        let mut at = String::new();
        for part in parents {
            let next = if at.is_empty() { part.to_owned() } else { format!("{at}/{part}") };
            if self.tree.link_node(&next).is_none() {
                self.directory(&next, 0o755)?;
            }
            at = self
                .tree
                .real_path(&next)
                .filter(|real| self.tree.node(real).is_some_and(|node| node.kind == Kind::Directory))
                .ok_or_else(|| refused(path, format!("{next} is no directory, nor leads to one")))?;
        }
        Ok(if at.is_empty() { name.to_owned() } else { format!("{at}/{name}") })
    }

    fn directory(&mut self, path: &str, mode: u32) -> Result<()> {
        self.writer.directory(path, mode)?;
        self.insert(path, Kind::Directory, mode)
    }

    fn file(&mut self, path: &str, mode: u32, content: &[u8]) -> Result<()> {
        self.writer.file(path, mode, content)?;
        let content = Content { size: content.len() as u64, bytes: Some(content.to_vec()) };
        self.insert(path, Kind::File(content), mode)
    }

    fn insert(&mut self, path: &str, kind: Kind, mode: u32) -> Result<()> {
        let path = path.to_owned();
        let entry =
            Entry { path: path.clone(), kind, mode, owner: (0, 0), mtime: 0, links: 1, identity: (0, 0, 0) };
        if self.tree.insert(entry) { Ok(()) } else { Err(refused(&path, "the kernel would drop it")) }
    }
}

/// Reads `whole` as the kernel would, and looks for each addition. What stands before `old` was read already; an lz4 segment is
/// unpacked again, since what follows decides where it ends.
fn check(archive: &Archive, whole: &[u8], old: usize, start: usize, additions: &[Addition]) -> Result<()> {
    let lost = |what: &str| {
        Error::malformed(
            "checking what was appended to an initramfs",
            format!("the kernel would not find {what}"),
        )
    };
    if start != old && archive.segments.last().is_some_and(|segment| segment.compression == Compression::Lz4)
    {
        let mut again = Archive::empty(&Limits { keep: |_| false, ..Limits::default() });
        again.add(whole)?;
        let last = again.segments.last().map(|segment| (segment.offset, segment.compression));
        if last != Some((start as u64, Compression::None)) {
            return Err(lost("the archive"));
        }
    }
    let mut after = archive.clone();
    after.budget = Budget::new(&Limits { kept: u64::MAX, largest: u64::MAX, ..Limits::keep_all() });
    let dropped = after.dropped.len();
    after.unpack(whole, old)?;
    if after.dropped.len() != dropped {
        return Err(lost(after.dropped.last().map_or("", String::as_str)));
    }
    for addition in additions {
        let path = addition.path();
        let found = match addition {
            Addition::File { content, .. } => after.tree.read(path) == Some(content),
            Addition::Link { target, .. } => {
                after.tree.link_node(path).is_some_and(|node| node.kind == Kind::Link(target.clone()))
            }
            Addition::Directory { .. } => {
                after.tree.node(path).is_some_and(|node| node.kind == Kind::Directory)
            }
        };
        // A file of the image whose bytes were not kept, but are the same, does not come here: it is written again.
        if !found {
            return Err(lost(path));
        }
    }
    Ok(())
}
