// SPDX-License-Identifier: Apache-2.0
//! How the seeds are made: `cargo xtask fuzz seeds`. Real tools make each disk; only its metadata are kept.
//!
//! Packages: e2fsprogs xfsprogs btrfs-progs ntfs-3g dosfstools exfatprogs util-linux fdisk gdisk qemu-utils lvm2 mdadm
//! cryptsetup-bin cpio xz-utils lz4 kmod gcc binutils systemd-boot-efi tar. Some mount or need loop devices, so all of it wants root.

use std::fmt::Write;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use unmoor_images::formats::Format;
use unmoor_images::layout::analyze;
use unmoor_images::manifest::{Consistency, DiskRecord, Manifest, MapRecord, hex, write_map};
use unmoor_images::merkle::Leaves;
use unmoor_images::monitor::Silent;
use unmoor_images::{BlockSource, ExtentMap, LEAF, State};
use unmoor_restore::record::{Change, RestoreRecord};

use crate::Target;
use crate::disk::{Disk, Machine};
use crate::seeds::{folder, store};

/// What makes a seed.
enum Made {
    /// A shell script that leaves `disk1` ... `disk4`.
    By(&'static str),
    /// Code of this file, and what it does.
    Here(fn(&Path), &'static str),
    /// Found by damaging another seed: kept so that it stays mended, and what it was.
    Kept(&'static str),
}

struct Recipe {
    target: &'static str,
    name: &'static str,
    /// The target's summary.
    found: &'static str,
    made: Made,
}

const fn by(target: &'static str, name: &'static str, found: &'static str, script: &'static str) -> Recipe {
    Recipe { target, name, found, made: Made::By(script) }
}

const fn here(
    target: &'static str,
    name: &'static str,
    found: &'static str,
    made: fn(&Path),
    how: &'static str,
) -> Recipe {
    Recipe { target, name, found, made: Made::Here(made, how) }
}

const fn kept(target: &'static str, name: &'static str, found: &'static str, what: &'static str) -> Recipe {
    Recipe { target, name, found, made: Made::Kept(what) }
}

/// What the scripts below share: `fill` makes files whose content takes no space in a seed; `holes` makes one of many extents.
const PRELUDE: &str = r#"
PATH=$PATH:/usr/sbin:/sbin
export LC_ALL=C E2FSPROGS_FAKE_TIME=1700000000
disk() { truncate -s "$1" "disk${2:-1}"; }
fill() { mkdir -p "$1/d"; for i in 1 2 3 5 8 13 21 34; do head -c $((i * 3000)) /dev/zero | tr '\0' A >"$1/d/$i"; done; }
holes() { head -c $(($2 * $3 * 2)) /dev/zero | tr '\0' A >"$1"; for i in $(seq "$2"); do fallocate -p -o $((i * 2 * $3)) -l "$3" "$1"; done; }
mounted() { mkdir m; mount -o "loop,$1" disk1 m; trap 'umount m' EXIT; }
put() { dd if="$1" of=disk1 bs=1M seek="$2" conv=notrunc,sparse status=none; }
loops() { l=; for d in disk*; do l="$l $(losetup -f --show $d)"; done; trap 'losetup -d $l' EXIT; set -- $l; f=; for d in $l; do f="$f\"a|^$d\$|\","; done
  c="devices{use_devicesfile=0 filter=[$f\"r|.*|\"] global_filter=[$f\"r|.*|\"]} activation{checks=0 udev_sync=0 udev_rules=0} backup{backup=0 archive=0}"; }
tree() { mkdir -p usr/lib etc/d; ln -s usr/lib lib; for i in 1 2 3 5; do head -c $((i * 300)) /dev/zero | tr '\0' A >usr/lib/$i; done; ln usr/lib/1 etc/hard; mknod usr/null c 1 3; printf '%s\n' usr usr/lib usr/lib/{1,2,3,5} lib etc etc/hard etc/d usr/null >names; }
lv() { lvcreate -q --driverloaded n --config "$c" -an -Zn -Wn -y "$@" >/dev/null; }
"#;

const RECIPES: &[Recipe] = &[
    by("partition", "gpt", "gpt 4", "disk 64M; sgdisk -n 1:2048:+8M -t 1:ef00 -n 14:0:+4M -t 14:ef02 -n 3:0:+16M -n 15:0:+8M -t 15:8200 disk1"),
    by("partition", "gpt-hybrid", "gpt 3", "disk 24M; sgdisk -n 0:0:+4M -n 0:0:+4M -n 5:0:+4M -h 1:2 disk1"),
    by("partition", "gpt-4k", "gpt 2", "disk 24M; l=$(losetup -f --show --sector-size 4096 disk1); trap 'losetup -d $l' EXIT; sgdisk -n 1:0:+4M -n 2:0:+8M -t 2:8200 $l"),
    by("partition", "mbr", "mbr 6", "disk 64M; printf 'label: dos\nsize=4M, bootable\nsize=24M, type=5\nsize=4M, type=82\nsize=8M\nsize=4M\nsize=4M, type=82\n' | sfdisk -q disk1"),
    kept("partition", "container-on-mbr", "mbr 4", "an extended partition that begins at sector 0, so that the MBR is its own EBR: the plan wrote sector 0 twice"),
    kept("partition", "more-entries-than-backup", "gpt 1", "a primary GPT of more entries than the backup, both valid: the plan wrote the backup's array over its header and the disk's end"),
    by("ext", "ext2-1k", "ext2", "disk 8M; fill c; mke2fs -q -t ext2 -b 1024 -d c disk1"),
    by("ext", "ext3-4k", "ext3", "disk 16M; fill c; mke2fs -q -t ext3 -b 4096 -J size=4 -d c disk1"),
    by("ext", "ext4-1k", "ext4", "disk 24M; fill c; mke2fs -q -t ext4 -b 1024 -J size=1 -d c disk1"),
    by("ext", "ext4-4k", "ext4", "disk 160M; fill c; mke2fs -q -t ext4 -b 4096 -J size=4 -O metadata_csum_seed -d c disk1"),
    by("ext", "ext4-bigalloc", "ext4", "disk 48M; fill c; mke2fs -q -t ext4 -b 4096 -O bigalloc,^resize_inode -C 16384 -J size=4 -d c disk1"),
    by("ext", "ext4-meta-bg", "ext4", "disk 160M; fill c; mke2fs -q -t ext4 -b 1024 -O meta_bg,^resize_inode,sparse_super2 -J size=1 -d c disk1"),
    by("ext", "ext4-uninit-bg", "ext4", "disk 48M; fill c; mke2fs -q -t ext4 -b 1024 -O ^metadata_csum,uninit_bg,mmp -J size=1 -d c disk1"),
    by("ext", "ext4-journal", "ext4 dirty", "disk 24M; fill c; mke2fs -q -t ext4 -b 1024 -J size=1 -d c disk1; dd if=disk1 of=b bs=1024 skip=2 count=1 status=none; printf 'jo -c\njw -b 2 b\njw -r 4000\njc\n' | debugfs -w -f - disk1"),
    by("xfs", "v5", "xfs", "disk 300M; mkfs.xfs -q disk1"),
    by("xfs", "v5-trees", "xfs", "disk 300M; mkfs.xfs -q -b size=1024 -m rmapbt=0,reflink=0 disk1; mounted nouuid; fill m; holes m/holes 300 1024; umount m; trap - EXIT; xfs_repair -L disk1 2>r"),
    by("xfs", "v4", "xfs", "disk 300M; mkfs.xfs -q -m crc=0,finobt=0 disk1"),
    by("btrfs", "small", "btrfs", "disk 128M; mkfs.btrfs -q -n 4096 -m single disk1"),
    by("btrfs", "dup-trees", "btrfs", "disk 160M; mkfs.btrfs -q -n 4096 -m dup disk1; mounted nodatacow; fill m; holes m/holes 60 4096"),
    by("btrfs", "mixed", "btrfs", "disk 64M; fill c; mkfs.btrfs -q -M -n 4096 --rootdir c disk1"),
    by("ntfs", "4k", "ntfs", "disk 16M; mkntfs -q -F -Q -s 512 -p 0 -H 16 -S 63 -c 4096 disk1"),
    by("ntfs", "512", "ntfs", "disk 4M; mkntfs -q -F -Q -s 512 -p 0 -H 16 -S 63 -c 512 disk1"),
    by("fat", "fat12", "vfat", "disk 4M; mkfs.vfat -F 12 disk1"),
    by("fat", "fat16", "vfat", "disk 32M; mkfs.vfat -F 16 disk1"),
    by("fat", "fat32", "vfat", "disk 48M; mkfs.vfat -F 32 -s 1 -n BOOT disk1"),
    by("exfat", "exfat", "exfat", "disk 16M; mkfs.exfat -c 4096 disk1"),
    by("swap", "swap", "swap", "disk 4M; mkswap -L s disk1"),
    by("swap", "suspended", "swap hibernated whole", "disk 4M; mkswap disk1; printf 'SWAPSPACE2S1SUSPEND\\0' | dd of=disk1 bs=1 seek=4076 conv=notrunc status=none"),
    by("lvm", "linear", "pv vg0 2 lvs", "disk 64M; loops; vgcreate -q --config \"$c\" vg0 $l >/dev/null; lv -n a -L 8M vg0; lv -n b -L 12M vg0; lvextend -q --driverloaded n --config \"$c\" -L +4M vg0/a >/dev/null"),
    by("lvm", "striped", "pv vg1 2 lvs", "disk 32M; disk 40M 2; loops; vgcreate -q --config \"$c\" vg1 $l >/dev/null; lv -n s -i 2 -I 64 -L 16M vg1; lv -n t -L 8M vg1"),
    by("lvm", "empty", "pv", "disk 16M; loops; pvcreate -q --config \"$c\" --metadatacopies 2 $l >/dev/null"),
    here("md", "1.2", "md 1.2 raid1", |at| md(at, 4096, 16 << 20), "a superblock 1.2 of RAID1 as mdadm writes it, which `mdadm --examine` accepts"),
    here("md", "1.0", "md 1.0 raid1", |at| md(at, (16 << 20) - 8192, 16 << 20), "the same, 1.0"),
    here("md", "pair", "md 1.1 raid1", |at| { md(at, 0, 16 << 20); std::fs::copy(at.join("disk1"), at.join("disk2")).unwrap(); }, "the same, 1.1, both members alike"),
    by("luks", "luks1", "luks1", "disk 4M; printf x | cryptsetup luksFormat -q --type luks1 --pbkdf-force-iterations 1000 disk1 -"),
    by("luks", "luks2", "luks2", "disk 24M; printf x | cryptsetup luksFormat -q --type luks2 --pbkdf pbkdf2 --pbkdf-force-iterations 1000 disk1 -"),
    by("layout", "gpt", "gpt: boot vfat ext4 swap gap", "disk 64M; fill c; sgdisk -n 1:2048:+8M -t 1:ef00 -n 2:0:+32M -n 3:0:+4M -t 3:8200 disk1 >/dev/null
mkfs.vfat -C e 8192 >/dev/null; put e 1; truncate -s 32M r; mke2fs -q -t ext4 -J size=1 -d c r; put r 9; truncate -s 4M s; mkswap s >/dev/null; put s 41"),
    by("layout", "mbr", "mbr: boot ext2 extended unknown swap unknown ntfs gap", "disk 64M; fill c; printf 'label: dos\nsize=16M, bootable\ntype=5\nsize=4M, type=82\nsize=16M, type=7\n' | sfdisk -q disk1
truncate -s 16M r; mke2fs -q -t ext2 -d c r; put r 1; truncate -s 4M s; mkswap s >/dev/null; put s 18; truncate -s 16M n; mkntfs -q -F -Q -s 512 -p 0 -H 16 -S 63 n; put n 23"),
    by("layout", "lvm", "none: pv ext4 swap; none: pv", "disk 64M; disk 32M 2; fill c; loops; vgcreate -q --config \"$c\" vg $l >/dev/null; lv -n root -L 32M vg; lv -n swap -L 4M vg
truncate -s 32M r; mke2fs -q -t ext4 -J size=1 -d c r; put r 1; truncate -s 4M s; mkswap s >/dev/null; put s 33"),
    here("layout", "md", "none: raid1 ext4; none: raid1 ext4", |at| {
        md(at, 4096, 96 << 20);
        shell(at, "truncate -s 94M r; fill c; mke2fs -q -t ext4 -J size=1 -d c r; put r 1; cp --sparse=always disk1 disk2");
    }, "both members of a RAID1 with a superblock 1.2 as above, and ext4 by mke2fs in it"),
    by("layout", "whole", "none: xfs", "disk 300M; mkfs.xfs -q disk1"),
    by("qcow2", "plain", "qcow2", "head -c 300000 /dev/zero | tr '\\0' A >r; truncate -s 4M r; qemu-img convert -O qcow2 r disk1"),
    by("qcow2", "zlib-512", "qcow2", "head -c 30000 /dev/zero | tr '\\0' A >r; truncate -s 200000 r; qemu-img convert -c -O qcow2 -o cluster_size=512,compat=0.10 r disk1"),
    by("qcow2", "zstd-4k", "qcow2", "head -c 30000 /dev/zero | tr '\\0' A >r; truncate -s 1M r; qemu-img convert -c -O qcow2 -o cluster_size=4096,compression_type=zstd r disk1"),
    by("qcow2", "extended-l2", "qcow2", "qemu-img create -q -f qcow2 -o cluster_size=16384,extended_l2=on disk1 8M; qemu-io -c 'write -P 65 512 3000' -c 'write -z 1M 64k' -c 'write -P 66 5M 20k' disk1"),
    by("qcow2", "snapshot", "qcow2", "qemu-img create -q -f qcow2 -o cluster_size=4096 disk1 2M; qemu-io -c 'write -P 65 0 9000' disk1; qemu-img snapshot -c one disk1; qemu-io -c 'write -P 66 0 5000' disk1"),
    by("qcow2", "backing", "error", "qemu-img create -q -f raw r 1M; qemu-img create -q -f qcow2 -b r -F raw disk1"),
    by("vmdk", "sparse", "vmdk", "head -c 300000 /dev/zero | tr '\\0' A >r; truncate -s 4M r; qemu-img convert -O vmdk -o zeroed_grain=on r disk1"),
    by("vmdk", "stream", "vmdk", "head -c 300000 /dev/zero | tr '\\0' A >r; truncate -s 4M r; qemu-img convert -O vmdk -o subformat=streamOptimized r disk1"),
    by("vmdk", "flat", "vmdk", "head -c 3000 /dev/zero | tr '\\0' A >r; truncate -s 64K r; qemu-img convert -O vmdk -o subformat=monolithicFlat r disk.vmdk; mv disk.vmdk disk1; mv disk-flat.vmdk disk2"),
    by("vmdk", "snapshot", "error", "qemu-img create -q -f vmdk b.vmdk 1M; qemu-img create -q -f vmdk -b b.vmdk -F vmdk disk1"),
    by("vhdx", "dynamic", "vhdx", "head -c 300000 /dev/zero | tr '\\0' A >r; truncate -s 4M r; qemu-img convert -O vhdx -o block_size=1M r disk1"),
    here("vhdx", "log", "vhdx", log, "the seed vhdx/dynamic with a log of two entries, a page and zeros, which `qemu-img check -r all` replays"),
    by("vhd", "dynamic", "vhd", "head -c 300000 /dev/zero | tr '\\0' A >r; truncate -s 4M r; qemu-img convert -O vpc -o subformat=dynamic,force_size=on r disk1"),
    by("vhd", "fixed", "vhd", "head -c 3000 /dev/zero | tr '\\0' A >r; truncate -s 64K r; qemu-img convert -O vpc -o subformat=fixed,force_size=on r disk1"),
    by("vdi", "dynamic", "vdi", "head -c 300000 /dev/zero | tr '\\0' A >r; truncate -s 4M r; qemu-img convert -O vdi r disk1"),
    by("vdi", "static", "vdi", "head -c 3000 /dev/zero | tr '\\0' A >r; truncate -s 64K r; qemu-img convert -O vdi -o static=on r disk1"),
    here("map", "map", "map", |at| drop(map_file(&at.join("disk1"))), "an extent map with all three states and its leaves, by `write_map`"),
    by("initramfs", "plain", "none", "tree; cpio -o -H newc --quiet <names >disk1"),
    by("initramfs", "gzip", "gzip", "tree; cpio -o -H newc --quiet <names | gzip -n9 >disk1"),
    by("initramfs", "xz", "xz", "tree; cpio -o -H newc --quiet <names | xz --check=crc32 >disk1"),
    by("initramfs", "lzma", "lzma", "tree; cpio -o -H newc --quiet <names | xz --format=lzma >disk1"),
    by("initramfs", "lz4", "lz4", "tree; cpio -o -H newc --quiet <names | lz4 -l -c >disk1"),
    by("initramfs", "early-zstd", "none zstd", "tree; cpio -o -H newc --quiet <names >disk1; cpio -o -H newc --quiet <names | zstd -q >>disk1"),
    by("initramfs", "checksums", "none none", "tree; cpio -o -H crc --quiet <names >disk1; cpio -o -H newc --quiet <names >>disk1"),
    by("modules", "indexes", "4 modules", "printf 'k/a.ko: k/b.ko.xz k/c-d.ko\nk/b.ko.xz: k/c-d.ko\nk/c-d.ko:\nk/e.ko.zst:\n' >disk1; printf '# x\nalias pci:v00001AF4d*sv*sd*bc*sc*i* a\nalias ext[2-4] e\nalias fs-x c-d\n' >disk2
printf 'softdep a pre: e fs-x post: c_d\nsoftdep e pre: a\n' >disk3; mkdir -p r/lib/modules/1.0; mkdir r/lib/modules/1.0/kernel; printf 'x.alias=pci:v*d*bc01sc06i01*\\0x.alias=fs-x\\0y.alias=pci:v00001AF4d*\\0' >r/lib/modules/1.0/modules.builtin.modinfo; touch r/lib/modules/1.0/modules.{order,builtin}; depmod -b $PWD/r 1.0; cp r/lib/modules/1.0/modules.builtin.alias.bin disk4"),
    by("module", "elf64", "3 pairs", "printf 'char s[] __attribute__((section(\".modinfo\"))) = \"alias=x\\0depends=a,b\\0softdep=pre: c\"; int f(void) { return 1; }' >m.c; gcc -c -o disk1 m.c"),
    by("uki", "stub", "8 sections, unified", "printf 'linux' >l; printf 'initrd' >i; printf 'quiet' >c; objcopy --add-section .cmdline=c --change-section-vma .cmdline=0x1000000 --add-section .linux=l --change-section-vma .linux=0x1100000 --add-section .initrd=i --change-section-vma .initrd=0x1200000 -R .text -R .rodata -R .data -R .rela /usr/lib/systemd/boot/efi/linuxx64.efi.stub disk1"),
    by("package", "gz", "1 files", "mkdir -p t/usr/lib/shim t/usr/lib/other; echo x >t/usr/lib/shim/shimx64.efi.signed; echo y >t/usr/lib/other/z; tar --sort=name --mtime=@0 --owner=0 --group=0 -C t -czf data.tar.gz ./usr; echo 2.0 >debian-binary; tar -czf control.tar.gz -T /dev/null; ar rcD disk1 debian-binary control.tar.gz data.tar.gz"),
    by("package", "xz", "1 files", "mkdir -p t/usr/lib/shim; echo x >t/usr/lib/shim/mmx64.efi; tar --sort=name --mtime=@0 --owner=0 --group=0 -C t -cJf data.tar.xz ./usr; echo 2.0 >debian-binary; tar -cJf control.tar.xz -T /dev/null; ar rcD disk1 debian-binary control.tar.xz data.tar.xz"),
    here("dhcp", "offer", "answer", |at| packet(at, 2), "an offer with the options of RFC 2132 that are asked for"),
    here("dhcp", "refusal", "answer", |at| packet(at, 6), "the same, refused"),
    by("partclone", "vfat", "FAT16 of version 2, read", "disk 16M; mkfs.vfat -F 16 disk1 >&2; partclone.vfat -q -c -s disk1 -o image >&2; mv image disk1"),
    by("partclone", "ext4-gz", "EXTFS of version 2, read", "disk 2M; mke2fs -q -t ext4 -O ^has_journal -N 16 disk1; partclone.ext4 -q -c -s disk1 -o image >&2; gzip -n9 <image >disk1"),
    here("partclone", "v1", "EXTFS of version 1, damaged", |at| std::fs::write(at.join("disk1"), partclone_v1()).unwrap(), "an image of version 0001 whose checksums are zeros"),
    here("discover", "pxe", "client, Some(UefiX64)", |at| discover(at, 0), "the discovery of UEFI's PXE (RFC 4578)"),
    here("discover", "overload", "client, Some(UefiX64)", |at| discover(at, 3), "the same with options in `file` and `sname`"),
    here("tftp", "read", "read", |at| texts(at, &["\0\x01pxe/shimx64.efi\0octet\0tsize\x000\0blksize\x001468\0windowsize\x004\0timeout\x005\0"]), "a request with the options of RFC 2348, 2349 and 7440"),
    here("tftp", "error", "gives up", |at| texts(at, &["\0\x05\0\x08user aborted the transfer\0"]), "the end of a transfer"),
    here("dns", "alias", "2 addresses", |at| std::fs::write(at.join("disk1"), name_answer()).unwrap(), "an alias and two addresses, with pointers as servers send them"),
    here("credentials", "default", "4 settings", |at| texts(at, &["[default]\naws_access_key_id=AKID\naws_secret_access_key = se/cr#et+=;x\n\n# a comment\n[ work ]\naws_access_key_id = W ; ours\nAWS_SECRET_ACCESS_KEY = S #1\n", "[default]\nregion = us-west-2\ns3 =\n  addressing_style = virtual\n[profile work]\nregion=eu-central-1\ns3 =\n\tmax_concurrent_requests = 4\nservices = lab\n[services lab]\ns3 =\n  endpoint_url = http://10.0.0.1:9000\n"]), "credentials and config with a comment, a nested block and services"),
    here("hardware", "machine", "2 parts", |at| texts(at, &[MACHINE]), "the inventory of a machine with a disk controller and a network card"),
    here("grub", "debian", "guest", |at| texts(at, &[GRUB_CFG, "GRUB_DEFAULT=saved\nGRUB_CMDLINE_LINUX=\"root=/dev/sda1 console=tty0\"\n", GRUBENV]), "grub.cfg, /etc/default/grub and grubenv, as Debian has them"),
    here("grub", "blscfg", "guest", |at| texts(at, &["load_env -f grubenv\nset default=\"${saved_entry}\"\nif [ -z \"$kernelopts\" ]; then\n  set kernelopts=\"root=/dev/sda1 ro\"\nfi\nfunction one { linux /boot/vmlinuz-6.1.0-32-amd64 $kernelopts; initrd /boot/initrd.img-6.1.0-32-amd64; }\nmenuentry 'One' --id one { one; }\nblscfg\n"]), "variables, a function and blscfg"),
    here("entries", "bls", "guest", |at| texts(at, &["title Debian\nversion 6.1.0\nlinux /boot/vmlinuz-6.1.0-32-amd64\ninitrd /boot/initrd.img-6.1.0-32-amd64\noptions root=/dev/sda1 ro quiet $kernelopts\n", "default one*\ntimeout 3\nconsole-mode keep\n", "root=/dev/sda1 resume=/dev/sda5\n", EXTLINUX]), "an entry of the boot loader specification, loader.conf, /etc/kernel/cmdline, extlinux.conf"),
    here("tables", "tables", "guest", |at| texts(at, &["# <file system> <mount point> <type> <options> <dump> <pass>\n/dev/sda1 / ext4 errors=remount-ro,journal_path=/dev/sda5 0 1\nUUID=0b7c1d3e-0000-4000-8000-000000000005 none swap sw 0 0\nLABEL=l5 /with\\040blank auto noauto 0 0\n/dev/sdq1 /data xfs defaults 0 2\ntmpfs /tmp tmpfs defaults\n", "c1 /dev/sda5 /key:/dev/sda1 luks,discard\nswap /dev/sda5 /dev/urandom swap,cipher=aes-xts-plain64\n", "RESUME=/dev/sda5\n", "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nID=debian\nID_LIKE='a b'\n"]), "fstab, crypttab, the swap area to resume from, os-release"),
    here("network", "stacks", "guest", |at| texts(at, &["network:\n  version: 2\n  ethernets:\n    eth0:\n      match: {macaddress: \"52:54:00:12:34:56\", name: en*}\n      set-name: eth0\n      addresses: [192.0.2.7/24]\n      routes: [{to: default, via: 192.0.2.1}]\n  bonds: {bond0: {interfaces: [eth0], dhcp4: yes}}\n", "DEVICE=eth0\nHWADDR=52:54:00:12:34:56\nBOOTPROTO=none\nIPADDR=192.0.2.7\nPREFIX=24\nONBOOT=yes\n", "[connection]\nid=lan\ntype=ethernet\n\n[ethernet]\nmac-address=52:54:00:12:34:56\n\n[ipv4]\nmethod=manual\naddress1=192.0.2.7/24,192.0.2.1\n", "auto lo eth1\niface lo inet loopback\niface eth1 inet static\n  address 192.0.2.8\n  netmask 255.255.255.0\n  hwaddress ether 52:54:00:12:34:57\nauto br0\niface br0 inet dhcp\n  bridge_ports eth2 eth3.7\nrename /52:54:00:12:34:56=eth0\nsource interfaces.d/*\n"]), "netplan, ifcfg, a keyfile of NetworkManager, ifupdown"),
    here("names", "names", "guest", |at| texts(at, &["[Match]\nName=en*\nPath=pci-0000:00:03.0\n\n[Network]\nDHCP=ipv4\nAddress=192.0.2.7/24\n", "[Match]\nMACAddress=52:54:00:12:34:56\n[Link]\nName=lan0\n", "SUBSYSTEM==\"net\", ACTION==\"add\", DRIVERS==\"?*\", ATTR{address}==\"52:54:00:12:34:56\", \\\n  ATTR{type}==\"1\", NAME=\"eth0\"\nSUBSYSTEM==\"net\", KERNELS==\"0000:00:04.0\", NAME=\"eth1\"\n", "eth5 52:54:00:12:34:56\n"]), "networkd's match, a .link file, udev's rules, mactab"),
    here("volumes", "volumes", "guest", |at| texts(at, &["devices {\n\tdir = \"/dev\"\n\tfilter = [ \"a|/dev/sd[ab][0-9]|\", # ours ]\n\t\t\"r|.*|\" ]\n\tglobal_filter=[\"r|/dev/drbd.*|\"]\n\tuse_devicesfile = 1\n}\n", "local {\n\tsystem_id = \"x\"\n}\n", "DEVICE /dev/sd* partitions\nARRAY /dev/md0 metadata=1.2 devices=/dev/sda1,/dev/sdb1 UUID=1:2:3:4\nARRAY /dev/md1\n  devices=/dev/sda2\nMAILADDR root\n", "defaults {\n\tuser_friendly_names yes\n}\n"]), "lvm.conf, lvmlocal.conf, mdadm.conf, multipath.conf"),
    here("variables", "variables", "entry 1", variables, "BootOrder, Boot0000 and BootCurrent as efivarfs shows them"),
    by("sections", "stub", "image", "printf 'linux' >l; printf 'initrd' >i; printf 'root=UUID=x quiet\\0' >c; printf '6.1.0-32-amd64' >u; objcopy --add-section .cmdline=c --change-section-vma .cmdline=0x1000000 --add-section .uname=u --change-section-vma .uname=0x1080000 --add-section .linux=l --change-section-vma .linux=0x1100000 --add-section .initrd=i --change-section-vma .initrd=0x1200000 -R .text -R .rodata -R .data -R .rela /usr/lib/systemd/boot/efi/linuxx64.efi.stub disk1"),
    here("manifest", "manifest", "manifest", manifest, "the manifest of the seed layout/gpt"),
    here("record", "record", "record", record, "the record of a restore with a change, and its map"),
    here("nbd", "structured", "session", |at| std::fs::write(at.join("disk1"), conversation(true)).unwrap(), "a client's whole conversation: options as libnbd sends them, then a request of each kind"),
    here("nbd", "simple", "session", |at| std::fs::write(at.join("disk1"), conversation(false)).unwrap(), "the same by EXPORT_NAME, without structured replies"),
    here("overlay", "partial", "overlay", |at| overlay(at, false), "the bitmap of an overlay with some writes, by `Overlay`"),
    here("overlay", "complete", "overlay", |at| overlay(at, true), "the same, hydrated"),
    here("order", "order", "order", |at| std::fs::write(at.join("disk1"), order()).unwrap(), "the order of a boot, by `Order::encode`"),
    here("pack", "pack", "pack", |at| stored_objects(at, &["packs/"]), "the pack of a small capture"),
    here("index", "index", "index of 1", |at| stored_objects(at, &["index/"]), "its index object"),
    here("tree", "tree", "tree", |at| stored_objects(at, &["tree"]), "root and page of its disk's tree, and the disk's size"),
    here("stored", "stored", "4 documents", |at| stored_objects(at, &["images/", "store.json", "keys/", "marks/"]), "its image, the store's configuration, a key of an encrypted store, a mark"),
    here("hints", "hints", "4 documents", |at| stored_objects(at, &["leases/", "moved/", "damaged/", "usage.json"]), "a lease, and what verify and prune write down"),
    here("frames", "frames", "3 leaves", |at| std::fs::write(at.join("disk1"), frames()).unwrap(), "three leaves as an agent sends them, two of them compressed"),
    here("commit", "commit", "2 maps", commit, "the manifest of a small capture, and two maps"),
    kept("record", "endless", "error", "a sparse file of gigabytes as record, which was read whole"),
];

/// Bytes of a header of partclone's version 0001.
const PARTCLONE_V1: usize = 4160;

const MACHINE: &str = r#"{"machine":{"architecture":"x86_64","hostname":"web01","firmware":"uefi","secure_boot":false,"cpu_count":4,
"memory_bytes":8589934592,"disks":[{"name":"sda","size_bytes":500107862016,"sector_size":512,"transport":"sata","pci_address":"0000:00:1f.2","driver":"ahci"}],
"nics":[{"name":"eth0","mac":"52:54:00:12:34:56","driver":"e1000e","pci_address":"0000:00:19.0","link":true}],
"pci":[{"address":"0000:00:1f.2","id":"8086:2922","class":"010601","modalias":"pci:v00008086d00002922sv00000000sd00000000bc01sc06i01","driver":"ahci"},
{"address":"0000:00:19.0","id":"8086:10d3","class":"020000","modalias":"pci:v00008086d000010D3sv00000000sd00000000bc02sc00i00","driver":"e1000e"}],"buses":[]}}"#;

const GRUB_CFG: &str = "set default=\"0\"\nif [ \"${next_entry}\" ] ; then\n   set default=\"${next_entry}\"\n   save_env next_entry\nfi\nif [ x$feature_platform_search_hint = xy ]; then\n  search --no-floppy --fs-uuid --set=root --hint-bios=hd0,msdos1  0b7c1d3e-0000-4000-8000-000000000001\nfi\nmenuentry 'Debian GNU/Linux' --class debian $menuentry_id_option 'gnulinux-simple' {\n\tload_video\n\tinsmod gzio\n\tset root='hd0,msdos1'\n\techo\t'Loading ...'\n\tlinux\t/boot/vmlinuz-6.1.0-32-amd64 root=/dev/sda1 ro  quiet console=ttyS1,115200n8\n\tinitrd\t/boot/initrd.img-6.1.0-32-amd64\n}\nsubmenu \"Advanced\" {\n\tmenuentry 'Recovery' {\n\t\tlinux\t/boot/vmlinuz-6.1.0-32-amd64 root=UUID=0b7c1d3e-0000-4000-8000-000000000001 ro single\n\t\tinitrd /boot/initrd.img-6.1.0-32-amd64 /boot/microcode.img\n\t}\n}\nif [ -f ${config_directory}/custom.cfg ]; then source ${config_directory}/custom.cfg; fi\n";
const GRUBENV: &str =
    "# GRUB Environment Block\nsaved_entry=0\nkernelopts=root=/dev/sda1 ro \n################\n";
const EXTLINUX: &str = "DEFAULT linux\nTIMEOUT 30\nINCLUDE other.conf\nLABEL linux\n  MENU LABEL Linux\n  LINUX /boot/vmlinuz-6.1.0-32-amd64\n  INITRD /boot/initrd.img-6.1.0-32-amd64\n  APPEND root=/dev/sda1 ro\n";

/// Files, one a disk.
fn texts(folder: &Path, texts: &[&str]) {
    for (number, text) in texts.iter().enumerate() {
        std::fs::write(folder.join(format!("disk{}", number + 1)), text).unwrap();
    }
}

/// A server's message of this kind to the client of the target: IPv4, UDP, BOOTP, options (RFC 2131, 2132).
fn packet(folder: &Path, kind: u8) {
    let mut message = vec![2, 1, 6, 0];
    message.extend(0x1234_5678u32.to_be_bytes());
    message.extend([0, 0, 0x80, 0, 0, 0, 0, 0]);
    message.extend([192, 0, 2, 7, 192, 0, 2, 1, 0, 0, 0, 0]);
    message.extend([0x52, 0x54, 0, 0x12, 0x34, 0x56]);
    message.resize(236, 0);
    message.extend([
        99, 130, 83, 99, 53, 1, kind, 54, 4, 192, 0, 2, 1, 51, 4, 0, 0, 14, 16, 1, 4, 255, 255, 255, 0,
    ]);
    message.extend([3, 4, 192, 0, 2, 1, 6, 8, 192, 0, 2, 2, 192, 0, 2, 3, 0, 0, 15, 4]);
    message.extend(b"test");
    message.push(255);
    let len = |extra: usize| u16::try_from(message.len() + extra).unwrap().to_be_bytes();
    let mut bytes = vec![0x45, 0];
    bytes.extend(len(28));
    bytes.extend([0, 0, 0, 0, 64, 17, 0, 0, 192, 0, 2, 1, 255, 255, 255, 255, 0, 67, 0, 68]);
    bytes.extend(len(8));
    bytes.extend([0, 0]);
    bytes.extend(&message);
    std::fs::write(folder.join("disk1"), bytes).unwrap();
}

/// A client's message with these bits of the option "overload" (RFC 2131, 2132, 4578).
fn discover(folder: &Path, overload: u8) {
    let mut message = vec![1, 1, 6, 0];
    message.extend(0x1234_5678u32.to_be_bytes());
    message.extend([0, 4, 0x80, 0]);
    message.resize(28, 0);
    message.extend([0x52, 0x54, 0, 0x12, 0x34, 0x56]);
    message.resize(44, 0);
    let (sname, file): (&[u8], &[u8]) =
        if overload == 0 { (b"", b"") } else { (b"\x0c\x04test\xff", b"\x4d\x04iPXE\x3d\x03\0ab\xff") };
    message.extend(sname);
    message.resize(108, 0);
    message.extend(file);
    message.resize(236, 0);
    message.extend([
        99, 130, 83, 99, 53, 1, 1, 57, 2, 5, 220, 55, 4, 1, 3, 66, 67, 93, 2, 0, 7, 94, 3, 1, 3, 16,
    ]);
    message.extend([97, 17, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 60, 32]);
    message.extend(b"PXEClient:Arch:00007:UNDI:003016");
    if overload != 0 {
        message.extend([52, 1, overload]);
    }
    message.push(255);
    std::fs::write(folder.join("disk1"), message).unwrap();
}

/// What a name server answers for the target's name: an alias, and two addresses (RFC 1035).
fn name_answer() -> Vec<u8> {
    let mut message = vec![0x12, 0x34, 0x81, 0x80, 0, 1, 0, 3, 0, 0, 0, 0];
    for label in crate::targets::remote::NAME.split('.') {
        message.push(label.len() as u8);
        message.extend(label.as_bytes());
    }
    message.extend([0, 0, 1, 0, 1]);
    message.extend([0xc0, 12, 0, 5, 0, 1, 0, 0, 0, 60, 0, 4, 1, b'x', 0xc0, 15]);
    message.extend([1, b'x', 0xc0, 15, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 7]);
    message.extend([0xc0, 40, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 8]);
    message
}

/// partclone's version 0001: 40 blocks of 4 KiB, of which three are there.
fn partclone_v1() -> Vec<u8> {
    let mut image = b"partclone-image".to_vec();
    image.extend(b"EXTFS");
    image.resize(30, 0);
    image.extend(b"0001\0\0");
    image.extend(4096u32.to_le_bytes());
    for number in [40u64 * 4096, 40, 3] {
        image.extend(number.to_le_bytes());
    }
    image.resize(PARTCLONE_V1, 0);
    image.extend((0..40).map(|block| u8::from(block % 15 == 3)));
    image.extend(b"BiTmAgIc");
    for _ in 0..3 {
        image.resize(image.len() + 4096 + 4, 0);
    }
    image
}

fn variables(folder: &Path) {
    let entry = unmoor_convert::firmware::nvram::Entry {
        description: "other".into(),
        partition: 2,
        start: 4096,
        sectors: 8192,
        signature: unmoor_convert::firmware::nvram::Signature::Mbr(0x1234_abcd),
        path: "\\EFI\\other\\grubx64.efi".into(),
    };
    std::fs::write(folder.join("disk1"), [7, 0, 0, 0, 0, 0, 5, 0]).unwrap();
    std::fs::write(folder.join("disk2"), unmoor_convert::firmware::nvram::nvram_entry(&entry)).unwrap();
    std::fs::write(folder.join("disk3"), [6, 0, 0, 0, 0, 0]).unwrap();
}

/// A superblock of version 1 at `place` of a member of `size` bytes (include/uapi/linux/raid/md_p.h).
fn md(folder: &Path, place: u64, size: u64) {
    let sectors = (size - (2 << 20)) / 512;
    let mut block = vec![0u8; 4096];
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &0xa92b_4efcu32.to_le_bytes());
    put(4, &1u32.to_le_bytes());
    put(16, b"array-uuid-array");
    put(32, b"host:0");
    put(72, &1u32.to_le_bytes());
    put(80, &sectors.to_le_bytes());
    put(92, &2u32.to_le_bytes());
    put(128, &(if place > 1 << 20 { 0 } else { 2048u64 }).to_le_bytes());
    put(136, &sectors.to_le_bytes());
    put(144, &(place / 512).to_le_bytes());
    put(168, b"device-uuid-devi");
    put(200, &17u64.to_le_bytes());
    put(208, &u64::MAX.to_le_bytes());
    put(220, &2u32.to_le_bytes());
    put(258, &1u16.to_le_bytes());
    let mut machine = Machine::of(Disk::new(size));
    machine.disks[0].write(place, &block);
    crate::seal::volumes(&mut machine);
    let file = File::create(folder.join("disk1")).unwrap();
    file.set_len(size).unwrap();
    file.write_all_at(&machine.disks[0].peek(place, 4096), place).unwrap();
    shell(folder, "mdadm --examine disk1 | grep -q 'Checksum.*correct'");
}

/// Puts entries into the log of the seed vhdx/dynamic ([MS-VHDX], section 2.3.1).
fn log(folder: &Path) {
    let seed = crate::seeds::load(Some("vhdx")).into_iter().find(|seed| seed.name == "dynamic").unwrap();
    let mut machine = Machine::decode(&seed.data);
    let disk = &mut machine.disks[0];
    let size = disk.size();
    let bat =
        (0..2u64).map(|index| (192 << 10) + 16 + index * 32).find(|at| disk.number(*at, 4) == 0x2dc2_7766);
    let bat = disk.number(bat.unwrap() + 16, 8);
    let page = disk.peek(bat, 4096);
    for (sequence, at) in [(8u64, 1u64 << 20), (9, (1 << 20) + 8192)] {
        let mut raw = vec![0; 8192];
        let mut put = |at: usize, bytes: &[u8]| raw[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, b"loge");
        put(8, &8192u32.to_le_bytes());
        put(16, &sequence.to_le_bytes());
        put(24, &2u32.to_le_bytes());
        put(32, b"the log's guid..");
        put(48, &size.to_le_bytes());
        put(56, &size.to_le_bytes());
        put(64, b"desc");
        put(68, &page[4092..]);
        put(72, &page[..8]);
        put(80, &bat.to_le_bytes());
        put(88, &sequence.to_le_bytes());
        put(96, b"zero");
        put(104, &4096u64.to_le_bytes());
        put(112, &(size - 8192).to_le_bytes());
        put(120, &sequence.to_le_bytes());
        put(4096, b"data");
        put(4104, &page[8..4092]);
        put(8188, &(sequence as u32).to_le_bytes());
        disk.write(at, &raw);
    }
    for header in [64 << 10, 128 << 10] {
        disk.write(header + 48, b"the log's guid..");
    }
    crate::seal::images(&mut machine);
    let path = folder.join("disk1");
    std::fs::write(&path, machine.disks[0].peek(0, size as usize)).unwrap();
    shell(folder, "cp disk1 c; qemu-img check -f vhdx -r all c; qemu-img check -f vhdx c");
}

fn map_file(path: &Path) -> (ExtentMap, Leaves, MapRecord) {
    let size = 100 * LEAF + 1000;
    let mut data = unmoor_images::RangeSet::of(4096..900_000);
    data.insert(50 * LEAF..60 * LEAF + 512);
    let mut zeros = unmoor_images::RangeSet::of(0..1 << 20);
    let extents = ExtentMap::from_data(size, &mut data, State::Hole).zero_holes(&mut zeros);
    let pairs = vec![(3, [7; 32]), (50, [8; 32]), (51, [8; 32]), (100, [9; 32])];
    let leaves = Leaves::from_pairs(size, pairs).unwrap();
    let record = write_map(path, &extents, &leaves).unwrap();
    (extents, leaves, record)
}

fn frames() -> Vec<u8> {
    use unmoor_pxe_boot::client::store::encode_frame;
    let mut compressor = zstd::bulk::Compressor::new(1).unwrap();
    let mut out = Vec::new();
    for leaf in [vec![7; 3000], (0..5000u32).map(|at| (at / 9) as u8).collect()] {
        encode_frame(&unmoor_images::merkle::leaf(&leaf), &leaf, Some(&mut compressor), &mut out).unwrap();
    }
    encode_frame(&unmoor_images::merkle::leaf(b"plain"), b"plain", None, &mut out).unwrap();
    out
}

fn commit(folder: &Path) {
    let store = store_with_image(&folder.join("store"));
    let record = store.record(&store.images().unwrap()[0]).unwrap();
    map_file(&folder.join("map"));
    let map = std::fs::read(folder.join("map")).unwrap();
    let maps = vec![map.len() as u64; 2];
    let commit = unmoor_pxe_boot::api::Commit { manifest: record.manifest, read_bytes: 5 * LEAF, maps };
    let body = [serde_json::to_vec(&commit).unwrap(), map.clone(), map].concat();
    std::fs::remove_dir_all(folder.join("store")).unwrap();
    std::fs::write(folder.join("disk1"), body).unwrap();
}

fn manifest(folder: &Path) {
    let seed = crate::seeds::load(Some("layout")).into_iter().find(|seed| seed.name == "gpt").unwrap();
    let machine = Machine::decode(&seed.data);
    let disk = machine.first();
    let layout = analyze(&[disk], &unmoor_images::layout::Options::default(), &Silent).unwrap().remove(0);
    let leaves = Leaves::zeros(disk.size());
    let bytes = |state| layout.extents.bytes(state);
    let disk = DiskRecord {
        source: "/dev/sda".into(),
        image: "web01.qcow2".into(),
        image_format: Format::Qcow2,
        size: disk.size(),
        sector_size: 512,
        physical_sector_size: Some(4096),
        model: Some("DISK".into()),
        serial: None,
        wwn: None,
        table: layout.table.clone(),
        regions: layout.regions.clone(),
        data_bytes: bytes(State::Data),
        zero_bytes: bytes(State::Zero),
        hole_bytes: bytes(State::Hole),
        root: hex(&leaves.root()),
        map: MapRecord { file: "web01.qcow2.map".into(), bytes: 100, blake3: hex(&[5; 32]) },
        unreadable: vec![(512, 1024)],
        conversions: Vec::new(),
    };
    let manifest = Manifest {
        format: "unmoor-manifest".into(),
        version: 1,
        created: "2026-01-01T00:00:00Z".into(),
        tool: "unmoor 0.1.0".into(),
        consistency: Consistency::Offline,
        live: None,
        machine: None,
        disks: vec![disk],
        warnings: layout.warnings,
    };
    manifest.write(&folder.join("disk1")).unwrap();
}

fn record(folder: &Path) {
    let (extents, leaves, map) = map_file(&folder.join("unused"));
    let path = folder.join(crate::targets::files::RECORD);
    let mut record = RestoreRecord {
        format: "unmoor-restore".into(),
        version: 1,
        image: "web01.qcow2".into(),
        image_root: Some(hex(&leaves.root())),
        target: "restored.raw".into(),
        size: extents.size(),
        changes: vec![Change { start: 512, end: 1024, what: "GPT header".into() }],
        root: String::new(),
        map,
    };
    record.write(&path, &extents, &leaves).unwrap();
    std::fs::rename(path.with_extension("map"), folder.join("disk2")).unwrap();
    std::fs::rename(path, folder.join("disk1")).unwrap();
}

/// What a client says from its flags to DISC ("Values" of the NBD specification).
fn conversation(structured: bool) -> Vec<u8> {
    let mut says = 3u32.to_be_bytes().to_vec();
    let option = |number: u32, data: &[u8]| {
        [b"IHAVEOPT", &number.to_be_bytes()[..], &(data.len() as u32).to_be_bytes(), data].concat()
    };
    if structured {
        says.extend(option(8, b""));
        says.extend(option(3, b""));
        says.extend(option(9, b"\0\0\0\x010\0\0\0\0"));
        says.extend(option(10, b"\0\0\0\x010\0\0\0\x01\0\0\0\x0fbase:allocation"));
        says.extend(option(6, b"\0\0\0\x010\0\x03\0\x01\0\x02\0\x03"));
        says.extend(option(5, b""));
        says.extend(option(7, b"\0\0\0\x010\0\x01\0\x03"));
    } else {
        says.extend(option(1, b""));
    }
    // Command, flags, offset, length.
    let requests: [(u16, u16, u64, u32); 11] = [
        (0, 0, 0, 20_000),
        (0, 4, 8000, 5000),
        (1, 1, 5000, 700),
        (6, 2, 12_288, 4096),
        (6, 16, 100, 40_000),
        (4, 0, 8192, 8192),
        (5, 0, 0, 70_001),
        (7, 0, 0, 70_001),
        (7, 8, 9000, 40_000),
        (3, 0, 0, 0),
        (2, 0, 0, 0),
    ];
    for (cookie, (command, flags, offset, len)) in requests.into_iter().enumerate() {
        says.extend(0x2560_9513u32.to_be_bytes());
        says.extend(flags.to_be_bytes());
        says.extend(command.to_be_bytes());
        says.extend((cookie as u64).to_be_bytes());
        says.extend(offset.to_be_bytes());
        says.extend(len.to_be_bytes());
        says.extend(vec![b'A'; if command == 1 { len as usize } else { 0 }]);
    }
    says
}

fn overlay(folder: &Path, complete: bool) {
    use unmoor_nbd::disk::Disk as _;
    use unmoor_nbd::overlay::{Below, Overlay, side_file};
    let path = folder.join("overlay.raw");
    let size = (40 << 20) + 100;
    let source = Box::new(Disk::new(size));
    let below = Below { source, bulk: None, identity: [5; 32], name: "web01.qcow2".into() };
    let overlay = Overlay::open(&path, Some(below)).unwrap();
    for offset in [0, 5000, 20 << 20, (32 << 20) + 77, size - 1] {
        overlay.write_at(b"A", offset).unwrap();
    }
    overlay.flush().unwrap();
    if complete {
        overlay.hydrate(0, "", &[], &|| false, &Silent).unwrap();
    }
    drop(overlay);
    std::fs::copy(side_file::path_for(&path), folder.join("disk1")).unwrap();
}

fn order() -> Vec<u8> {
    let pieces = vec![0, 399, 7, 8, 9, 200, 1];
    unmoor_nbd::order::Order { size: 100 << 20, pieces }.encode(&[5; 32])
}

fn shell(folder: &Path, script: &str) {
    let output = Command::new("bash")
        .args(["-euo", "pipefail", "-c", &format!("{PRELUDE}\n{script}")])
        .current_dir(folder)
        .output()
        .expect("starting bash");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}: {said}");
}

/// Reads a file as a sparse disk.
fn read(path: &Path) -> Disk {
    let file = File::open(path).unwrap();
    let size = file.metadata().unwrap().len();
    let mut disk = Disk::new(size);
    let mut buffer = vec![0; 1 << 20];
    for at in (0..size).step_by(buffer.len()) {
        let len = (size - at).min(1 << 20) as usize;
        file.read_exact_at(&mut buffer[..len], at).unwrap();
        disk.write(at, &buffer[..len]);
    }
    disk
}

/// The largest seed file in bytes. Only the pages that the target reads are kept: those are its metadata.
const MOST: usize = 20 << 10;
/// The same before compression: each round of the smoke test decodes it.
const MOST_DATA: usize = 6 << 20;

/// Makes every seed whose `target/name` contains `only`, and the index of all. Returns a report.
pub fn make(only: &str) -> std::io::Result<String> {
    let mut report = String::new();
    let mut index = String::from(
        "# Seeds\n\nMade by `cargo xtask fuzz seeds` out of `fuzz/src/recipes.rs`; not to be edited. Each is a machine's disks (format: \
         `fuzz/src/disk.rs`), compressed with zstd, and has real metadata; content is left out. The smoke test holds each against \
         its second column.\n\n| seed | found in it | made by |\n|---|---|---|\n",
    );
    for recipe in RECIPES {
        let name = format!("{}/{}", recipe.target, recipe.name);
        let how = match recipe.made {
            Made::By(script) => format!("`{}`", script.replace('\n', "; ").replace('|', "\\|")),
            Made::Here(_, how) => how.to_owned(),
            Made::Kept(what) => format!("damage: {what}"),
        };
        let _ = writeln!(index, "| {name} | {} | {how} |", recipe.found);
        if !name.contains(only) || matches!(recipe.made, Made::Kept(_)) {
            continue;
        }
        // Later recipes use earlier seeds.
        std::fs::create_dir_all(folder())?;
        std::fs::write(folder().join("INDEX.md"), &index)?;
        let size = make_one(recipe)?;
        let _ = writeln!(report, "{name}: {size} bytes");
    }
    std::fs::write(folder().join("INDEX.md"), &index)?;
    Ok(report)
}

fn make_one(recipe: &Recipe) -> std::io::Result<usize> {
    let folder = tempfile::tempdir()?;
    match recipe.made {
        Made::By(script) => shell(folder.path(), script),
        Made::Here(make, _) => make(folder.path()),
        Made::Kept(_) => return Ok(0),
    }
    let mut machine = Machine::default();
    for number in 1..=4 {
        let path = folder.path().join(format!("disk{number}"));
        if path.exists() {
            machine.disks.push(read(&path));
        }
    }
    if recipe.name.ends_with("-4k") && recipe.target == "partition" {
        machine.large_sectors();
    }
    let target = Target::named(recipe.target).expect("a recipe names its target");
    machine.disks.iter_mut().for_each(Disk::watch);
    target.run_machine(&machine);
    // Files are read through the operating system.
    if machine.spent().0 > 0 {
        machine.disks.iter_mut().for_each(Disk::keep_seen);
    }
    let data = machine.encode();
    let size = store(recipe.target, recipe.name, &data)?;
    let found = target.run(&data).summary;
    assert_eq!(found, recipe.found, "{}/{}", recipe.target, recipe.name);
    assert!(size <= MOST && data.len() <= MOST_DATA, "{}/{} has {size} bytes", recipe.target, recipe.name);
    Ok(size)
}

/// Objects of a store with one small image: a disk each, documents without their frame.
fn stored_objects(folder: &Path, wanted: &[&str]) {
    let place = folder.join("store");
    let store = store_with_image(&place);
    for (number, kind) in wanted.iter().enumerate() {
        let disk = |number: usize| folder.join(format!("disk{}", number + 1));
        let first = |below: &str| object_below(&place, below);
        match *kind {
            "packs/" | "index/" => std::fs::write(disk(number), std::fs::read(first(kind)).unwrap()).unwrap(),
            "tree" => {
                let name = unmoor_images::store::ImageName::parse("web01").unwrap();
                let image = store.open_image(&name).unwrap();
                let (root, page, size) =
                    unmoor_images::store::encode_tree(&image.disks[0].extents, &image.disks[0].leaves);
                std::fs::write(disk(0), root).unwrap();
                std::fs::write(disk(1), page).unwrap();
                std::fs::write(disk(2), size.to_le_bytes()).unwrap();
            }
            "keys/" => {
                let sealed = folder.join("sealed");
                let location = unmoor_images::store::Location::Directory(sealed.clone());
                let words = unmoor_images::store::Secret::Passphrase(b"words".to_vec().into());
                let options = unmoor_images::store::InitOptions { secret: Some(words) };
                unmoor_images::store::Store::init(&location, &options).unwrap();
                std::fs::write(disk(number), unframed(&object_below(&sealed, kind))).unwrap();
            }
            // What prune and verify write is what they would write; it needs a store with more in it than a seed can hold.
            "moved/" => std::fs::write(disk(number), MOVED).unwrap(),
            "damaged/" => std::fs::write(disk(number), DAMAGED).unwrap(),
            "marks/" => {
                unmoor_images::store::Mark::write(&store, &[[7; 32], [9; 32]]).unwrap();
                std::fs::write(disk(number), unframed(&first(kind))).unwrap();
            }
            "leases/" => {
                let lease = unmoor_images::store::Lease::take(&store, "process 7 on web01").unwrap();
                std::fs::write(disk(number), unframed(&first(kind))).unwrap();
                drop(lease);
            }
            "usage.json" => {
                store.keep_usage(&store.count_usage(&Silent).unwrap()).unwrap();
                std::fs::write(disk(number), unframed(&place.join(kind))).unwrap();
            }
            "store.json" => std::fs::write(disk(number), unframed(&place.join(kind))).unwrap(),
            _ => std::fs::write(disk(number), unframed(&first(kind))).unwrap(),
        }
    }
    std::fs::remove_dir_all(place).unwrap();
}

const MOVED: &str = "{\"moved\":{\"0707070707070707070707070707070707070707070707070707070707070707\":[\"0909090909090909090909090909090909090909090909090909090909090909\",\"0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a\"]}}";
const DAMAGED: &str = "{\"pack\":\"0707070707070707070707070707070707070707070707070707070707070707\",\"chunks\":[\"0909090909090909090909090909090909090909090909090909090909090909\"]}";

/// The first file of a folder of a store.
fn object_below(store: &Path, below: &str) -> std::path::PathBuf {
    let mut path = store.join(below);
    while path.is_dir() {
        let mut names: Vec<_> =
            std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()).collect();
        names.sort();
        path = names.remove(0);
    }
    path
}

/// A document's JSON, out of its frame.
fn unframed(path: &Path) -> Vec<u8> {
    let text = std::fs::read_to_string(path).unwrap();
    let (_, inner) = text.split_once("\"document\":").unwrap();
    inner.trim_end().strip_suffix('}').unwrap().as_bytes().to_vec()
}

fn store_with_image(place: &Path) -> unmoor_images::store::Store {
    use unmoor_images::BlockSink as _;
    use unmoor_images::store::{InitOptions, Location, Since, Store, Writer, WriterOptions};
    let store = Store::init(&Location::Directory(place.to_owned()), &InitOptions::default()).unwrap();
    let options = WriterOptions {
        compression: unmoor_images::formats::Compression::Zstd(3),
        since: Since::Latest,
        holder: "recipe".into(),
    };
    let writer = Writer::begin(&store, "web01", &options, &Silent).unwrap();
    let size = 9 * LEAF + 1000;
    let mut data = unmoor_images::RangeSet::of(0..3 * LEAF);
    data.insert(8 * LEAF..size);
    let extents = ExtentMap::from_data(size, &mut data, State::Hole);
    let (sink, mut pairs) = (writer.sink(size), Vec::new());
    for leaf in [0, 1, 2, 8, 9u64] {
        let bytes = vec![b'a' + leaf as u8; (size - leaf * LEAF).min(LEAF) as usize];
        sink.write_at(&bytes, leaf * LEAF).unwrap();
        pairs.push((leaf, unmoor_images::merkle::leaf(&bytes)));
    }
    let leaves = Leaves::from_pairs(size, pairs).unwrap();
    let manifest = Manifest {
        format: "unmoor-manifest".into(),
        version: unmoor_images::manifest::VERSION,
        created: "2026-11-24T21:50:00Z".into(),
        tool: "recipe".into(),
        consistency: Consistency::Offline,
        live: None,
        machine: None,
        disks: vec![DiskRecord {
            source: "/dev/sda".into(),
            image: "disk0".into(),
            image_format: Format::Raw,
            size,
            sector_size: 512,
            physical_sector_size: None,
            model: Some("DISK".into()),
            serial: None,
            wwn: None,
            table: unmoor_images::partition::read(&Disk::new(size)).unwrap(),
            regions: Vec::new(),
            data_bytes: extents.bytes(State::Data),
            zero_bytes: 0,
            hole_bytes: extents.bytes(State::Hole),
            root: hex(&leaves.root()),
            map: MapRecord { file: String::new(), bytes: 0, blake3: String::new() },
            unreadable: Vec::new(),
            conversions: Vec::new(),
        }],
        warnings: vec!["a warning".into()],
    };
    writer.commit(manifest, &[(&extents, &leaves)], 5 * LEAF).unwrap();
    store
}
