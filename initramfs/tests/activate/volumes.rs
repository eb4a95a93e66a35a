// SPDX-License-Identifier: Apache-2.0
//! LVM, md and LUKS made by their own tools, activated without them in a kernel that has device-mapper and md.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::uml;

/// The program; with `--test` alone, cargo has not built it.
fn example() -> PathBuf {
    let arguments =
        ["build", "--quiet", "--offline", "--package", "unmoor-initramfs", "--example", "activate"];
    let built = Command::new(env!("CARGO")).args(arguments).current_dir(env!("CARGO_MANIFEST_DIR")).status();
    assert!(built.unwrap().success(), "cargo {arguments:?}");
    let tests = std::env::current_exe().unwrap();
    let path = tests.parent().unwrap().parent().unwrap().join("examples/activate");
    assert!(path.exists(), "{} is missing", path.display());
    path
}

fn images(folder: &Path, names: &[(&str, u64)]) {
    for (name, mib) in names {
        File::create(folder.join(name)).unwrap().set_len(mib << 20).unwrap();
    }
}

/// Runs the script with `activate` in it, which runs the example and keeps what it says.
fn run(folder: &Path, script: &str) -> String {
    let prelude = format!(
        "activate() {{ {} \"$@\" > /mnt/said 2>&1 || {{ cat /mnt/said; false; }}; cat /mnt/said; }}\n\
         fill() {{ mkfs.ext4 -q $2; mount $2 /tmp; echo $1 > /tmp/name; umount /tmp; }}\n",
        example().display()
    );
    uml::run(folder, &(prelude + script))
}

fn expect(log: &str, texts: &[&str]) {
    for text in texts {
        assert!(log.contains(text), "{text:?} is missing in:\n{log}");
    }
}

#[test]
fn logical_volumes_are_activated_as_lvm_does_it() {
    let folder = tempfile::tempdir().unwrap();
    images(folder.path(), &[("p0", 96), ("p1", 96)]);
    let log = run(
        folder.path(),
        r#"
attach p0 p1
vm pvcreate -y $p0 $p1
vm vgcreate -s 1M my-vg $p0 $p1
vm lvcreate -y -L 20M -n root my-vg $p0
vm lvcreate -y -L 4M -n between my-vg $p0
vm lvextend -L 32M my-vg/root $p0
vm lvcreate -y -i 2 -I 16k -L 32M -n striped-1 my-vg
vm lvcreate -y -L 20M -n origin my-vg
vm lvcreate -y -s -L 4M -n snap my-vg/origin
vm lvcreate -y --type thin-pool -L 8M --poolmetadatasize 4M -n pool my-vg
vm lvcreate -y -V 64M --thinpool pool -n thin my-vg
fill root /dev/my-vg/root
fill striped /dev/my-vg/striped-1
dmsetup table > /mnt/tables || true
vm lvs -o lv_name,lv_uuid --noheadings my-vg
vm vgchange -an
losetup -D
activate /mnt/p0 /mnt/p1
activate --write /mnt/p1 /mnt/p0
test -z "$(dmsetup ls | grep -v 'No devices')"
attach p0 p1
vm vgchange -ay my-vg
for lv in root striped-1; do e2fsck -fn /dev/my-vg/$lv; mount -r /dev/my-vg/$lv /tmp; cat /tmp/written; umount /tmp; done
"#,
    );
    expect(
        &log,
        &[
            "filesystem ext4 in my-vg/root: lost+found= name=root",
            "filesystem ext4 in my-vg/striped-1: lost+found= name=striped",
            "filesystem ext4 in my-vg/striped-1: lost+found= name=striped written=my-vg/striped-1",
            "warning logical volume my-vg/thin is not activated: activating my-vg/thin: it has a segment of type thin",
            "it stands for snap, a snapshot of origin",
            "my-vg/origin is not activated",
            "\nfinished\n",
            "+ cat /tmp/written\nmy-vg/root",
        ],
    );
}

#[test]
fn md_arrays_are_assembled_by_their_superblocks_and_degraded_ones_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let members = ["a0", "a1", "b0", "b1", "c0", "c1", "d0", "d1", "e0", "e1", "e2", "f0", "f1"];
    images(folder.path(), &members.map(|name| (name, 48)));
    let log = run(
        folder.path(),
        r#"
attach a0 a1 b0 b1 c0 c1 d0 d1 e0 e1 e2 f0 f1
create() { md=$1; shift; mdadm --create /dev/$md --run --homehost=lab --assume-clean "$@"; }
create md0 --level=1 --raid-devices=2 --metadata=1.2 --bitmap=internal $a0 $a1
create md1 --level=0 --raid-devices=2 --metadata=1.2 $b0 $b1
create md2 --level=10 --raid-devices=2 --metadata=1.0 $c0 $c1
create md3 --level=1 --raid-devices=2 --metadata=0.90 $d0 $d1
create md4 --level=5 --raid-devices=3 --metadata=1.2 $e0 $e1 $e2
create md5 --level=1 --raid-devices=2 --metadata=1.1 $f0 $f1
for md in 0 1 2 3 4; do fill md$md /dev/md$md; done
vm pvcreate -y /dev/md5
vm vgcreate -s 1M vgm /dev/md5
vm lvcreate -y -L 16M -n x vgm
fill x /dev/vgm/x
vm vgchange -an
for md in 0 1 2 3 4 5; do mdadm --wait /dev/md$md || true; mdadm --stop /dev/md$md; done
losetup -D
sync
cp --sparse=always /mnt/a1 /mnt/alone
cat /mnt/?[0-9] | md5sum > /mnt/before
activate /mnt/a0 /mnt/a1 /mnt/b1 /mnt/b0 /mnt/c0 /mnt/c1 /mnt/d0 /mnt/d1 /mnt/e0 /mnt/e1 /mnt/e2 /mnt/f0 /mnt/f1
cat /mnt/?[0-9] | md5sum -c /mnt/before
echo degraded
activate --write /mnt/alone
echo incomplete
activate /mnt/b0
echo all
activate --write /mnt/a0 /mnt/a1 /mnt/b1 /mnt/b0 /mnt/c0 /mnt/c1 /mnt/d0 /mnt/d1 /mnt/e0 /mnt/e1 /mnt/e2 /mnt/f0 /mnt/f1
cat /proc/mdstat
attach b0 b1
mdadm --assemble /dev/md1 $b0 $b1
e2fsck -fn /dev/md1
"#,
    );
    let (before, rest) = log.split_once("+ echo degraded").unwrap();
    for md in 0..5 {
        expect(before, &[&format!("name=md{md}\n")]);
    }
    for level in [0, 10, 5] {
        expect(before, &[&format!("level: {level} }}")]);
    }
    expect(before, &["filesystem ext4 in vgm/x: lost+found= name=x", "OK"]);
    assert!(!before.contains("is degraded"), "{before}");
    let (degraded, rest) = rest.split_once("+ echo incomplete").unwrap();
    expect(degraded, &["is degraded: 1 of 2 members are active", "name=md0 written=md"]);
    let (incomplete, rest) = rest.split_once("+ echo all").unwrap();
    expect(incomplete, &["is not activated: assembling md array", "finished"]);
    expect(rest, &["name=md4 written=disk", "name=x written=vgm/x", "unused devices: <none>"]);
}
