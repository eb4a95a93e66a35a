// SPDX-License-Identifier: Apache-2.0
//! A backend that does what it is told to do wrong, and counts.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use super::scene::TestClock;
use crate::store::backend::{Backend, Directory, Listed};
use crate::store::{InitOptions, Store};
use crate::{Error, Result};

/// What goes wrong; tests change it while the store is used.
#[derive(Default)]
pub(super) struct Faults {
    /// Reads of packs from threads that read ahead fail.
    pub(super) ahead_fails: AtomicBool,
    /// So many reads of packs come with a flipped bit.
    pub(super) flips: AtomicUsize,
    /// Bytes that can be written until the disk is full.
    pub(super) room: Mutex<Option<usize>>,
    /// Listings have every name twice.
    pub(super) doubled: AtomicBool,
    /// Names that are put from now on are not listed.
    pub(super) late: AtomicBool,
    hidden: Mutex<BTreeSet<String>>,
    /// Reads of packs, and their bytes.
    pub(super) reads: AtomicUsize,
    pub(super) read_bytes: AtomicUsize,
}

impl Faults {
    /// Listings have come up to date.
    pub(super) fn reveal(&self) {
        self.late.store(false, Ordering::Relaxed);
        self.hidden.lock().unwrap().clear();
    }
}

/// A directory with faults before it.
pub(super) struct Faulty {
    inner: Directory,
    faults: Arc<Faults>,
    remote: bool,
}

/// A new store on such a backend.
pub(super) fn faulty(folder: &Path, remote: bool) -> (Store, Arc<Faults>) {
    let faults = Arc::new(Faults::default());
    let backend = Faulty { inner: Directory::open(folder), faults: faults.clone(), remote };
    let clock = Arc::new(TestClock::default());
    clock.jump(1_795_557_000);
    (Store::init_on(Box::new(backend), &InitOptions::default(), clock).unwrap(), faults)
}

impl Faulty {
    fn writes(&self, name: &str, len: usize) -> Result<()> {
        if let Some(room) = &mut *self.faults.room.lock().unwrap() {
            *room = room.checked_sub(len).ok_or_else(|| {
                Error::io("writing", std::io::Error::from_raw_os_error(libc::ENOSPC)).path(name)
            })?;
        }
        if self.faults.late.load(Ordering::Relaxed) {
            self.faults.hidden.lock().unwrap().insert(name.to_owned());
        }
        Ok(())
    }
}

impl Backend for Faulty {
    fn describe(&self) -> String {
        self.inner.describe()
    }

    fn is_remote(&self) -> bool {
        self.remote
    }

    fn get(&self, name: &str, most: u64) -> Result<Option<Vec<u8>>> {
        self.inner.get(name, most)
    }

    fn read(&self, name: &str, buf: &mut [u8], offset: u64) -> Result<()> {
        let ahead = std::thread::current().name() == Some("ahead");
        self.faults.reads.fetch_add(1, Ordering::Relaxed);
        self.faults.read_bytes.fetch_add(buf.len(), Ordering::Relaxed);
        if ahead && self.faults.ahead_fails.load(Ordering::Relaxed) {
            return Err(Error::io("reading", std::io::ErrorKind::TimedOut.into()).path(name));
        }
        self.inner.read(name, buf, offset)?;
        let flips =
            self.faults.flips.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        if flips.is_ok() {
            let middle = buf.len() / 2;
            buf[middle] ^= 0x10;
        }
        Ok(())
    }

    fn tail(&self, name: &str, most: u64) -> Result<Option<(Vec<u8>, u64)>> {
        self.inner.tail(name, most)
    }

    fn put(&self, name: &str, data: &[u8]) -> Result<()> {
        self.writes(name, data.len())?;
        self.inner.put(name, data)
    }

    fn create(&self, name: &str, data: &[u8]) -> Result<bool> {
        self.writes(name, data.len())?;
        self.inner.create(name, data)
    }

    fn barrier(&self) -> Result<()> {
        self.inner.barrier()
    }

    fn delete(&self, name: &str) -> Result<()> {
        self.inner.delete(name)
    }

    fn list(&self, prefix: &str, each: &mut dyn FnMut(Listed) -> Result<()>) -> Result<()> {
        self.inner.list(prefix, &mut |listed| {
            if self.faults.hidden.lock().unwrap().contains(&listed.name) {
                return Ok(());
            }
            if self.faults.doubled.load(Ordering::Relaxed) {
                each(listed.clone())?;
            }
            each(listed)
        })
    }
}
