// SPDX-License-Identifier: Apache-2.0
//! Collecting edits.

use std::collections::BTreeMap;

use unmoor_images::{Error, Result};

use super::{
    Capabilities, Change, Content, DiskEdit, Edit, Finding, IdentityEdit, InitramfsFile, Plan, Reason,
    Severity, Was,
};
use crate::files::{Files, Kind};

/// More of one file is not changed, in bytes: no boot loader loads a larger initramfs.
const MOST_CHANGED: u64 = 1 << 30;

/// A plan in the making, and the guest as it will be: reading through it shows what is planned so far.
pub struct Draft<'a> {
    pub(super) files: &'a dyn Files,
    order: Vec<String>,
    pub(super) edits: BTreeMap<String, Edit>,
    plan: Plan,
    initramfs: Vec<InitramfsFile>,
}

impl<'a> Draft<'a> {
    /// Nothing planned yet.
    pub fn new(files: &'a dyn Files) -> Self {
        Self {
            files,
            order: Vec::new(),
            edits: BTreeMap::new(),
            plan: Plan::default(),
            initramfs: Vec::new(),
        }
    }

    /// The guest as it is.
    pub fn original(&self) -> &'a dyn Files {
        self.files
    }

    /// Plans `content` for the file at `path` (links followed); does nothing where it has that content already. A new file gets mode 0644.
    ///
    /// # Errors
    ///
    /// `Unsupported` where something else than a file is there, or one of absurd size; `Io`.
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
    ///
    /// # Errors
    ///
    /// As `write`.
    pub fn write_mode(
        &mut self,
        path: &str,
        content: impl Into<Content>,
        mode: u32,
        rule: &str,
        why: impl Into<String>,
    ) -> Result<()> {
        let content = content.into();
        let size = content.bytes().len() as u64;
        if self.metadata(path)?.is_some_and(|now| now.kind == Kind::File && now.size == size)
            && self.read(path, size)?.as_deref() == Some(content.bytes())
        {
            return Ok(());
        }
        let path = self.place(path)?;
        let was = self.was(&path)?;
        if is_file(&was, content.bytes()) {
            self.forget(&path);
            return Ok(());
        }
        self.put(path, Change::Write { content, mode, was }, rule, why.into());
        Ok(())
    }

    /// Plans bytes behind the end of the file at `path`.
    ///
    /// # Errors
    ///
    /// As `write`.
    pub fn append(&mut self, path: &str, content: Vec<u8>, rule: &str, why: impl Into<String>) -> Result<()> {
        let path = self.place(path)?;
        let was = self.was(&path)?;
        let change = match self.edits.get(&path).map(|edit| &edit.change) {
            Some(Change::Append { content: before, .. }) => {
                let mut all = before.bytes().to_vec();
                all.extend(content);
                Change::Append { content: Content::Base64(all), was }
            }
            Some(Change::Write { content: before, mode, .. }) => {
                let mut all = before.bytes().to_vec();
                all.extend(content);
                Change::Write { content: all.into(), mode: *mode, was }
            }
            _ if matches!(was, Was::File { .. }) => Change::Append { content: Content::Base64(content), was },
            _ => Change::Write { content: content.into(), mode: 0o644, was },
        };
        self.put(path, change, rule, why.into());
        Ok(())
    }

    /// Plans a symbolic link at `path`.
    ///
    /// # Errors
    ///
    /// `Unsupported` where a directory or a device is there; `Io`.
    pub fn link(&mut self, path: &str, target: &str, rule: &str, why: impl Into<String>) -> Result<()> {
        if self.read_link(path)?.as_deref() == Some(target) {
            return Ok(());
        }
        let path = self.place_of_link(path)?;
        let was = self.was(&path)?;
        if matches!(&was, Was::Link { target: known } if known == target) {
            self.forget(&path);
            return Ok(());
        }
        self.put(path, Change::Link { target: target.to_owned(), was }, rule, why.into());
        Ok(())
    }

    /// Plans that there is nothing at `path`; a link is removed itself.
    ///
    /// # Errors
    ///
    /// `Unsupported` where a directory or a device is there; `Io`.
    pub fn remove(&mut self, path: &str, rule: &str, why: impl Into<String>) -> Result<()> {
        if self.link_metadata(path)?.is_none() {
            return Ok(());
        }
        let path = self.place_of_link(path)?;
        let was = self.was(&path)?;
        if was == Was::Absent {
            self.forget(&path);
            return Ok(());
        }
        self.put(path, Change::Remove { was }, rule, why.into());
        Ok(())
    }

    /// Plans a directory at `path`; does nothing where there is one. Parents of planned files need no such edit.
    ///
    /// # Errors
    ///
    /// `Unsupported` where something else is there; `Io`.
    pub fn directory(&mut self, path: &str, mode: u32, rule: &str, why: impl Into<String>) -> Result<()> {
        match self.metadata(path)?.map(|found| found.kind) {
            Some(Kind::Directory) => return Ok(()),
            Some(_) => {
                return Err(Error::unsupported(
                    format!("planning the directory {path}"),
                    "something else is there",
                ));
            }
            None => {}
        }
        let path = self.place(path)?;
        self.put(path, Change::Directory { mode }, rule, why.into());
        Ok(())
    }

    /// Wants a file in the initramfs of every bootable kernel. A later one of the same path takes its place.
    pub fn initramfs_file(&mut self, path: &str, content: impl Into<Content>, mode: u32) {
        self.initramfs.retain(|known| known.path != path);
        self.initramfs.push(InitramfsFile { path: path.to_owned(), content: content.into(), mode });
    }

    /// What the initramfs of every bootable kernel is to hold too.
    pub fn initramfs_files(&self) -> &[InitramfsFile] {
        &self.initramfs
    }

    /// Plans bytes of a disk.
    pub fn disk(&mut self, edit: DiskEdit) {
        self.plan.disk.push(edit);
    }

    /// Plans another identity.
    pub fn identity(&mut self, edit: IdentityEdit) {
        self.plan.identities.push(edit);
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

    /// A change that was taken back.
    fn forget(&mut self, path: &str) {
        self.edits.remove(path);
        self.order.retain(|known| known != path);
    }

    /// The guest's own state at `path`, as it was before the plan.
    fn was(&self, path: &str) -> Result<Was> {
        if let Some(edit) = self.edits.get(path) {
            return Ok(edit.change.was());
        }
        was(self.files, path)
    }
}

