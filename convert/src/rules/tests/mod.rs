// SPDX-License-Identifier: Apache-2.0
//! Rules on phony guests: plain directories and facts made by hand.
#![allow(clippy::unwrap_used, reason = "tests")]

mod boot;
mod identity;
mod mounts;
mod others;
mod packages;
mod whole;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use unmoor_images::Result;
use unmoor_images::layout::Place;
use unmoor_images::manifest::Firmware;

use crate::devices::{Device, Devices};
use crate::files::{Directory, Files};
use crate::inspection::{Boot, IdentityFiles, Inspection, Lvm, Network, System};
use crate::plan::{Draft, Finding, Plan, Severity};
use crate::request::{Hardware, Identity, Request, SecureBoot};

/// What a guest is made of; a content that begins with "-> " is a link.
pub(crate) type Tree<'a> = &'a [(&'a str, &'a str)];

pub(crate) struct Guest {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) inspection: Inspection,
    pub(crate) devices: Devices,
    pub(crate) request: Request,
}

/// What a plan comes to.
pub(crate) struct Outcome {
    pub(crate) plan: Plan,
    /// Changed files.
    pub(crate) files: BTreeMap<String, String>,
    /// Files for the initramfs.
    pub(crate) initramfs: BTreeMap<String, String>,
}

impl Outcome {
    pub(crate) fn text(&self, path: &str) -> &str {
        self.files.get(path).unwrap_or_else(|| unreachable!("{path} is not changed: {:?}", self.files.keys()))
    }

    pub(crate) fn finding(&self, part: &str) -> &Finding {
        let found = self.plan.findings.iter().find(|finding| finding.text.contains(part));
        found.unwrap_or_else(|| unreachable!("no finding says {part:?}: {:#?}", self.plan.findings))
    }

    pub(crate) fn worst(&self) -> Option<Severity> {
        self.plan.findings.iter().map(|finding| finding.severity).max()
    }
}

pub(crate) fn device(disk: usize, partition: u32, kind: &str, uuid: &str, names: &[&str]) -> Device {
    Device {
        disk,
        place: Place::Disk { offset: u64::from(partition) << 30, len: 1 << 30, partition: Some(partition) },
        kind: kind.into(),
        uuid: Some(uuid.into()),
        label: None,
        partuuid: Some(format!("deadbeef-{partition:02}")),
        partlabel: None,
        partition_type: Some("0x83".into()),
        names: names.iter().map(|name| (*name).to_owned()).collect(),
        size: 1 << 30,
    }
}

pub(crate) const ROOT: &str = "0b7c1d3e-0000-4000-8000-000000000001";
pub(crate) const SWAP: &str = "0b7c1d3e-0000-4000-8000-000000000005";

impl Guest {
    /// A guest with root on sda1 and swap on sda5, for a virtual machine with one adapter and a serial console.
    pub(crate) fn new(tree: Tree<'_>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for (path, content) in tree {
            put(folder.path(), path, content);
        }
        let by_id = "/dev/disk/by-id/ata-QEMU_HARDDISK_QM00001";
        let devices = Devices {
            devices: vec![
                device(
                    0,
                    1,
                    "ext4",
                    ROOT,
                    &[
                        "/dev/sda1",
                        &format!("{by_id}-part1"),
                        "/dev/disk/by-path/pci-0000:00:1f.2-ata-1-part1",
                    ],
                ),
                device(0, 5, "swap", SWAP, &["/dev/sda5", &format!("{by_id}-part5")]),
            ],
            disks: vec![vec!["/dev/sda".into(), by_id.into()]],
            tables: vec![Some("deadbeef".into())],
            ..Devices::default()
        };
        let request = Request {
            hardware: Hardware {
                name: "kvm".into(),
                parts: Vec::new(),
                nics: Vec::new(),
                serial: Some("ttyS0".into()),
                hypervisor: Some("kvm".into()),
                sector_size: None,
            },
            firmware: None,
            nics: BTreeMap::new(),
            identity: Identity::Move,
            secure_boot: SecureBoot::Keep,
            sign_key: None,
            payload: BTreeMap::new(),
            seed: [7; 32],
            now: 1_795_546_930,
        };
        Self { folder, inspection: inspection(), devices, request }
    }

    pub(crate) fn try_plan(&self) -> Result<Outcome> {
        let directory = Directory::open(self.folder.path())?;
        let mut draft = Draft::new(&directory);
        super::plan(&mut draft, &self.inspection, &self.devices, &self.request)?;
        let paths: Vec<String> = draft.edits().map(|edit| edit.path.clone()).collect();
        let mut files = BTreeMap::new();
        for path in paths {
            let shown = match draft.read_link(&path)? {
                Some(target) => format!("-> {target}"),
                None => draft.text(&path)?.unwrap_or_else(|| "(removed)".into()),
            };
            files.insert(path, shown);
        }
        let initramfs = draft
            .initramfs_files()
            .iter()
            .map(|file| (file.path.clone(), String::from_utf8_lossy(file.content.bytes()).into_owned()));
        let initramfs = initramfs.collect();
        // Planned again over its own outcome, nothing is left to do.
        Ok(Outcome { files, initramfs, plan: draft.finish() })
    }

    pub(crate) fn plan(&self) -> Outcome {
        self.try_plan().unwrap()
    }
}

