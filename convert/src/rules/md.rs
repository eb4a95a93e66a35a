// SPDX-License-Identifier: Apache-2.0
//! mdadm.conf (mdadm.conf(5)): arrays are told by their UUIDs, not by the disks that they were on.

use std::ops::Range;

use unmoor_images::Result;

use super::references::names_hardware;
use super::text::{Text, lines, words};
use crate::plan::{Draft, Severity};
use crate::syntax::glob;

const RULE: &str = "mdadm";

pub(super) fn plan(draft: &mut Draft<'_>) -> Result<()> {
    for path in ["/etc/mdadm/mdadm.conf", "/etc/mdadm.conf"] {
        let Some(file) = Text::read(draft, path)? else { continue };
        let (pieces, blind) = pieces(&file.text);
        file.write(
            draft,
            path,
            &pieces,
            RULE,
            "arrays are found by their UUIDs on whatever disks they are now",
        )?;
        for line in blind {
            draft.finding(
                Severity::Warning,
                RULE,
                format!("{path} finds an array by disks of the old machine: {line}"),
                Some("put its UUID there instead, as \"mdadm --detail --scan\" prints it".into()),
            );
        }
    }
    Ok(())
}

/// What is to be replaced, and lines that tell an array by nothing but its old disks.
pub(super) fn pieces(text: &str) -> (Vec<(Range<usize>, String)>, Vec<String>) {
    let mut pieces: Vec<(Range<usize>, String)> = Vec::new();
    let mut blind = Vec::new();
    for (start, line) in lines(text) {
        let all = words(line, start);
        let Some((_, keyword)) = all.first() else { continue };
        match keyword.to_ascii_uppercase().as_str() {
            "DEVICE" => {
                let named = all.iter().skip(1).any(|(_, word)| names_devices(word));
                if let (Some((first, _)), Some((last, _)), true) = (all.get(1), all.last(), named) {
                    pieces.push((first.start..last.end, "partitions containers".to_owned()));
                }
            }
            "ARRAY" => {
                let word =
                    |name: &str| all.iter().find(|(_, word)| word.to_ascii_lowercase().starts_with(name));
                let Some((range, devices)) = word("devices=") else { continue };
                if !devices.split_once('=').is_some_and(|(_, list)| list.split(',').any(names_devices)) {
                    continue;
                }
                if word("uuid=").is_some() {
                    pieces.push((range.start.saturating_sub(1)..range.end, String::new()));
                } else {
                    blind.push(line.trim().to_owned());
                }
            }
            _ => {}
        }
    }
    (pieces, blind)
}

/// A name that hardware decides, or a pattern of such names (mdadm.conf(5), DEVICE): one that takes the partitions of all buses alike
/// holds on any machine.
fn names_devices(word: &str) -> bool {
    const OF_EACH_BUS: [&str; 5] = ["/dev/sda1", "/dev/vda1", "/dev/nvme0n1p1", "/dev/xvda1", "/dev/hda1"];
    if !glob::is_pattern(word) {
        return names_hardware(word);
    }
    let taken = OF_EACH_BUS.iter().filter(|name| glob::matches(word, name)).count();
    let plain = word.find(['*', '?', '[']).and_then(|end| word.get(..end)).unwrap_or(word);
    (1..OF_EACH_BUS.len()).contains(&taken) || names_hardware(&format!("{plain}a"))
}
