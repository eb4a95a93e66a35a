// SPDX-License-Identifier: Apache-2.0
//! A disk's tree: extents and leaf hashes in pages, pages of pages above them, each a chunk of the store.
//!
//! A page covers a fixed range of disk address (256 leaves, 64 MiB), so that what did not change between two captures has
//! the same pages, which are there already. Numbers are LEB128:
//!
//! ```text
//!   page   0      count of extents, each: length << 2 | state     contiguous over the page's range
//!                 count of runs, each: how many equal leaves, 32 bytes of hash
//!   node   level  count of runs, each: how many children << 2 | kind, and 32 bytes of id where the kind is 0
//!                 kind 0 a child, 1 all of them zero, 2 all of them holes; 256 children a node
//! ```

use std::io::Read;

use super::Id;
use crate::merkle::{self, Hash, Leaves};
use crate::{Error, Extent, ExtentMap, LEAF, Result, State};

/// Leaves of a page, and children of a node.
const FAN: u64 = 256;
/// A tree over 2^63 bytes has 7 levels.
const DEEPEST: u8 = 7;

/// What a child of a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Node {
    /// A page or node of its own, by the hash of its bytes.
    Child(Hash),
    /// Zero extents, and zeros.
    Zero,
    /// Holes.
    Hole,
}

/// Bytes of disk that one child of a node at `level` covers.
fn span(level: u8) -> u64 {
    (0..level).fold(LEAF, |span, _| span.saturating_mul(FAN))
}

/// Level of a disk's root: at least 1, so that the root is always a node.
pub(super) fn root_level(size: u64) -> u8 {
    (1..DEEPEST).find(|level| span(*level).saturating_mul(FAN) >= size).unwrap_or(DEEPEST)
}

/// Names a page or node by its bytes, in a hash domain of its own: no content of a disk is ever taken for one.
pub(super) fn name(bytes: &[u8]) -> Hash {
    blake3::derive_key("unmoor 2026-11-24 store page", bytes)
}

/// Writes a disk's tree through `put`, children first; answers the root's hash.
pub(super) fn write(
    extents: &ExtentMap,
    leaves: &Leaves,
    put: &mut dyn FnMut(Hash, Vec<u8>) -> Result<()>,
) -> Result<Hash> {
    let level = root_level(extents.size());
    let root = node(extents, leaves, level, 0, put)?;
    let name = name(&root);
    put(name, root)?;
    Ok(name)
}

/// The bytes of the node at `level` that begins at `start`.
fn node(
    extents: &ExtentMap,
    leaves: &Leaves,
    level: u8,
    start: u64,
    put: &mut dyn FnMut(Hash, Vec<u8>) -> Result<()>,
) -> Result<Vec<u8>> {
    let (size, child) = (extents.size(), span(level));
    let end = start.saturating_add(child.saturating_mul(FAN)).min(size);
    let mut runs: Vec<(u64, Node)> = Vec::new();
    let mut at = start;
    while at < end {
        let to = at.saturating_add(child).min(end);
        let found = match uniform(extents, leaves, at, to) {
            Some(node) => node,
            None => {
                let bytes = match level {
                    1 => page(extents, leaves, at, to),
                    _ => node(extents, leaves, level - 1, at, put)?,
                };
                let name = name(&bytes);
                put(name, bytes)?;
                Node::Child(name)
            }
        };
        match runs.last_mut() {
            Some((count, last)) if *last == found => *count += 1,
            _ => runs.push((1, found)),
        }
        at = to;
    }
    let mut out = vec![level];
    leb(&mut out, runs.len() as u64);
    for (count, node) in runs {
        match node {
            Node::Child(name) => {
                leb(&mut out, count << 2);
                out.extend_from_slice(&name);
            }
            Node::Zero => leb(&mut out, count << 2 | 1),
            Node::Hole => leb(&mut out, count << 2 | 2),
        }
    }
    Ok(out)
}

/// A range that is one zero or hole, and reads as zeros.
fn uniform(extents: &ExtentMap, leaves: &Leaves, from: u64, to: u64) -> Option<Node> {
    let mut states = extents.within(from..to).map(|extent| extent.state);
    let first = states.next()?;
    if first == State::Data || states.next().is_some() {
        return None;
    }
    let zero = leaves.runs_within(from / LEAF..to.div_ceil(LEAF)).all(|(start, count, hash)| {
        let bytes = ((start + count) * LEAF).min(leaves.size()) - start * LEAF;
        hash == merkle::zero_leaf(bytes.min(LEAF))
    });
    zero.then_some(if first == State::Zero { Node::Zero } else { Node::Hole })
}

