// SPDX-License-Identifier: Apache-2.0
//! `unmoor agent` against a server that is told what to answer. What it does to disks is the lab's matter.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "tests")]

mod common;
#[path = "../pxe-boot/src/client/tests/fake.rs"]
#[allow(dead_code, reason = "each test uses a part")]
mod fake;

use std::collections::VecDeque;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::unmoor;
use fake::Fake;
use serde_json::{Value, json};

/// So long a test waits for what has to come.
const PATIENCE: Duration = Duration::from_secs(120);

struct Agent(Child);

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[derive(Default)]
struct Seen {
    registered: Option<Value>,
    jobs: VecDeque<Value>,
    done: Vec<Value>,
    log: Vec<String>,
}

#[test]
fn jobs_are_done_and_refused_and_a_stop_is_a_clean_end() {
    let seen: Arc<Mutex<Seen>> = Arc::default();
    let tasks = [
        json!({ "do": "idle" }),
        json!({ "do": "wipe", "disks": ["serial=no such disk"] }),
        json!({ "do": "wipe", "disks": [] }),
        json!({ "do": "capture", "name": "m", "disks": ["name=nosuchdisk"] }),
        json!({ "do": "reboot", "into": "disk" }),
    ];
    for (number, task) in tasks.iter().enumerate() {
        let job = json!({ "job": number, "task": task, "token": "t", "attempt": 0, "rate_limit": 0 });
        seen.lock().unwrap().jobs.push_back(job);
    }
    let told = seen.clone();
    let mut fake = Fake::start(
        &["elsewhere.example"],
        Arc::new(move |request| {
            assert!(request.certified);
            let mut seen = told.lock().unwrap();
            let body: Value = serde_json::from_slice(&request.body).unwrap_or_default();
            let lines = body["log"].as_array().into_iter().flatten();
            seen.log.extend(lines.map(|line| line["text"].as_str().unwrap().to_owned()));
            match request.path.split('?').next().unwrap() {
                "/v1/agent/register" => {
                    seen.registered = Some(body);
                    let answer = json!({ "machine": 1, "name": "m1", "code": "ABCD-EFGH", "approved": true, "heartbeat_seconds": 1 });
                    (200, answer.to_string().into_bytes())
                }
                "/v1/agent/heartbeat" => {
                    let orders =
                        json!({ "register": false, "approved": true, "cancel": false, "next_log": 0 });
                    (200, orders.to_string().into_bytes())
                }
                "/v1/agent/probe" => (200, vec![0; 1 << 20]),
                "/v1/agent/jobs/next" => match seen.jobs.pop_front() {
                    Some(job) => (200, job.to_string().into_bytes()),
                    None => {
                        drop(seen);
                        std::thread::sleep(Duration::from_millis(200));
                        (204, Vec::new())
                    }
                },
                path if path.ends_with("/done") => {
                    seen.done.push(body);
                    (204, Vec::new())
                }
                other => panic!("{other} is not asked for by these jobs"),
            }
        }),
    );
    let pin = pin_of(&fake.authority);
    let child = unmoor()
        .args(["agent", "--server", &fake.url(), "--pin", &pin, "--ca-url", &fake.ca_url()])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut agent = Agent(child);
    let begin = Instant::now();
    let count = |seen: &Arc<Mutex<Seen>>| seen.lock().unwrap().done.len();
    while count(&seen) < 2 {
        assert!(begin.elapsed() < PATIENCE, "the first jobs are not done");
        std::thread::sleep(Duration::from_millis(20));
    }
    // A server that starts again in the middle.
    fake.go();
    std::thread::sleep(Duration::from_millis(300));
    fake.come_back();
    while count(&seen) < tasks.len() {
        assert!(begin.elapsed() < PATIENCE, "the jobs are not done: {:?}", seen.lock().unwrap().done);
        std::thread::sleep(Duration::from_millis(20));
    }
    let pid = nix::unistd::Pid::from_raw(agent.0.id().cast_signed());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    let status = loop {
        assert!(begin.elapsed() < PATIENCE, "it does not stop");
        if let Some(status) = agent.0.try_wait().unwrap() {
            break status;
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    assert!(status.success(), "{status}");

    let seen = seen.lock().unwrap();
    let registered = seen.registered.as_ref().unwrap();
    assert_eq!(registered["rescue"], false);
    assert!(
        registered["facts"]["cpu_count"].as_u64().unwrap() > 0
            && registered["boot"].as_str().unwrap().len() == 32
    );
    assert_eq!(seen.done[0]["outcome"], "done");
    for done in &seen.done[1..] {
        assert!(done["outcome"]["refused"].is_string(), "{done}");
    }
    assert!(seen.done[1]["outcome"]["refused"].as_str().unwrap().contains("the machine has"));
    assert!(seen.log.iter().any(|line| line.contains("registered with")), "{:?}", seen.log);
}

#[test]
fn another_ca_than_the_pins_ends_it_with_a_refusal() {
    let fake = Fake::start(&["127.0.0.1"], Arc::new(|_| panic!("nothing may be asked")));
    let mut pin = pin_of(&fake.authority).into_bytes();
    pin[0] = if pin[0] == b'0' { b'1' } else { b'0' };
    let pin = String::from_utf8(pin).unwrap();
    common::run(&["agent", "--server", &fake.url(), "--pin", &pin, "--ca-url", &fake.ca_url()])
        .expect(3)
        .says(&["not the one that the pin stands for"]);
    common::run(&["agent", "--server", &fake.url(), "--pin", "12"]).expect(2);
    common::run(&["agent", "--server", "http://127.0.0.1", "--pin", &pin]).expect(2);
    common::run(&["agent", "--server", &fake.url()]).expect(2);
}

/// SHA-256 as another program has it.
fn pin_of(authority: &[u8]) -> String {
    use std::io::Write;
    let mut child =
        std::process::Command::new("sha256sum").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(authority).unwrap();
    let output = child.wait_with_output().unwrap();
    String::from_utf8(output.stdout).unwrap().split_whitespace().next().unwrap().to_owned()
}
