// SPDX-License-Identifier: Apache-2.0
//! The undo copy: /var/lib/unmoor/undo/TIME/ with an index (JSON) and the old content of every changed file, complete and flushed
//! before the first change. Of a file that is appended to, only its length is kept.

use std::io::Write;

use nix::fcntl::OFlag;
use serde::{Deserialize, Serialize};
use unmoor_images::{Error, Result};

use super::check::Checked;
use super::place::{Attributes, Place, split};
use super::stage::{self, temporary, unlocked};
use super::{Options, Steps, UNDO};
use crate::files::{Directory, Files, Kind};
use crate::plan::{Change, IdentityEdit, Was, check_path};

mod restore;

pub(super) use restore::roll_back;
pub use restore::{UndoOptions, Undone, changed_identities, undo};

/// What is read back of an index, in bytes.
const MOST_INDEX: u64 = 64 << 20;
const FORMAT: u32 = 1;
const INDEX: &str = "index.json";

/// What a run changed, and how it was.
#[derive(Debug, Serialize, Deserialize)]
struct Index {
    unmoor_undo: u32,
    /// Seconds since 1970.
    time: i64,
    /// False while changes may still be under way.
    complete: bool,
    entries: Vec<Entry>,
    /// Directories that were made for the undo copy and for new files, parents first.
    directories: Vec<String>,
    /// Directories that are protected against changes, and their flags.
    locked: Vec<(String, u32)>,
    /// The plan changed disks outside of files too, of which nothing is kept.
    #[serde(default)]
    disks: bool,
    /// Identities that were changed on the disks.
    #[serde(default)]
    identities: Vec<IdentityEdit>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    path: String,
    before: Was,
    /// Absent for what was absent.
    attributes: Option<Attributes>,
    after: After,
}

/// What it is after the change.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum After {
    /// As [`Was`].
    Is(Was),
    /// A file that begins with what it was.
    Longer {
        hash: String,
        size: u64,
    },
    Directory,
}

/// The undo copy of a run.
pub(super) struct Record {
    name: String,
    index: Index,
}

