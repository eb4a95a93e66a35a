#!/bin/bash
# The second generation of a lived-in disk: one per cent of the files changed, some deleted, one package upgraded.
# Run as root with the first disk's path and the new one's; needs a loop device.
set -euo pipefail
first=$1
image=$2
cp --sparse=always "$first" "$image"
point=$(mktemp -d)
mount -o loop "$image" "$point"
trap 'cd /; umount "$point"; rmdir "$point"' EXIT
cd "$point"
# Every hundredth file gets new content of its old length at its end.
find . -xdev -type f -size +0 | sort | awk 'NR % 100 == 0' | while IFS= read -r file; do
    head -c 4096 /dev/urandom >> "$file"
done
find . -xdev -type f | sort | awk 'NR % 1000 == 7' | tr '\n' '\0' | xargs -0 -r rm -f --
# A package's files are written anew, as dpkg does it.
find ./1/usr/lib -xdev -type f -path '*python3*' | sort | awk 'NR <= 1500' | while IFS= read -r file; do
    cp -p "$file" "$file.dpkg-new"
    printf '\n' >> "$file.dpkg-new"
    mv "$file.dpkg-new" "$file"
done
cd /
sync -f "$point"
