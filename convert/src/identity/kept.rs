// SPDX-License-Identifier: Apache-2.0
//! What must keep its identity: a kernel or boot loader could not read the filesystem any more, or a boot loader has the UUID within
//! and cannot be changed.

use std::collections::BTreeSet;

use unmoor_images::{BlockSource, Result};

use super::names::Names;
use super::objects::Object;
use crate::devices::Devices;
use crate::files::{Files, Kind};
use crate::firmware::grub::binary;
use crate::firmware::grub::embedded;
use crate::firmware::grub::reads::{Version, unreadable};
use crate::firmware::locate::on_device;
use crate::inspection::{Inspection, LoaderKind};
use crate::plan::{Draft, Identified};
use crate::syntax::pe;
use crate::syntax::version::compare;

/// The largest EFI program: a kernel with its whole initramfs.
pub(super) const MOST_PROGRAM: u64 = 1 << 30;
/// Since which Linux a feature is known.
const KERNELS: [(&str, &str); 3] =
    [("metadata_csum_seed", "4.4"), ("meta_uuid", "4.3"), ("metadata-uuid", "5.0")];

pub(super) fn judge(
    draft: &Draft<'_>,
    inspection: &Inspection,
    devices: &Devices,
    disks: &[&dyn BlockSource],
    objects: &mut [Object],
) -> Result<()> {
    let read_by_grub = read_by_grub(draft, inspection, devices)?;
    let version = oldest_grub(draft, inspection)?;
    for object in objects.iter_mut().filter(|object| object.kept.is_none()) {
        object.kept = old_kernel(inspection, object);
        let is_read = object.of.names().iter().any(|(old, _)| read_by_grub.contains(*old));
        if object.kept.is_none() && is_read {
            object.kept = old_grub(object, version);
        }
    }
    let names = Names::new(
        objects.iter().filter(|object| object.kept.is_none()).flat_map(|object| object.of.names()),
    );
    let fixed = fixed(draft, inspection, disks, &names)?;
    for (path, mentioned) in fixed.named {
        for object in objects.iter_mut().filter(|object| object.kept.is_none()) {
            if object.of.names().iter().any(|(old, _)| mentioned.iter().any(|name| name == old)) {
                object.kept = Some((format!("{path} finds it by its UUID"), Some(remedy(&path))));
            }
        }
    }
    // What cannot be looked into may lead to the boot menu by anything.
    let unseen = if inspection.boot.esps.iter().any(|esp| esp.mountpoint.is_none()) {
        Some("an EFI system partition that may name it is not in the guest's fstab")
    } else if fixed.unreadable {
        Some("the GRUB in a disk's boot area, which may name it, could not be read")
    } else {
        None
    };
    let grub = inspection.boot.loaders.iter().any(|loader| loader.kind == LoaderKind::Grub2);
    if let Some(unseen) = unseen.filter(|_| grub) {
        for object in objects.iter_mut().filter(|object| object.kept.is_none()) {
            let is_filesystem = matches!(object.of, Identified::Filesystem { .. });
            if is_filesystem && object.of.names().iter().any(|(old, _)| read_by_grub.contains(*old)) {
                let why = format!("GRUB starts from it, and {unseen}");
                object.kept =
                    Some((why, Some("change it on the clone with the guest's own tools".to_owned())));
            }
        }
    }
    Ok(())
}

fn remedy(path: &str) -> String {
    if path.starts_with('/') {
        "a signed file cannot be changed: let it find the filesystem by its label, or change the UUID on the clone with the guest's own tools".to_owned()
    } else {
        "change the UUID on the clone with the guest's own tools, and run grub-install there".to_owned()
    }
}

fn old_kernel(inspection: &Inspection, object: &Object) -> Option<(String, Option<String>)> {
    let (feature, since) = KERNELS.iter().find(|(feature, _)| object.adds.contains(feature))?;
    let old = inspection
        .kernels
        .iter()
        .find(|kernel| kernel.bootable && compare(&kernel.release, since) == std::cmp::Ordering::Less)?;
    let why = format!(
        "it would need {feature}, which Linux knows since {since}, and the guest has {}",
        old.release
    );
    Some((why, None))
}

fn old_grub(object: &Object, version: Option<Version>) -> Option<(String, Option<String>)> {
    let facts = object.facts.as_ref().filter(|_| !object.adds.is_empty())?;
    // Without a version there is no telling, and the one feature that many do not know is ext4's.
    let Some(version) = version else {
        let is_ext = object.adds.contains(&"metadata_csum_seed");
        let why = "GRUB starts from it, and it is not known whether that GRUB reads metadata_csum_seed, which it would need";
        return is_ext.then(|| (why.to_owned(), None));
    };
    let before = unreadable(facts.kind, &facts.features, version);
    let mut features = facts.features.clone();
    features.extend(object.adds.iter().map(|feature| (*feature).to_owned()));
    let after = unreadable(facts.kind, &features, version);
    let (feature, since) = after.into_iter().find(|row| !before.contains(row))?;
    let since = since.map_or_else(String::new, |since| format!(" (since {since})"));
    Some((format!("it would need {feature}, which the guest's GRUB does not read{since}"), None))
}

