// SPDX-License-Identifier: Apache-2.0
//! The rescue environment booted: a job goes in and its answer comes out; a CD of it starts under BIOS and UEFI and finds its
//! address.

use crate::lab::{self, Scratch, read_text};
use crate::run::{Failure, Result, While, run};
use serde_json::{Value, json};
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The kernel and the boot loaders, as apt knows them here.
const KERNEL: &str = "linux-image-amd64";
const LOADERS: [&str; 5] =
    ["isolinux", "syslinux-common", "shim-signed", "shim-helpers-amd64-signed", "grub-efi-amd64-signed"];
const LIMIT: Duration = Duration::from_secs(600);
/// `small` with its kernel, in bytes.
const LARGEST: u64 = 40 << 20;
/// Modules of a kernel that every environment must be able to load.
const NEEDED: [&str; 9] =
    ["ext4", "xfs", "btrfs", "vfat", "dm_mod", "dm_crypt", "raid1", "loop", "crypto-xts"];

/// Builds with `unmoor`, which must be static, and boots.
pub(crate) fn check(unmoor: &Path) -> Result {
    let packages = packages()?;
    let scratch = Scratch::new("rescue")?;
    let folder = scratch.path();
    for profile in ["appliance", "small"] {
        let out = folder.join(profile);
        let built = build(unmoor, &packages, &["build", "--profile", profile, "--out"], &out)?;
        let size: u64 =
            ["kernel_size", "initramfs_size"].iter().filter_map(|name| built["facts"][name].as_u64()).sum();
        if profile == "small" && size > LARGEST {
            return Err(Failure::new(format!("kernel and initramfs have {size} bytes, more than {LARGEST}")));
        }
        let facts = job(folder, &out, &json!({ "job": "facts" }))?;
        let has = |list: &str, key: &str, wanted: &str| {
            facts[list].as_array().is_some_and(|list| list.iter().any(|row| row[key] == wanted))
        };
        if !has("disks", "serial", "DISK0") || facts["payload"].as_u64().is_none_or(|count| count == 0) {
            return Err(Failure::new(format!("the disk or the payload is not there: {facts}")));
        }
        let loaded = job(folder, &out, &json!({ "job": "load", "modules": NEEDED }))?;
        if loaded["missing"] != json!([]) {
            return Err(Failure::new(format!("modules cannot be loaded: {loaded}")));
        }
        println!("{profile}: {size} bytes; a disk, the payload, and all modules asked for");
    }
    let image = folder.join("rescue.iso");
    build(unmoor, &packages, &["iso", "--out"], &image)?;
    for uefi in [false, true] {
        boot_image(folder, &image, uefi)?;
        println!("the CD starts under {}, and has an address", if uefi { "UEFI" } else { "BIOS" });
    }
    Ok(())
}

/// A folder with the packages, downloaded where it is not there.
fn packages() -> Result<PathBuf> {
    downloaded("rescue-packages", &LOADERS)
}

/// A folder with packages and a kernel's, downloaded where it is not there.
pub(crate) fn downloaded(folder: &str, loaders: &[&str]) -> Result<PathBuf> {
    let depends = crate::run::output(Command::new("apt-cache").args(["depends", KERNEL]))?;
    let kernel = depends
        .lines()
        .find_map(|line| line.trim().strip_prefix("Depends: linux-image-"))
        .ok_or_else(|| Failure::new(format!("apt does not know what {KERNEL} depends on")))?;
    let kernel = format!("linux-image-{kernel}");
    let names: Vec<&str> = loaders.iter().copied().chain([kernel.as_str()]).collect();
    lab::cached(folder, &names, |directory| {
        run(Command::new("apt-get").arg("download").args(&names).current_dir(directory))
    })
}

fn build(unmoor: &Path, packages: &Path, arguments: &[&str], out: &Path) -> Result<Value> {
    let kernel = std::fs::read_dir(packages)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("linux-image-")))
        .ok_or_else(|| Failure::new("the kernel's package is not there"))?;
    let mut command = Command::new(unmoor);
    command.args(["--json", "rescue"]).args(arguments).arg(out).arg("--kernel").arg(kernel);
    command.arg("--payload").arg(packages).arg("--cache").arg(out.with_extension("cache"));
    Ok(serde_json::from_str(&crate::run::output(&mut command)?)?)
}

