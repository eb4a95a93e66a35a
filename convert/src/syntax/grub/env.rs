// SPDX-License-Identifier: Apache-2.0
//! The environment block, "grubenv": 1024 bytes by default, a heading, lines of NAME=value, "#" to the end
//! (grub-core/lib/envblk.c).

use std::ops::Range;

/// What a block begins with.
pub const HEADING: &str = "# GRUB Environment Block\n";

/// A variable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variable {
    /// Its name.
    pub name: String,
    /// Its value, backslashes taken away.
    pub value: String,
    /// The value's bytes in the block.
    pub range: Range<usize>,
}

/// The variables of a block. A file without the heading is none: GRUB refuses it.
pub fn parse(text: &str) -> Option<Vec<Variable>> {
    let body = text.strip_prefix(HEADING)?;
    let mut found = Vec::new();
    let mut at = text.len() - body.len();
    // A backslash at the end of a line is part of the value: the line goes on.
    while at < text.len() {
        let rest = text.get(at..).unwrap_or_default();
        if rest.starts_with('#') {
            let end = rest.find('\n').map_or(text.len(), |end| at + end + 1);
            at = end;
            continue;
        }
        let mut value = String::new();
        let mut len = 0;
        let mut chars = rest.chars();
        while let Some(char) = chars.next() {
            len += char.len_utf8();
            match char {
                '\n' => break,
                '\\' => {
                    if let Some(next) = chars.next() {
                        len += next.len_utf8();
                        value.push(next);
                    }
                }
                _ => value.push(char),
            }
        }
        let raw = rest.get(..len).unwrap_or_default().trim_end_matches('\n');
        if let (Some((name, after)), Some((_, value))) = (raw.split_once('='), value.split_once('=')) {
            let from = at + name.len() + 1;
            found.push(Variable {
                name: name.to_owned(),
                value: value.to_owned(),
                range: from..from + after.len(),
            });
        }
        at += len;
    }
    Some(found)
}
