// SPDX-License-Identifier: Apache-2.0
//! What is said about kernels that cannot start on the hardware.
//!
//! A disk that will be there and that no kernel drives forbids the plan, and so does one that only the default kernel lacks:
//! nobody may be there to choose another. In a hypervisor's profile disks can be attached in another way, so that there one
//! bus that works is enough; the machine's definition is derived from the capabilities.

use unmoor_convert::plan::{Draft, Severity};
use unmoor_convert::request::{Part, Purpose, Request};

use crate::fit::{Fit, Trouble};
use crate::loading::Loading;
use crate::needs::Driven;

const DRIVER: &str = "driver";
const INITRAMFS: &str = "initramfs";

pub(crate) fn judge(draft: &mut Draft, request: &Request, fits: &[Fit]) {
    if fits.is_empty() {
        draft.finding(
            Severity::Error,
            DRIVER,
            "no kernel of the guest is started by any boot entry, so that there is none to give drivers to",
            Some(
                "repair the boot loader's configuration on the source machine, and capture it again"
                    .to_owned(),
            ),
        );
        return;
    }
    for (index, part) in request.hardware.parts.iter().enumerate() {
        match part.purpose {
            Purpose::Disk => disk(draft, request, fits, index),
            Purpose::Nic => nic(draft, fits, index),
            Purpose::Bus | Purpose::Console | Purpose::Other => {}
        }
    }
    superset(draft, fits);
    for fit in fits {
        trouble(draft, request, fits, fit);
        for name in &fit.absent {
            draft.finding(
                Severity::Warning,
                DRIVER,
                format!(
                    "the indexes of {} name the module {name}, whose file is missing or corrupt",
                    fit.release
                ),
                Some("reinstall that kernel's package".to_owned()),
            );
        }
        for (name, file) in &fit.forbidden {
            draft.finding(
                Severity::Warning,
                DRIVER,
                format!("the initramfs of {} forbids {name} in /{file}", fit.release),
                Some(format!("remove that line from the guest's modprobe configuration, or start with the argument rd.driver.pre={name}")),
            );
        }
    }
}

/// None of a superset's parts is certain, so that no single one is worth a warning; that most are lacking is: such a kernel is made
/// for virtual machines.
fn superset(draft: &mut Draft, fits: &[Fit]) {
    let Some(fit) = fits.iter().find(|fit| fit.is_default).or(fits.first()) else { return };
    for (purpose, what) in [(Purpose::Disk, "disk controllers"), (Purpose::Nic, "network adapters")] {
        let all: Vec<&Driven> = fit.parts.iter().filter(|driven| driven.part.purpose == purpose).collect();
        let lacking = all.iter().filter(|driven| driven.missing.is_some()).count();
        if all.iter().all(|driven| !driven.part.certain) && lacking * 4 > all.len() * 3 {
            draft.finding(
                Severity::Warning,
                DRIVER,
                format!(
                    "{} has no drivers for {lacking} of {} usual {what}: it is a kernel for virtual machines",
                    fit.release,
                    all.len()
                ),
                Some("install the distribution's full kernel before the capture".to_owned()),
            );
        }
    }
}

fn part_of(fit: &Fit, index: usize) -> Option<&Driven> {
    fit.parts.get(index)
}

/// Why a kernel cannot reach a disk by this part; `None` where it can.
fn lack(fit: &Fit, driven: &Driven) -> Option<String> {
    if let Some(modalias) = &driven.missing {
        return Some(format!("has no driver for {modalias}"));
    }
    let mut without: Vec<&str> =
        driven.drivers.iter().filter(|name| fit.absent.contains(name)).map(String::as_str).collect();
    without.dedup();
    (!without.is_empty()).then(|| format!("lacks the file of {}", without.join(", ")))
}

/// Whether disks hang on this part; else it is a disk on whichever controller, of which a driver for the disk says nothing.
fn is_controller(part: &Part) -> bool {
    let hangs = ["scsi:", "virtio:", "mmc:"].iter().any(|bus| part.modalias.starts_with(bus));
    part.purpose == Purpose::Disk && !hangs
}

