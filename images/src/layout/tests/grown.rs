// SPDX-License-Identifier: Apache-2.0
//! Volume groups that [`lvm::grow`] has made larger, held against LVM's own tools and the kernel.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::uml;
use crate::source::check_range;
use crate::volume::lvm;
use crate::{BlockSource, Error, ErrorKind, Result};

const MIB: u64 = 1 << 20;

struct Image(File);

impl BlockSource for Image {
    fn size(&self) -> u64 {
        self.0.metadata().unwrap().len()
    }
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        check_range(self.size(), offset, buf.len())?;
        self.0.read_exact_at(buf, offset).map_err(|error| Error::io("reading", error))
    }
}

fn open(folder: &Path, name: &str) -> Image {
    Image(File::options().read(true).write(true).open(folder.join(name)).unwrap())
}

fn make(folder: &Path, disks: &[(&str, u64)], script: &str) {
    for (name, mib) in disks {
        File::create(folder.join(name)).unwrap().set_len(mib * MIB).unwrap();
    }
    uml::run(folder, script);
}

/// Makes the first disk `mib` long, grows the volume on it, and writes what that takes.
fn grow(folder: &Path, disks: &[&str], mib: u64, lv: &str) -> lvm::Growth {
    let images: Vec<Image> = disks.iter().map(|name| open(folder, name)).collect();
    let sources: Vec<&dyn BlockSource> = images.iter().map(|image| image as _).collect();
    let growth = lvm::grow(&sources, 0, mib * MIB, lv).unwrap();
    images[0].0.set_len(mib * MIB).unwrap();
    for (disk, at, bytes) in &growth.writes {
        images[*disk].0.write_all_at(bytes, *at).unwrap();
    }
    growth
}

#[test]
fn lvm_finds_nothing_wrong_with_a_group_that_was_grown_and_the_kernel_maps_it() {
    let folder = tempfile::tempdir().unwrap();
    make(
        folder.path(),
        &[("p0", 96), ("p1", 64)],
        r#"
attach p0 p1
vm pvcreate -y $p0 $p1
vm vgcreate -s 4M vg $p0 $p1
vm lvcreate -y -L 24M -n early vg $p0
vm lvcreate -y -i 2 -I 64k -L 32M -n striped vg
vm lvcreate -y -l 100%FREE -n last vg $p0
for lv in early striped last; do mkfs.ext4 -q -F /dev/vg/$lv; mount /dev/vg/$lv /tmp; echo $lv > /tmp/name; umount /tmp; done
vm vgchange -an
"#,
    );
    // One after the other: the last of the volume's segments goes on, or a new one is added.
    let last = grow(folder.path(), &["p0", "p1"], 160, "last");
    assert_eq!(last.extents, 16);
    assert_eq!(last.logical("last").unwrap().segments.len(), 1);
    assert_eq!(grow(folder.path(), &["p0", "p1"], 200, "early").logical("early").unwrap().segments.len(), 2);
    assert_eq!(
        grow(folder.path(), &["p0", "p1"], 240, "striped").logical("striped").unwrap().segments.len(),
        2
    );
    let log = uml::run(
        folder.path(),
        r#"
attach p0 p1
vm vgck vg
vm pvck $p0
vm pvck $p1
vm pvs --noheadings --units m -o pv_name,pv_size,pv_free,dev_size $p0
vm vgs --noheadings -o vg_seqno,vg_mda_count vg
vm lvs --noheadings --units m -o lv_name,lv_size,seg_count vg
vm vgchange -ay vg
for lv in early striped last; do
    e2fsck -fn /dev/vg/$lv
    e2fsck -fy /dev/vg/$lv
    resize2fs /dev/vg/$lv
    e2fsck -fn /dev/vg/$lv
    mount /dev/vg/$lv /tmp; cat /tmp/name; df -m --output=size /tmp; umount /tmp
done
vm lvreduce -f -y -l -1 vg/early
vm lvcreate -y -an -l 1 -n more vg $p0
vm vgck vg
vm vgchange -an
"#,
    );
    for text in
        ["last  116.00m    1", "early   64.00m    2", "striped   72.00m    2", "236.00m    0m 240.00m"]
    {
        let wanted: Vec<&str> = text.split_whitespace().collect();
        let found = log.lines().any(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            words.windows(wanted.len()).any(|window| window == wanted)
        });
        assert!(found, "{text:?} is missing in:\n{log}");
    }
    let (before, _) = log.split_once("+ vm lvreduce").unwrap();
    for word in ["WARNING", "rror", "nconsisten"] {
        assert!(!before.contains(word), "{word}: {log}");
    }
}

#[test]
fn the_text_goes_round_in_a_small_metadata_area() {
    let folder = tempfile::tempdir().unwrap();
    make(
        folder.path(),
        &[("p0", 64)],
        r#"
attach p0
vm pvcreate -y --metadatasize 40k --dataalignment 4k $p0
vm vgcreate -s 64k vg $p0
vm lvcreate -y -an -Zn -l 8 -n root vg
"#,
    );
    let mut places = Vec::new();
    for round in 0..40 {
        let growth = grow(folder.path(), &["p0"], 65 + round, "root");
        assert_eq!(growth.extents, 16);
        places.push(growth.writes[0].1);
    }
    let wrapped = places.windows(2).any(|pair| pair[1] < pair[0]);
    assert!(wrapped, "{places:x?}");
    let log = uml::run(
        folder.path(),
        "attach p0\nvm vgck vg\nvm pvck $p0\nvm vgs --noheadings -o vg_seqno vg\nvm lvs --noheadings -o seg_count,lv_size --units k vg\n",
    );
    assert!(log.lines().any(|line| line.trim() == "42"), "{log}");
    assert!(log.contains("41472.00k"), "{log}");
}

#[test]
fn groups_that_cannot_be_grown_are_refused_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    make(
        folder.path(),
        &[("p0", 64), ("p1", 64), ("two", 64)],
        r#"
attach p0 p1 two
vm pvcreate -y $p0 $p1
vm vgcreate -s 1M vg $p0 $p1
vm lvcreate -y -an -Zn -L 8M -n plain vg
vm lvcreate -y -L 8M -n origin vg
vm lvcreate -y -s -L 4M -n snap vg/origin
vm vgchange -an
vm pvcreate -y --metadatacopies 2 $two
vm vgcreate -s 1M vg2 $two
vm lvcreate -y -an -Zn -L 8M -n plain vg2
"#,
    );
    let images: Vec<Image> = ["p0", "p1", "two"].iter().map(|name| open(folder.path(), name)).collect();
    let refusal = |disks: &[usize], mib: u64, lv: &str, word: &str| {
        let sources: Vec<&dyn BlockSource> = disks.iter().map(|&disk| &images[disk] as _).collect();
        let error = lvm::grow(&sources, 0, mib * MIB, lv).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused, "{}", error.chain());
        assert!(error.chain().contains(word), "{word}: {}", error.chain());
    };
    refusal(&[0], 128, "plain", "not on the disk that grows");
    refusal(&[0, 1], 64, "plain", "smaller than one extent");
    refusal(&[0, 1], 128, "origin", "only linear and striped volumes");
    refusal(&[0, 1], 128, "snap", "only linear and striped volumes");
    refusal(&[0, 1], 128, "nothing", "no such logical volume");
    refusal(&[2], 128, "plain", "metadata area lies behind");
}
