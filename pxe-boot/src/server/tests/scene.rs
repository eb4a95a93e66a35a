// SPDX-License-Identifier: Apache-2.0
//! A server on a free port of the loopback, that can go away and come back.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use unmoor_images::manifest::{MachineFacts, NicFacts};
use unmoor_images::monitor::Event;
use unmoor_images::store::{InitOptions, Location, Store};
use unmoor_images::{Monitor, Result};

use crate::api::{Register, Registered, Selector, Task};
use crate::client::{Client, Identity, Options as ClientOptions, Trust};
use crate::server::state::Pace;
use crate::server::{Admin, Group, Known, Options, Server};

/// So long a test waits for what has to come.
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) struct Scene {
    pub(super) folder: tempfile::TempDir,
    pub(super) names: Vec<String>,
    pub(super) known: Vec<Known>,
    pub(super) groups: Vec<Group>,
    pub(super) pace: Pace,
    pub(super) said: Arc<Said>,
    address: SocketAddr,
    running: Option<Running>,
}

struct Running {
    server: Arc<Server>,
    thread: JoinHandle<Result<()>>,
}

#[derive(Default)]
pub(super) struct Said {
    stop: AtomicBool,
    pub(super) lines: Mutex<Vec<String>>,
}

impl Monitor for Said {
    fn event(&self, event: Event) {
        if let Event::Note(text) | Event::Warning(text) = event {
            self.lines.lock().unwrap().push(text);
        }
    }
}

impl Scene {
    pub(super) fn start() -> Self {
        Self::start_with(Vec::new(), Vec::new())
    }

    pub(super) fn start_with(known: Vec<Known>, groups: Vec<Group>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let location = Self::location(folder.path());
        Store::init(&location, &InitOptions::default()).unwrap();
        let mut scene = Self {
            folder,
            names: vec!["127.0.0.1".to_owned()],
            known,
            groups,
            pace: Pace { heartbeat: 1, gone: Duration::from_secs(60), token: 900 },
            said: Arc::default(),
            address: "127.0.0.1:0".parse().unwrap(),
            running: None,
        };
        scene.come_back();
        scene
    }

    fn location(folder: &Path) -> Location {
        Location::Directory(folder.join("store"))
    }

    pub(super) fn options(&self) -> Options {
        Options {
            state: self.folder.path().join("state"),
            listen: self.address,
            names: self.names.clone(),
            certificate: None,
            store: Arc::new(Store::open(&Self::location(self.folder.path()), None).unwrap()),
            machines: self.known.clone(),
            groups: self.groups.clone(),
            rate_limit: 0,
            web: None,
        }
    }

    pub(super) fn come_back(&mut self) {
        let server = Server::open_at(self.options(), self.pace).unwrap();
        self.address = server.address();
        self.said.stop.store(false, Ordering::Relaxed);
        let (serving, said) = (server.clone(), self.said.clone());
        let thread = std::thread::spawn(move || serving.serve(&|| said.stop.load(Ordering::Relaxed), &*said));
        self.running = Some(Running { server, thread });
    }

    pub(super) fn go(&mut self) {
        if let Some(Running { server, thread }) = self.running.take() {
            self.said.stop.store(true, Ordering::Relaxed);
            thread.join().unwrap().unwrap();
            // Nothing of it is left that could hold its state.
            assert_eq!(Arc::strong_count(&server), 1);
        }
    }

    pub(super) fn restart(&mut self) {
        self.go();
        self.come_back();
    }

    pub(super) fn server(&self) -> &Arc<Server> {
        &self.running.as_ref().unwrap().server
    }

    pub(super) fn url(&self, path: &str) -> String {
        format!("https://{}{path}", self.address)
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) fn client(&self, identity: &Identity) -> Client {
        let path = self.folder.path().join("state/ca.pem");
        Client::new(&ClientOptions { server: self.url(""), trust: Trust::File(path) }, identity).unwrap()
    }

    /// An agent of the machine whose adapter ends in `number`.
    pub(super) fn agent(&self, number: u8) -> Agent {
        let identity = Identity::new().unwrap();
        let client = self.client(&identity);
        let register = register(&identity, number);
        let registered = client.register(&register, &|| false, &|error| panic!("{}", error.chain())).unwrap();
        Agent { identity, client, register, registered }
    }

    pub(super) fn add(&self, machine: Selector, task: Task) -> u64 {
        self.server().add_job(&crate::api::NewJob { machine, task, rate_limit: 0 }).unwrap().id
    }

    /// curl with the server's CA; the status stands alone in the last line.
    pub(super) fn curl(&self, arguments: &[&str]) -> (u16, String) {
        let output = Command::new("curl")
            .args([
                "--silent",
                "--show-error",
                "--max-time",
                "60",
                "--write-out",
                "\n%{http_code}",
                "--cacert",
            ])
            .arg(self.folder.path().join("state/ca.pem"))
            .args(arguments)
            .output()
            .unwrap_or_else(|error| panic!("curl has to be installed: {error}"));
        let text = String::from_utf8(output.stdout).unwrap();
        let (body, status) = text.rsplit_once('\n').unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        (status.parse().unwrap_or_else(|_| panic!("{status} {error}")), format!("{body}{error}"))
    }

    pub(super) fn curl_admin(&self, arguments: &[&str]) -> (u16, String) {
        let header = format!("Authorization: Bearer {}", self.server().admin_token());
        self.curl(&[&["--header", header.as_str()][..], arguments].concat())
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        if let Some(Running { thread, .. }) = self.running.take() {
            self.said.stop.store(true, Ordering::Relaxed);
            let _ = thread.join();
        }
    }
}

pub(super) struct Agent {
    pub(super) identity: Identity,
    pub(super) client: Client,
    pub(super) register: Register,
    pub(super) registered: Registered,
}

pub(super) fn register(identity: &Identity, number: u8) -> Register {
    let facts = MachineFacts {
        uuid: Some(format!("4c4c4544-0051-3010-8052-b4c04f5a32{number:02x}")),
        product: Some("Optiplex 7010".to_owned()),
        nics: vec![nic(number)],
        ..MachineFacts::default()
    };
    Register {
        tool: "unmoor test".into(),
        boot: identity.boot().into(),
        rescue: true,
        facts,
        disks: serde_json::Value::Null,
        verdict: None,
    }
}

pub(super) fn nic(number: u8) -> NicFacts {
    NicFacts { mac: Some(mac(number)), ..NicFacts::default() }
}

pub(super) fn mac(number: u8) -> String {
    format!("52:54:00:00:00:{number:02x}")
}

pub(super) fn by_mac(number: u8) -> Selector {
    Selector { mac: Some(mac(number)), ..Selector::default() }
}

pub(super) fn wait_for(what: &str, condition: impl Fn() -> bool) {
    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed() < PATIENCE, "{what} does not come");
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub(super) fn openssl(arguments: &[&str]) -> Output {
    Command::new("timeout")
        .args(["60", "openssl"])
        .args(arguments)
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("openssl has to be installed: {error}"))
}
