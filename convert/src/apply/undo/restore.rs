// SPDX-License-Identifier: Apache-2.0
//! Bringing back what was.

use super::*;
use std::io::Read;

/// How to undo.
#[derive(Debug, Clone, Default)]
pub struct UndoOptions {
    /// Which undo copy; the newest where none is named.
    pub name: Option<String>,
    /// Files that were changed since (a new initramfs, say) are brought back too.
    pub force: bool,
}

/// What was undone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Undone {
    /// Which undo copy; it is gone now.
    pub name: String,
    pub restored: Vec<String>,
    /// Changed since, and left as they are: of a file that is appended to, only its length was kept.
    pub left: Vec<String>,
}

/// What brings back the identities that the run changed on the disks, which has an undo copy of that name (the newest where none is
/// named): to be carried out when the files are back and unmounted.
///
/// # Errors
///
/// As [`undo`].
pub fn changed_identities(root: &Directory, options: &UndoOptions) -> Result<Vec<IdentityEdit>> {
    let index = read(root, &chosen(root, options)?)?;
    Ok(index.identities.iter().map(IdentityEdit::reversed).collect())
}

/// Takes back what [`apply`](super::super::apply) did: content, owner, mode, times, extended attributes and flags are as they were.
///
/// # Errors
///
/// `Refused` where there is no undo copy, or where files were changed since (and not `force`): nothing was written.
pub fn undo(root: &Directory, options: &UndoOptions) -> Result<Undone> {
    let name = chosen(root, options)?;
    let index = read(root, &name)?;
    if index.disks && !options.force {
        return Err(Error::refused(
            DOING,
            "the partition table or boot code was changed with these files and is not brought back: the files alone would \
             not boot; restore the image from a copy, or give --force for the files",
        ));
    }
    let mut changed = Vec::new();
    for entry in &index.entries {
        if state(root, entry)? == Now::Other {
            changed.push(entry.path.clone());
        }
    }
    if !changed.is_empty() && !options.force {
        return Err(Error::refused(
            DOING,
            format!("{} changed since; --force brings the old content back all the same", changed.join(", ")),
        ));
    }
    let mut undone = take_back(root, &name, &index)?;
    undone.name = name;
    Ok(undone)
}

const DOING: &str = "undoing the last changes";

/// The name of the undo copy.
fn chosen(root: &Directory, options: &UndoOptions) -> Result<String> {
    match &options.name {
        Some(name) if name.contains('/') || name.starts_with('.') => {
            Err(Error::new(unmoor_images::ErrorKind::Usage, DOING).because("no undo copy has such a name"))
        }
        Some(name) => Ok(name.clone()),
        None => copies(root)?
            .pop()
            .ok_or_else(|| Error::refused(DOING, format!("the guest has no undo copy in {UNDO}"))),
    }
}

/// Takes back a run that failed.
pub(in super::super) fn roll_back(root: &Directory, name: &str) -> Result<()> {
    take_back(root, name, &read(root, name)?).map(|_| ())
}

#[derive(PartialEq, Eq)]
enum Now {
    Before,
    After,
    Other,
}

fn state(root: &Directory, entry: &Entry) -> Result<Now> {
    let parent = split(&entry.path).0;
    let there = root.metadata(parent)?.is_some_and(|found| found.kind == Kind::Directory);
    if there && root.real_path(parent)?.as_deref() != Some(parent) {
        return Ok(Now::Other);
    }
    let state = if there { Place::open(root, &entry.path)?.state()? } else { Some(Was::Absent) };
    let after = match &entry.after {
        After::Is(after) => Some(after.clone()),
        After::Longer { hash, size } => Some(Was::File { hash: hash.clone(), size: *size }),
        After::Directory => None,
    };
    Ok(if state.as_ref() == Some(&entry.before) {
        Now::Before
    } else if state == after {
        Now::After
    } else {
        Now::Other
    })
}

