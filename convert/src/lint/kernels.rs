// SPDX-License-Identifier: Apache-2.0
//! Is there something to start, and is it all there?

use unmoor_images::Result;

use crate::files::Files;
use crate::inspection::{Initramfs, Inspection, Kernel, Layer};
use crate::plan::{Draft, Severity};

pub(super) fn lint(draft: &mut Draft<'_>, inspection: &Inspection) -> Result<()> {
    let bootable: Vec<&Kernel> =
        inspection.kernels.iter().filter(|kernel| kernel.bootable && kernel.special.is_none()).collect();
    if bootable.is_empty() {
        draft.finding(
            Severity::Error,
            "kernel",
            "no boot entry starts a kernel that is installed",
            Some("reinstall the kernel package on the machine, so that it makes a boot entry, and capture it again".into()),
        );
        return Ok(());
    }
    for kernel in &bootable {
        if kernel.modules.is_none() {
            draft.finding(
                Severity::Warning,
                "kernel",
                format!(
                    "kernel {} has no modules in the guest: no driver can be added to its initramfs",
                    kernel.release
                ),
                None,
            );
        }
    }
    entries(draft, inspection)?;
    initramfs(draft, inspection, &bootable);
    Ok(())
}

fn entries(draft: &mut Draft<'_>, inspection: &Inspection) -> Result<()> {
    for entry in &inspection.boot.entries {
        for path in entry.kernel.iter().chain(&entry.initramfs) {
            if draft.exists(path)? {
                continue;
            }
            let severity = if entry.default { Severity::Error } else { Severity::Warning };
            draft.finding(
                severity,
                "kernel",
                format!(
                    "the boot entry \"{}\" ({}) loads {path}, which is not there",
                    entry.title, entry.file
                ),
                entry.default.then(|| {
                    "make another entry the default on the machine, or reinstall that kernel".into()
                }),
            );
        }
    }
    Ok(())
}

fn initramfs(draft: &mut Draft<'_>, inspection: &Inspection, bootable: &[&Kernel]) {
    const RULE: &str = "initramfs";
    let real = |kernel: &&Kernel| -> Vec<Initramfs> {
        kernel.initramfs.iter().filter(|one| one.made_by != "microcode").cloned().collect()
    };
    let mut good = 0;
    for kernel in bootable {
        let all = real(kernel);
        for one in all.iter().filter(|one| one.broken.is_some()) {
            let why = one.broken.as_deref().unwrap_or_default();
            draft.finding(
                Severity::Warning,
                RULE,
                format!("{} (kernel {}) cannot be read: {why}", one.path, kernel.release),
                Some("make it anew on the machine: update-initramfs -u, dracut -f or mkinitcpio -P".into()),
            );
        }
        good += usize::from(all.iter().any(|one| one.broken.is_none()));
    }
    if good > 0 {
        return;
    }
    let stacked = inspection
        .root
        .iter()
        .any(|layer| matches!(layer, Layer::Luks { .. } | Layer::LogicalVolume { .. } | Layer::Md { .. }));
    let none = bootable.iter().all(|kernel| real(kernel).is_empty());
    if !none {
        draft.finding(
            Severity::Error,
            RULE,
            "no bootable kernel has an initramfs that can be read, so that none can be given drivers",
            Some("make one anew on the machine: update-initramfs -u, dracut -f or mkinitcpio -P".into()),
        );
    } else if stacked {
        draft.finding(
            Severity::Error,
            RULE,
            "root is on LVM, md or LUKS, and no bootable kernel has an initramfs that could set that up",
            Some("make one on the machine: update-initramfs -c -k all, dracut --regenerate-all or mkinitcpio -P".into()),
        );
    } else {
        draft.finding(
            Severity::Warning,
            RULE,
            "the guest starts without an initramfs: the drivers for the new disk must be built into its kernel",
            None,
        );
    }
}
