# SPDX-License-Identifier: Apache-2.0
# Encrypted volumes made by cryptsetup and LVM, opened without them by the program on the disk `tools`; with what it wrote
# looked at by cryptsetup and LVM again.
mkdir /tmp/tools /tmp/at
mount -o ro "$(disk tools)" /tmp/tools
target=$(disk target)
printf 'label: gpt\n,300M\n,200M\n,200M\n' | sfdisk --quiet "$target"
udevadm settle
# udev's rules would activate groups by themselves while others hold them.
echo 'global { event_activation = 0 }' >/etc/lvm/lvm.conf
printf 'correct horse' >/tmp/key
printf 'battery staple' >/tmp/wrong
argon="--pbkdf-memory 65536 --pbkdf-force-iterations 4"
fill() { mkfs.ext4 -q "$2"; mount "$2" /tmp/at; echo "$1" >/tmp/at/name; umount /tmp/at; }
open() { cryptsetup open --key-file /tmp/key "$1" "$2"; udevadm settle; }

# A volume group in LUKS2; LUKS2 with sectors of 4096 bytes; LUKS1 in a logical volume.
cryptsetup luksFormat -q --type luks2 $argon "${target}1" /tmp/key
cryptsetup luksFormat -q --type luks2 --sector-size 4096 --pbkdf pbkdf2 --pbkdf-force-iterations 1000 "${target}2" /tmp/key
pvcreate -q "${target}3" && vgcreate -q out "${target}3" && lvcreate -q -L 120M -n crypt out
cryptsetup luksFormat -q --type luks1 --cipher aes-cbc-essiv:sha256 --key-size 256 --pbkdf-force-iterations 1000 /dev/out/crypt /tmp/key
open "${target}1" one
pvcreate -q /dev/mapper/one && vgcreate -q vg /dev/mapper/one && lvcreate -q -L 64M -n root vg
open "${target}2" two
open /dev/out/crypt three
fill lvm-in-luks /dev/vg/root
fill large-sectors /dev/mapper/two
fill luks-in-lvm /dev/mapper/three
close() {
    udevadm settle
    vgchange -q -an vg
    cryptsetup close one
    cryptsetup close two
    cryptsetup close three
    vgchange -q -an out
    udevadm settle
}
close
before=$(sha256sum <"$target")
{
    echo "== without a key"
    /tmp/tools/activate "$target"
    echo "== with a wrong key"
    /tmp/tools/activate --key-file /tmp/wrong "$target"
    echo "== reading"
    /tmp/tools/activate --key-file /tmp/wrong --key-file /tmp/key "$target"
    test "$before" = "$(sha256sum <"$target")" && echo "nothing was written"
    echo "== writing"
    /tmp/tools/activate --write --key-file /tmp/key "$target"
    echo "left: $(dmsetup ls)"
    vgchange -q -ay out
    open "${target}1" one
    vgchange -q -ay vg
    open "${target}2" two
    open /dev/out/crypt three
    for device in /dev/vg/root /dev/mapper/two /dev/mapper/three; do
        e2fsck -fn "$device" >/dev/null 2>&1 && echo "$device is clean"
        mount -o ro "$device" /tmp/at
        echo "$device: $(cat /tmp/at/name), $(cat /tmp/at/written)"
        umount /tmp/at
    done
    close
} >"$RESULT" 2>&1
