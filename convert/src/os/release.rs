// SPDX-License-Identifier: Apache-2.0
//! The small text formats of a system's own files: os-release(5), fstab(5), and ELF's first bytes.

use unmoor_images::parse::Bytes;

use super::FstabEntry;

/// Lines of fstab that are looked at.
const MOST_LINES: usize = 1000;
/// Characters of one value that is shown to people.
const MOST_TEXT: usize = 256;

/// The value of `key`, without quotes and backslashes (os-release is read by shells).
pub(super) fn value(text: &str, key: &str) -> Option<String> {
    let line = text.lines().rev().find_map(|line| line.trim().strip_prefix(key)?.strip_prefix('='))?;
    let line = line.trim();
    let quote = line.chars().next().filter(|first| matches!(first, '"' | '\''));
    let mut value = String::new();
    let mut chars = line.chars().skip(usize::from(quote.is_some()));
    while let Some(char) = chars.next() {
        match char {
            '\\' if quote != Some('\'') => value.extend(chars.next()),
            _ if quote == Some(char) => break,
            _ if quote.is_none() && char.is_whitespace() => break,
            _ => value.push(char),
        }
    }
    text_of(&value)
}

/// One line of text for people: no control characters, not endless.
pub(super) fn text_of(text: &str) -> Option<String> {
    let text: String = text.trim().chars().filter(|char| !char.is_control()).take(MOST_TEXT).collect();
    (!text.is_empty()).then_some(text)
}

/// First line that is no comment.
pub(super) fn first_line(text: &str) -> Option<String> {
    text.lines().find(|line| !line.trim().is_empty() && !line.starts_with('#')).and_then(text_of)
}

/// The entries of fstab. A line with fewer than two fields is none.
pub(super) fn fstab(text: &str) -> Vec<FstabEntry> {
    let lines = text.lines().map(str::trim).filter(|line| !line.starts_with('#'));
    let entry = |line: &str| {
        let mut fields = line.split_ascii_whitespace().map(unescape);
        Some(FstabEntry {
            spec: fields.next()?,
            mountpoint: fields.next()?,
            kind: fields.next().unwrap_or_else(|| "auto".into()),
            options: fields.next().unwrap_or_else(|| "defaults".into()),
        })
    };
    lines.filter_map(entry).take(MOST_LINES).collect()
}

/// fstab(5): space is \040, tab \011, newline \012, backslash \134.
fn unescape(field: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(field.to_owned(), |field, (code, char)| field.replace(code, char))
}

/// What an ELF program is compiled for, as `uname -m` names it.
pub(crate) fn architecture(program: &[u8]) -> Option<String> {
    let raw = Bytes::new(program, "ELF header");
    if raw.slice(0, 4).ok()? != b"\x7fELF" {
        return None;
    }
    let (wide, big) = (raw.u8(4).ok()? == 2, raw.u8(5).ok()? == 2);
    let machine = if big { raw.u16_be(18) } else { raw.u16_le(18) }.ok()?;
    let name = match (machine, wide, big) {
        (3, ..) => "i686",
        (62, true, _) => "x86_64",
        (62, ..) => "x32",
        (183, ..) => "aarch64",
        (40, ..) => "arm",
        (243, true, _) => "riscv64",
        (243, ..) => "riscv32",
        (21, _, false) => "ppc64le",
        (21, ..) => "ppc64",
        (20, ..) => "ppc",
        (22, true, _) => "s390x",
        (258, ..) => "loongarch64",
        (8, ..) => "mips",
        _ => return Some(format!("ELF machine {machine}")),
    };
    Some(name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_os_release_lose_quotes_and_backslashes() {
        let text = "NAME=Plain\nPRETTY_NAME=\"A \\\"quoted\\\" name\"\nID='single'\n#ID=no\nEMPTY=\nVERSION_ID=\"12\"\n";
        for (key, want) in [
            ("NAME", Some("Plain")),
            ("PRETTY_NAME", Some("A \"quoted\" name")),
            ("ID", Some("single")),
            ("VERSION_ID", Some("12")),
            ("EMPTY", None),
            ("VERSION", None),
        ] {
            assert_eq!(value(text, key).as_deref(), want, "{key}");
        }
        assert_eq!(text_of("a\x1b[31mb\n").as_deref(), Some("a[31mb"));
    }

    #[test]
    fn fstab_lines_may_be_short_and_names_may_have_spaces() {
        let entries = fstab("# comment\n\nUUID=1 / ext4 defaults 0 1\n/dev/sdb1 /mnt/my\\040disk\nalone\n");
        assert_eq!(entries.len(), 2);
        assert_eq!(entries[1].mountpoint, "/mnt/my disk");
        assert_eq!((entries[1].kind.as_str(), entries[1].options.as_str()), ("auto", "defaults"));
    }
}
