// SPDX-License-Identifier: Apache-2.0
//! What must be loaded for a module to work, in order.

use std::collections::HashSet;

use super::{ModuleTree, normal};

/// Modules in the order in which they are loaded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Closure {
    /// Names of loadable modules, what is needed before what needs it.
    pub order: Vec<String>,
    /// What is asked for or depended on, and is neither a module nor built in.
    pub missing: Vec<String>,
}

enum Step {
    /// Needed: a name or alias that must lead somewhere.
    Need(String),
    /// Wanted where it exists.
    Want(String),
    Load(String),
}

impl ModuleTree {
    /// The modules that `names` stand for (names or aliases) with all that they depend on and all that their soft dependencies
    /// name. Built-ins need nothing. A ring of soft dependencies is cut where it closes.
    pub fn closure<S: AsRef<str>>(&self, names: impl IntoIterator<Item = S>) -> Closure {
        let mut closure = Closure::default();
        let mut met = HashSet::new();
        let mut todo: Vec<Step> =
            names.into_iter().map(|name| Step::Need(name.as_ref().to_owned())).collect();
        todo.reverse();
        while let Some(step) = todo.pop() {
            let (name, needed) = match step {
                Step::Load(name) => {
                    closure.order.push(name);
                    continue;
                }
                Step::Need(name) => (normal(&name), true),
                Step::Want(name) => (normal(&name), false),
            };
            if !met.insert(name.clone()) || self.builtin.contains(&name) {
                continue;
            }
            let Some(module) = self.modules.get(&name) else {
                let drivers = self.drivers_for(&name);
                if drivers.is_empty() && needed {
                    closure.missing.push(name);
                }
                todo.extend(drivers.into_iter().rev().map(Step::Want));
                continue;
            };
            let softdep = self.softdeps.get(&name).cloned().unwrap_or_default();
            todo.extend(softdep.after.into_iter().rev().map(Step::Want));
            todo.push(Step::Load(name));
            todo.extend(module.dependencies.iter().cloned().map(Step::Need));
            todo.extend(softdep.before.into_iter().rev().map(Step::Want));
        }
        closure
    }
}
