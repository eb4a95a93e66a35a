// SPDX-License-Identifier: Apache-2.0
//! A real Debian initramfs that knows virtio disks only, made to find its root on other controllers by the drivers that
//! `unmoor_inject_drivers` puts behind it. The appliance is the guest: its initramfs was made for virtio-blk.

use crate::lab::hardware::{Bus, Chipset, Firmware};
use crate::lab::qemu::{Disk, Kernel, Machine, Writes};
use crate::lab::{Scratch, appliance, read_text};
use crate::run::{Failure, Result, While, run};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use unmoor_convert::files::Directory;
use unmoor_convert::inspection::{self, Inspection, Layer};
use unmoor_convert::plan::{Change, Draft};
use unmoor_convert::request::{Hardware, Identity, Part, Purpose, Request, SecureBoot};
use unmoor_images::manifest::Firmware as GuestFirmware;

/// Controllers of QEMU's, and how their disks show: the driver is a module of Debian's kernel, and not in the initramfs.
const CONTROLLERS: [(&str, Bus, &str); 3] = [
    ("nvme", Bus::Nvme, "pci:v00001B36d00000010sv00001AF4sd00001100bc01sc08i02"),
    ("ahci", Bus::Ahci, "pci:v00008086d00002922sv00001AF4sd00001100bc01sc06i01"),
    ("megasas", Bus::Megasas, "pci:v00001000d00000060sv00001000sd00001013bc01sc04i00"),
];

/// The names of the controllers.
pub(crate) fn controllers() -> impl Iterator<Item = &'static str> {
    CONTROLLERS.iter().map(|(name, _, _)| *name)
}

/// Boots the appliance from a disk on that controller: without the drivers it must not find its root, with them it must.
pub(crate) fn boot(controller: &str) -> Result {
    let (_, bus, modalias) = CONTROLLERS
        .iter()
        .find(|(name, _, _)| *name == controller)
        .ok_or_else(|| Failure::new(format!("there is no controller {controller}")))?;
    let scratch = Scratch::new("drivers")?;
    let guest = guest(scratch.path())?;
    let initramfs = guest.join("boot/initrd.img");
    if start(scratch.path(), *bus, &initramfs).is_ok() {
        return Err(Failure::new(format!(
            "the appliance boots from {controller} as it is, which proves nothing"
        )));
    }
    inject(&guest, modalias)?;
    start(scratch.path(), *bus, &initramfs)
}

/// A directory with what is read of the guest: its initramfs and its modules.
fn guest(folder: &Path) -> Result<PathBuf> {
    let appliance = appliance::built()?;
    let guest = folder.join("guest");
    for name in ["boot", "usr/lib"] {
        let path = guest.join(name);
        std::fs::create_dir_all(&path).while_doing(format_args!("creating {}", path.display()))?;
    }
    let to = guest.join("boot/initrd.img");
    std::fs::copy(appliance.join("initrd.img"), &to)
        .while_doing(format_args!("copying to {}", to.display()))?;
    let dump = format!("rdump /usr/lib/modules {}", guest.join("usr/lib").display());
    run(Command::new("debugfs").args(["-R", &dump]).arg(appliance.join("appliance.raw")))?;
    Ok(guest)
}

/// Adds the drivers of one disk controller, and says how long it took.
fn inject(guest: &Path, modalias: &str) -> Result {
    let failed = |error: unmoor_images::Error| Failure::new(error.chain());
    let modules = guest.join("usr/lib/modules");
    let release = std::fs::read_dir(&modules)
        .while_doing(format_args!("listing {}", modules.display()))?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .next()
        .ok_or_else(|| Failure::new("the appliance has no modules"))?;
    let directory = Directory::open(guest).map_err(failed)?;
    let (inspection, request) = (inspection(&release), request(modalias));
    let start = Instant::now();
    let mut draft = Draft::new(&directory);
    unmoor_inject_drivers::inject(&mut draft, &inspection, &request).map_err(failed)?;
    let plan = draft.finish();
    println!("    planned in {:.0} ms", start.elapsed().as_secs_f64() * 1000.0);
    let [edit] = plan.edits.as_slice() else {
        return Err(Failure::new(format!("not one edit, but {}: {:?}", plan.edits.len(), plan.findings)));
    };
    let Change::Append { content, .. } = &edit.change else {
        return Err(Failure::new(format!("{} is not appended to", edit.path)));
    };
    for reason in &edit.reasons {
        println!("    {} bytes: {}", content.bytes().len(), reason.why);
    }
    let path = guest.join(edit.path.trim_start_matches('/'));
    let mut image = std::fs::read(&path).while_doing(format_args!("reading {}", path.display()))?;
    image.extend_from_slice(content.bytes());
    std::fs::write(&path, image).while_doing(format_args!("writing {}", path.display()))
}

