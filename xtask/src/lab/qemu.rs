// SPDX-License-Identifier: Apache-2.0
//! Machines: chosen hardware around disks, run in QEMU with its serial ports in files and a time limit.

use crate::lab::stall::Watch;
use crate::run::{Failure, Result, While};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Guests that run at once: each takes two processors' worth of translation while it boots.
const GUESTS_AT_ONCE: usize = 2;

/// How often a machine is started that stands still (see [`Watch`]).
const STARTS: usize = 3;

/// How a run ended.
enum Outcome {
    PoweredOff,
    Stalled,
}

/// A plain processor, because for each feature of a newer one the guest loads modules that it then runs emulated; and an AMD,
/// because isolating page tables, which Intel's of that age need against Meltdown, is what emulation does slowest.
const PROCESSOR: &str = "qemu64,+ssse3,+sse4.1,+sse4.2,+popcnt";

/// How disks are attached.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub(crate) enum Bus {
    /// SATA on an AHCI controller
    Ahci,
    /// virtio-blk on PCI
    Virtio,
    /// virtio-scsi on PCI
    VirtioScsi,
    /// NVMe
    Nvme,
    /// LSI MegaRAID SAS
    Megasas,
    /// LSI Fusion MPT SAS 1068
    Mptsas,
    /// VMware paravirtual SCSI
    Pvscsi,
    /// USB mass storage
    Usb,
}

impl Bus {
    /// The controller that disks of this bus hang on, where they need one.
    fn controller(self) -> Option<&'static str> {
        match self {
            Self::Ahci => Some("ich9-ahci,id=bus"),
            Self::VirtioScsi => Some("virtio-scsi-pci,id=bus"),
            Self::Megasas => Some("megasas,id=bus"),
            Self::Mptsas => Some("mptsas1068,id=bus"),
            Self::Pvscsi => Some("pvscsi,id=bus"),
            Self::Usb => Some("qemu-xhci,id=bus"),
            Self::Virtio | Self::Nvme => None,
        }
    }

    fn device(self, index: usize) -> String {
        match self {
            Self::Ahci => format!("ide-hd,bus=bus.{index}"),
            Self::Virtio => "virtio-blk-pci".to_owned(),
            Self::Nvme => "nvme".to_owned(),
            Self::Usb => "usb-storage,bus=bus.0".to_owned(),
            Self::VirtioScsi | Self::Megasas | Self::Mptsas | Self::Pvscsi => {
                format!("scsi-hd,bus=bus.0,scsi-id={index}")
            }
        }
    }
}

/// A board of QEMU's.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub(crate) enum Chipset {
    /// i440FX of 1996
    Pc,
    /// Q35 of 2009, with PCI Express
    Q35,
}

/// What the machine boots with.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub(crate) enum Firmware {
    /// SeaBIOS
    Bios,
    /// OVMF without Secure Boot, with empty variables
    Uefi,
}

/// Whether what the machine writes stays.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Writes {
    /// They go into the file.
    Kept,
    /// They are thrown away when the machine stops.
    Dropped,
}

/// A disk of a machine.
#[derive(Clone, Debug)]
pub(crate) struct Disk {
    /// The file that holds it.
    pub(crate) path: PathBuf,
    /// QEMU's name of its format.
    pub(crate) format: &'static str,
    /// The serial number that the guest sees.
    pub(crate) serial: &'static str,
    /// What happens to writes.
    pub(crate) writes: Writes,
    /// The logical sector size, in bytes.
    pub(crate) sector: u32,
}

impl Disk {
    /// A disk with 512-byte sectors; its format follows from the file's name.
    pub(crate) fn new(path: &Path, serial: &'static str, writes: Writes) -> Self {
        let format = if path.extension().is_some_and(|name| name == "qcow2") { "qcow2" } else { "raw" };
        Self { path: path.to_owned(), format, serial, writes, sector: 512 }
    }
}

