// SPDX-License-Identifier: Apache-2.0
//! A plan: edits as values, in order, which can be printed, linted, saved and carried out.
//!
//! ```text
//!   Draft (the guest's files + what is planned so far; itself Files) --finish--> Plan { edits, disk, findings, capabilities }
//! ```
//!
//! Rules write to a [`Draft`], so that a rule sees what those before it changed, and a file changed by three rules is one
//! edit with three reasons.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use unmoor_images::Result;

use crate::files::{Files, Kind, Metadata, Room};

/// Bytes of a file or disk. In JSON: text where it is UTF-8, else base64.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Content {
    /// UTF-8.
    Text(String),
    /// Anything.
    Base64(#[serde(with = "base64_bytes")] Vec<u8>),
}

impl Content {
    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Text(text) => text.as_bytes(),
            Self::Base64(bytes) => bytes,
        }
    }
}

impl From<Vec<u8>> for Content {
    fn from(bytes: Vec<u8>) -> Self {
        String::from_utf8(bytes).map_or_else(|error| Self::Base64(error.into_bytes()), Self::Text)
    }
}

/// Why something is to be changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// The rule's name: "fstab", "inject-drivers". Names are stable: scripts may match them.
    pub rule: String,
    /// For people: "/dev/sda1 is another disk's name on the new machine".
    pub why: String,
}

/// One complete change of one file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Edit {
    /// Why, in the order in which the reasons came.
    pub reasons: Vec<Reason>,
    /// Absolute path in the guest, without links in its parents.
    pub path: String,
    /// What.
    pub change: Change,
}

/// What becomes of a file. `was` is what is changed, so that a plan is never applied to another state than it was made for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum Change {
    /// The whole content; a new file gets `mode` and root's ownership, an existing one keeps all that is its own.
    Write {
        content: Content,
        mode: u32,
        was: Was,
    },
    /// Bytes behind the end (of an initramfs).
    Append {
        content: Content,
        was: Was,
    },
    /// A symbolic link.
    Link {
        target: String,
        was: Was,
    },
    Remove {
        was: Was,
    },
    /// A directory that is not there yet, such as a mount point; root's, with `mode`. Those that lead there are made too.
    Directory {
        mode: u32,
    },
}

/// The state that a change was planned for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum Was {
    Absent,
    /// BLAKE3 of the content in hex, and its length in bytes.
    File {
        hash: String,
        size: u64,
    },
    Link {
        target: String,
    },
}

/// Bytes of a disk outside of mounted filesystems: tables, boot code, new EFI system partitions, UUIDs of filesystems. Carried out
/// after all files are written and unmounted, in order; writes below 1 MiB come last of all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskEdit {
    /// Why.
    pub reasons: Vec<Reason>,
    /// Which disk, from 0.
    pub disk: usize,
    /// For people: what the disk will have: "partition 4: EFI system partition, 100.0 MiB at 3.9 GiB".
    pub summary: Vec<String>,
    /// First byte and bytes.
    pub writes: Vec<(u64, Content)>,
}

/// How bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum Severity {
    Note,
    Warning,
    /// The guest would not boot, or could not be trusted to: nothing is written.
    Error,
}

/// What the administrator should know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// How bad.
    pub severity: Severity,
    /// The rule that says it.
    pub rule: String,
    /// What.
    pub text: String,
    /// What to do about it: a command, an option.
    pub remedy: Option<String>,
}

/// What the guest can use when the plan is applied; definitions of machines are derived from it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Capabilities {
    /// Disk buses that the default kernel can boot from: "virtio", "virtio-scsi", "ahci", "nvme", "ide", "megasas", "pvscsi",
    /// "hyperv", "xen", best first.
    pub disk_buses: Vec<String>,
    /// Network adapter models: "virtio-net-pci", "e1000e", "vmxnet3", best first.
    pub nic_models: Vec<String>,
    pub uefi: bool,
    pub secure_boot: bool,
    /// "ttyS0".
    pub serial: Option<String>,
    /// virtio devices may be modern only (kernel 3.18 or newer).
    pub virtio_modern: bool,
    /// "x86-64-v2".
    pub cpu_baseline: Option<String>,
}

/// What would be done, completely.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Plan {
    pub edits: Vec<Edit>,
    pub disk: Vec<DiskEdit>,
    pub findings: Vec<Finding>,
    pub capabilities: Capabilities,
}