/// UUIDs of the filesystems that GRUB reads: where its configuration, kernels and initramfs files lie.
fn read_by_grub(draft: &Draft<'_>, inspection: &Inspection, devices: &Devices) -> Result<BTreeSet<String>> {
    let boot = &inspection.boot;
    let mut paths: Vec<&String> = Vec::new();
    let grubs = boot
        .loaders
        .iter()
        .filter(|loader| matches!(loader.kind, LoaderKind::Grub2 | LoaderKind::GrubLegacy));
    paths.extend(grubs.clone().filter_map(|loader| loader.config.as_ref()));
    if grubs.count() > 0 {
        for entry in &boot.entries {
            paths.push(&entry.file);
            paths.extend(entry.kernel.iter().chain(&entry.initramfs));
        }
    }
    let mut found = BTreeSet::new();
    for path in paths {
        let real = draft.real_path(path)?.unwrap_or_else(|| path.clone());
        found.extend(on_device(&real, inspection, devices).and_then(|on| on.device.uuid.clone()));
    }
    Ok(found)
}

/// The oldest of the guest's GRUBs whose version shows; `None` where none does.
fn oldest_grub(draft: &Draft<'_>, inspection: &Inspection) -> Result<Option<Version>> {
    const MOST: u64 = 32 << 20;
    let mut paths: Vec<String> = Vec::new();
    for folder in ["/boot/grub", "/boot/grub2"] {
        for platform in ["i386-pc", "x86_64-efi", "arm64-efi"] {
            paths.push(format!("{folder}/{platform}/normal.mod"));
        }
    }
    let grubs = inspection.boot.loaders.iter().filter(|loader| loader.kind == LoaderKind::Grub2);
    paths.extend(grubs.flat_map(|loader| loader.binaries.iter().cloned()));
    let mut oldest: Option<Version> = None;
    for path in paths {
        if draft.metadata(&path)?.is_none_or(|found| found.size > MOST) {
            continue;
        }
        let Some(bytes) = draft.read(&path, MOST)? else { continue };
        if let Some(version) = binary::version(&bytes) {
            oldest = Some(oldest.map_or(version, |known| known.min(version)));
        }
    }
    Ok(oldest)
}

/// What cannot be changed.
struct Fixed {
    /// What it is, and the old identities that it has within.
    named: Vec<(String, Vec<String>)>,
    /// There is a GRUB of which is not known what it has within.
    unreadable: bool,
}

fn fixed(
    draft: &Draft<'_>,
    inspection: &Inspection,
    disks: &[&dyn BlockSource],
    names: &Names,
) -> Result<Fixed> {
    let (mut found, mut unreadable) = (Vec::new(), false);
    let own = |mentioned: Vec<&str>| mentioned.into_iter().map(str::to_owned).collect::<Vec<_>>();
    for path in programs(draft, inspection)? {
        let Some(bytes) = draft.read(&path, MOST_PROGRAM)? else { continue };
        if pe::parse(&bytes).is_ok_and(|image| image.signed) {
            let mentioned = own(names.mentioned(&bytes));
            if !mentioned.is_empty() {
                found.push((path, mentioned));
            }
        }
    }
    for (number, disk) in disks.iter().enumerate() {
        match embedded::read(*disk) {
            Some(embedded::Found::Image(image)) => {
                let mentioned = own(names.mentioned(&image));
                if !mentioned.is_empty() {
                    found.push((format!("GRUB's core image on disk {number}"), mentioned));
                }
            }
            Some(embedded::Found::Unreadable) => unreadable = true,
            None => {}
        }
    }
    Ok(Fixed { named: found, unreadable })
}

/// EFI programs of the guest, by path.
pub(super) fn programs(draft: &Draft<'_>, inspection: &Inspection) -> Result<Vec<String>> {
    const DEEPEST: usize = 4;
    const MOST: usize = 256;
    let mut places: Vec<String> =
        inspection.boot.esps.iter().filter_map(|esp| esp.mountpoint.clone()).collect();
    places.extend(["/boot/efi", "/efi", "/boot"].map(str::to_owned));
    let mut todo: Vec<(String, usize)> = Vec::new();
    for place in places {
        let place = place.trim_end_matches('/');
        for name in draft.list(place)?.into_iter().filter(|name| name.eq_ignore_ascii_case("EFI")) {
            todo.push((format!("{place}/{name}"), 0));
        }
    }
    let (mut found, mut seen) = (Vec::new(), BTreeSet::new());
    while let Some((folder, depth)) = todo.pop() {
        for name in draft.list(&folder)? {
            let path = format!("{folder}/{name}");
            match draft.link_metadata(&path)?.map(|found| found.kind) {
                Some(Kind::Directory) if depth < DEEPEST => todo.push((path, depth + 1)),
                Some(Kind::File) if name.to_ascii_lowercase().ends_with(".efi") => {
                    let real = draft.real_path(&path)?.unwrap_or(path);
                    let fits = draft.metadata(&real)?.is_some_and(|found| found.size <= MOST_PROGRAM);
                    if fits && found.len() < MOST && seen.insert(real.clone()) {
                        found.push(real);
                    }
                }
                _ => {}
            }
        }
    }
    found.sort();
    Ok(found)
}
