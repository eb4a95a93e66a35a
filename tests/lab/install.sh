# SPDX-License-Identifier: Apache-2.0
# What the guests' recipes share: it stands before the recipe in the job that the appliance runs.
FILES=/sys/firmware/qemu_fw_cfg/by_name/opt/unmoor/file
TARGET=$(disk target)
say() { echo "LAB $*" >/dev/console; }

# Writes the partition table that stands on standard input. The lock keeps udev, which opens whatever it is told of, from
# making the kernel's re-reading of the table fail.
partition() {
    sfdisk --quiet --lock "$TARGET"
    udevadm settle
}

# Puts the Debian tree from the disk `rootfs` into /mnt.
unpack() {
    say "unpacking Debian"
    tar -x -p --xattrs --xattrs-include='*' --numeric-owner -C /mnt <"$(disk rootfs)"
}

# configure HOSTNAME: what every guest gets; fstab is the recipe's.
configure() {
    say "configuring $1"
    echo "$1" >/mnt/etc/hostname
    printf '127.0.0.1\tlocalhost\n127.0.1.1\t%s\n' "$1" >/mnt/etc/hosts
    chroot /mnt passwd --quiet --delete root
    install -m 0755 "$FILES/proof.sh/raw" /mnt/usr/local/sbin/unmoor-proof
    install -m 0644 "$FILES/proof.service/raw" /mnt/etc/systemd/system/unmoor-proof.service
    chroot /mnt systemctl --quiet enable unmoor-proof.service
    # Emulated machines on a busy host are slower than systemd's patience.
    mkdir -p /mnt/etc/systemd/system.conf.d
    printf '[Manager]\nDefaultDeviceTimeoutSec=600s\nDefaultTimeoutStartSec=600s\n' \
        >/mnt/etc/systemd/system.conf.d/patience.conf
    # The first boot, not the host's clock at build time, gives the machine its identity.
    : >/mnt/etc/machine-id
    cat >/mnt/etc/default/grub <<'GRUB'
GRUB_DEFAULT=0
GRUB_TIMEOUT=1
GRUB_DISTRIBUTOR=Debian
GRUB_CMDLINE_LINUX="console=tty0 console=ttyS0,115200 no_timer_check"
GRUB_TERMINAL="console serial"
GRUB_SERIAL_COMMAND="serial --unit=0 --speed=115200"
GRUB_DISABLE_OS_PROBER=true
GRUB
}

# boot_loader GRUB-INSTALL-ARGUMENTS...
boot_loader() {
    say "installing GRUB"
    for directory in dev proc sys run; do
        mount --bind "/$directory" "/mnt/$directory"
    done
    chroot /mnt grub-install "$@"
    chroot /mnt update-grub
    for directory in run sys proc dev; do
        umount "/mnt/$directory"
    done
}

# age DIRECTORY MEBIBYTES: a file system that has been lived in, with MEBIBYTES written and deleted again.
age() {
    say "aging $1"
    bash -eu "$FILES/age.sh/raw" "$1" "$2"
}

uuid() { blkid -o value -s UUID "$1"; }
