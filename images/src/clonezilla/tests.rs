// SPDX-License-Identifier: Apache-2.0
//! Directories as Clonezilla's scripts make them, by the programs that they call.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::{ClonezillaDisk, is_one, open};
use crate::formats::partclone::tests::{noise, run, save, text, volume};
use crate::layout::{self, Content, Kept};
use crate::monitor::Silent;
use crate::{BlockSource, State};

const MIB: u64 = 1 << 20;

/// A disk, and the directory that is its image.
struct Scene {
    dir: tempfile::TempDir,
    disk: PathBuf,
    image: PathBuf,
}

impl Scene {
    fn new(mib: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (disk, image) = (dir.path().join("disk.raw"), dir.path().join("image"));
        File::create(&disk).unwrap().set_len(mib * MIB).unwrap();
        fs::create_dir(&image).unwrap();
        fs::write(image.join("disk"), "sda\n").unwrap();
        Self { dir, disk, image }
    }

    fn put(&self, bytes: &[u8], at: u64) {
        File::options().write(true).open(&self.disk).unwrap().write_all_at(bytes, at).unwrap();
    }

    fn part(&self, at: u64, len: u64) -> Vec<u8> {
        let mut bytes = vec![0; len as usize];
        File::open(&self.disk).unwrap().read_exact_at(&mut bytes, at).unwrap();
        bytes
    }

    /// What sfdisk and parted say, with the disk's name as it would have been.
    fn listings(&self) {
        let named = |listing: String| {
            let listing = listing.replace(&format!("{} :", text(&self.disk)), "/dev/sda :");
            listing.replace(text(&self.disk), "/dev/sda")
        };
        fs::write(self.image.join("sda-pt.sf"), named(run("fdisk", "sfdisk", &["-d", text(&self.disk)])))
            .unwrap();
        let parted = run("parted", "parted", &["-s", text(&self.disk), "unit", "s", "print"]);
        fs::write(self.image.join("sda-pt.parted"), named(parted)).unwrap();
    }

    /// A filesystem at its place, and its image.
    fn filesystem(&self, device: &str, kind: &str, tool: &str, at: u64, mib: u64, pack: &[&str]) {
        let folder = self.dir.path().join(device);
        fs::create_dir(&folder).unwrap();
        let made = volume(&folder, kind, mib);
        self.put(&fs::read(&made).unwrap(), at);
        self.save(device, &made, tool, pack);
    }

    fn save(&self, device: &str, from: &Path, tool: &str, pack: &[&str]) {
        let saved = save(from.parent().unwrap(), tool, from, &[]);
        let name = format!("{device}.{tool}-ptcl-img");
        match pack {
            ["zstd"] => {
                let packed = zstd::bulk::compress(&fs::read(&saved).unwrap(), 1).unwrap();
                let whole = self.image.join(format!("{name}.zst"));
                fs::write(&whole, packed).unwrap();
                run(
                    "coreutils",
                    "split",
                    &["-a", "2", "-b", "1M", text(&whole), &format!("{}.", text(&whole))],
                );
                fs::remove_file(whole).unwrap();
            }
            _ => drop(fs::copy(saved, self.image.join(format!("{name}.uncomp"))).unwrap()),
        }
    }

    fn open(&self) -> Vec<ClonezillaDisk> {
        assert!(is_one(&self.image));
        open(&self.image).unwrap()
    }

    fn write_out(&self, disk: &ClonezillaDisk, name: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        let mut bytes = vec![0; disk.source.size() as usize];
        disk.source.read_at(&mut bytes, 0).unwrap();
        fs::write(&path, bytes).unwrap();
        path
    }
}

/// Where the source has something, it is that; elsewhere the copy has zeros.
fn assert_used_same(scene: &Scene, copy: &Path, at: u64, len: u64, disk: &ClonezillaDisk) {
    let (want, have) = (scene.part(at, len), fs::read(copy).unwrap());
    let have = &have[at as usize..(at + len) as usize];
    let mut place = 0;
    while place < len {
        let extent = disk.source.extent_at(at + place, len - place).unwrap();
        let range = place as usize..(place + extent.len) as usize;
        match extent.state {
            State::Data => assert!(have[range.clone()] == want[range], "{extent:x?}"),
            _ => assert!(have[range].iter().all(|byte| *byte == 0), "{extent:x?}"),
        }
        place += extent.len;
    }
}

