// SPDX-License-Identifier: Apache-2.0
//! The kernel's requests.
//!
//! ```text
//!   inode 1              the directory itself
//!   index << 48 | n      n = 1: entry number `index` (from 1); n > 1: a file of its tree
//! ```

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{
    Config, Errno, FileAttr, FileHandle, FileType, Filesystem, Generation, INodeNo, LockOwner, MountOption,
    OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyEntry, Request, Session, SessionACL,
};
use nix::mount::{MntFlags, umount2};
use unmoor_images::filesystem::files::{Kind, Node, Status};
use unmoor_images::{Error, ErrorKind, Monitor, Result};

use crate::files::Tree;
use crate::top::{Content, Entry, Top};

/// How to mount.
#[derive(Debug, Clone)]
pub struct Options {
    /// An existing directory.
    pub directory: PathBuf,
    /// What `mount` shows as its source.
    pub name: String,
    /// Let others than the user who mounts read it. Files keep their own owners and permissions.
    pub allow_other: bool,
    /// When the image was made, in seconds since 1970.
    pub modified: i64,
}

/// Nothing changes: the kernel may remember for a day.
const TTL: Duration = Duration::from_secs(86_400);
/// Threads that answer: chunks are fetched and unpacked side by side.
const THREADS: usize = 4;
const POLL: Duration = Duration::from_millis(50);
/// Bits of an inode number that count within an entry.
const BITS: u32 = 48;

/// Mounts, and answers until somebody unmounts it or the monitor is cancelled. `started` hears when it is there.
///
/// # Errors
///
/// `Io` where the kernel has no FUSE, or the user may not use it.
pub fn mount(
    top: Top,
    options: &Options,
    monitor: &dyn Monitor,
    started: &mut dyn FnMut() -> Result<()>,
) -> Result<()> {
    let directory = &options.directory;
    let doing = |error| Error::io("mounting on", error).path(directory);
    let known = std::fs::metadata(directory).map_err(doing)?;
    if !known.is_dir() {
        return Err(Error::new(ErrorKind::Usage, "mounting on")
            .path(directory)
            .because("it is not a directory"));
    }
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::RO,
        MountOption::NoSuid,
        MountOption::NoDev,
        MountOption::NoExec,
        MountOption::DefaultPermissions,
        MountOption::FSName(options.name.replace(',', "_")),
        MountOption::Subtype("unmoor".to_owned()),
    ];
    config.acl = if options.allow_other { SessionACL::All } else { SessionACL::Owner };
    config.n_threads = Some(THREADS);
    let owner = (nix::unistd::getuid().as_raw(), nix::unistd::getgid().as_raw());
    let session = Session::new(Mounted { top, owner, time: time((options.modified, 0)) }, directory, &config)
        .and_then(Session::spawn)
        .map_err(doing)?;
    started()?;
    let mut asked = false;
    while !session.guard.is_finished() {
        std::thread::sleep(POLL);
        if !monitor.cancelled() || asked {
            continue;
        }
        asked = true;
        match umount2(directory, MntFlags::empty()) {
            // Who has it open, a loop device perhaps, goes on reading; nobody new comes.
            Err(nix::errno::Errno::EBUSY) => {
                monitor.warn(format!("{} is in use: it ends when it is no longer", directory.display()));
                umount2(directory, MntFlags::MNT_DETACH).map_err(|error| doing(error.into()))?;
            }
            // Not root: fusermount does it, when the session is dropped.
            Err(_) => break,
            Ok(()) => {}
        }
    }
    // What somebody has unmounted already cannot be unmounted again.
    let ended = if session.guard.is_finished() { session.join() } else { session.umount_and_join() };
    ended.map_err(|error| Error::io("serving", error).path(directory))
}

/// The mounted image.
struct Mounted {
    top: Top,
    owner: (u32, u32),
    time: SystemTime,
}

/// Where an inode is.
enum Where<'a> {
    Top,
    Entry(&'a Entry),
    Tree(&'a Mutex<Tree>, u64, u64),
}

fn lock(tree: &Mutex<Tree>) -> MutexGuard<'_, Tree> {
    tree.lock().unwrap_or_else(PoisonError::into_inner)
}

fn inode(index: u64, number: u64) -> u64 {
    (index + 1) << BITS | (number + 1)
}

fn time((seconds, nanoseconds): (i64, u32)) -> SystemTime {
    let nanoseconds = Duration::from_nanos(nanoseconds.into());
    let whole = Duration::from_secs(seconds.unsigned_abs());
    let at = if seconds < 0 { UNIX_EPOCH.checked_sub(whole) } else { UNIX_EPOCH.checked_add(whole) };
    at.and_then(|at| at.checked_add(nanoseconds)).unwrap_or(UNIX_EPOCH)
}

