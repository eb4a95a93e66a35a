// SPDX-License-Identifier: Apache-2.0
//! A UEFI guest for a BIOS: GRUB's core image in a BIOS boot partition, its modules beside the guest's own boot menu.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::ops::Range;

use unmoor_images::layout::DiskLayout;
use unmoor_images::manifest::Firmware;
use unmoor_images::parse::read_vec;
use unmoor_images::partition::rewrite::{BIOS_BOOT, Extension, NewPartition, to_gpt};
use unmoor_images::partition::{Role, TableKind};
use unmoor_images::{BlockSource, Error, Result};

use super::grub::core_image::{self, CoreImage, Wanted};
use super::grub::{config, modules};
use super::guest::Menu;
use super::loaders::{BiosGrub, Loaders};
use super::locate::OnDevice;
use super::space::{Disk, Need};
use super::to_uefi::{reason, rename_commands};
use super::{Context, RULE, seed};
use crate::files::{Files, MOST_TEXT};
use crate::plan::{Content, DiskEdit, Draft, Severity};

const MIB: u64 = 1 << 20;
const SECTOR: u64 = 512;
/// BIOSes and GRUB's boot code count sectors in 32 bits at the worst.
const REACH: u64 = 2 << 40;

/// In the core image, so that a boot needs no other module than what reads the disk.
const CORE: &[&str] = &[
    "biosdisk",
    "part_gpt",
    "part_msdos",
    "search_fs_uuid",
    "search",
    "normal",
    "configfile",
    "test",
    "echo",
    "loadenv",
    "linux",
    "gzio",
    "ls",
];
/// Beside the menu, for what menus and people at the console commonly use.
const USUAL: &[&str] = &[
    "all_video",
    "boot",
    "cat",
    "chain",
    "font",
    "gettext",
    "gfxmenu",
    "gfxterm",
    "gfxterm_background",
    "halt",
    "help",
    "jpeg",
    "keystatus",
    "lvm",
    "mdraid1x",
    "minicmd",
    "password_pbkdf2",
    "png",
    "probe",
    "reboot",
    "regexp",
    "search_fs_file",
    "search_label",
    "serial",
    "sleep",
    "terminal",
    "true",
    "vbe",
    "vga",
    "video",
];
/// Lists by which GRUB finds modules for commands, filesystems and so on.
const LISTS: &[&str] = &[
    "moddep.lst",
    "command.lst",
    "fs.lst",
    "partmap.lst",
    "parttool.lst",
    "terminal.lst",
    "video.lst",
    "crypto.lst",
];

pub(super) fn plan(draft: &mut Draft<'_>, context: &Context<'_>) -> Result<()> {
    context.check_architecture()?;
    let files = draft.original();
    let loaders = Loaders::new(files, context.request);
    let grub = loaders.bios().ok_or_else(|| {
        Error::refused(
            "changing to BIOS",
            "neither the guest nor the rescue environment has GRUB for BIOS: build the rescue environment with the package \
             grub-pc-bin as payload",
        )
    })?;
    let menu = context.menu(draft, grub.file("blscfg.mod").is_some())?;
    context.check_reads(draft, &menu.on, grub.version);
    context.check_array(draft, &menu);
    let index = context.boot_disk(&menu)?;
    let (Some(&source), Some(layout)) = (context.disks.get(index), context.layouts.get(index)) else {
        return Ok(());
    };
    if source.sector_size() != 512 {
        return Err(Error::refused(
            "changing to BIOS",
            "a BIOS does not start from a disk with 4096-byte sectors: keep UEFI",
        ));
    }
    let embedded = embedded(&menu.on).map(|text| context.names.renamed(&text).unwrap_or(text));
    let embedded = embedded.ok_or_else(|| {
        Error::refused(
            "leading GRUB to the boot menu",
            format!("the filesystem of {} has no UUID to be found by", menu.path),
        )
    })?;
    boot_area(draft, context, &grub, &menu, &embedded, (index, source, layout))?;
    copy_modules(draft, &grub, &menu)?;
    rename_commands(draft, &menu)?;
    draft.capabilities().uefi = false;
    draft.capabilities().secure_boot = false;
    draft.finding(
        Severity::Note,
        RULE,
        format!("the machine starts with a BIOS by GRUB of {}; Secure Boot ends with UEFI", grub.origin()),
        context
            .is_root_encrypted()
            .then(|| "where a TPM opens the disk, have a passphrase at hand".to_owned()),
    );
    draft.finding(
        Severity::Warning,
        RULE,
        "the guest's own packages still keep GRUB for UEFI: its next boot loader update would not reach what the BIOS starts",
        Some(format!("in the guest: {}", context.packages(Firmware::Bios))),
    );
    Ok(())
}

/// Commands of the core image: find the menu's filesystem, and what is not named grub.cfg is started by name.
pub(super) fn embedded(on: &OnDevice<'_>) -> Option<String> {
    let (directory, name) = on.path.rsplit_once('/')?;
    let mut text = config::find(on)?;
    let _ = writeln!(text, "set prefix=($root)'{}'", directory.replace('\'', ""));
    if name != "grub.cfg" {
        let _ = writeln!(text, "normal $prefix/{name}");
    }
    Some(text)
}

