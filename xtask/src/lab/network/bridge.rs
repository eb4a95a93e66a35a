// SPDX-License-Identifier: Apache-2.0
//! A network of the lab's own: a namespace with a bridge in it that leads nowhere else.

use crate::lab::qemu::Plugged;
use crate::run::{Result, While, as_root, output};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// The bridge; it goes with its namespace when dropped.
pub(crate) struct Bridge {
    namespace: String,
    taps: AtomicU32,
}

impl Bridge {
    /// The bridge, with `address`, `10.0.2.2/24`, for whoever runs in the namespace.
    pub(crate) fn new(address: &str) -> Result<Self> {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let namespace = format!("unmoor-lab-{}-{number}", std::process::id());
        output(as_root("ip").args(["netns", "add", &namespace])).while_doing("making a network namespace")?;
        let bridge = Self { namespace, taps: AtomicU32::new(0) };
        bridge.ip(&["link", "set", "lo", "up"])?;
        // A machine that asks for its address the moment its port is up must not wait for a spanning tree.
        bridge.ip(&["link", "add", "bridge", "type", "bridge", "forward_delay", "0", "stp_state", "0"])?;
        bridge.ip(&["address", "add", address, "dev", "bridge"])?;
        bridge.ip(&["link", "set", "bridge", "up"])?;
        Ok(bridge)
    }

    fn ip(&self, arguments: &[&str]) -> Result {
        output(as_root("ip").args(["-n", &self.namespace]).args(arguments)).map(drop)
    }

    /// Port for one adapter of a machine.
    pub(crate) fn port(&self) -> Result<Plugged> {
        let tap = format!("tap{}", self.taps.fetch_add(1, Ordering::Relaxed));
        self.ip(&["tuntap", "add", "dev", &tap, "mode", "tap"])?;
        self.ip(&["link", "set", &tap, "master", "bridge"])?;
        self.ip(&["link", "set", &tap, "up"])?;
        Ok(Plugged { namespace: self.namespace.clone(), taps: vec![tap] })
    }

    /// Pulls a machine's cable, or puts it in again.
    pub(crate) fn set_link(&self, port: &Plugged, up: bool) -> Result {
        let state = if up { "up" } else { "down" };
        port.taps.iter().try_for_each(|tap| self.ip(&["link", "set", tap, state]))
    }

    /// Another host on it, with `address`, `10.0.2.3/24`: a namespace of its own, so that its ports are its own too.
    pub(crate) fn host(&self, address: &str) -> Result<Host> {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let namespace = format!("unmoor-lab-{}-{number}", std::process::id());
        output(as_root("ip").args(["netns", "add", &namespace])).while_doing("making a network namespace")?;
        let host = Host { namespace };
        let port = format!("host{number}");
        self.ip(&["link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", &host.namespace])?;
        self.ip(&["link", "set", &port, "master", "bridge"])?;
        self.ip(&["link", "set", &port, "up"])?;
        let ip = |arguments: &[&str]| output(as_root("ip").args(["-n", &host.namespace]).args(arguments));
        ip(&["link", "set", "lo", "up"])?;
        ip(&["address", "add", address, "dev", "eth0"])?;
        ip(&["link", "set", "eth0", "up"])?;
        Ok(host)
    }

    /// A program that runs in the namespace; its process becomes the program's.
    pub(crate) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = as_root("ip");
        command.args(["netns", "exec", &self.namespace]).arg(program);
        command
    }

    /// Whether `address` answers a ping within a second.
    pub(crate) fn answers(&self, address: &str) -> bool {
        output(self.command("ping").args(["-c", "1", "-W", "1", address])).is_ok()
    }
}

/// A host of the bridge; it goes when dropped.
pub(crate) struct Host {
    namespace: String,
}

impl Host {
    /// A program that runs on it; its process becomes the program's.
    pub(crate) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = as_root("ip");
        command.args(["netns", "exec", &self.namespace]).arg(program);
        command
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = output(as_root("ip").args(["netns", "delete", &self.namespace]));
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        let _ = output(as_root("ip").args(["netns", "delete", &self.namespace]));
    }
}
