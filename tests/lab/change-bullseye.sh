# SPDX-License-Identifier: Apache-2.0
# Before each script that changes a copy of the guest `bullseye`: its file systems at /mnt, and their end.
T=$(disk target)
mount -t ext4 "${T}1" /mnt
mount -t ext4 "${T}2" /mnt/boot
trap 'status=$?; umount -R /mnt || status=1; exit $status' EXIT
version=$(ls /mnt/lib/modules)
