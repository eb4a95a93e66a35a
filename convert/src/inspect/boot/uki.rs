// SPDX-License-Identifier: Apache-2.0
//! Unified kernel images (UAPI.5): EFI/Linux/*.efi.

use super::super::guest::{Guest, join};
use crate::inspection::BootEntry;
use crate::syntax::assignments::{assignments, get};
use crate::syntax::pe;
use crate::syntax::version::compare;

/// A kernel with its whole initramfs.
pub(in crate::inspect) const MOST_UKI: u64 = 1 << 30;

/// The images below a boot partition's directory, newest first, by their ids (file names).
pub(super) fn entries(guest: &Guest<'_>, place: &str) -> Vec<(String, BootEntry)> {
    let Some(directory) = guest.any_case(&join(place, "EFI/Linux")) else { return Vec::new() };
    let mut files: Vec<String> = guest.list(&directory);
    files.retain(|name| name.to_ascii_lowercase().ends_with(".efi"));
    files.truncate(64);
    files.sort_by(|a, b| compare(b, a));
    files
        .into_iter()
        .filter_map(|name| Some((name.clone(), entry(guest, &join(&directory, &name))?)))
        .collect()
}

fn entry(guest: &Guest<'_>, path: &str) -> Option<BootEntry> {
    let bytes = guest.bytes(path, MOST_UKI)?;
    let image = match pe::parse(&bytes) {
        Ok(image) => image,
        Err(error) => {
            guest.note(format!("{path}: {}", error.chain()));
            return None;
        }
    };
    image.section(&bytes, ".linux")?;
    let release = assignments(&image.text(&bytes, ".osrel").unwrap_or_default());
    let title = get(&release, "PRETTY_NAME").or_else(|| get(&release, "NAME"));
    let arguments = image.text(&bytes, ".cmdline").unwrap_or_default();
    Some(BootEntry {
        file: path.to_owned(),
        lines: None,
        style: "uki".into(),
        title: title.unwrap_or_else(|| path.rsplit('/').next().unwrap_or(path).to_owned()),
        kernel: Some(path.to_owned()),
        initramfs: image.section(&bytes, ".initrd").map(|_| path.to_owned()).into_iter().collect(),
        arguments: arguments.split_whitespace().map(str::to_owned).collect(),
        default: false,
    })
}