#[test]
fn a_gpt_disk_with_two_filesystems_and_swap_comes_back() {
    let scene = Scene::new(160);
    let disk = text(&scene.disk).to_owned();
    run(
        "gdisk",
        "sgdisk",
        &[
            "-n",
            "1:2048:+48M",
            "-t",
            "1:ef00",
            "-n",
            "2:0:+40M",
            "-n",
            "3:0:+20M",
            "-t",
            "3:8200",
            "-n",
            "4:0:+4M",
            &disk,
        ],
    );
    scene.filesystem("sda1", "fat32", "vfat", MIB, 48, &["zstd"]);
    scene.filesystem("sda2", "ext4", "ext4", 49 * MIB, 40, &["zstd"]);
    let swap = scene.dir.path().join("swap");
    File::create(&swap).unwrap().set_len(20 * MIB).unwrap();
    run(
        "util-linux",
        "mkswap",
        &["-q", "-U", "92d422f0-3a17-4e69-93f0-f8fd1091e5eb", "-L", "swap-sda3", text(&swap)],
    );
    scene.put(&fs::read(&swap).unwrap(), 89 * MIB);
    fs::write(
        scene.image.join("swappt-sda3.info"),
        "UUID=\"92d422f0-3a17-4e69-93f0-f8fd1091e5eb\"\nLABEL=\"swap-sda3\"\n",
    )
    .unwrap();
    fs::write(scene.image.join("sda-gpt-1st"), scene.part(0, 34 * 512)).unwrap();
    fs::write(scene.image.join("sda-mbr"), scene.part(0, 512)).unwrap();
    scene.listings();

    let disks = scene.open();
    assert_eq!((disks.len(), disks[0].name.as_str()), (1, "sda"));
    assert_eq!(disks[0].warnings, ["sda4 is not in the image: it reads as zeros"]);
    assert_eq!(disks[0].source.size(), 160 * MIB);
    let copy = scene.write_out(&disks[0], "copy.raw");
    assert!(run("gdisk", "sgdisk", &["-v", text(&copy)]).contains("No problems found"));
    let table = |disk: &Path| {
        run("gdisk", "sgdisk", &["-p", "-i", "1", "-i", "3", text(disk)]).replace(text(disk), "")
    };
    assert_eq!(table(&scene.disk), table(&copy));
    // Both copies of the table are as they were.
    let end = 160 * MIB - 33 * 512;
    assert!(scene.part(end, 33 * 512) == fs::read(&copy).unwrap()[end as usize..]);
    assert!(scene.part(89 * MIB, 4096) == fs::read(&copy).unwrap()[89 << 20..(89 << 20) + 4096]);
    assert_used_same(&scene, &copy, MIB, 48 * MIB, &disks[0]);
    assert_used_same(&scene, &copy, 49 * MIB, 40 * MIB, &disks[0]);

    let options = layout::Options::default();
    let found = layout::analyze_saved(&[&disks[0].source.heads()], &options, &Silent).unwrap();
    let kinds: Vec<_> = found[0]
        .regions
        .iter()
        .filter_map(|region| region.filesystem())
        .map(|facts| facts.kind.name())
        .collect();
    assert_eq!(kinds, ["vfat", "ext4", "swap"]);
    let own = layout::analyze(&[&disks[0].source], &options, &Silent).unwrap();
    for (saved, own) in found[0].regions.iter().zip(&own[0].regions) {
        assert_eq!(saved.content, own.content);
        // partclone keeps no less than the filesystem uses, and little more.
        if saved.filesystem().is_some() {
            assert_eq!(saved.kept, Kept::Used);
            assert!(saved.used_bytes + (2 << 20) >= own.used_bytes, "{saved:?} {own:?}");
        }
    }
    assert!(found[0].extents.bytes(State::Hole) > 60 * MIB);
}

