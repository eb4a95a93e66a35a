// SPDX-License-Identifier: Apache-2.0
//! A menu, and which of its entries is started when nobody chooses.

use crate::inspection::BootEntry;

/// An entry or a submenu.
pub(super) struct Item {
    pub(super) title: String,
    pub(super) id: String,
    /// `None` for a submenu.
    pub(super) entry: Option<BootEntry>,
    pub(super) children: Vec<Item>,
}

/// All entries, the default marked. `default` is as GRUB has it: a number from 0, an id or a title, and the same within a submenu
/// behind ">" (grub-core/normal/menu.c).
pub(super) fn flatten(items: Vec<Item>, default: &str) -> Vec<BootEntry> {
    let mut path = chosen(&items, default).or_else(|| first(&items)).unwrap_or_default();
    path.reverse();
    let mut entries = Vec::new();
    add(items, Some(&path), &mut entries);
    entries
}

/// Indexes from the top.
fn chosen(items: &[Item], default: &str) -> Option<Vec<usize>> {
    let at = items.iter().position(|item| !item.id.is_empty() && item.id == default);
    let at = at.or_else(|| items.iter().position(|item| item.title == default));
    if let Some(at) = at {
        return complete(items, at, None);
    }
    // A title may have ">" in it, so the whole was tried first.
    let (head, rest) = match default.split_once('>') {
        Some((head, rest)) => (head, Some(rest)),
        None => (default, None),
    };
    let by_name = items.iter().position(|item| item.id == head || item.title == head);
    let at = by_name.or_else(|| head.trim().parse().ok().filter(|at| *at < items.len()))?;
    complete(items, at, rest)
}

fn complete(items: &[Item], at: usize, rest: Option<&str>) -> Option<Vec<usize>> {
    let item = items.get(at)?;
    let mut path = vec![at];
    if item.entry.is_none() {
        let inner = rest.and_then(|rest| chosen(&item.children, rest)).or_else(|| first(&item.children))?;
        path.extend(inner);
    }
    Some(path)
}

/// The first entry, where the first item leads to one.
fn first(items: &[Item]) -> Option<Vec<usize>> {
    (0..items.len()).find_map(|at| complete(items, at, None))
}

/// `path` is what leads to the default, its first step last.
fn add(items: Vec<Item>, path: Option<&[usize]>, entries: &mut Vec<BootEntry>) {
    for (index, item) in items.into_iter().enumerate() {
        let inner = path.and_then(|path| {
            let (last, rest) = path.split_last()?;
            (*last == index).then_some(rest)
        });
        if let Some(mut entry) = item.entry {
            entry.default = inner.is_some_and(<[usize]>::is_empty);
            entries.push(entry);
        }
        add(item.children, inner, entries);
    }
}
