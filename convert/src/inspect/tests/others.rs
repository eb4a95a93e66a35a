// SPDX-License-Identifier: Apache-2.0
//! SUSE, Arch, Alpine.

use unmoor_images::manifest::Firmware;

use super::*;
use crate::inspection::{Layer, LoaderKind, Stack, Unlock};

#[test]
fn leap_with_wicked_and_btrfs_snapshots() {
    let kernel = "6.4.0-150600.21-default";
    let cfg = format!(
        "set btrfs_relative_path=\"y\"\nexport btrfs_relative_path\nset default=\"${{saved_entry}}\"\n\
         menuentry 'openSUSE Leap 15.6'  --class opensuse --class gnu-linux $menuentry_id_option 'gnulinux-simple-{ROOT_UUID}' {{\n\
         \tset gfxpayload=keep\n\tsearch --no-floppy --fs-uuid --set=root {ROOT_UUID}\n\
         \tlinux\t/boot/vmlinuz-{kernel} root=UUID={ROOT_UUID}  ${{extra_cmdline}} splash=silent resume=/dev/disk/by-uuid/5a5a5a5a-2222-3333-4444-555555555555 quiet\n\
         \tinitrd\t/boot/initrd-{kernel}\n}}\n\
         if [ -f \"/.snapshots/grub-snapshot.cfg\" ]; then\n  source \"/.snapshots/grub-snapshot.cfg\"\nfi\n"
    );
    let found = Phony::new("NAME=\"openSUSE Leap\"\nVERSION_ID=\"15.6\"\nID=\"opensuse-leap\"\nID_LIKE=\"suse opensuse\"\n")
        .partition("btrfs", ROOT_UUID, "0x83")
        .partition("swap", "5a5a5a5a-2222-3333-4444-555555555555", "0x82")
        .kernel(kernel, &format!("/boot/initrd-{kernel}"))
        .link("/boot/vmlinuz", &format!("vmlinuz-{kernel}"))
        .link("/boot/initrd", &format!("initrd-{kernel}"))
        .file("/boot/grub2/grub.cfg", cfg)
        .files(&["/boot/grub2/i386-pc/normal.mod", "/usr/sbin/wicked", "/usr/bin/dracut"])
        .file("/etc/fstab", format!("UUID={ROOT_UUID}  /  btrfs  defaults  0  0\nUUID={ROOT_UUID}  /home  btrfs  subvol=/@/home  0  0\nUUID={ROOT_UUID}  /.snapshots  btrfs  subvol=/@/.snapshots  0  0\n"))
        .file("/etc/sysconfig/network/ifcfg-eth0", "BOOTPROTO='static'\nSTARTMODE='auto'\nIPADDR='192.0.2.7/24'\nIPADDR_1='192.0.2.8'\nPREFIXLEN_1='25'\n")
        .file("/etc/sysconfig/network/ifcfg-br0", "BOOTPROTO='dhcp'\nBRIDGE='yes'\nBRIDGE_PORTS='eth1'\n")
        .file("/etc/sysconfig/network/ifcfg-eth0.12", "ETHERDEVICE='eth0'\n")
        .file("/etc/sysconfig/network/routes", "# c\ndefault 192.0.2.1 - -\n")
        .inspect();
    assert_eq!(found.notes, Vec::<String>::new());
    let entry = default_entry(&found);
    assert_eq!(entry.kernel, Some(format!("/boot/vmlinuz-{kernel}")));
    // An unquoted variable that is empty is no argument.
    assert_eq!(entry.arguments.len(), 4, "{:?}", entry.arguments);
    assert_eq!(found.kernels.len(), 1);
    assert_eq!(found.resume[0].device, Some(1));
    let eth0 = interface(&found, "eth0");
    assert_eq!(
        (eth0.addresses.join(" "), eth0.gateways.join(" ")),
        ("192.0.2.7/24 192.0.2.8/25".into(), "192.0.2.1".into())
    );
    assert_eq!(eth0.configured_by[0].stack, Stack::Wicked);
    assert_eq!(interface(&found, "br0").virtual_kind.as_deref(), Some("bridge"));
    assert_eq!(interface(&found, "eth0.12").virtual_kind.as_deref(), Some("vlan"));
}

