// SPDX-License-Identifier: Apache-2.0
//! The S3 servers that tests and the bench talk to: moto, from PyPI, in an environment of its own in the lab's directory; for the bench
//! also s3s-fs, from crates.io.
//!
//! moto has multipart uploads, ranges, listings in pages and conditions on writing, and takes seconds to install; those in compiled
//! languages take minutes to compile, and Debian has none. But it is written in Python: what a store in a bucket costs by itself shows
//! against a server that costs little.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::binary::cargo;
use crate::lab;
use crate::run::{Failure, Result, While, output, run};

/// The credentials that s3s-fs takes; moto takes any.
pub(crate) const ACCESS_KEY: &str = "unmoor";
pub(crate) const SECRET_KEY: &str = "secret";

/// What pip installs.
const MOTO: &str = "moto[server]==5.2.1";

/// What cargo installs.
const S3S_FS: &str = "0.14.1";

/// Which server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Moto,
    S3sFs,
}

impl Kind {
    /// For people.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Moto => "moto",
            Self::S3sFs => "s3s-fs",
        }
    }
}

/// Compiles s3s-fs into the lab's directory, once; answers the program.
fn install_s3s_fs() -> Result<PathBuf> {
    let place = lab::directory()?.join(format!("s3s-fs-{S3S_FS}"));
    let program = place.join("bin/s3s-fs");
    if program.exists() {
        return Ok(program);
    }
    println!("compiling s3s-fs {S3S_FS}, which takes minutes");
    // cargo puts the program there as its last step.
    let version = format!("={S3S_FS}");
    let line =
        ["install", "--quiet", "--locked", "s3s-fs", "--features", "binary", "--version", &version, "--root"];
    run(cargo().args(line).arg(&place))?;
    Ok(program)
}

/// Installs moto where the tests look for it, `s3-server` in the lab's directory; answers its Python.
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
    kind: Kind,
    /// Where s3s-fs has its buckets.
    root: PathBuf,
}

impl Server {
    /// Starts it on a free port of 127.0.0.1. It keeps its objects in `folder`, moto in nameless files.
    pub(crate) fn start(kind: Kind, folder: &Path) -> Result<Self> {
        let program = if kind == Kind::Moto { install()? } else { install_s3s_fs()? };
        let root = folder.join("buckets");
        fs::create_dir_all(&root).while_doing(format_args!("creating {}", root.display()))?;
        let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr())?.port();
        let number = port.to_string();
        let mut command = Command::new(program);
        match kind {
            Kind::Moto => {
                command.args(["-m", "moto.server", "-H", "127.0.0.1", "-p", &number]);
                command.env("TMPDIR", folder).env("MOTO_S3_DEFAULT_KEY_BUFFER_SIZE", "65536");
            }
            Kind::S3sFs => {
                command.args(["--access-key", ACCESS_KEY, "--secret-key", SECRET_KEY]);
                command.args(["--host", "127.0.0.1", "--port", &number]).arg(&root);
            }
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().while_doing("starting the S3 server")?;
        let server = Self { child, port, kind, root };
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
        match self.kind {
            Kind::Moto => self.ask(&format!("PUT /{name}")),
            Kind::S3sFs => fs::create_dir(self.root.join(name)).while_doing("making a bucket"),
        }
    }

    /// Forgets all buckets.
    pub(crate) fn forget(&self) -> Result {
        if self.kind == Kind::Moto {
            return self.ask("POST /moto-api/reset");
        }
        for entry in fs::read_dir(&self.root).while_doing("listing buckets")? {
            let path = entry?.path();
            let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            removed.while_doing(format_args!("removing {}", path.display()))?;
        }
        Ok(())
    }

    /// A request without a signature, which moto does not ask for.
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
