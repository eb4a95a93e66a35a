// SPDX-License-Identifier: Apache-2.0
//! What packages remember about disks, so that the guest's own next upgrade of its boot loader works.
//!
//! grub-pc's postinst installs GRUB to every device of the debconf answer `grub-pc/install_devices` if all of them exist; else it
//! asks, and fails where nobody answers. With an empty answer it never updates the boot code again. So the answer names a link that
//! exists on any hardware: a udev rule makes it for the disk whose partition table has the identity that the boot disk has.

use std::collections::BTreeSet;
use std::ops::Range;

use unmoor_images::Result;

use super::text::{Text, lines};
use crate::devices::Devices;
use crate::plan::{Draft, Severity};

const RULE: &str = "boot-loader-package";
const DEBCONF: &str = "/var/cache/debconf/config.dat";
const SUSE: &str = "/etc/default/grub_installdevice";
const RULES: &str = "/etc/udev/rules.d/61-unmoor-disks.rules";
/// Files that name disks by `by-id/unmoor-ID`, ID being a partition table's identity.
pub(crate) const LINKS: [&str; 3] = [DEBCONF, SUSE, RULES];
const WHY: &str = "the boot loader's next upgrade is to find the disk that the machine starts from";

pub(super) fn plan(draft: &mut Draft<'_>, devices: &Devices) -> Result<()> {
    let mut links = Links { devices, used: BTreeSet::new(), lost: Vec::new() };
    if let Some(file) = Text::read(draft, DEBCONF)? {
        let pieces = debconf(&file.text, &mut links);
        file.write(draft, DEBCONF, &pieces, RULE, WHY)?;
    }
    if let Some(file) = Text::read(draft, SUSE)? {
        let mut pieces = Vec::new();
        for (start, line) in lines(&file.text) {
            let spec = line.trim();
            if let Some(new) = links.disk(spec).filter(|new| new != spec) {
                let at = start + line.len() - line.trim_start().len();
                pieces.push((at..at + spec.len(), new));
            }
        }
        file.write(draft, SUSE, &pieces, RULE, WHY)?;
    }
    for spec in &links.lost {
        draft.finding(
            Severity::Warning,
            RULE,
            format!(
                "the boot loader's package installs it to {spec}, which is not told from the other disks"
            ),
            Some("after the first start: dpkg-reconfigure grub-pc (SUSE: update-bootloader --reinit)".into()),
        );
    }
    if links.used.is_empty() {
        return Ok(());
    }
    let mut rules =
        String::from("# Made by unmoor: names of the disks that the boot loader's package installs it to.\n");
    for id in &links.used {
        rules.push_str(&format!(
            "SUBSYSTEM==\"block\", ENV{{DEVTYPE}}==\"disk\", ENV{{ID_PART_TABLE_UUID}}==\"{id}\", SYMLINK+=\"disk/by-id/unmoor-{id}\"\n"
        ));
    }
    draft.write(RULES, rules.into_bytes(), RULE, WHY)
}

struct Links<'a> {
    devices: &'a Devices,
    /// Identities of tables.
    used: BTreeSet<String>,
    lost: Vec<String>,
}

impl Links<'_> {
    /// A name for a whole disk; `None` where it is no disk's.
    fn disk(&mut self, spec: &str) -> Option<String> {
        if !spec.starts_with("/dev/") || spec.starts_with("/dev/disk/by-id/unmoor-") {
            return None;
        }
        let partition = spec.contains("-part")
            || self.devices.resolve(spec).is_some_and(|index| {
                self.devices.devices.get(index).is_some_and(|device| device.partuuid.is_some())
            });
        if partition {
            return None;
        }
        let known = self.devices.disks.iter().position(|names| names.iter().any(|name| name == spec));
        let alone = (self.devices.tables.len() == 1).then_some(0);
        let id = known.or(alone).and_then(|disk| self.devices.tables.get(disk)?.clone());
        let Some(id) = id.map(|id| id.to_ascii_lowercase()).filter(|id| is_id(id)) else {
            self.lost.push(spec.to_owned());
            return None;
        };
        let link = format!("/dev/disk/by-id/unmoor-{id}");
        self.used.insert(id);
        Some(link)
    }

    /// A name for an EFI system partition (Ubuntu's grub-multi-install).
    fn esp(&self, spec: &str) -> Option<String> {
        let is_esp =
            |index: &usize| self.devices.devices.get(*index).is_some_and(|device| device.kind == "vfat");
        let esps: Vec<usize> = (0..self.devices.devices.len())
            .filter(|index| {
                let kind =
                    self.devices.devices.get(*index).and_then(|device| device.partition_type.as_deref());
                matches!(kind, Some("c12a7328-f81f-11d2-ba4b-00a0c93ec93b" | "0xef"))
            })
            .collect();
        let alone = if let [one] = esps.as_slice() { Some(*one) } else { None };
        let index = self.devices.resolve(spec).filter(is_esp).or(alone)?;
        let uuid = self.devices.devices.get(index)?.partuuid.as_ref()?;
        Some(format!("/dev/disk/by-partuuid/{uuid}"))
    }
}

/// Hexadecimal digits and dashes: nothing that a rule could trip over.
fn is_id(id: &str) -> bool {
    !id.is_empty() && id.len() <= 36 && id.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-')
}

/// Stanzas of "Name: ..." and "Value: ..." lines (debconf's File driver).
fn debconf(text: &str, links: &mut Links<'_>) -> Vec<(Range<usize>, String)> {
    let mut pieces = Vec::new();
    let mut name = "";
    for (start, line) in lines(text) {
        if line.is_empty() {
            name = "";
        } else if let Some(value) = line.strip_prefix("Name: ") {
            name = value.trim();
        } else if let Some(value) = line.strip_prefix("Value: ") {
            let at = start + line.len() - value.len();
            let esp = match name {
                "grub-pc/install_devices" => false,
                "grub-efi/install_devices" => true,
                _ => continue,
            };
            let old: Vec<&str> = value.split(',').map(str::trim).filter(|spec| !spec.is_empty()).collect();
            let mut new: Vec<String> = Vec::new();
            for spec in old {
                let found = if esp { links.esp(spec) } else { links.disk(spec) };
                let found = found.unwrap_or_else(|| spec.to_owned());
                if !new.contains(&found) {
                    new.push(found);
                }
            }
            pieces.push((at..start + line.len(), new.join(", ")));
        }
    }
    pieces
}
