// SPDX-License-Identifier: Apache-2.0
//! A guest whose filesystems are read from raw bytes: no mount, no privileges, for looking and for planning.
//!
//! ```text
//!   layouts, sources --[look]--> a volume for each device --/etc/fstab--> mount points --> RawGuest: Files
//! ```
//!
//! Owners, modes and times are not read; what is told for them is what such files usually have.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};

use unmoor_images::adapt::Mapped;
use unmoor_images::filesystem::FilesystemKind;
use unmoor_images::filesystem::files::{self, Id, Limited, Node, Volume};
use unmoor_images::layout::{self, Content, DiskLayout, Kept, Place};
use unmoor_images::{BlockSource, Error, Result};

use super::{Files, Kind, MOST_NAMES, Metadata, Room};
use crate::devices::Devices;
use crate::os::OsFacts;
use crate::syntax::rows::rows;

#[cfg(test)]
#[path = "raw_tests.rs"]
mod tests;

/// What is read of one filesystem at most, in bytes: kernels, initramfs and all that is read of modules.
const MOST_READ: u64 = 16 << 30;
/// As the kernel's `MAXSYMLINKS` and `PATH_MAX`.
const MOST_LINKS: u32 = 40;
const LONGEST_LINK: u64 = 4096;
/// Steps of one path, what its links add included.
const MOST_STEPS: u32 = 4096;
/// Lines of fstab that are mounted.
const MOST_MOUNTS: usize = 64;
/// Names of directories that are remembered.
const MOST_REMEMBERED: usize = 1_000_000;
/// Read at a time.
const PIECE: usize = 4 << 20;

/// A filesystem that is open, and the directories that were looked into.
struct Open<'a> {
    volume: Box<dyn Volume + 'a>,
    directories: HashMap<Id, HashMap<Vec<u8>, Id>>,
    remembered: usize,
}

/// A directory of a volume that shows as another path.
struct Mount {
    path: String,
    volume: usize,
    root: Id,
}

/// A guest on raw disks.
pub struct RawGuest<'a> {
    open: Vec<RefCell<Open<'a>>>,
    room: Vec<Room>,
    mounts: Vec<Mount>,
    notes: Vec<String>,
}

/// A place in the guest.
struct Found {
    volume: usize,
    node: Node,
    /// Without links.
    path: String,
}

