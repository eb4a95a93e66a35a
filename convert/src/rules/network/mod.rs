// SPDX-License-Identifier: Apache-2.0
//! Adapters keep their names and addresses.
//!
//! ```text
//!   interfaces of the configuration --assign--> adapters of the new machine (by MAC, or the only one)
//!     --names--> a .link file each (udev rules for an old udev; two steps for the kernel's own ethN), in the initramfs too
//!     --matches--> what the configuration matches by MAC, path or driver, changed in the same edit
//! ```
//!
//! A .link file matches the new adapter by its hardware address. Where addresses are not known when the plan is made, a single
//! interface gets "any adapter that is on a bus"; several keep their old addresses, which the definition of the virtual machine
//! carries over, and a warning says so.

mod assign;
mod matches;
mod names;
mod patterns;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use unmoor_images::Result;

use crate::files::Files;
use crate::inspection::Inspection;
use crate::plan::Draft;
use crate::request::Request;

pub(super) use assign::{Nic, Target, assign};

const RULE: &str = "network";

pub(super) fn plan(
    draft: &mut Draft<'_>,
    inspection: &Inspection,
    request: &Request,
    nics: &[Nic],
) -> Result<()> {
    matches::plan(draft, inspection, request, nics)?;
    names::plan(draft, inspection, request, nics)?;
    draft.capabilities().nic_addresses = request.hardware.nics.iter().map(|nic| nic.mac.clone()).collect();
    cloud_init(draft)
}

/// Hardware addresses, old to new.
pub(super) fn macs(nics: &[Nic]) -> BTreeMap<String, String> {
    let changed = nics.iter().filter_map(|nic| match (&nic.mac, &nic.target) {
        (Some(old), Target::Mac(new)) if old != new => Some((old.clone(), new.clone())),
        _ => None,
    });
    changed.collect()
}

/// On a machine without its old cloud, cloud-init writes a configuration of its own: DHCP on the first adapter.
fn cloud_init(draft: &mut Draft<'_>) -> Result<()> {
    const PATH: &str = "/etc/cloud/cloud.cfg.d/99-unmoor-network.cfg";
    if !draft.exists("/etc/cloud/cloud.cfg")? || draft.exists("/etc/cloud/cloud-init.disabled")? {
        return Ok(());
    }
    draft.write(
        PATH,
        b"# Made by unmoor: the machine keeps the network configuration that it had.\nnetwork: {config: disabled}\n".to_vec(),
        RULE,
        "cloud-init would replace the network configuration on a machine that it does not know",
    )
}
