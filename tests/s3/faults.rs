// SPDX-License-Identifier: Apache-2.0
//! What networks and servers do wrong: captures and restores come through, or say what to do.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use unmoor_images::store::backend::{Backend, Patience, S3};

use crate::captures::{call, text};
use crate::common::{Scene, hash, noise, unmoor};
use crate::proxy::{Action, Proxy, Request};
use crate::server::{BUCKET, Server, environment, options};

/// `unmoor` that reaches the server through a proxy.
fn through(proxy: &Proxy) -> std::process::Command {
    let mut command = unmoor();
    command.envs(environment(&proxy.endpoint()));
    command
}

/// A disk of noise and text.
fn disk(scene: &Scene, mib: usize) -> std::path::PathBuf {
    let path = scene.path("disk.raw");
    let mut bytes = noise(mib << 20, 21);
    let text: Vec<u8> =
        b"a line of a log that says little\n".iter().copied().cycle().take(mib << 18).collect();
    bytes[..text.len()].copy_from_slice(&text);
    fs::write(&path, bytes).unwrap();
    path
}

#[test]
fn captures_and_restores_come_through_whatever_breaks_now_and_then() {
    let (scene, server) = (Scene::new(), Server::start());
    let disk = disk(&scene, 90);
    let broken = Arc::new(AtomicUsize::new(0));
    let count = broken.clone();
    let proxy = Proxy::start(server.port(), Duration::ZERO, move |request: &Request<'_>| {
        let action = match request.number % 11 {
            2 => Action::Status(503, "SlowDown"),
            4 => Action::Reset,
            6 => Action::Status(500, "InternalError"),
            8 => Action::Lose,
            // A listing carries no hash; what it names does.
            9 if request.method == "GET" && !request.path.contains('?') => Action::Flip(200),
            10 => Action::Cut(1000),
            _ => Action::Pass,
        };
        count.fetch_add(usize::from(action != Action::Pass), Ordering::Relaxed);
        action
    })
    .unwrap();
    let store = format!("s3://{BUCKET}/broken");
    let image = format!("{store}/web01");
    call(through(&proxy), &["images", "init", &store]).expect(0);
    call(through(&proxy), &["capture", text(&disk), &image]).expect(0);
    let before = broken.load(Ordering::Relaxed);
    assert!(before > 5, "{before}");
    // Without the proxy: what arrived is right.
    call(server.unmoor(), &["verify", &image]).expect(0);
    let back = scene.path("back.raw");
    call(through(&proxy), &["restore", "--yes", &image, text(&back)]).expect(0);
    assert_eq!(hash(&back), hash(&disk));
    call(through(&proxy), &["verify", &image]).expect(0);
    assert!(broken.load(Ordering::Relaxed) > before + 10);
    assert!(proxy.most_in_flight() <= 16, "{}", proxy.most_in_flight());
}

#[test]
fn a_server_that_is_down_for_a_while_is_waited_for() {
    let server = Server::start();
    let down = Arc::new(AtomicBool::new(true));
    let state = down.clone();
    let proxy = Proxy::start(server.port(), Duration::ZERO, move |request: &Request<'_>| {
        match (state.load(Ordering::Relaxed), request.number % 3) {
            (false, _) => Action::Pass,
            (true, 0) => Action::Status(503, "ServiceUnavailable"),
            (true, 1) => Action::Reset,
            (true, _) => Action::Hang(Duration::from_millis(300)),
        }
    })
    .unwrap();
    let mut options = options(&proxy.endpoint());
    options.patience.attempt = Duration::from_secs(5);
    let backend = S3::open_with(BUCKET, "down", &options).unwrap();
    let bytes = noise(20 << 20, 4);
    std::thread::scope(|scope| {
        let put = scope.spawn(|| backend.put("packs/ab/abcd", &bytes));
        let create = scope.spawn(|| backend.create("images/a/b.json", b"an image"));
        while proxy.requests() < 12 {
            std::thread::sleep(Duration::from_millis(10));
        }
        down.store(false, Ordering::Relaxed);
        put.join().unwrap().unwrap();
        assert!(create.join().unwrap().unwrap());
    });
    let mut back = vec![0; bytes.len()];
    backend.read("packs/ab/abcd", &mut back, 0).unwrap();
    assert!(back == bytes);
}

#[test]
fn requests_that_hang_are_made_again_while_others_go_on() {
    let server = Server::start();
    let proxy =
        Proxy::start(server.port(), Duration::ZERO, |request: &Request<'_>| match request.number % 4 {
            1 => Action::Hang(Duration::from_secs(600)),
            _ => Action::Pass,
        })
        .unwrap();
    let mut options = options(&proxy.endpoint());
    options.patience.attempt = Duration::from_secs(2);
    let backend = S3::open_with(BUCKET, "hung", &options).unwrap();
    let bytes = noise(40 << 20, 5);
    backend.put("packs/ab/abcd", &bytes).unwrap();
    assert!(backend.get("packs/ab/abcd", 64 << 20).unwrap().unwrap() == bytes);
}

