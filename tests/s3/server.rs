// SPDX-License-Identifier: Apache-2.0
//! The S3 server of the tests: moto, which `cargo xtask test` installs into its cache.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use unmoor_images::store::backend::{Patience, S3, S3Options};

use crate::common::unmoor;

/// A server that runs, with one bucket; killed when dropped.
pub(crate) struct Server {
    child: Child,
    port: u16,
    scheme: &'static str,
}

/// The one bucket.
pub(crate) const BUCKET: &str = "bucket";

/// The server as a command without arguments: the cache's, or one that is installed.
fn program() -> Command {
    let set = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let cache = || set("XDG_CACHE_HOME").or_else(|| set("HOME").map(|home| home.join(".cache")));
    let lab = set("UNMOOR_LAB_DIR").or_else(|| cache().map(|cache| cache.join("unmoor-lab")));
    let python = lab.map(|lab| lab.join("s3-server/bin/python3")).filter(|path| path.exists());
    let mut command = Command::new(python.as_deref().unwrap_or(Path::new("python3")));
    command.args(["-m", "moto.server"]);
    command
}

impl Server {
    #[track_caller]
    pub(crate) fn start() -> Self {
        Self::start_with(&[], "http")
    }

    /// With TLS.
    #[track_caller]
    pub(crate) fn start_tls(certificate: &Path, key: &Path) -> Self {
        let words = ["-c", certificate.to_str().unwrap(), "-k", key.to_str().unwrap()];
        Self::start_with(&words, "https")
    }

    #[track_caller]
    fn start_with(words: &[&str], scheme: &'static str) -> Self {
        // Between finding a free port and the server's taking it, another test may have it.
        for _ in 0..5 {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let mut command = program();
            command.args(["-H", "127.0.0.1", "-p", &port.to_string()]).args(words);
            // Small pages of listings, so that there are several.
            command.env("MOTO_S3_DEFAULT_MAX_KEYS", "100");
            let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
            let mut server = Self { child: child.unwrap_or_else(|error| missing(&error)), port, scheme };
            if server.listens() {
                if scheme == "http" {
                    let answer = server.ask(&format!("PUT /{BUCKET}"));
                    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
                }
                return server;
            }
        }
        missing(&"it does not start")
    }

    fn listens(&mut self) -> bool {
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(60) {
            if self.child.try_wait().unwrap().is_some() {
                return false;
            }
            if TcpStream::connect(("127.0.0.1", self.port)).is_ok() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        false
    }

    /// A request without a body and without a signature, which this server does not ask for.
    fn ask(&self, line: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let host = format!("127.0.0.1:{}", self.port);
        write!(stream, "{line} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("{}://127.0.0.1:{}", self.scheme, self.port)
    }

    /// What a program needs to find it.
    pub(crate) fn environment(&self) -> Vec<(String, String)> {
        environment(&self.endpoint())
    }

    pub(crate) fn backend(&self, prefix: &str) -> S3 {
        S3::open_with(BUCKET, prefix, &options(&self.endpoint())).unwrap()
    }

    pub(crate) fn unmoor(&self) -> Command {
        let mut command = unmoor();
        command.envs(self.environment());
        command
    }
}

/// The same for any endpoint.
pub(crate) fn environment(endpoint: &str) -> Vec<(String, String)> {
    let pairs = [
        ("AWS_ENDPOINT_URL", endpoint),
        ("AWS_ACCESS_KEY_ID", "unmoor"),
        ("AWS_SECRET_ACCESS_KEY", "secret"),
        ("AWS_REGION", "us-east-1"),
        ("AWS_CONFIG_FILE", "/dev/null"),
        ("AWS_SHARED_CREDENTIALS_FILE", "/dev/null"),
    ];
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec()
}

pub(crate) fn options(endpoint: &str) -> S3Options {
    S3Options { environment: environment(endpoint), patience: Patience::default() }
}

fn missing(why: &dyn std::fmt::Display) -> ! {
    panic!(
        "this test needs the S3 server moto (moto[server] of PyPI, which `cargo xtask test` installs into its cache): {why}"
    )
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
