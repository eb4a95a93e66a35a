// SPDX-License-Identifier: Apache-2.0
//! A Debian that cannot run, but has all that decides how one boots: MBR, one ext4, GRUB's configuration, a kernel with its
//! modules, an initramfs for AHCI only, a static address.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use unmoor_images::filesystem::fat::{Stamp, Volume};

use crate::common::{Scene, noise, run, tool};

pub(crate) const RELEASE: &str = "6.1.0-9-amd64";
pub(crate) const UUID: &str = "6f2f5a4e-0c4f-4b8e-9a0e-0123456789ab";
const START: u64 = 1 << 20;
const MIB: u64 = 96;
const ESP_MIB: u64 = 40;

/// Which drivers the guest's kernel has.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Drivers {
    /// Those for virtio among them, as modules.
    Virtio,
    /// None for virtio, by no means.
    AhciOnly,
}

/// module, aliases, dependencies
const VIRTIO: [(&str, &[&str], &[&str]); 6] = [
    ("drivers/virtio/virtio", &[], &["drivers/virtio/virtio_ring"]),
    ("drivers/virtio/virtio_ring", &[], &[]),
    (
        "drivers/virtio/virtio_pci",
        &["pci:v00001AF4d*sv*sd*bc*sc*i*"],
        &["drivers/virtio/virtio_pci_legacy_dev", "drivers/virtio/virtio", "drivers/virtio/virtio_ring"],
    ),
    ("drivers/virtio/virtio_pci_legacy_dev", &[], &[]),
    (
        "drivers/block/virtio_blk",
        &["virtio:d00000002v*"],
        &["drivers/virtio/virtio", "drivers/virtio/virtio_ring"],
    ),
    (
        "drivers/net/virtio_net",
        &["virtio:d00000001v*"],
        &["drivers/virtio/virtio", "drivers/virtio/virtio_ring"],
    ),
];
const AHCI: [(&str, &[&str], &[&str]); 4] = [
    ("drivers/ata/libahci", &[], &[]),
    ("drivers/ata/ahci", &["pci:v*d*sv*sd*bc01sc06i01*"], &["drivers/ata/libahci"]),
    ("drivers/scsi/sd_mod", &["scsi:t-0x00*", "block-major-8-*"], &[]),
    ("drivers/net/e1000", &["pci:v00008086d0000100Esv*sd*bc*sc*i*"], &[]),
];

