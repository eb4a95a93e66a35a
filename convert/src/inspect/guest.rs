// SPDX-License-Identifier: Apache-2.0
//! A guest's files, read by somebody who does not give up: what fails becomes a note.

use std::cell::RefCell;

use unmoor_images::Result;
use unmoor_images::manifest::MachineFacts;

use crate::devices::Devices;
use crate::files::{Files, Kind};

/// Notes of one guest; a hostile one could cause any number.
const MOST_NOTES: usize = 100;
/// Names of one directory that are looked at where each costs a file.
pub(super) const MOST_FILES: usize = 1000;

pub(super) struct Guest<'a> {
    pub(super) files: &'a dyn Files,
    pub(super) devices: &'a Devices,
    pub(super) facts: Option<&'a MachineFacts>,
    notes: RefCell<Vec<String>>,
}

impl<'a> Guest<'a> {
    pub(super) fn new(files: &'a dyn Files, devices: &'a Devices, facts: Option<&'a MachineFacts>) -> Self {
        Self { files, devices, facts, notes: RefCell::new(Vec::new()) }
    }

    /// Says something once.
    pub(super) fn note(&self, text: impl Into<String>) {
        let (text, mut notes) = (text.into(), self.notes.borrow_mut());
        if notes.len() < MOST_NOTES && !notes.contains(&text) {
            notes.push(text);
        }
    }

    pub(super) fn into_notes(self) -> Vec<String> {
        self.notes.into_inner()
    }

    fn tell<T: Default>(&self, result: Result<T>) -> T {
        result.unwrap_or_else(|error| {
            self.note(error.chain());
            T::default()
        })
    }

    /// A text file; `None` where there is none, or it cannot be read.
    pub(super) fn text(&self, path: &str) -> Option<String> {
        self.tell(self.files.text(path))
    }

    /// As [`Files::read`].
    pub(super) fn bytes(&self, path: &str, most: u64) -> Option<Vec<u8>> {
        self.tell(self.files.read(path, most))
    }

    /// First line of a text file that is no comment, without blanks around.
    pub(super) fn line(&self, path: &str) -> Option<String> {
        let text = self.text(path)?;
        let line = text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#'));
        line.map(|line| line.chars().filter(|char| !char.is_control()).take(256).collect())
    }

    /// As [`Files::list`].
    pub(super) fn list(&self, path: &str) -> Vec<String> {
        self.tell(self.files.list(path))
    }

    /// Paths of the files in a directory whose names end so, sorted.
    pub(super) fn files_in(&self, directory: &str, ending: &str) -> Vec<String> {
        let mut names = self.list(directory);
        names.retain(|name| name.ends_with(ending) && !name.starts_with('.'));
        if names.len() > MOST_FILES {
            self.note(format!("{directory} has {} files, of which {MOST_FILES} are looked at", names.len()));
            names.truncate(MOST_FILES);
        }
        names.into_iter().map(|name| join(directory, &name)).collect()
    }

    pub(super) fn exists(&self, path: &str) -> bool {
        self.tell(self.files.exists(path))
    }

    pub(super) fn any(&self, paths: &[&str]) -> bool {
        paths.iter().any(|path| self.exists(path))
    }

    pub(super) fn is_link(&self, path: &str) -> bool {
        self.tell(self.files.link_metadata(path)).is_some_and(|found| found.kind == Kind::Link)
    }

    pub(super) fn is_file(&self, path: &str) -> bool {
        self.tell(self.files.metadata(path)).is_some_and(|found| found.kind == Kind::File)
    }

    pub(super) fn is_directory(&self, path: &str) -> bool {
        self.tell(self.files.metadata(path)).is_some_and(|found| found.kind == Kind::Directory)
    }

    pub(super) fn size(&self, path: &str) -> Option<u64> {
        self.tell(self.files.metadata(path)).filter(|found| found.kind == Kind::File).map(|found| found.size)
    }

    pub(super) fn real_path(&self, path: &str) -> Option<String> {
        self.tell(self.files.real_path(path))
    }

    pub(super) fn read_link(&self, path: &str) -> Option<String> {
        self.tell(self.files.read_link(path))
    }

    /// A path as it stands on a FAT filesystem, where case counts for nothing: each part by the name that is really there.
    pub(super) fn any_case(&self, path: &str) -> Option<String> {
        let mut here = String::new();
        for part in path.split('/').filter(|part| !part.is_empty()) {
            let exact = join(&here, part);
            if self.exists(&exact) {
                here = exact;
                continue;
            }
            let names = self.list(if here.is_empty() { "/" } else { &here });
            let name = names.into_iter().find(|name| name.eq_ignore_ascii_case(part))?;
            here = join(&here, &name);
        }
        Some(here)
    }
}

/// `directory` + "/" + `name`.
pub(super) fn join(directory: &str, name: &str) -> String {
    format!("{}/{}", directory.trim_end_matches('/'), name.trim_start_matches('/'))
}
