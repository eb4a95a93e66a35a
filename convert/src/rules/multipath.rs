// SPDX-License-Identifier: Apache-2.0
//! Multipath: names that are bound to WWIDs of the old machine's storage network.

use unmoor_images::Result;

use crate::files::Files;
use crate::plan::{Draft, Severity};
use crate::request::Hardware;

const RULE: &str = "multipath";

pub(super) fn plan(draft: &mut Draft<'_>, hardware: &Hardware) -> Result<()> {
    let state = ["/etc/multipath/bindings", "/etc/multipath/wwids"];
    let mut any = false;
    for path in state {
        any |= draft.exists(path)?;
    }
    if !any && !draft.exists("/etc/multipath.conf")? {
        return Ok(());
    }
    if hardware.hypervisor.is_some() {
        for path in state {
            draft.remove(
                path,
                RULE,
                "a virtual machine's disks have one path; multipath makes the file anew where it is used",
            )?;
        }
    } else {
        draft.finding(
            Severity::Note,
            RULE,
            "the guest uses multipath: its bindings and WWIDs are kept, and what the guest mounts is named by UUIDs",
            Some("on the new machine, \"multipath -W\" and \"multipath -F\" renew them".into()),
        );
    }
    Ok(())
}
