# SPDX-License-Identifier: Apache-2.0
# Run in the guest when its boot has settled: prints one line of JSON on the second serial port; then, if the host passed it,
# runs upgrade.sh and prints its exit status; then powers off. The host's nonce tells these lines from an earlier boot's.
fw_cfg=/sys/firmware/qemu_fw_cfg/by_name/opt/unmoor
nonce=$(cat $fw_cfg/nonce/raw)
state=$(systemctl is-system-running --wait)
json() { out=$("$@" 2>/dev/null | tr -d '\n'); echo "${out:-null}"; }
truth() { "$@" >/dev/null 2>&1 && echo true || echo false; }
# EFI variables start with four bytes of attributes (Linux, Documentation/filesystems/efivarfs.rst).
secure_boot() {
    [ "$(od -A n -t u1 -j 4 /sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c | tr -d ' ')" = 1 ]
}
# The network may come up after everything else.
for second in $(seq 60); do
    ip -4 address show scope global | grep -q inet && break
    sleep 1
done
# QEMU's DHCP server offers no router on a network that leads nowhere, but it is at the router's address.
gateway=$(ip -4 route show default | sed -n 's/.* via \([^ ]*\) .*/\1/p' | head -n 1)
gateway=${gateway:-10.0.2.2}
{
    printf 'UNMOOR-PROOF {"nonce":"%s","state":"%s","hostname":"%s","kernel":"%s","root":"%s",' \
        "$nonce" "$state" "$(cat /proc/sys/kernel/hostname)" "$(uname -r)" "$(findmnt -n -o SOURCE /)"
    printf '"firmware":"%s",' "$([ -d /sys/firmware/efi ] && echo uefi || echo bios)"
    printf '"secure_boot":%s,' "$(truth secure_boot)"
    printf '"command_line":"%s",' "$(tr -d '"\\\n' </proc/cmdline)"
    printf '"mounts":%s,' "$(json findmnt --json --list --real --output TARGET,SOURCE,FSTYPE,OPTIONS,UUID)"
    printf '"fstab":%s,' "$(json findmnt --json --list --fstab --output TARGET,SOURCE,FSTYPE,OPTIONS)"
    printf '"swaps":%s,' "$(($(wc -l </proc/swaps) - 1))"
    printf '"failed":%s,' "$(json systemctl list-units --failed --output=json)"
    printf '"addresses":%s,' "$(json ip -json address)"
    printf '"routes":%s,' "$(json ip -json route)"
    printf '"gateway":%s}\n' "$(truth ping -c 1 -W 10 "$gateway")"
} >/dev/ttyS1
if [ -r $fw_cfg/upgrade.sh/raw ]; then
    sh -eux $fw_cfg/upgrade.sh/raw >/dev/ttyS0 2>&1
    echo "UNMOOR-UPGRADE $nonce $?" >/dev/ttyS1
    sync
fi
[ "$(cat $fw_cfg/poweroff/raw 2>/dev/null)" = 1 ] && systemctl poweroff
exit 0
