# SPDX-License-Identifier: Apache-2.0
# Debian 12 on an old machine: BIOS, MBR, ext4, an initramfs for AHCI only, a static address by ifupdown.
partition <<'TABLE'
label: dos
label-id: 0x2c3f44b6
start=2048, size=6815744, type=83, bootable
start=6819840, type=5
start=6821888, type=82
TABLE
# The features of Debian 12's own mke2fs: its GRUB knows neither of the two.
mkfs.ext4 -q -L root -O ^metadata_csum_seed,^orphan_file "${TARGET}1"
mkswap -q "${TARGET}5"
udevadm settle
mount "${TARGET}1" /mnt
unpack
configure web02
cat >/mnt/etc/fstab <<FSTAB
UUID=$(uuid "${TARGET}1") / ext4 errors=remount-ro 0 1
UUID=$(uuid "${TARGET}5") none swap sw 0 0
FSTAB
cat >/mnt/etc/network/interfaces <<'INTERFACES'
auto lo
iface lo inet loopback
allow-hotplug ens3
iface ens3 inet static
    address 10.0.2.77/24
    gateway 10.0.2.2
INTERFACES
echo RESUME=none >/mnt/etc/initramfs-tools/conf.d/resume
arguments
initramfs ahci sd_mod ext4
grub_disk /dev/disk/by-id/ata-QEMU_HARDDISK_SYSTEM0
boot_loader --target=i386-pc "$TARGET"
umount /mnt
