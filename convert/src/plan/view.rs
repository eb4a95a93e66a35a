// SPDX-License-Identifier: Apache-2.0
//! The guest as it will be: its files, seen through the edits so far.
//!
//! Paths are walked part by part, since links may be planned ones, and lead to planned ones.

use unmoor_images::{Error, Result};

use super::{Change, Draft, Edit};
use crate::files::{Files, Kind, Metadata, Room};

/// Links on one path, as the kernel counts them (fs/namei.c, MAXSYMLINKS).
const MOST_LINKS: usize = 40;

/// What a path leads to.
enum Spot<'e> {
    /// A planned file, link or directory.
    Planned(&'e Edit),
    /// The guest's own file, link or directory.
    Guest,
    /// A directory that planned files need.
    Implied,
    /// Nothing.
    Missing,
    /// A ring of links.
    Ring,
}

impl Draft<'_> {
    /// The path without links that `path` means; for what does not exist, the place where it would be made.
    pub(super) fn place(&self, path: &str) -> Result<String> {
        self.place_by(path, true)
    }

    /// As [`place`](Self::place), without following a link at the end.
    pub(super) fn place_of_link(&self, path: &str) -> Result<String> {
        self.place_by(path, false)
    }

    fn place_by(&self, path: &str, follow: bool) -> Result<String> {
        match self.walk(path, follow)? {
            (_, Spot::Ring) => {
                Err(Error::malformed(format!("following the guest's {path}"), "its links are a ring"))
            }
            (at, _) => Ok(at),
        }
    }

    /// Follows `path` part by part; `follow`: a link at the end as well.
    fn walk(&self, path: &str, follow: bool) -> Result<(String, Spot<'_>)> {
        let mut left: Vec<String> = parts(path);
        let mut at = String::new();
        let mut links = 0;
        let mut spot = Spot::Guest;
        while let Some(part) = left.pop() {
            if part == ".." {
                at.truncate(at.rfind('/').unwrap_or(0));
                // What lies above a directory is one.
                spot = self.spot(&at)?;
                continue;
            }
            at.push('/');
            at.push_str(&part);
            spot = match spot {
                Spot::Missing => Spot::Missing,
                _ => self.spot(&at)?,
            };
            if left.is_empty() && !follow {
                break;
            }
            let Some(target) = self.target(&at, &spot)? else { continue };
            links += 1;
            if links > MOST_LINKS {
                return Ok((at, Spot::Ring));
            }
            let parent = if target.starts_with('/') { 0 } else { at.rfind('/').unwrap_or(0) };
            at.truncate(parent);
            left.extend(parts(&target));
            spot = self.spot(&at)?;
        }
        Ok((if at.is_empty() { "/".to_owned() } else { at }, spot))
    }

    /// What is at a path without links in its parents.
    fn spot(&self, at: &str) -> Result<Spot<'_>> {
        if at.is_empty() {
            return Ok(Spot::Guest);
        }
        if let Some(edit) = self.edits.get(at) {
            return Ok(match edit.change {
                Change::Remove { .. } => Spot::Missing,
                _ => Spot::Planned(edit),
            });
        }
        if self.files.link_metadata(at)?.is_some() {
            return Ok(Spot::Guest);
        }
        let below = format!("{at}/");
        let implied = self
            .edits
            .range(below.clone()..)
            .take_while(|(path, _)| path.starts_with(&below))
            .any(|(_, edit)| !matches!(edit.change, Change::Remove { .. }));
        Ok(if implied { Spot::Implied } else { Spot::Missing })
    }

    fn target(&self, at: &str, spot: &Spot<'_>) -> Result<Option<String>> {
        match spot {
            Spot::Planned(Edit { change: Change::Link { target, .. }, .. }) => Ok(Some(target.clone())),
            Spot::Guest if !at.is_empty() => self.files.read_link(at),
            _ => Ok(None),
        }
    }

    fn metadata_by(&self, path: &str, follow: bool) -> Result<Option<Metadata>> {
        let (at, spot) = self.walk(path, follow)?;
        match spot {
            Spot::Planned(edit) => self.changed(edit).map(Some),
            Spot::Guest => self.files.link_metadata(&at),
            Spot::Implied => Ok(Some(Metadata { kind: Kind::Directory, ..self.new_file(&at, 0o755)? })),
            Spot::Missing | Spot::Ring => Ok(None),
        }
    }

    /// What is planned, with what stays as it is.
    fn changed(&self, edit: &Edit) -> Result<Metadata> {
        let before = self.files.link_metadata(&edit.path)?.filter(|before| before.kind == Kind::File);
        Ok(match &edit.change {
            Change::Write { content, mode, .. } => Metadata {
                size: content.bytes().len() as u64,
                ..before.map_or_else(|| self.new_file(&edit.path, *mode), Ok)?
            },
            Change::Append { content, .. } => {
                let before = before.map_or_else(|| self.new_file(&edit.path, 0o644), Ok)?;
                Metadata { size: before.size.saturating_add(content.bytes().len() as u64), ..before }
            }
            Change::Link { target, .. } => {
                Metadata { kind: Kind::Link, size: target.len() as u64, ..self.new_file(&edit.path, 0o777)? }
            }
            Change::Directory { mode } => {
                Metadata { kind: Kind::Directory, ..self.new_file(&edit.path, *mode)? }
            }
            Change::Remove { .. } => self.new_file(&edit.path, 0)?,
        })
    }

    /// A new file lies on the filesystem of its nearest parent.
    fn new_file(&self, at: &str, mode: u32) -> Result<Metadata> {
        let mut parent = at;
        let device = loop {
            parent = parent.rsplit_once('/').map_or("", |(parent, _)| parent);
            let path = if parent.is_empty() { "/" } else { parent };
            match self.files.metadata(path)? {
                Some(found) => break found.device,
                None if parent.is_empty() => break 0,
                None => {}
            }
        };
        Ok(Metadata { kind: Kind::File, size: 0, mode, uid: 0, gid: 0, mtime: 0, device })
    }
}

