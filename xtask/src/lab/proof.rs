// SPDX-License-Identifier: Apache-2.0
//! Proof of boot: what a guest said of itself (`tests/lab/proof.sh`, `tests/lab/report.sh`), and whether that is well.

use crate::lab::guest::{Guest, Purpose};
use crate::lab::hardware::{Firmware, Hardware};
use crate::run::{Failure, Result, While};
use serde::Deserialize;

/// What a guest said of itself.
#[derive(Deserialize, Debug)]
pub(crate) struct Proof {
    pub(crate) nonce: String,
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
    #[serde(flatten)]
    pub(crate) more: Option<More>,
    /// From power on to power off, in seconds.
    #[serde(skip)]
    pub(crate) seconds: f64,
    /// The line that all this was read from.
    #[serde(skip)]
    line: String,
}

/// What only guests of [`Purpose::Fit`] say.
#[derive(Deserialize, Debug)]
pub(crate) struct More {
    /// Whether the firmware checked signatures.
    pub(crate) secure_boot: bool,
    /// The lines of /etc/fstab.
    pub(crate) fstab: Mounts,
    pub(crate) routes: Vec<Route>,
    /// Whether the default route's gateway answers.
    pub(crate) gateway: bool,
}

/// What `findmnt` prints.
#[derive(Deserialize, Debug)]
pub(crate) struct Mounts {
    pub(crate) filesystems: Vec<Mount>,
}

/// A mounted file system.
#[derive(Deserialize, Debug)]
pub(crate) struct Mount {
    pub(crate) target: String,
    pub(crate) fstype: String,
    #[serde(default)]
    pub(crate) options: String,
    #[serde(default)]
    pub(crate) uuid: Option<String>,
}

/// What `ip route` prints.
#[derive(Deserialize, Debug)]
pub(crate) struct Route {
    dst: String,
    gateway: Option<String>,
    dev: Option<String>,
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
    prefixlen: u32,
}

impl Proof {
    /// The mounted file systems that live on a disk.
    pub(crate) fn mounts(&self) -> &[Mount] {
        &self.mounts.filesystems
    }

    /// `ens3 10.0.2.15/24` for each interface with a global IPv4 address.
    pub(crate) fn networks(&self) -> Vec<String> {
        self.addresses
            .iter()
            .flat_map(|interface| interface.addr_info.iter().map(|address| (&interface.ifname, address)))
            .filter(|(_, address)| address.family == "inet" && address.scope == "global")
            .map(|(name, address)| format!("{name} {}/{}", address.local, address.prefixlen))
            .collect()
    }

    /// `ens3 by 10.0.2.2` for each default route.
    pub(crate) fn default_routes(&self) -> Vec<String> {
        let routes = self.more.iter().flat_map(|more| &more.routes).filter(|route| route.dst == "default");
        let word = |word: &Option<String>| word.clone().unwrap_or_else(|| "nothing".to_owned());
        routes.map(|route| format!("{} by {}", word(&route.dev), word(&route.gateway))).collect()
    }

    /// The names of the units that failed.
    pub(crate) fn failed(&self) -> impl Iterator<Item = &str> {
        self.failed.iter().flatten().map(|unit| unit.unit.as_str())
    }

    /// Reads what [`line`](Self::line) gave.
    pub(crate) fn read(line: &str) -> Result<Self> {
        let proof: Self = serde_json::from_str(line).while_doing(format_args!("reading the proof {line}"))?;
        Ok(Self { line: line.to_owned(), ..proof })
    }

    /// The line of JSON that the guest printed.
    pub(crate) fn line(&self) -> &str {
        &self.line
    }

