// SPDX-License-Identifier: Apache-2.0
//! Boot loader entries of type 1 (UAPI.1), as GRUB's blscfg and systemd-boot read them.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use super::super::guest::Guest;
use super::super::mounts::Mounts;
use crate::inspection::BootEntry;
use crate::syntax::keywords::{all, get, parse};
use crate::syntax::version::compare;

/// Characters of an entry's options with variables expanded.
const MOST_OPTIONS: usize = 16 << 10;

/// An entry and what decides its place.
struct Sorted {
    sort_key: Option<String>,
    machine: Option<String>,
    version: String,
    tries_left: Option<u32>,
    id: String,
    entry: BootEntry,
}

/// The entries of a directory, in the order in which they are shown, with their ids. `style` is "bls" for GRUB, which expands
/// variables and sorts by file name, or "systemd-boot".
pub(crate) fn entries(
    guest: &Guest<'_>,
    mounts: &Mounts<'_, '_>,
    directory: &str,
    variables: &BTreeMap<String, String>,
    style: &str,
) -> Vec<(String, BootEntry)> {
    let device = mounts.device_above(directory);
    let mut found: Vec<Sorted> = Vec::new();
    for file in guest.files_in(directory, ".conf") {
        let Some(text) = guest.text(&file) else { continue };
        let lines = parse(&text);
        let expand = |text: &str| if style == "bls" { expanded(text, variables) } else { text.to_owned() };
        let place = |path: &str| mounts.locate(device, path);
        let kernel = get(&lines, "linux").or_else(|| get(&lines, "efi")).or_else(|| get(&lines, "uki"));
        let stem = file.rsplit('/').next().and_then(|name| name.strip_suffix(".conf")).unwrap_or_default();
        let (name, tries_left) = tries(stem);
        let title = get(&lines, "title").unwrap_or(name).to_owned();
        let version = get(&lines, "version").unwrap_or_default().to_owned();
        let arguments: Vec<String> = all(&lines, "options").map(expand).collect();
        let initramfs: Vec<String> = all(&lines, "initrd").map(expand).collect();
        let words = |all: &[String]| -> Vec<String> {
            all.iter().flat_map(|text| text.split_whitespace()).map(str::to_owned).collect()
        };
        found.push(Sorted {
            sort_key: get(&lines, "sort-key").map(str::to_owned),
            machine: get(&lines, "machine-id").map(str::to_owned),
            version,
            tries_left,
            id: name.to_owned(),
            entry: BootEntry {
                file,
                lines: None,
                style: style.to_owned(),
                title,
                kernel: kernel.map(place),
                initramfs: words(&initramfs).iter().map(|path| place(path)).collect(),
                arguments: words(&arguments),
                default: false,
            },
        });
    }
    if style == "bls" {
        found.sort_by(|a, b| compare(&b.id, &a.id));
    } else {
        found.sort_by(order);
    }
    found.into_iter().map(|sorted| (sorted.id, sorted.entry)).collect()
}

/// UAPI.1, "Sorting": entries that are out of tries last, those with a sort key first, then key, machine, newest version, file name.
fn order(a: &Sorted, b: &Sorted) -> Ordering {
    let spent = |entry: &Sorted| entry.tries_left == Some(0);
    let by_key = match (&a.sort_key, &b.sort_key) {
        (Some(x), Some(y)) => {
            x.cmp(y).then_with(|| a.machine.cmp(&b.machine)).then_with(|| compare(&b.version, &a.version))
        }
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (None, None) => Ordering::Equal,
    };
    spent(a).cmp(&spent(b)).then(by_key).then_with(|| compare(&b.id, &a.id))
}

/// "name+3-1": the name without its counters, and the tries that are left.
fn tries(stem: &str) -> (&str, Option<u32>) {
    let Some((name, counters)) = stem.rsplit_once('+') else { return (stem, None) };
    let left = counters.split('-').next().unwrap_or_default();
    match left.parse() {
        Ok(left) => (name, Some(left)),
        Err(_) => (stem, None),
    }
}

/// "$name" and "${name}" by their values; a variable that is not set is nothing.
pub(super) fn expanded(text: &str, variables: &BTreeMap<String, String>) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(rest.get(..at).unwrap_or_default());
        let after = rest.get(at + 1..).unwrap_or_default();
        let (name, next) = match after.strip_prefix('{').and_then(|inner| inner.split_once('}')) {
            Some(found) => found,
            None => {
                let len =
                    after.bytes().take_while(|byte| byte.is_ascii_alphanumeric() || *byte == b'_').count();
                after.split_at(len)
            }
        };
        if name.is_empty() {
            out.push('$');
        }
        out.push_str(variables.get(name).map(String::as_str).unwrap_or_default());
        rest = next;
        if out.len() > MOST_OPTIONS {
            return out;
        }
    }
    out + rest
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn variables_are_expanded_once_and_counters_are_no_names() {
        let variables = BTreeMap::from([
            ("kernelopts".to_owned(), "root=UUID=1 $kernelopts".to_owned()),
            ("a_b".to_owned(), "x".to_owned()),
        ]);
        let text = "$kernelopts ro ${a_b}y $tuned_params 5$ $";
        assert_eq!(expanded(text, &variables), "root=UUID=1 $kernelopts ro xy  5$ $");
        assert_eq!(tries("abc+3-1"), ("abc", Some(3)));
        assert_eq!(tries("abc+0"), ("abc", Some(0)));
        assert_eq!(tries("a+b"), ("a+b", None));
    }
}