#[test]
fn logical_partitions_lie_where_sfdisk_says() {
    let scene = Scene::new(96);
    let script = scene.dir.path().join("script");
    fs::write(&script, "label: dos\nlabel-id: 0x12345678\nsize=16M, bootable, type=83\ntype=5\nsize=24M, type=83\nsize=20M, type=83\nsize=8M, type=82\n").unwrap();
    run("fdisk", "sh", &["-c", &format!("sfdisk -q {} < {}", text(&scene.disk), text(&script))]);
    scene.put(b"a boot loader hides here", 512 * 3);
    scene.filesystem("sda1", "ext4-1k", "ext2", MIB, 16, &[]);
    let starts = run("fdisk", "sfdisk", &["-d", text(&scene.disk)]);
    let start = |number: u32| -> u64 {
        let line = starts.lines().find(|line| line.contains(&format!("disk.raw{number} :"))).unwrap();
        line.split("start=").nth(1).unwrap().split(',').next().unwrap().trim().parse::<u64>().unwrap() * 512
    };
    scene.filesystem("sda5", "ext4", "ext4", start(5), 24, &["zstd"]);
    scene.filesystem("sda6", "ntfs", "ntfs", start(6), 20, &[]);
    fs::write(scene.image.join("sda-mbr"), scene.part(0, 512)).unwrap();
    fs::write(scene.image.join("sda-ebr"), scene.part(start(2), 512)).unwrap();
    fs::write(scene.image.join("sda-hidden-data-after-mbr"), scene.part(512, MIB - 512)).unwrap();
    fs::write(scene.image.join("swappt-sda7.info"), "UUID=\"\"\nLABEL=\"\"\n").unwrap();
    scene.listings();

    let disks = scene.open();
    assert_eq!(disks[0].warnings, Vec::<String>::new());
    let copy = scene.write_out(&disks[0], "copy.raw");
    let dump = |disk: &Path| run("fdisk", "sfdisk", &["-d", text(disk)]).replace(text(disk), "");
    assert_eq!(dump(&scene.disk), dump(&copy));
    assert!(scene.part(0, MIB) == fs::read(&copy).unwrap()[..MIB as usize]);
    for (number, mib) in [(1, 16), (5, 24), (6, 20)] {
        assert_used_same(&scene, &copy, start(number), mib * MIB, &disks[0]);
    }
}

