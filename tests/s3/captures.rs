// SPDX-License-Identifier: Apache-2.0
//! Machines into a bucket and back, by the program.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use serde_json::Value;

use crate::common::{Run, Scene, hash, noise, tool};
use crate::server::{BUCKET, Server};

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

pub(crate) fn call(mut command: Command, words: &[&str]) -> Run {
    command.args(words).output().unwrap().into()
}

/// The result of a command that prints events before it.
pub(crate) fn result(stdout: &str) -> Value {
    let mut events = stdout.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    events.rfind(|event| event["event"] == "result").unwrap()
}

#[test]
fn a_machine_goes_into_a_bucket_and_comes_back_exactly() {
    let (scene, server) = (Scene::new(), Server::start());
    let run = |words: &[&str]| call(server.unmoor(), words);
    let disk = scene.ext4("disk.raw", 192);
    let (remote, local) = (format!("s3://{BUCKET}/a/b"), format!("dir:{}", text(&scene.path("store"))));
    for (store, back) in [(&remote, "remote.raw"), (&local, "local.raw")] {
        run(&["images", "init", store]).expect(0);
        run(&["images", "init", store]).expect(3).says(&["there is one already"]);
        let image = format!("{store}/web01");
        run(&["capture", "--all", text(&disk), &image]).expect(0);
        run(&["verify", &image]).expect(0);
        run(&["restore", "--yes", &image, text(&scene.path(back))]).expect(0);
        assert!(run(&["images", "list", store]).expect(0).stdout.contains("web01"));
    }
    assert_eq!(hash(&scene.path("remote.raw")), hash(&scene.path("local.raw")));
    tool("e2fsprogs", "e2fsck", &["-fn", text(&scene.path("remote.raw"))]).expect(0);
    let image = format!("{remote}/web01");
    run(&["verify", &image, text(&scene.path("remote.raw"))]).expect(0);
    File::options().write(true).open(&disk).unwrap().write_all_at(&noise(4096, 3), 40 << 20).unwrap();
    let second = result(&run(&["capture", "--json", "--all", text(&disk), &image]).expect(0).stdout);
    let new = second["stored"]["added"]["new_bytes"].as_u64().unwrap();
    assert!((1..=512 << 10).contains(&new), "{new}");
    let qcow2 = scene.path("second.qcow2");
    run(&["restore", "--yes", &image, text(&qcow2)]).expect(0);
    run(&["verify", &image, text(&qcow2)]).expect(0);
    assert!(run(&["inspect", &image]).expect(0).stdout.contains("ext4"));
}

#[test]
fn a_capture_into_a_bucket_that_is_killed_is_not_begun_anew() {
    const SIZE: u64 = 100 << 20;
    let (scene, server) = (Scene::new(), Server::start());
    let run = |words: &[&str]| call(server.unmoor(), words);
    let disk = scene.path("disk.raw");
    fs::write(&disk, noise(SIZE as usize, 11)).unwrap();
    let whole = format!("s3://{BUCKET}/whole");
    run(&["images", "init", &whole]).expect(0);
    let began = Instant::now();
    run(&["capture", text(&disk), &format!("{whole}/a")]).expect(0);
    let lasts = began.elapsed();
    let (mut state, mut resumed) = (5u64, 0);
    for round in 0..10u32 {
        let store = format!("s3://{BUCKET}/killed{round}");
        run(&["images", "init", &store]).expect(0);
        let image = format!("{store}/a");
        let mut command = server.unmoor();
        command.args(["capture", text(&disk), &image]).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        // A generator rather than a clock, so that a failure comes again: 0.3 to 1.2 times what a capture takes.
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        std::thread::sleep(lasts.mul_f64((state >> 33) as f64 / (1u64 << 31) as f64 * 0.9 + 0.3));
        child.kill().unwrap();
        child.wait().unwrap();
        let images = run(&["images", "list", "--json", &store]).expect(0).stdout;
        let images: Value = serde_json::from_str(&images).unwrap();
        if !images["machines"].as_array().unwrap().is_empty() {
            run(&["verify", &image]).expect(0);
        }
        let again = result(&run(&["capture", "--json", text(&disk), &image]).expect(0).stdout);
        let sent = again["stored"]["added"]["stored_bytes"].as_u64().unwrap();
        resumed += u32::from(sent < SIZE - (30 << 20));
        run(&["verify", &image]).expect(0);
    }
    println!("{resumed} of 10 rounds went on with what had arrived");
    assert!(resumed > 0, "no round was killed behind its first pack");
}

#[test]
fn a_bucket_is_reached_with_tls_through_an_authority_that_is_named() {
    let scene = Scene::new();
    let (certificate, key) = (scene.path("server.pem"), scene.path("server.key"));
    let subject = [
        "-subj",
        "/CN=127.0.0.1",
        "-addext",
        "subjectAltName=IP:127.0.0.1",
        "-addext",
        "basicConstraints=critical,CA:FALSE",
    ];
    let files = ["-keyout", text(&key), "-out", text(&certificate), "-days", "3"];
    let words = [&["req", "-x509", "-newkey", "rsa:2048", "-nodes"], &files[..], &subject[..]].concat();
    tool("openssl", "openssl", &words).expect(0);
    let server = Server::start_tls(&certificate, &key);
    let store = format!("s3://{BUCKET}/tls");
    call(server.unmoor(), &["images", "init", &store]).expect(1).says(&[
        "the certificate of https://127.0.0.1",
        "is not trusted",
        "AWS_CA_BUNDLE",
    ]);
    let trusting = || {
        let mut command = server.unmoor();
        command.env("AWS_CA_BUNDLE", &certificate);
        command
    };
    call(trusting(), &["images", "init", &store]).expect(1).says(&["there is no bucket", "make it"]);
}
