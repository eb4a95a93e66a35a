// SPDX-License-Identifier: Apache-2.0
//! What is said where it cannot be done.

use std::fs;

use unmoor_convert::files::{Files, Metadata, Room};
use unmoor_convert::plan::{Draft, Severity};
use unmoor_convert::request::Purpose;
use unmoor_images::Result;

use super::*;

fn virtio() -> Request {
    request(vec![part(VIRTIO_BLK, Purpose::Disk, true)])
}

#[test]
fn a_disk_without_a_driver_in_any_kernel_is_refused_by_id_and_kernel() {
    let phony = Phony::new(Style::Udev);
    phony.modules(NEW, &["megaraid_sas"]);
    phony.modules(OLD, &["megaraid_sas"]);
    let plan = phony.plan(&request(vec![part(MEGASAS, Purpose::Disk, true)]));
    assert!(plan.is_refused());
    let errors = findings(&plan, Severity::Error);
    assert_eq!(errors.len(), 1);
    assert!(
        errors[0].starts_with("driver: ")
            && errors[0].contains(MEGASAS)
            && errors[0].contains(NEW)
            && errors[0].contains(OLD),
        "{errors:?}"
    );
    assert!(plan.findings[0].remedy.is_some());
}

#[test]
fn a_disk_without_a_driver_is_an_error_for_the_default_kernel_and_a_warning_for_others() {
    let phony = Phony::new(Style::Udev);
    phony.modules(OLD, &["megaraid_sas"]);
    let hardware = request(vec![part(MEGASAS, Purpose::Disk, true)]);
    let plan = phony.plan(&hardware);
    assert_eq!(findings(&plan, Severity::Error), [""; 0]);
    assert!(findings(&plan, Severity::Warning)[0].contains(OLD));
    phony.modules(NEW, &["megaraid_sas"]);
    phony.modules(OLD, &[]);
    assert!(findings(&phony.plan(&hardware), Severity::Error)[0].contains(NEW));
}

#[test]
fn the_device_on_a_virtio_function_needs_its_driver_too() {
    let phony = Phony::new(Style::Udev);
    phony.modules(NEW, &["virtio_blk"]);
    let errors = findings(&phony.plan(&virtio()), Severity::Error);
    assert!(errors[0].contains("virtio:d00000002v00001AF4"), "{errors:?}");
}

#[test]
fn a_hypervisor_with_another_bus_that_works_is_no_refusal() {
    let phony = Phony::new(Style::Udev);
    phony.modules(NEW, &["megaraid_sas"]);
    let mut hardware =
        request(vec![part(MEGASAS, Purpose::Disk, true), part(VIRTIO_BLK, Purpose::Disk, true)]);
    assert!(phony.plan(&hardware).is_refused());
    hardware.hardware.hypervisor = Some("kvm".to_owned());
    let plan = phony.plan(&hardware);
    assert!(!plan.is_refused() && !findings(&plan, Severity::Warning).is_empty());
    assert!(!plan.capabilities.disk_buses.contains(&"megasas".to_owned()));
}

#[test]
fn a_driver_for_disks_on_a_controller_is_no_other_bus() {
    let phony = Phony::new(Style::Udev);
    phony.modules(NEW, &["megaraid_sas"]);
    phony.modules(OLD, &["megaraid_sas"]);
    let mut hardware =
        request(vec![part(MEGASAS, Purpose::Disk, true), part("scsi:t-0x00", Purpose::Disk, true)]);
    hardware.hardware.hypervisor = Some("kvm".to_owned());
    let errors = findings(&phony.plan(&hardware), Severity::Error);
    assert!(errors.len() == 1 && errors[0].contains(MEGASAS), "{errors:?}");
}

#[test]
fn a_network_adapter_without_a_driver_is_a_warning() {
    let phony = Phony::new(Style::Udev);
    let plan =
        phony.plan(&request(vec![part(VIRTIO_BLK, Purpose::Disk, true), part(VMXNET3, Purpose::Nic, true)]));
    assert!(!plan.is_refused());
    let warnings = findings(&plan, Severity::Warning);
    assert!(
        warnings.len() == 1 && warnings[0].contains("000015AD") && warnings[0].contains(NEW),
        "{warnings:?}"
    );
}

#[test]
fn a_module_that_is_indexed_and_not_there_is_no_driver() {
    let phony = Phony::new(Style::Udev);
    for release in [NEW, OLD] {
        fs::remove_file(
            phony.path(&format!("/usr/lib/modules/{release}/kernel/drivers/block/virtio_blk.ko.xz")),
        )
        .unwrap();
    }
    let errors = findings(&phony.plan(&virtio()), Severity::Error);
    assert!(errors[0].contains("virtio_blk"), "{errors:?}");
}

