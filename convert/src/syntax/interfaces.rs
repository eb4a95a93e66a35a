// SPDX-License-Identifier: Apache-2.0
//! interfaces(5) of ifupdown: stanzas, their options, and files that are included.

use std::ops::Range;

/// A word and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Word {
    /// As it stands.
    pub text: String,
    /// Its bytes in the file.
    pub range: Range<usize>,
}

/// A line of a stanza.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// Number of the line, from 1.
    pub line: usize,
    /// Its first word.
    pub key: String,
    /// The rest.
    pub words: Vec<Word>,
}

/// What begins with a keyword of the file's top level.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stanza {
    /// Number of its first line, from 1.
    pub line: usize,
    /// "iface", "auto", "allow-hotplug", "mapping", "source", "source-directory", "rename", "template" ...
    pub keyword: String,
    /// The words behind it: for "iface" name, family, method.
    pub words: Vec<Word>,
    /// Its options.
    pub settings: Vec<Setting>,
}

impl Stanza {
    /// A word behind the keyword, from 0.
    pub fn word(&self, number: usize) -> Option<&str> {
        self.words.get(number).map(|word| word.text.as_str())
    }

    /// Texts of all options of that name; dashes and underscores are the same.
    pub fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = String> + 'a {
        let same = move |setting: &&Setting| setting.key.replace('_', "-") == key;
        self.settings.iter().filter(same).map(|setting| {
            let words: Vec<&str> = setting.words.iter().map(|word| word.text.as_str()).collect();
            words.join(" ")
        })
    }

    /// The first of them.
    pub fn get(&self, key: &str) -> Option<String> {
        self.all(key).next()
    }
}

fn is_keyword(word: &str) -> bool {
    word.starts_with("allow-")
        || matches!(
            word,
            "iface"
                | "auto"
                | "mapping"
                | "source"
                | "source-directory"
                | "no-auto-down"
                | "no-scripts"
                | "rename"
                | "template"
        )
}

/// All stanzas of a file. Lines that end in a backslash go on in the next one.
pub fn parse(text: &str) -> Vec<Stanza> {
    let mut stanzas: Vec<Stanza> = Vec::new();
    let mut pending: Option<(usize, Vec<Word>)> = None;
    let mut continued = false;
    for (line, start, content) in super::lines(text) {
        let trimmed = content.trim_start();
        if !continued && (trimmed.is_empty() || trimmed.starts_with('#')) {
            continue;
        }
        let body = content.strip_suffix('\\');
        let goes_on = body.is_some();
        let mut at = start;
        let words = pending.get_or_insert_with(|| (line, Vec::new()));
        for word in body.unwrap_or(content).split([' ', '\t']) {
            if !word.is_empty() {
                words.1.push(Word { text: word.to_owned(), range: at..at + word.len() });
            }
            at += word.len() + 1;
        }
        continued = goes_on;
        if !goes_on && let Some((line, words)) = pending.take() {
            finish(&mut stanzas, line, words);
        }
    }
    if let Some((line, words)) = pending {
        finish(&mut stanzas, line, words);
    }
    stanzas
}

fn finish(stanzas: &mut Vec<Stanza>, line: usize, mut words: Vec<Word>) {
    if words.is_empty() {
        return;
    }
    let rest = words.split_off(1);
    let Some(first) = words.pop() else { return };
    if is_keyword(&first.text) {
        stanzas.push(Stanza { line, keyword: first.text, words: rest, settings: Vec::new() });
    } else if let Some(stanza) = stanzas.last_mut() {
        stanza.settings.push(Setting { line, key: first.text, words: rest });
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn stanzas_have_their_options_and_every_word_its_place() {
        let text = "# c\nauto lo eth0\niface lo inet loopback\n\nallow-hotplug eth0\niface eth0 inet static\n\taddress 192.0.2.7/24\n\
            \tgateway \\\n  192.0.2.1\n  # c\n\tbridge_ports none\niface eth0 inet6 auto\nsource /etc/network/interfaces.d/*\nstray";
        let stanzas = parse(text);
        let heads: Vec<(usize, &str)> =
            stanzas.iter().map(|stanza| (stanza.line, stanza.keyword.as_str())).collect();
        assert_eq!(
            heads,
            [(2, "auto"), (3, "iface"), (5, "allow-hotplug"), (6, "iface"), (12, "iface"), (13, "source")]
        );
        assert_eq!(stanzas[3].get("address").as_deref(), Some("192.0.2.7/24"));
        assert_eq!(stanzas[3].get("gateway").as_deref(), Some("192.0.2.1"));
        assert_eq!(stanzas[3].get("bridge-ports").as_deref(), Some("none"));
        for stanza in &stanzas {
            for word in stanza.words.iter().chain(stanza.settings.iter().flat_map(|setting| &setting.words)) {
                assert_eq!(&text[word.range.clone()], word.text);
            }
        }
        assert_eq!(parse("\\\n\\").len(), 0);
    }
}
