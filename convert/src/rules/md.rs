// SPDX-License-Identifier: Apache-2.0
//! mdadm.conf (mdadm.conf(5)): arrays are told by their UUIDs, not by the disks that they were on.

use std::ops::Range;

use unmoor_images::Result;

use super::references::names_hardware;
use super::text::{Text, lines, words};
use crate::plan::{Draft, Severity};

const RULE: &str = "mdadm";

pub(super) fn plan(draft: &mut Draft<'_>) -> Result<()> {
    for path in ["/etc/mdadm/mdadm.conf", "/etc/mdadm.conf"] {
        let Some(file) = Text::read(draft, path)? else { continue };
        let mut pieces: Vec<(Range<usize>, String)> = Vec::new();
        let mut blind = Vec::new();
        for (start, line) in lines(&file.text) {
            let all = words(line, start);
            let Some((_, keyword)) = all.first() else { continue };
            match keyword.to_ascii_uppercase().as_str() {
                "DEVICE" => {
                    let named: Vec<_> = all.iter().skip(1).filter(|(_, word)| names_hardware(word)).collect();
                    if let (Some((first, _)), Some((last, _))) = (all.get(1), all.last())
                        && !named.is_empty()
                    {
                        pieces.push((first.start..last.end, "partitions containers".to_owned()));
                    }
                }
                "ARRAY" => {
                    let word =
                        |name: &str| all.iter().find(|(_, word)| word.to_ascii_lowercase().starts_with(name));
                    let Some((range, devices)) = word("devices=") else { continue };
                    if !devices.split_once('=').is_some_and(|(_, list)| list.split(',').any(names_hardware)) {
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
