// SPDX-License-Identifier: Apache-2.0
//! Volumes made by LVM's and md's own tools and filled through the kernel's own device-mapper and md.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::OnceLock;

use super::*;
use crate::layout::{Content, Kept, Place, Region};
use crate::source::check_range;

const MIB: u64 = 1 << 20;
const BLOCK: usize = 4096;

/// A disk in a file; files of tests are too large to hold them all in memory.
struct Image(File, u64);

impl Image {
    fn open(path: &Path) -> Self {
        let file = File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let size = file.metadata().unwrap().len();
        Self(file, size)
    }
}

impl BlockSource for Image {
    fn size(&self) -> u64 {
        self.1
    }
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        check_range(self.1, offset, buf.len())?;
        self.0.read_exact_at(buf, offset).map_err(|error| Error::io("reading", error))
    }
}

/// The volumes that the stub filesystem fills: name and MiB.
const FILLED: [(&str, u64); 9] = [
    ("a", 15),
    ("s2", 30),
    ("s3", 12),
    ("md0", 40),
    ("md1", 40),
    ("md2", 40),
    ("md3", 40),
    ("x", 8),
    ("root", 60),
];

/// Which ranges the stub filesystem in a volume calls used.
fn used_in(name: &str, mib: u64) -> Vec<(u64, u64)> {
    let seed = u64::from(name.bytes().fold(7u8, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte)));
    (0..20)
        .map(|index| ((index * 37 + seed) % (mib * 256 - 8) * 4096, (1 + (index + seed) % 7) * 4096))
        .collect()
}

/// A volume's content: every block but the first says whose it is.
fn fill(dir: &Path, name: &str, mib: u64) {
    let mut content = vec![0; (mib * MIB) as usize];
    for (index, block) in content.chunks_mut(BLOCK).enumerate() {
        let tag = format!("block {index} of {name};");
        block[..tag.len()].copy_from_slice(tag.as_bytes());
    }
    let header = stub(mib * MIB, &used_in(name, mib));
    content[STUB_AT as usize..][..header.len()].copy_from_slice(&header);
    std::fs::write(dir.join(format!("fill.{name}")), content).unwrap();
}

const MAKE: &str = r#"
attach p0 p1 p2 m0 m1 m2 m3 m4 m5 m6 m7 v0 v1 s0 s1 r0 r1 q0 q1 lone
for file in $p0 $p1 $p2; do vm pvcreate -y $file; done
vm vgcreate -s 1M vg0 $p0 $p1 $p2
vm lvcreate -y -an -L 7M -n early vg0 $p0
vm lvcreate -y -L 10M -n a vg0 $p0
vm lvcreate -y -i 2 -I 64k -L 20M -n s2 vg0 $p0 $p1
vm lvcreate -y -i 3 -I 4k -L 12M -n s3 vg0
vm lvextend -L 15M vg0/a $p2
vm lvextend -L 30M vg0/s2 $p0 $p1
vm lvremove -y vg0/early
vm lvcreate -y --type thin-pool -L 8M --poolmetadatasize 4M -n pool vg0
vm lvcreate -y -V 64M --thinpool pool -n thin vg0
vm lvcreate -y --type raid1 -m 1 --nosync -L 6M -n mirrored vg0
vm lvcreate -y -L 5M -n origin vg0
vm lvcreate -y -s -L 3M -n snap vg0/origin
vm lvs -a --noheadings --separator ' ' -o lv_name,seg_pe_ranges vg0 > /mnt/lvs
vm pvs --noheadings --separator ' ' -o pv_name,pv_uuid,pe_start --units b $p0 $p1 $p2 > /mnt/pvs
create() { md=$1; shift; mdadm --create /dev/$md --run --homehost=lab --assume-clean "$@"; }
create md0 --level=1 --raid-devices=2 --metadata=1.2 --bitmap=internal $m0 $m1
create md1 --level=1 --raid-devices=2 --metadata=1.1 $m2 $m3
create md2 --level=1 --raid-devices=2 --metadata=1.0 --bitmap=internal $m4 $m5
create md3 --level=1 --raid-devices=2 --metadata=0.90 $m6 $m7
create md4 --level=1 --raid-devices=2 --metadata=1.2 $v0 $v1
create md5 --level=0 --raid-devices=2 --metadata=1.2 $s0 $s1
create md6 --level=10 --raid-devices=2 --metadata=1.0 $r0 $r1
vm pvcreate -y /dev/md4
vm vgcreate -s 1M vgm /dev/md4
vm lvcreate -y -L 8M -n x vgm
vm pvcreate -y $q0
vm vgcreate -s 4M vgq $q0
vm lvcreate -y -L 60M -n root vgq
vm vgextend vgq $q1
vm pvcreate -y $lone
for name in a s2 s3; do dd if=/mnt/fill.$name of=/dev/vg0/$name bs=1M oflag=direct; done
for name in md0 md1 md2 md3; do dd if=/mnt/fill.$name of=/dev/$name bs=1M oflag=direct; done
dd if=/mnt/fill.x of=/dev/vgm/x bs=1M oflag=direct
dd if=/mnt/fill.root of=/dev/vgq/root bs=1M oflag=direct
vm vgchange -an
mdadm --stop /dev/md0 /dev/md1 /dev/md2 /dev/md3 /dev/md4 /dev/md5 /dev/md6
for file in $m0 $m2 $m4 $m6 $s0; do mdadm --examine $file | tr -s ' ' | sed "s|^|$file|"; done
"#;

