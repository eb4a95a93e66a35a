// SPDX-License-Identifier: Apache-2.0
//! What is added, and what is left behind for later kernels.

use std::collections::BTreeMap;
use std::fs;

use unmoor_convert::inspection::Layer;
use unmoor_convert::plan::Severity;
use unmoor_convert::request::Purpose;
use unmoor_initramfs::modules::ModuleTree;

use super::*;

fn virtio() -> Request {
    request(vec![part(VIRTIO_BLK, Purpose::Disk, true)])
}

#[test]
fn each_kernel_gets_what_it_lacks_and_running_it_again_plans_nothing() {
    let phony = Phony::new(Style::Udev);
    let plan = phony.plan(&virtio());
    assert_eq!(plan.findings, []);
    assert_eq!(paths(&plan), [format!("/boot/initrd.img-{NEW}"), format!("/boot/initrd.img-{OLD}")]);
    assert!(
        plan.edits[0].reasons[0].why.contains("virtio, virtio_ring, virtio_pci, virtio_blk"),
        "{:?}",
        plan.edits[0].reasons
    );
    phony.apply(&plan);
    for release in [NEW, OLD] {
        let archive = phony.archive(release);
        let directory = format!("lib/modules/{release}");
        for name in ["virtio/virtio", "virtio/virtio_ring", "virtio/virtio_pci", "block/virtio_blk"] {
            let path = format!("{directory}/kernel/drivers/{name}.ko");
            let content = archive.tree.read(&path).unwrap_or_else(|| panic!("{path} is not there"));
            let short = name.rsplit('/').next().unwrap();
            assert_eq!(
                content,
                format!("module {short} of {release}").as_bytes(),
                "unpacked, of this kernel"
            );
        }
        assert!(archive.tree.node(&format!("{directory}/kernel/drivers/nvme/host/nvme.ko")).is_none());
        let tree = ModuleTree::read(&archive.tree, &directory).unwrap();
        assert_eq!(tree.modules().count(), 7 + 4, "what was there and what came");
        assert_eq!(tree.drivers_for("virtio:d00000002v00001AF4"), ["virtio_blk"]);
        assert_eq!(tree.module("virtio_blk").unwrap().path, "kernel/drivers/block/virtio_blk.ko");
        assert_eq!(tree.closure(["ahci"]).order, ["scsi_common", "scsi_mod", "libata", "ahci"]);
        assert!(tree.drivers_for(NVME).is_empty(), "an index promises nothing that is not there");
    }
    assert_eq!(phony.plan(&virtio()).edits, []);
}

#[test]
fn a_scsi_host_brings_the_driver_of_its_disks_and_lvm_its_own() {
    let mut phony = Phony::new(Style::Udev);
    phony.root.insert(2, Layer::LogicalVolume { vg: "vg0".to_owned(), lv: "root".to_owned() });
    let plan = phony.plan(&request(vec![part(MEGASAS, Purpose::Disk, true)]));
    assert!(plan.edits[0].reasons[0].why.ends_with("megaraid_sas, dm_mod"), "{:?}", plan.edits[0].reasons);
}

#[test]
fn what_the_initramfs_holds_or_the_kernel_has_built_in_is_not_added() {
    let phony = Phony::new(Style::Udev);
    let ahci = "pci:v00008086d00002922sv00001AF4sd00001100bc01sc06i01";
    let plan = phony.plan(&request(vec![part(ahci, Purpose::Disk, true)]));
    assert_eq!((plan.edits, plan.findings), (vec![], vec![]));
    for release in [NEW, OLD] {
        let directory = format!("/usr/lib/modules/{release}");
        phony.modules(release, &["virtio", "virtio_ring", "virtio_pci", "virtio_blk"]);
        phony.write(
            &format!("{directory}/modules.builtin"),
            b"kernel/drivers/block/virtio_blk.ko\nkernel/drivers/virtio/virtio_pci.ko\n",
        );
        phony.write(
            &format!("{directory}/modules.builtin.modinfo"),
            b"virtio_blk.alias=virtio:d00000002v*\0virtio_pci.alias=pci:v00001AF4d*sv*sd*bc*sc*i*\0",
        );
    }
    let plan = phony.plan(&virtio());
    assert_eq!((&plan.edits, &plan.findings), (&vec![], &vec![]));
    assert!(plan.capabilities.disk_buses.starts_with(&["virtio".to_owned()]), "{:?}", plan.capabilities);
    // Most kernels do not tell the aliases of device tables, and those before 5.2 tell nothing.
    for told in [Some(b"virtio_blk.license=GPL\0virtio_pci.version=1\0loop.alias=block-major-7-*\0"), None] {
        for release in [NEW, OLD] {
            let file = format!("/usr/lib/modules/{release}/modules.builtin.modinfo");
            match told {
                Some(told) => phony.write(&file, told),
                None => fs::remove_file(phony.path(&file)).unwrap(),
            }
        }
        let plan = phony.plan(&virtio());
        assert_eq!((plan.edits, plan.findings), (vec![], vec![]));
    }
}

