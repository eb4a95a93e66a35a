// SPDX-License-Identifier: Apache-2.0
//! The agents' own client.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::json;
use unmoor_images::ErrorKind;

use super::scene::{Agent, Scene, by_mac, register, wait_for};
use crate::api::{
    Approve, Assignment, Done, Event, Heartbeat, JobState, LogLine, Outcome, Presence, Progress, Task,
};
use crate::client::{Heart, Identity, Log};
use crate::server::store::{Gate, Reach};
use crate::server::{Admin, errors};

fn capture() -> Task {
    Task::Capture { name: "web01".into(), disks: Vec::new() }
}

fn beat(agent: &Agent, job: Option<u64>) -> crate::api::Orders {
    let boot = agent.identity.boot().to_owned();
    agent.client.heartbeat(&Heartbeat { boot, job, progress: None, log: Vec::new() }).unwrap()
}

fn next(agent: &Agent) -> Option<Assignment> {
    agent.client.next_job(&|| false, &|error| eprintln!("{}", error.chain())).unwrap()
}

fn finish(agent: &Agent, assignment: &Assignment, outcome: Outcome) {
    let job = agent.client.job(assignment, Arc::default());
    let done = Done { outcome, result: json!({ "a": 1 }), log: Vec::new() };
    job.done(&done, &|| false).unwrap();
}

fn key_of(scene: &Scene, agent: &Agent) -> [u8; 32] {
    scene.server().state.key_of(agent.identity.code()).unwrap()
}

#[test]
fn a_job_waits_for_its_machine_and_its_approval_and_ends_once() {
    let scene = Scene::start();
    let server = scene.server();
    let mut events = server.subscribe();
    let id = scene.add(by_mac(1), capture());
    assert_eq!(server.job(id).unwrap().machine, None);
    let agent = scene.agent(1);
    let machine = agent.registered.machine;
    assert_eq!(agent.registered.code, agent.identity.code());
    assert_eq!(agent.registered.name, "optiplex-7010-000001");
    assert!(!agent.registered.approved && !beat(&agent, None).approved);
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| next(&agent));
        wait_for("the reason", || {
            let job = server.job(id).unwrap();
            job.message.is_some_and(|message| message.contains(agent.identity.code()))
        });
        let job = server.job(id).unwrap();
        assert_eq!((job.state, job.machine), (JobState::Waiting, Some(machine)));
        let wrong = server.approve(machine, &Approve { code: "AAAA-AAAA".into() }).unwrap_err();
        assert_eq!(wrong.kind(), ErrorKind::Refused);
        let code = agent.identity.code().to_lowercase();
        assert!(server.approve(machine, &Approve { code }).unwrap().approved);
        let assignment = asking.join().unwrap().unwrap();
        assert_eq!((assignment.job, assignment.attempt, assignment.token.len()), (id, 0, 64));

        // The token counts for this job, with this key.
        let key = key_of(&scene, &agent);
        let state = &server.state;
        let access = Gate::admit(&**state, &key, &assignment.token, id).unwrap();
        assert_eq!(access.reach, Reach::Capture { machine: "web01".into() });
        let other = scene.agent(2);
        let other_key = key_of(&scene, &other);
        for (key, token, job) in [
            (other_key, assignment.token.as_str(), id),
            (key, "x", id),
            (key, assignment.token.as_str(), id + 1),
        ] {
            assert!(errors::is_denied(&state.admit(&key, token, job).unwrap_err()));
        }
        let stolen = other.client.job(&assignment, Arc::default());
        let done = Done { outcome: Outcome::Done, result: json!(null), log: Vec::new() };
        // To the client a job that it may not end is one that has ended.
        stolen.done(&done, &|| false).unwrap();
        assert_eq!(server.job(id).unwrap().state, JobState::Running);
        assert_eq!(server.forget(machine).unwrap_err().kind(), ErrorKind::Refused);

        finish(&agent, &assignment, Outcome::Done);
        finish(&agent, &assignment, Outcome::Failed("late".into()));
        let job = server.job(id).unwrap();
        assert_eq!((job.state, job.attempts, job.result), (JobState::Done, 1, json!({ "a": 1 })));
        assert!(errors::is_denied(&state.admit(&key, &assignment.token, id).unwrap_err()));
    });
    let again = server.retry_job(id).unwrap();
    assert_eq!((again.state, again.machine), (JobState::Waiting, Some(machine)));
    assert_eq!(next(&agent).unwrap().job, again.id);
    let mut states = Vec::new();
    while let Ok(event) = events.try_recv() {
        if let Event::Job { job } = &*event
            && job.id == id
        {
            states.push(job.state);
        }
    }
    states.dedup();
    assert_eq!(states, [JobState::Waiting, JobState::Running, JobState::Done]);
}