fn take_back(root: &Directory, name: &str, index: &Index) -> Result<Undone> {
    let mut undone = Undone::default();
    for (path, _) in &index.locked {
        let place = Place::open(root, &format!("{}/.", path.trim_end_matches('/')))?;
        if let Some(flags) =
            crate::sys::flags(&place.directory).map_err(|error| place.failed("unlocking", error))?
        {
            crate::sys::set_flags(&place.directory, flags & !super::super::place::LOCKED)
                .map_err(|error| place.failed("unlocking", error))?;
        }
    }
    for (number, entry) in index.entries.iter().enumerate().rev() {
        let now = state(root, entry)?;
        if matches!((&entry.after, &now), (After::Longer { .. }, Now::Other)) {
            undone.left.push(entry.path.clone());
            continue;
        }
        if root.metadata(split(&entry.path).0)?.is_none() {
            continue;
        }
        let place = Place::open(root, &entry.path)?;
        place.sibling(&temporary(number))?.remove()?;
        if now != Now::Before {
            restore(root, name, number, entry, &place)?;
            undone.restored.push(entry.path.clone());
        }
        if let Some(attributes) = &entry.attributes {
            dress(&place, attributes, &entry.before)?;
        }
        place.flush_directory()?;
    }
    for (path, flags) in &index.locked {
        let place = Place::open(root, &format!("{}/.", path.trim_end_matches('/')))?;
        crate::sys::set_flags(&place.directory, *flags).map_err(|error| place.failed("locking", error))?;
    }
    forget(root, name, index)?;
    Ok(undone)
}

fn dress(place: &Place, attributes: &Attributes, before: &Was) -> Result<()> {
    let file = matches!(before, Was::File { .. });
    if file {
        place.unlock()?;
    }
    place.set_attributes(attributes)?;
    place.set_times(attributes)?;
    if file {
        place.set_flags(attributes.flags, true)?;
    }
    Ok(())
}

fn restore(root: &Directory, name: &str, number: usize, entry: &Entry, place: &Place) -> Result<()> {
    if let Some(Was::File { .. }) = place.state()? {
        place.unlock()?;
    }
    let new = place.sibling(&temporary(number))?;
    match (&entry.before, &entry.after) {
        (Was::Absent, After::Directory) => place.remove_directory().map(|_| ()),
        (Was::Absent, _) => place.remove(),
        (Was::File { hash, size }, After::Longer { .. }) => cut(place, hash, *size),
        (Was::File { .. }, _) => {
            stage::copy(&mut Place::open(root, &format!("{UNDO}/{name}/{number}"))?.read()?, &new)?;
            if let Some(attributes) = &entry.attributes {
                new.set_attributes(attributes)?;
            }
            new.rename_to(place)
        }
        (Was::Link { target }, _) => {
            nix::unistd::symlinkat(target.as_str(), &new.directory, new.name.as_str())
                .map_err(|error| place.failed("making the link", error))?;
            new.rename_to(place)
        }
    }
}

/// What was appended goes; the beginning is what it was.
fn cut(place: &Place, hash: &str, size: u64) -> Result<()> {
    let mut hasher = blake3::Hasher::new();
    std::io::copy(&mut place.read()?.take(size), &mut hasher)
        .map_err(|error| place.failed("reading", error))?;
    if hasher.finalize().to_hex().as_str() != hash {
        return Err(Error::new(unmoor_images::ErrorKind::Mismatch, "undoing an append")
            .because("the beginning of the file is not what it was"));
    }
    let file = nix::fcntl::openat(
        &place.directory,
        place.name.as_str(),
        OFlag::O_WRONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK,
        nix::sys::stat::Mode::empty(),
    )
    .map_err(|error| place.failed("opening", error))?;
    let file = std::fs::File::from(file);
    file.set_len(size).map_err(|error| place.failed("cutting", error))?;
    file.sync_all().map_err(|error| place.failed("flushing", error))
}

/// Removes an undo copy, its index last, and the directories that were made and are empty.
pub(super) fn forget(root: &Directory, name: &str, index: &Index) -> Result<()> {
    let folder = format!("{UNDO}/{name}");
    let mut names = root.list(&folder)?;
    names.sort_by_key(|name| name == INDEX);
    for name in names {
        Place::open(root, &format!("{folder}/{name}"))?.remove()?;
    }
    if root.metadata(UNDO)?.is_some() {
        Place::open(root, &folder)?.remove_directory()?;
    }
    let ours = [UNDO, split(UNDO).0].into_iter();
    for path in index.directories.iter().rev().map(String::as_str).chain(ours) {
        if root.metadata(split(path).0)?.is_some() {
            Place::open(root, path)?.remove_directory()?;
        }
    }
    Ok(())
}
