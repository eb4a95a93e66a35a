// SPDX-License-Identifier: Apache-2.0
//! A guest's configuration: found out about, and planned for other hardware. Each disk of the machine is one file of the guest.

use std::collections::{BTreeMap, BTreeSet};

use unmoor_convert::devices::{Device, Devices};
use unmoor_convert::files::{Files, Kind, Metadata, Room};
use unmoor_convert::firmware::nvram::{self, Entry, Place, Signature};
use unmoor_convert::inspect;
use unmoor_convert::plan::{Change, Draft, Plan};
use unmoor_convert::request::{Hardware, Identity, Request, SecureBoot, TargetNic};
use unmoor_convert::{rules, syntax};
use unmoor_images::layout::Place as Where;
use unmoor_images::{BlockSource, Error, ErrorKind, Result};

use super::{Answer, check_error, folder};
use crate::disk::{Disk, Machine};

/// Files that the targets below damage, in the order of the disks.
const GRUB: &[&str] = &["/boot/grub/grub.cfg", "/etc/default/grub", "/boot/grub/grubenv"];
const ENTRIES: &[&str] = &[
    "/boot/loader/entries/one.conf",
    "/boot/loader/loader.conf",
    "/etc/kernel/cmdline",
    "/boot/extlinux/extlinux.conf",
];
const TABLES: &[&str] =
    &["/etc/fstab", "/etc/crypttab", "/etc/initramfs-tools/conf.d/resume", "/etc/os-release"];
const NETWORK: &[&str] = &[
    "/etc/netplan/50-cloud-init.yaml",
    "/etc/sysconfig/network-scripts/ifcfg-eth0",
    "/etc/NetworkManager/system-connections/lan.nmconnection",
    "/etc/network/interfaces",
];
const NAMES: &[&str] = &[
    "/etc/systemd/network/10-lan.network",
    "/etc/systemd/network/10-lan.link",
    "/etc/udev/rules.d/70-persistent-net.rules",
    "/etc/mactab",
];
const VOLUMES: &[&str] =
    &["/etc/lvm/lvm.conf", "/etc/lvm/lvmlocal.conf", "/etc/mdadm/mdadm.conf", "/etc/multipath.conf"];

const ROOT: &str = "0b7c1d3e-0000-4000-8000-000000000001";
const SWAP: &str = "0b7c1d3e-0000-4000-8000-000000000005";
const RELEASE: &str = "6.1.0-32-amd64";

pub(crate) fn grub(machine: &Machine) -> Answer {
    guest(machine, GRUB)
}

pub(crate) fn entries(machine: &Machine) -> Answer {
    guest(machine, ENTRIES)
}

pub(crate) fn tables(machine: &Machine) -> Answer {
    guest(machine, TABLES)
}

pub(crate) fn network(machine: &Machine) -> Answer {
    guest(machine, NETWORK)
}

pub(crate) fn names(machine: &Machine) -> Answer {
    guest(machine, NAMES)
}

pub(crate) fn volumes(machine: &Machine) -> Answer {
    for (path, disk) in VOLUMES.iter().zip(&machine.disks) {
        // What is corrected is right: a second time there is nothing to do.
        if let Some(corrected) = rules::corrected(path, &bytes_of(disk)) {
            assert_eq!(rules::corrected(path, &corrected), None, "{}", String::from_utf8_lossy(&corrected));
        }
    }
    guest(machine, VOLUMES)
}

/// At most 1 MiB of a disk.
fn bytes_of(disk: &Disk) -> Vec<u8> {
    disk.peek(0, disk.size().min(1 << 20) as usize)
}

/// Files in memory; there are no links among them.
struct Phony {
    files: BTreeMap<String, Vec<u8>>,
    folders: BTreeSet<String>,
}