#[test]
fn a_job_goes_on_when_the_server_or_the_agent_has_started_again() {
    let mut scene = Scene::start();
    let agent = scene.agent(1);
    let code = agent.identity.code().to_owned();
    scene.server().approve(agent.registered.machine, &Approve { code }).unwrap();
    let id = scene.add(by_mac(1), Task::Wipe { disks: vec![crate::api::DiskRule("only".into())] });
    let first = next(&agent).unwrap();
    scene.restart();
    // The same agent is at it: its key is still approved, its token counts, nothing is given out twice.
    let orders = beat(&agent, Some(id));
    assert!(orders.approved && !orders.register && !orders.cancel);
    assert_eq!(scene.server().job(id).unwrap().state, JobState::Running);
    // An agent that lost the answer asks again.
    let second = next(&agent).unwrap();
    assert_eq!((second.job, second.attempt), (id, 1));
    assert_ne!(second.token, first.token);
    scene.pace.gone = Duration::from_secs(2);
    scene.restart();
    // The machine was switched off: its next agent has another key, and waits for the old one to be given up, then for approval.
    let after = scene.agent(1);
    assert_eq!(after.registered.machine, agent.registered.machine);
    assert!(!after.registered.approved);
    let server = scene.server();
    wait_for("the loss", || server.job(id).unwrap().state == JobState::Lost);
    let code = after.identity.code().to_owned();
    server.approve(after.registered.machine, &Approve { code }).unwrap();
    let third = next(&after).unwrap();
    assert_eq!((third.job, third.attempt), (id, 2));
    // The old one comes back, and hears that it is not its job any more.
    assert!(beat(&agent, Some(id)).cancel);
    finish(&agent, &second, Outcome::Done);
    assert_eq!(server.job(id).unwrap().state, JobState::Running);
    finish(&after, &third, Outcome::Failed("no disk".into()));
    let job = server.job(id).unwrap();
    assert_eq!((job.state, job.message.as_deref(), job.attempts), (JobState::Failed, Some("no disk"), 3));
}

#[test]
fn a_lost_agent_that_comes_back_goes_on_with_what_it_does() {
    let mut scene = Scene::start();
    scene.pace.gone = Duration::from_secs(5);
    scene.restart();
    let agent = scene.agent(1);
    let id = scene.add(by_mac(1), Task::Inspect);
    let server = scene.server();
    next(&agent).unwrap();
    wait_for("the loss", || server.job(id).unwrap().state == JobState::Lost);
    assert_eq!(server.machine(agent.registered.machine).unwrap().presence, Presence::Gone);
    assert!(!beat(&agent, Some(id)).cancel);
    let job = server.job(id).unwrap();
    assert_eq!((job.state, job.attempts), (JobState::Running, 1));
    assert_eq!(server.machine(agent.registered.machine).unwrap().presence, Presence::Here);
}

