// SPDX-License-Identifier: Apache-2.0
//! Reading a kernel's modules from the indexes that depmod and the kernel's build leave (depmod(8), modules.dep(5); Linux:
//! Documentation/kbuild/kbuild.rst for modules.order, modules.builtin and modules.builtin.modinfo).

use std::collections::BTreeMap;

use unmoor_images::{Error, Result};

use super::{Module, ModuleTree, Softdep, Source, index, information, name_of, normal, unpacked};

/// Directories below one kernel's that are looked through for modules without an index.
const MOST_DIRECTORIES: usize = 20_000;

impl ModuleTree {
    /// Reads the modules in `directory` ("/usr/lib/modules/6.1.0-32-amd64") by their indexes; by the modules themselves where
    /// modules.dep is missing.
    ///
    /// # Errors
    ///
    /// As the source's; `Malformed` where modules.dep is no such thing.
    pub fn read(source: &dyn Source, directory: &str) -> Result<Self> {
        let directory = directory.trim_end_matches('/');
        let text = |name: &str| -> Result<Option<String>> {
            let bytes = source.read(&format!("{directory}/{name}"))?;
            Ok(bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
        };
        let mut tree = Self::default();
        for (place, line) in text("modules.order")?.unwrap_or_default().lines().enumerate() {
            if let Some(name) = name_of(line.trim()) {
                tree.order.entry(name).or_insert(place);
            }
        }
        let builtin = text("modules.builtin")?;
        if let Some(builtin) = &builtin {
            tree.builtin = builtin.lines().filter_map(|line| name_of(line.trim())).collect();
        }
        match text("modules.dep")? {
            Some(dependencies) => {
                tree.read_dependencies(&dependencies)?;
                tree.aliases = pairs(&text("modules.alias")?.unwrap_or_default());
                tree.symbols = pairs(&text("modules.symbols")?.unwrap_or_default());
                tree.softdeps = softdeps(&text("modules.softdep")?.unwrap_or_default());
                tree.devices = text("modules.devname")?
                    .unwrap_or_default()
                    .lines()
                    .filter(|line| !line.starts_with('#') && !line.trim().is_empty())
                    .map(str::to_owned)
                    .collect();
            }
            None => tree.read_objects(source, directory)?,
        }
        match source.read(&format!("{directory}/modules.builtin.modinfo"))? {
            Some(told) => tree.read_builtin_information(&told, builtin.is_none()),
            None => {
                if let Some(file) = source.read(&format!("{directory}/modules.builtin.alias.bin"))? {
                    tree.builtin_aliases = index::read(&file)?
                        .into_iter()
                        .flat_map(|(key, values)| {
                            values.into_iter().map(move |(_, name)| (key.clone(), name))
                        })
                        .collect();
                }
            }
        }
        Ok(tree)
    }

    fn read_dependencies(&mut self, text: &str) -> Result<()> {
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let parsed = line.split_once(':').and_then(|(path, needs)| Some((path, name_of(path)?, needs)));
            let Some((path, name, needs)) = parsed else {
                return Err(Error::malformed(
                    format!("reading line {} of modules.dep", number + 1),
                    "it names no module",
                ));
            };
            let dependencies = needs.split_whitespace().filter_map(name_of).collect();
            let module = Module { name: name.clone(), path: path.to_owned(), dependencies };
            self.modules.insert(name, module);
        }
        Ok(())
    }

    /// Pairs of "module.key=value", each ended by a zero byte. Code that can be no module is told too, so that modules.builtin
    /// has the names where it is there.
    fn read_builtin_information(&mut self, told: &[u8], take_names: bool) {
        for text in told.split(|byte| *byte == 0) {
            let text = String::from_utf8_lossy(text);
            let parsed = text.split_once('=').and_then(|(key, value)| Some((key.split_once('.')?, value)));
            let Some(((module, key), value)) = parsed else { continue };
            let module = normal(module);
            if key == "alias" {
                self.builtin_aliases.push((value.to_owned(), module.clone()));
            }
            if take_names {
                self.builtin.insert(module);
            }
        }
    }

