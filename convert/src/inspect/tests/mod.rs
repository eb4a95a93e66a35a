// SPDX-License-Identifier: Apache-2.0
//! Phony guests: plain directories with the files that decide, as each distribution writes them.

mod debian;
mod hostile;
mod others;
mod red_hat;

use std::fs;
use std::os::unix::fs::symlink;

use unmoor_images::layout::Place;
use unmoor_images::manifest::{MachineFacts, NicFacts};

use crate::devices::{Device, Devices};
use crate::files::Directory;
use crate::inspection::{BootEntry, Inspection, Interface};

/// A guest in the making.
pub(super) struct Phony {
    root: tempfile::TempDir,
    pub(super) devices: Devices,
    pub(super) facts: Option<MachineFacts>,
}

impl Phony {
    /// With /etc, /usr and an os-release.
    pub(super) fn new(release: &str) -> Self {
        let phony = Self { root: tempfile::tempdir().unwrap(), devices: Devices::default(), facts: None };
        phony.file("/etc/os-release", release).file("/usr/bin/env", "").file("/etc/machine-id", MACHINE_ID)
    }

    pub(super) fn file(self, path: &str, content: impl AsRef<[u8]>) -> Self {
        let at = self.root.path().join(path.trim_start_matches('/'));
        fs::create_dir_all(at.parent().unwrap()).unwrap();
        fs::write(at, content).unwrap();
        self
    }

    /// Files with some content that nobody reads.
    pub(super) fn files(mut self, paths: &[&str]) -> Self {
        for path in paths {
            self = self.file(path, "070701x");
        }
        self
    }

    pub(super) fn link(self, path: &str, target: &str) -> Self {
        let at = self.root.path().join(path.trim_start_matches('/'));
        fs::create_dir_all(at.parent().unwrap()).unwrap();
        symlink(target, at).unwrap();
        self
    }

    /// A kernel as the packages install it: image, initramfs, modules.
    pub(super) fn kernel(self, release: &str, initramfs: &str) -> Self {
        self.file(&format!("/boot/vmlinuz-{release}"), "kernel")
            .file(initramfs, "070701x")
            .file(&format!("/usr/lib/modules/{release}/modules.dep"), "")
    }

    /// The next partition of the first disk.
    pub(super) fn partition(mut self, kind: &str, uuid: &str, partition_type: &str) -> Self {
        let number = self.devices.devices.len() as u32 + 1;
        let start = u64::from(number) << 30;
        self.devices.devices.push(Device {
            disk: 0,
            place: Place::Disk { offset: start, len: 1 << 30, partition: Some(number) },
            kind: kind.into(),
            uuid: (!uuid.is_empty()).then(|| uuid.to_owned()),
            label: None,
            partuuid: Some(format!("00000000-0000-0000-0000-00000000000{number}")),
            partlabel: None,
            partition_type: Some(partition_type.into()),
            names: vec![format!("/dev/sda{number}")],
            size: 1 << 30,
        });
        self
    }

    /// A logical volume on the last device.
    pub(super) fn volume(mut self, vg: &str, lv: &str, kind: &str, uuid: &str) -> Self {
        let pv = self.devices.devices.iter().rposition(|device| device.kind == "LVM2_member").unwrap();
        let place = Place::LogicalVolume { vg: vg.into(), lv: lv.into(), len: 1 << 30 };
        self.devices.devices.push(Device {
            disk: 0,
            place,
            kind: kind.into(),
            uuid: Some(uuid.to_owned()),
            label: None,
            partuuid: None,
            partlabel: None,
            partition_type: None,
            names: vec![
                format!("/dev/mapper/{}", crate::devices::mapper_name(vg, lv)),
                format!("/dev/{vg}/{lv}"),
            ],
            size: 1 << 30,
        });
        let index = self.devices.devices.len() - 1;
        self.devices.below.insert(index, vec![pv]);
        self
    }

    pub(super) fn nic(mut self, name: &str, mac: &str) -> Self {
        let facts = self.facts.get_or_insert_default();
        facts.nics.push(NicFacts { name: name.into(), mac: Some(mac.into()), ..NicFacts::default() });
        self
    }

    pub(super) fn inspect(&self) -> Inspection {
        let files = Directory::open(self.root.path()).unwrap();
        let found = super::inspect(&files, &self.devices, self.facts.as_ref()).unwrap();
        // What was found can be saved and read again.
        let text = serde_json::to_string(&found).unwrap();
        assert_eq!(serde_json::from_str::<Inspection>(&text).unwrap(), found);
        found
    }
}

pub(super) const MACHINE_ID: &str = "00112233445566778899aabbccddeeff\n";
pub(super) const LINUX: &str = "0fc63daf-8483-4772-8e79-3d69d8477de4";
pub(super) const ESP: &str = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b";
pub(super) const ROOT_UUID: &str = "11111111-2222-3333-4444-555555555555";
pub(super) const BOOT_UUID: &str = "bbbbbbbb-2222-3333-4444-555555555555";
pub(super) const ESP_UUID: &str = "ABCD-1234";

pub(super) fn default_entry(found: &Inspection) -> &BootEntry {
    let defaults: Vec<&BootEntry> = found.boot.entries.iter().filter(|entry| entry.default).collect();
    assert_eq!(defaults.len(), 1, "{:#?}", found.boot.entries);
    defaults[0]
}

pub(super) fn interface<'a>(found: &'a Inspection, name: &str) -> &'a Interface {
    let named = |interface: &&Interface| interface.name.as_deref() == Some(name);
    let all = &found.network.interfaces;
    all.iter().find(named).unwrap_or_else(|| panic!("no {name}: {all:#?}"))
}
