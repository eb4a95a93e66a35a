// SPDX-License-Identifier: Apache-2.0
//! A rescue environment without a job: it says what it is, and waits.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use super::console::say;

/// Between two looks for a job.
const PAUSE: Duration = Duration::from_millis(500);

pub(super) fn wait() {
    std::thread::sleep(PAUSE);
}

/// What this machine is, as facts.
pub fn facts() -> Value {
    let read =
        |path: &Path| std::fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default();
    let line = |text: &str, name: &str| -> Option<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse().ok()
    };
    let names = |folder: &str| -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(folder)
            .into_iter()
            .flatten()
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .collect();
        names.sort();
        names
    };
    let memory = read(Path::new("/proc/meminfo"));
    let disks: Vec<Value> = names("/sys/block")
        .into_iter()
        .filter(|name| !["loop", "ram", "dm-", "md", "zram"].iter().any(|kind| name.starts_with(kind)))
        .map(|name| {
            let block = Path::new("/sys/block").join(&name);
            let sectors: u64 = read(&block.join("size")).parse().unwrap_or(0);
            let serial = [block.join("serial"), block.join("device/serial")].iter().map(|path| read(path)).find(|text| !text.is_empty());
            json!({ "name": name, "size": sectors.saturating_mul(512), "model": read(&block.join("device/model")), "serial": serial })
        })
        .collect();
    let networks: Vec<Value> = names("/sys/class/net")
        .into_iter()
        .filter(|name| name != "lo")
        .map(|name| {
            let net = Path::new("/sys/class/net").join(&name);
            json!({ "name": name, "mac": read(&net.join("address")), "state": read(&net.join("operstate")) })
        })
        .collect();
    let modules = read(Path::new("/proc/modules"));
    let modules: Vec<&str> = modules.lines().filter_map(|line| line.split(' ').next()).collect();
    json!({
        "kernel": read(Path::new("/proc/sys/kernel/osrelease")),
        "uptime": super::console::clock().as_secs_f64(),
        "memory_bytes": line(&memory, "MemTotal:").map(|kib| kib.saturating_mul(1024)),
        "memory_free_bytes": line(&memory, "MemAvailable:").map(|kib| kib.saturating_mul(1024)),
        "firmware": if Path::new("/sys/firmware/efi").is_dir() { "uefi" } else { "bios" },
        "disks": disks,
        "networks": networks,
        "modules": modules,
        "payload": crate::rescue::payload::installed().map(|payload| payload.len()).unwrap_or(0),
    })
}

/// Says it on the consoles.
pub(super) fn show() {
    let facts = facts();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    say(&format!(
        "kernel {}, {} firmware; there is no job: waiting for one",
        text(&facts["kernel"]),
        text(&facts["firmware"])
    ));
    for disk in facts["disks"].as_array().into_iter().flatten() {
        say(&format!(
            "disk {}: {} bytes {} {}",
            text(&disk["name"]),
            disk["size"],
            text(&disk["model"]),
            text(&disk["serial"])
        ));
    }
    for network in facts["networks"].as_array().into_iter().flatten() {
        say(&format!(
            "network {}: {} {}",
            text(&network["name"]),
            text(&network["mac"]),
            text(&network["state"])
        ));
    }
}
