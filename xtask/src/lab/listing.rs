// SPDX-License-Identifier: Apache-2.0
//! What a disk holds, told by the appliance's kernel and tools: partition table, signatures, checkers' verdicts, and every
//! file of every file system with contents, owner, times and attributes (`tests/lab/list.sh`).

use crate::lab::appliance::Job;
use crate::lab::qemu::{Disk, Writes};
use crate::run::{Failure, Result};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

pub(crate) const SCRIPT: &str = include_str!("../../../tests/lab/list.sh");

/// Lists the disk in the file `path`, raw or qcow2, without changing it.
pub(crate) fn list(path: &Path) -> Result<String> {
    let disks = vec![Disk::new(path, "target", Writes::Dropped)];
    let limit = Duration::from_secs(1200);
    Job { script: SCRIPT.to_owned(), files: Vec::new(), disks, limit }.run("list")
}

/// Fails with the first differences unless both listings are equal. Sections whose title starts with one of `but` may differ.
pub(crate) fn compare(before: &str, after: &str, but: &[&str]) -> Result {
    let (before, after) = (sections(before), sections(after));
    let mut differences = Vec::new();
    let titles: std::collections::BTreeSet<&&str> = before.keys().chain(after.keys()).collect();
    for title in titles {
        if but.iter().any(|start| title.starts_with(start)) {
            continue;
        }
        match (before.get(*title), after.get(*title)) {
            (Some(old), Some(new)) if old == new => {}
            (Some(old), Some(new)) => {
                let lost = old.iter().filter(|line| !new.contains(*line)).map(|line| format!("- {line}"));
                let added = new.iter().filter(|line| !old.contains(*line)).map(|line| format!("+ {line}"));
                let shown: Vec<String> = lost.take(5).chain(added.take(5)).collect();
                differences.push(format!("{title}:\n{}", shown.join("\n")));
            }
            (Some(_), None) => differences.push(format!("{title}: missing")),
            (None, _) => differences.push(format!("{title}: unexpected")),
        }
    }
    if differences.is_empty() {
        return Ok(());
    }
    Err(Failure::new(format!(
        "the disks differ in {} sections:\n{}",
        differences.len(),
        differences.join("\n")
    )))
}

/// The number of files in a listing.
pub(crate) fn file_count(listing: &str) -> usize {
    let sections = sections(listing);
    let files = sections.iter().filter(|(title, _)| title.starts_with("files "));
    files.map(|(_, lines)| lines.len()).sum()
}

fn sections(listing: &str) -> BTreeMap<&str, std::collections::BTreeSet<&str>> {
    let mut sections = BTreeMap::new();
    let mut title = "";
    for line in listing.lines() {
        if let Some(next) = line.strip_prefix("== ") {
            title = next;
            sections.entry(title).or_insert_with(std::collections::BTreeSet::new);
        } else {
            sections.entry(title).or_insert_with(std::collections::BTreeSet::new).insert(line);
        }
    }
    sections
}

#[cfg(test)]
mod tests {
    use super::{compare, file_count};

    const LISTING: &str =
        "== table\nlabel: gpt\n== files partition-1\n./a\t1\n./b\t2\n== files vg/root\n./c\t3\n";

    #[test]
    fn equal_listings_compare_equal_and_count_their_files() {
        compare(LISTING, LISTING, &[]).unwrap();
        assert_eq!(file_count(LISTING), 3);
    }

    #[test]
    fn a_changed_line_a_missing_section_and_a_new_one_are_named() {
        let changed = LISTING.replace("./b\t2", "./b\t9").replace("vg/root", "vg/home");
        let said = compare(LISTING, &changed, &[]).unwrap_err().to_string();
        for part in ["- ./b\t2", "+ ./b\t9", "files vg/root: missing", "files vg/home: unexpected"] {
            assert!(said.contains(part), "{said}");
        }
        let resized = LISTING.replace("label: gpt", "label: gpt\nlast-lba: 5");
        compare(LISTING, &resized, &["table"]).unwrap();
        compare(LISTING, &resized, &[]).unwrap_err();
    }
}
