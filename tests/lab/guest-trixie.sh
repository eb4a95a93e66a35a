# SPDX-License-Identifier: Apache-2.0
# Debian 13 as a server of today: UEFI, GPT, an ESP, /boot on ext4, the rest LVM with ext4, XFS and swap.
sfdisk --quiet --no-tell-kernel "$TARGET" <<'TABLE'
label: gpt
size=256MiB, type=uefi, name="EFI System Partition"
size=512MiB, type=linux, name="boot"
type=lvm, name="lvm"
TABLE
blockdev --rereadpt "$TARGET"
udevadm settle
mkfs.vfat -F 32 -n ESP "${TARGET}1"
mkfs.ext4 -q -L boot "${TARGET}2"
pvcreate -y "${TARGET}3"
vgcreate vg0 "${TARGET}3"
lvcreate -y -n root -L 3G vg0
lvcreate -y -n srv -L 1G vg0
lvcreate -y -n swap -L 512M vg0
udevadm settle
mkfs.ext4 -q -L root /dev/vg0/root
mkfs.xfs -q -L srv /dev/vg0/srv
mkswap -q -L swap /dev/vg0/swap
udevadm settle
mount /dev/vg0/root /mnt
mkdir -p /mnt/boot /mnt/srv
mount "${TARGET}2" /mnt/boot
mkdir -p /mnt/boot/efi
mount "${TARGET}1" /mnt/boot/efi
mount /dev/vg0/srv /mnt/srv
unpack
configure db01
cat >/mnt/etc/fstab <<FSTAB
/dev/mapper/vg0-root / ext4 errors=remount-ro 0 1
UUID=$(uuid "${TARGET}2") /boot ext4 defaults 0 2
UUID=$(uuid "${TARGET}1") /boot/efi vfat umask=0077 0 1
/dev/mapper/vg0-srv /srv xfs defaults 0 0
/dev/mapper/vg0-swap none swap sw 0 0
FSTAB
printf '[Match]\nName=en*\n\n[Network]\nDHCP=yes\n' >/mnt/etc/systemd/network/10-wired.network
chroot /mnt systemctl --quiet enable systemd-networkd.service
boot_loader --target=x86_64-efi --efi-directory=/boot/efi --no-nvram --force-extra-removable
age /mnt/srv 200
age /mnt 100
umount -R /mnt
vgchange -q -an vg0
