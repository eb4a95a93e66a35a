// SPDX-License-Identifier: Apache-2.0
//! How fast leaves come into a store, through the server and without it: `cargo xtask bench serve` calls it.
//!
//! ```text
//!   store_speed serve STORE CA         makes STORE, serves it, writes its CA to CA, prints the address; until stdin ends
//!   store_speed agent URL CA N DISK    captures DISK as machine N through it; prints the seconds
//!   store_speed local STORE N DISK     captures DISK as machine N into STORE by itself; prints the seconds
//! ```
//!
//! Whoever comes is let in: this is no server to be left running.
#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::panic, reason = "a program for developers")]

use std::collections::HashMap;
use std::io::Read;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use axum_server::tls_rustls::RustlsConfig;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use unmoor_images::copy::{self, copy};
use unmoor_images::formats::{self, Compression};
use unmoor_images::manifest::{Manifest, hex};
use unmoor_images::monitor::{Phase, Silent};
use unmoor_images::store::{ImageName, InitOptions, Location, Receiver, Since, Store, WriterOptions};
use unmoor_images::{ExtentMap, Result, State};
use unmoor_pxe_boot::api::{Assignment, Committed, Task};
use unmoor_pxe_boot::client::store::RemoteStore;
use unmoor_pxe_boot::client::{Client, Identity, Options, Trust};
use unmoor_pxe_boot::server::store::{Access, Gate, Limits, PeerKey, Reach, router};

/// Lets everybody in.
#[derive(Default)]
struct Open(Mutex<HashMap<u64, Committed>>);

impl Gate for Open {
    fn admit(&self, _key: &[u8; 32], _token: &str, job: u64) -> Result<Access> {
        Ok(Access { job, reach: Reach::Capture { machine: format!("m{job}") }, rate_limit: 0 })
    }

    fn committed(&self, job: u64, committed: &Committed) -> Result<()> {
        self.0.lock().unwrap().insert(job, committed.clone());
        Ok(())
    }

    fn committed_before(&self, job: u64) -> Result<Option<Committed>> {
        Ok(self.0.lock().unwrap().get(&job).cloned())
    }
}

fn serve(store: &Path, ca: &Path) {
    let store = Store::init(&Location::Directory(store.to_owned()), &InitOptions::default()).unwrap();
    let mut parameters = CertificateParams::new(Vec::<String>::new()).unwrap();
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(parameters, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let certificate =
        CertificateParams::new(vec!["127.0.0.1".into()]).unwrap().signed_by(&key, &authority).unwrap();
    let authority: &rcgen::Certificate = authority.as_ref();
    std::fs::write(ca, authority.pem()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let key = rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap();
    let app = router(Arc::new(store), Arc::<Open>::default(), Limits::default()).layer(from_fn(
        async |mut request: Request, next: Next| {
            request.extensions_mut().insert(PeerKey([0; 32]));
            next.run(request).await
        },
    ));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address: SocketAddr = listener.local_addr().unwrap();
    runtime.spawn(async move {
        let server =
            axum_server::from_tcp_rustls(listener, RustlsConfig::from_config(Arc::new(config))).unwrap();
        server.serve(app.into_make_service()).await.unwrap();
    });
    println!("https://{address}");
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    runtime.shutdown_timeout(std::time::Duration::from_secs(20));
}

/// All of DISK that is not a hole of its file, as the copy loop of a capture sends it.
fn capture(receiver: &dyn Receiver, machine: &str, disk: &Path) {
    let begin = Instant::now();
    let options =
        WriterOptions { compression: Compression::Auto, since: Since::Latest, holder: "store_speed".into() };
    let source = formats::open(disk, &formats::OpenOptions::default()).unwrap().source;
    let writer = receiver.begin(machine, &options, &Silent).unwrap();
    let mut extents = Vec::new();
    let mut at = 0;
    while at < source.size() {
        let mut extent = source.extent_at(at, source.size() - at).unwrap();
        if extent.state == State::Hole {
            extent.state = State::Zero;
        }
        at = extent.end();
        extents.push(extent);
    }
    let extents = ExtentMap::from_extents(extents).unwrap();
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    let run = copy::Options { threads, disk: 0, phase: Phase::Capture, name: "disk".into() };
    let sink = writer.sink(source.size());
    let copied = copy(&*source, &extents, &*sink, &run, &Silent).unwrap();
    sink.finish().unwrap();
    let manifest: Manifest = serde_json::from_value(serde_json::json!({
        "format": "unmoor-manifest", "version": 1, "created": "2026-11-25T12:00:00Z", "tool": "store_speed",
        "consistency": "offline", "machine": null, "warnings": [],
        "disks": [{
            "source": "disk", "image": "disk0", "image_format": "raw", "size": source.size(), "sector_size": 512,
            "physical_sector_size": null, "model": null, "serial": null, "wwn": null,
            "table": { "kind": "none", "sector_size": 512, "disk_id": null, "partitions": [], "metadata": [], "warnings": [] },
            "regions": [], "data_bytes": extents.bytes(State::Data), "zero_bytes": 0, "hole_bytes": 0,
            "root": hex(&copied.leaves.root()), "map": { "file": "", "bytes": 0, "blake3": "" }, "unreadable": [],
        }],
    }))
    .unwrap();
    let (_, summary) =
        writer.commit(manifest, &[(&copied.extents, &copied.leaves)], copied.read_bytes).unwrap();
    println!("{:.3} {}", begin.elapsed().as_secs_f64(), summary.added.new_bytes);
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["serve", store, ca] => serve(Path::new(store), Path::new(ca)),
        ["agent", url, ca, number, disk] => {
            let trust = Trust::File(PathBuf::from(ca));
            let options = Options { server: (*url).to_owned(), trust };
            let client = Client::new(&options, &Identity::new().unwrap()).unwrap();
            let job: u64 = number.parse().unwrap();
            let assignment =
                Assignment { job, task: Task::Idle, token: "token".into(), attempt: 0, rate_limit: 0 };
            let store = RemoteStore::new(client.job(&assignment, Arc::default()), 0);
            capture(&store, "", Path::new(disk));
        }
        ["local", store, number, disk] => {
            let location = Location::Directory(PathBuf::from(store));
            let store = match Store::is_at(&location).unwrap() {
                true => Store::open(&location, None).unwrap(),
                false => Store::init(&location, &InitOptions::default()).unwrap(),
            };
            let name = ImageName::parse(&format!("m{number}")).unwrap();
            capture(&store, &name.machine, Path::new(disk));
        }
        _ => panic!("see the head of this file"),
    }
}
