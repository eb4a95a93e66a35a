# SPDX-License-Identifier: Apache-2.0
# Writes to $RESULT what the disk `target` holds, in sections "== NAME": the partition table; for each partition and logical
# volume its signatures and what the file system's checker says; for each file system four sorted lists of its files.
# Newlines inside file names become \001. Nothing is written to the disk.
target=$(disk target)
exec 3>&1 >"$RESULT"
lines() { tr '\n\0' '\001\n' | sort; }
say() { echo "LIST $*" >&3; }

# files DEVICE TYPE
files() {
    options=ro
    [ "$2" = btrfs ] && options=ro,subvolid=5
    mount -t "$2" -o "$options" "$1" /mnt
    cd /mnt
    echo "== files $name"
    # Name, type, inode, links, size, 512-byte blocks, mode, owner, group, modified, changed, device numbers.
    find . -print0 | xargs -0 stat --printf '%n\t%F\t%i\t%h\t%s\t%b\t%a\t%u\t%g\t%.9Y\t%.9Z\t%t:%T\0' | lines
    echo "== symlinks $name"
    find . -type l -printf '%p\t%l\0' | lines
    # XXH64: it needs no vector instructions, which are slow when emulated.
    echo "== contents $name"
    find . -type f -print0 | xargs -0 -r -n 500 -P 2 sh -c 'out=$(mktemp) && xxhsum -q -H1 "$@" >"$out" && flock /tmp cat "$out"' sh | sort
    echo "== attributes $name"
    # getfattr escapes what is odd in names, and separates files by empty lines.
    find . -print0 | xargs -0 -r getfattr -h -d -m - -e hex | awk -v RS= '{ gsub("\n", "\t"); print }' | sort
    cd /
    umount /mnt
}

# volume DEVICE NAME
volume() {
    device=$1 name=$2
    say "$name"
    echo "== signatures $name"
    blockdev --getsize64 "$device"
    wipefs --no-act --noheadings --output OFFSET,TYPE,UUID,LABEL,LENGTH "$device"
    blkid -p -o export "$device" | grep -v -e '^DEVNAME=' -e '^PART_ENTRY_DISK=' | sort || true
    type=$(blkid -p -s TYPE -o value "$device" || true)
    echo "== checker $name"
    status=0
    case $type in
    ext*) e2fsck -fn "$device" 2>&1 || status=$? ;;
    xfs) xfs_repair -n "$device" 2>&1 || status=$? ;;
    btrfs) btrfs check --readonly "$device" 2>&1 || status=$? ;;
    vfat) fsck.fat -n "$device" || status=$? ;;
    ntfs) ntfsfix -n "$device" || status=$? ;;
    exfat) fsck.exfat -n "$device" || status=$? ;;
    swap) swaplabel "$device" || status=$? ;;
    *) echo "no checker" ;;
    esac | sed "s|$device|DEVICE|g"
    echo "exit ${PIPESTATUS[0]}"
    case $type in
    ext* | xfs | btrfs | vfat | exfat) files "$device" "$type" ;;
    ntfs) files "$device" ntfs3 ;;
    esac
}

echo "== table"
sfdisk --dump "$target" 2>&1 | sed -e '/^device:/d' -e "s|$target|DISK|g"
echo "== signatures disk"
wipefs --no-act --noheadings --output OFFSET,TYPE,UUID,LABEL,LENGTH "$target"
for block in /sys/block/"${target##*/}"/"${target##*/}"[0-9]*; do
    [ -e "$block" ] || continue
    partition=/dev/${block##*/}
    volume "$partition" "partition-$(cat "$block/partition")"
done
if [ -n "$(pvs --noheadings)" ]; then
    vgchange -q -ay >&3
    udevadm settle
    echo "== volumes"
    lvs --noheadings -o vg_name,lv_name,lv_size,seg_start_pe,lv_uuid --units b
    for path in $(lvs --noheadings -o lv_path); do
        volume "$path" "${path#/dev/}"
    done
fi
exec >&3
