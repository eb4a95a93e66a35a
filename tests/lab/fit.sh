# SPDX-License-Identifier: Apache-2.0
# What the recipes of guests that are to be fitted share, after install.sh.

# inside COMMAND...: runs it in the guest with the kernel's file systems there.
inside() {
    for directory in dev proc sys run; do
        mount --rbind --make-rslave "/$directory" "/mnt/$directory"
    done
    status=0
    chroot /mnt env DEBIAN_FRONTEND=noninteractive "$@" || status=$?
    for directory in run sys proc dev; do
        umount -R "/mnt/$directory"
    done
    return $status
}

# arguments KERNEL-ARGUMENT...: those of every boot. A guest that does not find its root says so and ends, while the lab waits.
arguments() {
    common="console=tty0 console=ttyS0,115200 no_timer_check panic=5"
    sed -i "s|^GRUB_CMDLINE_LINUX=.*|GRUB_CMDLINE_LINUX=\"$common $*\"|" /mnt/etc/default/grub
}

# initramfs MODULE...: with these in it and nothing else, as it is on a machine whose initramfs is made for its own hardware.
initramfs() {
    say "making the initramfs"
    echo MODULES=list >/mnt/etc/initramfs-tools/conf.d/modules
    printf '%s\n' "$@" >>/mnt/etc/initramfs-tools/modules
    inside update-initramfs -u -k all
}

# answers TEXT: to the questions of Debian's packages, as its installer left them.
answers() { printf '%s\n' "$@" | inside debconf-set-selections; }

# The disk's name on the hardware the guest is for: recipes that write one need it.
grub_disk() { answers "grub-pc grub-pc/install_devices multiselect $1"; }

# packages: files of packages for later, where the guest has some (see upgrade.sh).
packages() {
    mkdir -p /mnt/var/cache/unmoor-lab
    tar -x -C /mnt/var/cache/unmoor-lab <"$(disk packages)"
}

# host_only WANTED UNWANTED: dracut's initramfs for a machine with the drivers WANTED, instead of the machine that makes it.
host_only() {
    say "making the initramfs"
    printf 'hostonly="yes"\nhostonly_mode="strict"\nhostonly_cmdline="yes"\n' >/mnt/etc/dracut.conf.d/host-only.conf
    version=$(ls /mnt/lib/modules)
    inside dracut --force --quiet --add-drivers "$1" --omit-drivers "$2" "/boot/initrd.img-$version" "$version"
    listed=$(inside lsinitrd "/boot/initrd.img-$version")
    for module in $2; do
        if grep -q "/$module\.ko" <<<"$listed"; then
            say "the initramfs has $module, which its machine does not need"
            return 1
        fi
    done
}