const ARCH: &str = "NAME=\"Arch Linux\"\nPRETTY_NAME=\"Arch Linux\"\nID=arch\n";

#[test]
fn arch_with_systemd_boot_mkinitcpio_networkd_and_luks() {
    let release = "6.8.1-arch1-1";
    let mut phony = Phony::new(ARCH)
        .partition("vfat", ESP_UUID, ESP)
        .partition("crypto_LUKS", "cccccccc-2222-3333-4444-555555555555", LINUX)
        .files(&["/boot/vmlinuz-linux", "/boot/initramfs-linux.img", "/boot/initramfs-linux-fallback.img", "/boot/intel-ucode.img"])
        .files(&["/boot/EFI/systemd/systemd-bootx64.efi", "/boot/EFI/BOOT/BOOTX64.EFI", "/usr/lib/systemd/systemd-udevd"])
        .files(&[&format!("/usr/lib/modules/{release}/modules.dep")])
        .file(&format!("/usr/lib/modules/{release}/pkgbase"), "linux\n")
        .file("/boot/loader/loader.conf", "# c\ntimeout 3\ndefault  arch.conf\nconsole-mode max\n")
        .file("/boot/loader/entries/arch.conf", "title   Arch Linux\nlinux   /vmlinuz-linux\ninitrd  /intel-ucode.img\ninitrd  /initramfs-linux.img\noptions cryptdevice=UUID=cccccccc-2222-3333-4444-555555555555:root root=/dev/mapper/root rootflags=subvol=@ rw\n")
        .file("/boot/loader/entries/zz-fallback.conf", "title   Arch Linux (fallback)\nlinux   /vmlinuz-linux\ninitrd  /initramfs-linux-fallback.img\noptions root=/dev/mapper/root rw\n")
        .file("/etc/mkinitcpio.conf", "MODULES=()\nHOOKS=(base udev autodetect modconf block encrypt filesystems)\n")
        .file("/etc/fstab", format!("/dev/mapper/root / btrfs rw,subvol=/@ 0 0\nUUID={ESP_UUID} /boot vfat rw 0 2\n"))
        .file("/etc/systemd/network/20-wired.network", "[Match]\nName=enp1s0\n\n[Network]\nAddress=192.0.2.7/24\nGateway=192.0.2.1\n")
        .file("/etc/systemd/network/30-any.network", "[Match]\nName=en*\nType=ether\n[Network]\nDHCP=ipv4\n")
        .file("/etc/systemd/network/40-mac.network", "[Match]\nMACAddress=52-54-00-00-00-02\n[Network]\nDHCP=yes\n[Route]\nDestination=10.0.0.0/8\nGateway=192.0.2.2\n")
        .file("/etc/systemd/network/br0.netdev", "[NetDev]\nName=br0\nKind=bridge\n")
        .file("/etc/systemd/network/10-lan.link", "[Match]\nMACAddress=52:54:00:00:00:01\n[Link]\nName=lan0\n");
    let unlock = Unlock { passphrase: 1, bound: vec!["systemd-tpm2".into()] };
    phony.devices.luks.insert(1, crate::devices::Luks { version: 2, unlock: unlock.clone() });
    let found = phony.inspect();
    assert_eq!(found.notes, Vec::<String>::new());
    assert_eq!(found.firmware, Firmware::Uefi);
    assert_eq!(found.boot.loaders[0].kind, LoaderKind::SystemdBoot);
    assert!(found.boot.esps[0].fallback);
    let entry = default_entry(&found);
    assert_eq!((entry.title.as_str(), entry.style.as_str()), ("Arch Linux", "systemd-boot"));
    assert_eq!(entry.initramfs, ["/boot/intel-ucode.img", "/boot/initramfs-linux.img"]);
    assert_eq!(found.kernels.len(), 1, "{:#?}", found.kernels);
    let kernel = &found.kernels[0];
    assert_eq!((kernel.release.as_str(), kernel.bootable), (release, true));
    let initramfs: Vec<_> =
        kernel.initramfs.iter().map(|one| (one.made_by.as_str(), one.host_only, one.path.as_str())).collect();
    assert_eq!(
        initramfs,
        [
            ("microcode", false, "/boot/intel-ucode.img"),
            ("mkinitcpio", true, "/boot/initramfs-linux.img"),
            ("mkinitcpio", false, "/boot/initramfs-linux-fallback.img")
        ]
    );
    assert_eq!(
        found.root[2..],
        [
            Layer::Luks { uuid: Some("cccccccc-2222-3333-4444-555555555555".into()), version: 2, unlock },
            Layer::Filesystem { kind: "btrfs".into(), uuid: None, subvolume: Some("@".into()) },
        ]
    );
    let wired = interface(&found, "enp1s0");
    assert_eq!(
        (wired.addresses.join(" "), wired.gateways.join(" ")),
        ("192.0.2.7/24".into(), "192.0.2.1".into())
    );
    let by_mac =
        found.network.interfaces.iter().find(|one| one.mac.as_deref() == Some("52:54:00:00:00:02")).unwrap();
    assert_eq!((by_mac.name.as_deref(), by_mac.gateways.len()), (None, 0));
    assert_eq!(interface(&found, "br0").virtual_kind.as_deref(), Some("bridge"));
    let pinned = &found.network.pinned_names[0];
    assert_eq!((pinned.mac.as_deref(), pinned.name.as_str()), (Some("52:54:00:00:00:01"), "lan0"));
}

