// SPDX-License-Identifier: Apache-2.0
//! Machines: chosen hardware around disks, run in QEMU with its serial ports in files and a time limit.

use crate::lab::hardware::{Bus, Chipset, Firmware, Nic};
use crate::run::{Failure, Result, While};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Machines that run at once: each takes two processors' worth of translation while it boots. `UNMOOR_LAB_MACHINES` says
/// another number.
const MACHINES_AT_ONCE: usize = 2;

/// A plain processor, because for each feature of a newer one the guest loads modules that it then runs emulated; and an AMD,
/// because isolating page tables, which Intel's of that age need against Meltdown, is what emulation does slowest.
const PROCESSOR: &str = "qemu64,+ssse3,+sse4.1,+sse4.2,+popcnt";

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

/// Where a machine's adapters are plugged in.
#[derive(Clone, Debug)]
pub(crate) struct Plugged {
    /// The network namespace that QEMU runs in.
    pub(crate) namespace: String,
    /// The tap device of each adapter.
    pub(crate) taps: Vec<String>,
}

/// A machine to run.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    pub(crate) chipset: Chipset,
    pub(crate) firmware: Firmware,
    pub(crate) bus: Bus,
    /// The network adapters, each on a network of its own that leads nowhere but to QEMU's own DHCP server, or on `bridge`.
    pub(crate) nics: Vec<Nic>,
    /// Where its adapters are plugged in; then it starts from the network first, and a restart is no end.
    pub(crate) bridge: Option<Plugged>,
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
            nics: Vec::new(),
            bridge: None,
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
        self.start(directory)?.wait(limit).map(drop)
    }

    /// Switches the machine on; it is switched off when what is returned is dropped. `directory` as for [`run`](Self::run).
    pub(crate) fn start(&self, directory: &Path) -> Result<Running> {
        let turn = Turn::wait();
        let mut command = self.command(directory)?;
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let errors = std::fs::File::create(directory.join("qemu.log")).while_doing("creating qemu.log")?;
        command.stderr(errors);
        die_with_parent(&mut command);
        let child = command.spawn().while_doing("starting qemu-system-x86_64")?;
        Ok(Running { child, directory: directory.to_owned(), since: Instant::now(), _turn: turn })
    }

    /// QEMU's name of the board, with what the firmware asks of it.
    fn board(&self) -> &'static str {
        match (self.chipset, self.firmware) {
            (Chipset::Pc, _) => "pc",
            (Chipset::Q35, Firmware::SecureBoot) => "q35,smm=on",
            (Chipset::Q35, _) => "q35",
        }
    }

    fn command(&self, directory: &Path) -> Result<Command> {
        let mut command = match &self.bridge {
            // It becomes QEMU, so that its process is QEMU's.
            Some(Plugged { namespace, .. }) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", namespace, "qemu-system-x86_64"]);
                command
            }
            None => Command::new("qemu-system-x86_64"),
        };
        // TCG even where /dev/kvm opens: on some hosts a guest never gets to its first instruction there.
        command.args(["-accel", "tcg,thread=multi", "-smp", "2", "-cpu", PROCESSOR]);
        if self.bridge.is_none() {
            command.arg("-no-reboot");
        }
        command.args(["-nodefaults", "-display", "none", "-m", &self.memory_mib.to_string()]);
        command.args(["-machine", self.board()]);
        if self.kernel.is_none() {
            command.args(["-device", "VGA"]);
        }
        for port in ["console", "proof"] {
            command.arg("-serial").arg(file_option("file:", &directory.join(port), ""));
        }
        if let Some((code, new_variables)) = self.firmware.files() {
            let variables = directory.join("variables.fd");
            copy(new_variables.as_ref(), &variables)?;
            if self.firmware == Firmware::SecureBoot {
                // Only code in system management mode may write the variables that say what is trusted.
                command.args(["-global", "driver=cfi.pflash01,property=secure,value=on"]);
            }
            command.args(["-drive", &format!("if=pflash,format=raw,readonly=on,file={code}"), "-drive"]);
            command.arg(file_option("if=pflash,format=raw,file=", &variables, ""));
        }
        if let Some(kernel) = &self.kernel {
            command.arg("-kernel").arg(&kernel.image).arg("-initrd").arg(&kernel.initramfs);
            command.args(["-append", &kernel.command_line]);
        }
        for (index, nic) in self.nics.iter().enumerate() {
            let tap = self.bridge.as_ref().and_then(|bridge| bridge.taps.get(index));
            let (network, order) = match tap {
                Some(tap) => (
                    format!("tap,id=net{index},ifname={tap},script=no,downscript=no"),
                    format!(",bootindex={index}"),
                ),
                None => (format!("user,id=net{index},restrict=on"), String::new()),
            };
            command.args(["-netdev", &network, "-device"]);
            command.arg(format!("{},netdev=net{index}{order}", nic.device()));
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
            // Behind the adapters.
            let order =
                self.bridge.as_ref().map(|_| format!(",bootindex={}", 10 + index)).unwrap_or_default();
            command
                .args(["-device", &format!("{device},drive=disk{index},serial={serial},{sectors}{order}")]);
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
pub(crate) fn tail(path: &Path, count: usize) -> String {
    let bytes = std::fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    lines.iter().skip(lines.len().saturating_sub(count)).copied().collect::<Vec<_>>().join("\n")
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
pub(crate) struct Running {
    child: Child,
    directory: PathBuf,
    since: Instant,
    _turn: Turn,
}

impl Running {
    /// Waits until it has powered itself off, at most `limit` after it was switched on; how long that took.
    pub(crate) fn wait(mut self, limit: Duration) -> Result<Duration> {
        while !self.has_ended()? {
            if self.since.elapsed() > limit {
                let seconds = limit.as_secs();
                let console = self.console(15);
                return Err(Failure::new(format!(
                    "the machine did not power off within {seconds} s; its console ends with:\n{console}"
                )));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(self.since.elapsed())
    }

    /// Whether it has powered itself off; fails where QEMU did.
    pub(crate) fn has_ended(&mut self) -> Result<bool> {
        match self.child.try_wait().while_doing("waiting for QEMU")? {
            None => Ok(false),
            Some(status) if status.success() => Ok(true),
            Some(status) => {
                let said = tail(&self.directory.join("qemu.log"), 15);
                Err(Failure::new(format!("QEMU failed: {status}: {said}")))
            }
        }
    }

    /// The last lines of its console.
    pub(crate) fn console(&self, lines: usize) -> String {
        tail(&self.directory.join("console"), lines)
    }

    /// Since it was switched on.
    pub(crate) fn elapsed(&self) -> Duration {
        self.since.elapsed()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only when the process is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One of the [`MACHINES_AT_ONCE`] places.
struct Turn;

static RUNNING: Mutex<usize> = Mutex::new(0);
static ENDED: Condvar = Condvar::new();

impl Turn {
    fn wait() -> Self {
        let said = std::env::var("UNMOOR_LAB_MACHINES").ok().and_then(|number| number.parse().ok());
        let most = said.unwrap_or(MACHINES_AT_ONCE).max(1);
        let running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        let mut running =
            ENDED.wait_while(running, |running| *running >= most).unwrap_or_else(PoisonError::into_inner);
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
