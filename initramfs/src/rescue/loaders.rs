// SPDX-License-Identifier: Apache-2.0
//! Boot loaders for machines that start from the network, out of Debian packages: ipxe, shim-signed, shim-helpers-amd64-signed,
//! grub-efi-amd64-signed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use unmoor_images::{Error, Result};

use super::deb;

/// Where packages have them, and the name under which firmware, or the loader before it, asks for it. shim asks for grubx64.efi,
/// whatever GRUB's image was built for.
const LOADERS: [(&str, &str); 7] = [
    ("usr/lib/ipxe/undionly.kpxe", "undionly.kpxe"),
    ("usr/lib/ipxe/snponly.efi", "snponly.efi"),
    ("usr/lib/ipxe/ipxe.efi", "ipxe.efi"),
    // Where ipxe.efi of Debian 12 lies; the other one is a link to it.
    ("boot/ipxe.efi", "ipxe.efi"),
    ("usr/lib/shim/shimx64.efi.signed", "shimx64.efi"),
    ("usr/lib/shim/mmx64.efi.signed", "mmx64.efi"),
    ("usr/lib/grub/x86_64-efi-signed/grubnetx64.efi.signed", "grubx64.efi"),
];
/// No loader is larger, in bytes.
const MOST: u64 = 16 << 20;

/// Boot loaders, by the name under which they are asked for.
pub type Loaders = BTreeMap<&'static str, Vec<u8>>;

/// From packages (`NAME.deb`), files with their packages' or their own names, and directories: a root directory, one of packages, or
/// one of such files. What a later source has too counts.
///
/// # Errors
///
/// `Io`; as the packages'; `Refused` where one of the sources has none.
pub fn collect(sources: &[PathBuf]) -> Result<Loaders> {
    let mut loaders = Loaders::new();
    for source in sources {
        let mut found = if source.is_dir() { of_directory(source)? } else { of_file(source)? };
        if found.is_empty() {
            return Err(Error::refused(
                "collecting boot loaders",
                "it has none of iPXE's, shim's or GRUB's for the network",
            )
            .path(source));
        }
        loaders.append(&mut found);
    }
    Ok(loaders)
}

fn of_file(path: &Path) -> Result<Loaders> {
    if path.extension().is_some_and(|ending| ending == "deb") {
        return of_package(path);
    }
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let known = LOADERS.iter().find(|(place, asked)| *asked == name || place.ends_with(&format!("/{name}")));
    let Some((_, asked)) = known else { return Ok(Loaders::new()) };
    Ok([(*asked, read(path)?)].into())
}

fn of_package(path: &Path) -> Result<Loaders> {
    let asked = |path: &str| LOADERS.iter().find(|(place, _)| *place == path).map(|(_, asked)| *asked);
    let entries = deb::read(path, &|path| asked(path).is_some())?;
    Ok(entries.into_iter().filter_map(|entry| Some((asked(&entry.path)?, entry.content))).collect())
}

fn of_directory(directory: &Path) -> Result<Loaders> {
    let mut loaders = Loaders::new();
    let failed = |error| Error::io("listing", error).path(directory);
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.is_file() && !path.to_string_lossy().contains("linux-image-") {
            files.push(path);
        }
    }
    files.sort();
    for path in files {
        loaders.append(&mut of_file(&path)?);
    }
    for (place, asked) in LOADERS {
        let path = directory.join(place);
        if path.is_file() {
            loaders.insert(asked, read(&path)?);
        }
    }
    Ok(loaders)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let failed = |error| Error::io("reading", error).path(path);
    if std::fs::metadata(path).map_err(failed)?.len() > MOST {
        return Err(
            Error::unsupported("reading", format!("a boot loader has at most {MOST} bytes")).path(path)
        );
    }
    std::fs::read(path).map_err(failed)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn loaders_are_found_by_where_packages_have_them_and_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root");
        let own = folder.path().join("own");
        for (path, content) in [
            (root.join("usr/lib/shim/shimx64.efi.signed"), "shim"),
            (root.join("usr/lib/shim/shimx64.efi"), "unsigned"),
            (root.join("usr/lib/grub/x86_64-efi-signed/grubnetx64.efi.signed"), "grub"),
            (root.join("usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed"), "for disks"),
            (root.join("boot/ipxe.efi"), "ipxe"),
            (own.join("ipxe.efi"), "newer"),
            (own.join("README"), "text"),
        ] {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
        let found = collect(&[root.clone(), own.clone()]).unwrap();
        let found: Vec<(&str, &str)> =
            found.iter().map(|(name, content)| (*name, std::str::from_utf8(content).unwrap())).collect();
        assert_eq!(found, [("grubx64.efi", "grub"), ("ipxe.efi", "newer"), ("shimx64.efi", "shim")]);
        let one = collect(&[root.join("usr/lib/shim/shimx64.efi.signed")]).unwrap();
        assert_eq!(one.into_keys().collect::<Vec<_>>(), ["shimx64.efi"]);
        let error = collect(&[own.join("README")]).unwrap_err();
        assert_eq!(error.kind(), unmoor_images::ErrorKind::Refused);
    }
}
