# SPDX-License-Identifier: Apache-2.0
# /boot has no room for a second copy of the initramfs.
tr '\0' x </dev/zero >/mnt/boot/full 2>/dev/null || true
sync
free=$(($(stat -f -c '%f * %S' /mnt/boot)))
test "$free" -lt "$(stat -c %s "/mnt/boot/initrd.img-$version")"
