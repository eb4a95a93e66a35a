# SPDX-License-Identifier: Apache-2.0
# Debian 13 with systemd-boot: UEFI, entries of the Boot Loader Specification on the ESP, btrfs subvolumes, a host-only dracut
# initramfs for virtio, a static address by systemd-networkd.
partition <<'TABLE'
label: gpt
size=512MiB, type=uefi, name="EFI System Partition"
type=linux, name="btrfs"
TABLE
modprobe btrfs
mkfs.vfat -F 32 -n ESP "${TARGET}1"
mkfs.btrfs -q -L root "${TARGET}2"
udevadm settle
options=compress=zstd:1,noatime
mount -o "$options" "${TARGET}2" /mnt
btrfs -q subvolume create /mnt/@
btrfs -q subvolume create /mnt/@home
umount /mnt
mount -o "$options,subvol=@" "${TARGET}2" /mnt
mkdir -p /mnt/home /mnt/efi
mount -o "$options,subvol=@home" "${TARGET}2" /mnt/home
mount "${TARGET}1" /mnt/efi
unpack
configure app03
# Its entries are named by the machine's identity, which therefore is not made by the first boot.
echo 5d1f0a52c0d84b0d9a6e3f0b7c1e2a94 >/mnt/etc/machine-id
cat >/mnt/etc/fstab <<FSTAB
UUID=$(uuid "${TARGET}2") / btrfs $options,subvol=@ 0 0
UUID=$(uuid "${TARGET}2") /home btrfs $options,subvol=@home 0 0
UUID=$(uuid "${TARGET}1") /efi vfat umask=0077 0 1
FSTAB
cat >/mnt/etc/systemd/network/10-wired.network <<'NETWORK'
[Match]
Name=enp0s3

[Network]
Address=10.0.2.79/24
Gateway=10.0.2.2
NETWORK
chroot /mnt systemctl --quiet enable systemd-networkd.service
mkdir -p /mnt/etc/kernel
echo "root=UUID=$(uuid "${TARGET}2") rootflags=subvol=@ console=tty0 console=ttyS0,115200 no_timer_check" \
    "rd.retry=120 rd.shell=0 rd.emergency=reboot panic=5" >/mnt/etc/kernel/cmdline
# Of the two that would add an initramfs to the entry, dracut's makes another; Debian's takes what is in /boot.
printf 'layout=bls\ninitrd_generator=none\n' >/mnt/etc/kernel/install.conf
say "installing systemd-boot"
inside env SYSTEMD_RELAX_ESP_CHECKS=1 bootctl --no-variables --esp-path=/efi install
printf 'timeout 1\nconsole-mode keep\n' >/mnt/efi/loader/loader.conf
host_only virtio_blk "ahci nvme"
version=$(ls /mnt/lib/modules)
inside env SYSTEMD_RELAX_ESP_CHECKS=1 kernel-install add "$version" "/boot/vmlinuz-$version"
ls -R /mnt/efi/loader /mnt/efi/"$(cat /mnt/etc/machine-id)" >/dev/console
cat /mnt/efi/loader/entries/*.conf >/dev/console
umount -R /mnt
