// SPDX-License-Identifier: Apache-2.0
//! The client against a server that is told what to answer.
#![allow(clippy::unwrap_used, reason = "tests")]

pub(crate) mod disk;
pub(crate) mod fake;
mod store;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::json;
use unmoor_images::ErrorKind;
use unmoor_images::manifest::MachineFacts;

use super::*;
use crate::api::{Assignment, Done, Heartbeat, Outcome, Progress, Register, Registered, Task};
use fake::{Answer, Answering, Fake};

/// So long a test waits for what has to come.
const PATIENCE: Duration = Duration::from_secs(60);

fn pinned(fake: &Fake) -> Options {
    let trust = Trust::Pin { pin: Pin::of(&fake.authority), url: Some(fake.ca_url()) };
    Options { server: fake.url(), trust }
}

fn register(identity: &Identity) -> Register {
    Register {
        tool: "unmoor test".into(),
        boot: identity.boot().into(),
        rescue: false,
        facts: MachineFacts::default(),
        disks: serde_json::Value::Null,
        verdict: None,
    }
}

fn registered() -> Answer {
    let answer =
        json!({ "machine": 7, "name": "m7", "code": "ABCD-EFGH", "approved": false, "heartbeat_seconds": 1 });
    (200, answer.to_string().into_bytes())
}

fn assignment() -> Assignment {
    Assignment { job: 3, task: Task::Idle, token: "token-3".into(), attempt: 0, rate_limit: 0 }
}

fn wait_for(what: &str, condition: impl Fn() -> bool) {
    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed() < PATIENCE, "{what} does not come");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn only_the_ca_that_the_pin_means_is_trusted() {
    let answering: Arc<Answering> = Arc::new(|request| {
        assert!(request.certified, "the agent shows no certificate");
        registered()
    });
    // A name in the certificate that is not the one of the address: the pin says who it is.
    let fake = Fake::start(&["unmoor.example"], answering.clone());
    let other = Fake::start(&["127.0.0.1"], answering);
    let identity = Identity::new().unwrap();
    let client = Client::new(&pinned(&fake), &identity).unwrap();
    let found = client.register(&register(&identity), &|| false, &|_| {}).unwrap();
    assert_eq!((found.machine, found.name.as_str()), (7, "m7"));

    // Another CA than the pin's is refused before anything is sent.
    let trust = Trust::Pin { pin: Pin::of(&other.authority), url: Some(fake.ca_url()) };
    let refused = Client::new(&Options { server: fake.url(), trust }, &identity).err().unwrap();
    assert_eq!(refused.kind(), ErrorKind::Refused);
    // The right CA, and a server that has no certificate of it.
    let trust = Trust::Pin { pin: Pin::of(&fake.authority), url: Some(fake.ca_url()) };
    let client = Client::new(&Options { server: other.url(), trust }, &identity).unwrap();
    let heartbeat = Heartbeat { boot: String::new(), job: None, progress: None, log: Vec::new() };
    let error = client.heartbeat(&heartbeat).unwrap_err().chain();
    assert!(error.contains("certificate"), "{error}");

    // With a file names count, as a CA of a company's has many servers.
    let folder = tempfile::tempdir().unwrap();
    for (fake, right) in [(&fake, false), (&other, true)] {
        let path = folder.path().join("ca.pem");
        std::fs::write(&path, &fake.pem).unwrap();
        let client =
            Client::new(&Options { server: fake.url(), trust: Trust::File(path) }, &identity).unwrap();
        let failed = client.heartbeat(&heartbeat).unwrap_err().chain();
        assert_eq!(failed.contains("certificate"), !right, "{failed}");
    }
}

#[test]
fn a_code_is_the_beginning_of_the_keys_hash_and_a_pin_is_read_as_openssl_prints_it() {
    // SHA-256 of nothing begins with e3b0c44298; in base32 that is 4OYMIQUY.
    assert_eq!(short_code(b""), "4OYM-IQUY");
    let (one, two) = (Identity::new().unwrap(), Identity::new().unwrap());
    assert!(one.code() != two.code() && one.boot() != two.boot() && one.boot().len() == 32);
    let colons = Pin::of(b"x").0.map(|byte| format!("{byte:02X}")).join(":");
    assert_eq!(Pin::parse(&colons).unwrap(), Pin::of(b"x"));
    for wrong in ["", "00", &"0".repeat(63), &"0".repeat(65), &"g".repeat(64), &"0g".repeat(64)] {
        assert_eq!(Pin::parse(wrong).unwrap_err().kind(), ErrorKind::Usage, "{wrong}");
    }
    for wrong in ["http://h", "h", "https://", "https://h/path", "https://h?x"] {
        assert_eq!(base(wrong).unwrap_err().kind(), ErrorKind::Usage, "{wrong}");
    }
    assert_eq!(base("https://h:8443/").unwrap(), "https://h:8443");
}

