// SPDX-License-Identifier: Apache-2.0
//! Proof of boot: a unit in the guest says on the second serial port what came up (`tests/lab/proof.sh`).

use crate::lab::guest::Guest;
use crate::lab::qemu::Machine;
use crate::lab::{Scratch, read_text};
use crate::run::{Failure, Result, While};
use serde::Deserialize;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A guest needs 40 to 60 s on two idle processors; on busy ones it has taken 330 s.
const LIMIT: Duration = Duration::from_secs(900);

/// What a guest said of itself.
#[derive(Deserialize, Debug)]
pub(crate) struct Proof {
    nonce: String,
    /// systemd's word: `running`, or `degraded` where units failed.
    pub(crate) state: String,
    pub(crate) hostname: String,
    pub(crate) kernel: String,
    /// The device of the root file system.
    pub(crate) root: String,
    /// `bios` or `uefi`.
    pub(crate) firmware: String,
    mounts: Mounts,
    /// The number of active swap areas.
    pub(crate) swaps: u64,
    failed: Option<Vec<Unit>>,
    addresses: Vec<Interface>,
    /// From power on to power off, in seconds.
    #[serde(skip)]
    pub(crate) seconds: f64,
}

#[derive(Deserialize, Debug)]
struct Mounts {
    filesystems: Vec<Mount>,
}

/// A mounted file system.
#[derive(Deserialize, Debug)]
pub(crate) struct Mount {
    pub(crate) target: String,
    pub(crate) fstype: String,
}

#[derive(Deserialize, Debug)]
struct Unit {
    unit: String,
}

#[derive(Deserialize, Debug)]
struct Interface {
    ifname: String,
    addr_info: Vec<Address>,
}

#[derive(Deserialize, Debug)]
struct Address {
    family: String,
    scope: String,
    local: String,
}

impl Proof {
    /// The mounted file systems that live on a disk.
    pub(crate) fn mounts(&self) -> &[Mount] {
        &self.mounts.filesystems
    }

    /// `ens3 10.0.2.15` for each interface with a global IPv4 address.
    pub(crate) fn networks(&self) -> Vec<String> {
        self.addresses
            .iter()
            .flat_map(|interface| interface.addr_info.iter().map(|address| (&interface.ifname, address)))
            .filter(|(_, address)| address.family == "inet" && address.scope == "global")
            .map(|(name, address)| format!("{name} {}", address.local))
            .collect()
    }

    /// Fails unless this is `guest`, whole: its name, mounts and swap are there, no unit failed and its network is up.
    pub(crate) fn check(&self, guest: &Guest) -> Result {
        let mut wrong = Vec::new();
        if self.hostname != guest.hostname {
            wrong.push(format!("its name is {} instead of {}", self.hostname, guest.hostname));
        }
        if self.firmware != format!("{:?}", guest.firmware).to_lowercase() {
            wrong.push(format!("it booted with {}", self.firmware));
        }
        for (target, fstype) in guest.mounts {
            if !self.mounts().iter().any(|mount| mount.target == *target && mount.fstype == *fstype) {
                wrong.push(format!("{target} is not mounted as {fstype}"));
            }
        }
        if self.swaps != guest.swaps {
            wrong.push(format!("{} swap areas are active instead of {}", self.swaps, guest.swaps));
        }
        for unit in self.failed.iter().flatten() {
            wrong.push(format!("{} failed", unit.unit));
        }
        if self.state != "running" {
            wrong.push(format!("systemd calls the machine {}", self.state));
        }
        if self.networks().is_empty() {
            wrong.push("no interface has an address".to_owned());
        }
        if wrong.is_empty() {
            Ok(())
        } else {
            Err(Failure::new(format!("{} booted, but {}", guest.name, wrong.join("; "))))
        }
    }
}

/// Boots the machine, waits until it has powered off, and returns what it said.
pub(crate) fn boot(machine: &Machine) -> Result<Proof> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos());
    let nonce = format!("{now:x}-{:x}", std::process::id());
    let mut machine = machine.clone();
    machine.messages.push(("nonce".to_owned(), nonce.clone()));
    machine.messages.push(("poweroff".to_owned(), "1".to_owned()));
    let scratch = Scratch::new("boot")?;
    let start = Instant::now();
    machine.run(scratch.path(), LIMIT).while_doing("booting the guest")?;
    let said = read_text(&scratch.path().join("proof"))?;
    let line = said
        .lines()
        .find_map(|line| line.strip_prefix("UNMOOR-PROOF "))
        .ok_or_else(|| Failure::new("the guest powered off without a proof of boot"))?;
    let mut proof: Proof =
        serde_json::from_str(line).while_doing(format_args!("reading the proof {line}"))?;
    if proof.nonce != nonce {
        return Err(Failure::new(format!("the proof has the nonce {} instead of {nonce}", proof.nonce)));
    }
    proof.seconds = start.elapsed().as_secs_f64();
    Ok(proof)
}