/// The parts of a path, last first; slashes and dots that say nothing are left out.
fn parts(path: &str) -> Vec<String> {
    path.split('/').rev().filter(|part| !part.is_empty() && *part != ".").map(str::to_owned).collect()
}

impl Files for Draft<'_> {
    fn metadata(&self, path: &str) -> Result<Option<Metadata>> {
        self.metadata_by(path, true)
    }

    fn link_metadata(&self, path: &str) -> Result<Option<Metadata>> {
        self.metadata_by(path, false)
    }

    fn read(&self, path: &str, most: u64) -> Result<Option<Vec<u8>>> {
        let (at, spot) = self.walk(path, true)?;
        let all = match spot {
            Spot::Guest => return self.files.read(&at, most),
            Spot::Planned(Edit { change: Change::Write { content, .. }, .. }) => content.bytes().to_vec(),
            Spot::Planned(Edit { change: Change::Append { content, .. }, .. }) => {
                let mut all = self.files.read(&at, most)?.unwrap_or_default();
                all.extend_from_slice(content.bytes());
                all
            }
            Spot::Planned(_) | Spot::Implied | Spot::Missing | Spot::Ring => return Ok(None),
        };
        if all.len() as u64 > most {
            return Err(Error::unsupported(
                format!("reading the guest's {path}"),
                format!("it will have {} bytes, and no more than {most} are expected there", all.len()),
            ));
        }
        Ok(Some(all))
    }

    fn list(&self, path: &str) -> Result<Vec<String>> {
        let (at, spot) = self.walk(path, true)?;
        let mut names = match spot {
            Spot::Guest => self.files.list(&at)?,
            Spot::Implied | Spot::Planned(Edit { change: Change::Directory { .. }, .. }) => Vec::new(),
            Spot::Planned(_) | Spot::Missing | Spot::Ring => return Ok(Vec::new()),
        };
        let below = format!("{}/", at.trim_end_matches('/'));
        for (path, edit) in self.edits.range(below.clone()..).take_while(|(path, _)| path.starts_with(&below))
        {
            let rest = path.get(below.len()..).unwrap_or_default();
            let name = rest.split('/').next().unwrap_or(rest);
            if matches!(edit.change, Change::Remove { .. }) {
                names.retain(|known| known != rest);
            } else if !names.iter().any(|known| known == name) {
                names.push(name.to_owned());
            }
        }
        names.sort();
        Ok(names)
    }

    fn read_link(&self, path: &str) -> Result<Option<String>> {
        let (at, spot) = self.walk(path, false)?;
        self.target(&at, &spot)
    }

    fn real_path(&self, path: &str) -> Result<Option<String>> {
        let (at, spot) = self.walk(path, true)?;
        Ok(match spot {
            Spot::Planned(_) | Spot::Guest | Spot::Implied => Some(at),
            Spot::Missing | Spot::Ring => None,
        })
    }

    fn room(&self, path: &str) -> Result<Room> {
        self.files.room(path)
    }
}
