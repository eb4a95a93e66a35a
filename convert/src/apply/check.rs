// SPDX-License-Identifier: Apache-2.0
//! Before anything is written: is the guest still as it was when the plan was made, and is there room?

use unmoor_images::{Error, Result};

use super::Options;
use super::place::{Place, split};
use super::room::room;
use crate::files::{Directory, Files, Kind};
use crate::plan::{Change, Edit, IdentityEdit, Plan, Was};

const DOING: &str = "applying the plan";

/// What is to be done, and what it needs.
pub(super) struct Checked<'p> {
    /// Edits that change something, in order.
    pub(super) entries: Vec<&'p Edit>,
    /// Directories that are to be made, parents first.
    pub(super) directories: Vec<String>,
    /// Filesystems (by their numbers) without room for all new files beside the old ones: there they take turns.
    pub(super) in_turn: bool,
    pub(super) notes: Vec<String>,
    /// Identities that are changed on the disks afterwards.
    pub(super) identities: &'p [IdentityEdit],
}

pub(super) fn check<'p>(plan: &'p Plan, root: &Directory, options: &Options) -> Result<Checked<'p>> {
    let mut checked = Checked {
        entries: Vec::new(),
        directories: Vec::new(),
        in_turn: false,
        notes: Vec::new(),
        identities: &plan.identities,
    };
    let mut changed = Vec::new();
    for edit in &plan.edits {
        let there = nearest(root, edit, &mut checked.directories)?;
        let was = edit.change.was();
        let state = match &there {
            Some(place) => place.state()?,
            None => Some(Was::Absent),
        };
        if let Change::Directory { .. } = edit.change {
            match state {
                None if root.metadata(&edit.path)?.is_some_and(|found| found.kind == Kind::Directory) => {
                    continue;
                }
                Some(Was::Absent) => {}
                _ => changed.push(edit.path.as_str()),
            }
            checked.entries.push(edit);
            continue;
        }
        if state.as_ref() != Some(&was) {
            changed.push(edit.path.as_str());
            continue;
        }
        if let Some(place) = there.filter(|_| matches!(was, Was::File { .. }))
            && place.links()? > 1
        {
            checked.notes.push(format!("{} had other names, which keep the old content", edit.path));
        }
        checked.entries.push(edit);
    }
    if !changed.is_empty() {
        let more =
            if changed.len() > 1 { format!(" (and {} more)", changed.len() - 1) } else { String::new() };
        return Err(Error::refused(
            DOING,
            format!(
                "{}{more} is not as it was when the plan was made; make a new plan",
                changed.first().copied().unwrap_or_default()
            ),
        ));
    }
    let room = room(&checked.entries, root, options.reserve)?;
    if let Some(shortage) = room.shortage {
        return Err(Error::refused(DOING, shortage));
    }
    checked.in_turn = room.in_turn;
    Ok(checked)
}

/// The place of an edit; `None` where its directory is yet to be made: it and its parents are added to `directories`.
fn nearest(root: &Directory, edit: &Edit, directories: &mut Vec<String>) -> Result<Option<Place>> {
    let (mut parent, _) = split(&edit.path);
    let mut missing = Vec::new();
    loop {
        match root.metadata(parent)?.map(|found| found.kind) {
            Some(Kind::Directory) => break,
            None if parent != "/" => {
                missing.push(parent.to_owned());
                parent = split(parent).0;
            }
            _ => {
                return Err(Error::refused(
                    DOING,
                    format!("{parent} is no directory any more; make a new plan"),
                ));
            }
        }
    }
    if root.real_path(parent)?.as_deref() != Some(parent) {
        return Err(Error::refused(DOING, format!("{parent} leads through a link now; make a new plan")));
    }
    for directory in missing.into_iter().rev() {
        if root.link_metadata(&directory)?.is_some() {
            return Err(Error::refused(DOING, format!("{directory} is a link that leads nowhere")));
        }
        if !directories.contains(&directory) {
            directories.push(directory);
        }
    }
    if split(&edit.path).0 == parent { Place::open(root, &edit.path).map(Some) } else { Ok(None) }
}
