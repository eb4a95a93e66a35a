// SPDX-License-Identifier: Apache-2.0
//! Kernels to build from: the running one, a directory's, a Debian package's.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use unmoor_images::{Error, Result};

use super::{deb, version};

/// Directories below one kernel's that are looked through.
const MOST_DIRECTORIES: usize = 20_000;

/// Where a kernel comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KernelSource {
    /// The running one, from /boot and /lib/modules.
    Running,
    /// A root directory with boot/vmlinuz-RELEASE and lib/modules/RELEASE, or one kernel's modules with vmlinuz among them.
    Directory(PathBuf),
    /// A Debian package `linux-image-*.deb`.
    Package(PathBuf),
}

impl KernelSource {
    /// From the command line: "running", a file NAME.deb, or a directory.
    pub fn parse(text: &str) -> Self {
        let path = Path::new(text);
        if text == "running" {
            Self::Running
        } else if path.extension().is_some_and(|ending| ending == "deb") && !path.is_dir() {
            Self::Package(path.to_owned())
        } else {
            Self::Directory(path.to_owned())
        }
    }

    /// What identifies its content: hashed for the cache's key.
    pub(super) fn identify(&self, hasher: &mut blake3::Hasher) -> Result<()> {
        match self {
            Self::Package(path) => {
                let failed = |error| Error::io("reading", error).path(path);
                let mut file = std::fs::File::open(path).map_err(failed)?;
                std::io::copy(&mut file, hasher).map_err(failed)?;
            }
            Self::Running | Self::Directory(_) => {
                let place = self.place()?;
                let modules = walk(&place.modules)?;
                for path in modules.values().chain([&place.image]) {
                    let found =
                        std::fs::metadata(path).map_err(|error| Error::io("reading", error).path(path))?;
                    let modified =
                        found.modified().ok().and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
                    let identity = format!("{}\0{}\0{:?}\n", path.display(), found.len(), modified);
                    hasher.update(identity.as_bytes());
                }
            }
        }
        Ok(())
    }

    /// Reads it; of a package only the files that `wanted` says yes to, by their path in the kernel's directory.
    pub(super) fn read(&self, wanted: &dyn Fn(&str) -> bool) -> Result<Kernel> {
        match self {
            Self::Package(path) => from_package(path, wanted),
            Self::Running | Self::Directory(_) => {
                let place = self.place()?;
                let files = walk(&place.modules)?
                    .into_iter()
                    .filter(|(below, _)| wanted(below))
                    .map(|(below, path)| (below, Content::File(path)))
                    .collect();
                let image = std::fs::read(&place.image)
                    .map_err(|error| Error::io("reading the kernel", error).path(&place.image))?;
                Ok(Kernel { release: place.release, image, files })
            }
        }
    }

    /// Where a kernel that is no package lies.
    fn place(&self) -> Result<Place> {
        match self {
            Self::Directory(path) => in_directory(path),
            _ => running(),
        }
    }
}

/// A kernel's files on this machine.
struct Place {
    release: String,
    image: PathBuf,
    modules: PathBuf,
}

/// A kernel and the files of its directory, by their path there.
pub(super) struct Kernel {
    pub(super) release: String,
    pub(super) image: Vec<u8>,
    pub(super) files: BTreeMap<String, Content>,
}

/// A file's bytes, or where they are.
pub(super) enum Content {
    Bytes(Vec<u8>),
    File(PathBuf),
}

impl Content {
    pub(super) fn read(&self) -> Result<Vec<u8>> {
        match self {
            Self::Bytes(bytes) => Ok(bytes.clone()),
            Self::File(path) => std::fs::read(path).map_err(|error| Error::io("reading", error).path(path)),
        }
    }
}