impl Record {
    /// Writes copies and index, and flushes them.
    pub(super) fn begin(
        checked: &Checked<'_>,
        root: &Directory,
        options: &Options,
        steps: &Steps,
    ) -> Result<Self> {
        sweep(root)?;
        let name = free_name(root, options.now)?;
        let mut index = Index {
            unmoor_undo: FORMAT,
            time: options.now,
            complete: false,
            entries: Vec::new(),
            directories: checked.directories.clone(),
            locked: Vec::new(),
            disks: options.disks,
            identities: checked.identities.to_vec(),
        };
        let mut made = Vec::new();
        let kept = (|| {
            let folder = format!("{UNDO}/{name}");
            stage::make_path(root, UNDO, &mut made, steps)?;
            let place = Place::open(root, &folder)?;
            steps.step()?;
            place.make_directory()?;
            let own = place.attributes()?;
            place.set_attributes(&Attributes { mode: 0o700, ..own })?;
            for (number, edit) in checked.entries.iter().enumerate() {
                index.entries.push(entry(root, edit, checked)?);
                let whole = !matches!(edit.change, Change::Append { .. });
                if let Was::File { .. } = edit.change.was()
                    && whole
                {
                    steps.step()?;
                    let copy = Place::open(root, &format!("{folder}/{number}"))?;
                    stage::copy(&mut Place::open(root, &edit.path)?.read()?, &copy)?;
                }
            }
            index.locked = locked(root, checked)?;
            made.append(&mut index.directories);
            index.directories.append(&mut made);
            write(root, &name, &index, steps)?;
            Place::open(root, &folder)?.flush_directory()
        })();
        if let Err(error) = kept {
            if !steps.crashed() {
                restore::forget(root, &name, &index)?;
            }
            return Err(error);
        }
        Ok(Self { name, index })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// All that was to be changed is.
    pub(super) fn complete(&mut self, root: &Directory, steps: &Steps) -> Result<()> {
        self.index.complete = true;
        write(root, &self.name, &self.index, steps)
    }
}

fn entry(root: &Directory, edit: &crate::plan::Edit, checked: &Checked<'_>) -> Result<Entry> {
    let before = edit.change.was();
    let below_new = checked.directories.iter().any(|made| made == split(&edit.path).0);
    let attributes = match before {
        Was::Absent => None,
        _ if below_new => None,
        _ => Some(Place::open(root, &edit.path)?.attributes()?),
    };
    let hash = |hash: blake3::Hash| hash.to_hex().to_string();
    let after = match &edit.change {
        Change::Write { content, .. } => After::Is(Was::File {
            hash: hash(blake3::hash(content.bytes())),
            size: content.bytes().len() as u64,
        }),
        Change::Append { content, .. } => {
            let mut hasher = blake3::Hasher::new();
            let place = Place::open(root, &edit.path)?;
            let old = std::io::copy(&mut place.read()?, &mut hasher)
                .map_err(|error| place.failed("reading", error))?;
            hasher.update(content.bytes());
            let size = old.saturating_add(content.bytes().len() as u64);
            After::Longer { hash: hash(hasher.finalize()), size }
        }
        Change::Link { target, .. } => After::Is(Was::Link { target: target.clone() }),
        Change::Remove { .. } => After::Is(Was::Absent),
        Change::Directory { .. } => After::Directory,
    };
    Ok(Entry { path: edit.path.clone(), before, attributes, after })
}

/// Directories that the run has to unlock.
fn locked(root: &Directory, checked: &Checked<'_>) -> Result<Vec<(String, u32)>> {
    let mut all: Vec<(String, u32)> = Vec::new();
    for path in checked.entries.iter().map(|edit| &edit.path).chain(&checked.directories) {
        let parent = split(path).0;
        if all.iter().any(|(known, _)| known == parent) || root.metadata(parent)?.is_none() {
            continue;
        }
        let place = Place::open(root, path)?;
        let flags = crate::sys::flags(&place.directory)
            .map_err(|error| place.failed("reading the flags of the directory of", error))?;
        if let Some(flags) = flags.filter(|flags| flags & super::place::LOCKED != 0) {
            all.push((parent.to_owned(), flags));
        }
    }
    Ok(all)
}

fn write(root: &Directory, name: &str, index: &Index, steps: &Steps) -> Result<()> {
    let place = Place::open(root, &format!("{UNDO}/{name}/{INDEX}"))?;
    let json = serde_json::to_vec_pretty(index)
        .map_err(|error| Error::malformed("writing the index of the undo copy", error.to_string()))?;
    let new = place.sibling("index.new")?;
    unlocked(&new, steps, || {
        new.remove()?;
        let mut file = new.create()?;
        file.write_all(&json).map_err(|error| new.failed("writing", error))?;
        file.sync_all().map_err(|error| new.failed("flushing", error))
    })?;
    steps.step()?;
    new.rename_to(&place)?;
    place.flush_directory()
}

/// "20261124T190210Z", or with "-2" behind it.
fn free_name(root: &Directory, now: i64) -> Result<String> {
    let time = jiff::Timestamp::from_second(now)
        .map_err(|error| Error::new(unmoor_images::ErrorKind::Usage, "naming the undo copy").source(error))?;
    let base = time.strftime("%Y%m%dT%H%M%SZ").to_string();
    let taken = root.list(UNDO)?;
    let names = std::iter::once(base.clone()).chain((2..).map(|number| format!("{base}-{number}")));
    Ok(names.into_iter().find(|name| !taken.contains(name)).unwrap_or(base))
}

/// Whether an earlier run was cut off.
pub(super) fn cut_off(root: &Directory) -> Result<Option<String>> {
    let Some(name) = copies(root)?.pop() else { return Ok(None) };
    Ok(if read(root, &name)?.complete { None } else { Some(name) })
}

/// Removes what runs left that were cut off before they changed anything.
fn sweep(root: &Directory) -> Result<()> {
    let complete = copies(root)?;
    let empty = Index {
        unmoor_undo: FORMAT,
        time: 0,
        complete: false,
        entries: Vec::new(),
        directories: Vec::new(),
        locked: Vec::new(),
        disks: false,
        identities: Vec::new(),
    };
    for name in root.list(UNDO)?.iter().filter(|name| !complete.contains(name)) {
        restore::forget(root, name, &empty)?;
    }
    Ok(())
}

/// Undo copies, oldest first; what has no index is of a run that changed nothing.
fn copies(root: &Directory) -> Result<Vec<String>> {
    let mut complete = Vec::new();
    for name in root.list(UNDO)? {
        if root.metadata(&format!("{UNDO}/{name}/{INDEX}"))?.is_some_and(|found| found.kind == Kind::File) {
            complete.push(name);
        }
    }
    Ok(complete)
}

fn read(root: &Directory, name: &str) -> Result<Index> {
    let path = format!("{UNDO}/{name}/{INDEX}");
    let doing = || format!("reading the guest's {path}");
    let bytes =
        root.read(&path, MOST_INDEX)?.ok_or_else(|| Error::refused(doing(), "there is no such undo copy"))?;
    let index: Index =
        serde_json::from_slice(&bytes).map_err(|error| Error::malformed(doing(), error.to_string()))?;
    if index.unmoor_undo != FORMAT {
        return Err(Error::unsupported(doing(), format!("it has format {}", index.unmoor_undo)));
    }
    // A guest may have written what it likes: no name leads out of its directory.
    let locked = index.locked.iter().map(|(path, _)| path).filter(|path| *path != "/");
    for path in index.entries.iter().map(|entry| &entry.path).chain(&index.directories).chain(locked) {
        check_path(path).map_err(|why| Error::malformed(doing(), why))?;
    }
    Ok(index)
}
