// SPDX-License-Identifier: Apache-2.0
//! What both directions ask of a guest: where its boot menu is, and which packages its administrator is to install.

use unmoor_images::filesystem::FilesystemFacts;
use unmoor_images::layout::Place;
use unmoor_images::manifest::Firmware;
use unmoor_images::{Error, Result};

use super::grub::reads::{Version, unreadable};
use super::locate::{OnDevice, on_device};
use super::{Context, RULE};
use crate::files::Files;
use crate::inspection::{Layer, LoaderKind};
use crate::plan::{Draft, Severity};

/// Where GRUB's configuration may be besides where an inspection found it.
const CONFIGS: &[&str] = &["/boot/grub/grub.cfg", "/boot/grub2/grub.cfg"];
/// Of distributions that patch GRUB to read boot loader specification entries.
const ENTRIES_COMMAND: &str = "blscfg";

/// The guest's boot menu for GRUB.
pub(super) struct Menu<'a> {
    /// Path in the guest: "/boot/grub/grub.cfg".
    pub(super) path: String,
    pub(super) on: OnDevice<'a>,
}

impl<'a> Context<'a> {
    pub(super) fn locate(&self, files: &dyn Files, path: &str) -> Option<OnDevice<'a>> {
        // What does not exist yet has no real path, but its directory may.
        let real = files.real_path(path).ok().flatten().or_else(|| {
            let (directory, name) = path.rsplit_once('/')?;
            let directory = files.real_path(directory).ok().flatten()?;
            Some(format!("{}/{name}", directory.trim_end_matches('/')))
        });
        on_device(real.as_deref().unwrap_or(path), self.inspection, self.devices)
    }

    /// The guest's own GRUB menu, or one made of its boot entries: of another loader's, or where the GRUB that is to come
    /// does not know Fedora's command for entries.
    pub(super) fn menu(&self, draft: &mut Draft<'_>, reads_entries: bool) -> Result<Menu<'a>> {
        let loaders = self.inspection.boot.loaders.iter();
        let grubs = loaders.filter(|loader| loader.kind == LoaderKind::Grub2);
        let known = grubs.filter_map(|loader| loader.config.as_deref());
        let on_esp = |path: &str| {
            self.locate(draft, path).is_some_and(|on| on.device.kind == "vfat" && path.contains("/EFI/"))
        };
        let mut candidates: Vec<&str> = CONFIGS.to_vec();
        candidates.extend(known.clone().filter(|path| !on_esp(path)));
        candidates.extend(known);
        let mut found = None;
        for path in candidates {
            if let Some(text) = draft.text(path)? {
                found = Some((path.to_owned(), text));
                break;
            }
        }
        let uses_entries = |text: &str| text.split_whitespace().any(|word| word == ENTRIES_COMMAND);
        let path = match found {
            Some((path, text)) if reads_entries || !uses_entries(&text) => path,
            Some((path, _)) => {
                self.made_menu(draft, path.rsplit_once('/').map_or("/boot/grub", |(folder, _)| folder))?
            }
            None => self.made_menu(draft, "/boot/grub")?,
        };
        let on = self.locate(draft, &path).ok_or_else(|| {
            Error::unsupported(
                format!("finding {path} on the disks"),
                "no device is known for the filesystem that it lies on",
            )
        })?;
        Ok(Menu { path, on })
    }

    fn made_menu(&self, draft: &mut Draft<'_>, folder: &str) -> Result<String> {
        let (text, left_out) =
            super::grub::config::menu(&self.inspection.boot.entries, &|path| self.locate(draft, path));
        if !text.contains("menuentry") {
            return Err(Error::refused(
                "making a boot menu for GRUB",
                "the guest has no GRUB configuration, and no boot entry with a kernel that GRUB can find and start (unified kernel \
                 images start with UEFI only): install a kernel as vmlinuz and initrd, and GRUB, in the guest first",
            ));
        }
        let path = format!("{folder}/unmoor.cfg");
        draft.write(&path, text.into_bytes(), RULE, "GRUB cannot read the boot entries where they are")?;
        draft.finding(
            Severity::Warning,
            RULE,
            format!("the boot menu {path} repeats today's boot entries: kernels that are installed later do not appear in it"),
            Some("install GRUB's packages for the new firmware in the guest, and let it write its own configuration".to_owned()),
        );
        if !left_out.is_empty() {
            let text = format!("boot entries that GRUB cannot start are left out: {}", left_out.join(", "));
            draft.finding(Severity::Warning, RULE, text, None);
        }
        Ok(path)
    }

    /// Whether a GRUB of `version` reads the filesystem of `on`; findings where it does not.
    pub(super) fn check_reads(&self, draft: &mut Draft<'_>, on: &OnDevice<'_>, version: Option<Version>) {
        if on.modules().is_empty() {
            let text = format!("GRUB has no driver for {}, on which the boot menu lies", on.device.kind);
            draft.finding(Severity::Error, RULE, text, Some("move /boot to ext4".to_owned()));
        }
        if let Some((_, 2..)) = on.luks {
            draft.finding(
                Severity::Warning,
                RULE,
                "the boot menu lies in LUKS2: GRUB before 2.14 opens only key slots with PBKDF2",
                Some("cryptsetup luksConvertKey --pbkdf pbkdf2 DEVICE".to_owned()),
            );
        }
        let (Some(facts), Some(version)) = (on.facts(self.layouts), version) else { return };
        self.check_features(draft, facts, version);
    }

    fn check_features(&self, draft: &mut Draft<'_>, facts: &FilesystemFacts, version: Version) {
        for (feature, since) in unreadable(facts.kind, &facts.features, version) {
            let (major, minor) = version.upstream;
            let since = since.map_or("no version of it does".to_owned(), |since| format!("{since} does"));
            draft.finding(
                Severity::Error,
                RULE,
                format!(
                    "GRUB {major}.{minor:02} does not read {} with the feature {feature}, which /boot has; {since}",
                    facts.kind.name()
                ),
                Some("give the rescue environment a newer GRUB as payload, or move /boot to a filesystem without that feature".to_owned()),
            );
        }
    }

    /// Of an array's disks only one is made to start.
    pub(super) fn check_array(&self, draft: &mut Draft<'_>, menu: &Menu<'_>) {
        if matches!(menu.on.device.place, Place::Md { .. }) {
            draft.finding(
                Severity::Warning,
                RULE,
                format!(
                    "{} lies on a RAID array; only disk {} gets a boot loader for the new firmware",
                    menu.path, menu.on.device.disk
                ),
                Some("put the boot loader on the other disks once the guest runs".to_owned()),
            );
        }
    }

    fn is_like(&self, ids: &[&str]) -> bool {
        let system = &self.inspection.system;
        system.id.iter().chain(&system.id_like).any(|id| ids.contains(&id.as_str()))
    }

    /// The command that makes the guest's own packages fit.
    pub(super) fn packages(&self, firmware: Firmware) -> String {
        let (uefi, bios) = if self.is_like(&["debian", "ubuntu"]) {
            (
                "apt-get install grub-efi-amd64 shim-signed",
                "apt-get install grub-pc && grub-install /dev/DISK && update-grub",
            )
        } else if self.is_like(&["fedora", "rhel", "centos"]) {
            (
                "dnf install grub2-efi-x64 shim-x64 efibootmgr && grub2-mkconfig -o /boot/grub2/grub.cfg",
                "dnf install grub2-pc && grub2-install /dev/DISK && grub2-mkconfig -o /boot/grub2/grub.cfg",
            )
        } else if self.is_like(&["suse", "opensuse", "sles"]) {
            (
                "zypper install grub2-x86_64-efi shim && shim-install",
                "zypper install grub2-i386-pc && grub2-install /dev/DISK",
            )
        } else if self.is_like(&["arch"]) {
            (
                "pacman -S grub efibootmgr && grub-install --target=x86_64-efi --efi-directory=/boot/efi",
                "pacman -S grub && grub-install --target=i386-pc /dev/DISK",
            )
        } else if self.is_like(&["alpine"]) {
            ("apk add grub-efi efibootmgr", "apk add grub-bios && grub-install /dev/DISK")
        } else {
            (
                "install GRUB for UEFI, and run: grub-install --target=x86_64-efi --efi-directory=/boot/efi",
                "install GRUB for BIOS, and run: grub-install --target=i386-pc /dev/DISK",
            )
        };
        match firmware {
            Firmware::Uefi => uefi.to_owned(),
            Firmware::Bios => bios.to_owned(),
        }
    }

    /// The disk that the menu lies on, which becomes the one to boot from.
    pub(super) fn boot_disk(&self, menu: &Menu<'_>) -> Result<usize> {
        let disk = menu.on.device.disk;
        if disk < self.disks.len() && disk < self.layouts.len() {
            return Ok(disk);
        }
        Err(Error::refused(
            "choosing the disk to boot from",
            format!("disk {disk}, on which {} lies, is not there", menu.path),
        ))
    }

    /// Refuses what no loader here can start.
    pub(super) fn check_architecture(&self) -> Result<()> {
        match self.inspection.system.architecture.as_deref() {
            None | Some("x86_64" | "amd64") => Ok(()),
            Some(other) => Err(Error::refused(
                "changing the firmware",
                format!("the guest is made for {other}; boot loaders are there for x86_64 only"),
            )),
        }
    }

    /// Number of the disk's root partition's LUKS, to be told of.
    pub(super) fn is_root_encrypted(&self) -> bool {
        self.inspection.root.iter().any(|layer| matches!(layer, Layer::Luks { .. }))
    }
}