impl Phony {
    fn new(machine: &Machine, paths: &[&str]) -> Self {
        let mut files: BTreeMap<String, Vec<u8>> = [
            ("/etc/os-release", "ID=debian\nVERSION_ID=12\n".to_owned()),
            ("/etc/default/grub", "GRUB_CMDLINE_LINUX=\"root=/dev/sda1\"\n".to_owned()),
            ("/usr/lib/udev/rules.d/80-net-setup-link.rules", String::new()),
            ("/usr/lib/systemd/systemd-udevd", String::new()),
            (&format!("/usr/lib/modules/{RELEASE}/modules.dep"), String::new()),
            (&format!("/boot/vmlinuz-{RELEASE}"), "x".to_owned()),
            (&format!("/boot/initrd.img-{RELEASE}"), "x".to_owned()),
        ]
        .into_iter()
        .map(|(path, content)| (path.to_owned(), content.into_bytes()))
        .collect();
        files.extend(
            paths.iter().zip(&machine.disks).map(|(path, disk)| ((*path).to_owned(), bytes_of(disk))),
        );
        let mut folders = BTreeSet::from(["/".to_owned()]);
        for path in files.keys() {
            folders.extend(path.match_indices('/').skip(1).map(|(end, _)| path[..end].to_owned()));
        }
        Self { files, folders }
    }

    /// Without doubled slashes, "." and "..".
    fn place(path: &str) -> String {
        let mut parts: Vec<&str> = Vec::new();
        for part in path.split('/') {
            match part {
                "" | "." => {}
                ".." => drop(parts.pop()),
                part => parts.push(part),
            }
        }
        format!("/{}", parts.join("/"))
    }
}

impl Files for Phony {
    fn metadata(&self, path: &str) -> Result<Option<Metadata>> {
        let path = Self::place(path);
        let (kind, size) = match self.files.get(&path) {
            Some(content) => (Kind::File, content.len() as u64),
            None if self.folders.contains(&path) => (Kind::Directory, 0),
            None => return Ok(None),
        };
        Ok(Some(Metadata { kind, size, mode: 0o644, uid: 0, gid: 0, mtime: 0, device: 1 }))
    }

    fn link_metadata(&self, path: &str) -> Result<Option<Metadata>> {
        self.metadata(path)
    }

    fn read(&self, path: &str, most: u64) -> Result<Option<Vec<u8>>> {
        match self.files.get(&Self::place(path)) {
            Some(content) if content.len() as u64 > most => {
                Err(Error::unsupported("reading a file", "it is too long"))
            }
            found => Ok(found.cloned()),
        }
    }

    fn list(&self, path: &str) -> Result<Vec<String>> {
        let start = format!("{}/", Self::place(path).trim_end_matches('/'));
        let below = self.files.keys().chain(&self.folders).filter_map(|path| path.strip_prefix(&start));
        let names: BTreeSet<&str> =
            below.filter_map(|rest| rest.split('/').next()).filter(|name| !name.is_empty()).collect();
        Ok(names.into_iter().map(str::to_owned).collect())
    }

    fn read_link(&self, _path: &str) -> Result<Option<String>> {
        Ok(None)
    }

    fn real_path(&self, path: &str) -> Result<Option<String>> {
        let place = Self::place(path);
        Ok((self.files.contains_key(&place) || self.folders.contains(&place)).then_some(place))
    }

    fn room(&self, _path: &str) -> Result<Room> {
        Ok(Room { bytes: 1 << 30, inodes: 1000 })
    }
}

fn devices() -> Devices {
    let device = |number: u32, kind: &str, uuid: &str, names: &[&str]| Device {
        disk: 0,
        place: Where::Disk { offset: u64::from(number) << 30, len: 1 << 30, partition: Some(number) },
        kind: kind.into(),
        uuid: Some(uuid.into()),
        label: Some(format!("l{number}")),
        partuuid: Some(format!("deadbeef-{number:02}")),
        partlabel: None,
        partition_type: Some("0x83".into()),
        names: names.iter().map(|name| (*name).to_owned()).collect(),
        size: 1 << 30,
    };
    Devices {
        devices: vec![
            device(1, "ext4", ROOT, &["/dev/sda1", "/dev/disk/by-id/ata-x-part1"]),
            device(5, "swap", SWAP, &["/dev/sda5", "/dev/disk/by-path/pci-x-part5"]),
        ],
        disks: vec![vec!["/dev/sda".into()]],
        tables: vec![Some("deadbeef".into())],
        ..Devices::default()
    }
}

