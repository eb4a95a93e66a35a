// SPDX-License-Identifier: Apache-2.0
//! A fleet that is made up: machines with hostile and long names, a restore that runs, jobs that were refused.

use std::sync::{Arc, Mutex};

use serde_json::json;
use unmoor_images::manifest::{DiskFacts, Firmware, MachineFacts, NicFacts};
use unmoor_images::store::{Added, Summary};
use unmoor_images::{Error, Result};

use crate::api::{
    Approve, DiskRule, Event, Job, JobState, LogLine, Machine, NewJob, Presence, Progress, Selector, Task,
    Verdict,
};
use crate::server::{Admin, Image, Subscription};

pub(super) const HOSTILE: &str = "<script>alert('x')</script>\"'><img src=x onerror=alert(1)>\u{202e}&amp;";

pub(super) struct Fleet {
    pub(super) machines: Mutex<Vec<Machine>>,
    pub(super) jobs: Mutex<Vec<Job>>,
    images: Vec<Image>,
    pub(super) events: tokio::sync::broadcast::Sender<Arc<Event>>,
}

fn disk(name: &str, gib: u64, serial: &str, transport: &str) -> DiskFacts {
    DiskFacts {
        name: name.into(),
        size_bytes: gib << 30,
        sector_size: 512,
        model: Some("Samsung SSD 980".into()),
        serial: Some(serial.into()),
        wwn: Some(format!("eui.{serial}")),
        transport: Some(transport.into()),
        removable: transport == "usb",
        driver: Some("nvme".into()),
        ..DiskFacts::default()
    }
}

pub(super) fn job(id: u64, machine: u64, task: Task, state: JobState) -> Job {
    let time = |minute: u64| format!("2026-11-25T12:{minute:02}:00Z");
    let ended = !matches!(state, JobState::Waiting | JobState::Running | JobState::Lost);
    Job {
        id,
        selector: Selector { id: Some(machine), ..Selector::default() },
        machine: Some(machine),
        task,
        state,
        attempts: 1,
        created: time(1),
        began: Some(time(2)),
        ended: ended.then(|| time(9)),
        progress: None,
        message: None,
        result: json!(null),
        rate_limit: 0,
    }
}

fn machine(id: u64, name: &str, presence: Presence) -> Machine {
    Machine {
        id,
        name: name.into(),
        group: Some("rack-1".into()),
        macs: vec![format!("52:54:00:00:00:{id:02x}")],
        presence,
        first_seen: "2026-11-24T08:00:00Z".into(),
        last_seen: "2026-11-25T12:30:00Z".into(),
        address: Some(format!("10.0.0.{id}")),
        code: Some("K7QM-2XPA".into()),
        approved: true,
        facts: Some(MachineFacts {
            architecture: "x86_64".into(),
            vendor: Some("Dell Inc.".into()),
            product: Some("PowerEdge R650".into()),
            serial: Some(format!("CZ12{id}")),
            uuid: Some("4c4c4544-0042-3510-8056-b9c04f4d3732".into()),
            firmware: Firmware::Uefi,
            secure_boot: Some(true),
            cpu_model: Some("Intel(R) Xeon(R) Silver 4310 CPU @ 2.10GHz".into()),
            cpu_count: 24,
            memory_bytes: 64 << 30,
            disks: vec![disk("nvme0n1", 477, "S649NX0", "nvme")],
            nics: vec![NicFacts {
                name: "eno1".into(),
                mac: Some(format!("52:54:00:00:00:{id:02x}")),
                driver: Some("tg3".into()),
                link: true,
                speed_mbit: Some(1000),
                ..NicFacts::default()
            }],
            ..MachineFacts::default()
        }),
        disks: json!({}),
        verdict: Some(Verdict {
            link_mbit: Some(1000),
            from_server: Some(112 << 20),
            disks: vec![("nvme0n1".into(), 1900 << 20)],
            concerns: vec![],
        }),
        job: None,
    }
}

fn restore(image: &str) -> Task {
    Task::Restore {
        image: image.into(),
        profile: "auto".into(),
        firmware: "auto".into(),
        disks: vec![DiskRule("only".into())],
        removable: false,
        then: "reboot".into(),
    }
}

impl Fleet {
    pub(super) fn empty() -> Self {
        Self {
            machines: Mutex::default(),
            jobs: Mutex::default(),
            images: vec![],
            events: tokio::sync::broadcast::channel(16).0,
        }
    }