/// A kernel that QEMU loads itself, without firmware and boot loader of the disk.
#[derive(Clone, Debug)]
pub(crate) struct Kernel {
    pub(crate) image: PathBuf,
    pub(crate) initramfs: PathBuf,
    pub(crate) command_line: String,
}

/// A machine to run.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    pub(crate) chipset: Chipset,
    pub(crate) firmware: Firmware,
    pub(crate) bus: Bus,
    /// The network adapter's QEMU device, on a network that leads nowhere but to QEMU's own DHCP server.
    pub(crate) nic: Option<String>,
    pub(crate) memory_mib: u32,
    pub(crate) disks: Vec<Disk>,
    pub(crate) kernel: Option<Kernel>,
    /// Texts for the guest: it finds NAME at /sys/firmware/qemu_fw_cfg/by_name/opt/unmoor/NAME/raw.
    pub(crate) messages: Vec<(String, String)>,
    /// A virtio-serial port `lab.result`, whose bytes end up in the file `result`.
    pub(crate) result_port: bool,
}

impl Machine {
    /// A machine with these disks and nothing unusual.
    pub(crate) fn new(chipset: Chipset, firmware: Firmware, bus: Bus, disks: Vec<Disk>) -> Self {
        Self {
            chipset,
            firmware,
            bus,
            nic: None,
            memory_mib: 1024,
            disks,
            kernel: None,
            messages: Vec::new(),
            result_port: false,
        }
    }

    /// Runs the machine until it powers itself off, at most `limit`. `directory` receives `console` (first serial
    /// port), `proof` (second) and `result`.
    pub(crate) fn run(&self, directory: &Path, limit: Duration) -> Result {
        let _turn = Turn::wait();
        for _ in 1..STARTS {
            match self.run_once(directory, limit)? {
                Outcome::PoweredOff => return Ok(()),
                Outcome::Stalled => {
                    println!(
                        "a machine stood still for minutes and is started again: {}",
                        directory.display()
                    );
                }
            }
        }
        match self.run_once(directory, limit)? {
            Outcome::PoweredOff => Ok(()),
            Outcome::Stalled => Err(Failure::new(format!(
                "the machine stood still {STARTS} times; its console ends with:\n{}",
                tail(&directory.join("console"))
            ))),
        }
    }