impl Plan {
    /// Whether some finding forbids it.
    pub fn is_refused(&self) -> bool {
        self.findings.iter().any(|finding| finding.severity == Severity::Error)
    }
}

/// A plan in the making, and the guest as it will be: reading through it shows what is planned so far.
pub struct Draft<'a> {
    files: &'a dyn Files,
    order: Vec<String>,
    edits: BTreeMap<String, Edit>,
    plan: Plan,
}

impl<'a> Draft<'a> {
    /// Nothing planned yet.
    pub fn new(files: &'a dyn Files) -> Self {
        Self { files, order: Vec::new(), edits: BTreeMap::new(), plan: Plan::default() }
    }

    /// The guest as it is.
    pub fn original(&self) -> &'a dyn Files {
        self.files
    }

    /// Plans `content` for the file at `path` (links followed); does nothing where it has that content already. A new file gets mode 0644.
    pub fn write(
        &mut self,
        path: &str,
        content: impl Into<Content>,
        rule: &str,
        why: impl Into<String>,
    ) -> Result<()> {
        self.write_mode(path, content, 0o644, rule, why)
    }

    /// As [`write`](Self::write), with the mode that a new file gets.
    pub fn write_mode(
        &mut self,
        path: &str,
        content: impl Into<Content>,
        mode: u32,
        rule: &str,
        why: impl Into<String>,
    ) -> Result<()> {
        let content = content.into();
        if self.read(path, u64::MAX)?.as_deref() == Some(content.bytes()) {
            return Ok(());
        }
        let path = self.place(path)?;
        let was = self.was(&path)?;
        self.put(path, Change::Write { content, mode, was }, rule, why.into());
        Ok(())
    }

    /// Plans bytes behind the end of the file at `path`.
    pub fn append(&mut self, path: &str, content: Vec<u8>, rule: &str, why: impl Into<String>) -> Result<()> {
        let path = self.place(path)?;
        let change = match self.edits.remove(&path) {
            Some(Edit { change: Change::Append { content: before, was }, reasons, .. }) => {
                let mut all = before.bytes().to_vec();
                all.extend(content);
                self.order.retain(|known| *known != path);
                for reason in reasons {
                    self.put(path.clone(), Change::Remove { was: was.clone() }, &reason.rule, reason.why);
                }
                Change::Append { content: Content::Base64(all), was }
            }
            Some(edit) => {
                let mut all = match &edit.change {
                    Change::Write { content, .. } => content.bytes().to_vec(),
                    _ => Vec::new(),
                };
                all.extend(content);
                let (mode, was) = match &edit.change {
                    Change::Write { mode, was, .. } => (*mode, was.clone()),
                    _ => (0o644, self.was(&path)?),
                };
                self.edits.insert(path.clone(), edit);
                Change::Write { content: all.into(), mode, was }
            }
            None => Change::Append { content: Content::Base64(content), was: self.was(&path)? },
        };
        self.put(path, change, rule, why.into());
        Ok(())
    }

    /// Plans a symbolic link at `path`.
    pub fn link(&mut self, path: &str, target: &str, rule: &str, why: impl Into<String>) -> Result<()> {
        if self.read_link(path)?.as_deref() == Some(target) {
            return Ok(());
        }
        let path = self.place_of_link(path)?;
        let was = self.was(&path)?;
        self.put(path, Change::Link { target: target.to_owned(), was }, rule, why.into());
        Ok(())
    }

    /// Plans a directory at `path`; does nothing where there is something already.
    pub fn directory(&mut self, path: &str, mode: u32, rule: &str, why: impl Into<String>) -> Result<()> {
        if self.link_metadata(path)?.is_none() {
            let path = self.place_of_link(path)?;
            self.put(path, Change::Directory { mode }, rule, why.into());
        }
        Ok(())
    }

    /// Plans that there is nothing at `path`; a link is removed itself.
    pub fn remove(&mut self, path: &str, rule: &str, why: impl Into<String>) -> Result<()> {
        if self.link_metadata(path)?.is_none() {
            return Ok(());
        }
        let path = self.place_of_link(path)?;
        let was = self.was(&path)?;
        if was == Was::Absent {
            self.edits.remove(&path);
            self.order.retain(|known| *known != path);
            return Ok(());
        }
        self.put(path, Change::Remove { was }, rule, why.into());
        Ok(())
    }

    /// Plans bytes of a disk.
    pub fn disk(&mut self, edit: DiskEdit) {
        self.plan.disk.push(edit);
    }

    /// Says something to the administrator.
    pub fn finding(
        &mut self,
        severity: Severity,
        rule: &str,
        text: impl Into<String>,
        remedy: Option<String>,
    ) {
        let finding = Finding { severity, rule: rule.to_owned(), text: text.into(), remedy };
        if !self.plan.findings.contains(&finding) {
            self.plan.findings.push(finding);
        }
    }

    /// What is said so far.
    pub fn findings(&self) -> &[Finding] {
        &self.plan.findings
    }

    /// What the guest will be able to use.
    pub fn capabilities(&mut self) -> &mut Capabilities {
        &mut self.plan.capabilities
    }

    /// Edits so far, in order.
    pub fn edits(&self) -> impl Iterator<Item = &Edit> {
        self.order.iter().filter_map(|path| self.edits.get(path))
    }

    /// Disk edits so far, in order.
    pub fn disk_edits(&self) -> &[DiskEdit] {
        &self.plan.disk
    }

    /// The plan.
    pub fn finish(mut self) -> Plan {
        self.plan.edits = self.order.iter().filter_map(|path| self.edits.remove(path)).collect();
        self.plan
    }

    fn put(&mut self, path: String, change: Change, rule: &str, why: String) {
        let reason = Reason { rule: rule.to_owned(), why };
        match self.edits.get_mut(&path) {
            Some(edit) => {
                edit.change = change;
                if !edit.reasons.contains(&reason) {
                    edit.reasons.push(reason);
                }
            }
            None => {
                self.order.push(path.clone());
                self.edits.insert(path.clone(), Edit { reasons: vec![reason], path, change });
            }
        }
    }
}

