// SPDX-License-Identifier: Apache-2.0
//! A file that is not there yet: named `.partial`, locked, and removed unless it is given its name.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use unmoor_images::{Error, Result, ResultExt, manifest};

/// The place of a file under construction.
#[derive(Debug)]
#[must_use = "a partial file that is not renamed is removed"]
pub(crate) struct Partial {
    path: PathBuf,
    now: PathBuf,
    /// Tells a running restore's file from that of one that was killed.
    lock: Option<Flock<File>>,
    done: bool,
}

impl Partial {
    /// Runs `create` with the temporary name for `path`. What a killed run left under that name is removed first.
    ///
    /// # Errors
    ///
    /// `Refused` while another restore writes it.
    pub(crate) fn create<T>(path: &Path, create: impl FnOnce(&Path) -> Result<T>) -> Result<(Self, T)> {
        let mut name = path.as_os_str().to_owned();
        name.push(".partial");
        let now = PathBuf::from(name);
        match File::open(&now) {
            Ok(stale) => {
                lock(stale, &now)?;
                fs::remove_file(&now).doing(|| format!("removing {}", now.display()))?;
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(Error::io("opening", error).path(&now)),
        }
        // The guard comes first, so that a creation that fails halfway leaves nothing.
        let mut partial = Self { path: path.to_owned(), now, lock: None, done: false };
        let created = create(&partial.now)?;
        let file =
            File::open(&partial.now).map_err(|error| Error::io("opening", error).path(&partial.now))?;
        partial.lock = Some(lock(file, &partial.now)?);
        Ok((partial, created))
    }

    /// Its temporary name.
    pub(crate) fn now(&self) -> &Path {
        &self.now
    }

    /// Gives the file its name, so that it survives a crash. Replaces what has that name.
    pub(crate) fn rename(&mut self) -> Result<()> {
        fs::rename(&self.now, &self.path)
            .doing(|| format!("renaming {} to {}", self.now.display(), self.path.display()))?;
        self.done = true;
        manifest::sync_folder(&self.path)
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.done {
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
