# SPDX-License-Identifier: Apache-2.0
# Debian 13 in a virtual machine: UEFI, GPT, ext4, an initramfs for virtio only, DHCP by systemd-networkd.
partition <<'TABLE'
label: gpt
size=256MiB, type=uefi, name="EFI System Partition"
size=3GiB, type=linux, name="root"
size=256MiB, type=swap, name="swap"
TABLE
mkfs.vfat -F 32 -n ESP "${TARGET}1"
# What GRUB 2.06 can read too: a GRUB for the other firmware comes from the host's distribution.
mkfs.ext4 -q -L root -O ^metadata_csum_seed,^orphan_file "${TARGET}2"
mkswap -q "${TARGET}3"
udevadm settle
mount "${TARGET}2" /mnt
mkdir -p /mnt/boot/efi
mount "${TARGET}1" /mnt/boot/efi
unpack
packages
configure app02
cat >/mnt/etc/fstab <<FSTAB
UUID=$(uuid "${TARGET}2") / ext4 errors=remount-ro 0 1
UUID=$(uuid "${TARGET}1") /boot/efi vfat umask=0077 0 1
UUID=$(uuid "${TARGET}3") none swap sw 0 0
FSTAB
printf '[Match]\nName=enp0s3\n\n[Network]\nDHCP=ipv4\n' >/mnt/etc/systemd/network/10-wired.network
chroot /mnt systemctl --quiet enable systemd-networkd.service
echo RESUME=none >/mnt/etc/initramfs-tools/conf.d/resume
arguments
initramfs virtio_pci virtio_blk ext4
answers "grub-efi-amd64 grub2/force_efi_extra_removable boolean true"
boot_loader --target=x86_64-efi --efi-directory=/boot/efi --no-nvram --force-extra-removable
umount -R /mnt