/// Shows the guest `system`, which [`crate::os::find`] found on the machine whose disks are `sources`, to `look`.
///
/// # Errors
///
/// Those of opening the root filesystem, and of `look`. A filesystem of fstab that cannot be opened is a note.
pub fn look<T>(
    layouts: &[DiskLayout],
    sources: &[&dyn BlockSource],
    devices: &Devices,
    system: &OsFacts,
    look: impl FnOnce(&RawGuest<'_>) -> Result<T>,
) -> Result<T> {
    let mapped: Vec<Option<Mapped<'_>>> = devices
        .devices
        .iter()
        .map(|device| layout::open(sources, layouts, device.disk, &device.place).ok())
        .collect();
    let limited: Vec<Option<Limited<'_>>> =
        mapped.iter().map(|mapped| mapped.as_ref().map(|mapped| Limited::new(mapped, MOST_READ))).collect();
    let mut guest = RawGuest { open: Vec::new(), room: Vec::new(), mounts: Vec::new(), notes: Vec::new() };
    let mut opened: HashMap<usize, usize> = HashMap::new();
    let root =
        devices.devices.iter().position(|device| device.disk == system.disk && device.place == system.place);
    let no_root = || Error::unsupported("reading the guest", "its root is none of the machine's devices");
    let root = root.ok_or_else(no_root)?;
    let volume = guest.add(layouts, devices, root, &limited)?;
    opened.insert(root, volume);
    guest.mount("/", volume, system.subvolume.as_deref())?;
    let fstab = guest.text("/etc/fstab")?.unwrap_or_default();
    let mut lines = rows(&fstab);
    // "/boot" before "/boot/efi".
    lines.sort_by_key(|row| row.text(1).map_or(0, |path| path.matches('/').count()));
    for row in lines.iter().take(MOST_MOUNTS) {
        let (Some(spec), Some(path)) = (row.text(0), row.text(1)) else { continue };
        let Some(device) = devices.resolve(spec).filter(|_| path.starts_with('/') && path != "/") else {
            continue;
        };
        let volume = match opened.get(&device) {
            Some(volume) => Ok(*volume),
            None => guest.add(layouts, devices, device, &limited),
        };
        let options = row.text(3).unwrap_or_default();
        let subvolume = options.split(',').find(|option| option.starts_with("subvol="));
        let done = volume.and_then(|volume| {
            opened.insert(device, volume);
            guest.mount(path, volume, subvolume)
        });
        if let Err(error) = done {
            guest.notes.push(format!("{path} is not shown: {}", error.chain()));
        }
    }
    look(&guest)
}

impl<'a> RawGuest<'a> {
    /// What of fstab is not shown, and why.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    fn add(
        &mut self,
        layouts: &[DiskLayout],
        devices: &Devices,
        index: usize,
        limited: &'a [Option<Limited<'a>>],
    ) -> Result<usize> {
        let device = devices.devices.get(index);
        let region = device.and_then(|device| {
            let mut regions = layouts.get(device.disk)?.all_regions();
            regions.find(|region| region.place == device.place)
        });
        let source = limited.get(index).and_then(Option::as_ref);
        let (Some(region), Some(source)) = (region, source) else {
            return Err(Error::unsupported("opening a filesystem", "its device cannot be read"));
        };
        let kind = match &region.content {
            Content::Filesystem(facts) => facts.kind,
            _ => FilesystemKind::Swap,
        };
        let volume = files::open(source, kind)?;
        let len = match region.place {
            Place::Disk { len, .. } | Place::LogicalVolume { len, .. } | Place::Md { len, .. } => len,
        };
        // What is kept whole does not tell how much of it is used.
        let bytes = match region.kept {
            Kept::Used => len.saturating_sub(region.used_bytes),
            Kept::Everything(_) | Kept::Nothing => u64::MAX,
        };
        self.open.push(RefCell::new(Open { volume, directories: HashMap::new(), remembered: 0 }));
        self.room.push(Room { bytes, inodes: u64::MAX });
        Ok(self.open.len() - 1)
    }

    fn mount(&mut self, path: &str, volume: usize, subvolume: Option<&str>) -> Result<()> {
        let open = self.opened(volume)?;
        let normal = |option: &str| option.trim_start_matches("subvol=").trim_matches('/').to_owned();
        let root = match subvolume.map(normal).filter(|name| !name.is_empty()) {
            None => open.borrow().volume.root(),
            Some(wanted) => {
                let mut open = open.borrow_mut();
                let roots = open.volume.other_roots()?;
                let mut found = roots.iter().find(|(option, _)| normal(option) == wanted).map(|(_, id)| *id);
                if found.is_none() {
                    // One within another: "@/.snapshots/1/snapshot".
                    found = roots.iter().find(|(option, _)| option == "subvolid=5").map(|(_, id)| *id);
                    for part in wanted.split('/') {
                        found = match found {
                            Some(directory) => open.entry(directory, part.as_bytes())?,
                            None => None,
                        };
                    }
                }
                let missing = || Error::malformed("mounting a subvolume", format!("there is no {wanted}"));
                found.ok_or_else(missing)?
            }
        };
        let path = if path == "/" { String::new() } else { path.trim_end_matches('/').to_owned() };
        self.mounts.push(Mount { path, volume, root });
        Ok(())
    }

    fn opened(&self, volume: usize) -> Result<&RefCell<Open<'a>>> {
        self.open
            .get(volume)
            .ok_or_else(|| Error::unsupported("reading the guest", "there is no such volume"))
    }

    /// What is mounted exactly there; the last mount covers those before.
    fn mounted(&self, path: &str) -> Option<&Mount> {
        self.mounts.iter().rev().find(|mount| mount.path == path)
    }

    fn find(&self, path: &str, follow: bool) -> Result<Option<Found>> {
        let parts = |text: &[u8]| -> Vec<Vec<u8>> {
            text.split(|&byte| byte == b'/').filter(|part| !part.is_empty()).map(<[u8]>::to_vec).collect()
        };
        let Some(top) = self.mounted("") else { return Ok(None) };
        let top_node = self.opened(top.volume)?.borrow_mut().volume.node(top.root)?;
        let start = || Found { volume: top.volume, node: top_node, path: String::new() };
        let mut rest: VecDeque<Vec<u8>> = parts(path.as_bytes()).into();
        let mut above: Vec<Found> = Vec::new();
        let mut here = start();
        let (mut links, mut steps) = (0, 0);
        while let Some(part) = rest.pop_front() {
            steps += 1;
            if steps > MOST_STEPS || here.node.kind != files::Kind::Directory {
                return Ok(None);
            }
            match part.as_slice() {
                b"." => continue,
                b".." => {
                    here = above.pop().unwrap_or(here);
                    continue;
                }
                _ => {}
            }
            let mut open = self.opened(here.volume)?.borrow_mut();
            let Some(id) = open.entry(here.node.id, &part)? else { return Ok(None) };
            let node = open.volume.node(id)?;
            if node.kind == files::Kind::Link && (follow || !rest.is_empty()) {
                links += 1;
                if links > MOST_LINKS || node.size > LONGEST_LINK {
                    return Ok(None);
                }
                let target = open.volume.read(node.id, 0, node.size as usize)?;
                drop(open);
                if target.first() == Some(&b'/') {
                    above.clear();
                    here = start();
                }
                for part in parts(&target).into_iter().rev() {
                    rest.push_front(part);
                }
                continue;
            }
            drop(open);
            let path = format!("{}/{}", here.path, String::from_utf8_lossy(&part));
            let next = match self.mounted(&path) {
                Some(mount) => {
                    let node = self.opened(mount.volume)?.borrow_mut().volume.node(mount.root)?;
                    Found { volume: mount.volume, node, path }
                }
                None => Found { volume: here.volume, node, path },
            };
            above.push(std::mem::replace(&mut here, next));
        }
        Ok(Some(here))
    }

    fn bytes(&self, found: &Found) -> Result<Vec<u8>> {
        let mut open = self.opened(found.volume)?.borrow_mut();
        let mut bytes = Vec::new();
        while (bytes.len() as u64) < found.node.size {
            let len = PIECE.min((found.node.size - bytes.len() as u64) as usize);
            let piece = open.volume.read(found.node.id, bytes.len() as u64, len)?;
            if piece.is_empty() {
                break;
            }
            bytes.extend_from_slice(&piece);
        }
        Ok(bytes)
    }
}

