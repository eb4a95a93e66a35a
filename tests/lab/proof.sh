#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Prints one line of JSON on the second serial port when the boot has settled; powers off if the host asks for it.
# The nonce comes from the host, so that a line of an earlier boot cannot pass for this one's.
modprobe qemu_fw_cfg
fw_cfg=/sys/firmware/qemu_fw_cfg/by_name/opt/unmoor
[ -r $fw_cfg/nonce/raw ] || exit 0
state=$(systemctl is-system-running --wait)
device=$(findmnt -n -o SOURCE /)
json() { out=$("$@" 2>/dev/null | tr -d '\n'); echo "${out:-null}"; }
{
    printf 'UNMOOR-PROOF {"nonce":"%s","state":"%s","hostname":"%s","kernel":"%s","root":"%s",' \
        "$(cat $fw_cfg/nonce/raw)" "$state" "$(cat /proc/sys/kernel/hostname)" "$(uname -r)" "$device"
    printf '"firmware":"%s",' "$([ -d /sys/firmware/efi ] && echo uefi || echo bios)"
    printf '"mounts":%s,' "$(json findmnt --json --list --real --output TARGET,SOURCE,FSTYPE,OPTIONS,UUID)"
    printf '"swaps":%s,' "$(($(wc -l </proc/swaps) - 1))"
    printf '"failed":%s,' "$(json systemctl list-units --failed --output=json)"
    printf '"addresses":%s,' "$(json ip -json address)"
    printf '"routes":%s}\n' "$(json ip -json route)"
} >/dev/ttyS1
[ "$(cat $fw_cfg/poweroff/raw 2>/dev/null)" = 1 ] && systemctl poweroff
exit 0
