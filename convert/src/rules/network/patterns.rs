// SPDX-License-Identifier: Apache-2.0
//! Patterns of names such as "en*", on hypervisors whose adapters keep the kernel's ethN: udev names by slot and path
//! (systemd.net-naming-scheme(7)), and adapters on VMBus and XenBus have neither.

use std::ops::Range;

use super::super::text::lines;
use super::matches::Syntax;
use crate::syntax::glob;

/// What takes the kernel's names in too: networkd has lists of patterns (systemd.network(5), Name=), netplan one pattern.
pub(super) fn widened(text: &str, syntax: Syntax) -> Vec<(Range<usize>, String)> {
    match syntax {
        Syntax::Networkd => networkd(text),
        Syntax::Netplan => netplan(text),
        _ => Vec::new(),
    }
}

/// A pattern that takes names by slot or path, and none of the kernel's.
fn is_narrow(pattern: &str) -> bool {
    pattern.starts_with("en") && glob::is_pattern(pattern) && !glob::matches(pattern, "eth0")
}

fn networkd(text: &str) -> Vec<(Range<usize>, String)> {
    let mut pieces = Vec::new();
    let mut section = "";
    // In a .link file the name is the one that is given.
    let is_link = text.contains("[Link]") && !text.contains("[Network]");
    for (start, line) in lines(text).filter(|_| !is_link) {
        let trimmed = line.trim();
        if let Some(name) = trimmed.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = name;
        }
        let Some(("Name", value)) = trimmed.split_once('=').map(|(key, value)| (key.trim(), value)) else {
            continue;
        };
        let mut words = value.split_whitespace();
        let all = || value.split_whitespace();
        if section == "Match"
            && words.any(is_narrow)
            && !all().any(|word| word.starts_with('!') || glob::matches(word, "eth0"))
        {
            let end = start + line.trim_end().len();
            pieces.push((end..end, " eth*".to_owned()));
        }
    }
    pieces
}

fn netplan(text: &str) -> Vec<(Range<usize>, String)> {
    let mut pieces = Vec::new();
    // Depth of the "match:" whose lines these are.
    let mut inside: Option<usize> = None;
    for (start, line) in lines(text) {
        let trimmed = line.trim_start();
        if trimmed.is_empty() || trimmed.starts_with('#') {
            continue;
        }
        let indent = line.len() - trimmed.len();
        inside = inside.filter(|depth| indent > *depth);
        let from = match (line.find("match:"), inside) {
            (Some(at), _) => {
                inside = Some(indent);
                at
            }
            (None, Some(_)) => 0,
            (None, None) => continue,
        };
        let Some(at) =
            line.get(from..).and_then(|rest| rest.find("name:")).map(|at| from + at + "name:".len())
        else {
            continue;
        };
        let rest = line.get(at..).unwrap_or_default();
        let skipped = rest.len() - rest.trim_start_matches([' ', '"', '\'']).len();
        let value = rest.get(skipped..).unwrap_or_default();
        let len = value.find([' ', '"', '\'', ',', '}', '#']).unwrap_or(value.len());
        if value.get(..len).is_some_and(is_narrow) {
            pieces.push((start + at + skipped..start + at + skipped + len, "e*".to_owned()));
        }
    }
    pieces
}
