// SPDX-License-Identifier: Apache-2.0
//! A guest's files, seen from its root: no path and no link leads out of it.
//!
//! [`Files`] is what finding out and planning read through; [`Directory`] is a mounted guest (or a plain directory, as in
//! tests); [`crate::plan::Draft`] shows the guest as it will be when the plan so far is applied.
//!
//! Paths are absolute in the guest ("/etc/fstab"). A name that is not UTF-8 is left out of lists: no file that decides how a
//! machine boots has one.

mod directory;
pub mod raw;

use unmoor_images::Result;

pub use directory::Directory;
pub use raw::RawGuest;

/// More of one file is not read unless asked for, in bytes.
pub const MOST_TEXT: u64 = 4 << 20;
/// More names of one directory are an error: "absurd size".
pub const MOST_NAMES: usize = 100_000;

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Kind {
    File,
    Directory,
    Link,
    /// Device, socket, pipe.
    Other,
}

/// What is known of a file without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metadata {
    /// What it is.
    pub kind: Kind,
    /// Length of its content in bytes.
    pub size: u64,
    /// Permission bits, `07777`.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Seconds since 1970.
    pub mtime: i64,
    /// Number of the filesystem that it lies on: equal for files of the same one.
    pub device: u64,
}

/// What is free on a filesystem.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Bytes that root may still write.
    pub bytes: u64,
    /// Inodes; `u64::MAX` where the filesystem makes them as needed.
    pub inodes: u64,
}

/// A guest's files, read only.
pub trait Files {
    /// What `path` leads to, links followed; `None` where there is nothing, or where links are a ring.
    fn metadata(&self, path: &str) -> Result<Option<Metadata>>;

    /// As [`metadata`](Self::metadata), but a link at the end is told as a link.
    fn link_metadata(&self, path: &str) -> Result<Option<Metadata>>;

    /// The content of the file at `path`, links followed; `None` where there is no regular file.
    ///
    /// # Errors
    ///
    /// `Unsupported` where it is longer than `most` bytes; `Io`.
    fn read(&self, path: &str, most: u64) -> Result<Option<Vec<u8>>>;

    /// Sorted names in the directory at `path`, without "." and ".."; empty where there is no directory.
    fn list(&self, path: &str) -> Result<Vec<String>>;

    /// Where the link at `path` points, as it says; `None` where there is no link.
    fn read_link(&self, path: &str) -> Result<Option<String>>;

    /// The path without links to what `path` leads to; `None` where there is nothing.
    fn real_path(&self, path: &str) -> Result<Option<String>>;

    /// What is free on the filesystem that holds `path` or its nearest parent that exists.
    fn room(&self, path: &str) -> Result<Room>;

    /// Whether there is anything at `path`, links followed.
    fn exists(&self, path: &str) -> Result<bool> {
        Ok(self.metadata(path)?.is_some())
    }

    /// A text file of at most [`MOST_TEXT`] bytes; `None` where there is none. Bytes that are not UTF-8 become U+FFFD: for
    /// looking only. What is written back is edited as bytes.
    fn text(&self, path: &str) -> Result<Option<String>> {
        Ok(self.read(path, MOST_TEXT)?.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
    }
}
