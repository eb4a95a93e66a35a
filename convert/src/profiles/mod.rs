// SPDX-License-Identifier: Apache-2.0
//! The hardware that a guest may be fitted to.
//!
//! ```text
//!   "kvm", "vmware", "hyperv", "xen" --platforms--+
//!   "physical" -----------------------physical----+--> Hardware
//!   "qemu:nvme+e1000e" ---------------emulated----+
//!   machine.json (facts of a machine) --machine---+
//! ```

mod emulated;
mod machine;
mod part;
mod physical;
mod platforms;
#[cfg(test)]
mod tests;

use unmoor_images::{Error, ErrorKind, Result};

use crate::request::Hardware;

pub use emulated::{BUSES, MODELS};
pub use machine::of_machine;

/// Profiles that have a name of their own.
pub const NAMES: [&str; 5] = ["kvm", "vmware", "hyperv", "xen", "physical"];

/// The hardware that `name` stands for: one of [`NAMES`], "qemu:BUS+NIC" for one emulated machine, or the path of a file with a
/// machine's facts as `unmoor inspect --machine --json` prints them.
///
/// # Errors
///
/// `Usage` for a name that is none, `Io` and `Malformed` for a file that cannot be read.
pub fn profile(name: &str) -> Result<Hardware> {
    if let Some(platform) = platforms::named(name) {
        return Ok(platform);
    }
    if name == "physical" {
        return Ok(physical::hardware());
    }
    if let Some(devices) = name.strip_prefix("qemu:") {
        return emulated::hardware(name, devices);
    }
    if name.contains(['/', '.']) {
        return machine::read(std::path::Path::new(name));
    }
    Err(Error::new(ErrorKind::Usage, format!("looking up the profile {name}")).because(format!(
        "there is none of that name; there are {}, qemu:BUS+NIC, and files of `unmoor inspect --machine --json`",
        NAMES.join(", ")
    )))
}
