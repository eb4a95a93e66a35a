// SPDX-License-Identifier: Apache-2.0
//! `/sys` and `/proc` below some root, so that tests can bring machines of their own.

use std::fs;
use std::path::{Path, PathBuf};

/// A root folder with `sys` and `proc` in it. All paths are relative to it.
#[derive(Debug, Clone)]
pub struct Tree {
    root: PathBuf,
}

impl Default for Tree {
    fn default() -> Self {
        Self::at("/")
    }
}

impl Tree {
    /// The tree at `root`; the default is this machine's `/`.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    pub(crate) fn exists(&self, path: &str) -> bool {
        self.path(path).exists()
    }

    pub(crate) fn bytes(&self, path: &str) -> Option<Vec<u8>> {
        fs::read(self.path(path)).ok()
    }

    /// A file's text without surrounding blanks and NULs; none if it is empty or cannot be read.
    pub(crate) fn text(&self, path: &str) -> Option<String> {
        let bytes = self.bytes(path)?;
        let text = String::from_utf8_lossy(&bytes);
        let text = text.trim_matches(|c: char| c.is_whitespace() || c == '\0');
        (!text.is_empty()).then(|| text.to_owned())
    }

    /// A file's text as a number.
    pub(crate) fn number<T: std::str::FromStr>(&self, path: &str) -> Option<T> {
        self.text(path)?.parse().ok()
    }

    /// Names in a folder, sorted as people count: `sda`, `sdb`, `sdaa`; `nvme2n1` before `nvme10n1`.
    pub(crate) fn names(&self, path: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(path)).into_iter().flatten().flatten();
        let mut names: Vec<String> =
            entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort_by(|a, b| (a.len(), a).cmp(&(b.len(), b)));
        names
    }

    /// Where a link leads, links resolved.
    pub(crate) fn resolved(&self, path: &str) -> Option<PathBuf> {
        fs::canonicalize(self.path(path)).ok()
    }

    /// The last part of where a link leads: a driver's or subsystem's name.
    pub(crate) fn link_name(&self, path: &Path) -> Option<String> {
        let target = fs::read_link(self.root.join(path)).ok()?;
        Some(target.file_name()?.to_string_lossy().into_owned())
    }

    /// The nearest PCI function at or above a device: its address and its driver.
    pub(crate) fn pci_function(&self, device: &str) -> (Option<String>, Option<String>) {
        let Some(resolved) = self.resolved(device) else { return (None, None) };
        for folder in resolved.ancestors() {
            if self.link_name(&folder.join("subsystem")).as_deref() == Some("pci") {
                let address = folder.file_name().map(|name| name.to_string_lossy().into_owned());
                return (address, self.link_name(&folder.join("driver")));
            }
        }
        (None, None)
    }
}
