// SPDX-License-Identifier: Apache-2.0
//! What a configuration calls a device by: names that hold on any machine, and names that do not.

use crate::devices::Devices;

/// A reference, judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It holds on any machine, or is no device at all.
    Holds,
    /// It is to be spelled like this: "UUID=...".
    Becomes(String),
    /// It names hardware, and what it meant is not among the captured disks.
    Lost,
}

/// Names of the kernel, which depend on the bus that a disk is on and on the order in which disks are found.
const KERNEL: [&str; 9] = ["sd", "hd", "vd", "xvd", "nvme", "mmcblk", "cciss/", "dm-", "pmem"];
/// Kinds of links that udev makes from what a disk is and where it is plugged in.
const LINKS: [&str; 3] = ["disk/by-id/", "disk/by-path/", "disk/by-diskseq/"];

/// Whether `spec` is a name that another machine has for something else, or not at all.
pub(crate) fn names_hardware(spec: &str) -> bool {
    let Some(name) = spec.strip_prefix("/dev/") else { return false };
    let kernel = |family: &&str| {
        name.strip_prefix(*family).is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_alphanumeric()))
    };
    if LINKS.iter().any(|kind| name.starts_with(kind)) {
        // Names of logical volumes and of arrays hold.
        return ![
            "disk/by-id/dm-name-",
            "disk/by-id/dm-uuid-LVM",
            "disk/by-id/md-",
            "disk/by-id/lvm-pv-uuid-",
        ]
        .iter()
        .any(|stable| name.starts_with(stable));
    }
    let multipath = name.strip_prefix("mapper/").is_some_and(|map| {
        // Friendly names, and WWIDs as names.
        let friendly =
            map.strip_prefix("mpath").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase()));
        let wwid = map
            .split(['-', 'p'])
            .next()
            .is_some_and(|wwid| wwid.len() >= 17 && wwid.bytes().all(|byte| byte.is_ascii_hexdigit()));
        friendly || wwid
    });
    multipath || KERNEL.iter().any(kernel)
}

/// A reference to a filesystem, swap area or container.
pub(super) fn judge(devices: &Devices, spec: &str) -> Verdict {
    let spec = spec.trim_matches('"');
    if !names_hardware(spec) {
        return Verdict::Holds;
    }
    match devices.resolve(spec).and_then(|index| stable(devices, index)) {
        Some(name) => Verdict::Becomes(name),
        None => Verdict::Lost,
    }
}

/// What holds on any machine: the UUID of the content, where no other device has it too; else that of the partition.
pub(super) fn stable(devices: &Devices, index: usize) -> Option<String> {
    let device = devices.devices.get(index)?;
    let alone = |uuid: &&String| {
        let same = devices.devices.iter().filter(|other| other.uuid.as_ref() == Some(uuid));
        same.count() == 1 || device.kind == "btrfs"
    };
    let partition = || device.partuuid.as_ref().map(|uuid| format!("PARTUUID={uuid}"));
    if device.kind.ends_with("_member") {
        return partition();
    }
    let uuid = device.uuid.as_ref().filter(alone).map(|uuid| format!("UUID={uuid}"));
    uuid.or_else(partition).or_else(|| device.stable_spec())
}
