// SPDX-License-Identifier: Apache-2.0
//! Disks that lie in no file, as QEMU reads them: this process serves them, read-only, on a socket that only this user reaches.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use unmoor_images::monitor::Event;
use unmoor_images::overlay::Target;
use unmoor_images::{BlockSource, Monitor, Result, ResultExt};
use unmoor_nbd::disk::ReadOnly;
use unmoor_nbd::server::{self, Address, Export, Listener, Options};

use crate::appliance::private_folder;

/// QEMU opens each disk once; a layer over it once more while it is looked at.
const MAX_CLIENTS: usize = 64;

/// Disks that are served until this is dropped.
pub(crate) struct Served {
    targets: Vec<Target>,
    told: Arc<Told>,
    thread: Option<JoinHandle<()>>,
    _folder: tempfile::TempDir,
}

/// What the server says, and what it is told.
#[derive(Default)]
struct Told {
    stop: AtomicBool,
    said: Mutex<Vec<String>>,
}

impl Monitor for Told {
    fn event(&self, event: Event) {
        if let Event::Warning(text) | Event::Note(text) = event {
            self.said.lock().unwrap_or_else(PoisonError::into_inner).push(text);
        }
    }

    fn cancelled(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

impl Served {
    /// Begins to serve.
    pub(crate) fn start(disks: Vec<Arc<dyn BlockSource>>) -> Result<Self> {
        let folder = private_folder()?;
        let listener = Listener::bind(&Address::Unix(folder.path().join("disks")), false)?;
        let targets: Vec<Target> = disks
            .iter()
            .enumerate()
            .map(|(number, disk)| Target::served(&listener.uri(&number.to_string()), disk.clone()))
            .collect();
        let told = Arc::new(Told::default());
        let monitor = told.clone();
        let thread = std::thread::Builder::new()
            .name("disks".into())
            .spawn(move || serve(&listener, disks, &monitor))
            .doing(|| "starting a thread")?;
        Ok(Self { targets, told, thread: Some(thread), _folder: folder })
    }

    /// The disks, for a fitter.
    pub(crate) fn targets(&self) -> &[Target] {
        &self.targets
    }

    /// Passes on what the server had to say, such as why a chunk could not be read.
    pub(crate) fn report(&self, monitor: &dyn Monitor) {
        let said = std::mem::take(&mut *self.told.said.lock().unwrap_or_else(PoisonError::into_inner));
        said.into_iter().for_each(|text| monitor.warn(text));
    }
}

fn serve(listener: &Listener, disks: Vec<Arc<dyn BlockSource>>, monitor: &Told) {
    let export = |(number, disk): (usize, Arc<dyn BlockSource>)| Export {
        name: number.to_string(),
        description: String::new(),
        disk: Box::new(ReadOnly(disk)),
    };
    let exports: Vec<Export<'_>> = disks.into_iter().enumerate().map(export).collect();
    if let Err(error) =
        server::serve(listener, &exports, &Options { tls: None, max_clients: MAX_CLIENTS }, monitor)
    {
        monitor.warn(format!("serving disks to the appliance: {}", error.chain()));
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.told.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It panics only where another thread did.
            let _ = thread.join();
        }
    }
}

/// A disk that lies in no file has no folder to put a working copy beside it.
pub(super) fn folder_of(target: &Target) -> Option<&Path> {
    match &target.served {
        Some(_) => None,
        None => Some(
            target.image.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new(".")),
        ),
    }
}
