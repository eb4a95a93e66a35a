// SPDX-License-Identifier: Apache-2.0
//! KVM where it really works. That /dev/kvm opens says little: on some hosts a machine then never gets to its first
//! instruction. So the first run is the probe, and its outcome is kept until the host is booted again.

use std::fs;
use std::path::PathBuf;

use crate::cache;

/// What runs a machine's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Accelerator {
    Kvm,
    /// Emulation.
    Tcg,
}

impl Accelerator {
    /// KVM, unless it cannot be opened or is known not to work.
    pub(crate) fn choose() -> Self {
        let opens = fs::File::options().read(true).write(true).open("/dev/kvm").is_ok();
        let broken = || known().is_some_and(|path| fs::read_to_string(path).is_ok_and(|text| text == "tcg"));
        if opens && !broken() { Self::Kvm } else { Self::Tcg }
    }

    /// A machine ran.
    pub(super) fn works(self) {
        if self == Self::Kvm {
            keep("kvm");
        }
    }

    /// A machine did not.
    pub(super) fn does_not_work(self) {
        keep("tcg");
    }
}

/// Where the outcome is kept, by the host's boot.
fn known() -> Option<PathBuf> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(cache::folder()?.join(format!("accelerator-{}", boot.trim())))
}

/// Only time is lost where this fails.
fn keep(what: &str) {
    if let Some(path) = known() {
        let _ = path.parent().map(fs::create_dir_all);
        let _ = fs::write(path, what);
    }
}
