// SPDX-License-Identifier: Apache-2.0
//! Disks that start with the firmware that they were made for: the guest's own menu speaks, with the prefix that it should have.

use unmoor_images::manifest::Firmware;

use super::machine::{MIB, Machine, bios_guest, menu, request};
use super::{payload, run, text};

#[test]
fn a_bios_guest_starts_with_uefi_by_shim_and_signed_grub() {
    let machine = bios_guest("proof-of-uefi");
    let plan = machine.plan(&request(Firmware::Uefi, payload()), |_| {});
    machine.apply(&plan);
    let said = machine.start(Firmware::Uefi, "proof-of-uefi", &[]);
    // GRUB's root by the search, which finds the first partition of what is a GPT now.
    assert!(said.contains("proof-of-uefi efi (hd0,gpt1)/boot/grub end"), "{said}");
}

#[test]
fn a_uefi_guest_starts_with_a_bios_by_a_core_image_made_here() {
    let script = "label: gpt\nstart=2048, size=64M, type=U\nstart=133120, size=200M, type=L\n";
    let machine = Machine::new(Firmware::Uefi, 300 * MIB, script, 2, &[]);
    machine.put("boot/proof", "");
    machine.put("boot/grub/grub.cfg", menu("proof-of-bios", "insmod regexp\nregexp b abc && insmod gfxterm"));
    machine.put("etc/fstab", format!("UUID={} / ext4 defaults 0 1\n", super::machine::ROOT));
    machine.volume(MIB, 64 * MIB, |path| {
        run("dosfstools", "mkfs.fat", &["-F32", path]);
    });
    machine.seal();
    let plan = machine.plan(&request(Firmware::Bios, payload()), |_| {});
    machine.apply(&plan);
    let verdict = run("gdisk", "sgdisk", &["-v", text(&machine.disk())]);
    assert!(verdict.contains("No problems found"), "{verdict}");
    let said = machine.start(Firmware::Bios, "proof-of-bios", &[]);
    assert!(said.contains("proof-of-bios pc (hd0,gpt2)/boot/grub end"), "{said}");
}

#[test]
fn a_disk_with_grubs_own_modules_goes_on_starting_with_a_bios_when_uefi_is_added() {
    let machine = bios_guest("proof-of-both");
    for entry in std::fs::read_dir("/usr/lib/grub/i386-pc").unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        let content = std::fs::read(&path).unwrap();
        machine.put(&format!("usr/lib/grub/i386-pc/{name}"), &content);
        machine.put(&format!("boot/grub/i386-pc/{name}"), &content);
    }
    machine.seal();
    let plan = machine.plan(&request(Firmware::Uefi, payload()), |_| {});
    machine.apply(&plan);
    for (firmware, platform) in [(Firmware::Bios, "pc"), (Firmware::Uefi, "efi")] {
        let said = machine.start(firmware, "proof-of-both", &[]);
        assert!(said.contains(&format!("proof-of-both {platform} (hd0,gpt1)/boot/grub end")), "{said}");
    }
}
