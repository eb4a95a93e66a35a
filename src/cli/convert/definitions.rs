// SPDX-License-Identifier: Apache-2.0
//! Definitions of the virtual machine, written beside its first image: for libvirt, for a shell, for Proxmox.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use unmoor_convert::plan::Plan;
use unmoor_convert::target::{Definition, Disk, shell};
use unmoor_images::manifest::{Manifest, write_durably};
use unmoor_images::overlay::Target;
use unmoor_images::{Result, ResultExt};

use crate::appliance::Accelerator;

/// Writes them; their paths.
pub(super) fn write(plan: &Plan, targets: &[Target], manifest: Option<&Manifest>) -> Result<Vec<PathBuf>> {
    let Some(first) = targets.first() else { return Ok(Vec::new()) };
    let facts = manifest.and_then(|manifest| manifest.machine.as_ref());
    let name = first.image.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let mut disks = Vec::new();
    for target in targets {
        let file = target.image.file_name().unwrap_or_default().to_string_lossy();
        let record = manifest.and_then(|manifest| manifest.disks.iter().find(|disk| disk.image == file));
        disks.push(Disk {
            path: std::path::absolute(&target.image).doing(|| "finding the image's folder")?,
            format: target.format.qemu_name().to_owned(),
            sector_size: record.map_or(512, |record| record.sector_size),
        });
    }
    let definition = Definition::new(&name, &plan.capabilities, facts, disks);
    let mut written = Vec::new();
    let mut put = |ending: &str, text: &str, mode: u32| -> Result<()> {
        let path = first.image.with_extension(ending);
        write_durably(&path, text.as_bytes())?;
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))
            .doing(|| format!("writing {}", path.display()))?;
        written.push(path);
        Ok(())
    };
    put("libvirt.xml", &definition.libvirt(), 0o644)?;
    let variables =
        std::path::absolute(first.image.with_extension("vars.fd")).doing(|| "finding the image's folder")?;
    put("qemu.sh", &script(&definition, &variables), 0o755)?;
    let mut lines =
        vec!["# Proxmox VE: the number, the storage and the bridge are yours to choose.".to_owned()];
    lines.extend(definition.proxmox(100, "local-lvm", "vmbr0"));
    put("proxmox.sh", &format!("{}\n", lines.join("\n")), 0o644)?;
    Ok(written)
}

/// QEMU's command line as a script; a machine with UEFI gets variables of its own first.
fn script(definition: &Definition, variables: &Path) -> String {
    let mut text = String::from("#!/bin/sh\nset -e\n");
    if let Some(template) = definition.ovmf_variables() {
        let own = shell(&[variables.to_string_lossy().into_owned()]);
        text.push_str(&format!("test -e {own} || cp {template} {own}\n"));
    }
    let accelerator = match Accelerator::choose() {
        Accelerator::Kvm => "kvm",
        Accelerator::Tcg => "tcg,thread=multi",
    };
    text.push_str(&format!("exec {} \"$@\"\n", shell(&definition.qemu(variables, accelerator))));
    text
}