fn page(extents: &ExtentMap, leaves: &Leaves, from: u64, to: u64) -> Vec<u8> {
    let mut out = vec![0];
    leb(&mut out, extents.within(from..to).count() as u64);
    extents.within(from..to).for_each(|extent| leb(&mut out, extent.len << 2 | extent.state as u64));
    let range = from / LEAF..to.div_ceil(LEAF);
    leb(&mut out, leaves.runs_within(range.clone()).count() as u64);
    for (_, count, hash) in leaves.runs_within(range) {
        leb(&mut out, count);
        out.extend_from_slice(&hash);
    }
    out
}

fn leb(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Reads a disk's tree, each page through `get`, into its map and leaves.
pub(super) fn read(
    size: u64,
    root: &Hash,
    get: &mut dyn FnMut(&Hash) -> Result<Vec<u8>>,
) -> Result<(ExtentMap, Leaves)> {
    let mut found = Found { extents: Vec::new(), leaves: Leaves::builder(size), size };
    read_node(root, root_level(size), 0, &mut found, get)?;
    let extents = ExtentMap::from_extents(found.extents)?;
    if extents.size() != size {
        return Err(Error::malformed("reading a disk's tree", "its extents do not add up to the disk"));
    }
    Ok((extents, found.leaves.finish()?))
}

struct Found {
    extents: Vec<Extent>,
    leaves: merkle::LeavesBuilder,
    size: u64,
}

impl Found {
    fn extent(&mut self, offset: u64, len: u64, state: State) {
        match self.extents.last_mut() {
            Some(last) if last.state == state && last.end() == offset => last.len += len,
            _ => self.extents.push(Extent { offset, len, state }),
        }
    }

    /// Zeros from `from` to `to`, which begin at a leaf.
    fn zeros(&mut self, from: u64, to: u64) -> Result<()> {
        let whole = (to - from) / LEAF;
        if whole > 0 {
            self.leaves.push_run(whole, merkle::zero_leaf(LEAF))?;
        }
        let rest = (to - from) % LEAF;
        if rest > 0 {
            self.leaves.push_run(1, merkle::zero_leaf(rest))?;
        }
        Ok(())
    }
}

fn broken(because: &'static str) -> Error {
    Error::malformed("reading a disk's tree", because)
}

fn read_node(
    name: &Hash,
    level: u8,
    start: u64,
    found: &mut Found,
    get: &mut dyn FnMut(&Hash) -> Result<Vec<u8>>,
) -> Result<()> {
    let bytes = get(name)?;
    let child = span(level);
    let end = start.saturating_add(child.saturating_mul(FAN)).min(found.size);
    let mut at = start;
    for (count, node) in children(&bytes, level)? {
        for _ in 0..count {
            if at >= end {
                return Err(broken("a node has more children than its range"));
            }
            let to = at.saturating_add(child).min(end);
            match node {
                Node::Zero | Node::Hole => {
                    let state = if node == Node::Zero { State::Zero } else { State::Hole };
                    found.extent(at, to - at, state);
                    found.zeros(at, to)?;
                }
                Node::Child(name) if level == 1 => read_page(&get(&name)?, at, to, found)?,
                Node::Child(name) => read_node(&name, level - 1, at, found, get)?,
            }
            at = to;
        }
    }
    if at < end { Err(broken("a node has fewer children than its range")) } else { Ok(()) }
}

/// The children of a node: how many, and what. `bytes` must be a node of `level`.
pub(super) fn children(bytes: &[u8], level: u8) -> Result<Vec<(u64, Node)>> {
    let (first, mut rest) = bytes.split_first().ok_or_else(|| broken("a node is empty"))?;
    if *first != level || level == 0 {
        return Err(broken("a node is of another level"));
    }
    let count = number(&mut rest)?;
    if count > FAN {
        return Err(broken("a node has too many children"));
    }
    let (mut runs, mut total) = (Vec::new(), 0u64);
    for _ in 0..count {
        let value = number(&mut rest)?;
        total = total.saturating_add(value >> 2);
        let node = match value & 3 {
            0 => Node::Child(hash(&mut rest)?),
            1 => Node::Zero,
            2 => Node::Hole,
            _ => return Err(broken("a child is of a kind that is not known here")),
        };
        runs.push((value >> 2, node));
    }
    if total > FAN || !rest.is_empty() {
        return Err(broken("a node has too many children"));
    }
    Ok(runs)
}

fn read_page(bytes: &[u8], from: u64, to: u64, found: &mut Found) -> Result<()> {
    let (first, mut rest) = bytes.split_first().ok_or_else(|| broken("a page is empty"))?;
    if *first != 0 {
        return Err(broken("a page is of another level"));
    }
    let mut at = from;
    for _ in 0..number(&mut rest)? {
        let value = number(&mut rest)?;
        let len = value >> 2;
        let state = match value & 3 {
            0 => State::Data,
            1 => State::Zero,
            2 => State::Hole,
            _ => return Err(broken("an extent is of a state that is not known here")),
        };
        if len == 0 || len > to - at {
            return Err(broken("an extent leaves its page"));
        }
        found.extent(at, len, state);
        at += len;
    }
    let (mut leaf, last) = (from / LEAF, to.div_ceil(LEAF));
    for _ in 0..number(&mut rest)? {
        let count = number(&mut rest)?;
        if count == 0 || count > last - leaf {
            return Err(broken("leaves leave their page"));
        }
        found.leaves.push_run(count, hash(&mut rest)?)?;
        leaf += count;
    }
    if at != to || leaf != last || !rest.is_empty() {
        return Err(broken("a page does not fill its range"));
    }
    Ok(())
}

/// What a page or node names, by its place in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Below {
    /// Pages and nodes: number of the first among the children, how many that are the same, hash.
    pub(super) children: Vec<(u64, u64, Hash)>,
    /// The same for leaves that are not zeros.
    pub(super) leaves: Vec<(u64, u64, Hash)>,
}

