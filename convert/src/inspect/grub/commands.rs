// SPDX-License-Identifier: Apache-2.0
//! Commands that make menus, load kernels, and read GRUB's other files.

use super::machine::Machine;
use super::menu::Item;
use crate::inspect::boot::bls;
use crate::inspect::guest::join;
use crate::inspection::BootEntry;
use crate::syntax::grub::{self, Simple};

const MOST_ENTRIES: usize = 1000;

/// What an entry's commands load.
#[derive(Default)]
pub(super) struct Loaded {
    kernel: Option<String>,
    initramfs: Vec<String>,
    arguments: Vec<String>,
    /// multiboot: a hypervisor is loaded, and the kernel is its module.
    hypervisor: bool,
}

impl Machine<'_, '_> {
    /// Commands that load something to start.
    pub(super) fn load(&mut self, command: &str, mut arguments: Vec<String>) -> bool {
        match command {
            "linux" | "linux16" | "linuxefi" | "linux32" => {
                if !arguments.is_empty() {
                    let path = arguments.remove(0);
                    self.loaded.kernel = Some(self.place(&path));
                    self.loaded.arguments = arguments;
                }
            }
            "initrd" | "initrd16" | "initrdefi" => {
                arguments.retain(|argument| !argument.starts_with("--"));
                self.loaded.initramfs = arguments.iter().map(|path| self.place(path)).collect();
            }
            "multiboot" | "multiboot2" | "xen_hypervisor" => self.loaded.hypervisor = true,
            "module" | "module2" | "xen_module" if self.loaded.hypervisor => {
                arguments.retain(|argument| argument != "--nounzip");
                if arguments.is_empty() {
                    return true;
                }
                let path = arguments.remove(0);
                let path = self.place(&path);
                if self.loaded.kernel.is_none() {
                    self.loaded.kernel = Some(path);
                    self.loaded.arguments = arguments;
                } else {
                    self.loaded.initramfs.push(path);
                }
            }
            _ => return false,
        }
        true
    }

    pub(super) fn entry(&mut self, simple: &Simple, command: &str, arguments: &[String]) {
        let mut title = None;
        let mut id = String::new();
        let mut words = arguments.iter().peekable();
        while let Some(word) = words.next() {
            match word.as_str() {
                "--id" => id = words.next().cloned().unwrap_or_default(),
                "--class" | "--users" | "--hotkey" | "--source" | "-c" | "-u" => drop(words.next()),
                other => match other.strip_prefix("--id=") {
                    Some(value) => id = value.to_owned(),
                    None if other.starts_with("--") => {}
                    None => {
                        title.get_or_insert_with(|| other.to_owned());
                    }
                },
            }
        }
        if self.entries >= MOST_ENTRIES {
            self.guest
                .note(format!("{} has more than {MOST_ENTRIES} entries: the rest is left out", self.file));
            return;
        }
        self.entries += 1;
        let title = title.unwrap_or_default();
        let variables = self.variables.clone();
        self.set("chosen", &title);
        let outer_menu = std::mem::take(&mut self.menu);
        let outer_loaded = std::mem::take(&mut self.loaded);
        if let Some(block) = &simple.block {
            self.block(block);
        }
        self.variables = variables;
        let children = std::mem::replace(&mut self.menu, outer_menu);
        let loaded = std::mem::replace(&mut self.loaded, outer_loaded);
        let entry = (command == "menuentry").then(|| BootEntry {
            file: self.file.clone(),
            lines: Some((simple.lines.0, simple.lines.1.min(crate::syntax::MOST_LINES))),
            style: "grub".into(),
            title: title.clone(),
            kernel: loaded.kernel,
            initramfs: loaded.initramfs,
            arguments: loaded.arguments,
            default: false,
        });
        // An entry that opens another configuration has what that one shows.
        self.menu.push(Item { title, id, entry, children });
    }

    pub(super) fn blscfg(&mut self) -> bool {
        if !self.may_read() {
            return false;
        }
        let directory = match self.variable("blsdir") {
            "" => "/boot/loader/entries".to_owned(),
            path => self.place(path),
        };
        let found = bls::entries(self.guest, self.mounts, &directory, &self.variables, "bls");
        for (id, entry) in found {
            self.menu.push(Item { title: entry.title.clone(), id, entry: Some(entry), children: Vec::new() });
        }
        true
    }

    /// `load_env`: variables of the environment block; with names, those alone.
    pub(super) fn load_env(&mut self, arguments: &[String]) -> bool {
        let mut path = join(self.variable("prefix"), "grubenv");
        let mut names: Vec<&str> = Vec::new();
        let mut words = arguments.iter();
        while let Some(word) = words.next() {
            match word.as_str() {
                "-f" | "--file" => path = words.next().cloned().unwrap_or(path),
                other => match other.strip_prefix("--file=") {
                    Some(file) => path = file.to_owned(),
                    None if other.starts_with('-') => {}
                    None => names.push(other),
                },
            }
        }
        let path = self.place(&path);
        if !self.may_read() {
            return false;
        }
        let Some(variables) = self.guest.text(&path).and_then(|text| grub::env::parse(&text)) else {
            return false;
        };
        for variable in variables {
            if names.is_empty() || names.contains(&variable.name.as_str()) {
                self.set(&variable.name, &variable.value);
            }
        }
        true
    }
}