impl Mounted {
    fn find(&self, inode: INodeNo) -> Option<Where<'_>> {
        let inode = u64::from(inode);
        if inode == 1 {
            return Some(Where::Top);
        }
        let (index, number) = ((inode >> BITS).checked_sub(1)?, (inode & ((1 << BITS) - 1)).checked_sub(1)?);
        let entry = self.top.entries.get(usize::try_from(index).ok()?)?;
        match &entry.content {
            Content::Tree(tree) => Some(Where::Tree(tree, index, number)),
            Content::Raw(_) => Some(Where::Entry(entry)),
        }
    }

    fn attributes(&self, at: INodeNo) -> std::result::Result<FileAttr, Errno> {
        let own = |kind, perm, size| FileAttr {
            ino: at,
            size,
            blocks: size.div_ceil(512),
            atime: self.time,
            mtime: self.time,
            ctime: self.time,
            crtime: self.time,
            kind,
            perm,
            nlink: 1,
            uid: self.owner.0,
            gid: self.owner.1,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        };
        match self.find(at).ok_or(Errno::ENOENT)? {
            Where::Top => Ok(own(FileType::Directory, 0o755, 0)),
            Where::Entry(entry) => Ok(own(FileType::RegularFile, 0o440, entry.size)),
            Where::Tree(tree, _, number) => {
                let found = lock(tree).node(number).map_err(|_| Errno::EIO)?;
                let (node, status) = found.ok_or(Errno::ENOENT)?;
                Ok(of_file(own(file_type(node.kind, status.mode), 0, node.size), &node, &status))
            }
        }
    }
}

fn of_file(base: FileAttr, node: &Node, status: &Status) -> FileAttr {
    let modified = status.modified.map_or(base.mtime, time);
    FileAttr {
        size: if node.kind == Kind::Other { 0 } else { node.size },
        atime: modified,
        mtime: modified,
        ctime: status.changed.map_or(base.ctime, time),
        perm: (status.mode & 0o7777) as u16,
        nlink: status.links,
        uid: status.uid,
        gid: status.gid,
        ..base
    }
}

fn file_type(kind: Kind, mode: u32) -> FileType {
    match kind {
        Kind::File => FileType::RegularFile,
        Kind::Directory => FileType::Directory,
        Kind::Link => FileType::Symlink,
        Kind::Other => match mode & 0o170_000 {
            0o020_000 => FileType::CharDevice,
            0o060_000 => FileType::BlockDevice,
            0o140_000 => FileType::Socket,
            _ => FileType::NamedPipe,
        },
    }
}

impl Filesystem for Mounted {
    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let found = match self.find(parent) {
            Some(Where::Top) => {
                let index =
                    self.top.entries.iter().position(|entry| entry.name.as_bytes() == name.as_bytes());
                index.map(|index| inode(index as u64, 0)).ok_or(Errno::ENOENT)
            }
            Some(Where::Tree(tree, index, number)) => match lock(tree).find(number, name.as_bytes()) {
                Ok(Some(found)) => Ok(inode(index, found)),
                Ok(None) => Err(Errno::ENOENT),
                Err(_) => Err(Errno::EIO),
            },
            _ => Err(Errno::ENOTDIR),
        };
        match found.and_then(|found| self.attributes(INodeNo(found))) {
            Ok(attributes) => reply.entry(&TTL, &attributes, Generation(0)),
            Err(error) => reply.error(error),
        }
    }

    fn getattr(&self, _request: &Request, at: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        match self.attributes(at) {
            Ok(attributes) => reply.attr(&TTL, &attributes),
            Err(error) => reply.error(error),
        }
    }

    fn readlink(&self, _request: &Request, at: INodeNo, reply: ReplyData) {
        match self.find(at) {
            Some(Where::Tree(tree, _, number)) => match lock(tree).read(number, 0, 4096) {
                Ok(target) => reply.data(&target),
                Err(_) => reply.error(Errno::EIO),
            },
            _ => reply.error(Errno::EINVAL),
        }
    }

    fn read(
        &self,
        _request: &Request,
        at: INodeNo,
        _handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let read = match self.find(at) {
            Some(Where::Entry(entry)) => match &entry.content {
                Content::Raw(source) => {
                    let len = entry.size.saturating_sub(offset).min(size.into());
                    let mut data = vec![0; len as usize];
                    source.read_at(&mut data, offset).map(|()| data)
                }
                Content::Tree(_) => return reply.error(Errno::EISDIR),
            },
            Some(Where::Tree(tree, _, number)) => lock(tree).read(number, offset, size as usize),
            Some(Where::Top) => return reply.error(Errno::EISDIR),
            None => return reply.error(Errno::ENOENT),
        };
        match read {
            Ok(data) => reply.data(&data),
            Err(_) => reply.error(Errno::EIO),
        }
    }

    fn readdir(
        &self,
        _request: &Request,
        at: INodeNo,
        _handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let skip = usize::try_from(offset).unwrap_or(usize::MAX);
        let mut add = |index: usize, inode: u64, kind: FileType, name: &[u8]| {
            reply.add(INodeNo(inode), index as u64 + 1, kind, OsStr::from_bytes(name))
        };
        match self.find(at) {
            Some(Where::Top) => {
                for (index, entry) in self.top.entries.iter().enumerate().skip(skip) {
                    let kind = if entry.is_directory() { FileType::Directory } else { FileType::RegularFile };
                    if add(index, inode(index as u64, 0), kind, entry.name.as_bytes()) {
                        break;
                    }
                }
            }
            Some(Where::Tree(tree, index, number)) => {
                let Ok(names) = lock(tree).names(number) else { return reply.error(Errno::EIO) };
                for (place, (name, number, kind)) in names.iter().enumerate().skip(skip) {
                    if add(place, inode(index, *number), file_type(*kind, 0), name) {
                        break;
                    }
                }
            }
            _ => return reply.error(Errno::ENOTDIR),
        }
        reply.ok();
    }
}
