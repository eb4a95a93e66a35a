// SPDX-License-Identifier: Apache-2.0
//! A store behind TLS, its gate, and agents that use it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::connect_info::Connected;
use axum::extract::{ConnectInfo, Request};
use axum::middleware::{Next, from_fn};
use axum::serve::{IncomingStream, Listener};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use unmoor_images::copy::{self, copy};
use unmoor_images::manifest::{Manifest, hex};
use unmoor_images::monitor::{Phase, Silent};
use unmoor_images::store::{InitOptions, Location, Receiving, Secret, Store, Summary};
use unmoor_images::{BlockSource, Error, ExtentMap, Result, State};

use crate::api::{Assignment, Committed, Task};
use crate::client::store::{RemoteStore, RemoteWriter};
pub(super) use crate::client::tests::disk::Disk;
use crate::client::tests::fake::Anybody;
use crate::client::{Client, Identity, Job, Options, Patience, Trust};
use crate::server::store::{Access, Gate, Limits, PeerKey, Reach, router};

/// Jobs and their tokens: `token-ID`, of whichever key comes first.
#[derive(Default)]
pub(super) struct TestGate {
    pub(super) jobs: Mutex<HashMap<u64, Reach>>,
    keys: Mutex<HashMap<u64, [u8; 32]>>,
    pub(super) done: Mutex<HashMap<u64, Committed>>,
    /// Times that the state cannot be written.
    pub(super) failing: Mutex<usize>,
}

impl TestGate {
    pub(super) fn allow(&self, job: u64, reach: Reach) {
        self.jobs.lock().unwrap().insert(job, reach);
    }

    pub(super) fn capture(&self, job: u64, machine: &str) {
        self.allow(job, Reach::Capture { machine: machine.into() });
    }
}

impl Gate for TestGate {
    fn admit(&self, key: &[u8; 32], token: &str, job: u64) -> Result<Access> {
        let refused = || Error::refused("letting a request in", "the token is not of this job and key");
        let reach = self.jobs.lock().unwrap().get(&job).cloned().ok_or_else(refused)?;
        let mut keys = self.keys.lock().unwrap();
        if token != format!("token-{job}") || keys.entry(job).or_insert(*key) != key {
            return Err(refused());
        }
        Ok(Access { job, reach, rate_limit: 0 })
    }

    fn committed(&self, job: u64, committed: &Committed) -> Result<()> {
        let mut failing = self.failing.lock().unwrap();
        if *failing > 0 {
            *failing -= 1;
            return Err(Error::new(unmoor_images::ErrorKind::Io, "writing the state"));
        }
        self.done.lock().unwrap().insert(job, committed.clone());
        Ok(())
    }

    fn committed_before(&self, job: u64) -> Result<Option<Committed>> {
        Ok(self.done.lock().unwrap().get(&job).cloned())
    }
}

/// Connections whose handshake is done.
struct Tls {
    ready: mpsc::Receiver<(TlsStream<TcpStream>, SocketAddr)>,
    address: SocketAddr,
}

impl Listener for Tls {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        match self.ready.recv().await {
            Some(next) => next,
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        Ok(self.address)
    }
}

/// Stands for the key: the hash of the certificate.
#[derive(Clone)]
struct Shown(Option<[u8; 32]>);

impl Connected<IncomingStream<'_, Tls>> for Shown {
    fn connect_info(stream: IncomingStream<'_, Tls>) -> Self {
        let certificates = stream.io().get_ref().1.peer_certificates();
        Self(certificates.and_then(|all| all.first()).map(|first| Sha256::digest(first).into()))
    }
}

async fn with_key(
    ConnectInfo(Shown(key)): ConnectInfo<Shown>,
    mut request: Request,
    next: Next,
) -> axum::response::Response {
    if let Some(key) = key {
        request.extensions_mut().insert(PeerKey(key));
    }
    next.run(request).await
}

/// A store behind a server that can go away and come back.
pub(super) struct Served {
    /// Before the folder, into which it still writes when it ends.
    running: Option<(tokio::runtime::Runtime, Router)>,
    pub(super) store: Arc<Store>,
    pub(super) gate: Arc<TestGate>,
    limits: Limits,
    config: Arc<ServerConfig>,
    address: Option<SocketAddr>,
    pub(super) folder: TempDir,
}

pub(super) fn limits() -> Limits {
    Limits { workers: 2, memory: 12 << 20, ..Limits::default() }
}