/// Where a draft's path leads, planned links included.
impl Draft<'_> {
    /// The path without links in it that `path` means; for what does not exist yet, its nearest existing parent's.
    fn place(&self, path: &str) -> Result<String> {
        if let Some(real) = self.real_path(path)? {
            return Ok(real);
        }
        self.place_of_link(path)
    }

    /// As [`place`](Self::place), without following a link at the end.
    fn place_of_link(&self, path: &str) -> Result<String> {
        let path = normal(path);
        let Some((parent, name)) = path.rsplit_once('/') else { return Ok(path) };
        let parent = if parent.is_empty() {
            String::new()
        } else {
            match self.files.real_path(parent)? {
                Some(real) => real.trim_end_matches('/').to_owned(),
                None => self.place_of_link(parent)?,
            }
        };
        Ok(format!("{parent}/{name}"))
    }

    /// The guest's own state at `path`, as it was before the plan.
    fn was(&self, path: &str) -> Result<Was> {
        if let Some(edit) = self.edits.get(path) {
            return Ok(match &edit.change {
                Change::Write { was, .. }
                | Change::Append { was, .. }
                | Change::Link { was, .. }
                | Change::Remove { was } => was.clone(),
                Change::Directory { .. } => Was::Absent,
            });
        }
        if let Some(target) = self.files.read_link(path)? {
            return Ok(Was::Link { target });
        }
        Ok(match self.files.read(path, u64::MAX)? {
            Some(bytes) => {
                Was::File { hash: blake3::hash(&bytes).to_hex().to_string(), size: bytes.len() as u64 }
            }
            None => Was::Absent,
        })
    }

    /// The edit that decides what is at `path`.
    fn edit_at(&self, path: &str) -> Result<Option<&Edit>> {
        if self.edits.is_empty() {
            return Ok(None);
        }
        if let Some(edit) = self.edits.get(&self.place_of_link(path)?) {
            return Ok(Some(edit));
        }
        let real = self.files.real_path(path)?;
        Ok(real.and_then(|real| self.edits.get(&real)))
    }
}

/// Slashes and dots that say nothing are left out.
fn normal(path: &str) -> String {
    let mut out = String::new();
    for part in path.split('/').filter(|part| !part.is_empty() && *part != ".") {
        out.push('/');
        out.push_str(part);
    }
    out
}

