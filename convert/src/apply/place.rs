// SPDX-License-Identifier: Apache-2.0
//! One name in one directory of the guest: everything is done relative to the open directory, and no link at the end is followed.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, readlinkat, renameat};
use nix::sys::stat::{Mode, UtimensatFlags, fchmod, fstatat, mkdirat, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchownat, unlinkat};
use serde::{Deserialize, Serialize};
use unmoor_images::{Error, Result};

use crate::files::Directory;
use crate::plan::{Content, Was};
use crate::sys;

/// include/uapi/linux/fs.h: FS_IMMUTABLE_FL and FS_APPEND_FL.
pub(super) const LOCKED: u32 = 0x10 | 0x20;
/// include/uapi/linux/fs.h: FS_FL_USER_MODIFIABLE.
const OWN: u32 = 0x0003_80ff;

/// Everything of a file but its content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub(super) struct Attributes {
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Seconds and nanoseconds.
    pub(super) accessed: (i64, i64),
    pub(super) modified: (i64, i64),
    pub(super) extended: Vec<(String, Content)>,
    /// Inode flags, where the filesystem has them.
    pub(super) flags: Option<u32>,
}

/// A name in an open directory.
pub(super) struct Place {
    pub(super) directory: File,
    pub(super) name: String,
    path: String,
}

pub(super) fn failed(doing: &str, path: &str, error: impl Into<io::Error>) -> Error {
    Error::io(format!("{doing} the guest's {path}"), error.into())
}

/// "/a/b" -> ("/a", "b").
pub(super) fn split(path: &str) -> (&str, &str) {
    match path.rsplit_once('/') {
        Some(("", name)) => ("/", name),
        Some(both) => both,
        None => ("/", path),
    }
}

impl Place {
    /// The place that `path` means; its directory must be there.
    pub(super) fn open(root: &Directory, path: &str) -> Result<Self> {
        let (parent, name) = split(path);
        let directory = root
            .open_at(parent, OFlag::O_RDONLY | OFlag::O_DIRECTORY, 0)
            .map_err(|error| failed("opening", parent, error))?;
        Ok(Self { directory: directory.into(), name: name.to_owned(), path: path.to_owned() })
    }

    /// Another name in the same directory.
    pub(super) fn sibling(&self, name: &str) -> Result<Self> {
        let directory = self
            .directory
            .try_clone()
            .map_err(|error| failed("opening the directory of", &self.path, error))?;
        let path = format!("{}/{name}", split(&self.path).0.trim_end_matches('/'));
        Ok(Self { directory, name: name.to_owned(), path })
    }

    pub(super) fn failed(&self, doing: &str, error: impl Into<io::Error>) -> Error {
        failed(doing, &self.path, error)
    }

    /// A path of this process that names it.
    fn c_path(&self) -> Result<CString> {
        CString::new(format!("/proc/self/fd/{}/{}", self.directory.as_raw_fd(), self.name))
            .map_err(|error| self.failed("naming", io::Error::other(error)))
    }

    fn open_as(&self, flags: OFlag, mode: u32) -> std::result::Result<OwnedFd, Errno> {
        let flags = flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        openat(&self.directory, self.name.as_str(), flags, Mode::from_bits_truncate(mode))
    }

    /// The regular file, for reading.
    pub(super) fn read(&self) -> Result<File> {
        let file: File =
            self.open_as(OFlag::O_RDONLY, 0).map_err(|error| self.failed("opening", error))?.into();
        let kind = file.metadata().map_err(|error| self.failed("looking at", error))?.file_type();
        if !kind.is_file() {
            return Err(Error::refused(
                format!("opening the guest's {}", self.path),
                "it is no file any more",
            ));
        }
        Ok(file)
    }

    /// A new file, for writing.
    pub(super) fn create(&self) -> Result<File> {
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL;
        Ok(self.open_as(flags, 0o600).map_err(|error| self.failed("making", error))?.into())
    }

