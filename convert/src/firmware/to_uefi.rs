// SPDX-License-Identifier: Apache-2.0
//! A BIOS guest for UEFI: an EFI system partition with shim and GRUB that lead to the guest's own boot menu.

use std::ops::Range;

use unmoor_images::layout::DiskLayout;
use unmoor_images::manifest::Firmware;
use unmoor_images::partition::TableKind;
use unmoor_images::partition::rewrite::{BIOS_BOOT, ESP, Extension, NewPartition, to_gpt};
use unmoor_images::{BlockSource, Error, Result};

use super::esp::{self, EspFiles};
use super::grub::config::{plain_commands, stub};
use super::grub::core_image::{self, CoreImage};
use super::guest::Menu;
use super::loaders::{EfiGrub, Loaders};
use super::mount::{existing_esp, mount, mount_existing, mounted_at};
use super::space::{Disk, Need};
use super::{Context, RULE, partuuid, seed, to_bios};
use crate::files::{Files, MOST_TEXT};
use crate::identity::Names;
use crate::plan::{Content, DiskEdit, Draft, Reason, Severity};

const MIB: u64 = 1 << 20;
/// FAT32 needs 65525 clusters to be FAT32 for everybody: 32 MiB of 512-byte ones. 64 MiB hold shim and GRUB ten times.
const LEAST_ESP: u64 = 64 * MIB;
const MOST_ESP: u64 = 512 * MIB;
/// A core image has about 200 KiB; what is before 1 MiB has 1007 KiB.
const LEAST_BIOS_BOOT: u64 = 256 << 10;

pub(super) fn plan(draft: &mut Draft<'_>, context: &Context<'_>) -> Result<()> {
    context.check_architecture()?;
    check_kernels(draft, context)?;
    let files = draft.original();
    let loaders = Loaders::new(files, context.request);
    let grub = loaders.efi()?.ok_or_else(|| {
        Error::refused(
            "changing to UEFI",
            "neither the guest nor the rescue environment has GRUB for UEFI: build the rescue environment with the packages \
             shim-signed and grub-efi-amd64-signed as payload",
        )
    })?;
    let menu = context.menu(draft, grub.reads_entries())?;
    context.check_reads(draft, &menu.on, grub.version);
    context.check_array(draft, &menu);
    let index = context.boot_disk(&menu)?;
    let (Some(&source), Some(layout)) = (context.disks.get(index), context.layouts.get(index)) else {
        return Ok(());
    };
    let content = efi_files(&grub, &menu, context.names)?;
    match existing_esp(source, layout)? {
        Some(range) => {
            mount_existing(draft, context, index, &range)?;
            match mounted_at(draft, context, index, &range)? {
                Some(mountpoint) => esp::write_files(draft, &mountpoint, content, RULE, "UEFI starts these")?,
                None => esp::changed_volume(
                    draft,
                    (index, source),
                    &range,
                    content,
                    context.request.now,
                    reason("the EFI system partition that is there gets a boot loader"),
                )?,
            }
        }
        None => new_esp(draft, context, &loaders, &menu, (index, source, layout), content)?,
    }
    rename_commands(draft, &menu)?;
    draft.capabilities().uefi = true;
    draft.capabilities().secure_boot = grub.shim.is_some();
    tell(draft, context, &grub);
    Ok(())
}

pub(super) fn reason(why: &str) -> Reason {
    Reason { rule: RULE.to_owned(), why: why.to_owned() }
}

fn tell(draft: &mut Draft<'_>, context: &Context<'_>, grub: &EfiGrub) {
    let signed = if grub.shim.is_some() {
        "shim and signed GRUB"
    } else {
        "GRUB without a signature (Secure Boot must be off)"
    };
    draft.finding(
        Severity::Note,
        RULE,
        format!("the machine starts with UEFI by \\EFI\\BOOT\\BOOTX64.EFI: {signed}, of {}", grub.origin),
        None,
    );
    draft.finding(
        Severity::Warning,
        RULE,
        "the guest's own packages know nothing of UEFI yet: its next boot loader update would not reach what UEFI starts",
        Some(format!("in the guest: {}", context.packages(Firmware::Uefi))),
    );
}

