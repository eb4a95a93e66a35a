// SPDX-License-Identifier: Apache-2.0
//! Kernel modules of one kernel: what drives a modalias, what a module needs, and the indexes that modprobe reads.
//!
//! ```text
//!   Source (a directory, a guest, an archive's tree) --ModuleTree::read--> ModuleTree
//!       --drivers_for(modalias)--> names --closure--> names in the order of loading
//!       --with_paths(what an initramfs holds)--> ModuleTree of that --indexes--> modules.dep, modules.alias.bin, ...
//! ```

mod closure;
mod index;
mod object;
mod pattern;
mod read;
#[cfg(test)]
mod tests;
mod write;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;

use unmoor_images::{Error, Result};

pub use closure::Closure;
pub use object::{information, name_of, unpacked};
pub use pattern::normal;

use crate::archive::{Kind, Tree};

/// More of one file is an error. The largest index of a distribution has 2 MB.
const MOST: u64 = 64 << 20;

/// Where modules and their indexes lie.
pub trait Source {
    /// The content of the file at `path`; `None` where there is none.
    fn read(&self, path: &str) -> Result<Option<Vec<u8>>>;

    /// Sorted names in the directory at `path`; none where there is none.
    fn list(&self, path: &str) -> Result<Vec<String>>;
}

impl Source for Tree {
    fn read(&self, path: &str) -> Result<Option<Vec<u8>>> {
        Ok(Tree::read(self, path).map(<[u8]>::to_vec))
    }

    fn list(&self, path: &str) -> Result<Vec<String>> {
        Ok(Tree::list(self, path).into_iter().map(str::to_owned).collect())
    }
}

/// A directory of this machine as the root of paths. Its links are followed wherever they lead: not for guests.
#[derive(Debug, Clone)]
pub struct Folder(pub PathBuf);

impl Source for Folder {
    fn read(&self, path: &str) -> Result<Option<Vec<u8>>> {
        let path = self.0.join(path.trim_start_matches('/'));
        let failed = |error| Error::io("reading", error).path(&path);
        match std::fs::metadata(&path) {
            Ok(found) if found.is_file() && found.len() <= MOST => {}
            Ok(found) if found.is_file() => {
                return Err(Error::unsupported("reading", format!("it has over {MOST} bytes")).path(&path));
            }
            _ => return Ok(None),
        }
        std::fs::read(&path).map(Some).map_err(failed)
    }

    fn list(&self, path: &str) -> Result<Vec<String>> {
        let path = self.0.join(path.trim_start_matches('/'));
        if !path.is_dir() {
            return Ok(Vec::new());
        }
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&path).map_err(|error| Error::io("listing", error).path(&path))? {
            let entry = entry.map_err(|error| Error::io("listing", error).path(&path))?;
            names.extend(entry.file_name().into_string());
        }
        names.sort();
        Ok(names)
    }
}

/// A loadable module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// With '_' for '-'.
    pub name: String,
    /// Its file, below the kernel's directory: "kernel/drivers/block/virtio_blk.ko.xz".
    pub path: String,
    /// Names of all modules that must be loaded before it, the first to load last.
    pub dependencies: Vec<String>,
}

/// Modules that are wanted before and after another, where they exist. Names as they stand: aliases among them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Softdep {
    pub before: Vec<String>,
    pub after: Vec<String>,
}

/// One kernel's modules.
#[derive(Debug, Clone, Default)]
pub struct ModuleTree {
    modules: BTreeMap<String, Module>,
    /// Pattern and module, in the order of the index.
    aliases: Vec<(String, String)>,
    softdeps: BTreeMap<String, Softdep>,
    builtin: BTreeSet<String>,
    builtin_aliases: Vec<(String, String)>,
    symbols: Vec<(String, String)>,
    devices: Vec<String>,
    /// Place of a module in modules.order.
    order: HashMap<String, usize>,
}

impl ModuleTree {
    /// A module by its name or file name's stem; '-' and '_' are the same.
    pub fn module(&self, name: &str) -> Option<&Module> {
        self.modules.get(&normal(name))
    }

    /// All loadable modules, by name.
    pub fn modules(&self) -> impl Iterator<Item = &Module> {
        self.modules.values()
    }

    /// Whether it is part of the kernel itself.
    pub fn is_builtin(&self, name: &str) -> bool {
        self.builtin.contains(&normal(name))
    }

