// SPDX-License-Identifier: Apache-2.0
//! Writing the indexes that modprobe, udev and busybox read: what depmod writes for the same modules.

use std::collections::HashMap;
use std::fmt::Write;

use unmoor_images::Result;

use super::index::{self, Entries};
use super::{Module, ModuleTree, normal};

impl ModuleTree {
    /// Names of files in the kernel's directory and their contents. What is built in is told in binary only, since the kernel's
    /// build makes the texts (modules.builtin, modules.builtin.modinfo).
    ///
    /// # Errors
    ///
    /// `Unsupported` where an index is too large for its format.
    pub fn indexes(&self) -> Result<Vec<(&'static str, Vec<u8>)>> {
        let mut modules: Vec<&Module> = self.modules.values().collect();
        modules.sort_by(|a, b| self.rank(&a.name).cmp(&self.rank(&b.name)).then_with(|| a.path.cmp(&b.path)));
        let priorities: HashMap<&str, u32> =
            (0..).zip(&modules).map(|(place, module)| (module.name.as_str(), place)).collect();
        let of = |name: &str| priorities.get(name).copied().unwrap_or(u32::MAX);

        let mut text = String::new();
        let mut entries = Entries::new();
        for module in &modules {
            let mut line = format!("{}:", module.path);
            for needed in module.dependencies.iter().filter_map(|name| self.modules.get(name)) {
                let _ = write!(line, " {}", needed.path);
            }
            let _ = writeln!(text, "{line}");
            entries.insert(module.name.clone(), vec![(of(&module.name), line)]);
        }
        let mut files =
            vec![("modules.dep", text.into_bytes()), ("modules.dep.bin", index::write(&entries)?)];

        let pairs = |head: &str, pairs: &[(String, String)]| -> Result<(Vec<u8>, Vec<u8>)> {
            let mut text = format!("# {head}\n");
            let mut entries = Entries::new();
            for (pattern, name) in pairs {
                let _ = writeln!(text, "alias {pattern} {name}");
                entries.entry(normal(pattern)).or_default().push((of(name), name.clone()));
            }
            Ok((text.into_bytes(), index::write(&entries)?))
        };
        let (text, binary) = pairs("Aliases extracted from modules themselves.", &self.aliases)?;
        files.extend([("modules.alias", text), ("modules.alias.bin", binary)]);
        let (text, binary) = pairs("Aliases for symbols, used by symbol_request().", &self.symbols)?;
        files.extend([("modules.symbols", text), ("modules.symbols.bin", binary)]);

        let mut text = "# Soft dependencies extracted from modules themselves.\n".to_owned();
        // One line for each module: of several, kmod takes the first only.
        for (name, softdep) in &self.softdeps {
            if softdep.before.is_empty() && softdep.after.is_empty() {
                continue;
            }
            let _ = write!(text, "softdep {name}");
            for (kind, names) in [("pre:", &softdep.before), ("post:", &softdep.after)] {
                if !names.is_empty() {
                    let _ = write!(text, " {kind} {}", names.join(" "));
                }
            }
            text.push('\n');
        }
        files.push(("modules.softdep", text.into_bytes()));
        let mut text = "# Device nodes to trigger on-demand module loading.\n".to_owned();
        self.devices.iter().for_each(|line| {
            let _ = writeln!(text, "{line}");
        });
        files.push(("modules.devname", text.into_bytes()));

        let mut entries = Entries::new();
        for name in &self.builtin {
            entries.insert(name.clone(), vec![(0, String::new())]);
        }
        files.push(("modules.builtin.bin", index::write(&entries)?));
        let mut entries = Entries::new();
        for (pattern, name) in &self.builtin_aliases {
            let values = entries.entry(normal(pattern)).or_default();
            if !values.iter().any(|(_, known)| known == name) {
                values.push((0, name.clone()));
            }
        }
        files.push(("modules.builtin.alias.bin", index::write(&entries)?));
        Ok(files)
    }
}