/// The state of a guest's file at `path`, which has no links in its parents.
///
/// # Errors
///
/// `Unsupported` for a directory, a device, or a file of absurd size; `Io`.
pub(crate) fn was(files: &dyn Files, path: &str) -> Result<Was> {
    let doing = || format!("planning a change of {path}");
    match files.link_metadata(path)?.map(|found| found.kind) {
        None => Ok(Was::Absent),
        Some(Kind::Link) => match files.read_link(path)? {
            Some(target) => Ok(Was::Link { target }),
            None => Err(Error::unsupported(doing(), "it is a link to a name that is no text")),
        },
        Some(Kind::File) => {
            let bytes = files.read(path, MOST_CHANGED)?.unwrap_or_default();
            Ok(Was::File { hash: blake3::hash(&bytes).to_hex().to_string(), size: bytes.len() as u64 })
        }
        Some(Kind::Directory) => Err(Error::unsupported(doing(), "it is a directory")),
        Some(Kind::Other) => Err(Error::unsupported(doing(), "it is a device, socket or pipe")),
    }
}

/// Whether `was` is a file with these bytes.
fn is_file(was: &Was, bytes: &[u8]) -> bool {
    matches!(was, Was::File { hash, size }
        if *size == bytes.len() as u64 && *hash == blake3::hash(bytes).to_hex().as_str())
}
