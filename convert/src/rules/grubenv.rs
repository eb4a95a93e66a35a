// SPDX-License-Identifier: Apache-2.0
//! GRUB's environment block: 1024 bytes (grub-core/lib/envblk.c), a head line, NAME=VALUE lines, filled up with "#". GRUB writes to
//! it by block number, so that it keeps its size.

use unmoor_images::Result;

use super::arguments::Changes;
use crate::files::Files;
use crate::plan::{Draft, Severity};

const SIGNATURE: &str = "# GRUB Environment Block\n";
const SIZE: usize = 1024;

/// Changes the values that hold kernel arguments; answers what they name that is lost.
pub(super) fn plan(
    draft: &mut Draft<'_>,
    path: &str,
    why: &str,
    change: impl Fn(&str) -> Changes,
) -> Result<Vec<String>> {
    let Some(bytes) = draft.read(path, SIZE as u64 * 64)? else { return Ok(Vec::new()) };
    let Ok(text) = String::from_utf8(bytes) else { return Ok(Vec::new()) };
    if !text.starts_with(SIGNATURE) {
        return Ok(Vec::new());
    }
    let size = text.len();
    let mut lost = Vec::new();
    let mut out = String::new();
    let mut changed = false;
    for line in text.trim_end_matches('#').split_inclusive('\n') {
        match line.trim_end_matches('\n').split_once('=') {
            Some((name @ ("kernelopts" | "tuned_params"), value)) => {
                let found = change(value);
                lost.extend(found.lost);
                let mut value = value.to_owned();
                for (range, new) in found.pieces.iter().rev() {
                    changed = true;
                    if value.get(range.clone()).is_some() {
                        value.replace_range(range.clone(), new);
                    }
                }
                out.push_str(&format!("{name}={value}\n"));
            }
            _ => out.push_str(line),
        }
    }
    if !changed {
        return Ok(lost);
    }
    if out.len() > size {
        draft.finding(
            Severity::Error,
            "grubenv",
            format!("{path} has no room for the new kernel arguments: {} bytes of {size}", out.len()),
            Some("remove unneeded kernel arguments from it on the machine (grub2-editenv)".into()),
        );
        return Ok(lost);
    }
    out.push_str(&"#".repeat(size - out.len()));
    draft.write(path, out.into_bytes(), "grubenv", why)?;
    Ok(lost)
}

/// Sets a variable that is there already; whether it was.
pub(super) fn set(
    draft: &mut Draft<'_>,
    path: &str,
    name: &str,
    value: &str,
    rule: &str,
    why: &str,
) -> Result<bool> {
    let Some(bytes) = draft.read(path, SIZE as u64 * 64)? else { return Ok(false) };
    let Ok(text) = String::from_utf8(bytes) else { return Ok(false) };
    let prefix = format!("{name}=");
    if !text.starts_with(SIGNATURE) || !text.lines().any(|line| line.starts_with(&prefix)) {
        return Ok(false);
    }
    let mut out: String = text
        .trim_end_matches('#')
        .split_inclusive('\n')
        .map(|line| if line.starts_with(&prefix) { format!("{prefix}{value}\n") } else { line.to_owned() })
        .collect();
    if out.len() > text.len() {
        return Ok(false);
    }
    out.push_str(&"#".repeat(text.len() - out.len()));
    draft.write(path, out.into_bytes(), rule, why)?;
    Ok(true)
}
