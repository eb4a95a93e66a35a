// SPDX-License-Identifier: Apache-2.0
//! curl and openssl, and clients that mean no good.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::scene::{Scene, by_mac, openssl};
use crate::api::Task;

/// A key and a certificate that openssl makes.
fn certificate(scene: &Scene) -> (String, String) {
    let path = |name: &str| scene.folder.path().join(name).display().to_string();
    let (key, certificate) = (path("agent.key"), path("agent.pem"));
    let made = openssl(&[
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-subj",
        "/CN=foreign",
        "-days",
        "1",
        "-keyout",
        &key,
        "-out",
        &certificate,
    ]);
    assert!(made.status.success(), "{made:?}");
    (key, certificate)
}

#[test]
fn administrators_ask_with_curl_and_nobody_else_learns_anything() {
    let scene = Scene::start();
    let agent = scene.agent(1);
    let (status, text) = scene.curl_admin(&[&scene.url("/v1/machines")]);
    let machines: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((status, machines[0]["code"].as_str()), (200, Some(agent.identity.code())));
    let new = json!({ "machine": by_mac(1), "task": { "do": "inspect" } }).to_string();
    let (status, text) = scene.curl_admin(&["--data", &new, &scene.url("/v1/jobs")]);
    assert_eq!(status, 201, "{text}");
    for (method, path, expected) in [
        ("GET", "/v1/jobs/1", 200),
        ("GET", "/v1/jobs?most=1", 200),
        ("GET", "/v1/machines/1/log", 200),
        ("GET", "/v1/images", 200),
        ("POST", "/v1/jobs/1/retry", 409),
        ("POST", "/v1/jobs/1/cancel", 200),
        ("POST", "/v1/jobs/1/retry", 201),
        ("GET", "/v1/jobs/77", 404),
        ("GET", "/v1/nothing", 404),
        ("GET", "/", 404),
        ("DELETE", "/v1/machines/77", 404),
        ("DELETE", "/v1/machines/1", 204),
    ] {
        let (status, text) = scene.curl_admin(&["--request", method, &scene.url(path)]);
        assert_eq!(status, expected, "{method} {path}: {text}");
        if expected >= 400 {
            let problem: crate::api::Problem = serde_json::from_str(&text).unwrap();
            assert!(!problem.message.is_empty());
        }
    }
    for wrong in [
        "{",
        "[]",
        r#"{"machine":{},"task":{"do":"inspect"}}"#,
        r#"{"machine":{"id":1},"task":{"do":"fly"}}"#,
    ] {
        let (status, text) = scene.curl_admin(&["--data", wrong, &scene.url("/v1/jobs")]);
        assert_eq!(status, 400, "{wrong}: {text}");
    }
    let (status, text) = scene.curl_admin(&[&scene.url("/metrics")]);
    assert_eq!(status, 200);
    for line in ["unmoor_machines{presence=\"here\"} 0", "unmoor_jobs{state=\"cancelled\"} 2"] {
        assert!(text.lines().any(|found| found == line), "{line} is missing in {text}");
    }
    assert!(text.contains("unmoor_requests_total{for=\"admin\",status=\"404\"}"));
    let (status, text) = scene.curl(&[&scene.url("/v1/openapi.json")]);
    assert!(status == 200 && text.contains("\"3.1.0\""));
    for path in ["/v1/machines", "/v1/jobs", "/v1/images", "/v1/events", "/metrics", "/v1/jobs/1"] {
        let (status, text) = scene.curl(&[&scene.url(path)]);
        assert_eq!(status, 401, "{path}: {text}");
    }
    // Tokens that do not count: soon nothing but that is said. The right one still counts.
    let wrong = || scene.curl(&["--header", "Authorization: Bearer x", &scene.url("/v1/jobs")]).0;
    let answers: Vec<u16> = (0..40).map(|_| wrong()).collect();
    assert!(answers.contains(&429), "{answers:?}");
    assert_eq!(scene.curl_admin(&[&scene.url("/v1/jobs")]).0, 200);
}

#[test]
fn events_come_as_they_happen() {
    let scene = Scene::start();
    std::thread::scope(|scope| {
        let listening =
            scope.spawn(|| scene.curl_admin(&["--max-time", "5", "--no-buffer", &scene.url("/v1/events")]));
        super::scene::wait_for("the listener", || scene.server().state.listeners() > 0);
        scene.add(by_mac(1), Task::Idle);
        let (status, text) = listening.join().unwrap();
        assert_eq!(status, 200);
        let event = text.lines().find_map(|line| line.strip_prefix("data: ")).unwrap();
        let event: crate::api::Event = serde_json::from_str(event).unwrap();
        assert!(matches!(event, crate::api::Event::Job { job } if job.id == 1));
    });
}

