// SPDX-License-Identifier: Apache-2.0
//! The modules of a kernel that a profile takes, with all that they need, unpacked and with indexes of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use unmoor_images::{Error, Result};

use super::Profile;
use super::kernel::Kernel;
use crate::modules::{ModuleTree, Source, information, name_of, unpacked};

/// What the kernel's build says of all modules; small, and part of what the indexes are made from.
const ABOUT: [&str; 3] = ["modules.order", "modules.builtin", "modules.builtin.modinfo"];
/// What PID 1 reads. The binary indexes are for kmod, which is not there.
const INDEXES: [&str; 3] = ["modules.dep", "modules.alias", "modules.softdep"];

/// Modules, and files about them, by their path in the kernel's directory.
pub(super) struct Selection {
    pub(super) files: BTreeMap<String, Vec<u8>>,
    /// How many modules are among them.
    pub(super) modules: usize,
    /// Firmware that they name.
    pub(super) firmware: BTreeSet<String>,
    /// Modules that were chosen, but need one that the kernel's files lack.
    pub(super) left_out: BTreeSet<String>,
}

/// Whether a file of a kernel's directory may be needed by this profile.
pub(super) fn is_candidate(profile: Profile, path: &str) -> bool {
    match name_of(path) {
        Some(name) => !Profile::is_never(path, &name) || profile.chooses(path, &name),
        None => ABOUT.contains(&path),
    }
}

/// A module that was looked at.
struct Taken {
    content: Vec<u8>,
    needs: Vec<String>,
    wants: Vec<String>,
    firmware: Vec<String>,
}

pub(super) fn select(kernel: &Kernel, profile: Profile) -> Result<Selection> {
    let paths: BTreeMap<String, &String> =
        kernel.files.keys().filter_map(|path| Some((name_of(path)?, path))).collect();
    let mut wanted: BTreeSet<String> = paths
        .iter()
        .filter(|(name, path)| profile.chooses(path, name))
        .map(|(name, _)| name.clone())
        .collect();
    if wanted.is_empty() {
        return Err(Error::refused(
            "choosing kernel modules",
            format!("the kernel {} has none of those that are needed", kernel.release),
        ));
    }
    let mut taken: BTreeMap<String, Taken> = BTreeMap::new();
    while !wanted.is_empty() {
        let round: Vec<(String, &String)> =
            wanted.iter().filter_map(|name| Some((name.clone(), *paths.get(name)?))).collect();
        let looked = look(kernel, &round)?;
        wanted.clear();
        for module in looked.values() {
            let names = module.needs.iter().chain(&module.wants);
            wanted.extend(names.filter(|name| paths.contains_key(*name)).cloned());
        }
        taken.extend(looked);
        wanted.retain(|name| !taken.contains_key(name));
    }
    assemble(kernel, &paths, taken)
}

/// Unpacks modules and asks them what they need, on all processors.
fn look(kernel: &Kernel, round: &[(String, &String)]) -> Result<BTreeMap<String, Taken>> {
    let next = AtomicUsize::new(0);
    let looked: Mutex<BTreeMap<String, Taken>> = Mutex::default();
    let work = || -> Result<()> {
        while let Some((name, path)) = round.get(next.fetch_add(1, Ordering::Relaxed)) {
            let Some(content) = kernel.files.get(*path) else { continue };
            let module =
                content.read().and_then(|packed| unpacked(&packed)).and_then(take).map_err(|error| {
                    Error::new(error.kind(), "reading a kernel module").path(path).source(error)
                })?;
            looked.lock().unwrap_or_else(std::sync::PoisonError::into_inner).insert(name.clone(), module);
        }
        Ok(())
    };
    let threads = std::thread::available_parallelism().map_or(2, |count| count.get().min(8));
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| {
            worker
                .join()
                .unwrap_or_else(|_| Err(Error::unsupported("reading kernel modules", "a thread panicked")))
        })
    })?;
    Ok(looked.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner))
}

fn take(content: Vec<u8>) -> Result<Taken> {
    let mut module =
        Taken { content: Vec::new(), needs: Vec::new(), wants: Vec::new(), firmware: Vec::new() };
    for (key, value) in information(&content)? {
        let name = |text: &str| text.replace('-', "_");
        match key.as_str() {
            "depends" => module.needs.extend(value.split(',').filter(|text| !text.is_empty()).map(name)),
            "softdep" => {
                let words = value.split_whitespace().filter(|word| !word.ends_with(':'));
                module.wants.extend(words.map(name));
            }
            "firmware" => module.firmware.push(value),
            _ => {}
        }
    }
    module.content = content;
    Ok(module)
}

/// Leaves out what lacks something that it needs, which could not be loaded, and makes the indexes.
fn assemble(
    kernel: &Kernel,
    paths: &BTreeMap<String, &String>,
    mut taken: BTreeMap<String, Taken>,
) -> Result<Selection> {
    let about = |name: &str| kernel.files.get(name).map(|content| content.read()).transpose();
    let builtin: BTreeSet<String> = String::from_utf8_lossy(&about("modules.builtin")?.unwrap_or_default())
        .lines()
        .filter_map(|line| name_of(line.trim()))
        .collect();
    let mut left_out = BTreeSet::new();
    loop {
        let lacking: Vec<String> = taken
            .iter()
            .filter(|(_, module)| {
                module.needs.iter().any(|name| !taken.contains_key(name) && !builtin.contains(name))
            })
            .map(|(name, _)| name.clone())
            .collect();
        if lacking.is_empty() {
            break;
        }
        lacking.iter().for_each(|name| drop(taken.remove(name)));
        left_out.extend(lacking);
    }
    let modules = taken.len();
    let firmware = taken.values().flat_map(|module| module.firmware.iter().cloned()).collect();
    let mut files = BTreeMap::new();
    for (name, module) in taken {
        let path = paths.get(&name).map(|path| path.as_str()).unwrap_or_default();
        let end = path.rfind(".ko").unwrap_or(path.len());
        files.insert(format!("{}.ko", path.get(..end).unwrap_or(path)), module.content);
    }
    for name in ABOUT {
        if let Some(content) = about(name)? {
            files.insert(name.to_owned(), content);
        }
    }
    let mut chosen = Chosen { files };
    let indexes = ModuleTree::read(&chosen, "")?.indexes()?;
    chosen.files.retain(|path, _| !ABOUT.contains(&path.as_str()));
    chosen.files.extend(
        indexes
            .into_iter()
            .filter(|(name, _)| INDEXES.contains(name))
            .map(|(name, content)| (name.to_owned(), content)),
    );
    // PID 1 is told what is built in, so that it looks for nothing that is there.
    let text: String = builtin.iter().map(|name| format!("kernel/{name}.ko\n")).collect();
    chosen.files.insert("modules.builtin".into(), text.into_bytes());
    Ok(Selection { files: chosen.files, modules, firmware, left_out })
}

/// The chosen files as a source of modules.
struct Chosen {
    files: BTreeMap<String, Vec<u8>>,
}

impl Source for Chosen {
    fn read(&self, path: &str) -> Result<Option<Vec<u8>>> {
        Ok(self.files.get(path.trim_start_matches('/')).cloned())
    }

    fn list(&self, path: &str) -> Result<Vec<String>> {
        let start = format!("{}/", path.trim_matches('/'));
        let below = self.files.range(start.clone()..).map_while(|(path, _)| path.strip_prefix(&start));
        let mut names: Vec<String> =
            below.map(|rest| rest.split('/').next().unwrap_or(rest).to_owned()).collect();
        names.dedup();
        Ok(names)
    }
}
