// SPDX-License-Identifier: Apache-2.0
//! A small machine: a disk with a table, an ext4 with /boot, swap; its files beside it as a directory; and what an inspection
//! would say of it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use unmoor_images::BlockSource;
use unmoor_images::formats::{self, Format, OpenOptions};
use unmoor_images::layout::{self, DiskLayout, Place};
use unmoor_images::manifest::Firmware;
use unmoor_images::monitor::Silent;
use unmoor_images::partition::Role;

use super::{run, text};
use crate::devices::{Device, Devices};
use crate::files::Directory;
use crate::inspection::{Boot, BootEntry, Esp, FstabLine, Inspection, Layer, Loader, LoaderKind, System};
use crate::plan::{Change, Draft, Plan};
use crate::request::{Hardware, Identity, Request, SecureBoot};

pub(super) const MIB: u64 = 1 << 20;
pub(super) const ROOT: &str = "0ad62e5a-8d35-4b4b-a1d3-8b1c6e0f6c9f";
pub(super) const SWAP: &str = "11111111-2222-4333-8444-555555555555";

pub(super) struct Machine {
    pub(super) dir: tempfile::TempDir,
    pub(super) firmware: Firmware,
    /// Numbers of the partitions that hold root and swap.
    root: u32,
    extra: Vec<String>,
}