/// A PE32+ image with these sections, each at a multiple of 512 bytes.
pub(super) fn uki(sections: &[(&str, &[u8])], signed: bool) -> Vec<u8> {
    let mut file = vec![0; 0x200];
    file[..2].copy_from_slice(b"MZ");
    file[0x3c] = 0x40;
    file[0x40..0x44].copy_from_slice(b"PE\0\0");
    file[0x44..0x46].copy_from_slice(&0x8664_u16.to_le_bytes());
    file[0x46..0x48].copy_from_slice(&(sections.len() as u16).to_le_bytes());
    file[0x54..0x56].copy_from_slice(&0xf0_u16.to_le_bytes());
    file[0x58..0x5a].copy_from_slice(&0x20b_u16.to_le_bytes());
    if signed {
        file[0x58 + 112 + 36] = 8;
    }
    file.resize(0x600, 0);
    for (index, (name, content)) in sections.iter().enumerate() {
        let at = 0x58 + 0xf0 + index * 40;
        let start = file.len();
        file.extend_from_slice(content);
        file.resize(file.len().next_multiple_of(0x200), 0);
        let raw = (file.len() - start) as u32;
        file[at..at + name.len()].copy_from_slice(name.as_bytes());
        file[at + 8..at + 12].copy_from_slice(&(content.len() as u32).to_le_bytes());
        file[at + 16..at + 20].copy_from_slice(&raw.to_le_bytes());
        file[at + 20..at + 24].copy_from_slice(&(start as u32).to_le_bytes());
    }
    file
}

#[test]
fn arch_with_a_unified_kernel_image() {
    let release = "6.9.0-arch1-1";
    let image = uki(
        &[
            (".osrel", ARCH.as_bytes()),
            (".uname", release.as_bytes()),
            (".cmdline", b"root=UUID=11111111-2222-3333-4444-555555555555 rw\n\0"),
            (".linux", b"kernel"),
            (".initrd", b"070701x"),
        ],
        true,
    );
    let found = Phony::new(ARCH)
        .partition("vfat", ESP_UUID, ESP)
        .partition("ext4", ROOT_UUID, LINUX)
        .files(&[&format!("/usr/lib/modules/{release}/modules.dep")])
        .file("/efi/EFI/Linux/arch-linux.efi", &image)
        .file("/efi/EFI/Linux/broken.EFI", b"MZ")
        .file("/etc/fstab", format!("UUID={ROOT_UUID} / ext4 rw 0 1\nUUID={ESP_UUID} /efi vfat rw 0 2\n"))
        .inspect();
    assert_eq!(found.notes.len(), 1, "{:?}", found.notes);
    assert!(found.notes[0].contains("broken.EFI"));
    assert_eq!((found.firmware, found.boot.loaders[0].kind), (Firmware::Uefi, LoaderKind::Uki));
    let entry = default_entry(&found);
    assert_eq!((entry.title.as_str(), entry.style.as_str()), ("Arch Linux", "uki"));
    assert_eq!(entry.arguments, [format!("root=UUID={ROOT_UUID}"), "rw".into()]);
    let kernel = &found.kernels[0];
    assert_eq!((kernel.release.as_str(), kernel.bootable), (release, true));
    assert_eq!(kernel.modules.as_deref(), Some("/usr/lib/modules/6.9.0-arch1-1"));
    assert_eq!(kernel.initramfs[0].made_by, "uki");
    assert!(crate::syntax::pe::parse(&image).unwrap().signed);
}

