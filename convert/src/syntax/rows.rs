// SPDX-License-Identifier: Apache-2.0
//! Lines of fields between blanks: fstab(5), crypttab(5).

use std::ops::Range;

/// A field and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// Its meaning: \040 is a blank.
    pub text: String,
    /// Its bytes in the file, as they are written there.
    pub range: Range<usize>,
}

/// A line that is no comment and not empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Its number, from 1.
    pub line: usize,
    /// At least one.
    pub fields: Vec<Field>,
}

impl Row {
    /// A field's text, where there is one of that number, from 0.
    pub fn text(&self, number: usize) -> Option<&str> {
        self.fields.get(number).map(|field| field.text.as_str())
    }
}

/// Fields of one line that are told apart.
const MOST_FIELDS: usize = 64;

/// All rows of a file.
pub fn rows(text: &str) -> Vec<Row> {
    let mut rows = Vec::new();
    for (line, start, content) in super::lines(text) {
        let mut fields: Vec<Field> = Vec::new();
        let mut at = 0;
        for word in content.split([' ', '\t']) {
            // libmount takes "#" for a comment at the beginning of a line only; crypttab likewise.
            if fields.is_empty() && word.starts_with('#') {
                break;
            }
            if !word.is_empty() && fields.len() < MOST_FIELDS {
                let range = start + at..start + at + word.len();
                fields.push(Field { text: unescaped(word), range });
            }
            at += word.len() + 1;
        }
        if !fields.is_empty() {
            rows.push(Row { line, fields });
        }
    }
    rows
}

/// fstab(5): any character may be written as a backslash and three octal digits.
pub fn unescaped(field: &str) -> String {
    if !field.contains('\\') {
        return field.to_owned();
    }
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field.as_bytes();
    while let Some((first, more)) = rest.split_first() {
        let octal = (*first == b'\\').then(|| more.get(..3)).flatten();
        let octal = octal.filter(|digits| digits.iter().all(|digit| (b'0'..b'8').contains(digit)));
        let code =
            octal.map(|digits| digits.iter().fold(0_u32, |sum, digit| sum * 8 + u32::from(digit - b'0')));
        match code.and_then(|code| u8::try_from(code).ok()) {
            Some(code) => {
                bytes.push(code);
                rest = more.get(3..).unwrap_or_default();
            }
            None => {
                bytes.push(*first);
                rest = more;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The other way: blanks, tabs, line ends and backslashes as octal codes.
pub fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            ' ' => out.push_str("\\040"),
            '\t' => out.push_str("\\011"),
            '\n' => out.push_str("\\012"),
            '\\' => out.push_str("\\134"),
            _ => out.push(char),
        }
    }
    out
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_the_bytes_of_the_fields_as_they_are_written() {
        let text = "# a comment\n\nUUID=1\t/ \text4  defaults,x=1 0 1\r\n  #indented\n/dev/sdb1 /mnt/my\\040disk auto\nlast";
        let rows = rows(text);
        let shown: Vec<(usize, Vec<&str>)> = rows
            .iter()
            .map(|row| (row.line, row.fields.iter().map(|field| &text[field.range.clone()]).collect()))
            .collect();
        assert_eq!(
            shown,
            [
                (3, vec!["UUID=1", "/", "ext4", "defaults,x=1", "0", "1"]),
                (5, vec!["/dev/sdb1", "/mnt/my\\040disk", "auto"]),
                (6, vec!["last"]),
            ]
        );
        assert_eq!(rows[1].text(1), Some("/mnt/my disk"));
        assert_eq!(unescaped("a\\303\\244\\09\\777\\"), "aä\\09\\777\\");
        for text in ["a b\tc\\d\ne", "plain", ""] {
            assert_eq!(unescaped(&escaped(text)), text);
        }
    }
}