#[test]
fn an_object_whose_creation_was_answered_into_the_void_counts_as_created() {
    let server = Server::start();
    let lost = AtomicUsize::new(0);
    let proxy = Proxy::start(server.port(), Duration::ZERO, move |request: &Request<'_>| {
        // The multipart upload's end as well: its second attempt finds no upload.
        let ends = request.method == "POST" && request.path.contains("uploadId=");
        let creates = request.method == "PUT" && request.path.contains("/images/");
        if (ends || creates) && lost.fetch_add(1, Ordering::Relaxed).is_multiple_of(2) {
            Action::Lose
        } else {
            Action::Pass
        }
    })
    .unwrap();
    let backend = S3::open_with(BUCKET, "lost", &options(&proxy.endpoint())).unwrap();
    assert!(backend.create("images/a/b.json", b"an image").unwrap());
    assert!(!backend.create("images/a/b.json", b"another").unwrap());
    assert_eq!(backend.get("images/a/b.json", 99).unwrap().unwrap(), b"an image");
    let bytes = noise(17 << 20, 6);
    backend.put("packs/ab/abcd", &bytes).unwrap();
    assert!(backend.get("packs/ab/abcd", 64 << 20).unwrap().unwrap() == bytes);
}

#[test]
fn a_server_without_conditions_on_writing_still_keeps_what_is_there() {
    let server = Server::start();
    let refused = Arc::new(AtomicUsize::new(0));
    let count = refused.clone();
    let proxy = Proxy::start(server.port(), Duration::ZERO, move |request: &Request<'_>| {
        // The first attempt to write carries the condition.
        let first = request.method == "PUT" && count.fetch_add(1, Ordering::Relaxed) == 0;
        if first { Action::Status(501, "NotImplemented") } else { Action::Pass }
    })
    .unwrap();
    let backend = S3::open_with(BUCKET, "old", &options(&proxy.endpoint())).unwrap();
    assert!(backend.create("images/a/b.json", b"an image").unwrap());
    assert!(!backend.create("images/a/b.json", b"another").unwrap());
    assert_eq!(backend.get("images/a/b.json", 99).unwrap().unwrap(), b"an image");
    assert_eq!(refused.load(Ordering::Relaxed), 2);
}

#[test]
fn what_will_not_pass_is_said_at_once_with_what_to_do() {
    let server = Server::start();
    for (status, code, words) in [
        (403, "AccessDenied", "s3:ListBucket"),
        (403, "InvalidAccessKeyId", "check AWS_ACCESS_KEY_ID"),
        (403, "SignatureDoesNotMatch", "check AWS_SECRET_ACCESS_KEY"),
        (403, "RequestTimeTooSkewed", "clock of this machine"),
        (400, "ExpiredToken", "get new credentials"),
        (400, "AuthorizationHeaderMalformed", "AWS_REGION"),
        (301, "PermanentRedirect", "AWS_REGION"),
    ] {
        let proxy =
            Proxy::start(server.port(), Duration::ZERO, move |_: &Request<'_>| Action::Status(status, code))
                .unwrap();
        call(through(&proxy), &["images", "list", &format!("s3://{BUCKET}/x")]).expect(1).says(&[words]);
        assert_eq!(proxy.requests(), 1, "{code}");
    }
    let run = |bucket: &str| call(server.unmoor(), &["images", "list", &format!("s3://{bucket}/x")]);
    run("no-such-bucket").expect(1).says(&["there is no bucket no-such-bucket", "make it"]);
    run(BUCKET).expect(3).says(&["unmoor images init"]);
    let mut nobody = unmoor();
    nobody.env_clear().env("AWS_EC2_METADATA_DISABLED", "true");
    call(nobody, &["images", "list", "s3://bucket/x"]).expect(2).says(&["AWS_ACCESS_KEY_ID", "AWS_PROFILE"]);
}

#[test]
fn a_server_that_nobody_answers_for_is_given_up_soon() {
    // A port that is free again, so that connections are refused.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut options = options(&format!("http://127.0.0.1:{port}"));
    options.patience = Patience { first_contact: Duration::from_millis(500), ..Patience::default() };
    let backend = S3::open_with(BUCKET, "", &options).unwrap();
    let error = backend.get("store.json", 100).unwrap_err().chain();
    assert!(error.contains("cannot be reached") && error.contains("AWS_ENDPOINT_URL"), "{error}");
}

#[test]
fn latency_costs_little_and_no_more_than_sixteen_requests_are_in_flight() {
    let (scene, server) = (Scene::new(), Server::start());
    let disk = disk(&scene, 120);
    let proxy =
        Proxy::start(server.port(), Duration::from_millis(50), |_: &Request<'_>| Action::Pass).unwrap();
    let store = format!("s3://{BUCKET}/slow");
    let image = format!("{store}/web01");
    call(through(&proxy), &["images", "init", &store]).expect(0);
    call(through(&proxy), &["capture", text(&disk), &image]).expect(0);
    let before = proxy.requests();
    let back = scene.path("back.raw");
    call(through(&proxy), &["restore", "--yes", &image, text(&back)]).expect(0);
    assert_eq!(hash(&back), hash(&disk));
    // One request for every megabyte at least would be one trip for every slab of the copy.
    let requests = proxy.requests() - before;
    assert!(requests < 90, "{requests}");
    let most = proxy.most_in_flight();
    assert!((4..=16).contains(&most), "{most}");
}
