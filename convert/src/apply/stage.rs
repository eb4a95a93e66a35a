// SPDX-License-Identifier: Apache-2.0
//! New files beside the old ones, then renames.

use std::fs::File;
use std::io::{self, Write};

use unmoor_images::Result;

use super::Steps;
use super::check::Checked;
use super::place::{Attributes, LOCKED, Place, split};
use super::selinux;
use crate::files::{Directory, Kind};
use crate::plan::{Change, Edit, Was};
use crate::sys;

/// The name of a new file until it takes its place; it is the same in every attempt, so that what an interrupted one left is
/// found again.
pub(super) fn temporary(number: usize) -> String {
    format!(".unmoor-new-{number}")
}

/// Makes directories, writes new files, renames.
pub(super) fn carry_out(checked: &Checked<'_>, root: &Directory, steps: &Steps) -> Result<()> {
    for path in &checked.directories {
        make_directory(root, path, None, steps)?;
    }
    if !checked.in_turn {
        for (number, edit) in checked.entries.iter().enumerate() {
            stage(root, edit, number, steps)?;
        }
    }
    for (number, edit) in checked.entries.iter().enumerate() {
        if checked.in_turn {
            stage(root, edit, number, steps)?;
        }
        commit(root, edit, number, steps)?;
    }
    Ok(())
}

fn make_directory(root: &Directory, path: &str, mode: Option<u32>, steps: &Steps) -> Result<()> {
    let place = Place::open(root, path)?;
    unlocked(&place, steps, || {
        place.make_directory()?;
        if let Some(label) = selinux::label(root, path, Kind::Directory)? {
            place.set_extended(selinux::NAME, &label)?;
        }
        if let Some(mode) = mode.filter(|mode| *mode != 0o755) {
            let attributes = place.attributes()?;
            place.set_attributes(&Attributes { mode, ..attributes })?;
        }
        Ok(())
    })?;
    place.flush_directory()
}

/// Does something in a directory that may be protected against changes (`chattr +i`), and protects it again.
pub(super) fn unlocked(place: &Place, steps: &Steps, change: impl FnOnce() -> Result<()>) -> Result<()> {
    let doing = |error| place.failed("clearing the flags of the directory of", error);
    let flags = sys::flags(&place.directory).map_err(doing)?.filter(|flags| flags & LOCKED != 0);
    if let Some(flags) = flags {
        steps.step()?;
        sys::set_flags(&place.directory, flags & !LOCKED).map_err(doing)?;
    }
    steps.step()?;
    let done = change();
    if let Some(flags) = flags.filter(|_| !steps.crashed()) {
        sys::set_flags(&place.directory, flags).map_err(doing)?;
    }
    done
}

/// Writes the new file or link under a name of its own.
fn stage(root: &Directory, edit: &Edit, number: usize, steps: &Steps) -> Result<()> {
    let (content, kind) = match &edit.change {
        Change::Write { content, .. } | Change::Append { content, .. } => (content.bytes(), Kind::File),
        Change::Link { .. } => (&[][..], Kind::Link),
        Change::Remove { .. } | Change::Directory { .. } => return Ok(()),
    };
    let place = Place::open(root, &edit.path)?;
    let new = place.sibling(&temporary(number))?;
    unlocked(&new, steps, || {
        new.remove()?;
        if let Change::Link { target, .. } = &edit.change {
            nix::unistd::symlinkat(target.as_str(), &new.directory, new.name.as_str())
                .map_err(|error| place.failed("making the link", error))?;
            return dress(root, edit, &place, &new, kind);
        }
        let mut file = new.create()?;
        let old = match edit.change {
            Change::Append { .. } | Change::Write { was: Was::File { .. }, .. } => Some(place.attributes()?),
            _ => None,
        };
        // Some flags (no copy-on-write on btrfs) can be set on empty files only.
        new.set_flags(old.as_ref().and_then(|old| old.flags), false)?;
        steps.step()?;
        if let Change::Append { .. } = edit.change {
            io::copy(&mut place.read()?, &mut file).map_err(|error| place.failed("copying", error))?;
        }
        file.write_all(content).map_err(|error| place.failed("writing", error))?;
        steps.step()?;
        dress(root, edit, &place, &new, kind)?;
        file.sync_all().map_err(|error| place.failed("flushing", error))
    })
}

/// Gives a new file what the old one has, or what a new one gets.
fn dress(root: &Directory, edit: &Edit, place: &Place, new: &Place, kind: Kind) -> Result<()> {
    let same_kind =
        matches!((edit.change.was(), kind), (Was::File { .. }, Kind::File) | (Was::Link { .. }, Kind::Link));
    if same_kind {
        return new.set_attributes(&place.attributes()?);
    }
    let mode = match &edit.change {
        Change::Write { mode, .. } => *mode,
        _ => 0o644,
    };
    let own = new.attributes()?;
    let mut wanted = Attributes { mode, uid: 0, gid: 0, ..own.clone() };
    if place.has_fixed_modes()? {
        wanted = own;
    }
    if let Some(label) = selinux::label(root, &edit.path, kind)? {
        wanted.extended.retain(|(name, _)| name != selinux::NAME);
        wanted.extended.push((selinux::NAME.to_owned(), label.into()));
    }
    new.set_attributes(&wanted)
}

/// The new file takes its place.
fn commit(root: &Directory, edit: &Edit, number: usize, steps: &Steps) -> Result<()> {
    let place = Place::open(root, &edit.path)?;
    if let Change::Directory { mode } = edit.change {
        // It may have been made already, as the parent of a new file.
        if place.state()? == Some(Was::Absent) {
            return make_directory(root, &edit.path, Some(mode), steps);
        }
        let own = place.attributes()?;
        return place.set_attributes(&Attributes { mode, ..own });
    }
    let flags = match edit.change.was() {
        Was::File { .. } => {
            let flags = place.attributes()?.flags;
            if flags.is_some_and(|flags| flags & LOCKED != 0) {
                steps.step()?;
                place.unlock()?;
            }
            flags
        }
        _ => None,
    };
    unlocked(&place, steps, || match edit.change {
        Change::Remove { .. } => place.remove(),
        _ => place.sibling(&temporary(number))?.rename_to(&place),
    })?;
    if flags.is_some_and(|flags| flags & LOCKED != 0)
        && !matches!(edit.change, Change::Remove { .. } | Change::Link { .. })
    {
        steps.step()?;
        place.set_flags(flags, true)?;
    }
    place.flush_directory()
}

/// Copies a whole file.
pub(super) fn copy(from: &mut File, to: &Place) -> Result<()> {
    to.remove()?;
    let mut file = to.create()?;
    io::copy(from, &mut file).map_err(|error| to.failed("copying to", error))?;
    file.sync_all().map_err(|error| to.failed("flushing", error))
}

/// The directory of `path` in the guest, made if need be with its parents; those that were made are told.
pub(super) fn make_path(root: &Directory, path: &str, made: &mut Vec<String>, steps: &Steps) -> Result<()> {
    use crate::files::Files;
    if root.metadata(path)?.is_some_and(|found| found.kind == Kind::Directory) {
        return Ok(());
    }
    make_path(root, split(path).0, made, steps)?;
    make_directory(root, path, None, steps)?;
    made.push(path.to_owned());
    Ok(())
}
