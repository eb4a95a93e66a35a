# SPDX-License-Identifier: Apache-2.0
# No byte is left in /boot.
tr '\0' x </dev/zero >/mnt/boot/full 2>/dev/null || true
sync
if printf x >/mnt/boot/more 2>/dev/null && sync /mnt/boot/more; then exit 1; fi
rm -f /mnt/boot/more