pub(crate) fn put(root: &Path, path: &str, content: &str) {
    let at = root.join(path.trim_start_matches('/'));
    fs::create_dir_all(at.parent().unwrap()).unwrap();
    match content.strip_prefix("-> ") {
        Some(target) => symlink(target, at).unwrap(),
        None => fs::write(at, content).unwrap(),
    }
}

pub(crate) fn inspection() -> Inspection {
    Inspection {
        system: System::default(),
        firmware: Firmware::Bios,
        root: Vec::new(),
        kernels: Vec::new(),
        boot: Boot::default(),
        fstab: Vec::new(),
        crypttab: Vec::new(),
        resume: Vec::new(),
        lvm: Lvm::default(),
        md_arrays: Vec::new(),
        multipath: false,
        network: Network::default(),
        tools: Vec::new(),
        consoles: Vec::new(),
        identity: IdentityFiles::default(),
        notes: Vec::new(),
    }
}

/// Another program's answer.
pub(crate) fn ask(package: &str, program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let output = output
        .unwrap_or_else(|error| unreachable!("{program} is needed (Debian package {package}): {error}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_guest_that_names_no_hardware_is_left_alone() {
    let guest = Guest::new(&[
        (
            "/etc/fstab",
            &format!(
                "UUID={ROOT} / ext4 defaults 0 1\nLABEL=x /srv ext4 nofail 0 0\nproc /proc proc defaults 0 0\n"
            ),
        ),
        ("/etc/crypttab", "vault UUID=1-2 none luks\n"),
        ("/boot/grub/grub.cfg", &format!("linux /vmlinuz root=UUID={ROOT} ro quiet console=tty0\n")),
        ("/etc/default/grub", "GRUB_CMDLINE_LINUX=\"quiet\"\n"),
        ("/etc/lvm/lvm.conf", "devices {\n\tfilter = [ \"r|/dev/drbd.*|\" ]\n}\n"),
        ("/etc/mdadm/mdadm.conf", "ARRAY /dev/md0 UUID=1:2:3:4\n"),
    ]);
    let outcome = guest.plan();
    assert_eq!(outcome.files, BTreeMap::new());
    assert_eq!(outcome.plan.findings, []);
}

#[test]
fn a_second_run_over_the_outcome_changes_nothing_more() {
    let guest = Guest::new(&[
        (
            "/etc/fstab",
            "/dev/sda1 / ext4 defaults 0 1\n/dev/sda5 none swap sw 0 0\n/dev/sdq1 /x ext4 defaults 0 2\n",
        ),
        ("/boot/grub/grub.cfg", "linux /vmlinuz root=/dev/sda1 resume=/dev/sdz1 console=ttyS1,9600\n"),
        (
            "/etc/default/grub",
            "GRUB_CMDLINE_LINUX=\"root=/dev/sda1 console=hvc0\"\nGRUB_DISABLE_LINUX_UUID=true\n",
        ),
        ("/etc/inittab", "S0:2345:respawn:/sbin/agetty ttyS1 9600\n"),
        ("/etc/cloud/cloud.cfg", "x\n"),
    ]);
    let first = guest.plan();
    assert!(first.files.len() >= 5);
    for (path, content) in &first.files {
        put(guest.folder.path(), path, content);
    }
    assert_eq!(guest.plan().files, BTreeMap::new());
}