#[test]
fn an_initramfs_without_udev_is_told_to_load_the_driver() {
    let names = "virtio\nvirtio_ring\nvirtio_pci\nvirtio_blk\n";
    let words = names.split_whitespace().collect::<Vec<_>>().join(" ");
    let arguments: String =
        names.split_whitespace().map(|name| format!("rd.driver.pre={name}")).collect::<Vec<_>>().join(" ");
    let expected = BTreeMap::from([
        ("conf/modules", format!("ahci\nsd_mod\n{names}")),
        ("config", format!("MODULES=\"ext4\"\nHOOKS=\"x\"\nMODULES=\"ext4 {words}\"\n")),
        ("etc/cmdline.d/90-unmoor.conf", format!("{arguments}\n")),
    ]);
    for (style, path) in [
        (Style::ConfModules, "conf/modules"),
        (Style::Mkinitcpio, "config"),
        (Style::Dracut, "etc/cmdline.d/90-unmoor.conf"),
    ] {
        let phony = Phony::new(style);
        phony.apply(&phony.plan(&virtio()));
        let archive = phony.archive(NEW);
        assert_eq!(String::from_utf8_lossy(archive.tree.read(path).unwrap()), expected[path]);
        assert_eq!(phony.plan(&virtio()).edits, [], "again");
    }
}

#[test]
fn later_kernels_get_the_drivers_by_the_guests_own_tools() {
    let phony = Phony::new(Style::Udev);
    phony.write("/usr/bin/dracut", b"");
    phony.write("/usr/share/initramfs-tools/hook-functions", b"");
    phony.write("/usr/bin/mkinitcpio", b"for f in /etc/mkinitcpio.conf.d/*.conf");
    let plan = phony.plan(&virtio());
    phony.apply(&plan);
    let text = |path: &str| fs::read_to_string(phony.path(path)).unwrap();
    let stack = "virtio virtio_ring virtio_pci virtio_blk jbd2 ext4";
    assert!(text("/etc/dracut.conf.d/50-unmoor.conf").contains(&format!("add_drivers+=\" {stack} \"")));
    assert!(text("/etc/initramfs-tools/hooks/unmoor").ends_with(&format!("manual_add_modules {stack}\n")));
    assert!(text("/etc/mkinitcpio.conf.d/50-unmoor.conf").contains("virtio_blk?"));
    for path in [
        "/etc/dracut.conf.d/50-unmoor.conf",
        "/etc/initramfs-tools/hooks/unmoor",
        "/etc/mkinitcpio.conf.d/50-unmoor.conf",
    ] {
        let status = std::process::Command::new("bash").arg("-n").arg(phony.path(path)).status().unwrap();
        assert!(status.success(), "{path} is shell");
    }
    assert_eq!(phony.plan(&virtio()).edits, []);
}

#[test]
fn capabilities_are_what_the_default_kernel_can_start_from() {
    let phony = Phony::new(Style::Udev);
    let plan = phony.plan(&virtio());
    // ahci was there, virtio came; nvme and megasas are in /lib/modules only. virtio-scsi has no driver at all.
    assert_eq!(plan.capabilities.disk_buses, ["virtio", "ahci"]);
    assert_eq!(plan.capabilities.nic_models, ["virtio-net-pci"]);
    assert!(plan.capabilities.virtio_modern);
}

