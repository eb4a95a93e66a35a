// SPDX-License-Identifier: Apache-2.0
//! Where a file of the guest lies on the machine's disks, as a boot loader has to find it.

use unmoor_images::filesystem::FilesystemFacts;
use unmoor_images::layout::{DiskLayout, Place};

use crate::devices::{Device, Devices};
use crate::inspection::{Inspection, Layer};

/// A file as a boot loader sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OnDevice<'a> {
    /// The filesystem that holds it.
    pub(crate) device: &'a Device,
    /// Its path from that filesystem's top, btrfs' subvolumes included.
    pub(crate) path: String,
    /// The LUKS container that has to be opened first: UUID and version.
    pub(crate) luks: Option<(String, u16)>,
}

impl OnDevice<'_> {
    /// GRUB's modules for the way to it.
    pub(crate) fn modules(&self) -> Vec<&'static str> {
        let mut modules = match self.device.kind.as_str() {
            "ext2" | "ext3" | "ext4" => vec!["ext2"],
            "xfs" => vec!["xfs"],
            "btrfs" => vec!["btrfs"],
            "vfat" => vec!["fat"],
            "f2fs" => vec!["f2fs"],
            "jfs" => vec!["jfs"],
            "reiserfs" => vec!["reiserfs"],
            _ => Vec::new(),
        };
        match self.device.place {
            Place::LogicalVolume { .. } => modules.push("lvm"),
            Place::Md { .. } => modules.extend(["mdraid09", "mdraid1x"]),
            _ => {}
        }
        match self.luks {
            Some((_, 1)) => modules.extend(["luks", "gcry_rijndael", "gcry_sha1", "gcry_sha256"]),
            Some(_) => modules.extend(["luks2", "gcry_rijndael", "gcry_sha256", "gcry_sha512"]),
            None => {}
        }
        modules
    }

    /// Facts of its filesystem.
    pub(crate) fn facts<'a>(&self, layouts: &'a [DiskLayout]) -> Option<&'a FilesystemFacts> {
        let all = layouts.iter().flat_map(DiskLayout::all_regions).filter_map(|region| region.filesystem());
        let uuid = self.device.uuid.as_deref()?;
        all.into_iter().find(|facts| facts.uuid.as_deref() == Some(uuid))
    }
}

/// Finds the device for `path`, which is absolute and without links; `None` where it is not known.
pub(crate) fn on_device<'a>(
    path: &str,
    inspection: &Inspection,
    devices: &'a Devices,
) -> Option<OnDevice<'a>> {
    let below = |mountpoint: &str| -> Option<String> {
        let rest = path.strip_prefix(mountpoint.trim_end_matches('/'))?;
        (rest.is_empty() || rest.starts_with('/')).then(|| rest.to_owned())
    };
    let lines =
        inspection.fstab.iter().filter(|line| line.kind != "swap" && line.mountpoint.starts_with('/'));
    let line = lines
        .filter_map(|line| Some((line, below(&line.mountpoint)?)))
        .max_by_key(|(line, _)| line.mountpoint.trim_end_matches('/').len());
    let is_root = line.as_ref().is_none_or(|(line, _)| line.mountpoint == "/");
    let of_root = || {
        let uuid = inspection.root.iter().find_map(|layer| match layer {
            Layer::Filesystem { uuid, .. } => uuid.as_deref(),
            _ => None,
        })?;
        devices.devices.iter().find(|device| device.uuid.as_deref() == Some(uuid))
    };
    let by_line = line.as_ref().and_then(|(line, _)| devices.devices.get(line.device?));
    let device = by_line.or_else(|| of_root().filter(|_| is_root))?;
    let subvolume = line
        .as_ref()
        .and_then(|(line, _)| option(&line.options, "subvol"))
        .or_else(|| {
            inspection.root.iter().filter(|_| is_root).find_map(|layer| match layer {
                Layer::Filesystem { subvolume, .. } => subvolume.as_deref(),
                _ => None,
            })
        })
        .filter(|_| device.kind == "btrfs");
    let rest = line.as_ref().map_or_else(|| path.to_owned(), |(_, rest)| rest.clone());
    let path = match subvolume.map(|name| name.trim_matches('/')) {
        Some(name) if !name.is_empty() => format!("/{name}{rest}"),
        _ => rest,
    };
    let luks = inspection.root.iter().filter(|_| is_root).find_map(|layer| match layer {
        Layer::Luks { uuid: Some(uuid), version, .. } => Some((uuid.clone(), *version)),
        _ => None,
    });
    Some(OnDevice { device, path, luks })
}

fn option<'a>(options: &'a str, name: &str) -> Option<&'a str> {
    options.split(',').find_map(|option| option.strip_prefix(name)?.strip_prefix('='))
}