#[test]
fn an_initramfs_that_is_missing_or_corrupt_is_an_error_for_the_default_kernel_and_a_warning_for_another() {
    for (release, severity) in [(NEW, Severity::Error), (OLD, Severity::Warning)] {
        let path = format!("/boot/initrd.img-{release}");
        let phony = Phony::new(Style::Udev);
        let whole = copy_of(&phony.path(&path));
        fs::remove_file(phony.path(&path)).unwrap();
        let plan = phony.plan(&virtio());
        assert!(findings(&plan, severity)[0].starts_with("initramfs: "), "{:?}", plan.findings);
        assert_eq!(plan.is_refused(), severity == Severity::Error);
        for corrupt in [&whole[..whole.len() / 2], b"no archive", b"", &[0; 4096]] {
            phony.write(&path, corrupt);
            let found = findings(&phony.plan(&virtio()), severity);
            assert!(found[0].starts_with("initramfs: ") && found[0].contains(&path), "{found:?}");
        }
    }
}

#[test]
fn a_driver_that_the_initramfs_forbids_is_told() {
    let phony = Phony::new(Style::Udev);
    let image = initramfs(NEW, Style::Udev);
    let archive = archive::read(&image, &Limits::default()).unwrap();
    let forbids = archive::Addition::file("etc/modprobe.d/old.conf", *b"blacklist virtio-blk\n");
    let more = archive::append(&image, &archive, &[forbids], 0).unwrap();
    phony.write(&format!("/boot/initrd.img-{NEW}"), &[image, more].concat());
    let warnings = findings(&phony.plan(&virtio()), Severity::Warning);
    assert!(
        warnings[0].contains("virtio_blk") && warnings[0].contains("etc/modprobe.d/old.conf"),
        "{warnings:?}"
    );
}

#[test]
fn without_a_bootable_kernel_nothing_can_be_done() {
    let mut phony = Phony::new(Style::Udev);
    phony.kernels.iter_mut().for_each(|kernel| kernel.bootable = false);
    assert!(phony.plan(&virtio()).is_refused());
}

/// A guest whose /boot has little room.
struct Small<'a>(&'a dyn Files, Room);

impl Files for Small<'_> {
    fn metadata(&self, path: &str) -> Result<Option<Metadata>> {
        self.0.metadata(path)
    }
    fn link_metadata(&self, path: &str) -> Result<Option<Metadata>> {
        self.0.link_metadata(path)
    }
    fn read(&self, path: &str, most: u64) -> Result<Option<Vec<u8>>> {
        self.0.read(path, most)
    }
    fn list(&self, path: &str) -> Result<Vec<String>> {
        self.0.list(path)
    }
    fn read_link(&self, path: &str) -> Result<Option<String>> {
        self.0.read_link(path)
    }
    fn real_path(&self, path: &str) -> Result<Option<String>> {
        self.0.real_path(path)
    }
    fn room(&self, _path: &str) -> Result<Room> {
        Ok(self.1)
    }
}

#[test]
fn a_boot_filesystem_without_room_is_refused_by_bytes() {
    let phony = Phony::new(Style::Udev);
    let whole = Directory::open(&phony.path("/")).unwrap();
    let plan = |room| {
        let small = Small(&whole, room);
        let mut draft = Draft::new(&small);
        crate::inject(&mut draft, &phony.inspection(), &virtio()).unwrap();
        draft.finish()
    };
    let enough = plan(Room { bytes: 1 << 30, inodes: 10 });
    assert!(!enough.is_refused());
    // The second is written anew while the first has grown already.
    let sizes: Vec<u64> = [NEW, OLD]
        .map(|release| fs::metadata(phony.path(&format!("/boot/initrd.img-{release}"))).unwrap().len())
        .to_vec();
    let added: Vec<u64> = enough
        .edits
        .iter()
        .map(|edit| match &edit.change {
            Change::Append { content, .. } => content.bytes().len() as u64,
            other => panic!("{other:?}"),
        })
        .collect();
    let needed = sizes[1] + added[1] + added[0] + (64 << 10);
    assert!(!plan(Room { bytes: needed, inodes: 10 }).is_refused());
    let errors = findings(&plan(Room { bytes: needed - 1, inodes: 10 }), Severity::Error);
    assert!(
        errors[0].starts_with("room: ")
            && errors[0].contains("/boot")
            && errors[0].ends_with(": 1 are lacking"),
        "{errors:?}"
    );
    assert!(plan(Room { bytes: 1 << 30, inodes: 0 }).is_refused());
}

#[test]
fn kernels_and_lists_of_initramfs_files_without_end_are_fitted_up_to_a_bound() {
    let mut phony = Phony::new(Style::Udev);
    let image = copy_of(&phony.path(&format!("/boot/initrd.img-{NEW}")));
    let (entry, held) = (phony.boot.entries[0].clone(), phony.kernels[0].initramfs[0].clone());
    for number in 0..150 {
        let path = format!("/boot/other-{number}");
        phony.write(&path, &image);
        phony.kernels[0].initramfs.push(Initramfs { path: path.clone(), ..held.clone() });
        phony.boot.entries.push(BootEntry { initramfs: vec![path], default: false, ..entry.clone() });
    }
    let plan = phony.plan(&request(vec![part(VIRTIO_BLK, Purpose::Disk, true)]));
    assert_eq!(paths(&plan)[0], format!("/boot/initrd.img-{NEW}"), "the default one is fitted in any case");
    assert_eq!(plan.edits.len(), 64);
    let warnings = findings(&plan, Severity::Warning);
    assert!(
        warnings.iter().any(|text| text.contains("initramfs of their own: 64 are fitted")),
        "{warnings:?}"
    );
}
