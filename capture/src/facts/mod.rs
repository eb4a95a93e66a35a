// SPDX-License-Identifier: Apache-2.0
//! Facts of this machine, read from `/sys` and `/proc`. What cannot be read is left out: a capture never fails for want of
//! a serial number.

mod buses;
mod disks;
mod nics;
mod pci;
mod tree;

use unmoor_images::manifest::{Firmware, MachineFacts};

pub use disks::describe as describe_disk;
pub use tree::Tree;

/// Reads the facts of the machine whose `/sys` and `/proc` lie in `tree`.
pub fn read(tree: &Tree) -> MachineFacts {
    let dmi = |name: &str| tree.text(&format!("sys/class/dmi/id/{name}")).filter(|text| is_telling(text));
    let uefi = tree.exists("sys/firmware/efi");
    MachineFacts {
        architecture: std::env::consts::ARCH.to_owned(),
        hostname: read_hostname(tree),
        vendor: dmi("sys_vendor"),
        // Machines without DMI (ARM boards) have a device tree.
        product: dmi("product_name").or_else(|| tree.text("sys/firmware/devicetree/base/model")),
        serial: dmi("product_serial").or_else(|| tree.text("sys/firmware/devicetree/base/serial-number")),
        uuid: dmi("product_uuid").map(|uuid| uuid.to_ascii_lowercase()),
        board: [dmi("board_vendor"), dmi("board_name")]
            .into_iter()
            .flatten()
            .reduce(|vendor, name| format!("{vendor} {name}")),
        bios_vendor: dmi("bios_vendor"),
        bios_version: dmi("bios_version"),
        bios_date: dmi("bios_date"),
        firmware: if uefi { Firmware::Uefi } else { Firmware::Bios },
        secure_boot: uefi.then(|| secure_boot(tree)).flatten(),
        cpu_model: cpu_line(tree, "model name"),
        cpu_count: cpu_count(tree),
        memory_bytes: memory_bytes(tree),
        disks: disks::list(tree),
        nics: nics::list(tree),
        pci: pci::list(tree),
        buses: buses::list(tree),
    }
}

/// The host's name, as the kernel has it.
pub fn read_hostname(tree: &Tree) -> Option<String> {
    tree.text("proc/sys/kernel/hostname")
}

/// Who does something to a store, for people who wonder whom others wait for.
pub fn holder() -> String {
    let host = read_hostname(&Tree::default()).unwrap_or_default();
    format!("process {} on {host}", std::process::id())
}

/// False for what board makers leave in place of a value.
fn is_telling(text: &str) -> bool {
    const BLANKS: [&str; 9] = [
        "to be filled by o.e.m.",
        "default string",
        "system product name",
        "system manufacturer",
        "system serial number",
        "not specified",
        "not applicable",
        "none",
        "0",
    ];
    !BLANKS.contains(&text.to_ascii_lowercase().as_str())
}

/// The global variable SecureBoot (UEFI 2.10, section 3.3): four bytes of attributes, then 0 or 1.
fn secure_boot(tree: &Tree) -> Option<bool> {
    let variable = tree.bytes("sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c")?;
    variable.get(4).map(|value| *value == 1)
}

fn cpu_line(tree: &Tree, key: &str) -> Option<String> {
    let cpuinfo = tree.text("proc/cpuinfo")?;
    let line = cpuinfo.lines().find(|line| line.starts_with(key))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// Counts the ranges of `0-3,8`.
fn cpu_count(tree: &Tree) -> u32 {
    let online = tree.text("sys/devices/system/cpu/online").unwrap_or_default();
    let count = |range: &str| -> Option<u32> {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        last.parse::<u32>().ok()?.checked_sub(first.parse().ok()?)?.checked_add(1)
    };
    online.split(',').filter_map(count).fold(0, u32::saturating_add)
}

fn memory_bytes(tree: &Tree) -> u64 {
    let meminfo = tree.text("proc/meminfo").unwrap_or_default();
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:")).unwrap_or_default();
    line.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0).saturating_mul(1024)
}

#[cfg(test)]
mod tests;
