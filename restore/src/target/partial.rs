// SPDX-License-Identifier: Apache-2.0
//! A file that is not there yet: named `.partial`, locked, and removed unless it is given its name.

use std::fs::{self, File, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use unmoor_images::{Error, ErrorKind, Result, ResultExt, manifest};

/// The place of a file under construction.
#[derive(Debug)]
#[must_use = "a partial file that is not renamed is removed"]
pub(crate) struct Partial {
    path: PathBuf,
    now: PathBuf,
    /// Numbers of the file's filesystem and inode.
    id: (u64, u64),
    /// Tells a running restore's file from that of one that was killed.
    lock: Option<Flock<File>>,
    done: bool,
    /// It stays though it was not finished.
    kept: bool,
}

impl Partial {
    /// Runs `create` with the temporary name for `path`. What a killed run left under that name is removed first, unless it is to be
    /// `kept`: then `create` finds it, and whatever becomes of this run, it stays.
    ///
    /// # Errors
    ///
    /// `Refused` while another restore writes it.
    pub(crate) fn create<T>(
        path: &Path,
        kept: bool,
        create: impl FnOnce(&Path) -> Result<T>,
    ) -> Result<(Self, T)> {
        let mut name = path.as_os_str().to_owned();
        name.push(".partial");
        let now = PathBuf::from(name);
        // Between creating a file and locking it, another run would take it for one that was left behind.
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let _turn =
            File::open(folder).ok().and_then(|folder| Flock::lock(folder, FlockArg::LockExclusive).ok());
        match open(&now) {
            Ok(stale) => {
                lock(stale, &now)?;
                if !kept {
                    fs::remove_file(&now).doing(|| format!("removing {}", now.display()))?;
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(Error::io("opening", error).path(&now)),
        }
        // The guard comes first, so that a creation that fails halfway leaves nothing.
        let mut partial = Self { path: path.to_owned(), now, id: (0, 0), lock: None, done: false, kept };
        let created = create(&partial.now)?;
        let file = open(&partial.now).map_err(|error| Error::io("opening", error).path(&partial.now))?;
        partial.id = id(&file.metadata().doing(|| "looking at the new file")?);
        partial.lock = lock(file, &partial.now)?;
        Ok((partial, created))
    }

    /// Bytes that an unfinished file for `path` takes on its filesystem.
    pub(crate) fn taken(path: &Path) -> u64 {
        let mut name = path.as_os_str().to_owned();
        name.push(".partial");
        fs::metadata(name).map_or(0, |metadata| metadata.blocks().saturating_mul(512))
    }

    /// Its temporary name.
    pub(crate) fn now(&self) -> &Path {
        &self.now
    }

    /// Gives the file its name, so that it survives a crash. Replaces what has that name.
    ///
    /// # Errors
    ///
    /// Also where another file has come to have its temporary name: that is not the one that was verified.
    pub(crate) fn rename(&mut self) -> Result<()> {
        if !self.is_ours() {
            let because = "another file has taken its place";
            return Err(Error::new(ErrorKind::Io, "renaming").path(&self.now).because(because));
        }
        fs::rename(&self.now, &self.path)
            .doing(|| format!("renaming {} to {}", self.now.display(), self.path.display()))?;
        self.done = true;
        manifest::sync_folder(&self.path)
    }
}

impl Partial {
    fn is_ours(&self) -> bool {
        fs::symlink_metadata(&self.now).is_ok_and(|found| id(&found) == self.id)
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.done && !self.kept && (self.id == (0, 0) || self.is_ours()) {
            // The error that led here is the one to report; the name says what it is.
            let _ = fs::remove_file(&self.now);
        }
    }
}

fn id(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

/// For writing: NFS makes locks of this kind into such as need it.
fn open(path: &Path) -> std::io::Result<File> {
    File::options().write(true).open(path)
}

/// None on a filesystem without locks.
fn lock(file: File, path: &Path) -> Result<Option<Flock<File>>> {
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Some(lock)),
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => {
            Err(Error::refused("writing", "another unmoor is writing it right now").path(path))
        }
        Err(_) => Ok(None),
    }
}
