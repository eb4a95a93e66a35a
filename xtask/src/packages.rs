// SPDX-License-Identifier: Apache-2.0
//! The Debian packages that the commands need, and their installation through apt on Debian and Ubuntu.

use crate::run::{Failure, Result, While, as_root, installed, output, run};
use crate::{browser, lab, s3_server};
use std::fs;
use std::process::Command;

/// What a set of packages is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// Compiling the workspace, C parts of dependencies included.
    Build,
    /// The tests of the crates: real mkfs, checkers and independent readers.
    Tests,
    /// Building and booting guests.
    Lab,
    /// What unmoor is measured against.
    Bench,
    /// The web page in a browser, which takes minutes beside other tests.
    Browser,
}

/// One row: the package, and what needs it. New tests add their packages here.
const PACKAGES: &[(&str, &[Need])] = &[
    ("gcc", &[Need::Build]),
    ("libc6-dev", &[Need::Build]),
    ("qemu-utils", &[Need::Tests, Need::Lab, Need::Bench]),
    ("qemu-system-x86", &[Need::Tests, Need::Lab]),
    ("seabios", &[Need::Tests, Need::Lab]),
    ("libvirt-clients", &[Need::Tests]),
    ("ovmf", &[Need::Tests, Need::Lab]),
    ("grub-common", &[Need::Tests]),
    ("grub-pc-bin", &[Need::Tests]),
    ("grub-efi-amd64-bin", &[Need::Tests]),
    ("efibootmgr", &[Need::Tests]),
    ("libxml2-utils", &[Need::Tests]),
    ("ipxe-qemu", &[Need::Lab]),
    ("iputils-ping", &[Need::Lab]),
    ("mmdebstrap", &[Need::Lab]),
    ("debian-archive-keyring", &[Need::Lab]),
    ("e2fsprogs", &[Need::Tests, Need::Lab, Need::Bench]),
    ("xfsprogs", &[Need::Tests, Need::Bench]),
    ("btrfs-progs", &[Need::Tests, Need::Bench]),
    ("dosfstools", &[Need::Tests]),
    ("mtools", &[Need::Tests]),
    ("ntfs-3g", &[Need::Tests]),
    ("exfatprogs", &[Need::Tests]),
    ("exfat-fuse", &[Need::Tests]),
    ("fuse3", &[Need::Tests]),
    ("gdisk", &[Need::Tests]),
    ("fdisk", &[Need::Tests]),
    ("parted", &[Need::Tests]),
    ("lvm2", &[Need::Tests]),
    ("mdadm", &[Need::Tests]),
    ("cryptsetup-bin", &[Need::Tests]),
    ("thin-provisioning-tools", &[Need::Tests]),
    ("xorriso", &[Need::Tests]),
    ("attr", &[Need::Tests]),
    ("patch", &[Need::Tests]),
    ("systemd", &[Need::Tests]),
    ("python3-yaml", &[Need::Tests]),
    ("user-mode-linux", &[Need::Tests]),
    ("libvhdi-utils", &[Need::Tests]),
    ("curl", &[Need::Tests]),
    ("atftp", &[Need::Tests]),
    ("tftp-hpa", &[Need::Tests]),
    ("udhcpc", &[Need::Tests]),
    ("dnsmasq-base", &[Need::Tests, Need::Lab]),
    ("partclone", &[Need::Tests, Need::Bench]),
    ("zstd", &[Need::Tests, Need::Bench]),
    ("virt-v2v", &[Need::Bench]),
    ("nbdkit", &[Need::Bench]),
    ("restic", &[Need::Bench]),
    ("fio", &[Need::Bench]),
    ("borgbackup", &[Need::Bench]),
    ("cpio", &[Need::Tests, Need::Bench]),
    ("xz-utils", &[Need::Tests]),
    ("lz4", &[Need::Tests]),
    ("bzip2", &[Need::Tests]),
    ("gzip", &[Need::Tests]),
    ("diffutils", &[Need::Tests]),
    ("procps", &[Need::Tests]),
    ("kmod", &[Need::Tests]),
    ("initramfs-tools-core", &[Need::Tests]),
    ("binutils", &[Need::Tests]),
    ("systemd-boot-efi", &[Need::Tests]),
    ("sbsigntool", &[Need::Tests]),
    ("openssl", &[Need::Tests]),
    ("libnbd-bin", &[Need::Tests]),
    ("python3-libnbd", &[Need::Tests]),
    ("nbd-client", &[Need::Tests]),
    ("fio", &[Need::Tests]),
    ("iproute2", &[Need::Tests, Need::Lab]),
    ("chromium", &[Need::Browser]),
    ("python3-venv", &[Need::Tests, Need::Bench]),
];

/// Packages of the tests whose files are wanted and whose installation is not: it would put another boot loader on the EFI system
/// partition of the machine that tests (their postinst runs grub-install).
const UNPACKED: [&str; 3] = ["grub-efi-amd64-signed", "shim-signed", "shim-helpers-amd64-signed"];

