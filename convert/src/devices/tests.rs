// SPDX-License-Identifier: Apache-2.0
//! Devices by every name that a configuration may have for them.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use unmoor_images::formats::{self, Format, OpenOptions};
use unmoor_images::layout::{self, Hibernated, Options, Place};
use unmoor_images::manifest::{DiskFacts, MachineFacts};
use unmoor_images::monitor::Silent;

use super::names::kernel_name;
use super::{Device, Devices};

const M: u64 = 1 << 20;

fn run(package: &str, program: &str, arguments: &[&str]) -> String {
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let output = Command::new(program).args(arguments).env("PATH", path).output();
    let output =
        output.unwrap_or_else(|error| panic!("{program} is needed (Debian package {package}): {error}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// An ext4, swap and FAT on GPT partitions 1, 3 and 15.
fn disk(path: &Path) {
    let text = path.to_str().unwrap();
    File::create(path).unwrap().set_len(64 * M).unwrap();
    run(
        "gdisk",
        "sgdisk",
        &["-n", "1:2048:+16M", "-n", "3:0:+8M", "-n", "15:0:+16M", "-t", "15:ef00", "-c", "1:the root", text],
    );
    for (start, size, package, program, arguments) in [
        (M, 16 * M, "e2fsprogs", "mke2fs", vec!["-q", "-F", "-t", "ext4", "-L", "my root"]),
        (17 * M, 8 * M, "util-linux", "mkswap", vec!["-q", "-L", "swap0"]),
        (25 * M, 16 * M, "dosfstools", "mkfs.vfat", vec!["-n", "EFI"]),
    ] {
        let part = path.with_extension("part");
        File::create(&part).unwrap().set_len(size).unwrap();
        run(package, program, &[&arguments[..], &[part.to_str().unwrap()]].concat());
        let (bytes, file) = (std::fs::read(&part).unwrap(), File::options().write(true).open(path).unwrap());
        file.write_all_at(&bytes, start).unwrap();
    }
}

fn devices(paths: &[&Path], facts: Option<&MachineFacts>) -> Devices {
    let options = OpenOptions { format: Some(Format::Raw), ..OpenOptions::default() };
    let disks: Vec<_> = paths.iter().map(|path| formats::open(path, &options).unwrap().source).collect();
    let sources: Vec<_> = disks.iter().map(|disk| &**disk as _).collect();
    let options = Options { all: false, hibernated: Hibernated::Keep };
    let layouts = layout::analyze(&sources, &options, &Silent).unwrap();
    Devices::of(&layouts, &sources, facts)
}

fn value<'a>(export: &'a str, key: &str) -> Option<&'a str> {
    export.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
}

#[test]
fn devices_have_the_kinds_and_identities_that_blkid_tells() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk");
    disk(&path);
    let found = devices(&[&path], None);
    assert_eq!(found.devices.len(), 3, "{:#?}", found.devices);
    for device in &found.devices {
        let Place::Disk { offset, len, partition: Some(number) } = device.place else { panic!("{device:?}") };
        let (offset, len) = (offset.to_string(), len.to_string());
        let arguments = ["-p", "-o", "export", "-O", &offset, "-S", &len, path.to_str().unwrap()];
        let told = run("util-linux", "blkid", &arguments);
        assert_eq!(value(&told, "TYPE"), Some(device.kind.as_str()), "{told}");
        assert_eq!(value(&told, "UUID"), device.uuid.as_deref(), "{told}");
        assert_eq!(value(&told, "LABEL").map(|label| label.replace("\\ ", " ")), device.label, "{told}");
        let told = run("gdisk", "sgdisk", &["-i", &number.to_string(), path.to_str().unwrap()]);
        assert!(told.to_lowercase().contains(device.partuuid.as_deref().unwrap()), "{told}");
        assert!(told.to_lowercase().contains(device.partition_type.as_deref().unwrap()), "{told}");
    }
    assert!(found.devices[2].is_esp());
    let (root, swap, esp) = (Some(0), Some(1), Some(2));
    let uuid = found.devices[0].uuid.clone().unwrap();
    for (spec, want) in [
        (format!("UUID={uuid}"), root),
        (format!("UUID=\"{}\"", uuid.to_uppercase()), root),
        (format!("\"UUID={uuid}\""), root),
        (format!("/dev/disk/by-uuid/{uuid}"), root),
        ("LABEL=my root".into(), root),
        ("/dev/disk/by-label/my\\x20root".into(), root),
        ("PARTLABEL=the root".into(), root),
        (format!("PARTUUID={}", found.devices[0].partuuid.as_deref().unwrap()), root),
        ("/dev/sda1".into(), root),
        ("/dev/hda3".into(), swap),
        ("/dev//vda3".into(), swap),
        ("/dev/xvda15".into(), esp),
        ("/dev/nvme0n1p15".into(), esp),
        ("/dev/mmcblk0p1".into(), root),
        ("/dev/cciss/c0d0p1".into(), root),
        ("/dev/sdb1".into(), None),
        ("/dev/sda2".into(), None),
        ("/dev/sda".into(), None),
        ("UUID=".into(), None),
        ("LABEL=MY ROOT".into(), None),
        ("tmpfs".into(), None),
        ("//server/share".into(), None),
        (String::new(), None),
    ] {
        assert_eq!(found.resolve(&spec), want, "{spec}");
    }
}

