// SPDX-License-Identifier: Apache-2.0
//! Carrying out a script.
//!
//! The body of a menu entry is carried out where it stands, with the variables of that place: GRUB does it when the entry is chosen,
//! with what they are then. Scripts that make a difference between the two are not known.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;

use unmoor_images::manifest::Firmware;

use super::commands::Loaded;
use super::menu::Item;
use crate::inspect::guest::Guest;
use crate::inspect::mounts::Mounts;
use crate::syntax::grub::{self, Block, Command, Simple};

/// Commands of one configuration that are carried out.
const MOST_STEPS: u32 = 50_000;
/// Calls, includes and blocks within each other.
const DEEPEST: u32 = 64;
/// Files that one configuration reads.
const MOST_FILES: usize = 64;
/// Variables, and bytes of one.
const MOST_VARIABLES: usize = 500;
const MOST_VALUE: usize = 4096;
/// Bytes that all arguments of one configuration expand to.
const MOST_EXPANDED: usize = 64 << 20;

/// A GRUB.
pub(super) struct Machine<'a, 'b> {
    pub(super) guest: &'a Guest<'b>,
    pub(super) mounts: &'a Mounts<'a, 'b>,
    pub(super) variables: BTreeMap<String, String>,
    pub(super) files_read: Vec<String>,
    pub(super) menu: Vec<Item>,
    functions: BTreeMap<String, (Rc<Block>, String)>,
    pub(super) loaded: Loaded,
    /// The file that is being carried out.
    pub(super) file: String,
    steps: u32,
    depth: u32,
    pub(super) entries: usize,
    reads: usize,
    expandable: Cell<usize>,
}

impl<'a, 'b> Machine<'a, 'b> {
    pub(super) fn new(
        guest: &'a Guest<'b>,
        mounts: &'a Mounts<'a, 'b>,
        prefix: &str,
        firmware: Firmware,
    ) -> Self {
        let mut variables = BTreeMap::new();
        let platform = match firmware {
            Firmware::Bios => "pc",
            Firmware::Uefi => "efi",
        };
        let prefix = format!("(guest){prefix}");
        // What GRUB 2.06 sets (grub-core/normal/main.c, features).
        for (name, value) in [
            ("prefix", prefix.as_str()),
            ("config_directory", prefix.as_str()),
            ("root", "guest"),
            ("cmdpath", "(guest)"),
            ("grub_platform", platform),
            ("grub_cpu", "x86_64"),
            ("feature_chainloader_bpb", "y"),
            ("feature_ntldr", "y"),
            ("feature_platform_search_hint", "y"),
            ("feature_default_font_path", "y"),
            ("feature_all_video_module", "y"),
            ("feature_menuentry_id", "y"),
            ("feature_menuentry_options", "y"),
            ("feature_200_final", "y"),
            ("feature_nativedisk_cmd", "y"),
            ("feature_timeout_style", "y"),
        ] {
            variables.insert(name.to_owned(), value.to_owned());
        }
        Self {
            guest,
            mounts,
            variables,
            files_read: Vec::new(),
            menu: Vec::new(),
            functions: BTreeMap::new(),
            loaded: Loaded::default(),
            file: String::new(),
            steps: 0,
            depth: 0,
            entries: 0,
            reads: 0,
            expandable: Cell::new(MOST_EXPANDED),
        }
    }

    pub(super) fn variable(&self, name: &str) -> &str {
        self.variables.get(name).map(String::as_str).unwrap_or_default()
    }

    pub(super) fn set(&mut self, name: &str, value: &str) {
        if self.variables.len() < MOST_VARIABLES || self.variables.contains_key(name) {
            let value = value.get(..value.floor_char_boundary(MOST_VALUE)).unwrap_or_default();
            self.variables.insert(name.to_owned(), value.to_owned());
        }
    }

    /// Counts files, so that those that include each other end.
    pub(super) fn may_read(&mut self) -> bool {
        self.reads += 1;
        if self.reads == MOST_FILES {
            self.guest.note(format!("{} reads too many files: they may include each other", self.file));
        }
        self.reads < MOST_FILES
    }

    /// Counts bytes of arguments; false when there were too many.
    pub(super) fn may_expand(&self, bytes: usize) -> bool {
        let left = self.expandable.get().saturating_sub(bytes);
        self.expandable.set(left);
        left > 0
    }

