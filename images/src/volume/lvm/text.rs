// SPDX-License-Identifier: Apache-2.0
//! The text in which LVM2 keeps its metadata: `section { key = value }`, a value being a number, a quoted
//! string or an array of these (lvm2: `man lvm.conf`, `libdm/libdm-config.c` for the grammar).
//!
//! Bounded for untrusted input: depth, number of nodes, and no recursion on arrays.

use crate::{Error, Result};

/// Sections nest five deep in real metadata.
const DEEPEST: usize = 16;
/// A group of 10,000 logical volumes has about 200,000 nodes; more than this costs over 64 MiB.
const MOST_NODES: usize = 1_000_000;

/// A section's entries in order.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Section<'a> {
    pub(super) entries: Vec<(&'a str, Node<'a>)>,
}

/// What a key names.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Node<'a> {
    Section(Section<'a>),
    Value(Value<'a>),
    Array(Vec<Value<'a>>),
}

/// One value. Strings keep their backslashes: no name or UUID has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Value<'a> {
    Text(&'a str),
    Number(i64),
    /// A fraction, or a number too large: nothing that is read here.
    Other,
}

impl<'a> Section<'a> {
    fn find(&self, key: &str) -> Option<&Node<'a>> {
        self.entries.iter().find(|(name, _)| *name == key).map(|(_, node)| node)
    }

    /// The key as it stands in the text.
    pub(super) fn key(&self, key: &str) -> Option<&'a str> {
        self.entries.iter().find(|(name, _)| *name == key).map(|(name, _)| *name)
    }

    pub(super) fn section(&self, key: &str) -> Option<&Section<'a>> {
        match self.find(key)? {
            Node::Section(section) => Some(section),
            _ => None,
        }
    }

    /// The sections among the entries, in order.
    pub(super) fn sections(&self) -> impl Iterator<Item = (&'a str, &Section<'a>)> {
        self.entries.iter().filter_map(|(name, node)| match node {
            Node::Section(section) => Some((*name, section)),
            _ => None,
        })
    }

    pub(super) fn number(&self, key: &str) -> Result<u64> {
        match self.find(key) {
            Some(Node::Value(Value::Number(number))) => u64::try_from(*number)
                .map_err(|_| Error::malformed("reading LVM metadata", format!("{key} is negative"))),
            _ => Err(Error::malformed("reading LVM metadata", format!("{key} is missing"))),
        }
    }

    pub(super) fn text(&self, key: &str) -> Result<&'a str> {
        match self.find(key) {
            Some(Node::Value(Value::Text(text))) => Ok(text),
            _ => Err(Error::malformed("reading LVM metadata", format!("{key} is missing"))),
        }
    }

    /// An array's values; a single value counts as an array of one.
    pub(super) fn array(&self, key: &str) -> &[Value<'a>] {
        match self.find(key) {
            Some(Node::Array(values)) => values,
            Some(Node::Value(value)) => std::slice::from_ref(value),
            _ => &[],
        }
    }

    /// An array's strings, such as `status`.
    pub(super) fn words(&self, key: &str) -> impl Iterator<Item = &'a str> {
        self.array(key).iter().filter_map(|value| match value {
            Value::Text(text) => Some(*text),
            _ => None,
        })
    }
}

/// Parses all of `text`; what follows a NUL is not part of it.
pub(super) fn parse(text: &str) -> Result<Section<'_>> {
    let text = text.split('\0').next().unwrap_or(text);
    let mut parser = Parser { text, at: 0, nodes: 0 };
    parser.section(0)
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    nodes: usize,
}

