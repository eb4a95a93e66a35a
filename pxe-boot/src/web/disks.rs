// SPDX-License-Identifier: Apache-2.0
//! Disks: in short, in a table, and what is on them.

use serde::Deserialize;
use serde_json::Value;
use unmoor_images::filesystem::Condition;
use unmoor_images::layout::{Content, Place, Region};
use unmoor_images::manifest::DiskFacts;

use super::format::{count, size};
use super::html::Html;
use crate::api::Machine;

/// How many rows of partitions and volumes are shown of one disk.
const MOST: usize = 200;
/// How deep they may lie in each other.
const DEEPEST: usize = 8;

/// `2 disks, 1.4 TiB`
pub(super) fn total(disks: &[DiskFacts]) -> String {
    let bytes = disks.iter().fold(0u64, |sum, disk| sum.saturating_add(disk.size_bytes));
    format!("{}, {}", count(disks.len(), "disk"), size(bytes))
}

/// `nvme0n1 476.9 GiB, sda 931.5 GiB`
pub(super) fn in_short(disks: &[DiskFacts]) -> String {
    const FEW: usize = 4;
    let shown = disks.iter().take(FEW).map(|disk| format!("{} {}", disk.name, size(disk.size_bytes)));
    let mut text = shown.collect::<Vec<_>>().join(", ");
    if disks.len() > FEW {
        text.push_str(&format!(", {} more", disks.len().saturating_sub(FEW)));
    }
    text
}

/// What tells a disk from others: `sda, 931.5 GiB, WDC WD10EZEX, serial WD-1`
pub(super) fn words(disk: &DiskFacts) -> String {
    let mut words = format!("{}, {}", disk.name, size(disk.size_bytes));
    if let Some(model) = &disk.model {
        words.push_str(&format!(", {model}"));
    }
    if let Some(serial) = &disk.serial {
        words.push_str(&format!(", serial {serial}"));
    }
    words
}

/// The rule that means this disk, whatever the kernel calls it next time.
pub(super) fn rule(disk: &DiskFacts) -> String {
    let given = |text: &Option<String>| {
        text.as_ref().map(|text| text.trim().to_owned()).filter(|text| !text.is_empty())
    };
    match (given(&disk.serial), given(&disk.wwn)) {
        (Some(serial), _) => format!("serial={serial}"),
        (None, Some(wwn)) => format!("wwn={wwn}"),
        (None, None) => format!("name={}", disk.name),
    }
}

/// The table of a machine's disks.
pub(super) fn table(html: &mut Html, machine: &Machine, disks: &[DiskFacts]) {
    html.raw(
        "<div class='wide'><table class='cards' role='table'><caption class='away'>Disks</caption><thead role='rowgroup'>\
         <tr role='row'><th scope='col' role='columnheader'>Disk</th><th scope='col' role='columnheader' class='right'>Size</th>\
         <th scope='col' role='columnheader'>Model</th><th scope='col' role='columnheader'>Serial, WWN</th>\
         <th scope='col' role='columnheader'>Attached</th><th scope='col' role='columnheader' class='right'>Reads</th>\
         </tr></thead><tbody role='rowgroup'>",
    );
    for disk in disks {
        html.fill(
            "<tr role='row'><th scope='row' role='rowheader'>$</th><td role='cell' class='right num nowrap'>$</td>\
             <td role='cell'>$</td><td role='cell' class='mono'>$<span class='sub'>$</span></td>",
            &[
                &disk.name,
                &if disk.size_bytes == 0 { "no medium".to_owned() } else { size(disk.size_bytes) },
                &disk.model.as_deref().unwrap_or_default(),
                &disk.serial.as_deref().unwrap_or_default(),
                &disk.wwn.as_deref().unwrap_or_default(),
            ],
        );
        let mut attached = vec![disk.transport.clone().unwrap_or_default()];
        attached.extend(disk.driver.clone());
        attached.extend(disk.rotational.then(|| "turns".to_owned()));
        attached.extend(disk.removable.then(|| "removable".to_owned()));
        if disk.sector_size > 512 {
            attached.push(format!("sectors of {}", disk.sector_size));
        }
        attached.retain(|word| !word.is_empty());
        let rates = machine.verdict.as_ref().map(|verdict| verdict.disks.as_slice()).unwrap_or_default();
        let rate =
            rates.iter().find(|(name, _)| *name == disk.name).map(|(_, rate)| format!("{}/s", size(*rate)));
        html.fill(
            "<td role='cell'>$</td><td role='cell' class='right num nowrap'>$</td></tr>",
            &[&attached.join(", "), &rate.unwrap_or_default()],
        );
    }
    html.raw("</tbody></table></div>");
}

