// SPDX-License-Identifier: Apache-2.0
//! A machine moves over the network: captured from where it is, restored to bare hardware of another kind, and nobody touches
//! either of them.

use crate::lab::boot::{self, Started};
use crate::lab::fit::NEW_MAC;
use crate::lab::guest::Built;
use crate::lab::hardware::{Bus, Chipset, Firmware, Hardware};
use crate::lab::network::neighbour::Neighbour;
use crate::lab::network::watch::{LIMIT, Seen};
use crate::lab::network::{ADDRESS, Bridge, Server, Timeline};
use crate::lab::qemu::{Machine, Writes};
use crate::lab::{Scratch, guests, rescue};
use crate::run::{Failure, Result, While, output};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// The port of the bridge is down that long.
const OUTAGE: Duration = Duration::from_secs(60);
/// Who gives addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Dhcp {
    /// `unmoor serve`.
    Own,
    /// dnsmasq, which knows of no boot files; `unmoor serve` is a proxy beside it.
    Dnsmasq,
}

/// One cell.
pub(crate) struct Move {
    pub(crate) name: &'static str,
    /// Its guest's name; its own hardware is where it is captured.
    pub(crate) guest: &'static str,
    pub(crate) target: Hardware,
    pub(crate) dhcp: Dhcp,
    /// The job's `--firmware`.
    pub(crate) firmware: &'static str,
    /// What happens in the middle of the restore, and after which part of it.
    pub(crate) faults: &'static [(f64, Fault)],
}

/// What happens to a restore.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    /// The server is killed, and started again after some seconds.
    Server,
    /// The cable is out for a minute.
    Cable,
    /// The machine loses its power, and gets it back.
    Machine,
}

/// All of them.
pub(crate) const MOVES: &[Move] = &[
    Move {
        name: "network",
        guest: "ahci",
        target: target(Chipset::Q35, Firmware::Uefi, Bus::Nvme, "e1000e"),
        dhcp: Dhcp::Own,
        firmware: "uefi",
        faults: &[],
    },
    Move {
        name: "network-proxy",
        guest: "ahci",
        target: target(Chipset::Q35, Firmware::Bios, Bus::Virtio, "virtio-net-pci"),
        dhcp: Dhcp::Dnsmasq,
        firmware: "bios",
        faults: &[],
    },
    Move {
        name: "network-faults",
        guest: "ahci",
        target: target(Chipset::Q35, Firmware::Bios, Bus::Virtio, "virtio-net-pci"),
        dhcp: Dhcp::Own,
        firmware: "bios",
        faults: &[(0.2, Fault::Server), (0.4, Fault::Cable), (0.6, Fault::Machine)],
    },
];

const fn target(chipset: Chipset, firmware: Firmware, bus: Bus, nic: &'static str) -> Hardware {
    Hardware { chipset, firmware, bus, nic, mac: NEW_MAC, slot: 6 }
}

impl Move {
    /// A line for a person.
    pub(crate) fn title(&self) -> String {
        let Self { name, guest, target, dhcp, .. } = self;
        let by = match dhcp {
            Dhcp::Own => "our own DHCP",
            Dhcp::Dnsmasq => "dnsmasq's DHCP",
        };
        format!("{name}: {guest} over the network with {by} to {}", target.profile())
    }