    /// Fails unless this is `guest`, whole: its name, mounts and swap are there, no unit failed and its network is up.
    pub(crate) fn check(&self, guest: &Guest) -> Result {
        let mut wrong = Vec::new();
        if self.hostname != guest.hostname {
            wrong.push(format!("its name is {} instead of {}", self.hostname, guest.hostname));
        }
        if self.firmware != guest.hardware.firmware.said() {
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
        for unit in self.failed() {
            wrong.push(format!("{unit} failed"));
        }
        if self.state != "running" {
            wrong.push(format!("systemd calls the machine {}", self.state));
        }
        if self.networks().is_empty() {
            wrong.push("no interface has an address".to_owned());
        }
        match &self.more {
            None if guest.purpose == Purpose::Fit => wrong.push("it said too little".to_owned()),
            Some(more) if !more.gateway => wrong.push("its gateway does not answer".to_owned()),
            _ => {}
        }
        if wrong.is_empty() {
            Ok(())
        } else {
            Err(Failure::new(format!("{} booted, but {}", guest.name, wrong.join("; "))))
        }
    }
}

impl Proof {
    /// Fails unless the machine that said this is the one that said `before`, now on hardware `target`: the same file systems
    /// mounted, all that fstab names up, no unit failed that had not failed before, the same addresses on interfaces of the
    /// same names, and the gateway in reach. A clone's file systems have other UUIDs, all of them.
    pub(crate) fn check_like(&self, before: &Self, target: &Hardware, clone: bool) -> Result {
        let mut wrong = Vec::new();
        let mut same = |what: &str, now: &str, then: &str| {
            if now != then {
                wrong.push(format!("{what} is {now} instead of {then}"));
            }
        };
        same("its name", &self.hostname, &before.hostname);
        same("its kernel", &self.kernel, &before.kernel);
        same("its firmware", &self.firmware, target.firmware.said());
        same("its network", &self.networks().join(", "), &before.networks().join(", "));
        same("its default route", &self.default_routes().join(", "), &before.default_routes().join(", "));
        same("its number of swap areas", &self.swaps.to_string(), &before.swaps.to_string());
        let Some(more) = &self.more else { return Err(Failure::new("it said too little of itself")) };
        if more.secure_boot != (target.firmware == Firmware::SecureBoot) {
            wrong.push(format!("Secure Boot: {}", more.secure_boot));
        }
        if !more.gateway {
            wrong.push("its gateway does not answer".to_owned());
        }
        for old in before.mounts() {
            let mounted = |mount: &&Mount| mount.target == old.target && mount.fstype == old.fstype;
            // What belonged to the old firmware may be gone.
            let esp = old.fstype == "vfat" && self.firmware != before.firmware;
            match self.mounts().iter().find(mounted) {
                None if esp => {}
                None => wrong.push(format!("{} is not mounted as {}", old.target, old.fstype)),
                Some(new) if (new.uuid != old.uuid) != clone => {
                    let than = if clone { "like" } else { "instead of" };
                    wrong.push(format!("{} is {:?} {than} {:?}", old.target, new.uuid, old.uuid));
                }
                Some(_) => {}
            }
        }
        for line in &more.fstab.filesystems {
            let by_itself = line.options.split(',').all(|option| option != "noauto");
            let mounted = self.mounts().iter().any(|mount| mount.target == line.target);
            if line.fstype != "swap" && by_itself && !mounted {
                wrong.push(format!("{} of /etc/fstab is not mounted", line.target));
            }
        }
        for unit in self.failed().filter(|unit| before.failed().all(|old| old != *unit)) {
            wrong.push(format!("{unit} failed"));
        }
        if self.state != "running" && self.state != before.state {
            wrong.push(format!("systemd calls the machine {}", self.state));
        }
        if wrong.is_empty() {
            return Ok(());
        }
        Err(Failure::new(format!("{} booted, but {}", self.hostname, wrong.join("; "))))
    }
}

#[cfg(test)]
mod tests {
    use super::Proof;
    use crate::lab::hardware::{Bus, Chipset, Firmware, Hardware};

    const TARGET: Hardware = Hardware {
        chipset: Chipset::Q35,
        firmware: Firmware::Bios,
        bus: Bus::Virtio,
        nic: "virtio-net-pci",
        mac: None,
        slot: 6,
    };