#[test]
fn a_volume_group_on_two_disks_is_put_together_as_lvm_sees_it() {
    let dir = tempfile::tempdir().unwrap();
    let script = r#"
        for d in one two; do truncate -s 64M $d; done
        one=$(losetup -f --show one); two=$(losetup -f --show two)
        trap 'losetup -d $one; losetup -d $two' EXIT
        c="devices{use_devicesfile=0 filter=[\"a|^$one\$|\",\"a|^$two\$|\",\"r|.*|\"] global_filter=[\"a|^$one\$|\",\"a|^$two\$|\",\"r|.*|\"]} activation{checks=0 udev_sync=0 udev_rules=0} backup{backup=0 archive=0}"
        lv() { lvcreate -q --driverloaded n --config "$c" -an -Zn -Wn -y "$@" >/dev/null; }
        vgcreate -q --config "$c" vg $one $two >/dev/null
        lv -n root -L 40M vg $two; lv -n data -L 16M vg $one; lv -n swap -L 8M vg $one
        lvextend -q --driverloaded n --config "$c" -L +12M vg/data $two >/dev/null
        vgcfgbackup -q --config "$c" -f vg.conf vg >/dev/null
        pvs --config "$c" --noheadings -o vg_name,pv_name,pv_uuid | sed "s|$one|/dev/sda|;s|$two|/dev/sdb|" > list
        pvs --config "$c" --noheadings -o pv_uuid,pv_size,pe_start,vg_name --units b > before
    "#;
    run("lvm2", "bash", &["-ec", &format!("cd {}; {script}", text(dir.path()))]);
    let image = dir.path().join("image");
    fs::create_dir(&image).unwrap();
    fs::write(image.join("disk"), "sda sdb\n").unwrap();
    let read = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
    let list: String = read("list")
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ") + "\n")
        .collect();
    fs::write(image.join("lvm_vg_dev.list"), list).unwrap();
    fs::write(image.join("lvm_logv.list"), "/dev/vg/root Linux rev 1.0 ext4 filesystem data\n").unwrap();
    fs::copy(dir.path().join("vg.conf"), image.join("lvm_vg.conf")).unwrap();
    for (name, kind, mib) in [("root", "ext4", 40), ("data", "ext4-1k", 28)] {
        let folder = dir.path().join(name);
        fs::create_dir(&folder).unwrap();
        let made = volume(&folder, kind, mib);
        let saved = save(&folder, "ext4", &made, &[]);
        let packed = zstd::bulk::compress(&fs::read(saved).unwrap(), 1).unwrap();
        fs::write(image.join(format!("vg-{name}.ext4-ptcl-img.zst")), packed).unwrap();
    }
    fs::write(
        image.join("swappt-vg-swap.info"),
        "UUID=\"92d422f0-3a17-4e69-93f0-f8fd1091e5eb\"\nLABEL=\"\"\n",
    )
    .unwrap();

    let disks = open(&image).unwrap();
    assert_eq!(disks.iter().map(|disk| disk.source.size()).collect::<Vec<_>>(), [64 * MIB, 64 * MIB]);
    for (disk, name) in disks.iter().zip(["one", "two"]) {
        let mut bytes = vec![0; disk.source.size() as usize];
        disk.source.read_at(&mut bytes, 0).unwrap();
        fs::write(dir.path().join(name), bytes).unwrap();
    }
    // LVM itself finds the group as it was, and its own checker is content.
    let check = r#"
        one=$(losetup -f --show one); two=$(losetup -f --show two)
        trap 'losetup -d $one; losetup -d $two' EXIT
        c="devices{use_devicesfile=0 filter=[\"a|^$one\$|\",\"a|^$two\$|\",\"r|.*|\"] global_filter=[\"a|^$one\$|\",\"a|^$two\$|\",\"r|.*|\"]} activation{checks=0 udev_sync=0 udev_rules=0} backup{backup=0 archive=0}"
        pvs --config "$c" --noheadings -o pv_uuid,pv_size,pe_start,vg_name --units b > after
        diff before after
        for d in $one $two; do pvck --config "$c" $d; done
        vgck --config "$c" vg
        vgcfgbackup -q --config "$c" -f again.conf vg >/dev/null
        diff <(grep -v '^#\|creation\|description\|device = ' vg.conf) <(grep -v '^#\|creation\|description\|device = ' again.conf)
    "#;
    run("lvm2", "bash", &["-ec", &format!("cd {}; {check}", text(dir.path()))]);
    let heads: Vec<_> = disks.iter().map(|disk| disk.source.heads()).collect();
    let sources: Vec<&dyn BlockSource> = heads.iter().map(|disk| disk as &dyn BlockSource).collect();
    let layouts = layout::analyze_saved(&sources, &layout::Options::default(), &Silent).unwrap();
    assert_eq!(
        layouts.iter().flat_map(|layout| layout.warnings.clone()).collect::<Vec<_>>(),
        Vec::<String>::new()
    );
    let mut found = 0;
    for (index, layout) in layouts.iter().enumerate() {
        for region in layout.all_regions() {
            let (Content::Filesystem(facts), layout::Place::LogicalVolume { lv, .. }) =
                (&region.content, &region.place)
            else {
                continue;
            };
            found += 1;
            if lv == "swap" {
                assert_eq!(facts.uuid.as_deref(), Some("92d422f0-3a17-4e69-93f0-f8fd1091e5eb"));
                continue;
            }
            let volume = layout::open(
                &disks.iter().map(|disk| &disk.source as &dyn BlockSource).collect::<Vec<_>>(),
                &layouts,
                index,
                &region.place,
            )
            .unwrap();
            let mut bytes = vec![0; volume.size() as usize];
            volume.read_at(&mut bytes, 0).unwrap();
            let path = dir.path().join(format!("{lv}.out"));
            fs::write(&path, bytes).unwrap();
            run("e2fsprogs", "e2fsck", &["-fn", text(&path)]);
            let got = dir.path().join(format!("{lv}.noise"));
            run("e2fsprogs", "debugfs", &["-R", &format!("dump noise {}", text(&got)), text(&path)]);
            assert!(fs::read(&got).unwrap() == noise(3 << 20, 5), "{lv}");
        }
    }
    assert_eq!(found, 3);
}

#[test]
fn what_is_not_read_is_refused_by_name() {
    let scene = Scene::new(8);
    let refused = |words: &[&str]| {
        let error = open(&scene.image).err().expect("it opened").chain();
        words.iter().for_each(|word| assert!(error.contains(word), "{word:?} is missing in {error}"));
    };
    refused(&["sda", "nothing of it is in the image"]);
    fs::write(scene.image.join("sda.ntfs-img.aa"), "").unwrap();
    refused(&["ntfsclone", "partclone"]);
    fs::remove_file(scene.image.join("sda.ntfs-img.aa")).unwrap();
    fs::write(scene.image.join("ecryptfs.info"), "").unwrap();
    refused(&["encrypted", "ocs-decrypt-img"]);
    fs::remove_file(scene.image.join("ecryptfs.info")).unwrap();
    fs::write(scene.image.join("luks-dev.list"), "# comment\n/dev/sda3 uuid\n").unwrap();
    refused(&["LUKS"]);
    fs::remove_file(scene.image.join("luks-dev.list")).unwrap();
    fs::write(scene.image.join("sda-gpt-1st"), vec![0; 17408]).unwrap();
    refused(&["GPT"]);
}

