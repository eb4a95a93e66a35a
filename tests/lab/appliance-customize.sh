# SPDX-License-Identifier: Apache-2.0
# appliance-customize.sh TREE INIT DIRECTORY: puts kernel, initramfs and a disk with TREE into DIRECTORY.
set -eu
tree=$1 init=$2 directory=$3
install -D -m 0755 "$init" "$tree/lab/init"
install -m 0644 "$tree"/boot/vmlinuz-* "$directory/vmlinuz"
install -m 0644 "$tree"/boot/initrd.img-* "$directory/initrd.img"
rm -rf "$tree"/boot/* "$tree"/var/cache/apt/*.bin "$tree"/var/lib/apt/lists/*
# A second mount of the tree, because the first has /proc and /sys mounted in it, which mke2fs would copy.
mount=$(mktemp -d)
unshare --mount sh -eu -c '
    mount --bind "$1" "$2"
    mke2fs -q -t ext4 -O ^has_journal -L appliance -d "$2" "$3" 768M
' sh "$tree" "$mount" "$directory/appliance.raw"
rmdir "$mount"
chmod 0644 "$directory/appliance.raw"