fn request(choices: u64) -> Request {
    let hypervisors = [Some("kvm"), Some("hyperv"), Some("vmware"), None];
    let nic = TargetNic { mac: Some("02:00:00:00:00:0a".into()), modalias: None, model: None };
    Request {
        hardware: Hardware {
            name: "fuzz".into(),
            parts: Vec::new(),
            nics: vec![nic; (choices >> 2) as usize % 3 / 2],
            serial: Some("ttyS0".into()),
            hypervisor: hypervisors[choices as usize % 4].map(str::to_owned),
            sector_size: None,
        },
        firmware: None,
        nics: BTreeMap::new(),
        identity: if choices >> 4 & 1 == 0 { Identity::Move } else { Identity::Clone },
        secure_boot: SecureBoot::Keep,
        sign_key: None,
        payload: BTreeMap::new(),
        seed: [7; 32],
        now: 1_795_546_930,
    }
}

/// Looks at the guest and plans for another machine, as `unmoor convert` does.
fn guest(machine: &Machine, paths: &[&str]) -> Answer {
    let (files, devices) = (Phony::new(machine, paths), devices());
    let found =
        inspect::inspect(&files, &devices, None).expect("it is a Linux system, whatever its files say");
    assert!(found.notes.len() <= 100, "{} notes", found.notes.len());
    assert!(found.notes.iter().all(|note| note.len() < 8192));
    assert!(found.boot.entries.len() <= 1000 && found.network.interfaces.len() <= 1000);
    assert!(found.boot.entries.iter().filter(|entry| entry.default).count() <= 1);
    let mut draft = Draft::new(&files);
    if let Err(error) = rules::plan(&mut draft, &found, &devices, &request(machine.choices)) {
        check_error(&error, &[ErrorKind::Refused]);
        return Answer::new("refused", error.chain());
    }
    let plan = draft.finish();
    check_plan(&plan);
    let text = plan.show(&files).expect("a plan can be shown");
    Answer::new("guest", (found, text))
}

/// It can be saved and is then the same, and leaves no file of the guest but within it.
fn check_plan(plan: &Plan) {
    let saved = plan.to_json().expect("a plan can be saved");
    assert!(Plan::load(saved.as_bytes()).expect("what was saved is a plan") == *plan);
    for edit in &plan.edits {
        assert!(
            edit.path.starts_with('/') && !edit.path.split('/').any(|part| part == ".."),
            "{}",
            edit.path
        );
        if let Change::Write { content, .. } = &edit.change {
            assert!(
                content.bytes().len() < 16 << 20,
                "{} becomes {} bytes",
                edit.path,
                content.bytes().len()
            );
        }
    }
}

/// Variables of firmware: BootOrder, an entry, BootCurrent.
pub(crate) fn variables(machine: &Machine) -> Answer {
    let folder = folder();
    for (name, disk) in ["BootOrder", "Boot0000", "BootCurrent"].iter().zip(&machine.disks) {
        std::fs::write(folder.path().join(format!("{name}-{}", nvram::GLOBAL)), bytes_of(disk)).unwrap();
    }
    let entry = Entry {
        description: "debian".into(),
        partition: 1,
        start: 2048,
        sectors: 1_048_576,
        signature: Signature::Gpt([7; 16]),
        path: "\\EFI\\debian\\shimx64.efi".into(),
    };
    let place = if machine.choices & 1 == 0 { Place::First } else { Place::BehindCurrent };
    match nvram::write(folder.path(), &entry, place) {
        Ok(number) => {
            let order = std::fs::read(folder.path().join(format!("BootOrder-{}", nvram::GLOBAL))).unwrap();
            assert!(order.len() >= 6 && order[4..].chunks(2).any(|one| one == number.to_le_bytes()));
            assert_eq!(
                nvram::write(folder.path(), &entry, place).unwrap(),
                number,
                "a second time it is the same"
            );
            Answer::new(format!("entry {number}"), order)
        }
        // No room for one more.
        Err(error) if error.kind() == ErrorKind::Refused => Answer::new("refused", error.chain()),
        Err(error) => Answer::error(&error),
    }
}

/// The sections of a PE file, as the inspection reads them.
pub(crate) fn sections(machine: &Machine) -> Answer {
    let file = bytes_of(machine.first());
    match syntax::pe::parse(&file) {
        Ok(image) => {
            assert!(image.sections.iter().all(|section| section.range.end <= file.len()));
            let texts: Vec<_> =
                [".cmdline", ".osrel", ".uname"].iter().map(|name| image.text(&file, name)).collect();
            Answer::new("image", (image.sections, image.signed, texts))
        }
        Err(error) => Answer::error(&error),
    }
}
