# SPDX-License-Identifier: Apache-2.0
# Debian 12 as its installer lays it out on an old machine: BIOS, MBR, ext4, swap in a logical partition.
sfdisk --quiet --no-tell-kernel "$TARGET" <<'TABLE'
label: dos
label-id: 0x1b2e33a5
start=2048, size=6815744, type=83, bootable
start=6819840, type=5
start=6821888, type=82
TABLE
blockdev --rereadpt "$TARGET"
udevadm settle
# The features of Debian 12's own mke2fs: its GRUB knows neither of the two.
mkfs.ext4 -q -L root -O ^metadata_csum_seed,^orphan_file "${TARGET}1"
mkswap -q -L swap "${TARGET}5"
udevadm settle
mount "${TARGET}1" /mnt
unpack
configure web01
cat >/mnt/etc/fstab <<FSTAB
UUID=$(uuid "${TARGET}1") / ext4 errors=remount-ro 0 1
UUID=$(uuid "${TARGET}5") none swap sw 0 0
FSTAB
cat >/mnt/etc/network/interfaces <<'INTERFACES'
auto lo
iface lo inet loopback
allow-hotplug ens3
iface ens3 inet dhcp
INTERFACES
boot_loader --target=i386-pc "$TARGET"
age /mnt 300
umount /mnt