    /// What is there now; directories and devices are `None`.
    pub(super) fn state(&self) -> Result<Option<Was>> {
        let found = match fstatat(&self.directory, self.name.as_str(), AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(found) => found,
            Err(Errno::ENOENT) => return Ok(Some(Was::Absent)),
            Err(error) => return Err(self.failed("looking at", error)),
        };
        Ok(match found.st_mode & libc::S_IFMT {
            libc::S_IFREG => {
                let mut hasher = blake3::Hasher::new();
                let size = io::copy(&mut self.read()?, &mut hasher)
                    .map_err(|error| self.failed("reading", error))?;
                Some(Was::File { hash: hasher.finalize().to_hex().to_string(), size })
            }
            libc::S_IFLNK => {
                let target = readlinkat(&self.directory, self.name.as_str())
                    .map_err(|error| self.failed("reading the link", error))?;
                Some(Was::Link { target: target.to_string_lossy().into_owned() })
            }
            _ => None,
        })
    }

    /// Number of names of what is there.
    pub(super) fn links(&self) -> Result<u64> {
        fstatat(&self.directory, self.name.as_str(), AtFlags::AT_SYMLINK_NOFOLLOW)
            .map(|found| found.st_nlink)
            .map_err(|error| self.failed("looking at", error))
    }

    /// All but the content.
    pub(super) fn attributes(&self) -> Result<Attributes> {
        let found = fstatat(&self.directory, self.name.as_str(), AtFlags::AT_SYMLINK_NOFOLLOW)
            .map_err(|error| self.failed("looking at", error))?;
        let extended = sys::attributes(&self.c_path()?)
            .map_err(|error| self.failed("reading the extended attributes of", error))?;
        let flags = match found.st_mode & libc::S_IFMT {
            libc::S_IFREG => {
                sys::flags(&self.read()?).map_err(|error| self.failed("reading the flags of", error))?
            }
            _ => None,
        };
        Ok(Attributes {
            mode: found.st_mode & 0o7777,
            uid: found.st_uid,
            gid: found.st_gid,
            accessed: (found.st_atime, found.st_atime_nsec),
            modified: (found.st_mtime, found.st_mtime_nsec),
            extended: extended.into_iter().map(|(name, value)| (name, value.into())).collect(),
            flags,
        })
    }

    /// Owner, mode and extended attributes, in the order in which one does not undo the other: chown(2) clears set-user-ID bits
    /// and capabilities. What is so already (as on FAT, which has none of them) is left alone.
    pub(super) fn set_attributes(&self, wanted: &Attributes) -> Result<()> {
        let now = self.attributes()?;
        if (now.uid, now.gid) != (wanted.uid, wanted.gid) {
            let (uid, gid) = (Some(Uid::from_raw(wanted.uid)), Some(Gid::from_raw(wanted.gid)));
            fchownat(&self.directory, self.name.as_str(), uid, gid, AtFlags::AT_SYMLINK_NOFOLLOW)
                .map_err(|error| self.failed("changing the owner of", error))?;
        }
        let link = matches!(self.state_kind()?, libc::S_IFLNK);
        if !link && self.mode()? != wanted.mode {
            let file = self.open_as(OFlag::O_RDONLY, 0).map_err(|error| self.failed("opening", error))?;
            fchmod(&file, Mode::from_bits_truncate(wanted.mode))
                .map_err(|error| self.failed("changing the mode of", error))?;
        }
        let path = self.c_path()?;
        let now = sys::attributes(&path)
            .map_err(|error| self.failed("reading the extended attributes of", error))?;
        for (name, _) in &now {
            if !wanted.extended.iter().any(|(known, _)| known == name) {
                sys::remove_attribute(&path, name)
                    .map_err(|error| self.failed(&format!("removing {name} of"), error))?;
            }
        }
        for (name, value) in &wanted.extended {
            if now.iter().any(|(known, had)| known == name && had == value.bytes()) {
                continue;
            }
            sys::set_attribute(&path, name, value.bytes())
                .map_err(|error| self.failed(&format!("setting {name} of"), error))?;
        }
        Ok(())
    }

    /// Sets one extended attribute.
    pub(super) fn set_extended(&self, name: &str, value: &[u8]) -> Result<()> {
        sys::set_attribute(&self.c_path()?, name, value)
            .map_err(|error| self.failed(&format!("setting {name} of"), error))
    }

    /// One extended attribute of what is there.
    pub(super) fn extended(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let all = sys::attributes(&self.c_path()?)
            .map_err(|error| self.failed("reading the extended attributes of", error))?;
        Ok(all.into_iter().find(|(known, _)| known == name).map(|(_, value)| value))
    }

