// SPDX-License-Identifier: Apache-2.0
//! The folder with boot files.

use std::io::Write;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use unmoor_images::{Error, Result, ResultExt};

use crate::tftp::{Files as _, Folder, Opened};

/// Files of the folder, by the names under which machines ask for them.
pub mod names {
    /// iPXE for BIOS, over the ROM's network driver.
    pub const UNDIONLY: &str = "undionly.kpxe";
    /// iPXE for UEFI with drivers of its own.
    pub const IPXE: &str = "ipxe.efi";
    /// iPXE for UEFI, over the firmware's network driver.
    pub const SNPONLY: &str = "snponly.efi";
    /// The first of Secure Boot's loaders.
    pub const SHIM: &str = "shimx64.efi";
    /// What shim asks for: GRUB's image for networks.
    pub const GRUB: &str = "grubx64.efi";
    /// What shim asks for where a key is to be enrolled.
    pub const MOK_MANAGER: &str = "mmx64.efi";
    /// The rescue environment's kernel.
    pub const KERNEL: &str = "vmlinuz";
    /// The rescue environment's initramfs.
    pub const INITRAMFS: &str = "initramfs";
    /// All of them: nothing else of the folder is read.
    pub const ALL: [&str; 8] = [UNDIONLY, IPXE, SNPONLY, SHIM, GRUB, MOK_MANAGER, KERNEL, INITRAMFS];
}

/// What UEFI machines load first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UefiLoader {
    /// shim and GRUB: with Secure Boot too.
    Shim,
    /// iPXE over the firmware's driver; Secure Boot has to be off.
    Snponly,
    /// iPXE with its own drivers; Secure Boot has to be off.
    Ipxe,
}

impl UefiLoader {
    /// The file that the firmware asks for.
    pub fn file(self) -> &'static str {
        match self {
            Self::Shim => names::SHIM,
            Self::Snponly => names::SNPONLY,
            Self::Ipxe => names::IPXE,
        }
    }

    fn needs(self) -> &'static [&'static str] {
        match self {
            Self::Shim => &[names::SHIM, names::GRUB],
            Self::Snponly => &[names::SNPONLY],
            Self::Ipxe => &[names::IPXE],
        }
    }
}

/// A folder with boot files. All that is in it under one of [`names::ALL`] may be read by anybody.
pub struct Shelf {
    folder: Folder,
    path: PathBuf,
}

impl Shelf {
    /// Opens the folder.
    ///
    /// # Errors
    ///
    /// `Io` where it is not there.
    pub fn open(path: &Path) -> Result<Self> {
        Ok(Self { folder: Folder::open(path)?, path: path.to_owned() })
    }

    /// Puts a file into the folder: whole, or as it was.
    ///
    /// # Errors
    ///
    /// `Io` where it cannot be written.
    pub fn put(&self, name: &str, content: &[u8]) -> Result<()> {
        let path = self.path.join(name);
        // What is the same stays as it is, with the time that clients know it by.
        if std::fs::read(&path).is_ok_and(|old| old == content) {
            return Ok(());
        }
        let doing = || format!("writing {}", path.display());
        let next = self.path.join(format!(".{name}.next"));
        let mut file = std::fs::File::create(&next).doing(doing)?;
        file.write_all(content).and_then(|()| file.sync_all()).doing(doing)?;
        std::fs::rename(&next, &path).doing(doing)
    }

    /// Takes a file out of the folder.
    ///
    /// # Errors
    ///
    /// `Io`.
    pub fn remove(&self, name: &str) -> Result<()> {
        let path = self.path.join(name);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::io("removing", error).path(path))
            }
            _ => Ok(()),
        }
    }

    /// Whether it has a file.
    pub fn has(&self, name: &str) -> bool {
        names::ALL.contains(&name) && self.path.join(name).is_file()
    }

    /// The file of that very name, if it is one that machines may read.
    pub(super) fn read(&self, name: &str) -> Result<Option<Opened>> {
        if !names::ALL.contains(&name) {
            return Ok(None);
        }
        self.folder.open(name, IpAddr::from([0, 0, 0, 0]))
    }

    /// What UEFI machines get: `wanted`, else the first that there is.
    ///
    /// # Errors
    ///
    /// `Refused` where the files of `wanted` are not there.
    pub fn uefi_loader(&self, wanted: Option<UefiLoader>) -> Result<Option<UefiLoader>> {
        let missing = |loader: UefiLoader| loader.needs().iter().find(|name| !self.has(name));
        match wanted.map(|wanted| (wanted, missing(wanted))) {
            Some((wanted, None)) => Ok(Some(wanted)),
            Some((wanted, Some(file))) => Err(Error::refused(
                "choosing the boot loader of UEFI machines",
                format!(
                    "{wanted:?} needs {file}, which none of the packages and directories with boot files has"
                ),
            )),
            None => Ok([UefiLoader::Shim, UefiLoader::Snponly, UefiLoader::Ipxe]
                .into_iter()
                .find(|loader| missing(*loader).is_none())),
        }
    }

    /// What UEFI machines get by HTTP Boot where others get `chosen`: iPXE in place of shim and GRUB. Debian 12's signed GRUB has no HTTP,
    /// and Debian 13's does not find its menu by it.
    pub fn http_loader(&self, chosen: Option<UefiLoader>) -> Option<UefiLoader> {
        if chosen == Some(UefiLoader::Shim) { self.ipxe() } else { chosen }
    }

    /// What UEFI machines get beside another DHCP server: iPXE in place of a GRUB before 2.12, which asks the server that gave the address
    /// for its menu.
    ///
    /// # Errors
    ///
    /// `Io` where GRUB cannot be read.
    pub fn proxy_loader(&self, chosen: Option<UefiLoader>) -> Result<Option<UefiLoader>> {
        // Modules lie in GRUB's images for EFI as they are, so that a text which only the wanted code has is to be found.
        const OF_NEW: &[u8] = b"setting values from proxy offer";
        if chosen != Some(UefiLoader::Shim) {
            return Ok(chosen);
        }
        let path = self.path.join(names::GRUB);
        let image = std::fs::read(&path).doing(|| format!("reading {}", path.display()))?;
        let is_new = image.windows(OF_NEW.len()).any(|window| window == OF_NEW);
        Ok(if is_new { chosen } else { self.ipxe() })
    }

    fn ipxe(&self) -> Option<UefiLoader> {
        let there = |loader: &UefiLoader| loader.needs().iter().all(|name| self.has(name));
        [UefiLoader::Snponly, UefiLoader::Ipxe].into_iter().find(there)
    }
}
