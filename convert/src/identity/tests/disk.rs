// SPDX-License-Identifier: Apache-2.0
//! A whole disk: GPT, EFI system partition, /boot on ext4, a volume group with XFS and swap; all of it made by its own tools, given other
//! identities, and judged by its own tools.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use unmoor_images::formats::raw::RawSource;
use unmoor_images::layout::{self, DiskLayout, Options, Place};
use unmoor_images::monitor::Silent;
use unmoor_images::{BlockSource, ErrorKind};

use crate::devices::Devices;
use crate::files::Directory;
use crate::identity::{Names, carry_out, decide, plan};
use crate::inspection::Inspection;
use crate::plan::{Draft, Identified, Plan};
use crate::request::Identity;
use crate::rules::tests::{Guest, inspection, put};

const MIB: u64 = 1 << 20;
/// Partitions: first MiB and length in MiB.
const ESP: (u64, u64) = (1, 40);
const BOOT: (u64, u64) = (41, 64);
const VOLUME: (u64, u64) = (105, 150);
/// Within the physical volume, in MiB: what LVM makes of 4 MiB extents behind 1 MiB.
const ROOT: (u64, u64) = (1, 128);
const SWAP: (u64, u64) = (129, 8);

fn run(package: &str, program: &str, arguments: &[&str], input: &str) -> String {
    let mut command = Command::new(program);
    command.args(arguments).env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin").env("LC_ALL", "C");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child =
        command.spawn().unwrap_or_else(|error| unreachable!("{program}: {error} (Debian package {package})"));
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

struct Machine {
    folder: tempfile::TempDir,
}

impl Machine {
    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    fn part(&self, name: &str, mib: u64) -> String {
        File::create(self.path(name)).unwrap().set_len(mib * MIB).unwrap();
        self.text(name)
    }

    /// Copies `mib` MiB of `from` at `start` MiB of `to`; or back.
    fn copy(&self, from: (&str, u64), to: (&str, u64), mib: u64) {
        let (input, output) = (format!("if={}", self.text(from.0)), format!("of={}", self.text(to.0)));
        let places = [format!("skip={}", from.1), format!("seek={}", to.1), format!("count={mib}")];
        let mut arguments = vec!["bs=1M", "conv=notrunc,sparse", "status=none", &input, &output];
        arguments.extend(places.iter().map(String::as_str));
        run("coreutils", "dd", &arguments, "");
    }

    fn new() -> Self {
        let machine = Self { folder: tempfile::tempdir().unwrap() };
        let disk = machine.part("disk", 256);
        let table = format!(
            "label: gpt\nstart={}MiB, size={}MiB, type=U, name=esp\nstart={}MiB, size={}MiB\nstart={}MiB, size={}MiB, type=E6D6D379-F507-44C2-A23C-238F2A3DF928\n",
            ESP.0, ESP.1, BOOT.0, BOOT.1, VOLUME.0, VOLUME.1
        );
        run("fdisk", "sfdisk", &["-q", &disk], &table);
        run("dosfstools", "mkfs.fat", &["-F", "32", "-n", "ESP", &machine.part("esp", ESP.1)], "");
        let features = "metadata_csum,^metadata_csum_seed";
        run("e2fsprogs", "mke2fs", &["-q", "-t", "ext4", "-O", features, &machine.part("boot", BOOT.1)], "");
        run("xfsprogs", "mkfs.xfs", &["-q", "--unsupported", &machine.part("root", ROOT.1)], "");
        run("util-linux", "mkswap", &[&machine.part("swap", SWAP.1)], "");
        let volume = machine.part("volume", VOLUME.1);
        machine.lvm(&volume, &["pvcreate -qq DEVICE", "vgcreate -qq vg DEVICE"]);
        machine.lvm(
            &volume,
            &["lvcreate -qq -an -Zn -Wn -L 128M -n root vg", "lvcreate -qq -an -Zn -Wn -L 8M -n swap vg"],
        );
        machine.copy(("root", 0), ("volume", ROOT.0), ROOT.1);
        machine.copy(("swap", 0), ("volume", SWAP.0), SWAP.1);
        for (name, (start, len)) in [("esp", ESP), ("boot", BOOT), ("volume", VOLUME)] {
            machine.copy((name, 0), ("disk", start), len);
        }
        machine
    }

    /// LVM's commands on a file, through a loop device and without device-mapper.
    fn lvm(&self, file: &str, commands: &[&str]) -> String {
        let device = run("mount", "losetup", &["-f", "--show", file], "").trim().to_owned();
        let config = format!(
            "devices {{ use_devicesfile=0 obtain_device_list_from_udev=0 filter=[\"a|{device}$|\",\"r|.*|\"] }} \
             backup {{ backup=0 archive=0 }} activation {{ udev_sync=0 udev_rules=0 monitoring=0 }} \
             global {{ use_lvmpolld=0 system_id_source=\"none\" locking_dir=\"{}\" }}",
            self.folder.path().display()
        );
        let mut said = String::new();
        for command in commands {
            let words: Vec<&str> =
                command.split(' ').map(|word| if word == "DEVICE" { &device } else { word }).collect();
            let (name, rest) = words.split_first().unwrap();
            let arguments = [&[*name, "--driverloaded", "n", "--config", &config], rest].concat();
            said += &run("lvm2", "lvm", &arguments, "");
        }
        run("mount", "losetup", &["-d", &device], "");
        said
    }

    fn source(&self) -> RawSource {
        RawSource::open(&self.path("disk")).unwrap()
    }

    fn layouts(&self) -> Vec<DiskLayout> {
        let source = self.source();
        layout::analyze(&[&source], &Options::default(), &Silent).unwrap()
    }

    fn planned(&self, change: impl FnOnce(&mut Inspection, &Path)) -> Plan {
        let mut guest = Guest::new(&[]);
        guest.request.identity = Identity::Clone;
        let source = self.source();
        let layouts = self.layouts();
        let devices = Devices::of(&layouts, &[&source], None);
        let folder = tempfile::tempdir().unwrap();
        let mut facts = inspection();
        change(&mut facts, folder.path());
        let files = Directory::open(folder.path()).unwrap();
        let mut draft = Draft::new(&files);
        let clone = decide(&mut draft, &facts, &devices, &[&source], &layouts, &guest.request).unwrap();
        plan(&mut draft, &facts, &clone).unwrap();
        draft.finish()
    }

    /// As it is done when files are written: filesystems first, then what they lie on, each on what is there then.
    fn apply(&self, plan: &Plan) {
        let layouts = self.layouts();
        carry_out::check(&plan.identities, &[&self.source()], &layouts).unwrap();
        let file = File::options().write(true).open(self.path("disk")).unwrap();
        for edit in &plan.identities {
            if let Identified::Filesystem { disk, place, .. } = &edit.of {
                let source = self.source();
                let opened = layout::open(&[&source], &layouts, *disk, place).unwrap();
                for (at, bytes) in carry_out::filesystem_writes(&opened, &edit.of).unwrap() {
                    let mut rest = bytes.as_slice();
                    for (_, start, len) in opened.resolve(at, bytes.len() as u64) {
                        let (piece, later) = rest.split_at(len as usize);
                        file.write_all_at(piece, start).unwrap();
                        rest = later;
                    }
                }
            }
            for (disk, at, bytes) in carry_out::writes(&[&self.source()], &layouts, &edit.of).unwrap() {
                assert_eq!(disk, 0);
                file.write_all_at(&bytes, at).unwrap();
            }
        }
    }

    /// Every identity on the disk.
    fn identities(&self) -> BTreeSet<String> {
        let source = self.source();
        let mut found = BTreeSet::new();
        for layout in self.layouts() {
            found.extend(layout.table.disk_id.clone());
            found.extend(layout.table.partitions.iter().filter_map(|one| one.partuuid.clone()));
            for region in layout.all_regions() {
                found.extend(region.filesystem().and_then(|facts| facts.uuid.clone()));
                if let layout::Content::PhysicalVolume { pv_uuid, vg_uuid, .. } = &region.content {
                    found.insert(pv_uuid.clone());
                    found.extend(vg_uuid.clone());
                }
            }
        }
        let volume = Place::Disk { offset: VOLUME.0 * MIB, len: VOLUME.1 * MIB, partition: Some(3) };
        let layouts = self.layouts();
        let volume = layout::open(&[&source], &layouts, 0, &volume).unwrap();
        found.extend(unmoor_images::volume::lvm::ids(&[&volume as &dyn BlockSource]).unwrap());
        found
    }

    /// Each part is taken out again, and judged by its own tools.
    fn judge(&self) {
        for (name, (start, len)) in [("esp", ESP), ("boot", BOOT), ("volume", VOLUME)] {
            self.copy(("disk", start), (name, 0), len);
        }
        self.copy(("volume", ROOT.0), ("root", 0), ROOT.1);
        self.copy(("volume", SWAP.0), ("swap", 0), SWAP.1);
        run("fdisk", "sfdisk", &["-V", "-q", &self.text("disk")], "");
        run("dosfstools", "fsck.fat", &["-n", &self.text("esp")], "");
        run("e2fsprogs", "e2fsck", &["-f", "-n", &self.text("boot")], "");
        run("xfsprogs", "xfs_repair", &["-n", "-f", &self.text("root")], "");
        let said =
            self.lvm(&self.text("volume"), &["vgck vg", "lvs --noheadings -o lv_uuid,lv_name,vg_uuid vg"]);
        assert!(said.contains("root") && said.contains("swap"), "{said}");
    }
}

#[test]
fn a_whole_disk_has_other_identities_and_all_its_tools_find_it_in_order() {
    let machine = Machine::new();
    let before = machine.identities();
    assert_eq!(
        before.len(),
        4 + 4 + 4,
        "GPT, three partitions, four filesystems, PV, VG, two LVs: {before:?}"
    );
    let planned = machine.planned(|_, _| {});
    assert!(planned.findings.is_empty(), "{:?}", planned.findings);
    let kinds: Vec<String> = planned.identities.iter().map(|edit| edit.of.what()).collect();
    let order = |part: &str| kinds.iter().position(|kind| kind.contains(part)).unwrap();
    assert!(order("xfs") < order("volume group vg") && order("volume group vg") < order("GPT"), "{kinds:?}");
    // As JSON and back, it is the same plan.
    assert_eq!(Plan::load(planned.to_json().unwrap().as_bytes()).unwrap(), planned);

    machine.apply(&planned);
    let after = machine.identities();
    assert_eq!(before.intersection(&after).count(), 0, "{before:?} {after:?}");
    let names = Names::new(planned.identities.iter().flat_map(|edit| edit.of.names()));
    let expected: BTreeSet<String> = before.iter().map(|old| names.get(old).unwrap().to_owned()).collect();
    assert_eq!(after, expected);
    machine.judge();

    // It was made for another state than there is now.
    let error = carry_out::check(&planned.identities, &[&machine.source()], &machine.layouts()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);

    // And back.
    let reversed = planned.identities.iter().map(|edit| edit.reversed()).collect();
    machine.apply(&Plan { identities: reversed, ..Plan::default() });
    assert_eq!(machine.identities(), before);
    machine.judge();
}

#[test]
fn what_the_guests_kernel_or_grub_would_not_read_keeps_its_uuid() {
    let machine = Machine::new();
    let uuid = |layouts: &[DiskLayout], kind: &str| {
        let mut all =
            layouts.iter().flat_map(DiskLayout::all_regions).filter_map(|region| region.filesystem());
        all.find(|facts| facts.kind.name() == kind).and_then(|facts| facts.uuid.clone()).unwrap()
    };
    let layouts = machine.layouts();
    let (boot, root) = (uuid(&layouts, "ext4"), uuid(&layouts, "xfs"));
    let kernel = |release: &str| crate::inspection::Kernel {
        release: release.to_owned(),
        image: None,
        modules: None,
        initramfs: Vec::new(),
        config: None,
        bootable: true,
        special: None,
    };
    let old = machine.planned(|facts, _| facts.kernels.push(kernel("3.16.0-4-amd64")));
    let kept: Vec<&str> = old.findings.iter().map(|finding| finding.text.as_str()).collect();
    assert_eq!(kept.len(), 2, "{kept:?}");
    assert!(kept.iter().all(|text| text.contains("3.16.0-4-amd64")), "{kept:?}");
    let changed = |plan: &Plan, old: &str| {
        plan.identities.iter().any(|edit| edit.of.names().iter().any(|(known, _)| *known == old))
    };
    assert!(!changed(&old, &boot) && !changed(&old, &root));

    // A GRUB of 2.04 reads XFS as it becomes, and not ext4.
    for (version, reads) in [("2.04-20", false), ("2.12-1", true)] {
        let planned = machine.planned(|facts, folder| {
            facts.kernels.push(kernel("6.1.0-32-amd64"));
            put(folder, "/boot/grub/i386-pc/normal.mod", &format!("x\0{version}\0y"));
            put(folder, "/boot/grub/grub.cfg", "menuentry x {}\n");
            facts.boot.loaders.push(crate::inspection::Loader {
                kind: crate::inspection::LoaderKind::Grub2,
                firmware: unmoor_images::manifest::Firmware::Bios,
                config: Some("/boot/grub/grub.cfg".into()),
                binaries: Vec::new(),
                shim: false,
            });
            let devices = Devices::of(&machine.layouts(), &[&machine.source()], None);
            let device = devices.resolve(&format!("UUID={boot}"));
            facts.fstab.push(crate::inspection::FstabLine {
                line: 1,
                spec: format!("UUID={boot}"),
                mountpoint: "/boot".into(),
                kind: "ext4".into(),
                options: "defaults".into(),
                device,
            });
        });
        assert_eq!(changed(&planned, &boot), reads, "{version}: {:?}", planned.findings);
        assert!(changed(&planned, &root), "{version}");
    }
    let _ = fs::metadata(machine.path("disk")).unwrap();
}
