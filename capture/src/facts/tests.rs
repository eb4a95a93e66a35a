// SPDX-License-Identifier: Apache-2.0

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use super::*;

struct Machine {
    folder: tempfile::TempDir,
}

impl Machine {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }
    fn path(&self, path: &str) -> PathBuf {
        let path = self.folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    }
    fn files(&self, folder: &str, files: &[(&str, &str)]) {
        for (name, text) in files {
            fs::write(self.path(&format!("{folder}/{name}")), text).unwrap();
        }
    }
    fn link(&self, path: &str, target: &str) {
        let target = self.folder.path().join(target);
        fs::create_dir_all(&target).unwrap();
        symlink(target, self.path(path)).unwrap();
    }
    fn facts(&self) -> MachineFacts {
        read(&Tree::at(self.folder.path()))
    }
}

#[test]
fn a_uefi_server_with_sata_sas_and_nvme_disks_is_described() {
    let machine = Machine::new();
    machine.files(
        "sys/class/dmi/id",
        &[
            ("sys_vendor", "Dell Inc.\n"),
            ("product_name", "PowerEdge R640\n"),
            ("product_serial", "To be filled by O.E.M.\n"),
            ("product_uuid", "4C4C4544-0042-3510-8053-B4C04F564433\n"),
            ("board_vendor", "Dell Inc.\n"),
            ("board_name", "0H28RR\n"),
        ],
    );
    fs::write(
        machine.path("sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"),
        [6, 0, 0, 0, 1],
    )
    .unwrap();
    machine.files(
        "proc",
        &[
            ("cpuinfo", "processor\t: 0\nmodel name\t: Xeon Gold\n"),
            ("meminfo", "MemTotal:       16384 kB\n"),
        ],
    );
    machine.files("sys/devices/system/cpu", &[("online", "0-3,8\n")]);

    let pci = "sys/devices/pci0000:00/0000:00:1f.2";
    machine.files(
        pci,
        &[
            ("vendor", "0x8086\n"),
            ("device", "0x2922\n"),
            ("class", "0x010601\n"),
            ("subsystem_vendor", "0x1af4\n"),
            ("subsystem_device", "0x1100\n"),
            ("modalias", "pci:v00008086\n"),
        ],
    );
    machine.link(&format!("{pci}/subsystem"), "sys/bus/pci");
    machine.link(&format!("{pci}/driver"), "sys/bus/pci/drivers/ahci");
    machine.link("sys/bus/pci/devices/0000:00:1f.2", pci);

    let sda = format!("{pci}/ata1/host0/target0:0:0/0:0:0:0/block/sda");
    machine.files(
        &sda,
        &[
            ("size", "1953525168\n"),
            ("queue/rotational", "1\n"),
            ("queue/logical_block_size", "512\n"),
            ("queue/physical_block_size", "4096\n"),
            ("removable", "0\n"),
            ("device/vendor", "ATA     \n"),
            ("device/model", "ST1000DM010-2EP1\n"),
            ("device/wwid", "naa.5000c500a1b2c3d4\n"),
            ("device/vpd_pg80", "\0\u{0}\0\u{8}  Z9ABCD"),
            ("dev", "8:0\n"),
        ],
    );
    machine.link("sys/block/sda", &sda);
    machine.files(&format!("{sda}/sda1"), &[("partition", "1\n")]);
    machine.link("sys/dev/block/8:0", &sda);
    machine.link("sys/dev/block/8:1", &format!("{sda}/sda1"));
    let nvme = "sys/devices/pci0000:00/0000:01:00.0/nvme/nvme0/nvme0n1";
    machine.files(nvme, &[("size", "2048\n"), ("wwid", "eui.0025385\n"), ("device/serial", "S4NX\n")]);
    machine.link("sys/block/nvme0n1", nvme);
    machine.files("sys/devices/virtual/block/loop0", &[("size", "8\n")]);
    machine.link("sys/block/loop0", "sys/devices/virtual/block/loop0");

    machine.files(
        "sys/class/net/eno1",
        &[("address", "52:54:00:12:34:56\n"), ("speed", "-1\n"), ("carrier", "1\n")],
    );
    machine.link("sys/class/net/eno1/device", pci);
    machine.files("sys/class/net/br0", &[("address", "52:54:00:00:00:00\n")]);

    let facts = machine.facts();
    assert_eq!(facts.vendor.as_deref(), Some("Dell Inc."));
    assert_eq!(facts.serial, None, "a placeholder is no serial number");
    assert_eq!(facts.uuid.as_deref(), Some("4c4c4544-0042-3510-8053-b4c04f564433"));
    assert_eq!(facts.board.as_deref(), Some("Dell Inc. 0H28RR"));
    assert_eq!((facts.firmware, facts.secure_boot), (Firmware::Uefi, Some(true)));
    assert_eq!((facts.cpu_count, facts.memory_bytes), (5, 16 << 20));
    assert_eq!(facts.cpu_model.as_deref(), Some("Xeon Gold"));

    let [sda, nvme] = facts.disks.as_slice() else { panic!("{:?}", facts.disks) };
    assert_eq!((sda.size_bytes, sda.sector_size, sda.physical_sector_size), (1_000_204_886_016, 512, 4096));
    assert_eq!(sda.model.as_deref(), Some("ST1000DM010-2EP1"));
    assert_eq!(sda.serial.as_deref(), Some("Z9ABCD"));
    assert_eq!(sda.transport.as_deref(), Some("sata"));
    assert_eq!((sda.pci_address.as_deref(), sda.driver.as_deref()), (Some("0000:00:1f.2"), Some("ahci")));
    assert!(sda.rotational && !sda.removable);
    assert_eq!((nvme.transport.as_deref(), nvme.serial.as_deref()), (Some("nvme"), Some("S4NX")));

    assert_eq!(facts.nics.len(), 1, "a bridge is no hardware");
    assert_eq!(facts.nics[0].driver.as_deref(), Some("ahci"));
    assert_eq!((facts.nics[0].speed_mbit, facts.nics[0].link), (None, true));
    assert_eq!((facts.pci[0].id.as_str(), facts.pci[0].class.as_str()), ("8086:2922", "010601"));
    assert_eq!(facts.pci[0].subsystem.as_deref(), Some("1af4:1100"));

    let tree = Tree::at(machine.folder.path());
    assert_eq!(
        describe_disk(&tree, libc::makedev(8, 1)).map(|disk| disk.name),
        Some("sda".into()),
        "of its partition too"
    );
    assert_eq!(describe_disk(&tree, libc::makedev(7, 0)), None);
}

#[test]
fn a_machine_that_tells_nothing_is_described_all_the_same() {
    let machine = Machine::new();
    let facts = machine.facts();
    assert_eq!(facts.firmware, Firmware::Bios);
    assert_eq!((facts.vendor, facts.secure_boot, facts.disks.len()), (None, None, 0));
    let here = read(&Tree::default());
    assert!(here.memory_bytes > 0 && here.cpu_count > 0);
    assert!(Path::new("/sys/block").exists() || here.disks.is_empty());
}