/// Kernels must have been built with EFI's stub, which GRUB's `linux` jumps into.
fn check_kernels(draft: &mut Draft<'_>, context: &Context<'_>) -> Result<()> {
    for kernel in context.inspection.kernels.iter().filter(|kernel| kernel.bootable) {
        let Some(config) = kernel.config.as_deref() else { continue };
        let Some(text) = draft.text(config)? else { continue };
        if !text.lines().any(|line| line == "CONFIG_EFI_STUB=y") {
            draft.finding(
                Severity::Error,
                RULE,
                format!(
                    "the kernel {} is built without CONFIG_EFI_STUB, so that UEFI cannot start it",
                    kernel.release
                ),
                Some(
                    "install a kernel of the distribution, or keep the firmware: --firmware bios".to_owned(),
                ),
            );
        }
    }
    Ok(())
}

/// Both ways in: the fallback path that every firmware tries, and the directory that the GRUB has built in.
fn efi_files(grub: &EfiGrub, menu: &Menu<'_>, names: &Names) -> Result<EspFiles> {
    let stub = stub(&menu.on).map(|text| names.renamed(&text).unwrap_or(text));
    let stub = stub.ok_or_else(|| {
        Error::refused(
            "leading GRUB to the boot menu",
            format!("the filesystem of {} has no UUID to be found by", menu.path),
        )
    })?;
    let vendor = grub.prefix.trim_matches('/').to_owned();
    let mut files = Vec::new();
    for (folder, first) in [("EFI/BOOT", "BOOTX64.EFI"), (vendor.as_str(), "shimx64.efi")] {
        match &grub.shim {
            Some(shim) => {
                files.push((format!("{folder}/{first}"), shim.clone()));
                files.push((format!("{folder}/grubx64.efi"), grub.grub.clone()));
            }
            None if first == "BOOTX64.EFI" => files.push((format!("{folder}/{first}"), grub.grub.clone())),
            None => files.push((format!("{folder}/grubx64.efi"), grub.grub.clone())),
        }
        if let Some(manager) = &grub.mok_manager {
            files.push((format!("{folder}/mmx64.efi"), manager.clone()));
        }
        files.push((format!("{folder}/grub.cfg"), stub.clone().into_bytes()));
    }
    Ok(files)
}

fn new_esp(
    draft: &mut Draft<'_>,
    context: &Context<'_>,
    loaders: &Loaders<'_>,
    menu: &Menu<'_>,
    (index, source, layout): (usize, &dyn BlockSource, &DiskLayout),
    content: EspFiles,
) -> Result<()> {
    let request = context.request;
    let disk = Disk { source, layout };
    let need = Need {
        what: "an EFI system partition",
        least: LEAST_ESP,
        most: MOST_ESP,
        align: MIB,
        limit: u64::MAX,
        lowest: false,
    };
    let space = disk.find(&[need])?;
    let Some(range) = space.ranges.first().cloned() else { return Ok(()) };
    // Beside the table's own bytes, what is before the first partition is for GRUB's core image: the machine then still starts with a BIOS.
    let bios = keep_bios(loaders, menu, layout, source, draft.original(), context.names);

    let id = seed::guid(&request.seed, "efi system partition");
    let mut add = vec![NewPartition {
        number: None,
        range: range.clone(),
        type_id: ESP.to_owned(),
        guid: id,
        name: "EFI system partition".to_owned(),
    }];
    add.extend(bios.as_ref().map(|(range, _)| NewPartition {
        number: None,
        range: range.clone(),
        type_id: BIOS_BOOT.to_owned(),
        guid: seed::guid(&request.seed, "bios boot partition"),
        name: "BIOS boot partition".to_owned(),
    }));
    let guids = layout.table.partitions.iter();
    let guids: Vec<_> = guids
        .map(|partition| {
            (partition.number, seed::guid(&request.seed, &format!("partition {}", partition.number)))
        })
        .collect();
    let is_mbr = layout.table.kind == TableKind::Mbr;
    let boot_code = match (&bios, is_mbr) {
        (Some((_, image)), _) => Some(image.boot_code.clone()),
        // Without its core image GRUB's boot code would start what is no code.
        (None, true) => Some(vec![0; 440]),
        (None, false) => None,
    };
    let extension = Extension {
        size: source.size(),
        shorten: space.shorten.clone(),
        add,
        boot_code,
        disk_guid: seed::guid(&request.seed, "disk"),
        guids: guids.clone(),
    };
    let table = to_gpt(source, &extension)?;

    let serial = seed::serial(&request.seed, "efi system partition");
    let mut writes: Vec<(u64, Content)> = clears(&table.clear);
    writes.extend(esp::new_volume(content, &range, source.sector_size(), serial, request.now)?);
    writes.extend(space.writes.iter().map(|(at, bytes)| (*at, Content::Base64(bytes.clone()))));
    writes.extend(bios.map(|(range, image)| (range.start, Content::Base64(image.core))));
    // The second copy first: a disk is never without one.
    writes.extend(table.writes.into_iter().rev().map(|(at, bytes)| (at, Content::Base64(bytes))));
    draft.disk(DiskEdit {
        reasons: vec![reason("UEFI starts from an EFI system partition")],
        disk: index,
        summary: table.notes.into_iter().chain(space.notes).collect(),
        writes,
    });
    if is_mbr {
        let old = |number: u32| {
            let partition = layout.table.partitions.iter().find(|partition| partition.number == number);
            partition.and_then(|partition| partition.partuuid.clone())
        };
        let text = |guid: &[u8; 16]| unmoor_images::parse::uuid_text(guid);
        let changes: Vec<_> =
            guids.iter().filter_map(|(number, guid)| Some((old(*number)?, text(guid)))).collect();
        partuuid::follow(draft, context.inspection, &changes)?;
        if bios_is_lost(&extension) {
            draft.finding(
                Severity::Note,
                RULE,
                "the disk no longer starts with a BIOS: GRUB's code for it lay where the GPT is now",
                None,
            );
        }
    }
    let [a, b, c, d] = serial.to_be_bytes();
    mount(draft, context, &format!("{a:02X}{b:02X}-{c:02X}{d:02X}"))
}

