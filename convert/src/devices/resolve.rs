// SPDX-License-Identifier: Apache-2.0
//! From a name in a configuration to a device.

use unmoor_images::layout::Place;

use super::names::kernel_name;
use super::{Device, Devices};

impl Devices {
    /// What `spec` means, as fstab(5) and kernel arguments write it: "UUID=...", "LABEL=...", "PARTUUID=...", "PARTLABEL=...",
    /// "ID=...", or a path under /dev, quoted or not. `None` where it means nothing on these disks, or more than one thing
    /// could be meant.
    ///
    /// A path that the source machine had wins. Else names of disks of whatever bus count the disks in order: the configuration
    /// of a machine that was moved before still says "/dev/sda1" where it has "/dev/vda1".
    pub fn resolve(&self, spec: &str) -> Option<usize> {
        let spec = unquoted(spec.trim());
        let (tag, value) = match spec.split_once('=') {
            Some((tag, value)) if !spec.starts_with('/') => (tag, unquoted(value)),
            _ => return self.resolve_path(spec),
        };
        match tag {
            "UUID" => self.by(value, |device| device.uuid.as_deref()),
            "LABEL" => self.by_exact(value, |device| device.label.as_deref()),
            "PARTUUID" => self.by(value, |device| device.partuuid.as_deref()),
            "PARTLABEL" => self.by_exact(value, |device| device.partlabel.as_deref()),
            "ID" => self.resolve_path(&format!("/dev/disk/by-id/{value}")),
            _ => None,
        }
    }

    /// A device without regard to case. Members of arrays and groups share no name with what is on them.
    fn by<'a>(&'a self, value: &str, field: impl Fn(&'a Device) -> Option<&'a str>) -> Option<usize> {
        if value.is_empty() {
            return None;
        }
        let same = |device: &&'a Device| field(device).is_some_and(|mine| mine.eq_ignore_ascii_case(value));
        self.only(same)
    }

    fn by_exact<'a>(&'a self, value: &str, field: impl Fn(&'a Device) -> Option<&'a str>) -> Option<usize> {
        if value.is_empty() {
            return None;
        }
        self.only(|device| field(device) == Some(value))
    }

    /// The one that fits; of several none, unless only one of them holds a filesystem.
    fn only<'a>(&'a self, fits: impl Fn(&&'a Device) -> bool) -> Option<usize> {
        let all: Vec<usize> = self
            .devices
            .iter()
            .enumerate()
            .filter(|(_, device)| fits(device))
            .map(|(index, _)| index)
            .collect();
        match all.as_slice() {
            [one] => Some(*one),
            _ => {
                let is_member = |index: &&usize| {
                    self.devices.get(**index).is_some_and(|device| device.kind.ends_with("_member"))
                };
                let mut rest = all.iter().filter(|index| !is_member(index));
                rest.next().filter(|_| rest.next().is_none()).copied()
            }
        }
    }

    fn resolve_path(&self, path: &str) -> Option<usize> {
        let path = squeezed(path);
        if !path.starts_with("/dev/") {
            return None;
        }
        for (folder, tag) in [
            ("by-uuid", "UUID"),
            ("by-label", "LABEL"),
            ("by-partuuid", "PARTUUID"),
            ("by-partlabel", "PARTLABEL"),
        ] {
            let prefix = format!("/dev/disk/{folder}/");
            if let Some(value) = path.strip_prefix(&prefix) {
                return self.resolve(&format!("{tag}={}", decoded(value)));
            }
        }
        let named = |device: &&Device| device.names.contains(&path);
        if let Some(index) = self.only(named) {
            return Some(index);
        }
        if let Some(rest) = path.strip_prefix("/dev/disk/by-path/") {
            return self.by_path(rest);
        }
        if let Some((family, disk, partition)) = kernel_name(&path) {
            return self.by_order(family, disk, partition);
        }
        self.array(&path)
    }

    /// A disk by its number, unless the machine had other disks of that family by other numbers.
    fn by_order(&self, family: &str, disk: usize, partition: Option<u32>) -> Option<usize> {
        let mut known = self.disks.iter().flatten().filter_map(|name| kernel_name(name));
        if known.any(|(known, ..)| known == family) {
            return None;
        }
        self.on_disk(disk, partition)
    }

    fn on_disk(&self, disk: usize, wanted: Option<u32>) -> Option<usize> {
        self.devices.iter().enumerate().position(|(index, device)| match device.place {
            Place::Disk { partition, .. } => {
                let within_array = self.below.get(&index).is_some_and(|below| !below.is_empty());
                device.disk == disk && partition == wanted && !within_array
            }
            _ => false,
        })
    }

    /// "pci-0000:00:1f.2-ata-1-part2": where one disk alone hangs on that controller.
    fn by_path(&self, path: &str) -> Option<usize> {
        let (port, partition) = match path.rsplit_once("-part") {
            Some((port, number)) => (port, Some(number.parse().ok()?)),
            None => (path, None),
        };
        let hangs = |names: &Vec<String>| {
            let mut ports = names.iter().filter_map(|name| name.strip_prefix("/dev/disk/by-path/"));
            ports.any(|known| {
                port.strip_prefix(known).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
            })
        };
        let mut disks = self.disks.iter().enumerate().filter(|(_, names)| hangs(names));
        let disk = disks.next().filter(|_| disks.next().is_none())?.0;
        self.on_disk(disk, partition)
    }

    /// "/dev/md127": numbers of arrays are given as they come, so only a single array is certain.
    fn array(&self, path: &str) -> Option<usize> {
        let rest = path.strip_prefix("/dev/md")?;
        let is_number = !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_digit());
        let mut arrays =
            self.devices.iter().enumerate().filter(|(_, device)| matches!(device.place, Place::Md { .. }));
        let (index, device) = arrays.next().filter(|_| arrays.next().is_none())?;
        // One that is called by another number is another one.
        let numbered = device.names.iter().filter_map(|name| name.strip_prefix("/dev/md"));
        let mut numbered = numbered.filter(|rest| rest.bytes().all(|byte| byte.is_ascii_digit()));
        let automatic = rest.parse::<u32>().is_ok_and(|number| (120..128).contains(&number));
        (is_number && (automatic || numbered.next().is_none())).then_some(index)
    }
}

fn unquoted(text: &str) -> &str {
    for quote in ['"', '\''] {
        if let Some(inner) = text.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote)) {
            return inner;
        }
    }
    text
}

/// Without slashes that say nothing.
fn squeezed(path: &str) -> String {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    format!("/{}", parts.join("/"))
}

/// udev writes characters of labels that are unsafe in names as \x20.
fn decoded(name: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = name.as_bytes();
    while let Some((first, more)) = rest.split_first() {
        let code = rest.strip_prefix(b"\\x").and_then(|code| code.get(..2));
        let code = code.and_then(|code| u8::from_str_radix(std::str::from_utf8(code).ok()?, 16).ok());
        match code {
            Some(code) => {
                bytes.push(code);
                rest = rest.get(4..).unwrap_or_default();
            }
            None => {
                bytes.push(*first);
                rest = more;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
