// SPDX-License-Identifier: Apache-2.0
//! Drivers that a guest lacks for its new machine, as edits for convert's plan.
//!
//! ```text
//!   Request::hardware --needs--> modaliases --+
//!   Kernel::modules --ModuleTree--------------+--fit--> modules that the initramfs lacks --archive::append--> Draft::append
//!   Kernel::initramfs --archive::read, uki----+           findings: no driver, no initramfs, no room
//!                                                         drop-ins for the guest's later kernels, capabilities
//! ```
//!
//! Nothing of the guest is executed: where others rebuild the initramfs with the guest's own tools, an archive is put behind
//! it, which the kernel unpacks over it.

mod capabilities;
mod drop_ins;
mod fit;
mod guest;
mod judge;
mod loading;
mod needs;
mod room;
#[cfg(test)]
mod tests;
pub mod uki;

use unmoor_convert::files::Files;
use unmoor_convert::inspection::{Inspection, Kernel};
use unmoor_convert::plan::{Draft, Severity};
use unmoor_convert::request::Request;
use unmoor_images::Result;

use fit::{Budget, Change, Fit};

/// Kernels, each counted once for every list of initramfs files that it is started with, that are fitted in one guest. Each keeps the
/// index of its modules in memory, and has its initramfs unpacked.
const MOST_CHAINS: usize = 64;

/// The rule's name in reasons of edits.
pub const RULE: &str = "inject-drivers";

/// Plans what makes every bootable kernel of the guest find its disks on `request`'s hardware, and says what cannot be done:
///
/// | rule of the finding | what |
/// |---|---|
/// | `driver` | no driver for a part of the hardware: an error for a disk that will be there, in the default kernel or in all |
/// | `initramfs` | an initramfs is missing, corrupt or of a kind that is not understood |
/// | `uki` | a signed unified kernel image would have to change |
/// | `room` | the filesystem of an initramfs has no room for its new copy |
///
/// Running it on its own result plans nothing.
///
/// # Errors
///
/// As reading the guest's files.
pub fn inject(draft: &mut Draft, inspection: &Inspection, request: &Request) -> Result<()> {
    let default = default_kernel(draft, inspection)?.map(|kernel| kernel.release.clone());
    let mut fits: Vec<Fit> = Vec::new();
    let mut grown = Vec::new();
    let mut chains = Vec::new();
    let started = started(draft, inspection)?;
    for kernel in inspection.kernels.iter().filter(|kernel| is_wanted(kernel)) {
        for (number, chain) in by_entry(&started, kernel).into_iter().enumerate() {
            chains.push((Some(&kernel.release) == default.as_ref() && number == 0, chain));
        }
    }
    if chains.len() > MOST_CHAINS {
        // What starts when nobody chooses is among those that are kept.
        chains.sort_by_key(|(is_default, _)| !is_default);
        draft.finding(
            Severity::Warning,
            "driver",
            format!(
                "there are {} kernels with an initramfs of their own: {MOST_CHAINS} are fitted",
                chains.len()
            ),
            Some("remove kernels and boot entries that are no longer used".to_owned()),
        );
        chains.truncate(MOST_CHAINS);
    }
    let mut budget = Budget::default();
    for (is_default, kernel) in &chains {
        let fit = fit::fit(draft, inspection, request, kernel, *is_default, &mut budget)?;
        for change in &fit.changes {
            // Two entries may start different kernels with the same file.
            if grown.iter().any(|(known, _): &(String, u64)| known == change.path()) {
                continue;
            }
            let before = draft.metadata(change.path())?.map_or(0, |found| found.size);
            match change {
                Change::Append { path, bytes } => draft.append(path, bytes.clone(), RULE, fit.why())?,
                Change::Write { path, content } => draft.write(path, content.clone(), RULE, fit.why())?,
            }
            let after = draft.metadata(change.path())?.map_or(0, |found| found.size);
            grown.push((change.path().to_owned(), after.saturating_sub(before)));
        }
        fits.push(fit);
    }
    judge::judge(draft, request, &fits);
    room::check(draft, &grown)?;
    drop_ins::plan(draft, request, &fits)?;
    if let Some(fit) = fits.iter().find(|fit| fit.is_default) {
        capabilities::tell(draft, fit);
    }
    Ok(())
}

/// Kernels that a person may start the machine with. A crash kernel is started by the one that crashed, on hardware that this one
/// was fitted to, from an initramfs of its own that the guest makes anew by itself.
fn is_wanted(kernel: &Kernel) -> bool {
    kernel.bootable && !matches!(kernel.special.as_deref(), Some("kdump" | "xen"))
}

/// The kernel that starts when nobody chooses; the newest where no entry says so.
fn default_kernel<'a>(draft: &Draft, inspection: &'a Inspection) -> Result<Option<&'a Kernel>> {
    let entry = inspection.boot.entries.iter().find(|entry| entry.default);
    let image = entry.and_then(|entry| entry.kernel.as_ref());
    let real = image.map(|path| real(draft, path)).transpose()?;
    let by_entry = inspection.kernels.iter().find(|kernel| real.is_some() && kernel.image == real);
    Ok(by_entry
        .filter(|kernel| is_wanted(kernel))
        .or_else(|| inspection.kernels.iter().find(|kernel| is_wanted(kernel))))
}

fn real(draft: &Draft, path: &str) -> Result<String> {
    Ok(draft.real_path(path)?.unwrap_or_else(|| path.to_owned()))
}

/// A boot entry: its kernel, and the list of its initramfs files, without links; the default one comes first.
type Started = (String, Vec<String>);

fn started(draft: &Draft, inspection: &Inspection) -> Result<Vec<Started>> {
    let mut entries: Vec<_> = inspection.boot.entries.iter().collect();
    entries.sort_by_key(|entry| !entry.default);
    let mut all = Vec::new();
    for entry in entries {
        let Some(kernel) = &entry.kernel else { continue };
        let list = entry.initramfs.iter().map(|path| real(draft, path)).collect::<Result<Vec<_>>>()?;
        all.push((real(draft, kernel)?, list));
    }
    Ok(all)
}

/// The kernel once for each list of initramfs files that an entry loads with it, the default entry's first: Arch has an entry with
/// everything as fallback, which says nothing about the default one.
fn by_entry(started: &[Started], kernel: &Kernel) -> Vec<Kernel> {
    let mut lists: Vec<&Vec<String>> = Vec::new();
    let own = started.iter().filter(|(image, list)| kernel.image.as_ref() == Some(image) && !list.is_empty());
    for (_, list) in own {
        if !lists.contains(&list) && lists.len() <= MOST_CHAINS {
            lists.push(list);
        }
    }
    if lists.is_empty() {
        return vec![kernel.clone()];
    }
    let one = |list: &Vec<String>| {
        let find = |path: &String| kernel.initramfs.iter().find(|held| held.path == *path).cloned();
        Kernel { initramfs: list.iter().filter_map(find).collect(), ..kernel.clone() }
    };
    lists.into_iter().map(one).collect()
}