#[test]
fn requests_outlast_a_server_that_goes_away_and_end_when_they_are_told() {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    let mut fake = Fake::start(
        &["127.0.0.1"],
        Arc::new(move |request| match counted.fetch_add(1, Ordering::Relaxed) {
            // Cut off, then not ready, then there.
            0 => (0, Vec::new()),
            1 => (503, Vec::new()),
            _ if request.path.ends_with("/done") => {
                assert_eq!(request.bearer.as_deref(), Some("token-3"));
                (204, Vec::new())
            }
            _ => (200, serde_json::to_vec(&assignment()).unwrap()),
        }),
    );
    let identity = Identity::new().unwrap();
    let client = Client::new(&pinned(&fake), &identity).unwrap();
    assert_eq!(client.next_job(&|| false, &|_| {}).unwrap(), Some(assignment()));
    assert!(count.load(Ordering::Relaxed) >= 3);

    fake.go();
    let stop = AtomicBool::new(false);
    let failures = AtomicUsize::new(0);
    let counting = |_: &Error| {
        failures.fetch_add(1, Ordering::Relaxed);
    };
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| client.next_job(&|| stop.load(Ordering::Relaxed), &counting));
        wait_for("a failure", || failures.load(Ordering::Relaxed) >= 2);
        fake.come_back();
        assert_eq!(asking.join().unwrap().unwrap(), Some(assignment()));
    });

    let cancelled = Arc::new(AtomicBool::new(false));
    let job = client.job(&assignment(), cancelled.clone());
    let done = Done { outcome: Outcome::Done, result: json!(null), log: Vec::new() };
    job.done(&done, &|| false).unwrap();
    fake.go();
    // Bounded: it fails by itself. Cancelled: at once.
    let impatient = job.clone().patient(Patience::For(Duration::from_millis(500)));
    assert_eq!(impatient.get_bytes("image", 10, "asking").unwrap_err().kind(), ErrorKind::Io);
    cancelled.store(true, Ordering::Relaxed);
    assert_eq!(job.get_bytes("image", 10, "asking").unwrap_err().kind(), ErrorKind::Cancelled);
}

#[test]
fn what_the_server_says_is_told_with_its_kind() {
    let fake = Fake::start(
        &["127.0.0.1"],
        Arc::new(|request| match request.path.contains("image") {
            true => (409, br#"{"kind":"refused","message":"the image is being removed"}"#.to_vec()),
            false => (401, br#"{"kind":"unauthorized","message":"the token has ended"}"#.to_vec()),
        }),
    );
    let client = Client::new(&pinned(&fake), &Identity::new().unwrap()).unwrap();
    let job = client.job(&assignment(), Arc::default());
    let refused = job.get_bytes("image", 10, "asking").unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Refused);
    assert!(refused.chain().contains("the server says: the image is being removed"));
    // A token may end when much is written: that is no refusal.
    assert_eq!(job.get_bytes("other", 10, "asking").unwrap_err().kind(), ErrorKind::Io);
}

#[test]
fn the_heart_tells_progress_and_log_registers_again_and_hears_a_cancel() {
    #[derive(Default)]
    struct Seen {
        beats: Vec<Heartbeat>,
        registered: usize,
        lines: Vec<u64>,
    }
    let seen: Arc<Mutex<Seen>> = Arc::default();
    let told = seen.clone();
    let fake = Fake::start(
        &["127.0.0.1"],
        Arc::new(move |request| {
            let mut seen = told.lock().unwrap();
            if request.path.ends_with("register") {
                seen.registered += 1;
                return registered();
            }
            let beat: Heartbeat = serde_json::from_slice(&request.body).unwrap();
            seen.beats.push(beat.clone());
            // As after a restart without memory.
            let forget = seen.registered == 0;
            if !forget {
                let known = seen.lines.len() as u64;
                seen.lines.extend(beat.log.iter().map(|line| line.number).filter(|number| *number >= known));
            }
            let cancel = beat.progress.is_some();
            let orders = json!({ "register": forget, "approved": true, "cancel": cancel, "next_log": seen.lines.len() });
            (200, orders.to_string().into_bytes())
        }),
    );
    let identity = Identity::new().unwrap();
    let client = Client::new(&pinned(&fake), &identity).unwrap();
    let log = Arc::new(Log::default());
    for number in 0..1200 {
        log.add("info", 0.5, &format!("line {number}"));
    }
    let first: Registered = serde_json::from_slice(&registered().1).unwrap();
    let heart = Heart::start(&client, &register(&identity), first, log.clone()).unwrap();
    let cancel = Arc::new(AtomicBool::new(false));
    heart.begin(3, cancel.clone());
    heart.hurry();
    wait_for("the log", || {
        heart.hurry();
        seen.lock().unwrap().lines.len() == 1200
    });
    assert!(!cancel.load(Ordering::Relaxed));
    heart.progress(Progress { phase: "capture".into(), done: 1, total: 2, rate: 1 });
    heart.hurry();
    wait_for("the cancel", || cancel.load(Ordering::Relaxed));
    assert!(heart.is_approved() && log.is_empty());
    drop(heart);
    let seen = seen.lock().unwrap();
    assert_eq!((seen.registered, seen.lines.clone()), (1, (0..1200).collect::<Vec<u64>>()));
    assert!(seen.beats.iter().all(|beat| beat.log.len() <= 500 && beat.boot == identity.boot()));
}

#[test]
fn a_log_that_nobody_takes_loses_its_oldest_lines_and_counts_on() {
    let log = Log::default();
    for number in 0..6000 {
        log.add("info", 0.0, &format!("{number}{}", "ä".repeat(3000)));
    }
    let first = log.batch().first().cloned().unwrap();
    assert_eq!(first.number, 1000);
    assert!(first.text.len() <= 4096 && first.text.starts_with("1000ä"));
    log.arrived(5999);
    assert_eq!(log.batch().len(), 1);
    log.arrived(u64::MAX);
    log.add("info", 0.0, "next");
    assert_eq!(log.batch()[0].number, 6000);
}
