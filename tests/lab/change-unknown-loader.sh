# SPDX-License-Identifier: Apache-2.0
# A boot loader that nobody knows: other code in the boot sector, and no GRUB in /boot.
rm -r /mnt/boot/grub
{
    printf '\xfa\x31\xc0\x8e\xd8loader of the house'
    head -c 415 /dev/zero
} | head -c 440 | dd of="$T" bs=440 count=1 conv=notrunc status=none
head -c $((2047 * 512)) /dev/urandom | dd of="$T" bs=512 seek=1 conv=notrunc status=none
