#!/bin/bash
# A lived-in ext4 of 12 GiB: about 6 GiB used, after 2 GiB of random bytes were written and deleted again.
# Run as root with the image's path; needs a loop device.
set -euo pipefail
image=$1
rm -f "$image"
truncate -s 12G "$image"
mke2fs -q -t ext4 -L lived-in -U 6b6f1f0e-3d5c-4c57-9f5e-2a0c6a1d7f10 "$image"
point=$(mktemp -d)
mount -o loop "$image" "$point"
trap 'umount "$point"; rmdir "$point"' EXIT
# Real files of this system, in several copies where it is small: 64 KiB clusters and zstd's windows at low levels
# do not see across copies, so a copy compresses like other files of its kind.
used() { df --output=used -B1M "$point" | tail -n 1; }
head -c 2G /dev/urandom > "$point/garbage"
sync -f "$point"
copy=0
while [ "$(used)" -lt $((6144 + 2048)) ] && [ "$copy" -lt 64 ]; do
    copy=$((copy + 1))
    mkdir "$point/$copy"
    for folder in /usr/bin /usr/lib /usr/share /usr/sbin /usr/include; do
        [ "$(used)" -lt $((6144 + 2048)) ] || break
        # What does not fit any more, or vanishes meanwhile, is no failure of the recipe.
        (cd "$folder" && find . -xdev -type f -size -200M -print0) |
            (cd "$folder" && timeout 600 cpio --quiet -0pdm "$point/$copy/${folder##*/}" 2>/dev/null) || true
    done
    # Ageing: every seventh file goes, which leaves gaps between the others.
    find "$point/$copy" -type f | awk 'NR % 7 == 0' | tr '\n' '\0' | xargs -0 -r rm -f --
    sync -f "$point"
done
rm "$point/garbage"
sync -f "$point"
