# SPDX-License-Identifier: Apache-2.0
# Debian 11 that names its devices: /dev/sda1 in fstab and as root, swap to resume from, /boot apart; IDE, DHCP by ifupdown.
partition <<'TABLE'
label: dos
label-id: 0x4e5f66d8
start=2048, size=5767168, type=83, bootable
start=5769216, size=524288, type=83
start=6295552, type=5
start=6297600, type=82
TABLE
# The features of Debian 11's own mke2fs.
mkfs.ext4 -q -L root -O ^metadata_csum_seed,^orphan_file "${TARGET}1"
mkfs.ext4 -q -L boot -O ^metadata_csum_seed,^orphan_file "${TARGET}2"
mkswap -q "${TARGET}5"
udevadm settle
mount "${TARGET}1" /mnt
mkdir /mnt/boot
mount "${TARGET}2" /mnt/boot
unpack
configure old01
cat >/mnt/etc/fstab <<'FSTAB'
# <file system> <mount point>   <type>  <options>       <dump>  <pass>
/dev/sda1       /               ext4    errors=remount-ro 0     1
/dev/sda2       /boot           ext4    defaults        0       2
/dev/sda5       none            swap    sw              0       0
FSTAB
cat >/mnt/etc/network/interfaces <<'INTERFACES'
auto lo
iface lo inet loopback
allow-hotplug ens3
iface ens3 inet dhcp
INTERFACES
echo RESUME=/dev/sda5 >/mnt/etc/initramfs-tools/conf.d/resume
arguments resume=/dev/sda5
echo GRUB_DISABLE_LINUX_UUID=true >>/mnt/etc/default/grub
initramfs ata_piix sd_mod ext4
grub_disk /dev/sda
boot_loader --target=i386-pc "$TARGET"
# The machine that installs it calls its disk otherwise.
sed -i "s|root=${TARGET}1|root=/dev/sda1|" /mnt/boot/grub/grub.cfg
grep -q root=/dev/sda1 /mnt/boot/grub/grub.cfg
umount -R /mnt
