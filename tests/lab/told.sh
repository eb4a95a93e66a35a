#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Runs what the host passes by fw_cfg, so that a change of that makes no other guests.
modprobe qemu_fw_cfg
script=/sys/firmware/qemu_fw_cfg/by_name/opt/unmoor/report.sh/raw
[ -r $script ] || exit 0
exec sh $script
