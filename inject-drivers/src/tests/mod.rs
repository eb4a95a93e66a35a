// SPDX-License-Identifier: Apache-2.0
//! Phony guests: a root directory with indexes of modules, modules that say their name, and an initramfs.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod drivers;
mod refusals;
mod unified;

use std::fs;
use std::path::{Path, PathBuf};

use unmoor_convert::files::Directory;
use unmoor_convert::inspection::{
    Boot, BootEntry, IdentityFiles, Initramfs, Inspection, Kernel, Layer, Lvm, Network, System,
};
use unmoor_convert::plan::{Change, Draft, Plan, Severity};
use unmoor_convert::request::{Hardware, Identity, Part, Purpose, Request, SecureBoot};
use unmoor_images::manifest::Firmware;
use unmoor_initramfs::archive::{self, Archive, Limits, Writer};

pub(super) const OLD: &str = "6.1.0-1-amd64";
pub(super) const NEW: &str = "6.1.0-2-amd64";

pub(super) const VIRTIO_BLK: &str = "pci:v00001AF4d00001001sv00001AF4sd00000002bc01sc00i00";
pub(super) const NVME: &str = "pci:v00001B36d00000010sv00001AF4sd00001100bc01sc08i02";
pub(super) const MEGASAS: &str = "pci:v00001000d00000060sv00001000sd00001013bc01sc04i00";
pub(super) const VMXNET3: &str = "pci:v000015ADd000007B0sv000015ADsd000007B0bc02sc00i00";

/// Path and what it depends on, as modules.dep has it.
const MODULES: [(&str, &str); 15] = [
    ("kernel/drivers/virtio/virtio.ko", ""),
    ("kernel/drivers/virtio/virtio_ring.ko", "kernel/drivers/virtio/virtio.ko"),
    (
        "kernel/drivers/virtio/virtio_pci.ko",
        "kernel/drivers/virtio/virtio_ring.ko kernel/drivers/virtio/virtio.ko",
    ),
    (
        "kernel/drivers/block/virtio_blk.ko.xz",
        "kernel/drivers/virtio/virtio_ring.ko kernel/drivers/virtio/virtio.ko",
    ),
    (
        "kernel/drivers/net/virtio_net.ko",
        "kernel/drivers/virtio/virtio_ring.ko kernel/drivers/virtio/virtio.ko",
    ),
    ("kernel/drivers/scsi/scsi_common.ko", ""),
    ("kernel/drivers/scsi/scsi_mod.ko", "kernel/drivers/scsi/scsi_common.ko"),
    ("kernel/drivers/scsi/sd_mod.ko", "kernel/drivers/scsi/scsi_mod.ko kernel/drivers/scsi/scsi_common.ko"),
    (
        "kernel/drivers/scsi/megaraid/megaraid_sas.ko",
        "kernel/drivers/scsi/scsi_mod.ko kernel/drivers/scsi/scsi_common.ko",
    ),
    ("kernel/drivers/ata/libata.ko", "kernel/drivers/scsi/scsi_mod.ko kernel/drivers/scsi/scsi_common.ko"),
    (
        "kernel/drivers/ata/ahci.ko",
        "kernel/drivers/ata/libata.ko kernel/drivers/scsi/scsi_mod.ko kernel/drivers/scsi/scsi_common.ko",
    ),
    ("kernel/fs/jbd2/jbd2.ko", ""),
    ("kernel/fs/ext4/ext4.ko", "kernel/fs/jbd2/jbd2.ko"),
    ("kernel/drivers/nvme/host/nvme.ko", ""),
    ("kernel/drivers/md/dm-mod.ko", ""),
];
const ALIASES: &str = "alias pci:v00001AF4d*sv*sd*bc*sc*i* virtio_pci\nalias virtio:d00000002v* virtio_blk\n\
    alias virtio:d00000001v* virtio_net\nalias scsi:t-0x00* sd_mod\nalias pci:v*d*sv*sd*bc01sc06i01* ahci\n\
    alias pci:v00001000d00000060sv*sd*bc*sc*i* megaraid_sas\nalias fs-ext4 ext4\nalias pci:v*d*sv*sd*bc01sc08i02* nvme\n";

/// What an initramfs for AHCI holds.
const HELD: [&str; 7] = ["scsi_common", "scsi_mod", "sd_mod", "libata", "ahci", "jbd2", "ext4"];