    /// What a guest said in a real boot, without what is not read.
    const SAID: &str = r#"{"nonce":"1","state":"running","hostname":"web02","kernel":"6.1.0-50-amd64","root":"/dev/sda1",
        "firmware":"bios","secure_boot":false,
        "mounts":{"filesystems":[{"target":"/","source":"/dev/sda1","fstype":"ext4","options":"rw","uuid":"9cf2"},
            {"target":"/boot","source":"/dev/sda2","fstype":"ext4","options":"rw","uuid":"77aa"}]},
        "fstab":{"filesystems":[{"target":"/","source":"UUID=9cf2","fstype":"ext4","options":"errors=remount-ro"},
            {"target":"/boot","source":"UUID=77aa","fstype":"ext4","options":"defaults"},
            {"target":"none","source":"UUID=a077","fstype":"swap","options":"sw"},
            {"target":"/cdrom","source":"/dev/sr0","fstype":"iso9660","options":"ro,noauto"}]},
        "swaps":1,"failed":[{"unit":"always.service"}],
        "addresses":[{"ifname":"ens3","address":"52:54:00:0d:0d:01","addr_info":[
            {"family":"inet","local":"10.0.2.77","prefixlen":24,"scope":"global"}]}],
        "routes":[{"dst":"default","gateway":"10.0.2.2","dev":"ens3"}],"gateway":true}"#;

    fn complaint(old: &str, new: &str) -> Option<String> {
        assert!(SAID.contains(old), "{old}");
        let now = Proof::read(&SAID.replace(old, new)).unwrap();
        now.check_like(&Proof::read(SAID).unwrap(), &TARGET, false).err().map(|error| error.to_string())
    }

    #[test]
    fn a_machine_that_says_the_same_on_other_devices_is_well() {
        assert_eq!(complaint("/dev/sda", "/dev/vda"), None);
        assert_eq!(complaint("52:54:00:0d:0d:01", "52:54:00:0d:0d:02"), None);
        assert_eq!(complaint(r#"[{"unit":"always.service"}]"#, "[]"), None);
    }

    #[test]
    fn each_thing_that_is_lost_on_the_way_is_named() {
        for (old, new, says) in [
            ("web02", "localhost", "its name is localhost"),
            ("6.1.0-50", "6.1.0-49", "its kernel is"),
            (
                r#""ifname":"ens3""#,
                r#""ifname":"enp0s6""#,
                "its network is enp0s6 10.0.2.77/24 instead of ens3",
            ),
            ("10.0.2.77", "10.0.2.15", "its network is"),
            (r#""dst":"default""#, r#""dst":"10.0.0.0/8""#, "its default route is"),
            (r#""gateway":true"#, r#""gateway":false"#, "its gateway does not answer"),
            (r#""swaps":1"#, r#""swaps":0"#, "its number of swap areas is 0"),
            (r#""firmware":"bios""#, r#""firmware":"uefi""#, "its firmware is uefi"),
            (r#""secure_boot":false"#, r#""secure_boot":true"#, "Secure Boot: true"),
            (r#""options":"rw","uuid":"77aa""#, r#""options":"rw","uuid":"88bb""#, "/boot is"),
            (
                r#"{"target":"/boot","source":"/dev/sda2""#,
                r#"{"target":"/mnt","source":"/dev/sda2""#,
                "/boot of /etc/fstab",
            ),
            ("always.service", "networking.service", "networking.service failed"),
            (r#""state":"running""#, r#""state":"degraded""#, "systemd calls the machine degraded"),
        ] {
            let said = complaint(old, new).unwrap_or_default();
            assert!(said.contains(says), "{old} -> {new}: {said:?}");
        }
    }

    #[test]
    fn a_clone_has_other_uuids_on_all_its_mounts() {
        let before = Proof::read(SAID).unwrap();
        let clone = |text: &str| {
            let said = Proof::read(text).unwrap().check_like(&before, &TARGET, true).err();
            said.map(|error| error.to_string())
        };
        let both = SAID.replace("77aa", "88bb").replace("9cf2", "0df3");
        assert_eq!(clone(&both), None);
        let one = clone(&SAID.replace("77aa", "88bb")).unwrap_or_default();
        assert!(one.contains("/ is Some(\"9cf2\") like"), "{one}");
    }
}
