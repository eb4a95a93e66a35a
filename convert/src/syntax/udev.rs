// SPDX-License-Identifier: Apache-2.0
//! Rules of udev(7), as far as they name network interfaces.

use std::ops::Range;

/// One "KEY op "value"".
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// With its attribute: "ATTR{address}".
    pub key: String,
    /// "==", "!=", "=", "+=", "-=", ":=".
    pub operator: String,
    /// Without quotes.
    pub value: String,
    /// The value's bytes in the file, without quotes.
    pub range: Range<usize>,
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Number of its first line, from 1.
    pub line: usize,
    /// In order.
    pub items: Vec<Item>,
}

impl Rule {
    /// The value of an item.
    pub fn get(&self, key: &str, operator: &str) -> Option<&str> {
        let item = self.items.iter().find(|item| item.key == key && item.operator == operator)?;
        Some(&item.value)
    }
}

/// All rules of a file. A rule goes on in the next line where its line ends in a backslash.
pub fn parse(text: &str) -> Vec<Rule> {
    let mut rules: Vec<Rule> = Vec::new();
    let mut continued = false;
    for (line, start, content) in super::lines(text) {
        let trimmed = content.trim_start();
        if !continued && (trimmed.is_empty() || trimmed.starts_with('#')) {
            continue;
        }
        if !continued {
            rules.push(Rule { line, items: Vec::new() });
        }
        continued = content.ends_with('\\');
        if let Some(rule) = rules.last_mut() {
            items(content.trim_end_matches('\\'), start, &mut rule.items);
        }
    }
    rules.retain(|rule| !rule.items.is_empty());
    rules
}

fn items(line: &str, start: usize, found: &mut Vec<Item>) {
    let mut at = 0;
    while let Some(rest) = line.get(at..) {
        let skipped = rest.len() - rest.trim_start_matches([' ', '\t', ',']).len();
        at += skipped;
        let rest = line.get(at..).unwrap_or_default();
        let Some(open) = rest.find('"') else { return };
        let head = rest.get(..open).unwrap_or_default();
        let key = head.trim_end_matches(['=', '!', '+', '-', ':', ' ', '\t']);
        let operator = head.get(key.len()..).unwrap_or_default().trim();
        // A letter before the quotes, as in e"...", says that they hold C escapes.
        let operator = operator.trim_end_matches(char::is_alphabetic);
        let inner = rest.get(open + 1..).unwrap_or_default();
        let Some(close) = inner.find('"') else { return };
        let from = at + open + 1;
        found.push(Item {
            key: key.trim().to_owned(),
            operator: operator.to_owned(),
            value: inner.get(..close).unwrap_or_default().to_owned(),
            range: start + from..start + from + close,
        });
        at = from + close + 1;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn items_have_their_operators_and_places() {
        let text = "# PCI device\nSUBSYSTEM==\"net\", ACTION==\"add\", DRIVERS==\"?*\", ATTR{address}==\"52:54:00:12:34:56\", \\\n  KERNEL==\"eth*\", NAME=\"eth0\"\n\nLABEL=\"end\"\nbroken=\"\nx";
        let rules = parse(text);
        assert_eq!(rules.len(), 2, "{rules:#?}");
        assert_eq!(rules[0].get("ATTR{address}", "=="), Some("52:54:00:12:34:56"));
        assert_eq!((rules[0].get("NAME", "="), rules[0].get("NAME", "==")), (Some("eth0"), None));
        for item in rules.iter().flat_map(|rule| &rule.items) {
            assert_eq!(&text[item.range.clone()], item.value);
        }
    }
}
