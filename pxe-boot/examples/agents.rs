// SPDX-License-Identifier: Apache-2.0
//! Many agents at once, as far as a server can tell: each has a key of its own, registers, waits for jobs and says that it lives. For
//! `cargo xtask bench agents`, which looks at the server meanwhile.
//!
//! `agents URL CA.PEM COUNT SECONDS`; prints how many registered, and how many requests were answered or failed in the time.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::panic,
    reason = "a tool for measuring"
)]

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};

#[derive(Default)]
struct Counts {
    registered: AtomicU64,
    answered: AtomicU64,
    failed: AtomicU64,
}

/// Each comes from an address of its own, as machines do: the server limits the connections of one.
fn client(authority: &CertificateDer<'static>, number: usize) -> reqwest::Client {
    let address = Ipv4Addr::from_bits(Ipv4Addr::new(127, 1, 0, 0).to_bits() + number as u32);
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(Vec::<String>::new()).unwrap().self_signed(&key).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(authority.clone()).unwrap();
    let config =
        rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_client_auth_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
            )
            .unwrap();
    let builder = reqwest::Client::builder().tls_backend_preconfigured(config).no_proxy();
    builder.local_address(IpAddr::V4(address)).build().unwrap()
}

fn register(number: usize) -> Value {
    let mac = format!("52:54:00:{:02x}:{:02x}:{:02x}", number >> 16 & 255, number >> 8 & 255, number & 255);
    json!({
        "tool": "agents", "boot": format!("boot-{number}"), "rescue": true,
        "facts": {
            "firmware": "bios",
            "nics": [{ "name": "eth0", "mac": mac, "driver": "e1000", "link": true }],
        },
    })
}

async fn agent(number: usize, server: String, client: reqwest::Client, end: Instant, counts: Arc<Counts>) {
    let post = |path: &str, body: Value| {
        let request =
            client.post(format!("{server}/v1/agent/{path}")).header("content-type", "application/json");
        request.body(body.to_string()).timeout(Duration::from_secs(30)).send()
    };
    loop {
        match post("register", register(number)).await {
            Ok(response) if response.status().is_success() => break,
            Ok(response) if response.status().as_u16() != 429 => {
                let (status, text) = (response.status(), response.text().await.unwrap_or_default());
                panic!("registering: {status}: {text}");
            }
            _ => tokio::time::sleep(Duration::from_secs(1)).await,
        }
    }
    counts.registered.fetch_add(1, Ordering::Relaxed);
    let waiting = {
        let (client, server, counts) = (client.clone(), server.clone(), counts.clone());
        tokio::spawn(async move {
            loop {
                let url = format!("{server}/v1/agent/jobs/next?wait=25");
                let done = client.get(url).timeout(Duration::from_secs(40)).send().await;
                let counter = if done.is_ok_and(|done| done.status().is_success()) {
                    &counts.answered
                } else {
                    &counts.failed
                };
                counter.fetch_add(1, Ordering::Relaxed);
            }
        })
    };
    while Instant::now() < end {
        let beat = json!({ "boot": format!("boot-{number}"), "job": null, "progress": null, "log": [] });
        let done = post("heartbeat", beat).await;
        let counter =
            if done.is_ok_and(|done| done.status().is_success()) { &counts.answered } else { &counts.failed };
        counter.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_secs(10)).await;
    }
    waiting.abort();
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [server, authority, count, seconds] = words.as_slice() else {
        panic!("agents URL CA.PEM COUNT SECONDS")
    };
    let (count, seconds): (usize, u64) = (count.parse().unwrap(), seconds.parse().unwrap());
    let authority = CertificateDer::from_pem_file(authority).expect("reading the CA");
    let counts = Arc::new(Counts::default());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let end = Instant::now() + Duration::from_secs(seconds);
    let agents: Vec<_> = (0..count)
        .map(|number| {
            let work = agent(number, server.clone(), client(&authority, number), end, counts.clone());
            runtime.spawn(async move {
                // Not all at once: a power cut's end is spread over seconds, too.
                tokio::time::sleep(Duration::from_millis(number as u64 * 10)).await;
                work.await;
            })
        })
        .collect();
    for agent in agents {
        runtime.block_on(agent).unwrap();
    }
    let get = |count: &AtomicU64| count.load(Ordering::Relaxed);
    println!(
        "{} registered, {} answered, {} failed",
        get(&counts.registered),
        get(&counts.answered),
        get(&counts.failed)
    );
}