    fn run_once(&self, directory: &Path, limit: Duration) -> Result<Outcome> {
        let mut command = self.command(directory)?;
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let errors = std::fs::File::create(directory.join("qemu.log")).while_doing("creating qemu.log")?;
        command.stderr(errors);
        die_with_parent(&mut command);
        let mut running = Running(command.spawn().while_doing("starting qemu-system-x86_64")?);
        let start = Instant::now();
        let mut watch = Watch::new(running.0.id(), directory);
        loop {
            if let Some(status) = running.0.try_wait().while_doing("waiting for QEMU")? {
                if status.success() {
                    return Ok(Outcome::PoweredOff);
                }
                return Err(Failure::new(format!(
                    "QEMU failed: {status}: {}",
                    tail(&directory.join("qemu.log"))
                )));
            }
            if start.elapsed() > limit {
                let seconds = limit.as_secs();
                let console = tail(&directory.join("console"));
                return Err(Failure::new(format!(
                    "the machine did not power off within {seconds} s; its console ends with:\n{console}"
                )));
            }
            if watch.has_stalled() {
                return Ok(Outcome::Stalled);
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn command(&self, directory: &Path) -> Result<Command> {
        let mut command = Command::new("qemu-system-x86_64");
        // TCG even where /dev/kvm opens: on some hosts a guest never gets to its first instruction there.
        command.args(["-accel", "tcg,thread=multi", "-smp", "2", "-cpu", PROCESSOR, "-no-reboot"]);
        command.args(["-nodefaults", "-display", "none", "-m", &self.memory_mib.to_string()]);
        command.args(["-machine", if self.chipset == Chipset::Pc { "pc" } else { "q35" }]);
        if self.kernel.is_none() {
            command.args(["-device", "VGA"]);
        }
        for port in ["console", "proof"] {
            command.arg("-serial").arg(file_option("file:", &directory.join(port), ""));
        }
        if self.firmware == Firmware::Uefi {
            let variables = directory.join("variables.fd");
            copy("/usr/share/OVMF/OVMF_VARS_4M.fd".as_ref(), &variables)?;
            let code = "if=pflash,format=raw,readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.fd";
            command.args(["-drive", code, "-drive"]);
            command.arg(file_option("if=pflash,format=raw,file=", &variables, ""));
        }
        if let Some(kernel) = &self.kernel {
            command.arg("-kernel").arg(&kernel.image).arg("-initrd").arg(&kernel.initramfs);
            command.args(["-append", &kernel.command_line]);
        }
        if let Some(nic) = &self.nic {
            // A fixed slot, so that the adapter's name in the guest stays the same from build to boot.
            command.args(["-netdev", "user,id=net,restrict=on", "-device"]);
            command.arg(format!("{nic},netdev=net,addr=3"));
        }
        if self.result_port {
            command.args(["-device", "virtio-serial-pci", "-chardev"]);
            command.arg(file_option("file,id=result,path=", &directory.join("result"), ""));
            command.args(["-device", "virtserialport,chardev=result,name=lab.result"]);
        }
        if let Some(controller) = self.bus.controller() {
            command.args(["-device", controller]);
        }
        for (index, disk) in self.disks.iter().enumerate() {
            let Disk { format, serial, sector, .. } = disk;
            let snapshot = if disk.writes == Writes::Dropped { ",snapshot=on" } else { "" };
            // `unsafe` ignores flushes: nothing outlives a crash of the host, and nothing needs to.
            let options =
                format!(",format={format},if=none,id=disk{index},cache=unsafe,discard=unmap{snapshot}");
            command.arg("-drive").arg(file_option("file=", &disk.path, &options));
            let device = self.bus.device(index);
            let sectors = format!("logical_block_size={sector},physical_block_size={sector}");
            command.args(["-device", &format!("{device},drive=disk{index},serial={serial},{sectors}")]);
        }
        for (name, text) in &self.messages {
            let path = directory.join(format!("message-{}", name.replace('/', "-")));
            std::fs::write(&path, text).while_doing(format_args!("writing {}", path.display()))?;
            command.arg("-fw_cfg").arg(file_option(&format!("name=opt/unmoor/{name},file="), &path, ""));
        }
        Ok(command)
    }
}

/// An option of QEMU's that holds a path: a comma inside the path is written twice.
fn file_option(before: &str, path: &Path, after: &str) -> String {
    format!("{before}{}{after}", path.to_string_lossy().replace(',', ",,"))
}

fn copy(from: &Path, to: &Path) -> Result {
    std::fs::copy(from, to)
        .while_doing(format_args!("copying {} to {}", from.display(), to.display()))
        .map(drop)
}

/// The last lines of a file, for messages.
fn tail(path: &Path) -> String {
    let bytes = std::fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    lines.iter().skip(lines.len().saturating_sub(15)).copied().collect::<Vec<_>>().join("\n")
}

/// Has the kernel kill the process when the thread that started it ends, however it ends.
fn die_with_parent(command: &mut Command) {
    use std::os::unix::process::CommandExt;
    // SAFETY: between fork and exec only async-signal-safe functions may run: prctl is one system call.
    unsafe {
        command.pre_exec(|| {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            Ok(())
        });
    }
}

/// A machine that runs: killed when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only when the process is gone already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// One of the [`GUESTS_AT_ONCE`] places.
struct Turn;

static RUNNING: Mutex<usize> = Mutex::new(0);
static ENDED: Condvar = Condvar::new();

impl Turn {
    fn wait() -> Self {
        let running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        let mut running = ENDED
            .wait_while(running, |running| *running >= GUESTS_AT_ONCE)
            .unwrap_or_else(PoisonError::into_inner);
        *running += 1;
        Self
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        *RUNNING.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        ENDED.notify_one();
    }
}
