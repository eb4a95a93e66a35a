// SPDX-License-Identifier: Apache-2.0
//! The cell that boots before it copies: a guest from `unmoor nbd --overlay` over its image in a store, beside the same disk as
//! a local qcow2; again with the order of the first boot known; and, hydrated, without server and store.

use crate::lab::guest::Built;
use crate::lab::qemu::{Writes, tail};
use crate::lab::{Scratch, boot, guests};
use crate::run::{Failure, Result, While, output};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Its guest's name.
pub(crate) const GUEST: &str = "bookworm";

/// How long a server may take to listen, to hydrate or to end.
const LIMIT: Duration = Duration::from_secs(300);

/// A server that runs; killed when dropped.
struct Server {
    child: Child,
    log: PathBuf,
    socket: PathBuf,
}

impl Server {
    fn start(unmoor: &Path, directory: &Path, image: &Path, overlay: &Path, more: &[&str]) -> Result<Self> {
        let log = directory.join("nbd.log");
        let socket = directory.join("nbd.socket");
        let errors = std::fs::File::create(&log).while_doing("creating nbd.log")?;
        let mut command = Command::new(unmoor);
        command.arg("nbd").arg(image).arg("--overlay").arg(overlay).arg("--socket").arg(&socket).args(more);
        command.env("XDG_CACHE_HOME", directory).stdin(Stdio::null()).stdout(Stdio::null()).stderr(errors);
        let child = command.spawn().while_doing("starting unmoor nbd")?;
        let mut server = Self { child, log, socket };
        server.until("listen", |server| server.socket.exists())?;
        Ok(server)
    }

    /// What QEMU calls the disk.
    fn uri(&self) -> PathBuf {
        format!("nbd+unix:///?socket={}", self.socket.display()).into()
    }

    fn said(&self) -> String {
        tail(&self.log, 20)
    }

    fn until(&mut self, what: &str, done: impl Fn(&Self) -> bool) -> Result {
        let start = Instant::now();
        while !done(self) {
            if let Some(status) = self.child.try_wait().while_doing("waiting for unmoor nbd")? {
                return Err(Failure::new(format!("unmoor nbd ended: {status}: {}", self.said())));
            }
            if start.elapsed() > LIMIT {
                return Err(Failure::new(format!("unmoor nbd does not {what}: {}", self.said())));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    /// Asks it to end.
    fn stop(mut self) -> Result {
        output(Command::new("kill").arg(self.child.id().to_string()))?;
        let start = Instant::now();
        while start.elapsed() < LIMIT {
            match self.child.try_wait().while_doing("waiting for unmoor nbd")? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => {
                    return Err(Failure::new(format!("unmoor nbd failed: {status}: {}", self.said())));
                }
                None => std::thread::sleep(Duration::from_millis(50)),
            }
        }
        Err(Failure::new("unmoor nbd does not end"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both fail only when the process is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs the cell.
pub(crate) fn run(guest: &Built, unmoor: &Path) -> Result {
    let row = guests::guest(GUEST)?;
    let scratch = Scratch::new("nbd-boot")?;
    let path = |name: &str| scratch.path().join(name);
    let (folder, local) = (path("store"), path("local.qcow2"));
    let store = format!("dir:{}", folder.display());
    output(Command::new(unmoor).args(["images", "init", &store]))?;
    let image = PathBuf::from(format!("{store}/machine"));
    output(Command::new(unmoor).arg("capture").arg(&guest.disk).arg(&image))?;
    output(
        Command::new("qemu-img").args(["convert", "-f", "raw", "-O", "qcow2"]).arg(&guest.disk).arg(&local),
    )?;
    let timed = |what: &str, disk: &Path| -> Result<f64> {
        let proof =
            boot::boot(&row.machine(disk, Writes::Kept)).while_doing(format_args!("booting from {what}"))?;
        proof.check(row)?;
        println!("    nbd-boot: {what}: {:.1} s from power on to power off", proof.seconds);
        Ok(proof.seconds)
    };
    let usual = timed("a local qcow2", &local)?;
    for (what, overlay) in [("unmoor nbd", "first.raw"), ("unmoor nbd, its order known", "second.raw")] {
        let server = Server::start(unmoor, scratch.path(), &image, &path(overlay), &[])?;
        let seconds = timed(what, &server.uri())?;
        server.stop()?;
        println!("    nbd-boot: {what}: {:.2} times the local qcow2", seconds / usual);
    }
    let overlay = path("first.raw");
    let mut server = Server::start(unmoor, scratch.path(), &image, &overlay, &["--hydrate"])?;
    server.until("hydrate", |server| server.said().contains("stands alone"))?;
    server.stop()?;
    std::fs::remove_dir_all(&folder).while_doing("removing the store")?;
    timed("the hydrated overlay", &overlay).map(drop)
}