/// How the phony initramfs loads modules.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    Udev,
    ConfModules,
    Mkinitcpio,
    Dracut,
}

pub(super) struct Phony {
    folder: tempfile::TempDir,
    pub(super) kernels: Vec<Kernel>,
    pub(super) boot: Boot,
    pub(super) root: Vec<Layer>,
}

impl Phony {
    /// A guest with two kernels, each with all modules and an initramfs for AHCI.
    pub(super) fn new(style: Style) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut phony = Self {
            folder,
            kernels: Vec::new(),
            boot: Boot::default(),
            root: vec![
                Layer::Disk { disk: 0 },
                Layer::Partition { disk: 0, number: 1, partuuid: None },
                Layer::Filesystem { kind: "ext4".to_owned(), uuid: None, subvolume: None },
            ],
        };
        for release in [NEW, OLD] {
            phony.modules(release, &[]);
            phony.write(&format!("/boot/initrd.img-{release}"), &initramfs(release, style));
            phony.kernel(release);
        }
        phony
    }

    fn kernel(&mut self, release: &str) {
        let image = format!("/boot/vmlinuz-{release}");
        let initrd = format!("/boot/initrd.img-{release}");
        self.boot.entries.push(BootEntry {
            file: "/boot/grub/grub.cfg".to_owned(),
            lines: None,
            style: "grub".to_owned(),
            title: release.to_owned(),
            kernel: Some(image.clone()),
            initramfs: vec![initrd.clone()],
            arguments: Vec::new(),
            default: self.boot.entries.is_empty(),
        });
        self.kernels.push(Kernel {
            release: release.to_owned(),
            image: Some(image),
            modules: Some(format!("/usr/lib/modules/{release}")),
            initramfs: vec![Initramfs {
                path: initrd,
                made_by: "initramfs-tools".to_owned(),
                host_only: true,
                compression: vec!["none".to_owned()],
                broken: None,
                size: 0,
            }],
            config: None,
            bootable: true,
            special: None,
        });
    }

    pub(super) fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join(path.trim_start_matches('/'))
    }

    pub(super) fn write(&self, path: &str, content: &[u8]) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    /// Installs a kernel's modules, but for those named.
    pub(super) fn modules(&self, release: &str, without: &[&str]) {
        let directory = format!("/usr/lib/modules/{release}");
        let _ = fs::remove_dir_all(self.path(&directory));
        let mut dependencies = String::new();
        for (path, needs) in MODULES {
            let name = unmoor_initramfs::modules::name_of(path).unwrap();
            if without.contains(&name.as_str()) {
                continue;
            }
            let content = format!("module {name} of {release}");
            let content = if path.ends_with(".xz") { xz(content.as_bytes()) } else { content.into_bytes() };
            self.write(&format!("{directory}/{path}"), &content);
            dependencies += &format!("{path}: {needs}\n");
        }
        let aliases: String = ALIASES
            .lines()
            .filter(|line| !without.iter().any(|name| line.ends_with(&format!(" {name}"))))
            .map(|line| format!("{line}\n"))
            .collect();
        self.write(&format!("{directory}/modules.dep"), dependencies.as_bytes());
        self.write(&format!("{directory}/modules.alias"), aliases.as_bytes());
        self.write(&format!("{directory}/modules.softdep"), b"");
        self.write(&format!("{directory}/modules.builtin"), b"kernel/fs/proc/proc.ko\n");
        self.write(&format!("{directory}/modules.builtin.modinfo"), b"proc.license=GPL\0");
    }

    pub(super) fn inspection(&self) -> Inspection {
        Inspection {
            system: System::default(),
            firmware: Firmware::Bios,
            root: self.root.clone(),
            kernels: self.kernels.clone(),
            boot: self.boot.clone(),
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

    pub(super) fn plan(&self, request: &Request) -> Plan {
        let directory = Directory::open(self.folder.path()).unwrap();
        let mut draft = Draft::new(&directory);
        crate::inject(&mut draft, &self.inspection(), request).unwrap();
        draft.finish()
    }

    /// Carries out a plan of whole files and appended bytes.
    pub(super) fn apply(&self, plan: &Plan) {
        for edit in &plan.edits {
            match &edit.change {
                Change::Append { content, .. } => {
                    let mut all = fs::read(self.path(&edit.path)).unwrap();
                    all.extend(content.bytes());
                    fs::write(self.path(&edit.path), all).unwrap();
                }
                Change::Write { content, .. } => self.write(&edit.path, content.bytes()),
                other => panic!("{other:?}"),
            }
        }
    }

    pub(super) fn archive(&self, release: &str) -> Archive {
        let image = fs::read(self.path(&format!("/boot/initrd.img-{release}"))).unwrap();
        archive::read(&image, &Limits::keep_all()).unwrap()
    }
}

fn xz(content: &[u8]) -> Vec<u8> {
    use std::io::Write;
    use std::process::{Command, Stdio};
    let mut child = Command::new("xz")
        .args(["--check=crc32", "-c"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(content).unwrap();
    child.wait_with_output().unwrap().stdout
}

/// An initramfs with the modules for AHCI, and what tells how it loads them.
pub(super) fn initramfs(release: &str, style: Style) -> Vec<u8> {
    let mut writer = Writer::new(0);
    let directory = |writer: &mut Writer, path: &str| writer.directory(path, 0o755).unwrap();
    for path in ["usr", "usr/lib", "usr/lib/modules", "etc"] {
        directory(&mut writer, path);
    }
    writer.link("lib", "usr/lib").unwrap();
    writer.file("init", 0o755, b"#!/bin/sh\n").unwrap();
    let own = format!("usr/lib/modules/{release}");
    directory(&mut writer, &own);
    let mut made: Vec<String> = Vec::new();
    for (path, _) in MODULES {
        let name = unmoor_initramfs::modules::name_of(path).unwrap();
        if !HELD.contains(&name.as_str()) {
            continue;
        }
        for (at, _) in path.match_indices('/') {
            let parent = format!("{own}/{}", &path[..at]);
            if !made.contains(&parent) {
                directory(&mut writer, &parent);
                made.push(parent);
            }
        }
        writer
            .file(&format!("{own}/{path}"), 0o644, format!("module {name} of {release}").as_bytes())
            .unwrap();
    }
    writer.file(&format!("{own}/modules.dep"), 0o644, b"old").unwrap();
    match style {
        Style::Udev => {
            for path in ["usr/lib/systemd", "usr/lib/udev", "usr/lib/udev/rules.d"] {
                directory(&mut writer, path);
            }
            writer.file("usr/lib/systemd/systemd-udevd", 0o755, b"").unwrap();
            writer.file("usr/lib/udev/rules.d/80-drivers.rules", 0o644, b"").unwrap();
        }
        Style::ConfModules => {
            directory(&mut writer, "conf");
            writer.file("conf/initramfs.conf", 0o644, b"MODULES=list\n").unwrap();
            writer.file("conf/modules", 0o644, b"ahci\nsd_mod").unwrap();
        }
        Style::Mkinitcpio => {
            writer.file("init_functions", 0o644, b"").unwrap();
            writer.file("config", 0o644, b"MODULES=\"ext4\"\nHOOKS=\"x\"\n").unwrap();
        }
        Style::Dracut => {
            writer.file("usr/lib/dracut-lib.sh", 0o644, b"").unwrap();
        }
    }
    writer.finish().unwrap()
}

pub(super) fn part(modalias: &str, purpose: Purpose, certain: bool) -> Part {
    Part { modalias: modalias.to_owned(), purpose, name: "a phony part".to_owned(), certain }
}

pub(super) fn request(parts: Vec<Part>) -> Request {
    Request {
        hardware: Hardware {
            name: "phony".to_owned(),
            parts,
            nics: Vec::new(),
            serial: None,
            hypervisor: None,
            sector_size: None,
        },
        firmware: None,
        nics: std::collections::BTreeMap::new(),
        identity: Identity::Move,
        secure_boot: SecureBoot::Keep,
        sign_key: None,
        payload: std::collections::BTreeMap::new(),
        seed: [0; 32],
        now: 1_700_000_000,
    }
}

pub(super) fn findings(plan: &Plan, severity: Severity) -> Vec<String> {
    plan.findings
        .iter()
        .filter(|finding| finding.severity == severity)
        .map(|finding| format!("{}: {}", finding.rule, finding.text))
        .collect()
}

pub(super) fn paths(plan: &Plan) -> Vec<&str> {
    plan.edits.iter().map(|edit| edit.path.as_str()).collect()
}

pub(super) fn copy_of(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap()
}
