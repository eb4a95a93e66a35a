# SPDX-License-Identifier: Apache-2.0
# Run in the guest by report.sh: what its next upgrade of kernel and boot loader does. Each kernel package is configured again,
# whose hooks make the initramfs and the boot entries anew; then the boot loader's package, which installs the loader.
export DEBIAN_FRONTEND=noninteractive
before=$(mktemp)
sleep 1
is_installed() { [ "$(dpkg-query --show --showformat='${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

for package in $(dpkg-query --show --showformat='${db:Status-Status} ${Package}\n' 'linux-image-[0-9]*' | sed -n 's/^installed //p'); do
    dpkg-reconfigure "$package"
done
if is_installed systemd-boot && [ -d /sys/firmware/efi ] && bootctl is-installed --quiet; then
    dpkg-reconfigure systemd-boot
else
    # Of a machine that changed its firmware, the administrator changes the boot loader's package: it lies ready.
    if [ -d /sys/firmware/efi ]; then loader=grub-efi-amd64 other=grub-pc; else loader=grub-pc other=grub-efi-amd64; fi
    if is_installed $loader; then
        dpkg-reconfigure $loader
    else
        if is_installed $other; then dpkg --remove --force-depends $other; fi
        dpkg --install /var/cache/unmoor-lab/*.deb
        # The package's scripts renew what is installed, but do not install it for the first time.
        if [ $loader = grub-pc ]; then
            disk=/dev/$(lsblk --noheadings --nodeps --output PKNAME "$(findmnt -n -o SOURCE /)")
            grub-install --target=i386-pc "$disk"
        else
            grub-install --target=x86_64-efi --efi-directory=/boot/efi --force-extra-removable
        fi
    fi
    update-grub
fi

# A step that silently did nothing would prove nothing.
version=$(uname -r)
for file in /boot/initrd.img-"$version" $(find /boot /efi -name 'initrd*' -path "*/$version/*" 2>/dev/null) \
    $(find /boot/grub/grub.cfg /boot/grub/i386-pc/core.img /boot/grub/x86_64-efi/core.efi 2>/dev/null); do
    case $file in
    */i386-pc/*) [ -d /sys/firmware/efi ] && continue ;;
    */x86_64-efi/*) [ -d /sys/firmware/efi ] || continue ;;
    esac
    if [ ! "$file" -nt "$before" ]; then
        echo "$file was not made anew"
        exit 9
    fi
done
sync
