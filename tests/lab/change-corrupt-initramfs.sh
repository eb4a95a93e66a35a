# SPDX-License-Identifier: Apache-2.0
# The middle of the initramfs is garbage.
file=/mnt/boot/initrd.img-$version
middle=$(($(stat -c %s "$file") / 2048))
head -c 64K /dev/urandom | dd of="$file" bs=1K seek="$middle" conv=notrunc status=none
sync
if chroot /mnt zcat "/boot/initrd.img-$version" >/dev/null 2>&1; then exit 1; fi
