// SPDX-License-Identifier: Apache-2.0
//! A keyword and the rest of the line: boot loader entries (Boot Loader Specification, type 1), loader.conf(5),
//! extlinux.conf, GRUB legacy's menu.lst.

use std::ops::Range;

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Its number, from 1.
    pub line: usize,
    /// The keyword, in lower case.
    pub key: String,
    /// What follows, without blanks around.
    pub value: String,
    /// The value's bytes in the file.
    pub range: Range<usize>,
}

/// All lines that are no comments. GRUB legacy also takes "=" between keyword and value: "default=0".
pub fn parse(text: &str) -> Vec<Line> {
    let mut found = Vec::new();
    for (line, start, content) in super::lines(text) {
        let trimmed = content.trim_start();
        if trimmed.is_empty() || trimmed.starts_with('#') {
            continue;
        }
        let key = trimmed.split([' ', '\t', '=']).next().unwrap_or_default();
        let after = trimmed.get(key.len()..).unwrap_or_default();
        let value = after.trim_start_matches([' ', '\t', '=']);
        let from = start + content.len() - value.len();
        let value = value.trim_end();
        found.push(Line {
            line,
            key: key.to_ascii_lowercase(),
            value: value.to_owned(),
            range: from..from + value.len(),
        });
    }
    found
}

/// The value of the first line with `key`.
pub fn get<'a>(lines: &'a [Line], key: &str) -> Option<&'a str> {
    lines.iter().find(|line| line.key == key).map(|line| line.value.as_str())
}

/// Values of all lines with `key`.
pub fn all<'a>(lines: &'a [Line], key: &'a str) -> impl Iterator<Item = &'a str> {
    lines.iter().filter(move |line| line.key == key).map(|line| line.value.as_str())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_the_bytes_of_the_values() {
        let text = "# c\ntitle  Fedora Linux (6.8)\noptions\troot=UUID=1 ro \ninitrd /a\ninitrd /b\nLABEL linux\ndefault=0\nalone\n";
        let lines = parse(text);
        for line in &lines {
            assert_eq!(&text[line.range.clone()], line.value);
        }
        assert_eq!(get(&lines, "title"), Some("Fedora Linux (6.8)"));
        assert_eq!(get(&lines, "options"), Some("root=UUID=1 ro"));
        assert_eq!(all(&lines, "initrd").collect::<Vec<_>>(), ["/a", "/b"]);
        assert_eq!((get(&lines, "label"), get(&lines, "default")), (Some("linux"), Some("0")));
        assert_eq!(get(&lines, "alone"), Some(""));
    }
}