/// Installs what is missing for `needs`, saying what. Does nothing, quietly, when nothing is missing.
pub(crate) fn require(needs: &[Need]) -> Result {
    install(needs)?;
    if needs.contains(&Need::Tests) || needs.contains(&Need::Bench) {
        s3_server::install()?;
    }
    if needs.contains(&Need::Browser) {
        browser::install()?;
    }
    if needs.contains(&Need::Tests) { unpack() } else { Ok(()) }
}

/// Unpacks each of [`UNPACKED`] into the lab's directory `boot-loaders/PACKAGE`, where the tests look for them.
fn unpack() -> Result {
    let place = lab::directory()?.join("boot-loaders");
    fs::create_dir_all(&place).while_doing(format_args!("creating {}", place.display()))?;
    let lock = place.join("lock");
    let lock = fs::File::create(&lock).while_doing(format_args!("creating {}", lock.display()))?;
    lock.lock().while_doing("waiting for another download")?;
    let missing: Vec<&str> = UNPACKED.into_iter().filter(|package| !place.join(package).exists()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    println!("unpacking Debian packages: {}", missing.join(" "));
    update();
    for package in missing.into_iter().filter(|package| is_known(package)) {
        let partial = place.join(format!("{package}.partial"));
        if partial.exists() {
            fs::remove_dir_all(&partial).while_doing(format_args!("removing {}", partial.display()))?;
        }
        fs::create_dir(&partial).while_doing(format_args!("creating {}", partial.display()))?;
        let download = ["-o", "APT::Sandbox::User=root", "download", package];
        output(Command::new("apt-get").args(download).current_dir(&partial))?;
        let archive = fs::read_dir(&partial)?
            .find_map(|entry| {
                Some(entry.ok()?.path()).filter(|path| path.extension().is_some_and(|end| end == "deb"))
            })
            .ok_or_else(|| Failure::new(format!("{package} was not downloaded")))?;
        output(Command::new("dpkg-deb").arg("--extract").args([&archive, &partial]))?;
        fs::rename(&partial, place.join(package)).while_doing(format_args!("naming {package}"))?;
    }
    Ok(())
}

fn install(needs: &[Need]) -> Result {
    let missing: Vec<&str> = PACKAGES
        .iter()
        .filter(|(_, uses)| uses.iter().any(|use_| needs.contains(use_)))
        .map(|(name, _)| *name)
        .filter(|name| !is_installed(name))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    if !installed("apt-get") {
        return Err(Failure::new(format!(
            "apt-get is not here: install the equivalent of these Debian packages: {}",
            missing.join(" ")
        )));
    }
    println!("installing Debian packages: {}", missing.join(" "));
    update();
    let (known, unknown): (Vec<&str>, Vec<&str>) = missing.into_iter().partition(|name| is_known(name));
    if !unknown.is_empty() {
        println!("not in this distribution, so that what needs them will fail: {}", unknown.join(" "));
    }
    let install = |more: &[&str]| {
        let options = ["install", "--yes", "--quiet", "--no-install-recommends"];
        run(apt_get().args(options).args(more).args(&known))
    };
    install(&[]).or_else(|error| {
        // A qemu-utils newer than the configured archive's (once installed from backports) conflicts with the archive's
        // qemu-system-common, and apt never goes back to an older version by itself.
        let Some(utils) = archive_version_of_qemu_utils() else { return Err(error) };
        println!("replacing the installed qemu-utils by the archive's, to match qemu-system-x86: {utils}");
        install(&["--allow-downgrades", &utils])
    })
}

fn is_installed(package: &str) -> bool {
    output(Command::new("dpkg-query").args(["--show", "--showformat=${db:Status-Status}", package]))
        .is_ok_and(|status| status == "installed")
}

/// `qemu-utils=VERSION`, VERSION being that of the archive's qemu-system-x86.
fn archive_version_of_qemu_utils() -> Option<String> {
    let policy = output(Command::new("apt-cache").args(["policy", "qemu-system-x86"])).ok()?;
    let version = policy.lines().find_map(|line| line.trim().strip_prefix("Candidate: "))?;
    (version != "(none)").then(|| format!("qemu-utils={version}"))
}

/// Whether apt can install the package.
fn is_known(package: &str) -> bool {
    output(Command::new("apt-cache").args(["show", "--no-all-versions", package])).is_ok()
}

/// Refreshes apt's lists. A failure is said and no more: the lists that are there may do.
fn update() {
    // DPkg::Lock::Timeout does not cover the lock of the lists, so another apt is waited for here.
    for _ in 0..24 {
        match output(apt_get().args(["update", "--quiet"])) {
            Err(error) if error.to_string().contains("Could not get lock") => {
                std::thread::sleep(std::time::Duration::from_secs(5));
            }
            Err(error) => return println!("{error}"),
            Ok(_) => return,
        }
    }
}

/// apt-get as root, which asks nothing and waits for another apt to finish.
fn apt_get() -> Command {
    let mut command = as_root("env");
    command.args(["DEBIAN_FRONTEND=noninteractive", "apt-get"]);
    command.args(["-o", "DPkg::Lock::Timeout=300", "-o", "Acquire::Retries=3"]);
    command
}
