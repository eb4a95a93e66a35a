// SPDX-License-Identifier: Apache-2.0
//! UEFI guests without a fallback path get one, of their own files.

use std::fs;

use unmoor_images::manifest::Firmware;
use unmoor_images::partition::Role;

use super::machine::{MIB, Machine, partition_file, request};
use super::{run, text};

/// A disk whose ESP has `files`.
fn guest(files: &[(&str, &str)]) -> Machine {
    let script = "label: gpt\nstart=2048, size=64M, type=U\nstart=133120, size=60M, type=L\n";
    let machine = Machine::new(Firmware::Uefi, 140 * MIB, script, 2, &[]);
    let from = machine.dir.path().join("esp");
    for (path, content) in files {
        let path = from.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    machine.volume(MIB, 64 * MIB, |path| {
        run("dosfstools", "mkfs.fat", &["-F32", "-i", "DEADBEEF", "-n", "ESP", path]);
        run("mtools", "mcopy", &["-i", path, "-s", text(&from.join("EFI")), "::"]);
    });
    machine.seal();
    machine
}

#[test]
fn copies_of_the_distributions_own_signed_loaders_come_into_efi_boot() {
    let machine = guest(&[
        ("EFI/debian/shimx64.efi", "shim"),
        ("EFI/debian/grubx64.efi", "grub"),
        ("EFI/debian/mmx64.efi", "manager"),
        ("EFI/debian/fbx64.efi", "fallback"),
        ("EFI/debian/grub.cfg", "stub"),
        ("EFI/aaa/shimx64.efi", "another's"),
    ]);
    let plan = machine.plan(&request(Firmware::Uefi, Default::default()), |_| {});
    assert!(plan.edits.is_empty(), "the partition is not mounted: its volume is made anew");
    machine.apply(&plan);
    let (esp, _) = partition_file(&machine, Role::Esp);
    run("dosfstools", "fsck.fat", &["-n", text(&esp)]);
    let read = |name: &str| run("mtools", "mtype", &["-i", text(&esp), &format!("::/EFI/{name}")]);
    for (name, content) in [
        ("BOOT/BOOTX64.EFI", "shim"),
        ("BOOT/grubx64.efi", "grub"),
        ("BOOT/mmx64.efi", "manager"),
        ("debian/shimx64.efi", "shim"),
        ("debian/grub.cfg", "stub"),
    ] {
        assert_eq!(read(name), content, "{name}");
    }
    assert!(read("BOOT/grub.cfg").contains("configfile /EFI/debian/grub.cfg"));
    let listing = run("mtools", "mdir", &["-/", "-b", "-i", text(&esp), "::/EFI/BOOT"]);
    assert!(!listing.contains("fbx64"), "{listing}");
    let identity = run("util-linux", "blkid", &["-p", "-o", "export", text(&esp)]);
    assert!(identity.contains("UUID=DEAD-BEEF") && identity.contains("LABEL=ESP"), "{identity}");

    // Then there is nothing left to do.
    let again = machine.plan(&request(Firmware::Uefi, Default::default()), |_| {});
    assert!(again.disk.is_empty() && again.edits.is_empty() && again.findings.is_empty(), "{again:?}");
}

#[test]
fn systemd_boot_is_its_own_fallback_and_an_empty_partition_is_refused() {
    let machine = guest(&[("EFI/systemd/systemd-bootx64.efi", "systemd-boot"), ("EFI/Linux/uki.efi", "uki")]);
    machine.apply(&machine.plan(&request(Firmware::Uefi, Default::default()), |_| {}));
    let (esp, _) = partition_file(&machine, Role::Esp);
    assert_eq!(run("mtools", "mtype", &["-i", text(&esp), "::/EFI/BOOT/BOOTX64.EFI"]), "systemd-boot");

    let empty =
        guest(&[("EFI/other/readme", "x")]).plan(&request(Firmware::Uefi, Default::default()), |_| {});
    assert!(empty.is_refused() && empty.findings[0].text.contains("neither \\EFI\\BOOT\\BOOTX64.EFI nor"));
    let script = "label: gpt\nstart=2048, size=60M, type=L\n";
    let machine = Machine::new(Firmware::Uefi, 100 * MIB, script, 1, &[]);
    machine.seal();
    let none = machine.plan(&request(Firmware::Uefi, Default::default()), |_| {});
    assert!(
        none.is_refused() && none.findings[0].text.contains("none of its disks has an EFI system partition")
    );
}
