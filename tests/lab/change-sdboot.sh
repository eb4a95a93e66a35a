# SPDX-License-Identifier: Apache-2.0
# Before each script that changes a copy of the guest `sdboot`: its file systems at /mnt, and their end.
T=$(disk target)
modprobe -a btrfs vfat
mount -t btrfs -o subvol=@ "${T}2" /mnt
mount -t vfat "${T}1" /mnt/efi
trap 'status=$?; umount -R /mnt || status=1; exit $status' EXIT
version=$(ls /mnt/lib/modules)