    /// Carries out a file of the guest.
    pub(super) fn source(&mut self, path: &str) -> bool {
        if self.depth >= DEEPEST || !self.may_read() {
            return false;
        }
        let Some(text) = self.guest.text(path) else { return false };
        let path = self.guest.real_path(path).unwrap_or_else(|| path.to_owned());
        self.files_read.push(path.clone());
        let script = grub::parse(&text);
        if script.incomplete {
            self.guest.note(format!("{path} has parts that are not GRUB's language, which are left out"));
        }
        let outer = std::mem::replace(&mut self.file, path);
        self.depth += 1;
        let done = self.block(&script.block);
        self.depth -= 1;
        self.file = outer;
        done
    }

    /// Carries out commands; the answer is the last one's.
    pub(super) fn block(&mut self, block: &Block) -> bool {
        let mut done = true;
        if self.depth >= DEEPEST {
            return false;
        }
        self.depth += 1;
        for command in &block.commands {
            self.steps += 1;
            if self.steps > MOST_STEPS {
                self.guest.note(format!("{} takes too many steps: the rest is left out", self.file));
                break;
            }
            done = match command {
                Command::Simple(simple) => self.simple(simple),
                Command::If(branches, otherwise) => {
                    let mut chosen = otherwise;
                    for (condition, then) in branches {
                        if self.block(condition) {
                            chosen = then;
                            break;
                        }
                    }
                    self.block(chosen)
                }
                Command::For(variable, words, block) => {
                    let name = variable.literal().unwrap_or_default();
                    let mut done = true;
                    for value in self.expand(words) {
                        self.steps += 1;
                        if self.steps > MOST_STEPS {
                            break;
                        }
                        self.set(&name, &value);
                        done = self.block(block);
                    }
                    done
                }
                Command::Loop(_) => true,
                Command::Function(name, body) => {
                    if self.functions.len() < MOST_VARIABLES {
                        self.functions.insert(name.clone(), (Rc::clone(body), self.file.clone()));
                    }
                    true
                }
            };
        }
        self.depth -= 1;
        done
    }

    fn simple(&mut self, simple: &Simple) -> bool {
        let mut arguments = self.expand(&simple.words);
        if arguments.is_empty() {
            return true;
        }
        let command = arguments.remove(0);
        if let Some((name, value)) = command.split_once('=')
            && !name.is_empty()
            && arguments.is_empty()
        {
            self.set(name, value);
            return true;
        }
        match command.as_str() {
            "menuentry" | "submenu" => {
                self.entry(simple, &command, &arguments);
                true
            }
            "set" => {
                if let Some((name, value)) = arguments.first().and_then(|first| first.split_once('=')) {
                    let (name, value) = (name.to_owned(), value.to_owned());
                    self.set(&name, &value);
                }
                true
            }
            "unset" => {
                for name in &arguments {
                    self.variables.remove(name);
                }
                true
            }
            "[" => {
                if arguments.last().is_some_and(|last| last == "]") {
                    arguments.pop();
                }
                self.holds(&arguments)
            }
            "test" => self.holds(&arguments),
            "false" => false,
            "source" | "." | "configfile" => match arguments.first() {
                Some(path) => {
                    let path = self.place(path);
                    self.source(&path)
                }
                None => false,
            },
            "load_env" => self.load_env(&arguments),
            "search" => self.search(&arguments),
            "search.fs_uuid" => self.search_for("--fs-uuid", &arguments),
            "search.fs_label" => self.search_for("--label", &arguments),
            "search.file" => self.search_for("--file", &arguments),
            "blscfg" => self.blscfg(),
            _ => self.load(&command, arguments) || self.call(&command, simple),
        }
    }

    /// Carries out a function of the script; what is neither that nor known succeeds, as most commands do.
    fn call(&mut self, name: &str, simple: &Simple) -> bool {
        let Some((body, file)) = self.functions.get(name).cloned() else { return true };
        let arguments = self.expand(simple.words.get(1..).unwrap_or_default());
        let outer: Vec<(String, Option<String>)> = (1..=9)
            .map(|number| (number.to_string(), self.variables.get(&number.to_string()).cloned()))
            .collect();
        for (number, argument) in
            (1..=9).zip(arguments.iter().map(String::as_str).chain(std::iter::repeat("")))
        {
            self.set(&format!("{number}"), argument);
        }
        let file = std::mem::replace(&mut self.file, file);
        let done = self.block(&body);
        self.file = file;
        for (name, value) in outer {
            match value {
                Some(value) => self.set(&name, &value),
                None => drop(self.variables.remove(&name)),
            }
        }
        done
    }
}