#[test]
fn names_of_the_source_machine_are_taken_as_they_were_there() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk");
    disk(&path);
    let facts = MachineFacts {
        disks: vec![
            DiskFacts { name: "sda".into(), size_bytes: 512, ..DiskFacts::default() },
            DiskFacts {
                name: "sdb".into(),
                size_bytes: 64 * M,
                model: Some("ATA Samsung SSD 870".into()),
                serial: Some("S5Y".into()),
                wwn: Some("naa.5002538f70123456".into()),
                transport: Some("sata".into()),
                pci_address: Some("0000:00:1f.2".into()),
                ..DiskFacts::default()
            },
        ],
        ..MachineFacts::default()
    };
    let found = devices(&[&path], Some(&facts));
    for (spec, want) in [
        ("/dev/sdb1", Some(0)),
        ("/dev/sda1", None),
        // A name of before an older move.
        ("/dev/vda3", Some(1)),
        ("/dev/disk/by-id/ata-Samsung_SSD_870_S5Y-part15", Some(2)),
        ("ID=wwn-0x5002538f70123456-part3", Some(1)),
        ("/dev/disk/by-path/pci-0000:00:1f.2-ata-1-part1", Some(0)),
        ("/dev/disk/by-path/pci-0000:00:1f.20-ata-1-part1", None),
        ("/dev/disk/by-path/pci-0000:00:1f.2-ata-1-partx", None),
    ] {
        assert_eq!(found.resolve(spec), want, "{spec}");
    }
}

#[test]
fn kernel_names_are_told_from_others() {
    for (path, want) in [
        ("/dev/sda", Some(("sd", 0, None))),
        ("/dev/sdaa12", Some(("sd", 26, Some(12)))),
        ("/dev/xvdb2", Some(("xvd", 1, Some(2)))),
        ("/dev/nvme1n1p3", Some(("nvme", 1, Some(3)))),
        ("/dev/nvme1n1", Some(("nvme", 1, None))),
        ("/dev/mmcblk0p2", Some(("mmcblk", 0, Some(2)))),
        ("/dev/cciss/c0d1p2", Some(("cciss", 1, Some(2)))),
        ("/dev/sd", None),
        ("/dev/sda1x", None),
        ("/dev/sdabcd", None),
        ("/dev/sda99999999999", None),
        ("/dev/nvme1", None),
        ("/dev/nvme99999999999999999999n1", None),
        ("/dev/dm-0", None),
        ("sda", None),
    ] {
        assert_eq!(kernel_name(path), want, "{path}");
    }
}

fn device(place: Place, kind: &str, disk_names: &[String]) -> Device {
    Device {
        disk: 0,
        names: super::names::of_place(&place, disk_names),
        place,
        kind: kind.into(),
        uuid: None,
        label: None,
        partuuid: None,
        partlabel: None,
        partition_type: None,
        size: 0,
    }
}

#[test]
fn logical_volumes_and_arrays_have_all_their_names() {
    let lv = |lv: &str| Place::LogicalVolume { vg: "my-vg".into(), lv: lv.into(), len: 0 };
    let md = |name: &str| Place::Md {
        uuid: "00112233:44556677:8899aabb:ccddeeff".into(),
        name: Some(name.into()),
        offset: 0,
        len: 0,
    };
    let found = Devices {
        devices: vec![
            device(lv("root"), "ext4", &[]),
            device(lv("swap-1"), "swap", &[]),
            device(md("host:0"), "xfs", &[]),
        ],
        ..Devices::default()
    };
    for (spec, want) in [
        ("/dev/mapper/my--vg-root", Some(0)),
        ("/dev/mapper/my-vg-root", None),
        ("/dev/my-vg/swap-1", Some(1)),
        ("/dev/mapper/my--vg-swap--1", Some(1)),
        ("/dev/md0", Some(2)),
        ("/dev/md/0", Some(2)),
        ("/dev/md127", Some(2)),
        ("/dev/md1", None),
        ("/dev/disk/by-id/md-uuid-00112233:44556677:8899aabb:ccddeeff", Some(2)),
        ("/dev/disk/by-id/md-name-host:0", Some(2)),
    ] {
        assert_eq!(found.resolve(spec), want, "{spec}");
    }
    assert_eq!(found.devices[0].stable_spec().as_deref(), Some("/dev/mapper/my--vg-root"));
}
