# SPDX-License-Identifier: Apache-2.0
# Instead of its entries the guest has one unified kernel image, signed by a key of its own. The image is to be refused and never
# starts, so that systemd-boot, which the guest has, does for the stub, which it has not.
stub=/tmp/stub.efi
for directory in dev proc sys; do mount --bind "/$directory" "/mnt/$directory"; done
mount -t tmpfs tmpfs /mnt/tmp
inside() { chroot /mnt "$@"; }
cp /mnt/usr/lib/systemd/boot/efi/systemd-bootx64.efi.signed /mnt$stub
inside sbattach --remove $stub
inside objcopy --remove-section .osrel --remove-section .sdmagic $stub
# Sections of images start at multiples of the alignment, behind the stub's own.
alignment=$((16#$(inside objdump -p $stub | awk '$1 == "SectionAlignment" { print $2 }')))
read -r size address < <(inside objdump -h $stub | awk 'NF == 7 && $1 ~ /^[0-9]+$/ { size = $3; address = $4 } END { print size, address }')
next=$((16#$size + 16#$address))
arguments=()
# add SECTION FILE: FILE is a path in the guest.
add() {
    next=$(((next + alignment - 1) / alignment * alignment))
    arguments+=(--add-section "$1=$2" --change-section-vma "$1=$next")
    next=$((next + $(stat -L -c %s "/mnt$2")))
}
printf '%s\0' "$(cat /mnt/etc/kernel/cmdline)" >/mnt/tmp/cmdline
add .osrel /etc/os-release
add .cmdline /tmp/cmdline
add .initrd "/boot/initrd.img-$version"
add .linux "/boot/vmlinuz-$version"
inside objcopy "${arguments[@]}" $stub /tmp/uki.efi
inside openssl req -quiet -new -x509 -newkey rsa:2048 -nodes -days 3650 -subj "/CN=house key" -keyout /tmp/key -out /tmp/certificate
mkdir -p /mnt/efi/EFI/Linux
inside sbsign --key /tmp/key --cert /tmp/certificate --output "/efi/EFI/Linux/debian-$version.efi" /tmp/uki.efi
rm -r /mnt/efi/loader/entries/*.conf "/mnt/efi/$(cat /mnt/etc/machine-id)"
