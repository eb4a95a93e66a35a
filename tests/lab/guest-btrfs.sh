# SPDX-License-Identifier: Apache-2.0
# Debian 12 on btrfs: BIOS, GPT with a BIOS boot partition, subvolumes, zstd compression, a snapshot.
sfdisk --quiet --no-tell-kernel "$TARGET" <<'TABLE'
label: gpt
size=1MiB, type=21686148-6449-6E6F-744E-656564454649, name="BIOS boot"
type=linux, name="btrfs"
TABLE
blockdev --rereadpt "$TARGET"
udevadm settle
modprobe btrfs
mkfs.btrfs -q -L root "${TARGET}2"
udevadm settle
options=compress=zstd:1,noatime
mount -o "$options" "${TARGET}2" /mnt
btrfs -q subvolume create /mnt/@
btrfs -q subvolume create /mnt/@home
umount /mnt
mount -o "$options,subvol=@" "${TARGET}2" /mnt
mkdir /mnt/home
mount -o "$options,subvol=@home" "${TARGET}2" /mnt/home
unpack
configure files01
cat >/mnt/etc/fstab <<FSTAB
UUID=$(uuid "${TARGET}2") / btrfs $options,subvol=@ 0 0
UUID=$(uuid "${TARGET}2") /home btrfs $options,subvol=@home 0 0
FSTAB
printf '[Match]\nName=en*\n\n[Network]\nDHCP=yes\n' >/mnt/etc/systemd/network/10-wired.network
chroot /mnt systemctl --quiet enable systemd-networkd.service
boot_loader --target=i386-pc "$TARGET"
age /mnt/home 300
btrfs -q subvolume snapshot -r /mnt/home /mnt/home/.snapshot
rm -rf /mnt/home/aged/small/1*
umount -R /mnt