impl Served {
    pub(super) fn start(secret: Option<Secret>, limits: Limits) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let location = Location::Directory(folder.path().join("store"));
        let store = Arc::new(Store::init(&location, &InitOptions { secret }).unwrap());
        let mut parameters = CertificateParams::new(Vec::<String>::new()).unwrap();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(parameters, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let names = vec!["127.0.0.1".to_owned()];
        let certificate = CertificateParams::new(names).unwrap().signed_by(&key, &authority).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(Arc::new(Anybody))
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
            )
            .unwrap();
        let authority: &rcgen::Certificate = authority.as_ref();
        std::fs::write(folder.path().join("ca.pem"), authority.pem()).unwrap();
        let (gate, config) = (Arc::default(), Arc::new(config));
        let mut served = Self { folder, store, gate, limits, config, address: None, running: None };
        served.come();
        served
    }

    /// Serves, on the same port as before.
    pub(super) fn come(&mut self) {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let router = router(self.store.clone(), self.gate.clone(), self.limits);
        let app = router.clone().layer(from_fn(with_key));
        let at = self.address.unwrap_or_else(|| "127.0.0.1:0".parse().unwrap());
        let listener = runtime.block_on(TcpListener::bind(at)).unwrap();
        let address = listener.local_addr().unwrap();
        self.address = Some(address);
        let (sender, ready) = mpsc::channel(16);
        let acceptor = TlsAcceptor::from(self.config.clone());
        runtime.spawn(async move {
            while let Ok((stream, peer)) = listener.accept().await {
                let (acceptor, sender) = (acceptor.clone(), sender.clone());
                tokio::spawn(async move {
                    let _ = stream.set_nodelay(true);
                    if let Ok(stream) = acceptor.accept(stream).await {
                        let _ = sender.send((stream, peer)).await;
                    }
                });
            }
        });
        let tls = Tls { ready, address };
        runtime.spawn(async move {
            let service = app.into_make_service_with_connect_info::<Shown>();
            axum::serve(tls, service).await.unwrap();
        });
        self.running = Some((runtime, router));
    }

    /// Ends as a server does that is told to.
    pub(super) fn stop(&mut self) {
        let (runtime, router) = self.running.take().unwrap();
        runtime.shutdown_timeout(Duration::from_secs(20));
        drop(router);
    }

    /// Ends as one that is killed: what it had in memory is nowhere.
    pub(super) fn kill(&mut self) {
        let (runtime, router) = self.running.take().unwrap();
        std::mem::forget(router);
        runtime.shutdown_timeout(Duration::from_secs(20));
    }

    /// An agent.
    pub(super) fn client(&self, identity: &Identity) -> Client {
        let server = format!("https://{}", self.address.unwrap());
        let options = Options { server, trust: Trust::File(self.folder.path().join("ca.pem")) };
        Client::new(&options, identity).unwrap()
    }

    /// A job of an agent with a key of its own.
    pub(super) fn job(&self, number: u64) -> Job {
        job(&self.client(&Identity::new().unwrap()), number, &format!("token-{number}"))
    }
}

pub(super) fn job(client: &Client, number: u64, token: &str) -> Job {
    let assignment =
        Assignment { job: number, task: Task::Idle, token: token.into(), attempt: 0, rate_limit: 0 };
    client.job(&assignment, Arc::default()).patient(Patience::For(Duration::from_secs(20)))
}

/// What a capture has sent before it commits.
pub(super) struct Sent {
    pub(super) writer: RemoteWriter,
    pub(super) manifest: Manifest,
    pub(super) copied: copy::Report,
    /// Bytes on the wire.
    pub(super) bytes: u64,
}

pub(super) fn send(job: &Job, disk: &Disk, created: &str) -> Result<Sent> {
    let writer = RemoteWriter::begin(&RemoteStore::new(job.clone(), 0))?;
    let extents = ExtentMap::uniform(disk.size(), State::Data);
    let options = copy::Options { threads: 4, disk: 0, phase: Phase::Capture, name: "disk".into() };
    let sink = writer.sink(disk.size());
    let copied = copy(disk, &extents, &*sink, &options, &Silent)?;
    let bytes = sink.finish()?.stored_bytes;
    let manifest = manifest(disk.size(), &hex(&copied.leaves.root()), created);
    Ok(Sent { writer, manifest, copied, bytes })
}

impl Sent {
    pub(super) fn commit(self) -> Result<(String, Summary)> {
        let maps = [(&self.copied.extents, &self.copied.leaves)];
        Box::new(self.writer).commit(self.manifest, &maps, self.copied.read_bytes)
    }
}

pub(super) fn manifest(size: u64, root: &str, created: &str) -> Manifest {
    serde_json::from_value(serde_json::json!({
        "format": "unmoor-manifest", "version": 1, "created": created, "tool": "test", "consistency": "offline",
        "machine": null, "warnings": [],
        "disks": [{
            "source": "/dev/sda", "image": "disk0", "image_format": "raw", "size": size, "sector_size": 512,
            "physical_sector_size": null, "model": null, "serial": null, "wwn": null,
            "table": { "kind": "none", "sector_size": 512, "disk_id": null, "partitions": [], "metadata": [], "warnings": [] },
            "regions": [], "data_bytes": 0, "zero_bytes": 0, "hole_bytes": 0,
            "root": root, "map": { "file": "", "bytes": 0, "blake3": "" }, "unreadable": [],
        }],
    }))
    .unwrap()
}
