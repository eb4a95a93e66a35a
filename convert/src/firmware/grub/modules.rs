// SPDX-License-Identifier: Apache-2.0
//! GRUB's modules: which needs which (moddep.lst), and which has a command (command.lst).

use std::collections::{BTreeMap, BTreeSet};

/// Longer lists are not read: GRUB has about 300 modules.
const MOST_LINES: usize = 4096;

/// What moddep.lst says: "name: needed needed".
#[derive(Debug, Default)]
pub(crate) struct Dependencies(BTreeMap<String, Vec<String>>);

impl Dependencies {
    pub(crate) fn parse(text: &str) -> Self {
        Self(pairs(text).map(|(name, needed)| (name, needed.map(str::to_owned).collect())).collect())
    }

    /// `wanted` and all that they need, each behind what it needs, in the order in which grub-mkimage puts them.
    pub(crate) fn closure<'a>(&self, wanted: impl IntoIterator<Item = &'a str>) -> Vec<String> {
        let (mut order, mut seen) = (Vec::new(), BTreeSet::new());
        for name in wanted {
            self.visit(name, &mut order, &mut seen);
        }
        order
    }

    /// Each module is entered once, so this ends, and as deep as the longest chain: a few.
    fn visit(&self, name: &str, order: &mut Vec<String>, seen: &mut BTreeSet<String>) {
        if !seen.insert(name.to_owned()) {
            return;
        }
        for needed in self.0.get(name).into_iter().flatten().rev() {
            self.visit(needed, order, seen);
        }
        order.push(name.to_owned());
    }
}

/// What command.lst says: "command: module", with a star before extended commands.
pub(crate) fn commands(text: &str) -> BTreeMap<String, String> {
    pairs(text)
        .filter_map(|(command, mut module)| {
            Some((command.trim_start_matches('*').to_owned(), module.next()?.to_owned()))
        })
        .collect()
}

fn pairs(text: &str) -> impl Iterator<Item = (String, std::str::SplitWhitespace<'_>)> {
    text.lines().take(MOST_LINES).filter_map(|line| {
        let (name, rest) = line.split_once(':')?;
        Some((name.trim().to_owned(), rest.split_whitespace()))
    })
}

/// Modules that a configuration names: by `insmod`, and by the commands that it uses.
pub(crate) fn named(config: &str, commands: &BTreeMap<String, String>) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut words = config.split(|letter: char| letter.is_whitespace() || ";{}".contains(letter)).peekable();
    while let Some(word) = words.next() {
        if word == "insmod" {
            let name = words.peek().map(|name| name.trim_matches(['"', '\'']));
            let is_name = |name: &&str| {
                !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
            };
            found.extend(name.filter(is_name).map(str::to_owned));
        } else {
            found.extend(commands.get(word).cloned());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_module_needs_stands_before_it_and_rings_end() {
        let list = Dependencies::parse("a: b c\nb: d\nc:\nd: a\nnonsense\n");
        assert_eq!(list.closure(["a", "c", "unknown"]), ["c", "d", "b", "a", "unknown"]);
    }

    #[test]
    fn a_configuration_names_modules_and_commands() {
        let commands = commands("*linux: linux\nloadfont: font\n*search: search\n");
        let config = "if [ x = y ] ; then\n insmod part_gpt\n insmod 'ext2'\n insmod ../evil\nfi\nloadfont unicode\n{ linux /vmlinuz ; }";
        let found: Vec<_> = named(config, &commands).into_iter().collect();
        assert_eq!(found, ["ext2", "font", "linux", "part_gpt"]);
    }
}
