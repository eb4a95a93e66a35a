// SPDX-License-Identifier: Apache-2.0
//! Loading modules: each once, what it needs first, several at a time.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use unmoor_images::{Error, Result, ResultExt};

use crate::modules::{Folder, ModuleTree, normal};

/// Threads that load at once; drivers wait for their hardware most of the time.
const THREADS: usize = 4;

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Loading,
    Done,
}

/// The running kernel's modules, and which of them are loaded.
pub(super) struct Loader {
    folder: PathBuf,
    tree: ModuleTree,
    states: Mutex<HashMap<String, State>>,
    changed: Condvar,
    /// Modaliases that were seen.
    seen: Mutex<BTreeSet<String>>,
    verbose: AtomicBool,
}

impl Loader {
    /// Reads the indexes in /lib/modules/RELEASE.
    pub(super) fn new() -> Result<Self> {
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease")
            .doing(|| "asking for the kernel's release")?;
        let folder = PathBuf::from("/lib/modules").join(release.trim());
        let tree = ModuleTree::read(&Folder(folder.clone()), "")?;
        Ok(Self {
            folder,
            tree,
            states: Mutex::default(),
            changed: Condvar::new(),
            seen: Mutex::default(),
            verbose: AtomicBool::new(false),
        })
    }

    pub(super) fn set_verbose(&self) {
        self.verbose.store(true, Ordering::Relaxed);
    }

    /// Loads what drives `modalias` (or the module, or what another alias stands for) with all that it needs. What cannot be
    /// loaded is told to the console: a driver that fails must not stop the others.
    pub(super) fn load(&self, modalias: &str) -> bool {
        let names = self.tree.drivers_for(modalias);
        let closure = self.tree.closure(&names);
        closure.order.iter().fold(!names.is_empty(), |all, name| self.load_one(name) && all)
    }

    /// Loads for all of `modaliases` that were not seen before; how many those were.
    pub(super) fn load_all(&self, modaliases: impl IntoIterator<Item = String>) -> usize {
        let new: Vec<String> = {
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            modaliases.into_iter().filter(|modalias| seen.insert(modalias.clone())).collect()
        };
        let next = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..THREADS.min(new.len()) {
                scope.spawn(|| {
                    while let Some(modalias) = new.get(next.fetch_add(1, Ordering::Relaxed)) {
                        self.load(modalias);
                    }
                });
            }
        });
        new.len()
    }

    fn states(&self) -> MutexGuard<'_, HashMap<String, State>> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Loads one module whose needs are loaded; waits where another thread is at it.
    fn load_one(&self, name: &str) -> bool {
        let mut states = self.states();
        loop {
            match states.get(name) {
                Some(State::Done) => return true,
                Some(State::Loading) => {
                    states = self.changed.wait(states).unwrap_or_else(PoisonError::into_inner);
                }
                None => break,
            }
        }
        states.insert(name.to_owned(), State::Loading);
        drop(states);
        let loaded = self.insert(name);
        self.states().insert(name.to_owned(), State::Done);
        self.changed.notify_all();
        let verbose = self.verbose.load(Ordering::Relaxed);
        match loaded {
            Ok(()) if verbose => super::console::say(&format!("loaded {name}")),
            Ok(()) => {}
            // A driver for other hardware than there is says ENODEV: many do, by design (crypto for other processors).
            Err(error)
                if verbose
                    || error.io_cause().and_then(std::io::Error::raw_os_error) != Some(libc::ENODEV) =>
            {
                super::console::say(&error.chain());
                return false;
            }
            Err(_) => return false,
        }
        true
    }

    fn insert(&self, name: &str) -> Result<()> {
        let Some(module) = self.tree.module(name) else { return Ok(()) };
        let path = self.folder.join(&module.path);
        let failed = |error| Error::io("loading", error).path(&path);
        let file = std::fs::File::open(&path).map_err(failed)?;
        match nix::kmod::finit_module(&file, c"", nix::kmod::ModuleInitFlags::empty()) {
            Ok(()) | Err(nix::errno::Errno::EEXIST) => Ok(()),
            Err(error) => Err(failed(error.into())),
        }
    }

    /// Names of the modules that are loaded, by the kernel's own list.
    pub(super) fn is_loaded(name: &str) -> bool {
        let name = normal(name);
        let list = std::fs::read_to_string("/proc/modules").unwrap_or_default();
        list.lines().any(|line| line.split(' ').next() == Some(name.as_str()))
    }
}