#[test]
fn a_foreign_agent_shows_its_certificate_and_without_one_there_is_nothing() {
    let scene = Scene::start();
    let (key, certificate) = certificate(&scene);
    let facts =
        serde_json::to_value(super::scene::register(&crate::client::Identity::new().unwrap(), 5)).unwrap();
    let body = facts.to_string();
    let url = scene.url("/v1/agent/register");
    assert_eq!(scene.curl(&["--data", &body, &url]).0, 401);
    let shown = ["--cert", &certificate, "--key", &key];
    for version in [&["--tls-max", "1.2"][..], &[]] {
        let (status, text) = scene.curl(&[&shown[..], version, &["--data", &body, &url]].concat());
        assert_eq!(status, 200, "{text}");
        let registered: crate::api::Registered = serde_json::from_str(&text).unwrap();
        // The code as openssl computes it: base32 of SHA-256 of the SubjectPublicKeyInfo.
        let command = format!(
            "openssl x509 -in '{certificate}' -noout -pubkey | openssl pkey -pubin -outform DER | openssl dgst -sha256 -binary | base32"
        );
        let output = std::process::Command::new("sh").args(["-c", &command]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(registered.code.replace('-', ""), text[..8]);
    }
    // The admin's token is no key, and a key is no token.
    assert_eq!(scene.curl_admin(&["--data", &body, &url]).0, 401);
    assert_eq!(scene.curl(&[&shown[..], &[&scene.url("/v1/machines")]].concat()).0, 401);
    let done = json!({ "outcome": "done" }).to_string();
    let (status, _) =
        scene.curl(&[&shown[..], &["--data", &done, &scene.url("/v1/agent/jobs/1/done")]].concat());
    assert_eq!(status, 401);

    // As openssl sees the server: its own CA, both versions, and it asks for a certificate without a list of CAs.
    let address = scene.address().to_string();
    let ca = scene.folder.path().join("state/ca.pem").display().to_string();
    for version in ["-tls1_2", "-tls1_3"] {
        let output = openssl(&[
            "s_client",
            "-connect",
            &address,
            version,
            "-CAfile",
            &ca,
            "-verify_return_error",
            "-cert",
            &certificate,
            "-key",
            &key,
            "-verify_ip",
            "127.0.0.1",
        ]);
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains("Verify return code: 0 (ok)"), "{text}");
        assert!(text.contains("No client certificate CA names sent"), "{text}");
    }
    let old = openssl(&["s_client", "-connect", &address, "-tls1_1", "-CAfile", &ca]);
    assert!(!old.status.success());
}

#[test]
fn what_is_too_large_or_too_slow_is_cut_off() {
    let scene = Scene::start();
    let (key, certificate) = certificate(&scene);
    let large = scene.folder.path().join("large");
    std::fs::write(&large, vec![b' '; 9 << 20]).unwrap();
    let data = format!("@{}", large.display());
    let url = scene.url("/v1/agent/register");
    let (status, text) = scene.curl(&[
        "--cert",
        &certificate,
        "--key",
        &key,
        "--header",
        "Expect:",
        "--data-binary",
        &data,
        &url,
    ]);
    // Or the connection ends before curl has read why.
    assert!(matches!(status, 413 | 0), "{status} {text}");
    // Several times the buffer: what comes at once beyond it may still be read.
    let headers: Vec<String> =
        (0..6).map(|number| format!("X-Long-{number}: {}", "x".repeat(100 << 10))).collect();
    let url = scene.url("/v1/jobs");
    let mut arguments: Vec<&str> = headers.iter().flat_map(|header| ["--header", header]).collect();
    arguments.push(&url);
    let (status, _) = scene.curl_admin(&arguments);
    assert!(matches!(status, 431 | 0), "{status}");
    // Who connects and says nothing, or no TLS, is let go.
    let closed = |bytes: &[u8]| {
        let mut stream = TcpStream::connect(scene.address()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(50))).unwrap();
        stream.write_all(bytes).unwrap();
        let begin = Instant::now();
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
        assert!(begin.elapsed() < Duration::from_secs(45));
    };
    std::thread::scope(|scope| {
        scope.spawn(|| closed(b""));
        scope.spawn(|| closed(b"GET / HTTP/1.1\r\n\r\n"));
        // A head that never ends, under TLS.
        scope.spawn(|| {
            let address = scene.address().to_string();
            let begin = Instant::now();
            let mut child = std::process::Command::new("timeout")
                .args(["60", "openssl", "s_client", "-quiet", "-connect", &address])
                .stdin(std::process::Stdio::piped())
                .stdout(std::process::Stdio::piped())
                .stderr(std::process::Stdio::null())
                .spawn()
                .unwrap();
            // What is written stays open: the end has to come from the server.
            let mut input = child.stdin.take().unwrap();
            input.write_all(b"GET / HTTP/1.1\r\n").unwrap();
            let mut rest = Vec::new();
            child.stdout.take().unwrap().read_to_end(&mut rest).unwrap();
            assert!(begin.elapsed() < Duration::from_secs(45), "{:?}", begin.elapsed());
            drop(input);
            let _ = child.wait();
        });
    });
    assert_eq!(scene.curl_admin(&[&scene.url("/v1/jobs")]).0, 200);
}
