// SPDX-License-Identifier: Apache-2.0
//! A server under test, and its clients.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::common::{Run, Scene, noise, tool, unmoor};

/// A server that runs; killed when dropped.
pub(crate) struct Server {
    child: Child,
    stdout: BufReader<ChildStdout>,
    /// What it said when it began to listen.
    pub(crate) said: Value,
}

impl Server {
    /// Starts `unmoor nbd` with these arguments on a free port, or on the socket that they name.
    #[track_caller]
    pub(crate) fn start<S: AsRef<std::ffi::OsStr>>(scene: &Scene, arguments: &[S]) -> Self {
        let mut command = unmoor();
        command.args(["nbd", "--json"]).args(arguments);
        if !arguments.iter().any(|word| word.as_ref() == "--socket" || word.as_ref() == "--listen") {
            command.args(["--listen", "127.0.0.1:0"]);
        }
        command.env("XDG_CACHE_HOME", scene.path("cache"));
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let said = loop {
            let mut line = String::new();
            assert!(stdout.read_line(&mut line).unwrap() > 0, "the server ended: {:?}", child.wait());
            let said: Value = serde_json::from_str(&line).unwrap();
            if said["event"] == "serving" {
                break said;
            }
        };
        Self { child, stdout, said }
    }

    /// The URI of the default export.
    pub(crate) fn uri(&self) -> &str {
        self.said["uri"].as_str().unwrap()
    }

    /// The TCP port.
    pub(crate) fn port(&self) -> u16 {
        let uri = self.uri().rsplit(':').next().unwrap();
        uri.trim_end_matches('/').parse().unwrap()
    }

    /// The next line that it prints which has this event.
    pub(crate) fn wait_for(&mut self, event: &str, words: &str) -> Value {
        loop {
            let mut line = String::new();
            assert!(
                self.stdout.read_line(&mut line).unwrap() > 0,
                "the server ended: {:?}",
                self.child.wait()
            );
            let said: Value = serde_json::from_str(&line).unwrap();
            if said["event"] == event && line.contains(words) {
                return said;
            }
        }
    }

    /// Asks it to end, and returns its result.
    #[track_caller]
    pub(crate) fn stop(mut self) -> Value {
        kill(Pid::from_raw(self.child.id() as i32), Signal::SIGTERM).unwrap();
        let began = Instant::now();
        while self.child.try_wait().unwrap().is_none() {
            assert!(began.elapsed() < Duration::from_secs(60), "the server does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
        assert!(self.child.wait().unwrap().success());
        let mut rest = String::new();
        self.stdout.read_to_string(&mut rest).unwrap();
        serde_json::from_str(rest.lines().last().unwrap()).unwrap()
    }

    /// Ends it as a power cut would end its process.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both fail only when the process is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A disk with data, zeros and holes, 24 MiB and a bit, as raw and as qcow2.
pub(crate) fn images(scene: &Scene) -> (PathBuf, PathBuf) {
    let (raw, qcow2) = (scene.path("disk.raw"), scene.path("disk.qcow2"));
    let mut bytes = noise((24 << 20) + 1536, 5);
    bytes[3 << 20..9 << 20].fill(0);
    bytes[(20 << 20) + 4096..(20 << 20) + 8192].fill(0);
    std::fs::write(&raw, bytes).unwrap();
    qemu_img(&["convert", "-c", "-O", "qcow2", "-f", "raw", path(&raw), path(&qcow2)]).expect(0);
    (raw, qcow2)
}

pub(crate) fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[track_caller]
pub(crate) fn qemu_img(arguments: &[&str]) -> Run {
    tool("qemu-utils", "qemu-img", arguments)
}

/// The distribution's Python, for which libnbd's binding is packaged; another one may come first in PATH.
pub(crate) const PYTHON: &str = "/usr/bin/python3";

/// Runs a script in nbdsh, libnbd's Python shell; `h` is connected to `uri`.
#[track_caller]
pub(crate) fn nbdsh(uri: &str, script: &str) -> Run {
    let mut command = Command::new(PYTHON);
    command.args(["-m", "nbd", "--base-allocation", "-u", uri, "-c", script]);
    let output = command.output();
    output.unwrap_or_else(|error| panic!("this test needs nbdsh (package python3-libnbd): {error}")).into()
}
