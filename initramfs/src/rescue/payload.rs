// SPDX-License-Identifier: Apache-2.0
//! The payload: boot loader files of Debian packages, for guests that change their firmware.
//!
//! It is a second archive behind the first in the same initramfs: one file to serve, and none to forget. The kernel unpacks it to
//! [`PLACE`]; 3 MiB for GRUB, shim and systemd-boot together.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use unmoor_images::{Error, Result};

use super::deb;

/// Where the payload is in the rescue environment.
pub const PLACE: &str = "/usr/share/unmoor/payload";

/// Below /usr/lib in packages: what is taken.
const WANTED: [(&str, &[&str]); 4] = [
    ("grub/i386-pc/", &[".img", ".mod", ".lst"]),
    ("grub/x86_64-efi/", &[".mod", ".lst", "grub.efi"]),
    ("grub/x86_64-efi-signed/", &["/grubx64.efi.signed", "/gcdx64.efi.signed"]),
    ("shim/", &[".efi.signed", ".efi"]),
];
/// Those that are wanted by their whole name.
const FILES: [&str; 5] = [
    "systemd/boot/efi/systemd-bootx64.efi",
    "systemd/boot/efi/linuxx64.efi.stub",
    "ISOLINUX/isolinux.bin",
    "ISOLINUX/isohdpfx.bin",
    "syslinux/modules/bios/ldlinux.c32",
];
const MOST: u64 = 64 << 20;

/// Boot loader files by path: "grub/i386-pc/boot.img", "shim/shimx64.efi.signed".
pub type Payload = BTreeMap<String, Vec<u8>>;

fn is_wanted(path: &str) -> bool {
    let in_list = |(start, ends): &(&str, &[&str])| {
        path.starts_with(start)
            && path.matches('/').count() == start.matches('/').count()
            && ends.iter().any(|end| path.ends_with(end))
    };
    WANTED.iter().any(in_list) || FILES.contains(&path)
}

/// From Debian packages (`NAME.deb`) and directories: a directory of packages, a root directory with usr/lib, or one that is
/// laid out as the payload is.
///
/// # Errors
///
/// As the packages'; `Refused` where one of the sources has nothing that is wanted.
pub fn collect(sources: &[PathBuf]) -> Result<Payload> {
    let mut payload = Payload::new();
    for source in sources {
        let before = payload.len();
        let mut found = if source.is_dir() { from_directory(source)? } else { from_package(source)? };
        payload.append(&mut found);
        if payload.len() == before {
            return Err(
                Error::refused("collecting the payload", "it has no file of a boot loader").path(source)
            );
        }
    }
    Ok(payload)
}

fn from_package(path: &Path) -> Result<Payload> {
    let below = |path: &str| path.strip_prefix("usr/lib/").map(str::to_owned);
    let entries = deb::read(path, &|path| below(path).is_some_and(|path| is_wanted(&path)))?;
    Ok(entries.into_iter().filter_map(|entry| Some((below(&entry.path)?, entry.content))).collect())
}

fn from_directory(directory: &Path) -> Result<Payload> {
    let mut payload = Payload::new();
    let failed = |error| Error::io("listing", error).path(directory);
    let mut packages = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if name.ends_with(".deb") && !name.starts_with("linux-image-") {
            packages.push(path);
        }
    }
    packages.sort();
    for package in packages {
        payload.append(&mut from_package(&package)?);
    }
    for root in [directory.join("usr/lib"), directory.to_owned()] {
        for (start, _) in WANTED {
            let folder = root.join(start);
            let Ok(entries) = std::fs::read_dir(&folder) else { continue };
            for entry in entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()) {
                add(&mut payload, &root, &format!("{start}{entry}"))?;
            }
        }
        for file in FILES {
            add(&mut payload, &root, file)?;
        }
    }
    Ok(payload)
}

fn add(payload: &mut Payload, root: &Path, path: &str) -> Result<()> {
    let file = root.join(path);
    if !is_wanted(path) || !file.is_file() {
        return Ok(());
    }
    let failed = |error| Error::io("reading", error).path(&file);
    if std::fs::metadata(&file).map_err(failed)?.len() > MOST {
        return Err(Error::unsupported("reading", format!("a boot loader's file has at most {MOST} bytes"))
            .path(&file));
    }
    payload.insert(path.to_owned(), std::fs::read(&file).map_err(failed)?);
    Ok(())
}

/// The payload of the rescue environment that this runs in; empty where it was built without one.
///
/// # Errors
///
/// `Io` where a file cannot be read.
pub fn installed() -> Result<Payload> {
    let place = Path::new(PLACE);
    if place.is_dir() { from_directory(place) } else { Ok(Payload::new()) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_directory_gives_what_a_boot_loader_is_made_of_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let files = [
            ("usr/lib/grub/i386-pc/boot.img", true),
            ("usr/lib/grub/i386-pc/normal.mod", true),
            ("usr/lib/grub/i386-pc/kernel.exec", false),
            ("usr/lib/grub/i386-pc/deep/boot.img", false),
            ("usr/lib/shim/shimx64.efi.signed", true),
            ("usr/lib/systemd/boot/efi/systemd-bootx64.efi", true),
            ("usr/lib/systemd/systemd", false),
        ];
        for (path, _) in files {
            let path = folder.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, path_bytes()).unwrap();
        }
        let found: Vec<String> = collect(&[folder.path().to_owned()]).unwrap().into_keys().collect();
        let mut expected: Vec<&str> = files
            .iter()
            .filter(|(_, wanted)| *wanted)
            .map(|(path, _)| path.strip_prefix("usr/lib/").unwrap())
            .collect();
        expected.sort_unstable();
        assert_eq!(found, expected);
    }

    fn path_bytes() -> &'static [u8] {
        b"content"
    }

    #[test]
    fn a_source_without_boot_loaders_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let error = collect(&[folder.path().to_owned()]).unwrap_err();
        assert_eq!(error.kind(), unmoor_images::ErrorKind::Refused);
    }
}
