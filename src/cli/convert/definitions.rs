// SPDX-License-Identifier: Apache-2.0
//! Definitions of the virtual machine, written beside its first image: for libvirt, for a shell, for Proxmox.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use unmoor_convert::plan::Plan;
use unmoor_convert::target::{Definition, Disk, shell};
use unmoor_images::manifest::{Manifest, write_durably};
use unmoor_images::overlay::Target;
use unmoor_images::{Error, Result, ResultExt};

use crate::appliance::Accelerator;

/// A definition that is to be written.
pub(super) struct File {
    path: PathBuf,
    text: String,
    mode: u32,
}

impl File {
    /// Writes it; its path.
    pub(super) fn write(&self) -> Result<PathBuf> {
        write_durably(&self.path, self.text.as_bytes())?;
        fs::set_permissions(&self.path, fs::Permissions::from_mode(self.mode))
            .doing(|| format!("writing {}", self.path.display()))?;
        Ok(self.path.clone())
    }

    /// Whether something else is in its place. What an earlier run wrote and nobody changed is not.
    fn is_in_the_way(&self) -> bool {
        match fs::read(&self.path) {
            Ok(bytes) => bytes != self.text.as_bytes(),
            Err(error) => error.kind() != std::io::ErrorKind::NotFound,
        }
    }
}

/// Why they cannot be written: found out before anything else is.
pub(super) fn obstacle(files: &[File], force: bool) -> Option<Error> {
    let file = files.iter().find(|file| !force && file.is_in_the_way())?;
    let because = "it exists, and says something else: move it away, or give --force or --no-definitions";
    Some(Error::refused("creating", because).path(&file.path))
}

/// Why a file that has to be new cannot be.
pub(super) fn taken(path: &Path) -> Option<Error> {
    let there = path.symlink_metadata().is_ok();
    there.then(|| Error::refused("creating", "it exists: choose another name").path(path))
}

/// What there is to write.
pub(super) fn of(plan: &Plan, targets: &[Target], manifest: Option<&Manifest>) -> Result<Vec<File>> {
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
    let named = |ending: &str| first.image.with_extension(ending);
    let variables = std::path::absolute(named("vars.fd")).doing(|| "finding the image's folder")?;
    let mut lines =
        vec!["# Proxmox VE: the number, the storage and the bridge are yours to choose.".to_owned()];
    lines.extend(definition.proxmox(100, "local-lvm", "vmbr0"));
    Ok(vec![
        File { path: named("libvirt.xml"), text: definition.libvirt(), mode: 0o644 },
        File { path: named("qemu.sh"), text: script(&definition, &variables), mode: 0o755 },
        File { path: named("proxmox.sh"), text: format!("{}\n", lines.join("\n")), mode: 0o644 },
    ])
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
