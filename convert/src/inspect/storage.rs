// SPDX-License-Identifier: Apache-2.0
//! What root stands on, and the configuration of LVM, md, multipath and hibernation.

use unmoor_images::layout::Place;

use super::guest::Guest;
use crate::devices::{Devices, Luks};
use crate::inspection::{Boot, CrypttabLine, FstabLine, Layer, Lvm, Resume};
use crate::syntax::assignments::{assignments, get};
use crate::syntax::lines;

/// lvm.conf(5). Values of local files win.
pub(super) fn lvm(guest: &Guest<'_>) -> Lvm {
    let text = guest.text("/etc/lvm/lvm.conf").unwrap_or_default();
    let local = guest.text("/etc/lvm/lvmlocal.conf").unwrap_or_default();
    let setting = |key: &str| {
        [&local, &text].into_iter().find_map(|text| {
            lines(text).find_map(|(_, _, line)| {
                let (name, value) = line.trim().split_once('=')?;
                (name.trim() == key).then(|| value.trim().to_owned())
            })
        })
    };
    let mut filters = Vec::new();
    for (number, _, line) in lines(&text) {
        let line = line.trim();
        let is_filter = ["filter", "global_filter"]
            .iter()
            .any(|key| line.strip_prefix(key).is_some_and(|rest| rest.trim_start().starts_with('=')));
        // One that takes all devices names none.
        if is_filter && (line.contains("/dev") || line.contains("sd") || line.contains("disk")) {
            filters.push((number, line.to_owned()));
        }
    }
    Lvm {
        devices_file: guest.is_file("/etc/lvm/devices/system.devices")
            && setting("use_devicesfile").as_deref() != Some("0"),
        filters,
        lvmlockd: setting("use_lvmlockd").as_deref() == Some("1"),
    }
}

/// mdadm.conf(5): a line that begins with a blank goes on.
pub(super) fn md_arrays(guest: &Guest<'_>) -> Vec<String> {
    let text = ["/etc/mdadm/mdadm.conf", "/etc/mdadm.conf"].iter().find_map(|path| guest.text(path));
    let mut found: Vec<String> = Vec::new();
    let mut within = false;
    for (_, _, line) in lines(&text.unwrap_or_default()) {
        if line.starts_with([' ', '\t']) {
            if let Some(last) = found.last_mut().filter(|_| within) {
                last.push(' ');
                last.push_str(line.trim());
            }
            continue;
        }
        within = line.get(..5).is_some_and(|word| word.eq_ignore_ascii_case("array")) && found.len() < 256;
        if within {
            found.push(line.trim_end().to_owned());
        }
    }
    found
}

pub(super) fn multipath(guest: &Guest<'_>) -> bool {
    let names = |path: &str| guest.line(path).is_some();
    let config = guest.text("/etc/multipath.conf").unwrap_or_default();
    let by_config = config.lines().any(|line| line.trim_start().starts_with("wwid"));
    by_config || names("/etc/multipath/bindings") || names("/etc/multipath/wwids")
}

pub(super) fn resume(guest: &Guest<'_>, boot: &Boot) -> Vec<Resume> {
    let mut found: Vec<Resume> = Vec::new();
    let mut add = |file: &str, spec: &str| {
        let known = found.iter().any(|resume| resume.file == file && resume.spec == spec);
        if !known && !matches!(spec, "" | "none" | "auto") && found.len() < 1000 {
            let device = guest.devices.resolve(spec);
            found.push(Resume { file: file.to_owned(), spec: spec.to_owned(), device });
        }
    };
    for entry in &boot.entries {
        for argument in &entry.arguments {
            if let Some(spec) = argument.strip_prefix("resume=") {
                add(&entry.file, spec);
            }
        }
    }
    for file in &boot.argument_files {
        let text = guest.text(file).unwrap_or_default();
        for (_, _, line) in lines(&text).filter(|(_, _, line)| !line.trim_start().starts_with('#')) {
            for word in line.split([' ', '\t', '"', '\'']) {
                if let Some(spec) = word.strip_prefix("resume=") {
                    add(file, spec);
                }
            }
        }
    }
    let mut files = guest.files_in("/etc/initramfs-tools/conf.d", "");
    files.push("/etc/initramfs-tools/initramfs.conf".to_owned());
    for file in files {
        if let Some(spec) = guest.text(&file).and_then(|text| get(&assignments(&text), "RESUME")) {
            add(&file, &spec);
        }
    }
    if let Some(text) = guest.text("/etc/uswsusp.conf")
        && let Some(spec) = text.lines().find_map(|line| line.strip_prefix("resume device ="))
    {
        add("/etc/uswsusp.conf", spec.trim());
    }
    found
}