/// Takes a page (level 0) or node apart, wherever on a disk it is.
pub(super) fn below(bytes: &[u8], level: u8) -> Result<Below> {
    let mut below = Below::default();
    if level == 0 {
        below.leaves = page_leaves(bytes)?;
        return Ok(below);
    }
    let mut at = 0;
    for (count, node) in children(bytes, level)? {
        if let Node::Child(hash) = node {
            below.children.push((at, count, hash));
        }
        at += count;
    }
    Ok(below)
}

fn page_leaves(bytes: &[u8]) -> Result<Vec<(u64, u64, Hash)>> {
    let (first, mut rest) = bytes.split_first().ok_or_else(|| broken("a page is empty"))?;
    if *first != 0 {
        return Err(broken("a page is of another level"));
    }
    let mut len = 0u64;
    for _ in 0..number(&mut rest)? {
        len = len.saturating_add(number(&mut rest)? >> 2);
    }
    if len > FAN * LEAF {
        return Err(broken("an extent leaves its page"));
    }
    let (mut leaves, mut at, last) = (Vec::new(), 0, len.div_ceil(LEAF));
    for _ in 0..number(&mut rest)? {
        let count = number(&mut rest)?;
        if count == 0 || count > last - at {
            return Err(broken("leaves leave their page"));
        }
        let hash = hash(&mut rest)?;
        let bytes = ((at + count) * LEAF).min(len) - at * LEAF;
        if hash != merkle::zero_leaf(bytes.min(LEAF)) {
            leaves.push((at, count, hash));
        }
        at += count;
    }
    if at != last || !rest.is_empty() {
        return Err(broken("a page does not fill its range"));
    }
    Ok(leaves)
}

/// Bytes of disk that a page (level 0) or node covers.
pub(super) fn covers(level: u8) -> u64 {
    span(level).saturating_mul(FAN)
}

/// Bytes of disk between the beginnings of two of its leaves or children.
pub(super) fn step(level: u8) -> u64 {
    span(level)
}

fn hash(rest: &mut &[u8]) -> Result<Id> {
    let mut hash = [0; 32];
    rest.read_exact(&mut hash).map_err(|_| broken("it ends too soon"))?;
    Ok(hash)
}

