#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Init of the lab appliance: runs the job that the host passed by fw_cfg, then powers off.
# Results go to the virtio-serial port `lab.result`; the exit status is the last line of the first serial port.
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mountpoint -q /dev || mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
for directory in /tmp /run /mnt /etc/lvm/backup /etc/lvm/archive /etc/lvm/devices; do
    [ -d "$directory" ] && mount -t tmpfs tmpfs "$directory"
done
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/tmp LC_ALL=C.UTF-8 TZ=UTC
dmesg -n 4
modprobe -a qemu_fw_cfg virtio_console
/usr/lib/systemd/systemd-udevd --daemon
udevadm trigger --action=add
udevadm settle --timeout=60

RESULT=
for port in /sys/class/virtio-ports/*; do
    [ "$(cat "$port/name" 2>/dev/null)" = lab.result ] && RESULT=/dev/${port##*/}
done
# The kernel names disks in the order of their discovery: jobs ask for one by its serial number.
disk() {
    for block in /sys/block/*; do
        serial=$(cat "$block/serial" 2>/dev/null)
        [ "$serial" = "$1" ] && echo "/dev/${block##*/}" && return
    done
    echo "no disk has the serial number $1" >&2
    return 1
}
export RESULT
export -f disk
bash -eu -o pipefail /sys/firmware/qemu_fw_cfg/by_name/opt/unmoor/job/raw
echo "LAB-STATUS $?"
sync
echo o >/proc/sysrq-trigger
sleep 60