#[test]
fn alpine_with_extlinux() {
    let release = "6.6.14-0-lts";
    let mut image = vec![0; 0x400];
    image[0x202..0x206].copy_from_slice(b"HdrS");
    image[0x20e..0x210].copy_from_slice(&0x180_u16.to_le_bytes());
    image[0x380..0x380 + release.len()].copy_from_slice(release.as_bytes());
    let config = "# Generated by update-extlinux\nDEFAULT menu.c32\nPROMPT 0\nMENU TITLE Alpine/Linux Boot Menu\nMENU HIDDEN\nTIMEOUT 10\n\
                  LABEL lts\n  MENU DEFAULT\n  MENU LABEL Linux ^lts\n  LINUX vmlinuz-lts\n  INITRD initramfs-lts\n  APPEND root=UUID=11111111-2222-3333-4444-555555555555 modules=sd-mod,usb-storage,ext4 quiet\n\nMENU SEPARATOR\n";
    let found = Phony::new("NAME=\"Alpine Linux\"\nID=alpine\nVERSION_ID=3.19.1\n")
        .partition("ext4", BOOT_UUID, "0x83")
        .partition("ext4", ROOT_UUID, "0x83")
        .file("/boot/vmlinuz-lts", image)
        .files(&[
            "/boot/initramfs-lts",
            &format!("/lib/modules/{release}/modules.dep"),
            "/bin/busybox",
            "/etc/inittab",
        ])
        .file("/boot/extlinux.conf", config)
        .file(
            "/etc/fstab",
            format!("UUID={ROOT_UUID}\t/\text4\trw\t0 1\nUUID={BOOT_UUID}\t/boot\text4\trw\t0 2\n"),
        )
        .file(
            "/etc/network/interfaces",
            "auto lo\niface lo inet loopback\n\nauto eth0\niface eth0 inet dhcp\n",
        )
        .file("/etc/update-extlinux.conf", "default_kernel_opts=\"quiet\"\n")
        .file("/etc/mkinitfs/mkinitfs.conf", "features=\"ata base ext4\"\n")
        .link("/etc/runlevels/default/qemu-guest-agent", "/etc/init.d/qemu-guest-agent")
        .inspect();
    assert_eq!(found.notes, Vec::<String>::new());
    assert_eq!((found.firmware, found.boot.loaders[0].kind), (Firmware::Bios, LoaderKind::Extlinux));
    let entry = default_entry(&found);
    assert_eq!((entry.title.as_str(), entry.kernel.as_deref()), ("Linux lts", Some("/boot/vmlinuz-lts")));
    assert_eq!(
        (entry.initramfs.as_slice(), entry.lines),
        (&["/boot/initramfs-lts".to_owned()][..], Some((7, 12)))
    );
    let kernel = &found.kernels[0];
    assert_eq!(
        (kernel.release.as_str(), kernel.modules.as_deref()),
        (release, Some("/lib/modules/6.6.14-0-lts"))
    );
    assert_eq!(kernel.initramfs[0].made_by, "mkinitfs");
    assert!(found.network.kernel_names);
    assert_eq!(interface(&found, "eth0").addresses, ["dhcp"]);
    assert_eq!(found.system.init.as_deref(), Some("busybox"));
    assert_eq!(found.tools[0].hypervisor, "kvm");
    assert_eq!(found.boot.argument_files, ["/etc/update-extlinux.conf"]);
}

#[test]
fn loaders_that_are_not_read_are_named() {
    let found = Phony::new("ID=old\n").file("/etc/lilo.conf", "boot=/dev/hda\n").inspect();
    assert_eq!(found.boot.loaders[0].kind, LoaderKind::Lilo);
    let found = Phony::new("ID=x\n").file("/efi/EFI/refind/refind.conf", "").inspect();
    assert_eq!(found.boot.loaders[0].kind, LoaderKind::Unknown);
    assert!(found.notes[0].contains("rEFInd"), "{:?}", found.notes);
}