fn disk(draft: &mut Draft, request: &Request, fits: &[Fit], index: usize) {
    let lacking: Vec<(&Fit, &Driven, String)> = fits
        .iter()
        .filter_map(|fit| {
            let driven = part_of(fit, index)?;
            lack(fit, driven).map(|why| (fit, driven, why))
        })
        .collect();
    let Some((_, driven, why)) = lacking.first() else { return };
    let part = &driven.part;
    let all = lacking.len() == fits.len();
    let default = lacking.iter().any(|(fit, _, _)| fit.is_default);
    // In a virtual machine the disk can be on another bus.
    let other_bus = request.hardware.hypervisor.is_some()
        && fits.iter().filter(|fit| fit.is_default).any(|fit| {
            fit.parts
                .iter()
                .any(|other| is_controller(&other.part) && other.part.certain && lack(fit, other).is_none())
        });
    let kernels: Vec<&str> = lacking.iter().map(|(fit, _, _)| fit.release.as_str()).collect();
    let name = if part.name.is_empty() {
        part.modalias.clone()
    } else {
        format!("{} ({})", part.name, part.modalias)
    };
    let severity = if !part.certain {
        if all { Severity::Note } else { return }
    } else if (all || default) && !other_bus {
        Severity::Error
    } else {
        Severity::Warning
    };
    let (text, remedy) = if all {
        (
            format!("{name} has no driver in any bootable kernel: {} {why}", kernels.join(", ")),
            "install a kernel that has one before the capture (the distribution's full kernel rather than its cloud or virtual \
             variant), or choose hardware with another disk controller",
        )
    } else if default {
        (
            format!(
                "{name} has no driver in {}, the kernel that starts by default: it {why}",
                kernels.join(", ")
            ),
            "make another kernel the default (it has the driver), or install the driver's package",
        )
    } else {
        (
            format!(
                "{name} has no driver in {}: started with it, the machine does not find its disk",
                kernels.join(", ")
            ),
            "start the machine with its default kernel",
        )
    };
    draft.finding(severity, DRIVER, text, Some(remedy.to_owned()));
}

fn nic(draft: &mut Draft, fits: &[Fit], index: usize) {
    let kernels: Vec<&str> = fits
        .iter()
        .filter(|fit| part_of(fit, index).is_some_and(|driven| driven.missing.is_some()))
        .map(|fit| fit.release.as_str())
        .collect();
    let Some(part) = fits.first().and_then(|fit| part_of(fit, index)).map(|driven| &driven.part) else {
        return;
    };
    if kernels.is_empty() || !part.certain {
        return;
    }
    let text =
        format!("network adapter {} ({}) has no driver in {}", part.name, part.modalias, kernels.join(", "));
    let remedy =
        "install a kernel or module package that has one before the cut-over, or use another adapter";
    draft.finding(Severity::Warning, DRIVER, text, Some(remedy.to_owned()));
}

/// An initramfs that cannot be used is no matter where the kernel has all in itself.
fn trouble(draft: &mut Draft, request: &Request, fits: &[Fit], fit: &Fit) {
    if fit.loading == Some(Loading::Unknown) && !fit.added.is_empty() {
        draft.finding(
            Severity::Warning,
            INITRAMFS,
            format!(
                "how the initramfs of {} loads modules is not known: that it loads {} is not certain",
                fit.release,
                fit.added.join(", ")
            ),
            Some(
                "see that the machine starts on a copy (`unmoor verify --boot`) before the cut-over"
                    .to_owned(),
            ),
        );
    }
    let Some(trouble) = &fit.trouble else { return };
    let others = fits.iter().any(|other| other.trouble.is_none() && !std::ptr::eq(other, fit));
    let severity = match (fit.is_default, others) {
        (true, _) | (_, false) => Severity::Error,
        _ => Severity::Warning,
    };
    let release = &fit.release;
    let anew = format!(
        "make it anew on the source machine (update-initramfs -u -k {release}, or dracut -f --kver {release})"
    );
    let (severity, rule, text, remedy) = match trouble {
        // All that the hardware takes is built in.
        Trouble::Missing if fit.wanted.is_empty() && !request.hardware.parts.is_empty() => return,
        Trouble::Missing => {
            let wanted = if fit.wanted.is_empty() { "its drivers".to_owned() } else { fit.wanted.join(", ") };
            let text =
                format!("{release} has no initramfs, and needs one on the new machine to load {wanted}");
            let remedy = format!(
                "make one on the source machine (update-initramfs -c -k {release}, or dracut --kver {release})"
            );
            (severity, INITRAMFS, text, remedy)
        }
        Trouble::Broken(why) => {
            let text =
                format!("the initramfs of {release} cannot be read as its kernel would read it: {why}");
            (severity, INITRAMFS, text, anew)
        }
        Trouble::Refused(why) => {
            (severity, INITRAMFS, format!("nothing can be added to the initramfs of {release}: {why}"), anew)
        }
        Trouble::Signed { lacks } => {
            let (severity, what) = if *lacks {
                (severity, "drivers for the new machine")
            } else {
                (Severity::Warning, "files for the new machine (names of its network adapters)")
            };
            let text = format!(
                "{release} is in a signed unified kernel image, to which {what} cannot be added without breaking its signature"
            );
            let remedy = "give --sign-key with a key that the target's firmware trusts, or --secure-boot off";
            (severity, "uki", text, remedy.to_owned())
        }
    };
    draft.finding(severity, rule, text, Some(remedy));
}
