// SPDX-License-Identifier: Apache-2.0
//! Files that may be read.

use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use unmoor_images::{Error, Result};

/// A file that is read.
pub enum Opened {
    /// It lies on a disk.
    File(File, u64),
    /// It is made for whoever asks.
    Memory(Vec<u8>),
}

impl Opened {
    /// Bytes.
    pub fn size(&self) -> u64 {
        match self {
            Self::File(_, size) => *size,
            Self::Memory(bytes) => bytes.len() as u64,
        }
    }

    /// Fills `buf` from byte `offset`.
    pub(crate) fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        match self {
            Self::File(file, _) => file.read_exact_at(buf, offset),
            Self::Memory(bytes) => {
                let start = usize::try_from(offset).map_err(|_| io::ErrorKind::UnexpectedEof)?;
                let part = bytes.get(start..).and_then(|rest| rest.get(..buf.len()));
                buf.copy_from_slice(part.ok_or(io::ErrorKind::UnexpectedEof)?);
                Ok(())
            }
        }
    }
}

/// Who has files.
pub trait Files: Send + Sync {
    /// The file `name` for `client`; none where there is none that it may read.
    fn open(&self, name: &str, client: IpAddr) -> Result<Option<Opened>>;
}

/// Files of a folder, and of those below. Nothing outside of it is reached, by no name and no link.
pub struct Folder {
    folder: File,
    path: PathBuf,
}

impl Folder {
    /// Opens the folder.
    pub fn open(path: &Path) -> Result<Self> {
        let folder = File::open(path).map_err(|error| Error::io("opening", error).path(path))?;
        Ok(Self { folder, path: path.to_owned() })
    }
}

impl Files for Folder {
    fn open(&self, name: &str, _client: IpAddr) -> Result<Option<Opened>> {
        // Some firmware writes paths as DOS does, and all of them as if this folder were the root.
        let name = name.replace('\\', "/");
        let name = name.trim_start_matches('/');
        let parts = name.split('/').filter(|part| !part.is_empty() && *part != ".");
        let path: PathBuf = parts.collect();
        if path.as_os_str().is_empty() {
            return Ok(None);
        }
        // RESOLVE_BENEATH refuses .. and links that lead out; O_NONBLOCK, to wait for no pipe's other end.
        let how = OpenHow::new()
            .flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)
            .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        let file = match openat2(&self.folder, &path, how) {
            Ok(file) => File::from(file),
            Err(
                Errno::ENOENT
                | Errno::ENOTDIR
                | Errno::EXDEV
                | Errno::ELOOP
                | Errno::EACCES
                | Errno::ENAMETOOLONG,
            ) => {
                return Ok(None);
            }
            Err(error) => return Err(Error::io("opening", error.into()).path(self.path.join(path))),
        };
        let facts =
            file.metadata().map_err(|error| Error::io("opening", error).path(self.path.join(&path)))?;
        Ok(facts.is_file().then_some(Opened::File(file, facts.len())))
    }
}