impl Machine {
    /// `script` is sfdisk's; partition `root` gets the files, swap goes where its type says.
    pub(super) fn new(firmware: Firmware, size: u64, script: &str, root: u32, mke2fs: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let machine =
            Self { dir, firmware, root, extra: mke2fs.iter().map(|option| (*option).to_owned()).collect() };
        File::create(machine.disk()).unwrap().set_len(size).unwrap();
        let child = Command::new("sfdisk")
            .args(["--quiet", "--no-reread"])
            .arg(machine.disk())
            .stdin(Stdio::piped())
            .spawn();
        let mut child =
            child.unwrap_or_else(|error| panic!("sfdisk is needed (Debian package fdisk): {error}"));
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), script.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success());
        for folder in ["etc", "boot/grub"] {
            fs::create_dir_all(machine.files().join(folder)).unwrap();
        }
        for partition in machine.layout().table.partitions {
            if matches!(partition.type_id.as_str(), "0x82" | "0657fd6d-a4ab-43c4-84e5-0933c84b4f4f") {
                machine.volume(partition.start, partition.len, |path| {
                    run("util-linux", "mkswap", &["-q", "-U", SWAP, "-L", "swap", path]);
                });
            }
        }
        machine
    }

    pub(super) fn disk(&self) -> PathBuf {
        self.dir.path().join("disk")
    }

    pub(super) fn files(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    pub(super) fn put(&self, path: &str, content: impl AsRef<[u8]>) {
        let path = self.files().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    pub(super) fn get(&self, path: &str) -> String {
        fs::read_to_string(self.files().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// Makes something in a file and puts it onto the disk.
    pub(super) fn volume(&self, start: u64, len: u64, make: impl FnOnce(&str)) {
        let path = self.dir.path().join("volume");
        File::create(&path).unwrap().set_len(len).unwrap();
        make(text(&path));
        run(
            "coreutils",
            "dd",
            &[
                "conv=notrunc,sparse",
                "bs=64K",
                "oflag=seek_bytes",
                "status=none",
                &format!("if={}", text(&path)),
                &format!("of={}", text(&self.disk())),
                &format!("seek={start}"),
            ],
        );
    }

    /// A copy of a range of the disk.
    pub(super) fn extract(&self, start: u64, len: u64) -> PathBuf {
        let path = self.dir.path().join("extracted");
        let mut bytes = vec![0; len as usize];
        File::open(self.disk()).unwrap().read_exact_at(&mut bytes, start).unwrap();
        fs::write(&path, bytes).unwrap();
        path
    }

    /// Puts the files into the root filesystem.
    pub(super) fn seal(&self) {
        let partition = self.layout().table.partitions;
        let partition = partition.iter().find(|partition| partition.number == self.root).unwrap();
        self.volume(partition.start, partition.len, |path| {
            let mut arguments = vec!["-q", "-F", "-t", "ext4", "-U", ROOT, "-d"];
            let files = self.files();
            arguments.push(text(&files));
            arguments.extend(self.extra.iter().map(String::as_str));
            arguments.push(path);
            run("e2fsprogs", "mke2fs", &arguments);
        });
    }

    pub(super) fn source(&self) -> Box<dyn BlockSource> {
        let options = OpenOptions { format: Some(Format::Raw), ..OpenOptions::default() };
        formats::open(&self.disk(), &options).unwrap().source
    }

    pub(super) fn layout(&self) -> DiskLayout {
        let source = self.source();
        layout::analyze(&[&*source], &layout::Options::default(), &Silent).unwrap().remove(0)
    }

    /// What an inspection would say: root, swap and ESP by their contents, one GRUB, one entry.
    pub(super) fn inspection(&self) -> (Inspection, Devices) {
        let layout = self.layout();
        let (mut devices, mut fstab, mut esps) = (Vec::new(), Vec::new(), Vec::new());
        for region in layout.all_regions() {
            let (Place::Disk { partition: Some(number), .. }, Some(facts)) =
                (&region.place, region.filesystem())
            else {
                continue;
            };
            let partition = layout.table.partitions.iter().find(|one| one.number == *number).unwrap();
            devices.push(Device {
                disk: 0,
                place: region.place.clone(),
                kind: facts.kind.name().to_owned(),
                uuid: facts.uuid.clone(),
                label: facts.label.clone(),
                partuuid: partition.partuuid.clone(),
                partlabel: partition.name.clone(),
                partition_type: Some(partition.type_id.clone()),
                names: vec![format!("/dev/sda{number}")],
                size: partition.len,
            });
            if partition.role == Role::Esp {
                esps.push(Esp { mountpoint: None, device: devices.len() - 1, fallback: false });
            }
        }
        let text = fs::read_to_string(self.files().join("etc/fstab")).unwrap_or_default();
        for (index, line) in text.lines().enumerate() {
            let [spec, mountpoint, kind, options, ..] = line.split_whitespace().collect::<Vec<_>>()[..]
            else {
                continue;
            };
            let device = devices.iter().position(|device| {
                device.uuid.as_deref() == spec.strip_prefix("UUID=")
                    || device.partuuid.as_deref() == spec.strip_prefix("PARTUUID=")
            });
            fstab.push(FstabLine {
                line: index + 1,
                spec: spec.to_owned(),
                mountpoint: mountpoint.to_owned(),
                kind: kind.to_owned(),
                options: options.to_owned(),
                device,
            });
        }
        let loaders = vec![Loader {
            kind: LoaderKind::Grub2,
            firmware: self.firmware,
            config: Some("/boot/grub/grub.cfg".to_owned()),
            binaries: Vec::new(),
            shim: false,
        }];
        let inspection = Inspection {
            system: System {
                id: Some("debian".to_owned()),
                architecture: Some("x86_64".to_owned()),
                ..System::default()
            },
            firmware: self.firmware,
            root: vec![
                Layer::Disk { disk: 0 },
                Layer::Filesystem { kind: "ext4".to_owned(), uuid: Some(ROOT.to_owned()), subvolume: None },
            ],
            kernels: Vec::new(),
            boot: Boot { loaders, esps, ..Boot::default() },
            fstab,
            crypttab: Vec::new(),
            resume: Vec::new(),
            lvm: Default::default(),
            md_arrays: Vec::new(),
            multipath: false,
            network: Default::default(),
            tools: Vec::new(),
            consoles: Vec::new(),
            identity: Default::default(),
            notes: Vec::new(),
        };
        (inspection, Devices { devices, disks: vec![vec!["/dev/sda".to_owned()]], ..Devices::default() })
    }

    /// Plans, with changes to what the inspection says.
    pub(super) fn plan(&self, request: &Request, change: impl FnOnce(&mut Inspection)) -> Plan {
        let files = Directory::open(&self.files()).unwrap();
        let (mut inspection, devices) = self.inspection();
        change(&mut inspection);
        let (source, layout) = (self.source(), self.layout());
        let mut draft = Draft::new(&files);
        crate::firmware::plan(
            &mut draft,
            &inspection,
            &devices,
            &[&*source],
            &[layout],
            request,
            &Default::default(),
        )
        .unwrap();
        draft.finish()
    }

    /// Carries a plan out: files, then the disk, its start last.
    pub(super) fn apply(&self, plan: &Plan) {
        assert!(!plan.is_refused(), "{:#?}", plan.findings);
        for edit in &plan.edits {
            let path = self.files().join(edit.path.trim_start_matches('/'));
            match &edit.change {
                Change::Write { content, .. } => {
                    fs::create_dir_all(path.parent().unwrap()).unwrap();
                    fs::write(path, content.bytes()).unwrap();
                }
                Change::Directory { .. } => fs::create_dir_all(path).unwrap(),
                other => panic!("{}: {other:?}", edit.path),
            }
        }
        self.seal();
        let disk = File::options().write(true).open(self.disk()).unwrap();
        let writes = plan.disk.iter().flat_map(|edit| &edit.writes);
        for low in [false, true] {
            for (at, content) in writes.clone().filter(|(at, _)| (*at < MIB) == low) {
                disk.write_all_at(content.bytes(), *at).unwrap();
            }
        }
    }

    /// Starts the disk and waits for `marker` on the serial port; what stood there.
    pub(super) fn start(&self, firmware: Firmware, marker: &str, more: &[&str]) -> String {
        // One at a time: they have two processors each.
        static ONE: Mutex<()> = Mutex::new(());
        let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        let log = self.dir.path().join("serial");
        fs::write(&log, "").unwrap();
        let mut qemu = Command::new("qemu-system-x86_64");
        qemu.args([
            "-machine",
            "q35",
            "-accel",
            "tcg,thread=multi",
            "-smp",
            "2",
            "-m",
            "512",
            "-nodefaults",
            "-nic",
            "none",
        ])
        .args(["-display", "none", "-vga", "std", "-no-reboot"])
        .args(["-serial", &format!("file:{}", text(&log))])
        .args(["-drive", &format!("file={},format=raw,if=none,id=disk,snapshot=on", text(&self.disk()))])
        .args(["-device", "ide-hd,drive=disk,bus=ide.0"])
        .args(more);
        if firmware == Firmware::Uefi {
            let variables = self.dir.path().join("variables");
            fs::copy("/usr/share/OVMF/OVMF_VARS_4M.fd", &variables)
                .unwrap_or_else(|error| panic!("the Debian package ovmf is needed: {error}"));
            qemu.args(["-drive", "if=pflash,format=raw,readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.fd"]);
            qemu.args(["-drive", &format!("if=pflash,format=raw,file={}", text(&variables))]);
        }
        let child = qemu.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let mut child =
            child.unwrap_or_else(|error| panic!("qemu-system-x86_64 is needed (qemu-system-x86): {error}"));
        let started = Instant::now();
        let said = loop {
            let said = String::from_utf8_lossy(&fs::read(&log).unwrap()).into_owned();
            let over = started.elapsed() > Duration::from_secs(180) || child.try_wait().unwrap().is_some();
            if over || said.contains(marker) {
                break said;
            }
            std::thread::sleep(Duration::from_millis(200));
        };
        let _ = child.kill();
        let _ = child.wait();
        said
    }
}

pub(super) fn request(firmware: Firmware, payload: BTreeMap<String, Vec<u8>>) -> Request {
    Request {
        hardware: Hardware {
            name: "kvm".to_owned(),
            parts: Vec::new(),
            nics: Vec::new(),
            serial: None,
            hypervisor: None,
            sector_size: None,
        },
        firmware: Some(firmware),
        nics: BTreeMap::new(),
        identity: Identity::Move,
        secure_boot: SecureBoot::Keep,
        sign_key: None,
        payload,
        seed: [7; 32],
        now: 1_795_545_610,
    }
}

/// A menu that says where it was read, on the serial port, and starts no kernel.
pub(super) fn menu(nonce: &str, more: &str) -> String {
    format!(
        "if [ \"$grub_platform\" = pc ]; then\n  insmod serial\n  serial --unit=0 --speed=115200\n  terminal_output serial\nfi\n\
         insmod part_gpt\ninsmod ext2\ninsmod all_video\nset root='hd0,msdos1'\nsearch --no-floppy --fs-uuid --set=root {ROOT}\n{more}\n\
         if [ -f /boot/proof ]; then\n  echo \"{nonce} $grub_platform $prefix end\"\nfi\nsleep 600\n"
    )
}

/// A disk with a BIOS guest: root, swap behind it in an extended partition, as Debian's installer makes it.
pub(super) fn bios_guest(nonce: &str) -> Machine {
    let script = "label: dos\nlabel-id: 0x1234abcd\nstart=2048, size=200M, type=83, bootable\nstart=413694, size=610306, type=5\n\
                  start=413696, size=608256, type=82\n";
    let machine = Machine::new(Firmware::Bios, 500 * MIB, script, 1, &[]);
    machine.put("boot/proof", "");
    machine.put("boot/grub/grub.cfg", menu(nonce, ""));
    machine.put(
        "etc/fstab",
        format!("PARTUUID=1234abcd-01 / ext4 errors=remount-ro 0 1\nUUID={SWAP} none swap sw 0 0\n"),
    );
    machine.seal();
    machine
}

/// An entry for tests of menus.
pub(super) fn entry(title: &str, kernel: &str, style: &str) -> BootEntry {
    BootEntry {
        file: "/boot/loader/entries/one.conf".to_owned(),
        lines: None,
        style: style.to_owned(),
        title: title.to_owned(),
        kernel: Some(kernel.to_owned()),
        initramfs: vec![format!("{kernel}.initrd")],
        arguments: vec![format!("root=UUID={ROOT}"), "quiet".to_owned()],
        default: true,
    }
}

pub(super) fn partition_file(machine: &Machine, role: Role) -> (PathBuf, u64) {
    let table = machine.layout().table;
    let partition = table.partitions.iter().find(|one| one.role == role).unwrap();
    (machine.extract(partition.start, partition.len), partition.start)
}

pub(super) fn exists(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}
