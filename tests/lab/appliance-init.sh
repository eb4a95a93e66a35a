#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Init of the lab appliance: runs the job that the host passed by fw_cfg, then powers off. All that may change is in the job,
# because a change here makes another appliance and other guests.
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mountpoint -q /dev || mount -t devtmpfs devtmpfs /dev
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/tmp LC_ALL=C.UTF-8 TZ=UTC
dmesg -n 4
modprobe qemu_fw_cfg
bash -eu -o pipefail /sys/firmware/qemu_fw_cfg/by_name/opt/unmoor/job/raw
echo "LAB-STATUS $?"
sync
echo o >/proc/sysrq-trigger
sleep 60
