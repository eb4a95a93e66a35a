// SPDX-License-Identifier: Apache-2.0
//! Sections of key=value lines: NetworkManager's keyfiles (GLib), systemd.syntax(7).

use std::ops::Range;

/// A line with a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its number, from 1.
    pub line: usize,
    /// Before "=".
    pub key: String,
    /// Behind it, without blanks around.
    pub value: String,
    /// The value's bytes in the file.
    pub range: Range<usize>,
}

/// A section; one name may have several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    /// Between the brackets.
    pub name: String,
    /// Number of its heading, from 1.
    pub line: usize,
    /// Its lines.
    pub entries: Vec<Entry>,
}

/// A parsed file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ini {
    /// In order.
    pub sections: Vec<Section>,
}

/// Takes a file apart. What stands before the first heading is left out.
pub fn parse(text: &str) -> Ini {
    let mut sections: Vec<Section> = Vec::new();
    for (line, start, content) in super::lines(text) {
        let trimmed = content.trim();
        if trimmed.is_empty() || trimmed.starts_with(['#', ';']) {
            continue;
        }
        if let Some(name) = trimmed.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            sections.push(Section { name: name.to_owned(), line, entries: Vec::new() });
            continue;
        }
        let (Some((key, value)), Some(section)) = (content.split_once('='), sections.last_mut()) else {
            continue;
        };
        let from = start + key.len() + 1 + (value.len() - value.trim_start().len());
        let value = value.trim();
        section.entries.push(Entry {
            line,
            key: key.trim().to_owned(),
            value: value.to_owned(),
            range: from..from + value.len(),
        });
    }
    Ini { sections }
}

impl Ini {
    /// All lines with `key` in sections of that name.
    pub fn entries(&self, section: &str, key: &str) -> impl Iterator<Item = &Entry> {
        let of = move |found: &&Section| found.name == section;
        let all = self.sections.iter().filter(of).flat_map(|section| &section.entries);
        all.filter(move |entry| entry.key == key)
    }

    /// The value of `key`; the last line counts.
    pub fn get(&self, section: &str, key: &str) -> Option<&str> {
        let mut last = None;
        for found in self.sections.iter().filter(|found| found.name == section) {
            last = found.entries.iter().rfind(|entry| entry.key == key).or(last);
        }
        last.map(|entry| entry.value.as_str()).filter(|value| !value.is_empty())
    }

    /// Whether there is such a section.
    pub fn has(&self, section: &str) -> bool {
        self.sections.iter().any(|found| found.name == section)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_the_bytes_of_the_values() {
        let text = "lost=1\n[Match]\n# c\nMACAddress = 52:54:00:12:34:56 \n;c\n[Network]\r\nDHCP=yes\r\nEmpty=\n[Match]\nName=a=b\n";
        let ini = parse(text);
        for section in &ini.sections {
            for entry in &section.entries {
                assert_eq!(&text[entry.range.clone()], entry.value);
                assert!(text.lines().nth(entry.line - 1).unwrap().contains(&entry.key));
            }
        }
        assert_eq!(ini.get("Match", "MACAddress"), Some("52:54:00:12:34:56"));
        assert_eq!(ini.get("Match", "Name"), Some("a=b"));
        assert_eq!(ini.get("Network", "DHCP"), Some("yes"));
        assert_eq!((ini.get("Network", "Empty"), ini.get("", "lost")), (None, None));
        assert_eq!(ini.sections.iter().map(|section| section.line).collect::<Vec<_>>(), [2, 6, 9]);
    }
}
