// SPDX-License-Identifier: Apache-2.0
//! The mounted filesystems that live on some disks: of all mount namespaces, each once, those on top of others first.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use unmoor_images::{Error, Result, ResultExt};

use crate::in_use::mounts::{self, Mount};
use crate::in_use::related::{self, Node};

/// One that is mounted read-write.
#[derive(Debug)]
pub(super) struct Filesystem {
    /// Where it is mounted, as its own mount namespace has it.
    pub(super) at: PathBuf,
    /// `ext4`.
    pub(super) kind: String,
    /// The kernel's number for it.
    pub(super) number: u64,
    /// Something of it, opened.
    pub(super) file: File,
    /// How many devices lie between it and the disk.
    depth: usize,
}

/// Deepest stack of devices that is followed.
const DEEPEST: usize = 32;

/// All filesystems that are mounted read-write on the devices at `disks` or on what is stacked on them; the topmost first.
pub(super) fn find(disks: &[PathBuf]) -> Result<Vec<Filesystem>> {
    let mut depths: HashMap<u64, usize> = HashMap::new();
    for path in disks {
        let metadata = fs::metadata(path).map_err(|error| Error::io("opening", error).path(path))?;
        add(&related::nodes(path, &metadata)?, 0, &mut depths);
    }
    let mounts = all_mounts()?;
    let mut found: Vec<Filesystem> = Vec::new();
    let mut known = HashSet::new();
    // What is mounted on files of what was found is found the next time.
    for _ in 0..DEEPEST {
        let before = found.len();
        let mut failed: HashMap<u64, PathBuf> = HashMap::new();
        for (process, mount) in &mounts {
            let Some(depth) = mount.devices.iter().filter_map(|device| depths.get(device)).max() else {
                continue;
            };
            if !mount.writable || known.contains(&mount.filesystem_number) {
                continue;
            }
            match open(process, mount) {
                Some(file) => {
                    known.insert(mount.filesystem_number);
                    failed.remove(&mount.filesystem_number);
                    found.push(Filesystem {
                        at: mount.at.clone(),
                        kind: mount.filesystem.clone(),
                        number: mount.filesystem_number,
                        file,
                        depth: *depth,
                    });
                }
                None => {
                    failed.insert(mount.filesystem_number, mount.at.clone());
                }
            }
        }
        if let Some(at) = failed.into_values().next() {
            let because = "another mount hides it, in every mount namespace";
            return Err(Error::refused("reaching the filesystem at", because).path(&at));
        }
        if found.len() == before {
            break;
        }
        for filesystem in found.iter().skip(before) {
            for node in related::loops_over_files(filesystem.number) {
                let Ok(metadata) = fs::metadata(&node.path) else { continue };
                add(&related::nodes(&node.path, &metadata)?, filesystem.depth + 1, &mut depths);
            }
        }
    }
    found.sort_by_key(|filesystem| std::cmp::Reverse(filesystem.depth));
    Ok(found)
}

fn add(nodes: &[Node], base: usize, depths: &mut HashMap<u64, usize>) {
    for node in nodes {
        let (mut depth, mut at) = (base, node.parent);
        while let Some(parent) = at.filter(|_| depth < base + DEEPEST) {
            depth += 1;
            at = nodes.iter().find(|node| node.number == parent).and_then(|node| node.parent);
        }
        let known = depths.entry(node.number).or_insert(depth);
        *known = (*known).max(depth);
    }
}

/// The mounts of every mount namespace, each with a process that is in it; our own first.
fn all_mounts() -> Result<Vec<(String, Mount)>> {
    let own = mounts::mounts().doing(|| "reading /proc/self/mountinfo")?;
    let mut found: Vec<(String, Mount)> = own.into_iter().map(|mount| ("self".to_owned(), mount)).collect();
    let namespace = |process: &str| fs::read_link(format!("/proc/{process}/ns/mnt")).ok();
    let mut seen: HashSet<PathBuf> = namespace("self").into_iter().collect();
    for entry in fs::read_dir("/proc").doing(|| "reading /proc")?.flatten() {
        let Some(process) =
            entry.file_name().to_str().filter(|name| name.parse::<u32>().is_ok()).map(str::to_owned)
        else {
            continue;
        };
        // A process may end at any time.
        if let Some(namespace) = namespace(&process)
            && seen.insert(namespace)
            && let Ok(mounts) = mounts::mounts_of(&process)
        {
            found.extend(mounts.into_iter().map(|mount| (process.clone(), mount)));
        }
    }
    Ok(found)
}

/// Opens the root of a mount, unless something else is mounted over it.
fn open(process: &str, mount: &Mount) -> Option<File> {
    let path = match process {
        "self" => mount.at.clone(),
        _ => Path::new("/proc").join(process).join("root").join(mount.at.strip_prefix("/").ok()?),
    };
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).ok()?;
    let device = file.metadata().ok()?.dev();
    // Each subvolume of btrfs has a number of its own, all anonymous.
    let own = device == mount.filesystem_number || (mount.filesystem == "btrfs" && libc::major(device) == 0);
    own.then_some(file)
}
