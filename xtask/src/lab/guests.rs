// SPDX-License-Identifier: Apache-2.0
//! The table of the guests.

use crate::lab::debian::{BOOKWORM, BOOKWORM_UEFI, BULLSEYE, TRIXIE, TRIXIE_BIOS, TRIXIE_DRACUT};
use crate::lab::guest::{Guest, Purpose};
use crate::lab::hardware::{Bus, Chipset, Firmware, Hardware};
use crate::run::{Failure, Result};

const GIB: u64 = 1 << 30;

/// The address that adapters of guests to be fitted have in their old machine; in the new one they have another.
const OLD_MAC: Option<&str> = Some("52:54:00:0d:0d:01");

/// All guests.
pub(crate) const GUESTS: &[Guest] = &[
    Guest {
        name: "bookworm",
        about: "Debian 12, BIOS, MBR with a logical partition, ext4, swap",
        tree: &BOOKWORM,
        recipe: include_str!("../../../tests/lab/guest-bookworm.sh"),
        packages: None,
        size: 4 * GIB,
        hardware: hardware(Chipset::Pc, Firmware::Bios, Bus::Ahci, "e1000", None),
        purpose: Purpose::Restore,
        hostname: "web01",
        mounts: &[("/", "ext4")],
        swaps: 1,
    },
    Guest {
        name: "trixie",
        about: "Debian 13, UEFI, GPT with ESP, /boot, LVM with ext4, XFS and swap",
        tree: &TRIXIE,
        recipe: include_str!("../../../tests/lab/guest-trixie.sh"),
        packages: None,
        size: 6 * GIB,
        hardware: hardware(Chipset::Q35, Firmware::Uefi, Bus::Nvme, "e1000e", None),
        purpose: Purpose::Restore,
        hostname: "db01",
        mounts: &[("/", "ext4"), ("/boot", "ext4"), ("/boot/efi", "vfat"), ("/srv", "xfs")],
        swaps: 1,
    },
    Guest {
        name: "btrfs",
        about: "Debian 12, BIOS, GPT with a BIOS boot partition, compressed btrfs with subvolumes",
        tree: &BOOKWORM,
        recipe: include_str!("../../../tests/lab/guest-btrfs.sh"),
        packages: None,
        size: 4 * GIB,
        hardware: hardware(Chipset::Q35, Firmware::Bios, Bus::Ahci, "e1000e", None),
        purpose: Purpose::Restore,
        hostname: "files01",
        mounts: &[("/", "btrfs"), ("/home", "btrfs")],
        swaps: 0,
    },
    Guest {
        name: "ahci",
        about: "Debian 12, BIOS, MBR, ext4, initramfs for AHCI only, static address by ifupdown",
        tree: &BOOKWORM,
        recipe: include_str!("../../../tests/lab/guest-ahci.sh"),
        packages: None,
        size: 4 * GIB,
        hardware: hardware(Chipset::Pc, Firmware::Bios, Bus::Ahci, "e1000", OLD_MAC),
        purpose: Purpose::Fit,
        hostname: "web02",
        mounts: &[("/", "ext4")],
        swaps: 1,
    },
    Guest {
        name: "virtio",
        about: "Debian 12, BIOS, MBR, ext4, initramfs for virtio only, DHCP by ifupdown",
        tree: &BOOKWORM,
        recipe: include_str!("../../../tests/lab/guest-virtio.sh"),
        packages: Some(&BOOKWORM_UEFI),
        size: 4 * GIB,
        hardware: hardware(Chipset::Pc, Firmware::Bios, Bus::Virtio, "virtio-net-pci", OLD_MAC),
        purpose: Purpose::Fit,
        hostname: "app01",
        mounts: &[("/", "ext4")],
        swaps: 1,
    },
    Guest {
        name: "dracut",
        about: "Debian 13, UEFI with shim, GPT, /boot, XFS in LVM, host-only dracut for AHCI, NetworkManager",
        tree: &TRIXIE_DRACUT,
        recipe: include_str!("../../../tests/lab/guest-dracut.sh"),
        packages: None,
        size: 5 * GIB,
        hardware: hardware(Chipset::Q35, Firmware::Uefi, Bus::Ahci, "e1000e", OLD_MAC),
        purpose: Purpose::Fit,
        hostname: "db02",
        mounts: &[("/", "xfs"), ("/boot", "ext4"), ("/boot/efi", "vfat")],
        swaps: 1,
    },
    Guest {
        name: "uefi",
        about: "Debian 13, UEFI, GPT, ext4, initramfs for virtio only, DHCP by systemd-networkd",
        tree: &TRIXIE,
        recipe: include_str!("../../../tests/lab/guest-uefi.sh"),
        packages: Some(&TRIXIE_BIOS),
        size: 4 * GIB,
        hardware: hardware(Chipset::Q35, Firmware::Uefi, Bus::Virtio, "virtio-net-pci", OLD_MAC),
        purpose: Purpose::Fit,
        hostname: "app02",
        mounts: &[("/", "ext4"), ("/boot/efi", "vfat")],
        swaps: 1,
    },
    Guest {
        name: "sdboot",
        about: "Debian 13, systemd-boot with entries on the ESP, btrfs subvolumes, host-only dracut, systemd-networkd",
        tree: &TRIXIE_DRACUT,
        recipe: include_str!("../../../tests/lab/guest-sdboot.sh"),
        packages: None,
        size: 4 * GIB,
        hardware: hardware(Chipset::Q35, Firmware::Uefi, Bus::Virtio, "virtio-net-pci", OLD_MAC),
        purpose: Purpose::Fit,
        hostname: "app03",
        mounts: &[("/", "btrfs"), ("/home", "btrfs"), ("/efi", "vfat")],
        swaps: 0,
    },
    Guest {
        name: "bullseye",
        about: "Debian 11, BIOS, MBR, /dev/sda1 in fstab and as root, swap to resume from, initramfs for IDE only",
        tree: &BULLSEYE,
        recipe: include_str!("../../../tests/lab/guest-bullseye.sh"),
        packages: None,
        size: 4 * GIB,
        hardware: hardware(Chipset::Pc, Firmware::Bios, Bus::Ide, "rtl8139", OLD_MAC),
        purpose: Purpose::Fit,
        hostname: "old01",
        mounts: &[("/", "ext4"), ("/boot", "ext4")],
        swaps: 1,
    },
];

const fn hardware(
    chipset: Chipset,
    firmware: Firmware,
    bus: Bus,
    nic: &'static str,
    mac: Option<&'static str>,
) -> Hardware {
    Hardware { chipset, firmware, bus, nic, mac, slot: 3 }
}

/// The guest of this name.
pub(crate) fn guest(name: &str) -> Result<&'static Guest> {
    GUESTS.iter().find(|guest| guest.name == name).ok_or_else(|| {
        let names: Vec<&str> = GUESTS.iter().map(|guest| guest.name).collect();
        Failure::new(format!("there is no guest {name}: there are {}", names.join(", ")))
    })
}
