# SPDX-License-Identifier: Apache-2.0
# The initramfs compressed as $KIND says, with the options that kernels ask for (Linux, Documentation/driver-api/early-userspace).
file=/boot/initrd.img-$version
chroot /mnt zcat "$file" >/tmp/plain
case $KIND in
none) cat /tmp/plain ;;
gzip) chroot /mnt gzip -n -6 </tmp/plain ;;
xz) chroot /mnt xz --check=crc32 --lzma2=dict=1MiB -1 </tmp/plain ;;
zstd) chroot /mnt zstd -q -3 </tmp/plain ;;
lz4) chroot /mnt lz4 -q -l </tmp/plain ;;
esac >"/mnt$file"
ls -l "/mnt$file" >/dev/console
