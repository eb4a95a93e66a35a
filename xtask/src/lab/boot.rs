// SPDX-License-Identifier: Apache-2.0
//! Booting a guest on some machine until it has said how it is and has powered off.

use crate::lab::proof::Proof;
use crate::lab::qemu::{Machine, Running, tail};
use crate::lab::{Scratch, read_text};
use crate::run::{Failure, Result, While};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A guest needs 40 to 60 s on two idle processors; on busy ones it has taken 330 s.
const LIMIT: Duration = Duration::from_secs(900);

/// For a boot that is to fail: an initramfs gives up after two minutes, OVMF waits in its shell without end.
const CONTROL_LIMIT: Duration = Duration::from_secs(420);

/// What a guest of [`Purpose::Fit`](crate::lab::guest::Purpose::Fit) runs when it has booted.
const REPORT: &str = include_str!("../../../tests/lab/report.sh");

/// What it then runs where it is asked for: its own tools make initramfs and boot loader anew.
const UPGRADE: &str = include_str!("../../../tests/lab/upgrade.sh");

/// For a boot with that: dracut alone has taken seven minutes.
const UPGRADE_LIMIT: Duration = Duration::from_secs(2700);

/// Boots the machine, waits until it has powered off, and returns what it said.
pub(crate) fn boot(machine: &Machine) -> Result<Proof> {
    boot_with(machine, None, LIMIT)
}

/// Boots the machine; when it has said how it is, it makes its initramfs and its boot loader anew, by the means of its
/// distribution, and powers off.
pub(crate) fn boot_and_upgrade(machine: &Machine) -> Result<Proof> {
    boot_with(machine, Some(UPGRADE), UPGRADE_LIMIT)
}

/// Boots the machine for the time in which a guest that boots at all has always done so on this lab's hosts.
pub(crate) fn boot_briefly(machine: &Machine) -> Result<Proof> {
    boot_with(machine, None, CONTROL_LIMIT)
}

fn boot_with(machine: &Machine, upgrade: Option<&str>, limit: Duration) -> Result<Proof> {
    start(machine, upgrade)?.proof(limit)
}

/// A machine that was switched on, and is to say how it is.
pub(crate) struct Started {
    pub(crate) running: Running,
    scratch: Scratch,
    nonce: String,
    upgrades: bool,
}

/// Switches the machine on.
pub(crate) fn start(machine: &Machine, upgrade: Option<&str>) -> Result<Started> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos());
    let nonce = format!("{now:x}-{:x}", std::process::id());
    let mut machine = machine.clone();
    let mut message = |name: &str, text: &str| machine.messages.push((name.to_owned(), text.to_owned()));
    message("nonce", &nonce);
    message("poweroff", "1");
    message("report.sh", REPORT);
    if let Some(script) = upgrade {
        message("upgrade.sh", script);
    }
    let scratch = Scratch::new("boot")?;
    let running = machine.start(scratch.path())?;
    Ok(Started { running, scratch, nonce, upgrades: upgrade.is_some() })
}

impl Started {
    /// Waits until it has powered itself off, at most `limit` after it was switched on, and returns what it said.
    pub(crate) fn proof(self, limit: Duration) -> Result<Proof> {
        let Self { running, scratch, nonce, upgrades } = self;
        let seconds = running.wait(limit).while_doing("booting the guest")?.as_secs_f64();
        let said = read_text(&scratch.path().join("proof"))?;
        let console = || tail(&scratch.path().join("console"), 25);
        // UEFI's console is on this port too, and what it said last need not end its line.
        let told = said.lines().find_map(|line| line.split_once("UNMOOR-PROOF "));
        let (_, line) = told.ok_or_else(|| {
            Failure::new(format!(
                "the guest powered off without a proof of boot; its console ends with:\n{}",
                console()
            ))
        })?;
        let mut proof = Proof::read(line)?;
        if proof.nonce != nonce {
            return Err(Failure::new(format!("the proof has the nonce {} instead of {nonce}", proof.nonce)));
        }
        if upgrades && !said.lines().any(|line| line == format!("UNMOOR-UPGRADE {nonce} 0")) {
            return Err(Failure::new(format!(
                "the guest could not make its initramfs and boot loader anew; its console ends with:\n{}",
                console()
            )));
        }
        proof.seconds = seconds;
        Ok(proof)
    }
}
