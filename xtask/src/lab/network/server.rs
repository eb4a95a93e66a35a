// SPDX-License-Identifier: Apache-2.0
//! `unmoor serve` on a bridge, and what an administrator says to it.

use crate::lab::network::{ADDRESS, Bridge};
use crate::lab::qemu::tail;
use crate::run::{Failure, Result, While, output};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long it may take to listen and to end: the first start builds the boot files.
const LIMIT: Duration = Duration::from_secs(120);

/// A server that runs; killed when dropped.
pub(crate) struct Server<'a> {
    bridge: &'a Bridge,
    unmoor: PathBuf,
    folder: PathBuf,
    child: Option<Child>,
}

impl<'a> Server<'a> {
    /// Starts it with the configuration `folder`/serve.toml; its state is in `folder`/state, and what it says in `folder`/serve.log.
    pub(crate) fn start(
        bridge: &'a Bridge,
        unmoor: &Path,
        folder: &Path,
        configuration: &str,
    ) -> Result<Self> {
        std::fs::write(folder.join("serve.toml"), configuration).while_doing("writing serve.toml")?;
        let mut server = Self { bridge, unmoor: unmoor.to_owned(), folder: folder.to_owned(), child: None };
        server.again()?;
        Ok(server)
    }

    /// Starts it (again), and waits until it answers.
    pub(crate) fn again(&mut self) -> Result {
        let log = self.folder.join("serve.log");
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(log)
            .while_doing("opening serve.log")?;
        let mut command = self.bridge.command(&self.unmoor);
        command.arg("serve").arg(self.folder.join("serve.toml"));
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.child = Some(command.spawn().while_doing("starting unmoor serve")?);
        let start = Instant::now();
        loop {
            if let Ok(Value::Object(_)) = self.ask(&["machines", "list"]) {
                return Ok(());
            }
            if let Some(status) = self.child.as_mut().map(Child::try_wait).transpose()?.flatten() {
                return Err(Failure::new(format!("unmoor serve ended: {status}: {}", self.said(20))));
            }
            if start.elapsed() > LIMIT {
                return Err(Failure::new(format!("unmoor serve does not answer: {}", self.said(20))));
            }
            std::thread::sleep(Duration::from_millis(250));
        }
    }

    /// What it said last.
    pub(crate) fn said(&self, lines: usize) -> String {
        tail(&self.folder.join("serve.log"), lines)
    }

    /// An administrator's command, `jobs` or `machines`; the document that it prints.
    pub(crate) fn ask(&self, arguments: &[&str]) -> Result<Value> {
        let mut command = self.bridge.command("env");
        let state = self.folder.join("state");
        let (authority, token) = (state.join("ca.pem"), state.join("admin.token"));
        command.arg(format!("UNMOOR_SERVER=https://{ADDRESS}"));
        command.arg(format!("UNMOOR_CA={}", authority.display()));
        command.arg(format!("UNMOOR_TOKEN_FILE={}", token.display()));
        let said = output(command.arg(&self.unmoor).arg("--json").args(arguments))?;
        Ok(serde_json::from_str(&said)?)
    }

    /// Kills it, as a power failure would.
    pub(crate) fn kill(&mut self) -> Result {
        if let Some(mut child) = self.child.take() {
            child.kill().while_doing("killing unmoor serve")?;
            child.wait().while_doing("waiting for unmoor serve")?;
        }
        Ok(())
    }

    /// Asks it to end, and waits until it has.
    pub(crate) fn stop(mut self) -> Result {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        output(Command::new("kill").arg(child.id().to_string()))?;
        let start = Instant::now();
        while start.elapsed() < LIMIT {
            match child.try_wait().while_doing("waiting for unmoor serve")? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => {
                    return Err(Failure::new(format!("unmoor serve failed: {status}: {}", self.said(20))));
                }
                None => std::thread::sleep(Duration::from_millis(50)),
            }
        }
        let _ = child.kill();
        Err(Failure::new("unmoor serve does not end"))
    }
}

impl Drop for Server<'_> {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}