impl Files for Draft<'_> {
    fn metadata(&self, path: &str) -> Result<Option<Metadata>> {
        match self.edit_at(path)?.map(|edit| (&edit.change, &edit.path)) {
            None => self.files.metadata(path),
            Some((Change::Remove { .. }, _)) => Ok(None),
            Some((Change::Link { target, .. }, from)) => self.metadata(&join(from, target)),
            Some((change, at)) => self.changed(change, at),
        }
    }

    fn link_metadata(&self, path: &str) -> Result<Option<Metadata>> {
        match self.edits.get(&self.place_of_link(path)?).map(|edit| (&edit.change, &edit.path)) {
            None => self.files.link_metadata(path),
            Some((Change::Remove { .. }, _)) => Ok(None),
            Some((Change::Link { target, .. }, at)) => Ok(Some(Metadata {
                kind: Kind::Link,
                size: target.len() as u64,
                ..self.new_file(at, 0o777)?
            })),
            Some((change, at)) => self.changed(change, at),
        }
    }

    fn read(&self, path: &str, most: u64) -> Result<Option<Vec<u8>>> {
        match self.edit_at(path)?.map(|edit| (&edit.change, &edit.path)) {
            None => self.files.read(path, most),
            Some((Change::Remove { .. } | Change::Directory { .. }, _)) => Ok(None),
            Some((Change::Link { target, .. }, from)) => self.read(&join(from, target), most),
            Some((Change::Write { content, .. }, _)) => Ok(Some(content.bytes().to_vec())),
            Some((Change::Append { content, .. }, at)) => {
                let mut all = self.files.read(at, most)?.unwrap_or_default();
                all.extend_from_slice(content.bytes());
                Ok(Some(all))
            }
        }
    }

    fn list(&self, path: &str) -> Result<Vec<String>> {
        let mut names = self.files.list(path)?;
        let directory = match self.files.real_path(path)? {
            Some(real) => real.trim_end_matches('/').to_owned(),
            None => self.place_of_link(path)?,
        };
        for (at, edit) in &self.edits {
            let Some(rest) = at.strip_prefix(&directory).and_then(|rest| rest.strip_prefix('/')) else {
                continue;
            };
            let name = rest.split('/').next().unwrap_or(rest);
            if name == rest && matches!(edit.change, Change::Remove { .. }) {
                names.retain(|known| known != name);
            } else if !names.iter().any(|known| known == name) {
                names.push(name.to_owned());
            }
        }
        names.sort();
        Ok(names)
    }

    fn read_link(&self, path: &str) -> Result<Option<String>> {
        match self.edits.get(&self.place_of_link(path)?).map(|edit| &edit.change) {
            None => self.files.read_link(path),
            Some(Change::Link { target, .. }) => Ok(Some(target.clone())),
            Some(_) => Ok(None),
        }
    }

    fn real_path(&self, path: &str) -> Result<Option<String>> {
        match self.edit_at(path)?.map(|edit| (&edit.change, &edit.path)) {
            None => self.files.real_path(path),
            Some((Change::Remove { .. }, _)) => Ok(None),
            Some((Change::Link { target, .. }, from)) => self.real_path(&join(from, target)),
            Some((_, at)) => Ok(Some(at.clone())),
        }
    }

    fn room(&self, path: &str) -> Result<Room> {
        self.files.room(path)
    }
}

/// A link's target as a path of the guest.
fn join(link: &str, target: &str) -> String {
    if target.starts_with('/') {
        return target.to_owned();
    }
    let parent = link.rsplit_once('/').map_or("", |(parent, _)| parent);
    format!("{parent}/{target}")
}

impl Draft<'_> {
    fn new_file(&self, at: &str, mode: u32) -> Result<Metadata> {
        let parent =
            at.rsplit_once('/').map_or("/", |(parent, _)| if parent.is_empty() { "/" } else { parent });
        let device = self.files.metadata(parent)?.map_or(0, |parent| parent.device);
        Ok(Metadata { kind: Kind::File, size: 0, mode, uid: 0, gid: 0, mtime: 0, device })
    }

    fn changed(&self, change: &Change, at: &str) -> Result<Option<Metadata>> {
        let before = self.files.metadata(at)?;
        Ok(Some(match change {
            Change::Write { content, mode, .. } => Metadata {
                size: content.bytes().len() as u64,
                ..before.map_or_else(|| self.new_file(at, *mode), Ok)?
            },
            Change::Append { content, .. } => {
                let before = before.map_or_else(|| self.new_file(at, 0o644), Ok)?;
                Metadata { size: before.size.saturating_add(content.bytes().len() as u64), ..before }
            }
            Change::Directory { mode } => Metadata { kind: Kind::Directory, ..self.new_file(at, *mode)? },
            Change::Link { .. } | Change::Remove { .. } => return Ok(None),
        }))
    }
}

mod base64_bytes {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&STANDARD.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        STANDARD.decode(String::deserialize(from)?).map_err(D::Error::custom)
    }
}
