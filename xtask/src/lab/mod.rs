// SPDX-License-Identifier: Apache-2.0
//! The lab: real Debian guests on disk images, and what is known of them by other means than unmoor's.
//!
//! - [`debian`] makes trees of packages with mmdebstrap.
//! - [`appliance`] is a small machine with a distribution's kernel and file system tools. It runs a job, a shell script,
//!   with disks attached: so nothing here needs device-mapper, vfat or a partition-table parser of the host.
//! - [`rescue`] is the environment that unmoor itself boots to fit guests.
//! - [`guests`] lists the guests; each is a recipe in `tests/lab/guest-NAME.sh`. To add one, add a row there and the recipe.
//!   [`guest`] builds them; [`hardware`] and [`qemu`] are the machines they run on.
//! - [`boot`] boots a disk on chosen hardware, [`proof`] is what the guest then says of itself; [`listing`] has the appliance
//!   list every file of every file system and run their checkers.
//! - [`initramfs`] boots small initramfs images of every compression to which unmoor appended files.
//! - [`drivers`] boots a real guest's initramfs on hardware that it has no drivers for, before and after they are added.
//! - [`nbd_boot`] boots a guest from its image over NBD, before anything is copied.
//! - [`network_boot`] starts machines from the network: BIOS, UEFI by PXE and HTTP, Secure Boot, beside dnsmasq.
//! - [`restore`] captures, verifies, restores, compares and boots; [`fit`] converts for other hardware and boots there;
//!   [`changed`] has what must be refused. [`cells`] is the matrix of all these, and chooses from it.
//!
//! All that is built lies outside the tree, in `$UNMOOR_LAB_DIR` or `~/.cache/unmoor-lab`, named by a hash of its recipe.

pub(crate) mod activation;
pub(crate) mod appliance;
pub(crate) mod boot;
pub(crate) mod cells;
pub(crate) mod changed;
pub(crate) mod commands;
pub(crate) mod debian;
pub(crate) mod drivers;
pub(crate) mod fit;
pub(crate) mod guest;
pub(crate) mod guests;
pub(crate) mod hardware;
pub(crate) mod initramfs;
pub(crate) mod listing;
pub(crate) mod live;
pub(crate) mod loop_device;
pub(crate) mod nbd_boot;
pub(crate) mod network;
pub(crate) mod network_boot;
pub(crate) mod old_content;
pub(crate) mod proof;
pub(crate) mod qemu;
pub(crate) mod rescue;
pub(crate) mod rescue_boot;
pub(crate) mod restore;

use crate::run::{Failure, Result, While};
use std::fs;
use std::path::{Path, PathBuf};

/// Where the lab keeps what it builds.
pub(crate) fn directory() -> Result<PathBuf> {
    let named = std::env::var_os("UNMOOR_LAB_DIR").map(PathBuf::from);
    let cache = || std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    let path = named
        .or_else(|| cache().or_else(home).map(|cache| cache.join("unmoor-lab")))
        .ok_or_else(|| Failure::new("neither UNMOOR_LAB_DIR nor HOME says where the lab is to be"))?;
    fs::create_dir_all(&path).while_doing(format_args!("creating {}", path.display()))?;
    Ok(path)
}

/// The directory NAME-KEY of the lab, KEY being a hash of `recipe`. Where it is not there, `build` fills it under another
/// name first, so that a directory with the right name is complete. Two builders of the same directory wait for each other.
pub(crate) fn cached(name: &str, recipe: &[&str], build: impl FnOnce(&Path) -> Result) -> Result<PathBuf> {
    let lab = directory()?;
    let mut hasher = blake3::Hasher::new();
    for part in recipe {
        hasher.update(&(part.len() as u64).to_le_bytes()).update(part.as_bytes());
    }
    let key = hasher.finalize().to_hex();
    let key = key.get(..12).unwrap_or_default();
    let path = lab.join(format!("{name}-{key}"));
    if path.exists() {
        return Ok(path);
    }
    let lock_path = lab.join(format!("{name}.lock"));
    let lock = fs::File::create(&lock_path).while_doing(format_args!("creating {}", lock_path.display()))?;
    lock.lock().while_doing(format_args!("locking {}", lock_path.display()))?;
    if path.exists() {
        return Ok(path);
    }
    let partial = lab.join(format!("{name}-{key}.partial"));
    if partial.exists() {
        fs::remove_dir_all(&partial).while_doing(format_args!("removing {}", partial.display()))?;
    }
    fs::create_dir_all(&partial).while_doing(format_args!("creating {}", partial.display()))?;
    println!("building {} in {}", name, lab.display());
    let start = std::time::Instant::now();
    build(&partial).while_doing(format_args!("building {name}"))?;
    fs::rename(&partial, &path).while_doing(format_args!("renaming {}", partial.display()))?;
    println!("built {name} in {:.0} s", start.elapsed().as_secs_f64());
    Ok(path)
}

/// A directory for one run's files, removed when dropped unless `UNMOOR_LAB_KEEP` is set.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    /// A new, empty directory, on the disk that holds the lab: /tmp may be memory.
    pub(crate) fn new(name: &str) -> Result<Self> {
        use std::sync::atomic::{AtomicU64, Ordering};
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = directory()?.join(format!("run-{}-{number}-{name}", std::process::id()));
        fs::create_dir_all(&path).while_doing(format_args!("creating {}", path.display()))?;
        Ok(Self(path))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if std::env::var_os("UNMOOR_LAB_KEEP").is_none() {
            // What is left over is found by its name and removed by `lab clean`.
            let _ = fs::remove_dir_all(&self.0);
        }
    }
}

/// Reads a whole text file; what is not UTF-8 in it is replaced.
pub(crate) fn read_text(path: &Path) -> Result<String> {
    let bytes = fs::read(path).while_doing(format_args!("reading {}", path.display()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