fn number(rest: &mut &[u8]) -> Result<u64> {
    let mut value = 0u64;
    for shift in (0..63).step_by(7) {
        let (byte, later) = rest.split_first().ok_or_else(|| broken("it ends too soon"))?;
        *rest = later;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(broken("a number is too large"))
}

/// Root and page of a disk of at most 64 MiB, and its size, for the fuzzer's seeds.
pub fn encode_tree(extents: &ExtentMap, leaves: &Leaves) -> (Vec<u8>, Vec<u8>, u64) {
    let size = extents.size();
    let mut page_bytes = Vec::new();
    let root = node(extents, leaves, 1, 0, &mut |_, bytes| {
        page_bytes = bytes;
        Ok(())
    });
    (root.unwrap_or_default(), page_bytes, size)
}

/// Trees as bytes, for the fuzzer: `node` is the root of a disk of `size`, whose pages are all `page`.
pub fn decode_tree(size: u64, node: &[u8], page: &[u8]) -> Result<(ExtentMap, Leaves)> {
    let root = name(node);
    let mut asked = 0u32;
    read(size, &root, &mut |hash| {
        asked += 1;
        if asked > 10_000 {
            return Err(broken("the tree is larger than the fuzzer's"));
        }
        Ok(if *hash == root { node.to_vec() } else { page.to_vec() })
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::RangeSet;

    fn round(extents: &ExtentMap, leaves: &Leaves) -> HashMap<Hash, Vec<u8>> {
        let mut pages = HashMap::new();
        let root = write(extents, leaves, &mut |name, bytes| {
            pages.insert(name, bytes);
            Ok(())
        })
        .unwrap();
        let back = read(extents.size(), &root, &mut |name| Ok(pages[name].clone())).unwrap();
        assert_eq!(back, (extents.clone(), leaves.clone()));
        pages
    }

    #[test]
    fn trees_hold_every_extent_and_leaf() {
        for size in
            [0, 1, LEAF, 64 << 20, (64 << 20) + 1, 3 * LEAF + 77, 700 << 20, (17 << 30) + 4096, 8 << 40]
        {
            let mut data = RangeSet::of(0..5000);
            data.insert(size / 3..size / 3 + 700_000);
            data.insert(size.saturating_sub(100)..size);
            data.truncate(size);
            let extents = ExtentMap::from_data(size, &mut data, State::Hole)
                .zero_holes(&mut RangeSet::of(size / 2..size / 2 + (200 << 20)));
            let count = size.div_ceil(LEAF);
            let mut pairs = vec![
                (0, [1; 32]),
                (count / 3, [2; 32]),
                (count / 3 + 1, [2; 32]),
                (count.saturating_sub(1), [3; 32]),
            ];
            pairs.retain(|pair| pair.0 < count);
            pairs.dedup_by_key(|pair| pair.0);
            if count < 4 {
                pairs.truncate(1);
            }
            let pages = round(&extents, &Leaves::from_pairs(size, pairs).unwrap());
            assert!(pages.len() < 30, "{} pages for {size}", pages.len());
        }
    }

    #[test]
    fn what_pages_name_is_what_the_tree_has() {
        let size = (18 << 30) + 70_000;
        let extents =
            ExtentMap::from_data(size, &mut RangeSet::of((size / 2) & !(LEAF - 1)..size), State::Hole);
        let count = size.div_ceil(LEAF);
        let mut pairs: Vec<(u64, Hash)> = (count / 2..count - 1)
            .map(|leaf| (leaf, *blake3::hash(&leaf.to_le_bytes()).as_bytes()))
            .collect();
        // Zeros within data, the short last leaf among them.
        pairs.retain(|(leaf, _)| leaf % 5 != 0);
        let leaves = Leaves::from_pairs(size, pairs.clone()).unwrap();
        let mut pages = HashMap::new();
        let root = write(&extents, &leaves, &mut |name, bytes| {
            pages.insert(name, bytes);
            Ok(())
        })
        .unwrap();
        let (mut found, mut waiting, mut seen) = (Vec::new(), vec![(root, root_level(size), 0)], 0);
        while let Some((name, level, start)) = waiting.pop() {
            seen += 1;
            assert!(start + covers(level) > start);
            let below = below(&pages[&name], level).unwrap();
            for (first, count, child) in below.children {
                waiting.extend((first..first + count).map(|at| (child, level - 1, start + at * step(level))));
            }
            for (first, count, hash) in below.leaves {
                found.extend((first..first + count).map(|at| ((start + at * step(0)) / LEAF, hash)));
            }
        }
        found.sort();
        assert_eq!(found, pairs);
        assert_eq!(seen, pages.len());
    }

    #[test]
    fn a_changed_leaf_changes_one_page_and_what_is_above_it() {
        let size = 20 << 30;
        let extents = ExtentMap::uniform(size, State::Data);
        let pairs: Vec<_> =
            (0..size / LEAF).map(|leaf| (leaf, *blake3::hash(&leaf.to_le_bytes()).as_bytes())).collect();
        let leaves = Leaves::from_pairs(size, pairs).unwrap();
        let before = round(&extents, &leaves);
        let after = round(&extents, &leaves.with(&[(777, [9; 32])]).unwrap());
        assert_eq!(after.keys().filter(|name| !before.contains_key(*name)).count(), 3);
    }

    #[test]
    fn no_flipped_or_cut_byte_of_a_tree_panics() {
        let size = (130 << 20) + 5000;
        let extents = ExtentMap::from_data(size, &mut RangeSet::of(70 << 20..71 << 20), State::Zero);
        let leaves = Leaves::from_pairs(size, vec![(281, [5; 32])]).unwrap();
        let mut pages = HashMap::new();
        let root = write(&extents, &leaves, &mut |name, bytes| {
            pages.insert(name, bytes);
            Ok(())
        })
        .unwrap();
        let names: Vec<Hash> = pages.keys().copied().collect();
        for name in names {
            let good = pages[&name].clone();
            for index in 0..good.len() {
                for flip in [1u8, 0x80, 0xff] {
                    let mut bad = good.clone();
                    bad[index] ^= flip;
                    pages.insert(name, bad);
                    let _ = read(size, &root, &mut |name| Ok(pages.get(name).cloned().unwrap_or_default()));
                }
                pages.insert(name, good[..index].to_vec());
                assert!(read(size, &root, &mut |name| Ok(pages[name].clone())).is_err());
            }
            pages.insert(name, good);
        }
    }
}
