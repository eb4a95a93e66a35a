// SPDX-License-Identifier: Apache-2.0
//! What a guest is, for people: how it boots, its kernels, its networks.

use unmoor_convert::devices::Devices;
use unmoor_convert::files::raw;
use unmoor_convert::inspect::inspect;
use unmoor_convert::inspection::{Initramfs, Inspection, Interface, Layer, LoaderKind};
use unmoor_convert::os::OsFacts;
use unmoor_images::layout::DiskLayout;
use unmoor_images::manifest::MachineFacts;
use unmoor_images::{BlockSource, Monitor};

use crate::output::table::plain;

/// Looks into each system; where its files cannot be read, that is said and there is none.
pub(super) fn read(
    layouts: &[DiskLayout],
    sources: &[&dyn BlockSource],
    systems: &[OsFacts],
    machine: Option<&MachineFacts>,
    monitor: &dyn Monitor,
) -> Vec<Option<Inspection>> {
    let devices = Devices::of(layouts, sources, machine);
    let look = |system: &OsFacts| {
        let looked = raw::look(layouts, sources, &devices, system, |guest| {
            let mut inspection = inspect(guest, &devices, machine)?;
            inspection.notes.extend(guest.notes().iter().cloned());
            Ok(inspection)
        });
        looked.map_err(|error| monitor.note(error.chain())).ok()
    };
    systems.iter().map(look).collect()
}

/// What a system is like inside, a line each, its label before it.
pub(super) fn lines(guest: &Inspection, verbose: bool) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = |label: &str, text: String| lines.push(plain(&format!("  {label:<9}{text}")));
    let root: Vec<String> = guest.root.iter().map(layer).collect();
    line("root", if root.is_empty() { "not known".into() } else { root.join(", ") });
    for loader in &guest.boot.loaders {
        let shim = if loader.shim { " with shim" } else { "" };
        let firmware = format!("{:?}", loader.firmware).to_uppercase();
        let config = loader.config.as_ref().map(|config| format!(", {config}")).unwrap_or_default();
        line("loader", format!("{} for {firmware}{shim}{config}", loader_name(loader.kind)));
    }
    for entry in guest.boot.entries.iter().filter(|entry| entry.default || verbose) {
        let label = if entry.default { "starts" } else { "or" };
        let kernel = entry.kernel.as_deref().unwrap_or("no kernel");
        line(label, format!("{kernel} {}  ({})", entry.arguments.join(" "), entry.title));
    }
    for kernel in &guest.kernels {
        let mut parts = vec![kernel.release.clone()];
        parts.extend(kernel.special.clone());
        if !kernel.bootable {
            parts.push("in no boot entry".into());
        }
        if kernel.modules.is_none() {
            parts.push("no modules".into());
        }
        parts.extend(kernel.initramfs.iter().map(initramfs));
        line("kernel", parts.join(", "));
    }
    for interface in &guest.network.interfaces {
        line("network", network(interface));
    }
    for tool in &guest.tools {
        line("tools", format!("{} for {}", tool.name, tool.hypervisor));
    }
    if !guest.consoles.is_empty() {
        line("console", guest.consoles.join(", "));
    }
    guest.notes.iter().for_each(|note| line("note", note.clone()));
    lines
}

fn loader_name(kind: LoaderKind) -> &'static str {
    match kind {
        LoaderKind::Grub2 => "GRUB 2",
        LoaderKind::GrubLegacy => "GRUB legacy",
        LoaderKind::SystemdBoot => "systemd-boot",
        LoaderKind::Uki => "unified kernel image",
        LoaderKind::Extlinux => "extlinux",
        LoaderKind::Lilo => "LILO",
        LoaderKind::Unknown => "a loader that is not known",
    }
}

/// "initrd.img-6.1.0-32-amd64 (initramfs-tools, zstd, for this hardware only)"
fn initramfs(initramfs: &Initramfs) -> String {
    let name = initramfs.path.rsplit('/').next().unwrap_or_default();
    let mut parts = vec![initramfs.made_by.clone()];
    if !initramfs.compression.is_empty() {
        parts.push(initramfs.compression.join("+"));
    }
    if initramfs.host_only {
        parts.push("for this hardware only".into());
    }
    parts.extend(initramfs.broken.as_ref().map(|why| format!("broken: {why}")));
    format!("{name} ({})", parts.join(", "))
}

/// "ens3 192.0.2.7/24 via 192.0.2.1, 52:54:00:12:34:56 (ifupdown)"
fn network(interface: &Interface) -> String {
    let by = interface.configured_by.first();
    let pattern = by.and_then(|by| by.matches.get("name")).map(String::as_str);
    let mut text = interface.name.as_deref().or(pattern).unwrap_or("by its address").to_owned();
    for address in &interface.addresses {
        text.push_str(&format!(" {address}"));
    }
    for gateway in &interface.gateways {
        text.push_str(&format!(" via {gateway}"));
    }
    for more in interface.virtual_kind.iter().chain(&interface.mac) {
        text.push_str(&format!(", {more}"));
    }
    if let Some(by) = by {
        text.push_str(&format!(" ({})", format!("{:?}", by.stack).to_lowercase()));
    }
    text
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
