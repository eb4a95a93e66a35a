// SPDX-License-Identifier: Apache-2.0
//! Files under construction: named `.partial`, locked, and removed unless they are committed.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use unmoor_images::{Error, Result, ResultExt};

use crate::request::append;

/// A file that is not there yet.
#[must_use = "a partial file that is not committed is removed"]
pub(crate) struct Partial {
    /// Where it will be.
    path: PathBuf,
    /// Where it is now; this is what is removed.
    now: PathBuf,
    /// Tells a running capture's files from those of one that was killed.
    lock: Option<Flock<File>>,
    kept: bool,
}

impl Partial {
    /// Runs `create` with the temporary name for `path`. What a killed run left under that name is removed first.
    pub(crate) fn create<T>(path: &Path, create: impl FnOnce(&Path) -> Result<T>) -> Result<(Self, T)> {
        let now = append(path, ".partial");
        match File::open(&now) {
            Ok(stale) => {
                lock(stale, &now)?;
                fs::remove_file(&now).doing(|| format!("removing {}", now.display()))?;
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(Error::io("opening", error).path(&now)),
        }
        // The guard comes first, so that a creation that fails halfway leaves nothing.
        let mut partial = Self { path: path.to_owned(), now, lock: None, kept: false };
        let created = create(&partial.now)?;
        let file =
            File::open(&partial.now).map_err(|error| Error::io("opening", error).path(&partial.now))?;
        partial.lock = Some(lock(file, &partial.now)?);
        Ok((partial, created))
    }

    /// Gives the file its name. It is still removed on failure, until [`keep`](Self::keep).
    pub(crate) fn rename(&mut self) -> Result<()> {
        fs::rename(&self.now, &self.path)
            .doing(|| format!("renaming {} to {}", self.now.display(), self.path.display()))?;
        self.now.clone_from(&self.path);
        Ok(())
    }

    /// Everything that belongs together is in place.
    pub(crate) fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.kept {
            // The error that led here is the one to report; the name says what it is.
            let _ = fs::remove_file(&self.now);
        }
    }
}

fn lock(file: File, path: &Path) -> Result<Flock<File>> {
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
        nix::errno::Errno::EWOULDBLOCK => {
            Error::refused("writing", "another unmoor is writing it right now").path(path)
        }
        other => Error::io("locking", other.into()).path(path),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_kept_is_removed_and_what_is_stale_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.qcow2");
        let write = |path: &Path| fs::write(path, "new").doing(|| "writing");
        let names = || fs::read_dir(folder.path()).unwrap().count();
        fs::write(append(&path, ".partial"), "left by a killed run").unwrap();

        let (running, ()) = Partial::create(&path, write).unwrap();
        let refused = Partial::create(&path, write).err().unwrap();
        assert_eq!(refused.kind(), unmoor_images::ErrorKind::Refused);
        drop(running);
        assert_eq!(names(), 0);

        let (mut renamed, ()) = Partial::create(&path, write).unwrap();
        renamed.rename().unwrap();
        drop(renamed);
        assert_eq!(names(), 0, "renamed, but not everything came to be");

        let (mut kept, ()) = Partial::create(&path, write).unwrap();
        kept.rename().unwrap();
        kept.keep();
        assert_eq!(fs::read(&path).unwrap(), b"new");

        let failed = Partial::create(&folder.path().join("b"), |path| {
            write(path)?;
            Err::<(), _>(Error::malformed("creating", "no"))
        });
        assert!(failed.is_err());
        assert_eq!(names(), 1);
    }
}
