// SPDX-License-Identifier: Apache-2.0
//! A UEFI guest on firmware that knows nothing of it: \EFI\BOOT\BOOTX64.EFI must be there. It gets the guest's own signed
//! loaders, as copies; nothing in the distribution's directory changes.
//!
//! shim's fallback program (fbx64.efi) is not copied: it writes boot entries and restarts, which loops on some firmware.

use std::ops::Range;

use unmoor_images::adapt::Window;
use unmoor_images::filesystem::fat::Volume;
use unmoor_images::partition::Role;
use unmoor_images::{BlockSource, Error, Result};

use super::esp::{self, EspFiles};
use super::mount::mounted_at;
use super::to_uefi::reason;
use super::{Context, RULE};
use crate::files::Files;
use crate::plan::{Draft, Severity};

/// A loader or key manager has a few MiB at most.
const MOST: u64 = 32 << 20;
const WHY: &str = "firmware that has no boot entry for the guest starts \\EFI\\BOOT\\BOOTX64.EFI";
/// Names of what shim starts, and of its key manager, as distributions have them (SUSE's shim starts grub.efi).
const BESIDE: &[&str] = &["grubx64.efi", "grub.efi", "mmx64.efi", "MokManager.efi"];

/// Where an ESP's files are read.
enum View<'a> {
    Mounted { files: &'a dyn Files, mountpoint: String },
    Volume { volume: Volume, source: Window<&'a dyn BlockSource>, disk: usize, range: Range<u64> },
}

impl View<'_> {
    fn list(&self, path: &str) -> Result<Vec<String>> {
        match self {
            Self::Mounted { files, mountpoint } => files.list(&format!("{mountpoint}/{path}")),
            Self::Volume { volume, .. } => Ok(volume.list(path)),
        }
    }

    /// A file by its name in any case.
    fn content(&self, folder: &str, name: &str) -> Result<Option<Vec<u8>>> {
        let names = self.list(folder)?;
        let Some(name) = names.iter().find(|found| found.eq_ignore_ascii_case(name)) else { return Ok(None) };
        match self {
            Self::Mounted { files, mountpoint } => files.read(&format!("{mountpoint}/{folder}/{name}"), MOST),
            Self::Volume { volume, source, .. } => volume.content(&format!("{folder}/{name}"), Some(source)),
        }
    }
}

pub(super) fn plan(draft: &mut Draft<'_>, context: &Context<'_>) -> Result<()> {
    let mut seen = 0;
    let mut missing = Vec::new();
    for (disk, (source, layout)) in context.disks.iter().zip(context.layouts).enumerate() {
        for partition in layout.table.partitions.iter().filter(|partition| partition.role == Role::Esp) {
            let range = partition.start..partition.start.saturating_add(partition.len);
            let Some(view) = view(draft, context, (disk, *source), range)? else { continue };
            seen += 1;
            if view.content("EFI/BOOT", "BOOTX64.EFI")?.is_some() {
                return Ok(());
            }
            missing.push(view);
        }
    }
    if seen == 0 {
        return Err(Error::refused(
            "looking for the EFI system partition",
            "the guest starts with UEFI, and none of its disks has an EFI system partition with a FAT volume",
        ));
    }
    for view in missing {
        let Some((files, from)) = copies(&view, context)? else { continue };
        draft.finding(
            Severity::Note,
            RULE,
            format!("\\EFI\\BOOT gets copies of the boot loaders in \\EFI\\{from}: the new machine's firmware knows no other way in"),
            None,
        );
        return match view {
            View::Mounted { mountpoint, .. } => esp::write_files(draft, &mountpoint, files, RULE, WHY),
            View::Volume { disk, range, .. } => match context.disks.get(disk) {
                Some(&source) => esp::changed_volume(
                    draft,
                    (disk, source),
                    &range,
                    files,
                    context.request.now,
                    reason(WHY),
                ),
                None => Ok(()),
            },
        };
    }
    Err(Error::refused(
        "looking for a boot loader for UEFI",
        "the EFI system partition has neither \\EFI\\BOOT\\BOOTX64.EFI nor a shim, GRUB or systemd-boot that could be copied there",
    ))
}

fn view<'a>(
    draft: &Draft<'a>,
    context: &Context<'a>,
    (disk, source): (usize, &'a dyn BlockSource),
    range: Range<u64>,
) -> Result<Option<View<'a>>> {
    if let Some(mountpoint) = mounted_at(draft, context, disk, &range)? {
        return Ok(Some(View::Mounted { files: draft.original(), mountpoint }));
    }
    let window = Window::new(source, range.start, range.end - range.start)?;
    Ok(Volume::read(&window)?.map(|volume| View::Volume { volume, source: window, disk, range }))
}

/// What is to be put on the ESP, and the directory that it comes from.
fn copies(view: &View<'_>, context: &Context<'_>) -> Result<Option<(EspFiles, String)>> {
    let mut folders = view.list("EFI")?;
    folders.retain(|name| !name.eq_ignore_ascii_case("BOOT"));
    let system = &context.inspection.system;
    let ids: Vec<&str> = system.id.iter().chain(&system.id_like).map(String::as_str).collect();
    // RHEL's is "redhat". The distribution's own comes first: others may be leftovers of earlier ones.
    let is_own = |name: &String| {
        ids.iter().any(|id| name.eq_ignore_ascii_case(id) || (*id == "rhel" && name == "redhat"))
    };
    folders.sort_by_key(|name| !is_own(name));
    for name in folders {
        let folder = format!("EFI/{name}");
        let shim = view.content(&folder, "shimx64.efi")?.or(view.content(&folder, "shim.efi")?);
        let first = match shim {
            Some(shim) => Some(shim),
            None => match view.content(&folder, "grubx64.efi")? {
                Some(grub) => Some(grub),
                None => view.content(&folder, "systemd-bootx64.efi")?,
            },
        };
        let Some(first) = first else { continue };
        let mut files: EspFiles = vec![("EFI/BOOT/BOOTX64.EFI".to_owned(), first)];
        for beside in BESIDE {
            if let Some(bytes) = view.content(&folder, beside)? {
                files.push((format!("EFI/BOOT/{beside}"), bytes));
            }
        }
        // Fedora's GRUB looks for its configuration where it was started from, before its built-in place.
        if view.content(&folder, "grub.cfg")?.is_some() {
            let stub = format!(
                "{} It leads to the distribution's own.\nconfigfile /{folder}/grub.cfg\n",
                super::grub::config::MARK
            );
            files.push(("EFI/BOOT/grub.cfg".to_owned(), stub.into_bytes()));
        }
        return Ok(Some((files, name)));
    }
    Ok(None)
}
