# SPDX-License-Identifier: Apache-2.0
# The boot loader names an initramfs that is not there.
rm "/mnt/boot/initrd.img-$version"
grep -q "initrd.img-$version" /mnt/boot/grub/grub.cfg