/// All volumes, made once; the folder lives as long as the test process and goes when its last user is done.
fn made() -> &'static Path {
    static MADE: OnceLock<tempfile::TempDir> = OnceLock::new();
    MADE.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let sizes = [("p", 3, 128), ("m", 8, 48), ("v", 2, 48), ("s", 2, 24), ("r", 2, 24), ("q", 2, 128)];
        for (name, count, mib) in sizes {
            for index in 0..count {
                let file = File::create(dir.path().join(format!("{name}{index}"))).unwrap();
                file.set_len(mib * MIB).unwrap();
            }
        }
        File::create(dir.path().join("lone")).unwrap().set_len(64 * MIB).unwrap();
        for (name, mib) in FILLED {
            fill(dir.path(), name, mib);
        }
        uml::run(dir.path(), MAKE);
        dir
    })
    .path()
}

fn images(names: &[&str]) -> Vec<Image> {
    names.iter().map(|name| Image::open(&made().join(name))).collect()
}

fn take_apart(images: &[Image]) -> Vec<DiskLayout> {
    let disks: Vec<&dyn BlockSource> = images.iter().map(|image| image as _).collect();
    analyze(&disks, &Options::default(), Readers { table: no_table, ..STUB }).unwrap()
}

fn find<'a>(layouts: &'a [DiskLayout], lv: &str) -> &'a Region {
    let is = |region: &&Region| matches!(&region.place, Place::LogicalVolume { lv: name, .. } if name == lv);
    layouts.iter().flat_map(DiskLayout::all_regions).find(is).unwrap_or_else(|| panic!("no {lv}"))
}

/// Every block of a disk that says that it is a used block of one of `names`, by what the kernel wrote.
fn tagged(image: &Image, names: &[&str]) -> RangeSet {
    let mut set = RangeSet::new();
    let used: BTreeMap<&str, Vec<(u64, u64)>> = FILLED
        .iter()
        .filter(|(name, _)| names.contains(name))
        .map(|&(name, mib)| (name, [used_in(name, mib), vec![(0, 4096)]].concat()))
        .collect();
    let mut block = vec![0; BLOCK];
    for at in (0..image.size()).step_by(BLOCK) {
        image.read_at(&mut block, at).unwrap();
        let text = String::from_utf8_lossy(&block[..32]).into_owned();
        let Some((index, name)) = text
            .strip_prefix("block ")
            .and_then(|rest| rest.split_once(';'))
            .and_then(|(rest, _)| rest.split_once(" of "))
        else {
            continue;
        };
        let offset = index.parse::<u64>().unwrap() * BLOCK as u64;
        if used
            .get(name)
            .is_some_and(|used| used.iter().any(|(start, len)| (*start..start + len).contains(&offset)))
        {
            set.insert(at..at + BLOCK as u64);
        }
    }
    set
}

