# SPDX-License-Identifier: Apache-2.0
# The start of every job: a machine in which file system tools work, `disk SERIAL`, and $RESULT for what the host is to get.
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
# LVM's tools fail where they cannot archive the metadata that they change.
for directory in /tmp /run /mnt /etc/lvm; do
    mount -t tmpfs tmpfs "$directory"
done
modprobe -a virtio_console dm_mod
/usr/lib/systemd/systemd-udevd --daemon 2>/dev/null
# Disks only: to load a driver for everything else that is there takes longer than most jobs.
udevadm trigger --action=add --subsystem-match=block
udevadm settle --timeout=300
RESULT=
for port in /sys/class/virtio-ports/*; do
    if [ "$(cat "$port/name" 2>/dev/null)" = lab.result ]; then RESULT=/dev/${port##*/}; fi
done
# The kernel names disks in the order of their discovery: jobs ask for one by its serial number.
disk() {
    for block in /sys/block/*; do
        serial=$(cat "$block/serial" 2>/dev/null || true)
        if [ "$serial" = "$1" ]; then
            echo "/dev/${block##*/}"
            return
        fi
    done
    echo "no disk has the serial number $1" >&2
    return 1
}

