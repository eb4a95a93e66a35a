// SPDX-License-Identifier: Apache-2.0
//! Ids, held against QEMU's monitor; inventories of machines.

use std::io::Write;
use std::process::{Command, Stdio};

use unmoor_images::manifest::{BusFacts, DiskFacts, MachineFacts, NicFacts, PciFacts};

use super::*;
use crate::request::Purpose;

/// What QEMU's monitor answers of a stopped machine with these devices.
fn monitor(devices: &[String]) -> String {
    let mut command = Command::new("qemu-system-x86_64");
    command
        .args(["-accel", "tcg", "-S", "-display", "none", "-nodefaults", "-monitor", "stdio"])
        .args(devices);
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.unwrap_or_else(|error| panic!("Debian package qemu-system-x86: {error}"));
    child.stdin.take().unwrap().write_all(b"info qtree\nquit\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{devices:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn ids_of_emulated_devices_are_those_that_qemu_tells() {
    let known = Command::new("qemu-system-x86_64").args(["-device", "help"]).output().unwrap();
    let known = String::from_utf8_lossy(&known.stdout).into_owned();
    // IDE and AHCI are what the machine types have.
    let added = BUSES.iter().filter(|(name, _)| !matches!(*name, "ide" | "ahci")).chain(&MODELS);
    let added: Vec<_> = added.filter(|(_, device)| known.contains(&format!("\"{device}\""))).collect();
    let missing: Vec<_> = BUSES
        .iter()
        .chain(&MODELS)
        .filter(|row| row.0 != "ide" && !known.contains(&format!("\"{}\"", row.1)))
        .collect();
    // igb came with QEMU 8.0.
    assert!(missing.iter().all(|(name, _)| *name == "igb"), "{missing:?}");
    let mut devices: Vec<String> = vec!["-drive".into(), "if=none,id=d0,file=null-co://,format=raw".into()];
    devices.extend(["-drive".into(), "if=none,id=d1,file=null-co://,format=raw".into()]);
    for (name, device) in &added {
        let options = match *name {
            "virtio-blk" => ",drive=d0",
            "nvme" => ",drive=d1,serial=x",
            _ => "",
        };
        devices.extend(["-device".into(), format!("{device}{options}")]);
    }
    let told = [("pc", devices), ("q35", vec![])].map(|(machine, mut devices)| {
        devices.extend(["-machine".into(), machine.into()]);
        monitor(&devices)
    });
    let told = told.concat();
    let mut names: Vec<&str> = added.iter().map(|(name, _)| *name).collect();
    names.extend(["ide", "ahci"]);
    for name in names {
        let function = emulated::function(name).unwrap();
        let ((vendor, device), (subvendor, subdevice)) = (function.id, function.subsystem);
        let id = format!("pci id {vendor:04x}:{device:04x} (sub {subvendor:04x}:{subdevice:04x})");
        let line = told.lines().find(|line| line.contains(&format!("pci id {vendor:04x}:{device:04x}")));
        assert!(line.is_some_and(|line| line.contains(&id)), "{name} is not {id}: {line:?}\n{told}");
    }
}

#[test]
fn modaliases_are_spelled_as_the_kernel_spells_them() {
    // From /sys of a machine with a virtio disk, an e1000 and Hyper-V's SCSI, by Linux 6.1.
    let all: Vec<String> = ["kvm", "hyperv", "qemu:ahci+e1000"]
        .iter()
        .flat_map(|name| profile(name).unwrap().parts.into_iter().map(|part| part.modalias))
        .collect();
    for modalias in [
        "pci:v00001AF4d00001001sv00001AF4sd00000002bc01sc00i00",
        "virtio:d00000002v00001AF4",
        "pci:v00008086d0000100Esv00001AF4sd00001100bc02sc00i00",
        "pci:v00008086d00002922sv00001AF4sd00001100bc01sc06i01",
        "vmbus:d96361baa104294db60572e2ffb1dc7f",
    ] {
        assert!(all.iter().any(|known| known == modalias), "{modalias}: {all:#?}");
    }
}

#[test]
fn every_profile_has_a_disk_and_only_the_superset_is_uncertain() {
    for name in NAMES {
        let hardware = profile(name).unwrap();
        let certain = hardware.parts.iter().any(|part| part.purpose == Purpose::Disk && part.certain);
        assert_eq!(certain, name != "physical", "{name}");
        assert!(hardware.parts.iter().any(|part| part.purpose == Purpose::Nic), "{name}");
    }
    for (bus, _) in BUSES {
        for nic in MODELS.iter().map(|(nic, _)| *nic).chain(["none"]) {
            let hardware = profile(&format!("qemu:{bus}+{nic}")).unwrap();
            assert!(hardware.parts.iter().any(|part| part.purpose == Purpose::Disk), "{bus}");
            assert_eq!(hardware.nics.len(), usize::from(nic != "none"), "{nic}");
        }
    }
    for name in ["", "kvmm", "qemu:", "qemu:floppy+e1000", "qemu:ahci+ne2k", "./not/there.json"] {
        assert!(profile(name).is_err(), "{name:?}");
    }
}

#[test]
fn a_machine_is_read_from_its_inventory_and_from_a_document_with_one() {
    let pci = |address: &str, class: &str, modalias: &str| PciFacts {
        address: address.into(),
        class: class.into(),
        modalias: Some(modalias.into()),
        ..PciFacts::default()
    };
    let facts = MachineFacts {
        vendor: Some("Dell Inc.".into()),
        product: Some("PowerEdge R740".into()),
        pci: vec![
            pci("0000:18:00.0", "010400", "pci:raid"),
            pci("0000:00:17.0", "010601", "pci:ahci"),
            pci("0000:19:00.0", "020000", "pci:nic"),
            pci("0000:00:00.0", "060000", "pci:bridge"),
        ],
        buses: vec![BusFacts {
            bus: "virtio".into(),
            modalias: "virtio:d00000002v00001AF4".into(),
            ..BusFacts::default()
        }],
        disks: vec![DiskFacts {
            pci_address: Some("0000:18:00.0".into()),
            sector_size: 4096,
            ..DiskFacts::default()
        }],
        nics: vec![NicFacts {
            mac: Some("AA:BB:CC:DD:EE:FF".into()),
            pci_address: Some("0000:19:00.0".into()),
            ..NicFacts::default()
        }],
        ..MachineFacts::default()
    };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("machine.json");
    let text = serde_json::to_string(&facts).unwrap();
    for document in [text.clone(), format!("{{\"machine\":{text},\"warnings\":[]}}")] {
        std::fs::write(&path, document).unwrap();
        let hardware = profile(path.to_str().unwrap()).unwrap();
        assert_eq!((hardware.name.as_str(), hardware.sector_size), ("Dell Inc. PowerEdge R740", Some(4096)));
        let parts: Vec<_> =
            hardware.parts.iter().map(|part| (part.modalias.as_str(), part.purpose, part.certain)).collect();
        assert_eq!(
            parts,
            [
                ("pci:raid", Purpose::Disk, true),
                ("pci:ahci", Purpose::Disk, false),
                ("pci:nic", Purpose::Nic, true),
                ("pci:bridge", Purpose::Other, false),
                ("virtio:d00000002v00001AF4", Purpose::Disk, true),
            ]
        );
        assert_eq!(hardware.nics[0].mac.as_deref(), Some("aa:bb:cc:dd:ee:ff"));
        assert_eq!(hardware.nics[0].modalias.as_deref(), Some("pci:nic"));
        assert_eq!((hardware.hypervisor, hardware.serial), (None, None));
    }
    for broken in ["{}", "[]", "", "{\"machine\":3}", "{\"pci\":7}"] {
        std::fs::write(&path, broken).unwrap();
        assert!(profile(path.to_str().unwrap()).is_err(), "{broken}");
    }
}