    /// Captures, restores, boots, and compares what the guest says with what it said on its old hardware.
    pub(crate) fn run(&self, guest: &Built, unmoor: &Path) -> Result<Timeline> {
        let scratch = Scratch::new(self.name)?;
        let folder = scratch.path();
        let row = guests::guest(self.guest)?;
        let store = format!("dir:{}", folder.join("store").display());
        output(Command::new(unmoor).args(["images", "init", &store]))?;
        let bridge = Bridge::new(&format!("{ADDRESS}/24"))?;
        let _neighbour =
            (self.dhcp == Dhcp::Dnsmasq).then(|| Neighbour::start(&bridge, folder)).transpose()?;
        let environment = rescue::for_network(unmoor)?;
        let mut server =
            Server::start(&bridge, unmoor, folder, &self.configuration(folder, &environment, &store)?)?;
        let name = row.hostname;

        let old = row.hardware.mac.ok_or_else(|| Failure::new("the guest's adapter has no address"))?;
        let job = server.job(&["--machine", old, "capture", name])?;
        let mut machine = row.machine(&guest.disk, Writes::Dropped);
        machine.bridge = Some(bridge.port()?);
        machine.memory_mib = 1024;
        println!("  the old machine is switched on: {}", row.hardware.profile());
        let mut timeline = Timeline::new();
        let directory = folder.join("source");
        std::fs::create_dir(&directory).while_doing("making a folder")?;
        let mut running = machine.start(&directory)?;
        while let Seen::Going(_) = server.look(job, old, &mut running, &mut timeline)? {}
        drop(running);

        let new = self.target.mac.ok_or_else(|| Failure::new("the new adapter has no address"))?;
        let job = server.job(&[
            "--machine",
            new,
            "restore",
            name,
            "--profile",
            "auto",
            "--firmware",
            self.firmware,
            "--disk",
            "only",
        ])?;
        let disk = folder.join("disk.raw");
        let size = guest.disk.metadata().while_doing("reading the guest's disk")?.len() + (1 << 30);
        std::fs::File::create(&disk)?.set_len(size)?;
        let mut machine: Machine = self.target.machine(&disk, Writes::Kept);
        let port = bridge.port()?;
        machine.bridge = Some(port.clone());
        machine.memory_mib = 1024;
        println!("  bare hardware is switched on: {}", self.target.profile());
        let mut timeline = Timeline::new();
        let mut started: Started = boot::start(&machine, None)?;
        let mut faults = self.faults;
        while let Seen::Going(part) = server.look(job, new, &mut started.running, &mut timeline)? {
            let Some(((at, fault), rest)) = faults.split_first() else { continue };
            if part < *at {
                continue;
            }
            faults = rest;
            match fault {
                Fault::Server => {
                    server.kill()?;
                    timeline.mark("the server is killed");
                    std::thread::sleep(Duration::from_secs(5));
                    server.again()?;
                }
                Fault::Cable => {
                    bridge.set_link(&port, false)?;
                    timeline.mark("the cable is out");
                    std::thread::sleep(OUTAGE);
                    bridge.set_link(&port, true)?;
                    timeline.mark("the cable is in again");
                }
                Fault::Machine => {
                    drop(started);
                    timeline.mark("the machine loses its power");
                    check_dead(&disk)?;
                    started = boot::start(&machine, None)?;
                }
            }
        }
        if !faults.is_empty() {
            return Err(Failure::new(
                "the restore was over before all that was to happen to it had happened",
            ));
        }
        // Its own address, which it has had all along.
        while !timeline.has("its network answers") && !started.running.has_ended()? {
            if bridge.answers("10.0.2.77") {
                timeline.mark("its network answers");
            }
        }
        let proof = started.proof(LIMIT)?;
        timeline.mark("it has said how it is, and is off");
        proof.check_like(&guest.proof()?, &self.target, false)?;
        server.stop()?;
        Ok(timeline)
    }

    fn configuration(&self, folder: &Path, environment: &Path, store: &str) -> Result<String> {
        let dhcp = match self.dhcp {
            Dhcp::Own => format!(
                "mode = \"server\"\nrange = [\"10.0.2.100\", \"10.0.2.150\"]\nmask = \"255.255.255.0\"\nrouter = \"{ADDRESS}\""
            ),
            Dhcp::Dnsmasq => "mode = \"proxy\"".to_owned(),
        };
        let (state, environment) = (folder.join("state"), environment.display());
        let loaders = rescue::network_loaders()?;
        let (state, loaders) = (state.display(), loaders.display());
        Ok(format!(
            "state = \"{state}\"\n[network]\ninterface = \"bridge\"\naddress = \"{ADDRESS}\"\n[store]\nurl = \"{store}\"\n\
             [dhcp]\n{dhcp}\n[boot]\nfiles = [\"{loaders}\"]\n[rescue]\nfolder = \"{environment}\"\n"
        ))
    }
}

/// Fails if firmware would start a disk that is written by half: its first and last sectors hold the tables.
fn check_dead(disk: &Path) -> Result {
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::open(disk).while_doing("opening the disk")?;
    let size = file.metadata()?.len();
    let mut sectors = vec![0; 34 * 512];
    for at in [0, size - sectors.len() as u64] {
        file.read_exact_at(&mut sectors, at).while_doing("reading the disk")?;
        if sectors.iter().any(|byte| *byte != 0) {
            return Err(Failure::new(format!(
                "the disk is written by half, and has something to start at {at}"
            )));
        }
    }
    Ok(())
}
