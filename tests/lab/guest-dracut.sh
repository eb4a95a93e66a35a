# SPDX-License-Identifier: Apache-2.0
# Debian 13 as a server of today: UEFI with Secure Boot's shim, GPT, /boot on ext4, root on XFS in LVM, a host-only dracut
# initramfs for AHCI, a static address by NetworkManager.
partition <<'TABLE'
label: gpt
size=256MiB, type=uefi, name="EFI System Partition"
size=512MiB, type=linux, name="boot"
type=lvm, name="lvm"
TABLE
mkfs.vfat -F 32 -n ESP "${TARGET}1"
mkfs.ext4 -q -L boot "${TARGET}2"
pvcreate -y "${TARGET}3"
vgcreate vg0 "${TARGET}3"
lvcreate -y -n root -L 3G vg0
lvcreate -y -n swap -L 256M vg0
udevadm settle
mkfs.xfs -q -L root /dev/vg0/root
mkswap -q /dev/vg0/swap
udevadm settle
mount /dev/vg0/root /mnt
mkdir -p /mnt/boot
mount "${TARGET}2" /mnt/boot
mkdir -p /mnt/boot/efi
mount "${TARGET}1" /mnt/boot/efi
unpack
configure db02
cat >/mnt/etc/fstab <<FSTAB
/dev/mapper/vg0-root / xfs defaults 0 0
UUID=$(uuid "${TARGET}2") /boot ext4 defaults 0 2
UUID=$(uuid "${TARGET}1") /boot/efi vfat umask=0077 0 1
/dev/mapper/vg0-swap none swap sw 0 0
FSTAB
cat >/mnt/etc/NetworkManager/system-connections/wired.nmconnection <<'KEYFILE'
[connection]
id=wired
type=ethernet
interface-name=enp0s3

[ipv4]
method=manual
address1=10.0.2.78/24,10.0.2.2

[ipv6]
method=disabled
KEYFILE
chmod 0600 /mnt/etc/NetworkManager/system-connections/wired.nmconnection
host_only "ahci sd_mod" "virtio_pci virtio_blk virtio_scsi virtio_net"
arguments rd.retry=120 rd.shell=0 rd.emergency=reboot
answers "grub-efi-amd64 grub2/force_efi_extra_removable boolean true"
boot_loader --target=x86_64-efi --efi-directory=/boot/efi --no-nvram --force-extra-removable
umount -R /mnt
vgchange -q -an vg0