fn bios_is_lost(extension: &Extension) -> bool {
    extension.add.iter().all(|new| new.type_id != BIOS_BOOT)
}

/// Old tables' sectors, as zeros.
fn clears(clear: &[(u64, u64)]) -> Vec<(u64, Content)> {
    // No table's part is longer than a few MiB; what is longer is not of this disk's own making.
    clear
        .iter()
        .filter(|(_, len)| *len <= 16 * MIB)
        .map(|(at, len)| (*at, Content::Base64(vec![0; *len as usize])))
        .collect()
}

/// A core image in what is free before the first partition of an MBR disk, whose own was in the way of the GPT.
fn keep_bios(
    loaders: &Loaders<'_>,
    menu: &Menu<'_>,
    layout: &DiskLayout,
    source: &dyn BlockSource,
    files: &dyn Files,
    names: &Names,
) -> Option<(Range<u64>, CoreImage)> {
    if layout.table.kind != TableKind::Mbr || source.sector_size() != 512 {
        return None;
    }
    let (head, _) = unmoor_images::partition::rewrite::gpt_ends(512);
    let first = layout.table.partitions.iter().map(|partition| partition.start).min()?;
    let range = head..first.min(MIB);
    if range.end.checked_sub(range.start)? < LEAST_BIOS_BOOT {
        return None;
    }
    // Only with the guest's own modules of the same build: the payload's would have to be put in their place.
    let grub = loaders.bios().filter(|grub| grub.is_guests_own())?;
    let (folder, _) = menu.path.rsplit_once('/')?;
    let installed = files.read(&format!("{folder}/i386-pc/normal.mod"), 4 << 20).ok().flatten();
    if installed.is_none() || installed != grub.file("normal.mod") {
        return None;
    }
    let config = to_bios::embedded(&menu.on)?;
    let config = names.renamed(&config).unwrap_or(config);
    let modules = to_bios::core_modules(&menu.on);
    let (directory, _) = menu.on.path.rsplit_once('/')?;
    let wanted = core_image::Wanted {
        modules: &modules,
        prefix: directory,
        config: &config,
        first_sector: range.start / 512,
    };
    let image = core_image::build(&|name| grub.file(name), &wanted).ok()?;
    (image.core.len() as u64 <= range.end - range.start).then_some((range, image))
}

pub(super) fn rename_commands(draft: &mut Draft<'_>, menu: &Menu<'_>) -> Result<()> {
    let folder = menu.path.rsplit_once('/').map_or("", |(folder, _)| folder).to_owned();
    for path in [menu.path.clone(), format!("{folder}/custom.cfg")] {
        if let Some(text) = draft.read(&path, MOST_TEXT)?
            && let Some(new) = plain_commands(&text)
        {
            draft.write(
                &path,
                new,
                RULE,
                "linux16, linuxefi and the like are commands of one firmware only",
            )?;
        }
    }
    Ok(())
}
