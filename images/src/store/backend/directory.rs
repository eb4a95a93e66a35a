// SPDX-License-Identifier: Apache-2.0
//! A store in a directory: one file an object.
//!
//! A file is written in `tmp/`, flushed, and renamed; the folders are flushed at the barrier. The object-storage crate
//! has a local directory too, but one without any flush, and its writes go through the page cache: what a capture writes
//! nobody reads soon (see `formats/file.rs` for the measurement).

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{ErrorKind as Io, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use super::{Backend, Listed};
use crate::formats::Writer;
use crate::{Error, Result, ResultExt};

/// Where objects are before they have their names.
const TEMPORARY: &str = "tmp";

/// A temporary file of this age was left by a killed run, unless somebody has it locked.
const STALE: Duration = Duration::from_secs(3600);

/// A store in a directory.
#[derive(Debug)]
pub struct Directory {
    root: PathBuf,
    /// Folders with entries that are not flushed yet.
    dirty: Mutex<BTreeSet<PathBuf>>,
    count: AtomicU64,
}

impl Directory {
    /// Names a directory, which need not be there yet.
    pub fn open(root: &Path) -> Self {
        Self { root: root.to_owned(), dirty: Mutex::default(), count: AtomicU64::new(0) }
    }

    fn path(&self, name: &str) -> PathBuf {
        debug_assert!(!name.is_empty() && name.split('/').all(|part| !matches!(part, "" | "." | "..")));
        self.root.join(name)
    }

    fn dirty(&self) -> std::sync::MutexGuard<'_, BTreeSet<PathBuf>> {
        self.dirty.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open_object(&self, name: &str) -> Result<Option<File>> {
        let path = self.path(name);
        match File::open(&path) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == Io::NotFound => Ok(None),
            Err(error) if error.kind() == Io::NotADirectory => {
                let doing = format!("opening the store in {}", self.root.display());
                Err(Error::refused(doing, "a store is a directory, and this is a file or lies below one"))
            }
            Err(error) => Err(Error::io("opening", error).path(path)),
        }
    }

    /// Makes a folder with those above it, and remembers whose entries are new.
    fn make_folder(&self, folder: &Path) -> Result<()> {
        if folder.is_dir() {
            return Ok(());
        }
        if let Some(above) = folder.parent().filter(|above| !above.as_os_str().is_empty()) {
            self.make_folder(above)?;
            self.dirty().insert(above.to_owned());
        }
        match fs::create_dir(folder) {
            Err(error) if error.kind() != Io::AlreadyExists => Err(Error::io("creating", error).path(folder)),
            _ => Ok(()),
        }
    }

    /// Writes and flushes a file of a name that nobody else has; it is locked as long as the answer lives.
    fn write_temporary(&self, data: &[u8]) -> Result<Temporary> {
        let folder = self.root.join(TEMPORARY);
        self.make_folder(&folder)?;
        let mut random = [0; 12];
        super::super::keys::random(&mut random)?;
        let mut name: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        name.push_str(&format!("-{}", self.count.fetch_add(1, Ordering::Relaxed)));
        let mut temporary = Temporary { path: folder.join(name), _lock: None };
        let writer = Writer::create(&temporary.path)?;
        let file = File::open(&temporary.path).doing(|| "opening a temporary file")?;
        // Without locks on this filesystem, the file's age alone tells.
        temporary._lock = nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockExclusiveNonblock).ok();
        writer.write(data, 0)?;
        writer.sync()?;
        Ok(temporary)
    }

    /// Removes what killed runs left in `tmp/`.
    fn sweep(&self) {
        let Ok(entries) = fs::read_dir(self.root.join(TEMPORARY)) else { return };
        for entry in entries.flatten() {
            let age = entry.metadata().and_then(|data| data.modified()).ok();
            let old = age.and_then(|time| SystemTime::now().duration_since(time).ok());
            let Ok(file) = File::open(entry.path()) else { continue };
            let locked = nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockExclusiveNonblock).is_err();
            if old.is_some_and(|age| age >= STALE) && !locked {
                // Room that stays lost until the next run; not a reason to fail.
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

/// A file without a name of its own yet, removed unless it gets one.
struct Temporary {
    path: PathBuf,
    _lock: Option<nix::fcntl::Flock<File>>,
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

impl Backend for Directory {
    fn describe(&self) -> String {
        self.root.display().to_string()
    }

    fn get(&self, name: &str, most: u64) -> Result<Option<Vec<u8>>> {
        let Some(file) = self.open_object(name)? else { return Ok(None) };
        let mut data = Vec::new();
        let failed = |error| Error::io("reading", error).path(self.path(name));
        file.take(most.saturating_add(1)).read_to_end(&mut data).map_err(failed)?;
        if data.len() as u64 > most {
            return Err(
                Error::malformed("reading", format!("it has more than {most} bytes")).path(self.path(name))
            );
        }
        Ok(Some(data))
    }

    fn read(&self, name: &str, buf: &mut [u8], offset: u64) -> Result<()> {
        let failed = |error| Error::io("reading", error).path(self.path(name)).at(offset);
        let file = self.open_object(name)?.ok_or_else(|| failed(Io::NotFound.into()))?;
        file.read_exact_at(buf, offset).map_err(failed)
    }

    fn tail(&self, name: &str, most: u64) -> Result<Option<(Vec<u8>, u64)>> {
        let Some(file) = self.open_object(name)? else { return Ok(None) };
        let failed = |error| Error::io("reading", error).path(self.path(name));
        let len = file.metadata().map_err(failed)?.len();
        let mut data = vec![0; most.min(len) as usize];
        file.read_exact_at(&mut data, len - most.min(len)).map_err(failed)?;
        Ok(Some((data, len)))
    }

    fn put(&self, name: &str, data: &[u8]) -> Result<()> {
        let path = self.path(name);
        let doing = || format!("writing {}", path.display());
        let temporary = self.write_temporary(data).doing(doing)?;
        let folder = path.parent().unwrap_or(&self.root);
        self.make_folder(folder)?;
        fs::rename(&temporary.path, &path).doing(doing)?;
        self.dirty().insert(folder.to_owned());
        Ok(())
    }

    fn create(&self, name: &str, data: &[u8]) -> Result<bool> {
        let path = self.path(name);
        let doing = || format!("writing {}", path.display());
        let temporary = self.write_temporary(data).doing(doing)?;
        let folder = path.parent().unwrap_or(&self.root);
        self.make_folder(folder)?;
        // A link does not replace, a rename would.
        match fs::hard_link(&temporary.path, &path) {
            Ok(()) => {}
            Err(error) if error.kind() == Io::AlreadyExists => return Ok(false),
            // FUSE and some network filesystems have no links.
            Err(_) if path.exists() => return Ok(false),
            Err(_) => fs::rename(&temporary.path, &path).doing(doing)?,
        }
        self.dirty().insert(folder.to_owned());
        Ok(true)
    }

    fn barrier(&self) -> Result<()> {
        let dirty = std::mem::take(&mut *self.dirty());
        for folder in dirty {
            let folder = if folder.as_os_str().is_empty() { PathBuf::from(".") } else { folder };
            File::open(&folder)
                .and_then(|file| file.sync_all())
                .map_err(|error| Error::io("flushing", error).path(&folder))?;
        }
        self.sweep();
        Ok(())
    }

    fn delete(&self, name: &str) -> Result<()> {
        let path = self.path(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != Io::NotFound => Err(Error::io("removing", error).path(path)),
            _ => {
                if let Some(folder) = path.parent().filter(|folder| folder.is_dir()) {
                    self.dirty().insert(folder.to_owned());
                }
                Ok(())
            }
        }
    }

    fn list(&self, prefix: &str, each: &mut dyn FnMut(Listed) -> Result<()>) -> Result<()> {
        let mut waiting = vec![prefix.trim_end_matches('/').to_owned()];
        while let Some(folder) = waiting.pop() {
            let path = self.root.join(&folder);
            let failed = |error| Error::io("listing", error).path(&path);
            let entries = match fs::read_dir(&path) {
                Ok(entries) => entries,
                Err(error) if error.kind() == Io::NotFound => continue,
                Err(error) => return Err(failed(error)),
            };
            for entry in entries {
                let entry = entry.map_err(failed)?;
                // A name that is not text is not one of ours.
                let Ok(part) = entry.file_name().into_string() else { continue };
                let name = if folder.is_empty() { part } else { format!("{folder}/{part}") };
                let metadata = match entry.metadata() {
                    Ok(metadata) => metadata,
                    // Removed since.
                    Err(error) if error.kind() == Io::NotFound => continue,
                    Err(error) => return Err(failed(error)),
                };
                if metadata.is_dir() {
                    if name != TEMPORARY {
                        waiting.push(name);
                    }
                } else {
                    each(Listed { name, bytes: metadata.len() })?;
                }
            }
        }
        Ok(())
    }
}