#[test]
fn logical_volumes_are_mapped_as_device_mapper_maps_them_and_the_rest_is_free() {
    let images = images(&["p0", "p1", "p2"]);
    let layouts = take_apart(&images);
    for name in ["a", "s2", "s3"] {
        assert_eq!(find(&layouts, name).kept, Kept::Used, "{name}: {:?}", layouts[0].warnings);
    }
    for (name, word) in [
        ("pool", "thin-pool"),
        ("mirrored", "raid1"),
        ("snapshot0", "snap, a snapshot of origin"),
        ("origin", "origin"),
    ] {
        let warned = layouts[0]
            .warnings
            .iter()
            .any(|text| text.contains(&format!("vg0/{name} is ")) && text.contains(word));
        assert!(warned, "{name}: {:?}", layouts[0].warnings);
    }
    // The tools' own list of who has which extents; what is not plain is kept whole.
    let lvs = std::fs::read_to_string(made().join("lvs")).unwrap();
    let pvs = std::fs::read_to_string(made().join("pvs")).unwrap();
    for (index, (image, layout)) in images.iter().zip(&layouts).enumerate() {
        let line = pvs.lines().nth(index).unwrap();
        let mut fields = line.split_whitespace();
        let (device, uuid) = (fields.next().unwrap(), fields.next().unwrap());
        let pe_start: u64 = fields.next().unwrap().trim_end_matches('B').parse().unwrap();
        assert!(matches!(&layout.regions[0].content, Content::PhysicalVolume { pv_uuid, vg, .. }
            if pv_uuid == uuid && vg.as_deref() == Some("vg0")));
        let mut want = tagged(image, &["a", "s2", "s3"]);
        want.insert(0..pe_start);
        for line in lvs.lines() {
            let mut fields = line.split_whitespace();
            let name = fields.next().unwrap().trim_matches(['[', ']']);
            for range in fields.filter(|_| !["a", "s2", "s3"].contains(&name)) {
                let Some((_, extents)) = range.split_once(':').filter(|(on, _)| *on == device) else {
                    continue;
                };
                let (first, last) = extents.split_once('-').unwrap();
                let (first, last): (u64, u64) = (first.parse().unwrap(), last.parse().unwrap());
                want.insert(pe_start + first * MIB..pe_start + (last + 1) * MIB);
            }
        }
        let mut got = in_state(layout, State::Data);
        assert_eq!(got.ranges(), want.ranges(), "disk {index}");
        assert!(got.bytes() < image.size() / 2, "there are holes");
    }
}

#[test]
fn every_metadata_version_of_raid1_shows_its_content_on_both_members() {
    for (md, names, version) in [
        ("md0", ["m0", "m1"], "1.2"),
        ("md1", ["m2", "m3"], "1.1"),
        ("md2", ["m4", "m5"], "1.0"),
        ("md3", ["m6", "m7"], "0.90"),
    ] {
        let images = images(&names);
        let layouts = take_apart(&images);
        let log = std::fs::read_to_string(made().join("log")).unwrap();
        for (image, layout) in images.iter().zip(&layouts) {
            assert!(layout.warnings.is_empty(), "{md}: {:?}", layout.warnings);
            let region = &layout.regions[0];
            let Content::MdMember { array_uuid, level: 1, metadata, .. } = &region.content else {
                panic!("{md}: {region:?}");
            };
            assert_eq!(metadata, version);
            assert!(log.contains(array_uuid.as_str()), "{md}: mdadm knows no {array_uuid}");
            let content = &region.children[0];
            assert!(content.filesystem().is_some() && content.kept == Kept::Used, "{md}: {content:?}");
            let Place::Md { offset, len, .. } = &content.place else { panic!("{content:?}") };
            let mut data = in_state(layout, State::Data);
            let mut want = tagged(image, &[md]);
            assert!(want.bytes() > 20 * BLOCK as u64);
            // The frame is small gaps.
            want.insert(0..*offset);
            want.insert(offset + len..image.size());
            let beyond = (offset + 40 * MIB)..(offset + len);
            want.insert(beyond);
            assert_eq!(data.ranges(), want.ranges(), "{md}");
        }
        assert_eq!(layouts[0].extents, layouts[1].extents, "{md}");
        // One member alone is enough.
        let alone = take_apart(&images[1..]);
        assert_eq!(alone[0].extents, layouts[1].extents);
    }
    for names in [["s0", "s1"], ["r0", "r1"]] {
        for layout in take_apart(&images(&names)) {
            assert_eq!(layout.extents.bytes(State::Data), 24 * MIB);
            assert!(layout.warnings[0].contains("RAID"), "{:?}", layout.warnings);
        }
    }
}

#[test]
fn a_volume_group_on_raid1_is_read_once_and_kept_on_both_members() {
    let images = images(&["v0", "v1"]);
    let layouts = take_apart(&images);
    assert_eq!(find(&layouts, "x").kept, Kept::Used, "{:?}", layouts[0].warnings);
    assert_eq!(layouts[0].extents, layouts[1].extents);
    for (image, layout) in images.iter().zip(&layouts) {
        let mut data = in_state(layout, State::Data);
        for range in tagged(image, &["x"]).ranges() {
            assert!(data.covers(range.clone()), "{range:?}");
        }
        assert!(data.bytes() < 12 * MIB, "{}", data.bytes());
    }
    // Two disks that carry the same physical volume without md are no mirror: nothing tells which is the right one.
    let copies =
        [Image::open(&made().join("q0")), Image::open(&made().join("q0")), Image::open(&made().join("q1"))];
    for layout in take_apart(&copies) {
        assert_eq!(layout.extents.bytes(State::Data), 128 * MIB);
        assert!(layout.warnings[0].contains("more than once"), "{:?}", layout.warnings);
    }
}