impl<'a> Parser<'a> {
    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or("")
    }

    fn fail<T>(&self, because: &'static str) -> Result<T> {
        Err(Error::malformed(format!("reading LVM metadata at character {}", self.at), because))
    }

    /// The next character that is not blank or comment.
    fn peek(&mut self) -> Option<u8> {
        loop {
            let rest = self.rest();
            let blank = rest.len() - rest.trim_start_matches([' ', '\t', '\n', '\r']).len();
            self.at += blank;
            let rest = self.rest();
            if !rest.starts_with('#') {
                return rest.bytes().next();
            }
            self.at += rest.find('\n').unwrap_or(rest.len());
        }
    }

    fn take(&mut self, wanted: u8) -> bool {
        let found = self.peek() == Some(wanted);
        self.at += usize::from(found);
        found
    }

    fn count(&mut self) -> Result<()> {
        self.nodes += 1;
        if self.nodes > MOST_NODES {
            return Err(Error::unsupported("reading LVM metadata", "it has over a million entries"));
        }
        Ok(())
    }

    fn section(&mut self, depth: usize) -> Result<Section<'a>> {
        if depth > DEEPEST {
            return self.fail("sections nest too deep");
        }
        let mut section = Section::default();
        loop {
            match self.peek() {
                None if depth == 0 => return Ok(section),
                Some(b'}') if depth > 0 => {
                    self.at += 1;
                    return Ok(section);
                }
                None => return self.fail("it ends inside a section"),
                Some(_) => {}
            }
            self.count()?;
            let key = self.word();
            if key.is_empty() {
                return self.fail("a name is expected");
            }
            let node = if self.take(b'{') {
                Node::Section(self.section(depth + 1)?)
            } else if self.take(b'=') {
                if self.take(b'[') { Node::Array(self.array()?) } else { Node::Value(self.value()?) }
            } else {
                return self.fail("'{' or '=' is expected");
            };
            section.entries.push((key, node));
        }
    }

    fn array(&mut self) -> Result<Vec<Value<'a>>> {
        let mut values = Vec::new();
        while !self.take(b']') {
            self.count()?;
            values.push(self.value()?);
            if !self.take(b',') && self.peek() != Some(b']') {
                return self.fail("',' or ']' is expected");
            }
        }
        Ok(values)
    }

    fn value(&mut self) -> Result<Value<'a>> {
        if self.take(b'"') {
            let start = self.at;
            let mut escaped = false;
            for (index, byte) in self.rest().bytes().enumerate() {
                match byte {
                    b'"' if !escaped => {
                        self.at = start + index + 1;
                        return Ok(Value::Text(self.text.get(start..start + index).unwrap_or("")));
                    }
                    b'\\' => escaped = !escaped,
                    _ => escaped = false,
                }
            }
            return self.fail("a string does not end");
        }
        let word = self.word();
        match word.parse::<i64>() {
            Ok(number) => Ok(Value::Number(number)),
            Err(_) if word.parse::<f64>().is_ok_and(f64::is_finite) => Ok(Value::Other),
            Err(_) => self.fail("a value is expected"),
        }
    }

    /// A run of characters of names and numbers.
    fn word(&mut self) -> &'a str {
        self.peek();
        let rest = self.rest();
        let plain = |c: char| c.is_ascii_alphanumeric() || "_-+./@".contains(c);
        let word = rest.get(..rest.find(|c| !plain(c)).unwrap_or(rest.len())).unwrap_or("");
        self.at += word.len();
        word
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_values_arrays_and_comments_are_read() {
        let text = "# made by hand\nvg-1.x {\n id = \"a\\\"b\" # c\n n=-5 f = 1.5 tags = []\nlv { s = [\"x\", 7,\n3] }\n}\nlast=1\n\0junk{";
        let root = parse(text).unwrap();
        let vg = root.section("vg-1.x").unwrap();
        assert_eq!(vg.text("id").unwrap(), "a\\\"b");
        assert!(vg.number("n").is_err() && vg.number("f").is_err() && vg.array("tags").is_empty());
        assert_eq!(
            vg.section("lv").unwrap().array("s"),
            [Value::Text("x"), Value::Number(7), Value::Number(3)]
        );
        assert_eq!(root.number("last").unwrap(), 1);
    }

    #[test]
    fn broken_text_is_refused_whatever_its_depth_and_size() {
        for text in ["a", "a {", "a = ", "a = [1", "a = \"x", "}", "a = [1 2]", "= 1", "a { b } ", "é = 1"] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert!(parse(&"a{".repeat(100_000)).is_err());
        assert!(parse(&"a=1 ".repeat(MOST_NODES + 1)).is_err());
        assert!(parse(&format!("a=[{}", "1,".repeat(MOST_NODES + 1))).is_err());
    }
}