/// Boots the appliance's disk on a bus; fails where its init does not come to run.
fn start(folder: &Path, bus: Bus, initramfs: &Path) -> Result {
    let appliance = appliance::built()?;
    let disk = Disk::new(&appliance.join("appliance.raw"), "appliance", Writes::Dropped);
    let mut machine = Machine::new(Chipset::Q35, Firmware::Bios, bus, vec![disk]);
    machine.kernel = Some(Kernel {
        image: appliance.join("vmlinuz"),
        initramfs: initramfs.to_owned(),
        // A root that is not found makes init stop at once, and the kernel reboot, which ends the machine.
        command_line:
            "root=LABEL=appliance ro console=ttyS0 quiet no_timer_check panic=-1 rootdelay=12 init=/lab/init"
                .to_owned(),
    });
    machine.messages = vec![("job".to_owned(), "findmnt -no SOURCE /\n".to_owned())];
    machine.run(folder, Duration::from_secs(240))?;
    let console = read_text(&folder.join("console"))?;
    if console.lines().any(|line| line.trim_end() == "LAB-STATUS 0") {
        return Ok(());
    }
    let lines: Vec<&str> = console.lines().collect();
    let tail = lines.get(lines.len().saturating_sub(20)..).unwrap_or_default().join("\n");
    Err(Failure::new(format!("the machine did not come up:\n{tail}")))
}

fn inspection(release: &str) -> Inspection {
    Inspection {
        system: inspection::System::default(),
        firmware: GuestFirmware::Bios,
        root: vec![
            Layer::Disk { disk: 0 },
            Layer::Filesystem { kind: "ext4".to_owned(), uuid: None, subvolume: None },
        ],
        kernels: vec![inspection::Kernel {
            release: release.to_owned(),
            image: Some("/boot/vmlinuz".to_owned()),
            modules: Some(format!("/usr/lib/modules/{release}")),
            initramfs: vec![inspection::Initramfs {
                path: "/boot/initrd.img".to_owned(),
                made_by: "initramfs-tools".to_owned(),
                host_only: true,
                compression: Vec::new(),
                broken: None,
                size: 0,
            }],
            config: None,
            bootable: true,
            special: None,
        }],
        boot: inspection::Boot::default(),
        fstab: Vec::new(),
        crypttab: Vec::new(),
        resume: Vec::new(),
        lvm: inspection::Lvm::default(),
        md_arrays: Vec::new(),
        multipath: false,
        network: inspection::Network::default(),
        tools: Vec::new(),
        consoles: Vec::new(),
        identity: inspection::IdentityFiles::default(),
        notes: Vec::new(),
    }
}

fn request(modalias: &str) -> Request {
    let part = Part {
        modalias: modalias.to_owned(),
        purpose: Purpose::Disk,
        name: "the disk's controller".to_owned(),
        certain: true,
    };
    Request {
        hardware: Hardware {
            name: "lab".to_owned(),
            parts: vec![part],
            nics: Vec::new(),
            serial: None,
            hypervisor: None,
            sector_size: None,
        },
        firmware: None,
        nics: std::collections::BTreeMap::new(),
        identity: Identity::Move,
        secure_boot: SecureBoot::Keep,
        sign_key: None,
        payload: std::collections::BTreeMap::new(),
        seed: [0; 32],
        now: 0,
    }
}
