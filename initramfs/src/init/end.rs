// SPDX-License-Identifier: Apache-2.0
//! How it ends: off, again, another kernel, or not yet.

use std::path::Path;
use std::time::Duration;

use unmoor_images::Result;

use super::console::say;
use super::{Parameters, mounts};
use crate::sys::power;

/// How long a failure is shown where `unmoor.patience` says nothing.
const PATIENCE: u64 = 10;
/// A firmware that neither switches off nor restarts gets this long.
const GRACE: Duration = Duration::from_secs(30);

/// What becomes of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It is switched off.
    PowerOff,
    /// It starts again by its firmware.
    Reboot,
    /// It waits for another job.
    Stay,
}

impl End {
    fn named(name: &str) -> Option<Self> {
        match name {
            "poweroff" => Some(Self::PowerOff),
            "reboot" => Some(Self::Reboot),
            "stay" => Some(Self::Stay),
            _ => None,
        }
    }

    /// As the job says, else the kernel's command line, else off.
    pub(super) fn wanted(job: Option<&str>, parameters: &Parameters) -> Self {
        let by_line = || parameters.value("end").and_then(Self::named);
        job.and_then(Self::named).or_else(by_line).unwrap_or(Self::PowerOff)
    }
}

/// Leaves time to read what went wrong.
pub(super) fn after_failure(parameters: &Parameters) -> End {
    let seconds =
        parameters.value("patience").and_then(|text| text.parse().ok()).unwrap_or(PATIENCE).min(86_400);
    let end = match End::wanted(None, parameters) {
        End::Reboot => End::Reboot,
        End::PowerOff | End::Stay => End::PowerOff,
    };
    say(&format!(
        "the machine goes {} in {seconds} s",
        if end == End::Reboot { "round again" } else { "off" }
    ));
    std::thread::sleep(Duration::from_secs(seconds));
    end
}

/// Ends. Where one way fails the other is tried, and at last PID 1 ends, at which the kernel panics and restarts.
pub(super) fn reach(end: End) -> ! {
    mounts::unmount_all();
    let ways = if end == End::Reboot {
        [power::restart, power::power_off]
    } else {
        [power::power_off, power::restart]
    };
    for way in ways {
        say(&way().chain());
        std::thread::sleep(GRACE);
    }
    std::process::exit(1)
}

/// Starts another kernel in place of this one, without the firmware: what is mounted is unmounted first.
///
/// # Errors
///
/// Returns only with an error, as of kexec_file_load(2).
pub fn kexec(kernel: &Path, initramfs: &Path, command_line: &str) -> Result<std::convert::Infallible> {
    power::load_kernel(kernel, initramfs, command_line)?;
    mounts::unmount_all();
    Err(power::start_loaded_kernel())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_job_decides_before_the_command_line_and_nonsense_switches_off() {
        let line = Parameters::parse("unmoor.end=reboot");
        assert_eq!(End::wanted(Some("stay"), &line), End::Stay);
        assert_eq!(End::wanted(Some("dance"), &line), End::Reboot);
        assert_eq!(End::wanted(None, &Parameters::default()), End::PowerOff);
    }
}