    /// Names of what is part of the kernel.
    pub fn builtins(&self) -> impl Iterator<Item = &str> {
        self.builtin.iter().map(String::as_str)
    }

    /// What may drive `modalias`: loadable modules in the order of modules.order, then what is built in, as far as that tells (of
    /// device tables it seldom does). Also takes a module's
    /// name or an alias of another kind ("fs-ext4").
    pub fn drivers_for(&self, modalias: &str) -> Vec<String> {
        let wanted = normal(modalias);
        let mut found: Vec<&String> = Vec::new();
        for (pattern, name) in self.aliases.iter().chain(&self.builtin_aliases) {
            if pattern::matches(pattern, &wanted) && !found.contains(&name) {
                found.push(name);
            }
        }
        if found.is_empty()
            && let Some(name) = self
                .modules
                .get_key_value(&wanted)
                .map(|(name, _)| name)
                .or_else(|| self.builtin.get(&wanted))
        {
            found.push(name);
        }
        found.sort_by_key(|name| (self.builtin.contains(*name), self.rank(name)));
        found.into_iter().cloned().collect()
    }

    /// What a module names as wanted before and after it.
    pub fn softdep(&self, name: &str) -> Option<&Softdep> {
        self.softdeps.get(&normal(name))
    }

    /// Its place among all modules when several drive the same.
    fn rank(&self, name: &str) -> usize {
        self.order.get(name).copied().unwrap_or(usize::MAX)
    }

    /// The modules of this kernel that lie at other paths (below their kernel's directory), as in an initramfs: by name, the
    /// path there. Those that this tree does not know are told back.
    pub fn with_paths(&self, paths: &BTreeMap<String, String>) -> (Self, Vec<String>) {
        let mut tree = self.clone();
        tree.modules.retain(|name, _| paths.contains_key(name));
        for (name, module) in &mut tree.modules {
            module.path = paths.get(name).cloned().unwrap_or_default();
            module.dependencies.retain(|needed| paths.contains_key(needed));
        }
        let held = &tree.modules;
        tree.aliases.retain(|(_, name)| held.contains_key(name));
        tree.symbols.retain(|(_, name)| held.contains_key(name));
        tree.softdeps.retain(|name, _| held.contains_key(name));
        tree.devices.retain(|line| {
            line.split_whitespace().next().is_some_and(|name| held.contains_key(&normal(name)))
        });
        let unknown = paths.keys().filter(|name| !tree.modules.contains_key(*name)).cloned().collect();
        (tree, unknown)
    }

    /// Takes over what `other` knows of modules that are not known here.
    pub fn add_unknown(&mut self, other: &Self) {
        let new: BTreeSet<&String> =
            other.modules.keys().filter(|name| !self.modules.contains_key(*name)).collect();
        let pairs = |pairs: &[(String, String)]| -> Vec<(String, String)> {
            pairs.iter().filter(|(_, name)| new.contains(name)).cloned().collect()
        };
        self.aliases.extend(pairs(&other.aliases));
        self.symbols.extend(pairs(&other.symbols));
        for name in &new {
            if let Some(softdep) = other.softdeps.get(*name) {
                self.softdeps.insert((*name).clone(), softdep.clone());
            }
        }
        self.devices.extend(
            other
                .devices
                .iter()
                .filter(|line| line.split_whitespace().next().is_some_and(|name| new.contains(&normal(name))))
                .cloned(),
        );
        let modules: Vec<Module> = new.iter().filter_map(|name| other.modules.get(*name)).cloned().collect();
        self.modules.extend(modules.into_iter().map(|module| (module.name.clone(), module)));
        self.builtin.extend(other.builtin.iter().cloned());
        if self.builtin_aliases.is_empty() {
            self.builtin_aliases.extend(other.builtin_aliases.iter().cloned());
        }
    }
}

/// Module files below a kernel's directory in an initramfs: by module name, the path below `directory`.
pub fn held(tree: &Tree, directory: &str) -> BTreeMap<String, String> {
    let Some(start) = tree.real_path(directory) else { return BTreeMap::new() };
    let mut found = BTreeMap::new();
    for (path, node) in tree.below(directory) {
        if !matches!(node.kind, Kind::File(_)) {
            continue;
        }
        if let (Some(name), Some(below)) = (name_of(&path), path.strip_prefix(&start)) {
            found.insert(name, below.trim_start_matches('/').to_owned());
        }
    }
    found
}
