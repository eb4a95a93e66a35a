// SPDX-License-Identifier: Apache-2.0
//! KEY=value as POSIX shells read it: os-release, /etc/default/grub, ifcfg files, /etc/sysconfig.

use std::ops::Range;

use super::MOST_LINES;

/// One assignment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    /// Number of the line that it begins on, from 1.
    pub line: usize,
    /// Its name.
    pub key: String,
    /// Its value without quotes; variables are not expanded.
    pub value: String,
    /// The value's bytes in the file, quotes included.
    pub range: Range<usize>,
    /// The key is followed by "+=".
    pub appends: bool,
}

/// All assignments of a file that stand at the beginning of a line; commands between them are passed over.
pub fn assignments(text: &str) -> Vec<Assignment> {
    let mut found = Vec::new();
    let bytes = text.as_bytes();
    let (mut at, mut line) = (0, 1);
    while at < bytes.len() && line <= MOST_LINES {
        let begin = at;
        let rest = text.get(at..).unwrap_or_default();
        let head = rest.split('\n').next().unwrap_or_default();
        let indent = head.len() - head.trim_start().len();
        let mut word = head.trim_start();
        let mut start = at + indent;
        if let Some(rest) = word.strip_prefix("export ") {
            start += word.len() - rest.trim_start().len();
            word = rest.trim_start();
        }
        let name = word.bytes().take_while(|byte| byte.is_ascii_alphanumeric() || *byte == b'_').count();
        let (key, rest) = word.split_at(name);
        let appends = rest.starts_with("+=");
        let equals = usize::from(appends) + 1;
        let is_assignment = name > 0 && (appends || rest.starts_with('='));
        if is_assignment {
            let from = start + name + equals;
            let (value, end) = value(text, from);
            found.push(Assignment { line, key: key.to_owned(), value, range: from..end, appends });
            at = end;
        }
        // To the end of the line on which it ends.
        at += text.get(at..).and_then(|rest| rest.find('\n')).map_or(bytes.len(), |end| end + 1);
        at = at.min(bytes.len());
        line += bytes.get(begin..at).unwrap_or_default().iter().filter(|byte| **byte == b'\n').count();
    }
    found
}

/// The value that begins at byte `from`, and where it ends.
fn value(text: &str, from: usize) -> (String, usize) {
    let mut value = String::new();
    let mut chars = text.get(from..).unwrap_or_default().char_indices().peekable();
    let mut quote = None;
    while let Some((at, char)) = chars.next() {
        match (quote, char) {
            (None, '"' | '\'') => quote = Some(char),
            (Some(open), _) if open == char => quote = None,
            (None | Some('"'), '\\') => match chars.next() {
                Some((_, '\n')) => {}
                Some((_, next)) => {
                    // Within double quotes a backslash is taken away from these alone (POSIX 2.2.3).
                    if quote.is_some() && !matches!(next, '"' | '\\' | '$' | '`') {
                        value.push('\\');
                    }
                    value.push(next);
                }
                None => value.push('\\'),
            },
            (None, ' ' | '\t' | '\n' | '\r' | ';') => return (value, from + at),
            _ => value.push(char),
        }
    }
    (value, text.len())
}

/// The value of `key`; the last assignment counts. An assignment that appends is added to what was before.
pub fn get(all: &[Assignment], key: &str) -> Option<String> {
    let mut value: Option<String> = None;
    for assignment in all.iter().filter(|assignment| assignment.key == key) {
        match &mut value {
            Some(value) if assignment.appends => value.push_str(&assignment.value),
            _ => value = Some(assignment.value.clone()),
        }
    }
    value
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::process::Command;

    use super::*;

    const TEXT: &str = "# GRUB\nGRUB_DEFAULT=0\nGRUB_TIMEOUT=5 # seconds\nexport  A='single $x \"q\"'\n\
        GRUB_CMDLINE_LINUX=\"root=/dev/sda1 \\\"q\\\" \\n\"\nB=plain\\ blank;C=x\nD=\"two\nlines\"\n\
        E=con\"cat\"'en'ated\nF=\nG=\"cont\\\ninued\"\nF+=more\nif true; then\n  H=inner\nfi\nNAME=\"Straße\"\n";

    #[test]
    fn values_are_those_that_a_shell_assigns() {
        let all = assignments(TEXT);
        for key in ["GRUB_DEFAULT", "GRUB_TIMEOUT", "A", "B", "D", "E", "G", "H", "NAME"] {
            let script = format!("{TEXT}printf %s \"${key}\"");
            let told = Command::new("bash").arg("-c").arg(script).env("x", "").output().unwrap();
            let told = String::from_utf8(told.stdout).unwrap();
            assert_eq!(get(&all, key).as_deref(), Some(told.as_str()), "{key}");
        }
        assert_eq!(get(&all, "F").as_deref(), Some("more"));
        assert_eq!(get(&all, "GRUB_CMDLINE_LINUX").as_deref(), Some("root=/dev/sda1 \"q\" \\n"));
    }

    #[test]
    fn ranges_and_lines_are_those_of_the_values() {
        for assignment in assignments(TEXT) {
            let raw = &TEXT[assignment.range.clone()];
            let before = &TEXT[..assignment.range.start];
            assert!(
                before.ends_with(&format!("{}=", assignment.key)) || assignment.appends,
                "{assignment:?}"
            );
            assert_eq!(before.matches('\n').count() + 1, assignment.line, "{assignment:?}");
            assert!(!raw.ends_with('\n'), "{assignment:?}");
        }
    }
}