impl Open<'_> {
    fn entry(&mut self, directory: Id, wanted: &[u8]) -> Result<Option<Id>> {
        if !self.directories.contains_key(&directory) {
            let mut names: HashMap<Vec<u8>, Id> = HashMap::new();
            self.volume.entries(directory, &mut |name, id| {
                names.insert(name.to_vec(), id);
                names.len() <= MOST_NAMES
            })?;
            self.remembered += names.len();
            if self.remembered > MOST_REMEMBERED {
                self.directories.clear();
                self.remembered = names.len();
            }
            self.directories.insert(directory, names);
        }
        let Some(names) = self.directories.get(&directory) else { return Ok(None) };
        if let Some(id) = names.get(wanted) {
            return Ok(Some(*id));
        }
        // FAT: case counts for nothing.
        let mut same = names.iter().filter(|(name, _)| name.eq_ignore_ascii_case(wanted));
        Ok(same.find(|(name, _)| self.volume.same_name(wanted, name)).map(|(_, id)| *id))
    }
}

fn metadata(found: &Found) -> Metadata {
    let (kind, mode) = match found.node.kind {
        files::Kind::File => (Kind::File, 0o644),
        files::Kind::Directory => (Kind::Directory, 0o755),
        files::Kind::Link => (Kind::Link, 0o777),
        files::Kind::Other => (Kind::Other, 0o600),
    };
    let size = found.node.size;
    Metadata { kind, size, mode, uid: 0, gid: 0, mtime: 0, device: found.volume as u64 + 1 }
}

impl Files for RawGuest<'_> {
    fn metadata(&self, path: &str) -> Result<Option<Metadata>> {
        Ok(self.find(path, true)?.map(|found| metadata(&found)))
    }

    fn link_metadata(&self, path: &str) -> Result<Option<Metadata>> {
        Ok(self.find(path, false)?.map(|found| metadata(&found)))
    }

    fn read(&self, path: &str, most: u64) -> Result<Option<Vec<u8>>> {
        let found = self.find(path, true)?.filter(|found| found.node.kind == files::Kind::File);
        let Some(found) = found else { return Ok(None) };
        if found.node.size > most {
            return Err(Error::unsupported(
                format!("reading the guest's {path}"),
                format!("it has {} bytes, and no more than {most} are expected there", found.node.size),
            ));
        }
        self.bytes(&found).map(Some)
    }

    fn list(&self, path: &str) -> Result<Vec<String>> {
        let found = self.find(path, true)?.filter(|found| found.node.kind == files::Kind::Directory);
        let Some(found) = found else { return Ok(Vec::new()) };
        let mut names = Vec::new();
        let mut count = 0;
        self.opened(found.volume)?.borrow_mut().volume.entries(found.node.id, &mut |name, _| {
            count += 1;
            if name != b"." && name != b".." {
                names.extend(String::from_utf8(name.to_vec()));
            }
            count <= MOST_NAMES + 2
        })?;
        if count > MOST_NAMES + 2 {
            return Err(Error::unsupported(
                format!("listing the guest's {path}"),
                format!("it has more than {MOST_NAMES} names"),
            ));
        }
        names.sort();
        Ok(names)
    }

    fn read_link(&self, path: &str) -> Result<Option<String>> {
        match self.find(path, false)? {
            Some(found) if found.node.kind == files::Kind::Link && found.node.size <= LONGEST_LINK => {
                Ok(String::from_utf8(self.bytes(&found)?).ok())
            }
            _ => Ok(None),
        }
    }

    fn real_path(&self, path: &str) -> Result<Option<String>> {
        let found = self.find(path, true)?;
        Ok(found.map(|found| if found.path.is_empty() { "/".to_owned() } else { found.path }))
    }

    fn room(&self, path: &str) -> Result<Room> {
        let mut path = path.trim_end_matches('/');
        loop {
            if let Some(found) = self.find(path, true)? {
                let unknown = Room { bytes: u64::MAX, inodes: u64::MAX };
                return Ok(self.room.get(found.volume).copied().unwrap_or(unknown));
            }
            path = path.rsplit_once('/').map_or("", |(parent, _)| parent);
        }
    }
}