    pub(super) fn new() -> Self {
        let mut running = job(7, 1, restore("web01@20261124T215000Z"), JobState::Running);
        running.progress =
            Some(Progress { phase: "restore".into(), done: 29 << 30, total: 69 << 30, rate: 812 << 20 });
        let mut refused = job(6, 2, restore("db01"), JobState::Refused);
        refused.message = Some("choosing a disk by \"only\": 2 disks fit; the machine has sda (953869 MiB, WD-1), sdb (953869 MiB, WD-2)".into());
        let mut expected = job(8, 0, restore("web02"), JobState::Waiting);
        expected.machine = None;
        expected.began = None;
        expected.selector = Selector { mac: Some("52:54:00:aa:bb:cc".into()), ..Selector::default() };
        expected.message = Some("waits for its machine".into());
        let mut done = job(5, 3, Task::Capture { name: "web02".into(), disks: vec![] }, JobState::Done);
        done.result = json!({ "image": "web02@20261124T215000Z", "read_bytes": 123456 });

        let mut web01 = machine(1, "web01", Presence::Here);
        web01.job = Some(running.clone());
        let mut hostile = machine(2, HOSTILE, Presence::Here);
        hostile.approved = false;
        hostile.job = Some(refused.clone());
        if let Some(facts) = &mut hostile.facts {
            facts.disks = vec![
                disk("sda", 931, "WD-1", "sata"),
                disk("sdb", 931, "WD-2", "sata"),
                disk("sdc", 29, "STICK", "usb"),
            ];
            facts.product = Some(HOSTILE.into());
        }
        if let Some(verdict) = &mut hostile.verdict {
            verdict.concerns = vec!["the link of eno1 to the server has 100 Mbit/s".into()];
        }
        let mut gone = machine(3, "web02", Presence::Gone);
        gone.job = Some(done.clone());
        let long = "a-very-long-name-that-somebody-gave-".repeat(6);
        let mut booting = machine(4, "Standard-PC-b9c04f", Presence::Booting);
        booting.facts = None;
        booting.code = None;
        booting.approved = false;
        booting.verdict = None;
        let machines = vec![
            web01,
            hostile,
            gone,
            booting,
            machine(5, &long, Presence::Here),
            machine(6, "mail", Presence::Here),
        ];
        let images = (1..=30u64)
            .map(|day| {
                let machine = ["web01", "db01", "mail"][day as usize % 3].to_owned();
                Image {
                    name: format!("{machine}@202611{day:02}T215000Z"),
                    summary: Summary {
                        machine,
                        created: format!("2026-11-{day:02}T21:50:00Z"),
                        size_bytes: 477 << 30,
                        data_bytes: 69 << 30,
                        added: Added {
                            read_bytes: 69 << 30,
                            new_bytes: day << 27,
                            stored_bytes: day << 26,
                            packs: 3,
                        },
                    },
                }
            })
            .rev()
            .collect();
        let events = tokio::sync::broadcast::channel(64).0;
        Self {
            machines: Mutex::new(machines),
            jobs: Mutex::new(vec![expected, running, refused, done]),
            images,
            events,
        }
    }
}

fn missing<T>() -> Result<T> {
    Err(crate::server::errors::missing("asking for it"))
}

impl Admin for Fleet {
    fn machines(&self) -> Result<Vec<Machine>> {
        Ok(self.machines.lock().unwrap().clone())
    }

    fn machine(&self, id: u64) -> Result<Machine> {
        self.machines()?.into_iter().find(|machine| machine.id == id).map_or_else(missing, Ok)
    }

    fn log(&self, _: u64, _: usize) -> Result<Vec<LogLine>> {
        let line = |number: u64, level: &str, text: &str| LogLine {
            number,
            seconds: number as f64 * 0.731,
            level: level.into(),
            text: text.into(),
        };
        let mut lines = vec![
            line(0, "info", "unmoor 0.1.0"),
            line(1, "warning", HOSTILE),
            line(2, "error", "no carrier"),
        ];
        lines.extend((3..60).map(|number| line(number, "info", "eno1: waiting for a lease")));
        Ok(lines)
    }

    fn approve(&self, id: u64, approve: &Approve) -> Result<Machine> {
        let mut machines = self.machines.lock().unwrap();
        let Some(machine) = machines.iter_mut().find(|machine| machine.id == id) else { return missing() };
        if machine.code.as_ref() != Some(&approve.code) {
            return Err(Error::refused("approving a key", "the code is another one"));
        }
        machine.approved = true;
        let _ = self.events.send(Arc::new(Event::Machine { machine: Box::new(machine.clone()) }));
        Ok(machine.clone())
    }

    fn forget(&self, id: u64) -> Result<()> {
        self.machines.lock().unwrap().retain(|machine| machine.id != id);
        Ok(())
    }

    fn jobs(&self, most: usize) -> Result<Vec<Job>> {
        Ok(self.jobs.lock().unwrap().iter().take(most).cloned().collect())
    }

    fn job(&self, id: u64) -> Result<Job> {
        self.jobs(1000)?.into_iter().find(|job| job.id == id).map_or_else(missing, Ok)
    }

    fn add_job(&self, new: &NewJob) -> Result<Job> {
        let mut jobs = self.jobs.lock().unwrap();
        let id = jobs.iter().map(|job| job.id).max().unwrap_or(0) + 1;
        let mut made = job(id, new.machine.id.unwrap_or(0), new.task.clone(), JobState::Waiting);
        made.machine = new.machine.id;
        made.selector = new.machine.clone();
        jobs.insert(0, made.clone());
        Ok(made)
    }

    fn cancel_job(&self, id: u64) -> Result<Job> {
        let mut jobs = self.jobs.lock().unwrap();
        let Some(job) = jobs.iter_mut().find(|job| job.id == id) else { return missing() };
        job.state = JobState::Cancelled;
        Ok(job.clone())
    }

    fn retry_job(&self, id: u64) -> Result<Job> {
        let old = self.job(id)?;
        self.add_job(&NewJob { machine: old.selector, task: old.task, rate_limit: 0 })
    }

    fn images(&self) -> Result<Vec<Image>> {
        Ok(self.images.clone())
    }

    fn subscribe(&self) -> Subscription {
        self.events.subscribe()
    }
}
