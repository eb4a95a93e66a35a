// SPDX-License-Identifier: Apache-2.0
//! The S3 server that tests and the bench talk to: moto, from PyPI, in an environment of its own in the lab's directory.
//!
//! It is a server of its own, with multipart uploads, ranges, listings in pages and conditions on writing, and takes seconds to
//! install; those in compiled languages take minutes to compile, and Debian has none.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::lab;
use crate::run::{Failure, Result, While, output, run};

/// What pip installs.
const MOTO: &str = "moto[server]==5.2.1";

/// Installs it where the tests look for it, `s3-server` in the lab's directory; answers its Python.
pub(crate) fn install() -> Result<PathBuf> {
    let lab = lab::directory()?;
    let (place, partial) = (lab.join("s3-server"), lab.join("s3-server.partial"));
    let lock_path = lab.join("s3-server.lock");
    let lock = fs::File::create(&lock_path).while_doing(format_args!("creating {}", lock_path.display()))?;
    lock.lock().while_doing("waiting for another installation")?;
    let python = place.join("bin/python3");
    if fs::read_to_string(place.join("version")).is_ok_and(|version| version == MOTO) {
        return Ok(python);
    }
    println!("installing {MOTO}");
    for old in [&place, &partial] {
        if old.exists() {
            fs::remove_dir_all(old).while_doing(format_args!("removing {}", old.display()))?;
        }
    }
    run(Command::new("python3").args(["-m", "venv"]).arg(&partial))?;
    let pip = ["-m", "pip", "--quiet", "--disable-pip-version-check", "install", MOTO];
    run(Command::new(partial.join("bin/python3")).args(pip))?;
    fs::write(partial.join("version"), MOTO).while_doing("naming the version")?;
    // Scripts in bin/ name the folder in which they were made; its Python finds itself.
    fs::rename(&partial, &place).while_doing(format_args!("naming {}", place.display()))?;
    output(Command::new(&python).args(["-c", "import moto.server"]))?;
    Ok(python)
}

/// A server that runs; killed when dropped.
pub(crate) struct Server {
    child: Child,
    port: u16,
}

impl Server {
    /// Starts it on a free port of 127.0.0.1. It keeps its objects in nameless files of `folder`.
    pub(crate) fn start(folder: &Path) -> Result<Self> {
        let python = install()?;
        let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr())?.port();
        let mut command = Command::new(python);
        command.args(["-m", "moto.server", "-H", "127.0.0.1", "-p", &port.to_string()]);
        command.env("TMPDIR", folder).env("MOTO_S3_DEFAULT_KEY_BUFFER_SIZE", "65536");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let server = Self { child: command.spawn().while_doing("starting the S3 server")?, port };
        let began = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            if began.elapsed() > Duration::from_secs(60) {
                return Err(Failure::new("the S3 server does not listen"));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(server)
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Makes a bucket.
    pub(crate) fn make_bucket(&self, name: &str) -> Result {
        self.ask(&format!("PUT /{name}"))
    }

    /// Forgets all buckets.
    pub(crate) fn forget(&self) -> Result {
        self.ask("POST /moto-api/reset")
    }

    /// A request without a signature, which this server does not ask for.
    fn ask(&self, line: &str) -> Result {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).while_doing("asking the S3 server")?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        let host = format!("127.0.0.1:{}", self.port);
        write!(stream, "{line} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).while_doing("asking the S3 server")?;
        if answer.starts_with("HTTP/1.1 200") {
            Ok(())
        } else {
            Err(Failure::new(format!("{line}: {answer}")))
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
