# SPDX-License-Identifier: Apache-2.0
# Run in the guest by report.sh in place of an upgrade: it captures its own disk, in use and written to, as often as the disk `tools` says.
set -e
by_serial() { for disk in /dev/disk/by-id/*"$1"; do readlink -f "$disk"; return; done; }
mkdir -p /run/tools /run/work
mount -o ro "$(by_serial TOOLS0)" /run/tools
mount "$(by_serial TARGET0)" /run/work
root=$(findmnt --noheadings --nofsroot --output SOURCE /)
disk=/dev/$(lsblk --noheadings --inverse --list --output NAME,TYPE "$root" | awk '$2 == "disk" { print $1 }')
unmoor=/run/tools/unmoor

numbers() {
    # A number is on the disk before it is written down elsewhere.
    n=0
    while :; do
        n=$((n + 1))
        echo $n >>/var/live-numbers
        sync /var/live-numbers
        echo "$n $(date +%s%3N)" >>/run/work/acknowledged
    done
}
overwrites() {
    while :; do
        place=$(od --address-radix=n --read-bytes=2 --format=u2 /dev/urandom)
        dd if=/dev/urandom of=/var/live-random bs=16k count=4 seek=$((place / 32)) conv=notrunc,fsync 2>/dev/null
    done
}
trees() {
    while :; do
        cp -r /usr/share/zoneinfo /var/live-tree
        rm -rf /var/live-tree
    done
}
numbers &
one=$!
overwrites &
two=$!
trees &
three=$!
$unmoor images init dir:/run/work/store
failed=0
for count in $(seq "$(cat /run/tools/captures)"); do
    if ! $unmoor capture --live --consistency track --max-freeze-hard 60 --json "$disk" dir:/run/work/store/machine \
        >>/run/work/results 2>>/run/work/said; then
        failed=1
        break
    fi
    sleep 1
done
kill $one $two $three
ls /sys/kernel/tracing/instances >/run/work/instances 2>/dev/null || true
sync
umount /run/work
exit $failed