    /// Asks every module below `directory` for its dependencies and aliases.
    fn read_objects(&mut self, source: &dyn Source, directory: &str) -> Result<()> {
        let mut direct: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let mut left = MOST_DIRECTORIES;
        // The build's own tree and sources, where they are installed, are links in there.
        let mut todo: Vec<String> =
            ["kernel", "updates", "extra", "weak-updates"].map(str::to_owned).to_vec();
        while let Some(below) = todo.pop() {
            left = left.checked_sub(1).ok_or_else(|| {
                Error::unsupported("looking for kernel modules", "there are too many directories")
            })?;
            for name in source.list(&format!("{directory}/{below}"))? {
                let path = format!("{below}/{name}");
                let Some(module) = name_of(&name) else {
                    if path.split('/').count() < 32 {
                        todo.push(path);
                    }
                    continue;
                };
                let Some(file) = source.read(&format!("{directory}/{path}"))? else { continue };
                let needs = self.read_object(&module, &unpacked(&file)?)?;
                direct.insert(module.clone(), needs);
                self.modules.insert(module.clone(), Module { name: module, path, dependencies: Vec::new() });
            }
        }
        let names: Vec<String> = self.modules.keys().cloned().collect();
        for name in names {
            let dependencies = all_needed(&direct, &name);
            if let Some(module) = self.modules.get_mut(&name) {
                module.dependencies = dependencies;
            }
        }
        Ok(())
    }

    /// Takes over what a module says of itself; returns what it depends on.
    fn read_object(&mut self, module: &str, object: &[u8]) -> Result<Vec<String>> {
        let mut needs = Vec::new();
        for (key, value) in information(object)? {
            match key.as_str() {
                "alias" => self.aliases.push((value, module.to_owned())),
                "depends" => {
                    needs.extend(value.split(',').filter(|name| !name.is_empty()).map(normal));
                }
                "softdep" => {
                    let softdep = softdep(&value);
                    let known = self.softdeps.entry(module.to_owned()).or_default();
                    known.before.extend(softdep.before);
                    known.after.extend(softdep.after);
                }
                _ => {}
            }
        }
        Ok(needs)
    }
}

/// All that `name` needs, the first to load last, by what each needs itself.
fn all_needed(direct: &BTreeMap<String, Vec<String>>, name: &str) -> Vec<String> {
    let mut order: Vec<String> = Vec::new();
    let mut met = std::collections::HashSet::from([name.to_owned()]);
    let mut todo = vec![(name.to_owned(), false)];
    while let Some((at, done)) = todo.pop() {
        if done {
            order.push(at);
            continue;
        }
        todo.push((at.clone(), true));
        for needed in direct.get(&at).into_iter().flatten() {
            if met.insert(needed.clone()) {
                todo.push((needed.clone(), false));
            }
        }
    }
    order.pop();
    order.reverse();
    order
}

/// Lines "alias PATTERN MODULE".
fn pairs(text: &str) -> Vec<(String, String)> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            (words.next()? == "alias").then_some(())?;
            Some((words.next()?.to_owned(), normal(words.next()?)))
        })
        .collect()
}

/// Lines "softdep MODULE pre: A B post: C".
fn softdeps(text: &str) -> BTreeMap<String, Softdep> {
    let mut all: BTreeMap<String, Softdep> = BTreeMap::new();
    for line in text.lines() {
        let line = line.trim();
        let Some((name, rest)) =
            line.strip_prefix("softdep ").and_then(|rest| rest.trim_start().split_once(char::is_whitespace))
        else {
            continue;
        };
        let softdep = softdep(rest);
        let known = all.entry(normal(name)).or_default();
        known.before.extend(softdep.before);
        known.after.extend(softdep.after);
    }
    all
}

/// "pre: A B post: C".
fn softdep(text: &str) -> Softdep {
    let mut softdep = Softdep::default();
    let mut after = None;
    for word in text.split_whitespace() {
        match (word, after) {
            ("pre:", _) => after = Some(false),
            ("post:", _) => after = Some(true),
            (name, Some(true)) => softdep.after.push(name.to_owned()),
            (name, Some(false)) => softdep.before.push(name.to_owned()),
            _ => {}
        }
    }
    softdep
}