/// What `unmoor inspect --json` found on each disk. It comes from an agent: what has another shape is left out.
pub(super) fn content(html: &mut Html, found: &Value) -> bool {
    let Some(disks) = found.as_object() else { return false };
    for (name, found) in disks {
        html.fill("<h3>On $</h3>", &[name]);
        if let Some(error) = found.get("error").and_then(Value::as_str) {
            html.fill("<p class='note warn'>$</p>", &[&error]);
            continue;
        }
        let systems = list(found, "systems")
            .iter()
            .filter_map(|system| system.get("name").or_else(|| system.get("id")).and_then(Value::as_str));
        let systems: Vec<&str> = systems.collect();
        if !systems.is_empty() {
            html.fill("<p>$</p>", &[&systems.join(", ")]);
        }
        for disk in list(found, "disks") {
            regions(html, name, disk);
        }
    }
    !disks.is_empty()
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value.get(key).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

fn regions(html: &mut Html, name: &str, disk: &Value) {
    let regions: Vec<Region> =
        list(disk, "regions").iter().filter_map(|region| Region::deserialize(region).ok()).collect();
    if regions.is_empty() {
        return html.raw("<p class='none'>nothing that is known</p>");
    }
    html.fill(
        "<div class='wide'><table class='tight'><caption class='away'>What is on $</caption><thead><tr><th scope='col'>Where</th>\
         <th scope='col' class='right'>Size</th><th scope='col' class='right'>Used</th><th scope='col'>Content</th>\
         <th scope='col'>Label</th></tr></thead><tbody>",
        &[&name],
    );
    let mut waiting: Vec<(usize, &Region)> = regions.iter().rev().map(|region| (0, region)).collect();
    let mut rows = 0usize;
    while let Some((depth, region)) = waiting.pop() {
        rows = rows.saturating_add(1);
        if rows > MOST {
            html.raw("<tr><td colspan='5'>and more</td></tr>");
            break;
        }
        let (place, len) = place(&region.place);
        let (content, label) = what(&region.content);
        html.fill(
            "<tr><th scope='row' class='in-$'>$</th><td class='right num nowrap'>$</td><td class='right num nowrap'>$</td>\
             <td>$</td><td>$</td></tr>",
            &[&depth, &place, &size(len), &size(region.used_bytes), &content, &label],
        );
        if depth < DEEPEST {
            let deeper = depth.saturating_add(1);
            waiting.extend(region.children.iter().rev().map(|child| (deeper, child)));
        }
    }
    html.raw("</tbody></table></div>");
}

/// What to call a place, and its bytes.
fn place(place: &Place) -> (String, u64) {
    match place {
        Place::Disk { len, partition: Some(number), .. } => (format!("partition {number}"), *len),
        Place::Disk { offset: 0, len, partition: None } => ("disk".to_owned(), *len),
        Place::Disk { len, .. } => ("gap".to_owned(), *len),
        Place::LogicalVolume { vg, lv, len } => (format!("{vg}/{lv}"), *len),
        Place::Md { uuid, name, len, .. } => (format!("md {}", name.as_ref().unwrap_or(uuid)), *len),
    }
}

/// What a region holds, and its label.
fn what(content: &Content) -> (String, String) {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    match content {
        Content::Filesystem(facts) => {
            let condition = match &facts.condition {
                Condition::Clean => "",
                Condition::Dirty(_) => " (dirty)",
                Condition::Hibernated(_) => " (hibernated)",
            };
            (format!("{}{condition}", facts.kind.name()), text(&facts.label))
        }
        Content::PhysicalVolume { vg, .. } => ("LVM PV".to_owned(), text(vg)),
        Content::MdMember { name, level, .. } => (format!("md RAID{level} member"), text(name)),
        Content::Luks { version, .. } => (format!("LUKS{version}"), String::new()),
        Content::BootArea => ("boot area".to_owned(), String::new()),
        Content::Extended => ("extended".to_owned(), String::new()),
        Content::Unknown => ("unknown".to_owned(), String::new()),
    }
}