#[test]
fn no_damage_of_the_small_files_panics_or_hangs() {
    let scene = Scene::new(96);
    let script = "label: dos\nsize=16M, bootable, type=8e\ntype=5\nsize=24M, type=83\nsize=20M, type=82\n";
    fs::write(scene.dir.path().join("script"), script).unwrap();
    run("fdisk", "sh", &["-c", &format!("cd {}; sfdisk -q disk.raw < script", text(scene.dir.path()))]);
    fs::write(scene.image.join("sda-mbr"), scene.part(0, 512)).unwrap();
    fs::write(scene.image.join("sda-hidden-data-after-mbr"), scene.part(512, 4096)).unwrap();
    fs::write(
        scene.image.join("swappt-sda6.info"),
        "UUID=\"92d422f0-3a17-4e69-93f0-f8fd1091e5eb\"\nLABEL=\"s\"\n",
    )
    .unwrap();
    fs::write(scene.image.join("lvm_vg_dev.list"), "vg /dev/sda1 AAAAAA-aaaa-aaaa-aaaa-aaaa-aaaa-aaaaaa\n")
        .unwrap();
    let configuration = "# Generated by LVM2\n\ncontents = \"Text Format Volume Group\"\nversion = 1\n\ndescription = \"x\"\n\nvg {\n\tid = \"BBBBBB-aaaa-aaaa-aaaa-aaaa-aaaa-aaaaaa\"\n\tseqno = 3\n\tstatus = [\"READ\", \"WRITE\"]\n\textent_size = 8192\n\tphysical_volumes {\n\t\tpv0 {\n\t\t\tid = \"AAAAAA-aaaa-aaaa-aaaa-aaaa-aaaa-aaaaaa\"\n\t\t\tdev_size = 32768\n\t\t\tpe_start = 2048\n\t\t\tpe_count = 3\n\t\t}\n\t}\n\tlogical_volumes {\n\t\ta {\n\t\t\tid = \"CCCCCC-aaaa-aaaa-aaaa-aaaa-aaaa-aaaaaa\"\n\t\t\tstatus = [\"READ\", \"WRITE\", \"VISIBLE\"]\n\t\t\tsegment_count = 1\n\t\t\tsegment1 {\n\t\t\t\tstart_extent = 0\n\t\t\t\textent_count = 2\n\t\t\t\ttype = \"striped\"\n\t\t\t\tstripe_count = 1\n\t\t\t\tstripes = [ \"pv0\", 0 ]\n\t\t\t}\n\t\t}\n\t}\n}\n";
    fs::write(scene.image.join("lvm_vg.conf"), configuration).unwrap();
    fs::write(scene.image.join("swappt-vg-a.info"), "UUID=\"\"\n").unwrap();
    scene.listings();
    let whole = open(&scene.image).unwrap();
    assert_eq!(whole[0].warnings, ["sda5 is not in the image: it reads as zeros"]);
    let mut state = 7u64;
    let mut random = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    let names: Vec<PathBuf> =
        fs::read_dir(&scene.image).unwrap().map(|entry| entry.unwrap().path()).collect();
    let mut opened = 0;
    for _ in 0..1500 {
        let path = &names[random(names.len())];
        let good = fs::read(path).unwrap();
        let mut bad = good.clone();
        for _ in 0..1 + random(3) {
            let at = random(bad.len());
            match random(4) {
                0 => bad[at] ^= 1 << random(8),
                1 => bad[at] = b'0' + random(10) as u8,
                2 => bad.truncate(at.max(1)),
                _ => {
                    bad.splice(at..at, *b"99999999999");
                }
            }
        }
        fs::write(path, &bad).unwrap();
        if let Ok(disks) = open(&scene.image) {
            opened += 1;
            for disk in disks {
                let mut head = [0; 4096];
                let _ = disk.source.read_at(&mut head, 0);
                let _ = disk.source.extent_at(0, disk.source.size());
            }
        }
        fs::write(path, &good).unwrap();
    }
    assert!(opened > 100, "{opened} of 1500 could still be read");
}