    fn state_kind(&self) -> Result<u32> {
        fstatat(&self.directory, self.name.as_str(), AtFlags::AT_SYMLINK_NOFOLLOW)
            .map(|found| found.st_mode & libc::S_IFMT)
            .map_err(|error| self.failed("looking at", error))
    }

    fn mode(&self) -> Result<u32> {
        fstatat(&self.directory, self.name.as_str(), AtFlags::AT_SYMLINK_NOFOLLOW)
            .map(|found| found.st_mode & 0o7777)
            .map_err(|error| self.failed("looking at", error))
    }

    pub(super) fn set_times(&self, attributes: &Attributes) -> Result<()> {
        let time = |(seconds, nanos)| TimeSpec::new(seconds, nanos);
        let (accessed, modified) = (time(attributes.accessed), time(attributes.modified));
        utimensat(&self.directory, self.name.as_str(), &accessed, &modified, UtimensatFlags::NoFollowSymlink)
            .map_err(|error| self.failed("setting the times of", error))
    }

    /// Flags that a new file is to have while it is written; `locked`: also those that forbid further changes.
    pub(super) fn set_flags(&self, wanted: Option<u32>, locked: bool) -> Result<()> {
        let Some(wanted) = wanted.map(|all| all & OWN).filter(|own| *own != 0) else { return Ok(()) };
        let file = self.read()?;
        let doing = |error| self.failed("setting the flags of", error);
        let Some(now) = sys::flags(&file).map_err(doing)? else { return Ok(()) };
        let wanted = if locked { wanted } else { wanted & !LOCKED };
        let flags = now & !OWN | wanted | now & OWN & !LOCKED;
        if flags != now {
            sys::set_flags(&file, flags).map_err(doing)?;
        }
        Ok(())
    }

    /// Clears the flags that forbid changes, of the file there.
    pub(super) fn unlock(&self) -> Result<()> {
        if self.state_kind()? != libc::S_IFREG {
            return Ok(());
        }
        let file = self.read()?;
        let doing = |error| self.failed("clearing the flags of", error);
        if let Some(flags) = sys::flags(&file).map_err(doing)?.filter(|flags| flags & LOCKED != 0) {
            sys::set_flags(&file, flags & !LOCKED).map_err(doing)?;
        }
        Ok(())
    }

    pub(super) fn rename_to(&self, to: &Self) -> Result<()> {
        renameat(&self.directory, self.name.as_str(), &to.directory, to.name.as_str())
            .map_err(|error| to.failed("putting the new file in the place of", error))
    }

    pub(super) fn make_directory(&self) -> Result<()> {
        match mkdirat(&self.directory, self.name.as_str(), Mode::from_bits_truncate(0o755)) {
            Ok(()) => Ok(()),
            Err(error) => Err(self.failed("making the directory", error)),
        }
    }

    /// Removes a file or link; that there is none is no error.
    pub(super) fn remove(&self) -> Result<()> {
        match unlinkat(&self.directory, self.name.as_str(), UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(error) => Err(self.failed("removing", error)),
        }
    }

    /// Removes a directory if it is empty; whether it is gone.
    pub(super) fn remove_directory(&self) -> Result<bool> {
        match unlinkat(&self.directory, self.name.as_str(), UnlinkatFlags::RemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => Ok(true),
            Err(Errno::ENOTEMPTY | Errno::EEXIST | Errno::ENOTDIR) => Ok(false),
            Err(error) => Err(self.failed("removing the directory", error)),
        }
    }

    /// Makes what was done in the directory last.
    pub(super) fn flush_directory(&self) -> Result<()> {
        self.directory.sync_all().map_err(|error| self.failed("flushing the directory of", error))
    }

    /// Whether the filesystem is FAT, where the mount decides about owners and modes (include/uapi/linux/magic.h: MSDOS_SUPER_MAGIC).
    pub(super) fn has_fixed_modes(&self) -> Result<bool> {
        let found =
            nix::sys::statfs::fstatfs(&self.directory).map_err(|error| self.failed("looking at", error))?;
        Ok(found.filesystem_type() == nix::sys::statfs::MSDOS_SUPER_MAGIC)
    }
}