#[test]
fn a_superset_adds_all_that_there_is_and_complains_little() {
    let phony = Phony::new(Style::Udev);
    let missing = "pci:v00001000d00009999sv0sd0bc01sc04i00";
    let parts = [VIRTIO_BLK, NVME, MEGASAS, missing].map(|modalias| part(modalias, Purpose::Disk, false));
    let plan = phony.plan(&request(parts.to_vec()));
    assert!(!plan.is_refused());
    assert_eq!(findings(&plan, Severity::Warning), [""; 0]);
    assert_eq!(findings(&plan, Severity::Note).len(), 1);
    phony.apply(&plan);
    let tree = phony.archive(NEW).tree;
    assert!(tree.node(&format!("lib/modules/{NEW}/kernel/drivers/nvme/host/nvme.ko")).is_some());
    assert!(tree.node(&format!("lib/modules/{NEW}/kernel/drivers/scsi/megaraid/megaraid_sas.ko")).is_some());
}

#[test]
fn files_that_other_rules_want_come_with_the_drivers_and_alone() {
    let ahci = "pci:v00008086d00002922sv00001AF4sd00001100bc01sc06i01";
    for (modalias, files) in [(VIRTIO_BLK, 2), (ahci, 1)] {
        let phony = Phony::new(Style::Udev);
        let directory = Directory::open(&phony.path("/")).unwrap();
        let link = "[Match]\nMACAddress=52:54:00:12:34:56\n[Link]\nName=ens3\n";
        let request = request(vec![part(modalias, Purpose::Disk, true)]);
        let plan = || {
            let mut draft = Draft::new(&directory);
            draft.initramfs_file("/etc/systemd/network/70-unmoor-ens3.link", link.as_bytes().to_vec(), 0o644);
            crate::inject(&mut draft, &phony.inspection(), &request).unwrap();
            draft.finish()
        };
        let first = plan();
        assert_eq!(first.edits.len(), 2, "{files} kinds of files in each initramfs");
        phony.apply(&first);
        let tree = phony.archive(OLD).tree;
        assert_eq!(tree.read("etc/systemd/network/70-unmoor-ens3.link").unwrap(), link.as_bytes());
        assert_eq!(
            tree.node(&format!("lib/modules/{OLD}/kernel/drivers/block/virtio_blk.ko")).is_some(),
            files == 2
        );
        assert_eq!(plan().edits, [], "again");
    }
}

#[test]
fn configuration_in_the_initramfs_that_hides_the_new_disks_is_corrected_in_what_is_appended() {
    let phony = Phony::new(Style::Udev);
    let lvm = "global {\n\tlocking_type = 4\n}\ndevices {\n\tfilter = [ \"a|/dev/sd[ab]|\", \"r|.*|\" ]\n}\n";
    for release in [NEW, OLD] {
        let mut writer = Writer::new(0);
        for path in ["etc", "etc/lvm", "etc/mdadm"] {
            writer.directory(path, 0o755).unwrap();
        }
        writer.file("etc/lvm/lvm.conf", 0o600, lvm.as_bytes()).unwrap();
        writer
            .file("etc/mdadm/mdadm.conf", 0o644, b"DEVICE /dev/sd*\nARRAY /dev/md0 UUID=1:2:3:4\n")
            .unwrap();
        let more = writer.finish().unwrap();
        let image = [initramfs(release, Style::Udev), more].concat();
        phony.write(&format!("/boot/initrd.img-{release}"), &image);
    }
    let ahci = "pci:v00008086d00002922sv00001AF4sd00001100bc01sc06i01";
    let request = request(vec![part(ahci, Purpose::Disk, true)]);
    let plan = phony.plan(&request);
    assert_eq!(plan.edits.len(), 2);
    assert!(
        plan.edits[0].reasons[0]
            .why
            .ends_with("has names of the old machine's disks: etc/lvm/lvm.conf, etc/mdadm/mdadm.conf"),
        "{:?}",
        plan.edits[0].reasons
    );
    phony.apply(&plan);
    let tree = phony.archive(NEW).tree;
    let corrected = lvm.replace("\tfilter", "# \tfilter");
    assert_eq!(tree.read("etc/lvm/lvm.conf"), Some(corrected.as_bytes()));
    assert_eq!(tree.node("etc/lvm/lvm.conf").unwrap().mode & 0o777, 0o600);
    assert_eq!(
        tree.read("etc/mdadm/mdadm.conf"),
        Some(&b"DEVICE partitions containers\nARRAY /dev/md0 UUID=1:2:3:4\n"[..])
    );
    assert_eq!(phony.plan(&request).edits, []);
}
