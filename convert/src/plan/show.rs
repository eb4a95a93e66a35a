// SPDX-License-Identifier: Apache-2.0
//! A plan for people: text files as a diff, the rest in a line each.

use std::fmt::Write;

use unmoor_images::Result;

use super::diff::unified;
use super::{Change, Content, Edit, Plan, Severity, Was};
use crate::files::Files;

/// Text files that are longer are told by their size, in bytes.
const MOST_SHOWN: usize = 256 << 10;

impl Plan {
    /// The plan as text, compared with `files`, the guest as it is.
    ///
    /// # Errors
    ///
    /// Where a file that is to be changed cannot be read.
    pub fn show(&self, files: &dyn Files) -> Result<String> {
        let mut out = String::new();
        for edit in &self.edits {
            edit_text(edit, files, &mut out)?;
        }
        for edit in &self.disk {
            for line in &edit.summary {
                let _ = writeln!(out, "disk {}: {line}", edit.disk);
            }
            for reason in &edit.reasons {
                let _ = writeln!(out, "  # {}: {}", reason.rule, reason.why);
            }
        }
        for edit in &self.identities {
            let _ = writeln!(out, "{}", edit.of.summary());
            for reason in &edit.reasons {
                let _ = writeln!(out, "  # {}: {}", reason.rule, reason.why);
            }
        }
        for finding in &self.findings {
            let kind = match finding.severity {
                Severity::Note => "note",
                Severity::Warning => "warning",
                Severity::Error => "error",
            };
            let _ = writeln!(out, "{kind}: {} ({})", finding.text, finding.rule);
            if let Some(remedy) = &finding.remedy {
                let _ = writeln!(out, "  remedy: {remedy}");
            }
        }
        if out.is_empty() {
            out.push_str("nothing is to be changed\n");
        }
        Ok(out)
    }
}

fn edit_text(edit: &Edit, files: &dyn Files, out: &mut String) -> Result<()> {
    let path = &edit.path;
    let was = edit.change.was();
    match &edit.change {
        Change::Write { content, mode, was } => {
            let old = match was {
                Was::File { size, .. } if *size <= MOST_SHOWN as u64 => {
                    files.read(path, MOST_SHOWN as u64)?.and_then(|bytes| String::from_utf8(bytes).ok())
                }
                Was::File { .. } => None,
                Was::Absent | Was::Link { .. } => Some(String::new()),
            };
            match (old, content) {
                (Some(old), Content::Text(new)) if new.len() <= MOST_SHOWN => {
                    let from = if matches!(was, Was::File { .. }) { path } else { "/dev/null" };
                    let _ = writeln!(out, "--- {from}\n+++ {path}");
                    reasons(edit, out);
                    if let Was::Link { target } = was {
                        let _ = writeln!(out, "  takes the place of a link to {target}");
                    }
                    if matches!(was, Was::Absent) {
                        let _ = writeln!(out, "  new, mode {mode:04o}");
                    }
                    out.push_str(&unified(&old, new));
                    return Ok(());
                }
                _ => {
                    let new = size(content.bytes().len() as u64);
                    let _ = match was {
                        Was::File { size: old, .. } => {
                            writeln!(out, "replaces {path} ({} by {new})", size(*old))
                        }
                        _ => writeln!(out, "writes {path} ({new}, mode {mode:04o})"),
                    };
                }
            }
        }
        Change::Append { content, .. } => {
            let bytes = content.bytes();
            let files = match archived_files(bytes) {
                Some(1) => " (1 file)".to_owned(),
                Some(files) => format!(" ({files} files)"),
                None => String::new(),
            };
            let _ = writeln!(out, "appends {}{files} to {path}", size(bytes.len() as u64));
        }
        Change::Link { target, .. } => {
            let instead = match was {
                Was::Absent => String::new(),
                Was::File { .. } => " in the place of a file".to_owned(),
                Was::Link { target } => format!(" (it led to {target})"),
            };
            let _ = writeln!(out, "links {path} to {target}{instead}");
        }
        Change::Remove { was: Was::Link { target } } => {
            let _ = writeln!(out, "removes the link {path} (it leads to {target})");
        }
        Change::Remove { .. } => {
            let _ = writeln!(out, "removes {path}");
        }
        Change::Directory { mode } => {
            let _ = writeln!(out, "makes the directory {path}, mode {mode:04o}");
        }
    }
    reasons(edit, out);
    Ok(())
}

fn reasons(edit: &Edit, out: &mut String) {
    for reason in &edit.reasons {
        let _ = writeln!(out, "  # {}: {}", reason.rule, reason.why);
    }
}

/// Binary units with one decimal.
pub(crate) fn size(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value < 1024.0 {
            return if unit == "B" { format!("{bytes} B") } else { format!("{value:.1} {unit}") };
        }
        value /= 1024.0;
    }
    format!("{value:.1} TiB")
}

/// How many regular files an uncompressed newc archive holds (the kernel's Documentation/driver-api/early-userspace/
/// buffer-format.rst), leading zeros skipped; `None` for anything else.
fn archived_files(bytes: &[u8]) -> Option<usize> {
    const HEAD: usize = 110;
    let mut at = bytes.iter().position(|byte| *byte != 0)?;
    let mut files = 0;
    loop {
        let head = bytes.get(at..at.checked_add(HEAD)?)?;
        if !head.starts_with(b"07070") {
            return None;
        }
        let field = |number: usize| {
            let start = 6 + 8 * number;
            let text = std::str::from_utf8(head.get(start..start + 8)?).ok()?;
            usize::from_str_radix(text, 16).ok()
        };
        let (mode, len, name_len) = (field(1)?, field(6)?, field(11)?);
        let name = at.checked_add(HEAD)?;
        let data = name.checked_add(name_len)?.checked_next_multiple_of(4)?;
        if bytes.get(name..)?.starts_with(b"TRAILER!!!\0") {
            return Some(files);
        }
        files += usize::from(mode & 0o170_000 == 0o100_000);
        at = data.checked_add(len)?.checked_next_multiple_of(4)?;
    }
}