/// Modules of the core image for a menu on `on`.
pub(super) fn core_modules(on: &OnDevice<'_>) -> Vec<&'static str> {
    let mut all = CORE.to_vec();
    all.extend(on.modules());
    all
}

/// Puts boot code and core image on the disk: into a BIOS boot partition that is there or is made, or before the first
/// partition of an MBR.
fn boot_area(
    draft: &mut Draft<'_>,
    context: &Context<'_>,
    grub: &BiosGrub<'_>,
    menu: &Menu<'_>,
    embedded: &str,
    (index, source, layout): (usize, &dyn BlockSource, &DiskLayout),
) -> Result<()> {
    let modules = core_modules(&menu.on);
    let directory = menu.on.path.rsplit_once('/').map_or("/boot/grub", |(directory, _)| directory);
    let build = |at: u64| -> Result<CoreImage> {
        let wanted =
            Wanted { modules: &modules, prefix: directory, config: embedded, first_sector: at / SECTOR };
        core_image::build(&|name| grub.file(name), &wanted)
    };
    // Its length does not depend on where it lies.
    let len = build(SECTOR)?.core.len() as u64;
    let mut summary = Vec::new();
    let mut writes: Vec<(u64, Content)> = Vec::new();
    let (at, table) = match existing(layout, len) {
        Some(range) => (range.start, Vec::new()),
        None if layout.table.kind == TableKind::Mbr => (SECTOR, Vec::new()),
        None => {
            let need = Need {
                what: "a BIOS boot partition",
                least: len.next_multiple_of(SECTOR),
                most: MIB,
                align: SECTOR,
                limit: REACH.min(source.size()),
                lowest: true,
            };
            let space = Disk { source, layout }.find(&[need])?;
            let Some(range) = space.ranges.first().cloned() else { return Ok(()) };
            let extension = Extension {
                size: source.size(),
                shorten: space.shorten,
                add: vec![NewPartition {
                    number: None,
                    range: range.clone(),
                    type_id: BIOS_BOOT.to_owned(),
                    guid: seed::guid(&context.request.seed, "bios boot partition"),
                    name: "BIOS boot partition".to_owned(),
                }],
                ..Extension::default()
            };
            let table = to_gpt(source, &extension)?;
            summary.extend(table.notes);
            summary.extend(space.notes);
            writes.extend(table.clear.iter().map(|(at, len)| (*at, Content::Base64(vec![0; *len as usize]))));
            writes.extend(space.writes.into_iter().map(|(at, bytes)| (at, Content::Base64(bytes))));
            (range.start, table.writes)
        }
    };
    let image = build(at)?;
    if layout.table.kind == TableKind::Mbr {
        let first = layout.table.partitions.iter().map(|partition| partition.start).min().unwrap_or(0);
        if first < at + image.core.len() as u64 {
            return Err(Error::refused(
                "putting GRUB's core image on the disk",
                format!(
                    "it needs {} bytes before the first partition of an MBR, which begins at byte {first}: {} bytes are missing",
                    image.core.len(),
                    at + image.core.len() as u64 - first
                ),
            ));
        }
    }
    let mut boot = match table.first() {
        Some((0, boot)) => boot.clone(),
        _ => read_vec(source, 0, SECTOR as usize)?,
    };
    if let Some(code) = boot.get_mut(..image.boot_code.len()) {
        code.copy_from_slice(&image.boot_code);
    }
    summary.push(format!(
        "GRUB's core image, {} bytes from byte {at}, and its boot code in the first sector",
        image.core.len()
    ));
    writes.push((at, Content::Base64(image.core)));
    writes.extend(table.into_iter().skip(1).rev().map(|(at, bytes)| (at, Content::Base64(bytes))));
    writes.push((0, Content::Base64(boot)));
    draft.disk(DiskEdit {
        reasons: vec![reason("a BIOS starts from the disk's first sector")],
        disk: index,
        summary,
        writes,
    });
    Ok(())
}

/// A BIOS boot partition of this disk that is large enough.
fn existing(layout: &DiskLayout, len: u64) -> Option<Range<u64>> {
    let partitions = layout.table.partitions.iter().filter(|partition| partition.role == Role::BiosBoot);
    partitions
        .map(|partition| partition.start..partition.start.saturating_add(partition.len))
        .find(|range| range.end - range.start >= len && range.end <= REACH)
}

/// Modules that the menu names or people commonly need, with what they need, beside the menu.
fn copy_modules(draft: &mut Draft<'_>, grub: &BiosGrub<'_>, menu: &Menu<'_>) -> Result<()> {
    let folder = menu.path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let text = draft.read(&menu.path, MOST_TEXT)?.unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let mut wanted: BTreeSet<String> = modules::named(&text, &modules::commands(&grub.text("command.lst")));
    wanted.extend(USUAL.iter().chain(CORE).map(|name| (*name).to_owned()));
    wanted.extend(menu.on.modules().iter().map(|name| (*name).to_owned()));
    let dependencies = modules::Dependencies::parse(&grub.text("moddep.lst"));
    let why = "GRUB loads these modules from beside its menu";
    let names = dependencies.closure(wanted.iter().map(String::as_str));
    let names = names.iter().map(|name| format!("{name}.mod"));
    for name in names.chain(LISTS.iter().map(|name| (*name).to_owned())) {
        // A menu may name modules of UEFI only, such as efi_gop; GRUB goes on without them.
        if let Some(bytes) = grub.file(&name) {
            draft.write(&format!("{folder}/i386-pc/{name}"), bytes, RULE, why)?;
        }
    }
    Ok(())
}
