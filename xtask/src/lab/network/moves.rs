// SPDX-License-Identifier: Apache-2.0
//! A machine moves over the network: captured from where it is, restored to bare hardware of another kind, and nobody touches
//! either of them.

use crate::lab::boot::{self, Started};
use crate::lab::fit::NEW_MAC;
use crate::lab::guest::Built;
use crate::lab::hardware::{Bus, Chipset, Firmware, Hardware};
use crate::lab::network::{Bridge, Server, Timeline};
use crate::lab::qemu::{Machine, Running, Writes};
use crate::lab::{Scratch, guests, rescue};
use crate::run::{Failure, Result, While, output};
use serde_json::Value;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// From power on until a job has ended: two minutes on idle processors.
const LIMIT: Duration = Duration::from_secs(1500);
/// The server's address on its bridge: what QEMU's own network has as its gateway, which the guests expect to answer.
const ADDRESS: &str = "10.0.2.2";

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
}

/// All of them.
pub(crate) const MOVES: &[Move] = &[
    Move {
        name: "network",
        guest: "ahci",
        target: target(Chipset::Q35, Firmware::Uefi, Bus::Nvme, "e1000e"),
        dhcp: Dhcp::Own,
        firmware: "uefi",
    },
    Move {
        name: "network-proxy",
        guest: "ahci",
        target: target(Chipset::Q35, Firmware::Bios, Bus::Virtio, "virtio-net-pci"),
        dhcp: Dhcp::Dnsmasq,
        firmware: "bios",
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
        let server =
            Server::start(&bridge, unmoor, folder, &self.configuration(folder, &environment, &store))?;
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
        server.watch(job, old, &mut running, &mut timeline)?;
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
        machine.bridge = Some(bridge.port()?);
        machine.memory_mib = 1024;
        println!("  bare hardware is switched on: {}", self.target.profile());
        let mut timeline = Timeline::new();
        let mut started: Started = boot::start(&machine, None)?;
        server.watch(job, new, &mut started.running, &mut timeline)?;
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

    fn configuration(&self, folder: &Path, environment: &Path, store: &str) -> String {
        let dhcp = match self.dhcp {
            Dhcp::Own => format!(
                "[dhcp]\nmode = \"server\"\nrange = [\"10.0.2.100\", \"10.0.2.150\"]\nnetmask = \"255.255.255.0\"\nrouter = \"{ADDRESS}\"\n"
            ),
            Dhcp::Dnsmasq => "[dhcp]\nmode = \"proxy\"\n".to_owned(),
        };
        format!(
            "state = \"{}\"\nstore = \"{store}\"\nrescue = \"{}\"\naddress = \"{ADDRESS}\"\ninterface = \"bridge\"\n{dhcp}",
            folder.join("state").display(),
            environment.display(),
        )
    }
}

/// Another DHCP server, which gives addresses and nothing else.
struct Neighbour(Child);

impl Neighbour {
    fn start(bridge: &Bridge, folder: &Path) -> Result<Self> {
        let log = std::fs::File::create(folder.join("dnsmasq.log")).while_doing("creating dnsmasq.log")?;
        let mut command = bridge.command("dnsmasq");
        command.args([
            "--keep-in-foreground",
            "--port=0",
            "--interface=bridge",
            "--bind-interfaces",
            "--no-resolv",
        ]);
        command.args([
            "--dhcp-range=10.0.2.100,10.0.2.150,1h",
            "--log-facility=-",
            "--log-dhcp",
            "--no-hosts",
        ]);
        command.arg("--conf-file=/dev/null").arg(leases(folder));
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        Ok(Self(command.spawn().while_doing("starting dnsmasq")?))
    }
}

fn leases(folder: &Path) -> String {
    format!("--dhcp-leasefile={}", folder.join("dnsmasq.leases").display())
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Server<'_> {
    /// Adds a job; its number.
    pub(crate) fn job(&self, words: &[&str]) -> Result<u64> {
        let mut command = vec!["jobs", "add"];
        command.extend(words);
        let said = self.ask(&command)?;
        said["id"].as_u64().ok_or_else(|| Failure::new(format!("no job was made: {said}")))
    }

    /// Waits until the job has ended well; approves its machine's key by the code that its console shows.
    pub(crate) fn watch(
        &self,
        job: u64,
        mac: &str,
        running: &mut Running,
        timeline: &mut Timeline,
    ) -> Result {
        let number = job.to_string();
        let what = |running: &Running| {
            format!("; the console:\n{}\nthe server:\n{}", running.console(20), self.said(30))
        };
        loop {
            let said = self.ask(&["jobs", "show", &number])?;
            let machine = self.machine(mac)?;
            match machine["presence"].as_str() {
                Some("booting") => timeline.mark("the server is asked what to start"),
                Some("here") => timeline.mark("the rescue environment has registered"),
                _ => {}
            }
            let console = running.console(400);
            if console.contains("is up: PID 1 began") {
                timeline.mark("the rescue environment is up");
            }
            if machine["approved"] == false
                && let (Some(id), Some(code)) = (machine["id"].as_u64(), machine["code"].as_str())
            {
                // What an administrator compares.
                if console.contains(code) {
                    self.ask(&["machines", "approve", &id.to_string(), code])?;
                    timeline.mark("its key is approved");
                }
            }
            match said["state"].as_str() {
                Some("running") => timeline.mark("the job runs"),
                Some("done") => {
                    timeline.mark("the job is done");
                    return Ok(());
                }
                Some("waiting" | "lost") => {}
                _ => return Err(Failure::new(format!("the job ended otherwise: {said}{}", what(running)))),
            }
            if running.has_ended()? {
                return Err(Failure::new(format!("the machine went off: {said}{}", what(running))));
            }
            if running.elapsed() > LIMIT {
                return Err(Failure::new(format!("the job does not end: {said}{}", what(running))));
            }
            std::thread::sleep(Duration::from_millis(500));
        }
    }

    fn machine(&self, mac: &str) -> Result<Value> {
        let said = self.ask(&["machines", "list"])?;
        let rows = said["machines"].as_array().cloned().unwrap_or_default();
        let has = |row: &Value| row["macs"].as_array().is_some_and(|macs| macs.iter().any(|one| one == mac));
        Ok(rows.into_iter().find(has).unwrap_or(Value::Null))
    }
}