#[test]
fn a_group_with_a_missing_volume_is_kept_whole_and_an_unused_volume_is_free() {
    let layouts = take_apart(&images(&["p0", "p2", "lone"]));
    for layout in &layouts[..2] {
        assert_eq!(layout.extents.bytes(State::Data), 128 * MIB);
        assert!(layout.warnings[0].contains("is not among these disks"), "{:?}", layout.warnings);
    }
    assert!(layouts[2].warnings.is_empty(), "{:?}", layouts[2].warnings);
    assert_eq!(layouts[2].extents.bytes(State::Data), MIB);
    // Together, the second volume of a group that has no logical volume on it is free too.
    let layouts = take_apart(&images(&["q1", "q0"]));
    // 31 extents of 4 MiB leave 3 MiB at the end, a small gap.
    assert_eq!(layouts[0].extents.bytes(State::Data), 4 * MIB);
    assert_eq!(find(&layouts, "root").kept, Kept::Used);
}

const USE_REAL: &str = r#"
attach d0 d1 d2 d3
mdadm --create /dev/md0 --run --homehost=lab --assume-clean --level=1 --raid-devices=2 --metadata=1.2 $d2 $d3
vm pvcreate -y $d0 $d1 /dev/md0
vm vgcreate -s 4M vg $d0 $d1
vm vgcreate -s 4M vgm /dev/md0
vm lvcreate -y -L 100M -n root vg
vm lvcreate -y -i 2 -I 64k -L 320M -n srv vg
vm lvcreate -y -L 32M -n swap vg
vm lvcreate -y -L 60M -n boot vgm
mkfs.ext4 -q /dev/vg/root
mkfs.xfs -q /dev/vg/srv
mkswap /dev/vg/swap
mkfs.ext4 -q -b 1024 /dev/vgm/boot
for name in vg/root vg/srv vgm/boot; do
    mkdir -p /tmp/$name
    mount /dev/$name /tmp/$name
    dd if=/dev/urandom of=/tmp/$name/gone bs=1M count=20
    cp -r /usr/share/perl/ /usr/lib/uml/modules/*/kernel/drivers/md /tmp/$name/ || true
    sync
    rm /tmp/$name/gone
    (cd /tmp/$name; find . -type f | sort | xargs -d '\n' sha256sum) > /mnt/sums.${name#*/}
    umount /tmp/$name
done
vm vgchange -an
mdadm --stop /dev/md0
"#;

const CHECK_REAL: &str = r#"
attach d0 d1 d2 d3
mdadm --assemble /dev/md0 --run $d2 $d3
mdadm --detail /dev/md0
vm vgchange -ay
e2fsck -fn /dev/vg/root
e2fsck -fn /dev/vgm/boot
xfs_repair -n /dev/vg/srv
blkid -p /dev/vg/swap
for name in vg/root vg/srv vgm/boot; do
    mkdir -p /tmp/$name
    mount -o ro /dev/$name /tmp/$name
    (cd /tmp/$name; sha256sum --quiet -c /mnt/sums.${name#*/})
    umount /tmp/$name
done
for disk in $d0 $d1 $d2 $d3; do wipefs -n $disk; done
vm vgchange -an
mdadm --stop /dev/md0
"#;

#[test]
fn restored_volumes_are_assembled_by_the_kernel_and_hold_every_file() {
    let dir = tempfile::tempdir().unwrap();
    let names = ["d0", "d1", "d2", "d3"];
    let sizes = [400, 400, 96, 96];
    for (name, mib) in names.iter().zip(sizes) {
        File::create(dir.path().join(name)).unwrap().set_len(mib * MIB).unwrap();
    }
    uml::run(dir.path(), USE_REAL);
    let images: Vec<_> = names.iter().map(|name| Image::open(&dir.path().join(name))).collect();
    let disks: Vec<&dyn BlockSource> = images.iter().map(|image| image as _).collect();
    let layouts = analyze(&disks, &Options::default(), Readers::OWN).unwrap();
    for (lv, disk) in [("root", 0), ("srv", 0), ("swap", 0), ("boot", 2)] {
        assert!(
            layouts[disk]
                .all_regions()
                .any(|region| matches!(&region.place, Place::LogicalVolume { lv: name, .. } if name == lv))
        );
    }
    for ((name, image), layout) in names.iter().zip(&images).zip(&layouts) {
        let mut target = vec![0xa5; image.size() as usize];
        restore(layout, image, &mut target);
        let path = dir.path().join(name);
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, target).unwrap();
    }
    uml::run(dir.path(), CHECK_REAL);
}