fn running() -> Result<Place> {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease")
        .map_err(|error| Error::io("asking for the running kernel's release", error))?;
    let release = release.trim().to_owned();
    at_root(Path::new("/"), &release).ok_or_else(|| {
        Error::refused(
            "looking for the running kernel",
            format!(
                "/boot/vmlinuz-{release} or /lib/modules/{release} is not there: name another kernel, as in \
                 --kernel linux-image-VERSION-amd64_VERSION_amd64.deb from `apt-get download`"
            ),
        )
    })
}

fn at_root(root: &Path, release: &str) -> Option<Place> {
    let modules = ["lib/modules", "usr/lib/modules"].map(|path| root.join(path).join(release));
    let modules = modules.into_iter().find(|path| path.is_dir())?;
    let images = [root.join(format!("boot/vmlinuz-{release}")), modules.join("vmlinuz")];
    let image = images.into_iter().find(|path| path.is_file())?;
    Some(Place { release: release.to_owned(), image, modules })
}

fn in_directory(directory: &Path) -> Result<Place> {
    let image = directory.join("vmlinuz");
    let own_name =
        directory.canonicalize().ok().and_then(|path| Some(path.file_name()?.to_str()?.to_owned()));
    if let Some(release) = own_name
        && image.is_file()
        && directory.join("kernel").is_dir()
    {
        return Ok(Place { release, image, modules: directory.to_owned() });
    }
    let mut releases = Vec::new();
    for modules in ["lib/modules", "usr/lib/modules"] {
        let Ok(entries) = std::fs::read_dir(directory.join(modules)) else { continue };
        releases.extend(entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()));
    }
    releases.sort_by(|a, b| version::compare(b, a));
    releases.iter().find_map(|release| at_root(directory, release)).ok_or_else(|| {
        Error::refused(
            "looking for a kernel",
            "there is neither boot/vmlinuz-RELEASE with lib/modules/RELEASE in it, nor vmlinuz with the modules in kernel/",
        )
        .path(directory)
    })
}

/// Regular files below a kernel's directory, by their path there. Links, as to the build tree, are left alone.
fn walk(modules: &Path) -> Result<BTreeMap<String, PathBuf>> {
    let mut files = BTreeMap::new();
    let mut todo = vec![(String::new(), modules.to_owned())];
    let mut left = MOST_DIRECTORIES;
    while let Some((below, path)) = todo.pop() {
        left = left.checked_sub(1).ok_or_else(|| {
            Error::unsupported("listing kernel modules", "there are too many directories").path(modules)
        })?;
        let failed = |error| Error::io("listing", error).path(&path);
        for entry in std::fs::read_dir(&path).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            let below = if below.is_empty() { name } else { format!("{below}/{name}") };
            let kind = entry.file_type().map_err(failed)?;
            if kind.is_dir() {
                todo.push((below, entry.path()));
            } else if kind.is_file() {
                files.insert(below, entry.path());
            }
        }
    }
    Ok(files)
}

fn from_package(path: &Path, wanted: &dyn Fn(&str) -> bool) -> Result<Kernel> {
    let split = |file: &str| -> Option<(String, String)> {
        let below = file.strip_prefix("usr/").unwrap_or(file).strip_prefix("lib/modules/")?;
        let (release, below) = below.split_once('/')?;
        Some((release.to_owned(), below.to_owned()))
    };
    let entries = deb::read(path, &|file| {
        file.starts_with("boot/vmlinuz-") || split(file).is_some_and(|(_, below)| wanted(&below))
    })?;
    let (mut release, mut image) = (None, None);
    let mut files = BTreeMap::new();
    for entry in entries {
        if let Some(name) = entry.path.strip_prefix("boot/vmlinuz-") {
            release = Some(name.to_owned());
            image = Some(entry.content);
        } else if let Some((_, below)) = split(&entry.path) {
            files.insert(below, Content::Bytes(entry.content));
        }
    }
    match (release, image) {
        (Some(release), Some(image)) if !files.is_empty() => Ok(Kernel { release, image, files }),
        _ => Err(Error::refused(
            "looking for a kernel",
            "the package has no boot/vmlinuz-RELEASE with modules",
        )
        .path(path)),
    }
}