fn write(root: &Path, path: &str, content: impl AsRef<[u8]>) {
    let path = root.join(path.trim_start_matches('/'));
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

/// A tree of modules with the indexes that depmod makes.
fn modules(root: &Path, modules: &[(&str, &[&str], &[&str])]) {
    let folder = format!("lib/modules/{RELEASE}");
    let (mut dep, mut alias, mut order) = (String::new(), String::new(), String::new());
    for (module, aliases, dependencies) in modules {
        let file = |module: &str| format!("kernel/{module}.ko");
        write(root, &format!("{folder}/{}", file(module)), noise(3000, module.len() as u64));
        let dependencies: Vec<String> = dependencies.iter().map(|module| file(module)).collect();
        dep.push_str(&format!("{}: {}\n", file(module), dependencies.join(" ")));
        order.push_str(&format!("{}\n", file(module)));
        for pattern in *aliases {
            let name = module.rsplit_once('/').unwrap().1;
            alias.push_str(&format!("alias {pattern} {name}\n"));
        }
    }
    write(root, &format!("{folder}/modules.dep"), dep);
    write(root, &format!("{folder}/modules.alias"), alias);
    write(root, &format!("{folder}/modules.order"), order);
    write(root, &format!("{folder}/modules.softdep"), "# Soft dependencies\n");
    write(
        root,
        &format!("{folder}/modules.builtin"),
        "kernel/fs/ext4/ext4.ko\nkernel/drivers/scsi/scsi_mod.ko\n",
    );
    write(root, &format!("{folder}/modules.symbols"), "# Aliases for symbols\n");
}

/// Packs `root` as a gzip-compressed archive with Debian's cpio.
fn initramfs(root: &Path) -> Vec<u8> {
    let mut pack = Command::new("sh")
        .args(["-c", "find . -mindepth 1 | LC_ALL=C sort | cpio --quiet -o -H newc -R 0:0 | gzip -n"])
        .current_dir(root)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(pack.stdout.as_mut().unwrap(), &mut bytes).unwrap();
    assert!(pack.wait().unwrap().success() && bytes.len() > 1000, "this test needs cpio (package cpio)");
    bytes
}

/// A kernel image whose setup header says its release (Documentation/arch/x86/boot.rst).
fn kernel() -> Vec<u8> {
    let mut image = noise(100_000, 3);
    image[0x1f1] = 4;
    image[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
    image[0x202..0x206].copy_from_slice(b"HdrS");
    image[0x206..0x208].copy_from_slice(&0x020fu16.to_le_bytes());
    image[0x20e..0x210].copy_from_slice(&0x100u16.to_le_bytes());
    let version = format!("{RELEASE} (debian-kernel@lists.debian.org) #1 SMP\0");
    image[0x300..0x300 + version.len()].copy_from_slice(version.as_bytes());
    image
}

/// How the guest starts.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Starts {
    /// MBR, GRUB's boot code; a GRUB for UEFI lies among its packages' files.
    Bios,
    /// GPT, shim and GRUB on an EFI system partition.
    Uefi,
}

/// The guest's disk, raw.
pub(crate) fn disk(scene: &Scene, drivers: Drivers) -> PathBuf {
    made(scene, drivers, Starts::Bios)
}

/// The disk of one that starts with UEFI: its ESP is partition 1, its root partition 2.
pub(crate) fn uefi_disk(scene: &Scene) -> PathBuf {
    made(scene, Drivers::Virtio, Starts::Uefi)
}

/// Just enough of a GRUB for UEFI to tell its prefix (`struct grub_module_info64`, include/grub/kernel.h).
fn grub_efi() -> Vec<u8> {
    let mut image = noise(5000, 11);
    let prefix = b"/EFI/debian\0";
    image.extend(b"mimg\0\0\0\0");
    image.extend(24u64.to_le_bytes());
    image.extend((24 + 8 + prefix.len() as u64).to_le_bytes());
    image.extend(3u32.to_le_bytes());
    image.extend((8 + prefix.len() as u32).to_le_bytes());
    image.extend(prefix);
    image
}

fn made(scene: &Scene, drivers: Drivers, starts: Starts) -> PathBuf {
    let number = if starts == Starts::Bios { 1 } else { 2 };
    let root = scene.path("guest.content");
    let initrd = scene.path("initrd.content");
    modules(&initrd, &AHCI);
    write(&initrd, "init", "#!/bin/sh\n");
    write(&initrd, "conf/initramfs.conf", "MODULES=list\nBOOT=local\n");
    write(&initrd, "conf/arch.conf", "DPKG_ARCH=amd64\n");
    write(&initrd, "scripts/functions", "# functions\n");
    write(&initrd, "usr/lib/systemd/systemd-udevd", "udev");
    let mut all = AHCI.to_vec();
    if drivers == Drivers::Virtio {
        all.extend(VIRTIO);
    }
    fs::create_dir_all(root.join("usr/lib")).unwrap();
    std::os::unix::fs::symlink("usr/lib", root.join("lib")).unwrap();
    modules(&root, &all);
    write(
        &root,
        "usr/lib/os-release",
        "ID=debian\nVERSION_ID=\"12\"\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n",
    );
    fs::create_dir_all(root.join("etc")).unwrap();
    std::os::unix::fs::symlink("../usr/lib/os-release", root.join("etc/os-release")).unwrap();
    let mut fstab = format!("# made by hand\n/dev/sda{number}\t/\text4\terrors=remount-ro\t0\t1\n");
    if starts == Starts::Uefi {
        fstab.push_str("UUID=1234-ABCD /boot/efi vfat umask=0077 0 1\n");
        fs::create_dir_all(root.join("boot/efi")).unwrap();
    } else {
        write(&root, "usr/lib/grub/x86_64-efi/monolithic/grubx64.efi", grub_efi());
    }
    write(&root, "etc/fstab", fstab);
    write(&root, "etc/hostname", "phony\n");
    write(&root, "etc/machine-id", "0123456789abcdef0123456789abcdef\n");
    let default = format!("GRUB_DEFAULT=0\nGRUB_CMDLINE_LINUX=\"root=/dev/sda{number}\"\n");
    write(&root, "etc/default/grub", default);
    write(
        &root,
        "etc/network/interfaces",
        "auto lo\niface lo inet loopback\n\nauto ens3\niface ens3 inet static\n    address 192.0.2.7/24\n    gateway 192.0.2.1\n",
    );
    write(&root, "etc/initramfs-tools/modules", "ahci\nsd_mod\n");
    write(&root, "usr/lib/systemd/systemd", noise(2000, 9));
    write(
        &root,
        "var/lib/dpkg/status",
        "Package: grub-pc\nStatus: install ok installed\nVersion: 2.06-13\n\n",
    );
    let grub = format!(
        "set default=\"0\"\nset timeout=5\n\nmenuentry 'Debian GNU/Linux' --class debian --class gnu-linux {{\n\
         \tinsmod gzio\n\tinsmod part_msdos\n\tinsmod ext2\n\tset root='hd0,msdos1'\n\
         \tsearch --no-floppy --fs-uuid --set=root {UUID}\n\
         \tlinux\t/boot/vmlinuz-{RELEASE} root=/dev/sda{number} ro  quiet\n\tinitrd\t/boot/initrd.img-{RELEASE}\n}}\n"
    );
    write(&root, "boot/grub/grub.cfg", grub);
    write(&root, "boot/grub/i386-pc/core.img", noise(30_000, 5));
    write(&root, "boot/grub/i386-pc/normal.mod", "\x7fELF\0grub_normal\x002.06-13+deb12u1\0");
    write(&root, &format!("boot/vmlinuz-{RELEASE}"), kernel());
    write(&root, &format!("boot/initrd.img-{RELEASE}"), initramfs(&initrd));
    write(
        &root,
        &format!("boot/config-{RELEASE}"),
        "CONFIG_EXT4_FS=y\nCONFIG_MODULES=y\nCONFIG_EFI_STUB=y\n",
    );
    pack(scene, &root, starts)
}

/// The EFI system partition's bytes.
fn esp() -> Vec<(u64, Vec<u8>)> {
    let time = Stamp::from_unix(1_700_000_000);
    let mut volume = Volume::new("EFI", 0x1234_abcd, time);
    let stub =
        format!("search.fs_uuid {UUID} root\nset prefix=($root)'/boot/grub'\nconfigfile $prefix/grub.cfg\n");
    for folder in ["BOOT", "debian"] {
        let first = if folder == "BOOT" { "BOOTX64.EFI" } else { "shimx64.efi" };
        volume.put(&format!("EFI/{folder}/{first}"), noise(9000, 12), time).unwrap();
        volume.put(&format!("EFI/{folder}/grubx64.efi"), grub_efi(), time).unwrap();
        volume.put(&format!("EFI/{folder}/grub.cfg"), stub.clone().into_bytes(), time).unwrap();
    }
    volume.make(ESP_MIB << 20, 512, START).unwrap().writes(None).unwrap()
}

fn pack(scene: &Scene, root: &Path, starts: Starts) -> PathBuf {
    let disk = scene.path("guest.raw");
    let (table, at, size) = match starts {
        Starts::Bios => ("label: dos\nstart=2048, type=83, bootable\n".to_owned(), START, MIB << 20),
        Starts::Uefi => {
            let at = START + (ESP_MIB << 20);
            let table = format!(
                "label: gpt\nstart=2048, size={}, type=U\nstart={}, size={}, type=L\n",
                ESP_MIB << 11,
                at / 512,
                (MIB << 11) - 2048
            );
            (table, at, at + (MIB << 20))
        }
    };
    fs::File::create(&disk).unwrap().set_len(size).unwrap();
    let mut sfdisk = Command::new("sfdisk")
        .args(["--quiet", "--no-reread", "--no-tell-kernel"])
        .arg(&disk)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("this test needs sfdisk (package fdisk): {error}"));
    sfdisk.stdin.take().unwrap().write_all(table.as_bytes()).unwrap();
    assert!(sfdisk.wait().unwrap().success());
    let blocks = ((MIB << 20) - START) / 4096;
    let offset = format!("nodiscard,offset={at},root_owner=0:0");
    let arguments = ["-q", "-F", "-t", "ext4", "-b", "4096", "-U", UUID, "-E", &offset, "-d"];
    let mut command: Vec<&std::ffi::OsStr> = arguments.iter().map(|word| word.as_ref()).collect();
    let blocks = blocks.to_string();
    command.extend([root.as_os_str(), disk.as_os_str(), blocks.as_ref()]);
    tool("e2fsprogs", "mke2fs", &command).expect(0);
    let mut head = fs::OpenOptions::new().write(true).open(&disk).unwrap();
    if starts == Starts::Uefi {
        for (at, bytes) in esp() {
            std::os::unix::fs::FileExt::write_all_at(&head, &bytes, START + at).unwrap();
        }
        return disk;
    }
    // GRUB's first sector and its core in the gap, as grub-install leaves them.
    head.write_all(&[0xeb, 0x63, 0x90]).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&head, b"GRUB \0Geom\0Hard Disk\0Read\0 Error\r\n\0", 0x180)
        .unwrap();
    std::os::unix::fs::FileExt::write_all_at(&head, &noise(30_000, 5), 512).unwrap();
    disk
}

