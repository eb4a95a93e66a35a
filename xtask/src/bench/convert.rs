// SPDX-License-Identifier: Apache-2.0
//! Fitting a guest: `unmoor convert` from start to finish, appliance and all, beside `virt-v2v -i disk`.

use std::path::{Path, PathBuf};

use super::measure::{self, Command};
use crate::lab::guests::GUESTS;
use crate::run::{Failure, Result, While, output};

/// virt-v2v gets no more time than this; in emulation it has not finished in it.
const MOST_SECONDS: u32 = 600;

/// Both emulated, since that is what both can do everywhere.
pub(super) fn run(unmoor: &Path, folder: &Path, rounds: usize) -> Result {
    println!("\nfitting a Debian 12 guest to KVM, appliance included");
    let guest = GUESTS.iter().find(|guest| guest.name == "bookworm");
    let guest = guest.ok_or_else(|| Failure::new("the lab has no guest bookworm"))?.build()?;
    let rescue = folder.join("rescue");
    let (kernel, rescue_text) = (kernel(folder)?, rescue.display());
    let deb = kernel.display();
    let (unmoor, disk, at) = (unmoor.display(), guest.disk.display(), folder.display());
    shell(&format!(
        "{unmoor} rescue build --profile appliance --kernel {deb} --out {rescue_text} && {unmoor} capture --force {disk} {at}/guest.qcow2"
    ))?;
    // libguestfs makes its appliance of the host's kernel and modules, which this host may not have; supermin wants
    // /lib/modules to be there even where it is told of others.
    shell(&format!(
        "dpkg-deb -x {deb} {at}/kernel && depmod -b {at}/kernel $(ls {at}/kernel/lib/modules) && mkdir -p /lib/modules"
    ))?;
    // A conversion changes its image, so that each round begins with a copy.
    let ours = Command::new(
        "unmoor convert",
        format!(
            "cp {at}/guest.qcow2 OUT && {unmoor} convert --profile kvm --no-definitions --rescue {rescue_text} OUT"
        ),
        folder.join("fitted.qcow2"),
    );
    let theirs = Command::new(
        "virt-v2v -i disk",
        format!(
            "export SUPERMIN_KERNEL=$(echo {at}/kernel/boot/vmlinuz-*) && \
             export SUPERMIN_MODULES=$(echo {at}/kernel/lib/modules/*) && \
             LIBGUESTFS_BACKEND=direct LIBGUESTFS_BACKEND_SETTINGS=force_tcg timeout {MOST_SECONDS} virt-v2v -i disk {disk} \
             -o local -os {at} -on v2v || test $? = 124"
        ),
        folder.join("v2v-sda"),
    );
    let ours = measure::interleaved(&[ours], rounds, || Ok(()))?;
    let theirs = measure::interleaved(&[theirs], 1, || Ok(()))?;
    if let ([ours], [theirs]) = (ours.as_slice(), theirs.as_slice()) {
        super::line("unmoor convert (a copy of the image included)", ours, None);
        super::line(&format!("virt-v2v -i disk (ended after {MOST_SECONDS} s)"), theirs, Some(ours));
        super::aim("seconds", ours.seconds(), None, Some(30.0));
        super::aim(
            "times as fast as virt-v2v, at least",
            theirs.seconds() / ours.seconds(),
            Some(10.0),
            None,
        );
    }
    Ok(())
}

/// The configured archive's kernel package.
fn kernel(folder: &Path) -> Result<PathBuf> {
    let depends = output(std::process::Command::new("apt-cache").args(["depends", "linux-image-amd64"]))?;
    let name = depends.lines().find_map(|line| line.trim().strip_prefix("Depends: "));
    let name = name.ok_or_else(|| Failure::new("linux-image-amd64 depends on no kernel"))?;
    let mut download = std::process::Command::new("apt-get");
    output(download.args(["download", name]).current_dir(folder))?;
    let mut files = std::fs::read_dir(folder)
        .while_doing("listing what was downloaded")?
        .filter_map(|entry| Some(entry.ok()?.path()));
    let wanted = |path: &PathBuf| {
        let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        file.starts_with(name) && file.ends_with(".deb")
    };
    files.find(wanted).ok_or_else(|| Failure::new(format!("apt-get downloaded no {name}")))
}

fn shell(text: &str) -> Result {
    output(std::process::Command::new("bash").args(["-e", "-c", text])).map(drop)
}
