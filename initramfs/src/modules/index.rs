// SPDX-License-Identifier: Apache-2.0
//! kmod's binary indexes: a trie from keys to values with priorities, numbers in network order (libkmod/libkmod-index.h).
//!
//! ```text
//!   magic, version, root     node: [prefix\0] [first, last, offset * (last - first + 1)] [count, (priority, value\0)*]
//! ```
//!
//! The four highest bits of a node's offset say which of the parts it has; children stand before their parent.

use std::collections::BTreeMap;

use unmoor_images::parse::{Bytes, c_text};
use unmoor_images::{Error, Result};

const MAGIC: u32 = 0xB007_F457;
const VERSION: u32 = 0x0002_0001;
const PREFIX: u32 = 0x8000_0000;
const VALUES: u32 = 0x4000_0000;
const CHILDREN: u32 = 0x2000_0000;
const OFFSET: u32 = 0x0FFF_FFFF;
/// Longer keys are left out: the trie is as deep as its keys are long. The longest alias of a distribution has under 200 bytes.
const LONGEST_KEY: usize = 1024;

/// Nodes that wait to be read; of an honest trie no more than its depth times 128.
const MOST_OPEN: usize = 1 << 14;

/// Keys, each with its values and their priorities; a lower number is tried first.
pub(super) type Entries = BTreeMap<String, Vec<(u32, String)>>;

/// The index as a file. Keys that are not ASCII are left out, as depmod leaves them out.
///
/// # Errors
///
/// `Unsupported` beyond 256 MiB, which the format cannot address.
pub(super) fn write(entries: &Entries) -> Result<Vec<u8>> {
    let keys: Vec<Key<'_>> = entries
        .iter()
        .filter(|(key, _)| key.is_ascii() && key.len() <= LONGEST_KEY && !key.contains('\0'))
        .map(|(key, values)| (key.as_bytes(), values.as_slice()))
        .collect();
    let mut out = Vec::new();
    for number in [MAGIC, VERSION, 0] {
        out.extend_from_slice(&number.to_be_bytes());
    }
    let root = node(&mut out, &keys, 0, 0)?;
    if let Some(place) = out.get_mut(8..12) {
        place.copy_from_slice(&root.to_be_bytes());
    }
    Ok(out)
}

/// A key and its values.
type Key<'a> = (&'a [u8], &'a [(u32, String)]);

/// Writes the node of `keys`, which agree in what stands before `from`; their common prefix ends at `end`.
fn node(out: &mut Vec<u8>, keys: &[Key<'_>], from: usize, end: usize) -> Result<u32> {
    let values = keys.first().filter(|(key, _)| key.len() == end).map(|(_, values)| *values);
    let rest = keys.get(usize::from(values.is_some())..).unwrap_or_default();
    let mut children: Vec<(u8, u32)> = Vec::new();
    for group in rest.chunk_by(|(left, _), (right, _)| left.get(end) == right.get(end)) {
        let (Some((first, _)), Some((last, _))) = (group.first(), group.last()) else { continue };
        let Some(&letter) = first.get(end) else { continue };
        // Sorted keys have in common what the first and the last have.
        let same =
            first.iter().zip(last.iter()).skip(end + 1).take_while(|(left, right)| left == right).count();
        children.push((letter, node(out, group, end + 1, end + 1 + same)?));
    }
    let mut offset = u32::try_from(out.len())
        .ok()
        .filter(|offset| *offset <= OFFSET)
        .ok_or_else(|| Error::unsupported("writing a module index", "it has over 256 MiB"))?;
    if let Some((key, _)) = keys.first()
        && end > from
    {
        out.extend_from_slice(key.get(from..end).unwrap_or_default());
        out.push(0);
        offset |= PREFIX;
    }
    if let (Some((first, _)), Some((last, _))) = (children.first(), children.last()) {
        out.extend_from_slice(&[*first, *last]);
        for letter in *first..=*last {
            let child = children.iter().find(|(known, _)| *known == letter).map_or(0, |(_, offset)| *offset);
            out.extend_from_slice(&child.to_be_bytes());
        }
        offset |= CHILDREN;
    }
    if let Some(values) = values {
        out.extend_from_slice(&u32::try_from(values.len()).unwrap_or(0).to_be_bytes());
        let mut sorted: Vec<&(u32, String)> = values.iter().collect();
        sorted.sort_by_key(|(priority, _)| *priority);
        for (priority, value) in sorted {
            out.extend_from_slice(&priority.to_be_bytes());
            out.extend(value.bytes().filter(|byte| *byte != 0));
            out.push(0);
        }
        offset |= VALUES;
    }
    Ok(offset)
}

/// All that an index file holds.
///
/// # Errors
///
/// `Malformed` where it is no index, or nodes share children or lie outside.
pub(super) fn read(file: &[u8]) -> Result<Entries> {
    let bytes = Bytes::new(file, "a module index");
    let bad = |because: &'static str| Error::malformed("reading a module index", because);
    if bytes.u32_be(0)? != MAGIC || bytes.u32_be(4)? >> 16 != VERSION >> 16 {
        return Err(bad("it is none that kmod reads"));
    }
    let mut entries = Entries::new();
    let mut todo = vec![(bytes.u32_be(8)?, Vec::new())];
    // Each node of a tree is met once, and each has at least one byte: more of them is a graph.
    let mut left = file.len();
    while let Some((offset, mut key)) = todo.pop() {
        let mut at = (offset & OFFSET) as usize;
        if at == 0 {
            continue;
        }
        left = left.checked_sub(1).ok_or_else(|| bad("its nodes are no tree"))?;
        let text = |at: usize| -> Result<Vec<u8>> {
            let rest = bytes.slice(at, bytes.len().saturating_sub(at))?;
            let end = rest.iter().position(|byte| *byte == 0).ok_or_else(|| bad("a text has no end"))?;
            Ok(rest.get(..end).unwrap_or_default().to_vec())
        };
        if offset & PREFIX != 0 {
            let prefix = text(at)?;
            at += prefix.len() + 1;
            key.extend(prefix);
        }
        if key.len() > LONGEST_KEY {
            return Err(bad("a key is absurdly long"));
        }
        if offset & CHILDREN != 0 {
            let (first, last) = (bytes.u8(at)?, bytes.u8(at + 1)?);
            at += 2;
            for letter in first..=last {
                let child = bytes.u32_be(at)?;
                at += 4;
                if child & OFFSET != 0 {
                    let mut key = key.clone();
                    key.push(letter);
                    todo.push((child, key));
                }
            }
            if todo.len() > MOST_OPEN {
                return Err(bad("its nodes are no tree"));
            }
        }
        if offset & VALUES != 0 {
            let count = bytes.u32_be(at)?;
            at += 4;
            let key = String::from_utf8_lossy(&key).into_owned();
            let values: &mut Vec<(u32, String)> = entries.entry(key).or_default();
            for _ in 0..count {
                let priority = bytes.u32_be(at)?;
                let value = text(at + 4)?;
                at += 4 + value.len() + 1;
                // A node of many values is read once only in an honest file.
                left = left.checked_sub(value.len() + 5).ok_or_else(|| bad("its nodes are no tree"))?;
                values.push((priority, c_text(&value)));
            }
        }
    }
    Ok(entries)
}