/// From the disk up. Where root is in a LUKS container, what is inside is known by the configuration alone.
pub(super) fn root(
    guest: &Guest<'_>,
    fstab: &[FstabLine],
    crypttab: &[CrypttabLine],
    boot: &Boot,
) -> Vec<Layer> {
    let entry = boot.entries.iter().find(|entry| entry.default);
    let argument = |name: &str| {
        let arguments = entry.map(|entry| entry.arguments.as_slice()).unwrap_or_default();
        arguments.iter().rev().find_map(|argument| argument.strip_prefix(name)?.strip_prefix('='))
    };
    let line = fstab.iter().find(|line| line.mountpoint == "/");
    let spec = argument("root").or(line.map(|line| line.spec.as_str())).unwrap_or_default();
    let devices = guest.devices;
    let device = devices.resolve(spec).or_else(|| line.and_then(|line| line.device));
    let flags = argument("rootflags").unwrap_or_default().split(',');
    let options = line.map(|line| line.options.as_str()).unwrap_or_default().split(',');
    let subvolume = flags.chain(options).find_map(|option| option.strip_prefix("subvol=")).map(str::to_owned);
    let kind = line.map(|line| line.kind.clone()).unwrap_or_default();
    let mut layers = Vec::new();
    match device.and_then(|index| Some((index, devices.devices.get(index)?))) {
        Some((index, found)) if found.kind == "crypto_LUKS" => {
            layers.push(Layer::Filesystem { kind, uuid: None, subvolume });
            climb_down(devices, index, &mut layers);
        }
        Some((index, found)) => {
            layers.push(Layer::Filesystem { kind: found.kind.clone(), uuid: found.uuid.clone(), subvolume });
            climb_down(devices, index, &mut layers);
        }
        None => {
            let uuid = spec.strip_prefix("UUID=").map(str::to_owned);
            layers.push(Layer::Filesystem { kind, uuid, subvolume });
            let name = spec.strip_prefix("/dev/mapper/").unwrap_or_default();
            let opened = crypttab.iter().find(|line| line.name == name);
            // Arch: cryptdevice=UUID=...:name
            let by_argument = argument("cryptdevice").or(argument("rd.luks.name"));
            let by_argument = by_argument.and_then(|text| {
                let spec = text.split(':').next().unwrap_or_default();
                let uuid = text.split('=').next().unwrap_or_default();
                devices.resolve(spec).or_else(|| devices.resolve(&format!("UUID={uuid}")))
            });
            if opened.is_none() {
                layers.extend(logical_volume(spec));
            }
            let only = || {
                let mut all = devices.luks.keys().copied();
                all.next().filter(|_| all.next().is_none())
            };
            let container = opened.and_then(|line| line.device).or(by_argument).or_else(only);
            match container {
                Some(index) => climb_down(devices, index, &mut layers),
                None if !spec.is_empty() => {
                    guest.note(format!("root is {spec}, which is none of the machine's filesystems"));
                }
                None => guest.note("neither a boot entry nor fstab says what root is"),
            }
        }
    }
    layers.reverse();
    layers
}

/// "/dev/mapper/vg-lv", "/dev/vg/lv".
fn logical_volume(spec: &str) -> Option<Layer> {
    let (vg, lv) = match spec.strip_prefix("/dev/mapper/") {
        Some(name) => {
            let name = name.replace("--", "\0");
            let (vg, lv) = name.split_once('-')?;
            (vg.replace('\0', "-"), lv.replace('\0', "-"))
        }
        None => {
            let (vg, lv) = spec.strip_prefix("/dev/")?.split_once('/')?;
            (vg.to_owned(), lv.to_owned())
        }
    };
    (!vg.is_empty() && !lv.is_empty() && vg != "disk").then_some(Layer::LogicalVolume { vg, lv })
}

/// Adds what `index` is and stands on, downwards.
fn climb_down(devices: &Devices, index: usize, layers: &mut Vec<Layer>) {
    const DEEPEST: usize = 16;
    let mut next = Some(index);
    while let Some(index) = next.take().filter(|_| layers.len() < DEEPEST) {
        let Some(device) = devices.devices.get(index) else { return };
        if let Some(Luks { version, unlock }) = devices.luks.get(&index) {
            let unlock = unlock.clone();
            layers.push(Layer::Luks { uuid: device.uuid.clone(), version: *version, unlock });
        }
        let below = devices.below.get(&index).and_then(|below| below.first()).copied();
        match &device.place {
            Place::LogicalVolume { vg, lv, .. } => {
                layers.push(Layer::LogicalVolume { vg: vg.clone(), lv: lv.clone() });
            }
            Place::Md { uuid, .. } => layers.push(Layer::Md { uuid: uuid.clone(), level: Some(1) }),
            Place::Disk { partition: Some(number), .. } => {
                let partuuid = device.partuuid.clone();
                layers.push(Layer::Partition { disk: device.disk, number: *number, partuuid });
            }
            Place::Disk { partition: None, .. } => {}
        }
        match below {
            Some(below) => next = Some(below),
            None if matches!(device.place, Place::Disk { .. }) => {
                layers.push(Layer::Disk { disk: device.disk });
            }
            None => {}
        }
    }
}
