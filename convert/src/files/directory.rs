// SPDX-License-Identifier: Apache-2.0
//! A mounted guest. The kernel keeps every path inside: openat2(2) with `RESOLVE_IN_ROOT` takes the directory for the root of
//! absolute paths and links, and `RESOLVE_NO_MAGICLINKS` refuses those of /proc.

use std::fs::File;
use std::io::{ErrorKind as Io, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::Mode;
use unmoor_images::{Error, Result};

use super::{Files, Kind, MOST_NAMES, Metadata, Room};

/// A directory taken for the root of a guest.
#[derive(Debug)]
pub struct Directory {
    root: OwnedFd,
}

impl Directory {
    /// Takes the directory at `path`; what is mounted below it belongs to it.
    ///
    /// # Errors
    ///
    /// `Io` where it cannot be opened.
    pub fn open(path: &Path) -> Result<Self> {
        let file =
            File::open(path).map_err(|error| Error::io("opening the guest's root", error).path(path))?;
        Ok(Self { root: file.into() })
    }

    /// Opens `path` below the root with the flags that are given.
    ///
    /// # Errors
    ///
    /// As openat2(2).
    pub fn open_at(&self, path: &str, flags: OFlag, mode: u32) -> std::result::Result<OwnedFd, Errno> {
        // openat2 refuses flags that O_PATH makes meaningless.
        let more =
            if flags.contains(OFlag::O_PATH) { OFlag::O_CLOEXEC } else { OFlag::O_CLOEXEC | OFlag::O_NOCTTY };
        let how = OpenHow::new()
            .flags(flags | more)
            .mode(Mode::from_bits_truncate(mode))
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        let relative = path.trim_start_matches('/');
        openat2(&self.root, if relative.is_empty() { "." } else { relative }, how)
    }

    /// What is at `path`, without opening it; `None` where there is nothing.
    fn find(&self, path: &str, flags: OFlag) -> Result<Option<OwnedFd>> {
        match self.open_at(path, OFlag::O_PATH | flags, 0) {
            Ok(found) => Ok(Some(found)),
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP | Errno::ENAMETOOLONG) => Ok(None),
            Err(error) => Err(failed("looking for", path, error)),
        }
    }
}

/// The link in /proc that stands for an open file.
fn magic(fd: &impl AsFd) -> String {
    format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd())
}

fn failed(doing: &str, path: &str, error: impl Into<std::io::Error>) -> Error {
    Error::io(format!("{doing} the guest's {path}"), error.into())
}

fn metadata(fd: OwnedFd, path: &str) -> Result<Metadata> {
    let found = File::from(fd).metadata().map_err(|error| failed("looking at", path, error))?;
    let kind = match found.file_type() {
        kind if kind.is_file() => Kind::File,
        kind if kind.is_dir() => Kind::Directory,
        kind if kind.is_symlink() => Kind::Link,
        _ => Kind::Other,
    };
    Ok(Metadata {
        kind,
        size: found.size(),
        mode: found.mode() & 0o7777,
        uid: found.uid(),
        gid: found.gid(),
        mtime: found.mtime(),
        device: found.dev(),
    })
}

impl Files for Directory {
    fn metadata(&self, path: &str) -> Result<Option<Metadata>> {
        self.find(path, OFlag::empty())?.map(|fd| metadata(fd, path)).transpose()
    }

    fn link_metadata(&self, path: &str) -> Result<Option<Metadata>> {
        self.find(path, OFlag::O_NOFOLLOW)?.map(|fd| metadata(fd, path)).transpose()
    }

    fn read(&self, path: &str, most: u64) -> Result<Option<Vec<u8>>> {
        let Some(found) = Files::metadata(self, path)?.filter(|found| found.kind == Kind::File) else {
            return Ok(None);
        };
        if found.size > most {
            return Err(Error::unsupported(
                format!("reading the guest's {path}"),
                format!("it has {} bytes, and no more than {most} are expected there", found.size),
            ));
        }
        // Not blocking: what was a file a moment ago may be a pipe now.
        let fd = self
            .open_at(path, OFlag::O_RDONLY | OFlag::O_NONBLOCK, 0)
            .map_err(|error| failed("opening", path, error))?;
        let mut bytes = Vec::new();
        File::from(fd).take(most).read_to_end(&mut bytes).map_err(|error| failed("reading", path, error))?;
        Ok(Some(bytes))
    }

