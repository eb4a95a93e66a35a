// SPDX-License-Identifier: Apache-2.0
//! Rescue environments that were built before, each in a directory named by the hash of what it was built from.

use std::path::{Path, PathBuf};

use unmoor_images::{Error, Result};

use super::{Build, Facts, INITRAMFS, KERNEL};

/// Changes whenever the same inputs give another result.
const FORMAT: &str = "unmoor rescue environment 1";

/// The name of what `build` makes.
pub(super) fn key(build: &Build, init: &[u8]) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    hasher.update(FORMAT.as_bytes());
    hasher.update(blake3::hash(init).as_bytes());
    hasher.update(build.profile.name().as_bytes());
    for kernel in &build.kernels {
        hasher.update(b"\0kernel");
        kernel.identify(&mut hasher)?;
    }
    for (kind, paths) in [("firmware", build.firmware.as_slice()), ("payload", &build.payload)] {
        hasher.update(b"\0").update(kind.as_bytes());
        for path in paths {
            identify(path, &mut hasher, 0)?;
        }
    }
    Ok(hasher.finalize().to_hex().get(..32).unwrap_or_default().to_owned())
}

/// A file by its content, a directory by the names, sizes and times of what is in it.
fn identify(path: &Path, hasher: &mut blake3::Hasher, depth: usize) -> Result<()> {
    let failed = |error| Error::io("reading", error).path(path);
    let found = std::fs::metadata(path).map_err(failed)?;
    if found.is_file() && depth == 0 {
        std::io::copy(&mut std::fs::File::open(path).map_err(failed)?, hasher).map_err(failed)?;
    } else if found.is_dir() && depth < 16 {
        let mut entries = std::fs::read_dir(path)
            .and_then(|entries| {
                entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<PathBuf>>>()
            })
            .map_err(failed)?;
        entries.sort();
        for entry in entries {
            // A dangling link is no input.
            if entry.exists() {
                identify(&entry, hasher, depth + 1)?;
            }
        }
    } else {
        let modified = found.modified().ok().and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
        hasher.update(format!("{}\0{}\0{modified:?}\n", path.display(), found.len()).as_bytes());
    }
    Ok(())
}

/// A complete environment in `cache`.
pub(super) fn find(cache: &Path, key: &str) -> Option<(PathBuf, Facts)> {
    let folder = cache.join(key);
    let facts = std::fs::read(folder.join("rescue.json")).ok()?;
    let facts = serde_json::from_slice(&facts).ok()?;
    [KERNEL, INITRAMFS].iter().all(|name| folder.join(name).is_file()).then_some((folder, facts))
}

/// Writes an environment into `folder`, under its name only when it is complete.
pub(super) fn write(folder: &Path, kernel: &[u8], initramfs: &[u8], facts: &Facts) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(|error| Error::io("creating", error).path(folder))?;
    let facts = serde_json::to_vec_pretty(facts)
        .map_err(|error| Error::unsupported("writing the rescue environment's facts", error.to_string()))?;
    for (name, content) in [(KERNEL, kernel), (INITRAMFS, initramfs), ("rescue.json", &facts)] {
        replace(&folder.join(name), |partial| std::fs::write(partial, content))?;
    }
    Ok(())
}

/// Copies an environment.
pub(super) fn copy(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to).map_err(|error| Error::io("creating", error).path(to))?;
    for name in [KERNEL, INITRAMFS, "rescue.json"] {
        replace(&to.join(name), |partial| std::fs::copy(from.join(name), partial).map(drop))?;
    }
    Ok(())
}

/// A file is there whole or not at all.
fn replace(path: &Path, write: impl FnOnce(&Path) -> std::io::Result<()>) -> Result<()> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(format!(".partial-{}", std::process::id()));
    let partial = PathBuf::from(partial);
    let written = write(&partial).and_then(|()| std::fs::rename(&partial, path));
    written.map_err(|error| {
        let _ = std::fs::remove_file(&partial);
        Error::io("writing", error).path(path)
    })
}
