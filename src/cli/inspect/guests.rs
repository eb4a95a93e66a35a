// SPDX-License-Identifier: Apache-2.0
//! What a guest is, for people: how it boots, its kernels, its networks.

use unmoor_convert::devices::Devices;
use unmoor_convert::files::raw;
use unmoor_convert::inspect::inspect;
use unmoor_convert::inspection::{Inspection, Layer};
use unmoor_convert::os::OsFacts;
use unmoor_images::layout::DiskLayout;
use unmoor_images::manifest::MachineFacts;
use unmoor_images::{BlockSource, Monitor};

use crate::output::table::plain;

/// Looks into each system; one whose files cannot be read is said.
pub(super) fn read(
    layouts: &[DiskLayout],
    sources: &[&dyn BlockSource],
    systems: &[OsFacts],
    machine: Option<&MachineFacts>,
    monitor: &dyn Monitor,
) -> Vec<Inspection> {
    let devices = Devices::of(layouts, sources, machine);
    let mut found = Vec::new();
    for system in systems {
        let looked = raw::look(layouts, sources, &devices, system, |guest| {
            let mut inspection = inspect(guest, &devices, machine)?;
            inspection.notes.extend(guest.notes().iter().cloned());
            Ok(inspection)
        });
        match looked {
            Ok(inspection) => found.push(inspection),
            Err(error) => monitor.note(error.chain()),
        }
    }
    found
}

/// A few lines for each.
pub(super) fn lines(guests: &[Inspection], verbose: bool) -> Vec<String> {
    guests.iter().flat_map(|guest| guest_lines(guest, verbose)).map(|line| plain(&line)).collect()
}

fn guest_lines(guest: &Inspection, verbose: bool) -> Vec<String> {
    let name = guest.system.name.as_deref().or(guest.system.id.as_deref()).unwrap_or("the guest");
    let firmware = format!("{:?}", guest.firmware).to_uppercase();
    let root: Vec<String> = guest.root.iter().map(layer).collect();
    let mut lines = vec![format!("{name}: boots by {firmware}, root on {}", root.join(" > "))];
    for loader in &guest.boot.loaders {
        let shim = if loader.shim { " with shim" } else { "" };
        let config = loader.config.as_deref().unwrap_or("no configuration");
        lines.push(format!("  loader {:?}{shim} ({:?}): {config}", loader.kind, loader.firmware));
    }
    for entry in guest.boot.entries.iter().filter(|entry| entry.default || verbose) {
        let mark = if entry.default { "default " } else { "" };
        let kernel = entry.kernel.as_deref().unwrap_or("no kernel");
        lines.push(format!("  {mark}entry {:?}: {kernel} {}", entry.title, entry.arguments.join(" ")));
    }
    for kernel in &guest.kernels {
        let mut parts = vec![if kernel.bootable { "bootable".to_owned() } else { "in no boot entry".into() }];
        parts.extend(kernel.special.clone());
        if kernel.modules.is_none() {
            parts.push("no modules".into());
        }
        for initramfs in &kernel.initramfs {
            let host_only = if initramfs.host_only { ", for this machine only" } else { "" };
            let broken = initramfs.broken.as_ref().map(|why| format!(", broken: {why}")).unwrap_or_default();
            let compression = initramfs.compression.join("+");
            parts
                .push(format!("{} ({} {compression}{host_only}{broken})", initramfs.path, initramfs.made_by));
        }
        lines.push(format!("  kernel {}: {}", kernel.release, parts.join(", ")));
    }
    for interface in &guest.network.interfaces {
        let name = interface.name.as_deref().unwrap_or("any");
        let mut parts: Vec<String> = interface.virtual_kind.iter().cloned().collect();
        parts.extend(interface.mac.clone());
        parts.extend(interface.addresses.iter().cloned());
        parts.extend(interface.gateways.iter().map(|gateway| format!("via {gateway}")));
        parts.extend(interface.configured_by.first().map(|by| format!("{:?}: {}", by.stack, by.file)));
        lines.push(format!("  network {name}: {}", parts.join(", ")));
    }
    for tool in &guest.tools {
        lines.push(format!("  guest tools {} of {}", tool.name, tool.hypervisor));
    }
    lines.extend(guest.notes.iter().map(|note| format!("  {note}")));
    lines
}

fn layer(layer: &Layer) -> String {
    match layer {
        Layer::Disk { disk } => format!("disk {}", disk + 1),
        Layer::Partition { number, .. } => format!("partition {number}"),
        Layer::Md { level, .. } => format!("md RAID{}", level.unwrap_or_default()),
        Layer::Luks { version, unlock, .. } => match unlock.bound.as_slice() {
            [] => format!("LUKS{version}"),
            bound => format!("LUKS{version} ({} passphrases, {})", unlock.passphrase, bound.join(", ")),
        },
        Layer::LogicalVolume { vg, lv } => format!("{vg}/{lv}"),
        Layer::Filesystem { kind, subvolume, .. } => {
            let subvolume = subvolume.as_ref().map(|name| format!(" {name}")).unwrap_or_default();
            format!("{kind}{subvolume}")
        }
    }
}