#[test]
fn jobs_come_one_after_the_other_and_are_given_up_where_they_are() {
    let scene = Scene::start();
    let agent = scene.agent(1);
    let jobs: Vec<u64> = (0..3).map(|_| scene.add(by_mac(1), Task::Inspect)).collect();
    let server = scene.server();
    let first = next(&agent).unwrap();
    assert_eq!(first.job, jobs[0]);
    assert_eq!(server.cancel_job(jobs[1]).unwrap().state, JobState::Cancelled);

    let log = Arc::new(Log::default());
    log.add("info", 1.5, "looking");
    log.add("nonsense", f64::NAN, "\u{1b}[31mred");
    let heart = Heart::start(&agent.client, &agent.register, agent.registered.clone(), log.clone()).unwrap();
    let cancelled = Arc::new(AtomicBool::new(false));
    heart.begin(first.job, cancelled.clone());
    heart.progress(Progress { phase: "inspect".into(), done: 1, total: 2, rate: 3 });
    heart.hurry();
    wait_for("progress", || {
        server.job(first.job).unwrap().progress.is_some_and(|progress| progress.done == 1)
    });
    let found = server.log(agent.registered.machine, 10).unwrap();
    let texts: Vec<(&str, &str)> =
        found.iter().map(|line| (line.level.as_str(), line.text.as_str())).collect();
    assert_eq!(texts, [("info", "looking"), ("info", " [31mred")]);
    assert_eq!(server.cancel_job(first.job).unwrap().state, JobState::Running);
    wait_for("the cancel", || cancelled.load(Ordering::Relaxed));
    heart.end();
    finish(&agent, &first, Outcome::Cancelled);
    assert_eq!(server.job(first.job).unwrap().state, JobState::Cancelled);
    assert_eq!(next(&agent).unwrap().job, jobs[2]);
    assert!(errors::is_missing(&server.cancel_job(99).unwrap_err()));
}

#[test]
fn another_agent_that_says_it_is_the_same_machine_gets_and_changes_nothing() {
    let scene = Scene::start();
    let server = scene.server();
    let agent = scene.agent(1);
    let machine = agent.registered.machine;
    server.approve(machine, &Approve { code: agent.identity.code().to_owned() }).unwrap();
    // The same marks; other disks.
    let identity = Identity::new().unwrap();
    let client = scene.client(&identity);
    let mut false_one = register(&identity, 1);
    false_one.disks = json!({ "sda": "mine" });
    let registered = client.register(&false_one, &|| false, &|_| {}).unwrap();
    assert_eq!((registered.machine, registered.approved), (machine, false));
    let shown = server.machine(machine).unwrap();
    assert_eq!((shown.code.as_deref(), shown.approved), (Some(agent.identity.code()), true));
    assert_eq!(shown.disks, json!(null));
    assert!(scene.said.lines.lock().unwrap().iter().any(|line| line.contains("another agent")));
    let id = scene.add(by_mac(1), Task::Inspect);
    let impostor = key_of(&scene, &Agent { identity, client, register: false_one, registered });
    let asked = server.state.ask(&impostor, None).unwrap();
    assert!(matches!(server.state.next(&impostor, asked).unwrap(), crate::server::state::Next::Wait(_)));
    assert_eq!(next(&agent).unwrap().job, id);
}

#[test]
fn log_lines_that_come_twice_are_kept_once_and_old_ones_go() {
    let mut scene = Scene::start();
    let agent = scene.agent(1);
    let line = |number| LogLine { number, seconds: 0.0, level: "info".into(), text: format!("{number}") };
    let send = |from: u64, to: u64| {
        let boot = agent.identity.boot().to_owned();
        let log = (from..to).map(line).collect();
        agent.client.heartbeat(&Heartbeat { boot, job: None, progress: None, log }).unwrap().next_log
    };
    assert_eq!((send(0, 3), send(1, 4)), (3, 4));
    scene.restart();
    assert_eq!(send(2, 500), 500);
    for from in (500..3500).step_by(500) {
        assert_eq!(send(from, from + 500), from + 500);
    }
    let kept = scene.server().log(agent.registered.machine, usize::MAX).unwrap();
    let numbers: Vec<u64> = kept.iter().map(|line| line.number).collect();
    assert_eq!(numbers, (1500..3500).collect::<Vec<u64>>());
}

#[test]
fn an_agent_waits_for_a_server_that_is_away_and_a_poll_ends_with_the_server() {
    let mut scene = Scene::start();
    let agent = scene.agent(1);
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| next(&agent));
        std::thread::sleep(Duration::from_millis(300));
        scene.restart();
        let id = scene.add(by_mac(1), Task::Idle);
        let found = asking.join().unwrap().or_else(|| next(&agent));
        assert_eq!(found.unwrap().job, id);
    });
}