/// It, captured.
pub(crate) fn image(scene: &Scene, drivers: Drivers, name: &str) -> PathBuf {
    let disk = disk(scene, drivers);
    let image = scene.path(name);
    run(&["capture", disk.to_str().unwrap(), image.to_str().unwrap()]).expect(0);
    fs::remove_file(disk).unwrap();
    image
}

/// Puts a core image of GRUB's own into the gap of a raw disk, as grub-install would, for one that looks into it. `config` are its
/// embedded commands.
pub(crate) fn embed_grub(scene: &Scene, disk: &Path, config: &str) {
    let (core, commands) = (scene.path("core.img"), scene.path("load.cfg"));
    fs::write(&commands, config).unwrap();
    let mut arguments = vec!["-O", "i386-pc", "-p", "(,msdos1)/boot/grub", "-o", core.to_str().unwrap()];
    if !config.is_empty() {
        arguments.extend(["-c", commands.to_str().unwrap()]);
    }
    arguments.extend(["biosdisk", "part_msdos", "ext2", "search"]);
    tool("grub-common and grub-pc-bin", "grub-mkimage", &arguments).expect(0);
    let mut image = fs::read(core).unwrap();
    image.resize(image.len().next_multiple_of(512), 0);
    let sectors = (image.len() / 512 - 1) as u16;
    // The list of sectors in the first one, and the address of that in the boot code.
    image[500..508].copy_from_slice(&2u64.to_le_bytes());
    image[508..510].copy_from_slice(&sectors.to_le_bytes());
    let file = fs::OpenOptions::new().write(true).open(disk).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &image, 512).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &1u64.to_le_bytes(), 0x5c).unwrap();
}