    fn list(&self, path: &str) -> Result<Vec<String>> {
        let directory = match self.find(path, OFlag::O_DIRECTORY)? {
            Some(directory) => directory,
            None => return Ok(Vec::new()),
        };
        let mut names = Vec::new();
        for entry in std::fs::read_dir(magic(&directory)).map_err(|error| failed("listing", path, error))? {
            let entry = entry.map_err(|error| failed("listing", path, error))?;
            if names.len() >= MOST_NAMES {
                return Err(Error::unsupported(
                    format!("listing the guest's {path}"),
                    format!("it has more than {MOST_NAMES} names"),
                ));
            }
            names.extend(entry.file_name().into_string());
        }
        names.sort();
        Ok(names)
    }

    fn read_link(&self, path: &str) -> Result<Option<String>> {
        let Some(link) = self.find(path, OFlag::O_NOFOLLOW)? else { return Ok(None) };
        match nix::fcntl::readlinkat(&link, "") {
            Ok(target) => Ok(target.into_string().ok()),
            Err(Errno::EINVAL | Errno::ENOENT) => Ok(None),
            Err(error) => Err(failed("reading the link", path, error)),
        }
    }

    fn real_path(&self, path: &str) -> Result<Option<String>> {
        let Some(found) = self.find(path, OFlag::empty())? else { return Ok(None) };
        let at = |fd: &OwnedFd| {
            std::fs::read_link(magic(fd)).map_err(|error| failed("finding the real path of", path, error))
        };
        let (root, found) = (at(&self.root)?, at(&found)?);
        Ok(found.strip_prefix(&root).ok().and_then(Path::to_str).map(|inside| format!("/{inside}")))
    }

    fn room(&self, path: &str) -> Result<Room> {
        let mut path = path;
        loop {
            if let Some(found) = self.find(path, OFlag::empty())? {
                // Btrfs and others that make inodes as needed tell none.
                let found = nix::sys::statvfs::statvfs(magic(&found).as_str())
                    .map_err(|error| failed("asking for the room at", path, error))?;
                let inodes = if found.files() == 0 { u64::MAX } else { found.files_available() };
                let bytes = found.blocks_free().saturating_mul(found.fragment_size());
                return Ok(Room { bytes, inodes });
            }
            path = match path.trim_end_matches('/').rsplit_once('/') {
                Some((parent, _)) if !parent.is_empty() => parent,
                _ if path != "/" => "/",
                _ => return Err(failed("asking for the room at", path, std::io::Error::from(Io::NotFound))),
            };
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn no_path_and_no_link_leads_out_of_the_root() {
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("secret"), "outside").unwrap();
        let inside = tempfile::tempdir().unwrap();
        let at = |name: &str| inside.path().join(name);
        symlink(outside.path(), at("etc")).unwrap();
        symlink("../../../../..", at("up")).unwrap();
        symlink("loop", at("loop")).unwrap();
        symlink("/usr/lib", at("lib")).unwrap();
        std::fs::create_dir_all(at("usr/lib")).unwrap();
        std::fs::write(at("usr/lib/os-release"), "ID=debian\n").unwrap();
        let files = Directory::open(inside.path()).unwrap();

        assert_eq!(files.read("/etc/secret", 100).unwrap(), None);
        let outside_by_dots = format!("/up{}/secret", outside.path().display());
        assert_eq!(files.read(&outside_by_dots, 100).unwrap(), None);
        assert_eq!(files.metadata("/loop").unwrap(), None);
        assert_eq!(files.link_metadata("/loop").unwrap().unwrap().kind, Kind::Link);
        assert_eq!(files.text("/lib/os-release").unwrap().unwrap(), "ID=debian\n");
        assert_eq!(files.real_path("/lib/os-release").unwrap().unwrap(), "/usr/lib/os-release");
        assert_eq!(files.read_link("/lib").unwrap().unwrap(), "/usr/lib");
        assert_eq!(files.read_link("/usr").unwrap(), None);
        assert!(files.read("/lib/os-release", 3).is_err());
        assert_eq!(files.list("/").unwrap(), ["etc", "lib", "loop", "up", "usr"]);
        assert!(files.room("/usr/not/there").unwrap().bytes > 0);
    }
}