/// A machine of 512 MiB, its serial port in the file `console`.
fn machine(console: &Path) -> Command {
    let mut command = Command::new("qemu-system-x86_64");
    // TCG even where /dev/kvm opens: on some hosts a guest never gets to its first instruction there.
    command.args(["-accel", "tcg,thread=multi", "-smp", "2", "-m", "512", "-machine", "q35", "-nodefaults"]);
    command.args(["-cpu", "qemu64,+ssse3,+sse4.1,+sse4.2,+popcnt", "-display", "none", "-no-reboot"]);
    command.arg("-serial").arg(format!("file:{}", console.display()));
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command
}

/// Killed when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Boots the environment, hands in a job; its result.
fn job(folder: &Path, environment: &Path, job: &Value) -> Result<Value> {
    let (console, socket, disk) = (folder.join("console"), folder.join("job"), folder.join("disk.raw"));
    let _ = std::fs::remove_file(&socket);
    let listener = UnixListener::bind(&socket).while_doing("opening a socket")?;
    File::create(&disk)?.set_len(64 << 20)?;
    let mut command = machine(&console);
    command.arg("-kernel").arg(environment.join("vmlinuz")).arg("-initrd").arg(environment.join("initramfs"));
    command
        .args(["-append", "console=ttyS0 quiet no_timer_check panic=-1 unmoor.appliance unmoor.patience=0"]);
    command
        .args(["-device", "virtio-serial-pci", "-chardev"])
        .arg(format!("socket,id=job,path={}", socket.display()));
    command.args(["-device", "virtserialport,chardev=job,name=unmoor.0", "-drive"]);
    command.arg(format!("file={},format=raw,if=none,id=disk", disk.display()));
    command.args(["-device", "virtio-blk-pci,drive=disk,serial=DISK0"]);
    let mut running = Running(command.spawn().while_doing("starting qemu-system-x86_64")?);
    let (mut stream, _) = listener.accept().while_doing("waiting for QEMU")?;
    stream.set_read_timeout(Some(LIMIT))?;
    writeln!(stream, "{job}")?;
    for line in BufReader::new(stream).lines() {
        let said: Value = serde_json::from_str(&line.while_doing("waiting for an answer")?)?;
        if said["event"] == "ready" {
            println!(
                "PID 1 began {} s after the kernel and was ready at {} s",
                said["started"], said["ready"]
            );
        }
        if let Some(result) = said.get("result") {
            let status = running.0.wait().while_doing("waiting for QEMU")?;
            return if status.success() {
                Ok(result.clone())
            } else {
                Err(Failure::new(format!("QEMU: {status}")))
            };
        }
        if let Some(error) = said.get("error") {
            return Err(Failure::new(format!("the job failed: {error}")));
        }
    }
    Err(Failure::new(format!("there was no answer; the console says:\n{}", read_text(&console)?)))
}

/// Boots the CD until it has an address from QEMU's DHCP server.
fn boot_image(folder: &Path, image: &Path, uefi: bool) -> Result {
    let console = folder.join("console");
    File::create(&console)?;
    let mut command = machine(&console);
    if uefi {
        let variables = folder.join("variables.fd");
        std::fs::copy("/usr/share/OVMF/OVMF_VARS_4M.fd", &variables)
            .while_doing("copying OVMF's variables")?;
        command.args([
            "-drive",
            "if=pflash,format=raw,readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.fd",
            "-drive",
        ]);
        command.arg(format!("if=pflash,format=raw,file={}", variables.display()));
    }
    command.arg("-cdrom").arg(image).args(["-device", "VGA", "-netdev", "user,id=net,restrict=on"]);
    command.args(["-device", "e1000e,netdev=net,romfile="]);
    let _running = Running(command.spawn().while_doing("starting qemu-system-x86_64")?);
    let start = Instant::now();
    while start.elapsed() < LIMIT {
        if read_text(&console)?.contains("has the address 10.0.2.15") {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(500));
    }
    Err(Failure::new(format!("the CD does not start; the console says:\n{}", read_text(&console)?)))
}
