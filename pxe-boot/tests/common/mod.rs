// SPDX-License-Identifier: Apache-2.0
//! Networks for tests: namespaces, bridges, and processes in them. Needs root; nothing leaves them.
#![allow(dead_code, reason = "each test uses some of it")]

#[path = "../../src/told.rs"]
mod told;

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};

pub(crate) use told::Told;

/// A process; killed when dropped.
pub(crate) struct Running(pub(crate) Child);

impl Running {
    pub(crate) fn start(program: &str, arguments: &[&str]) -> Self {
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Self(command.spawn().unwrap_or_else(|error| panic!("{program} has to be installed: {error}")))
    }

    pub(crate) fn pid(&self) -> String {
        self.0.id().to_string()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A namespace at the other end of a cable to `bridge`, in which its end is called eth0.
pub(crate) fn neighbour(bridge: &str, number: u8) -> Running {
    let holder = Running::start("unshare", &["--net", "sleep", "900"]);
    // The namespace is there once the process' own is another.
    let own = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
    let start = Instant::now();
    let global = std::fs::read_link(format!("/proc/{}/ns/net", std::process::id())).unwrap();
    loop {
        let theirs = std::fs::read_link(format!("/proc/{}/ns/net", holder.pid())).unwrap();
        if theirs != own && theirs != global {
            break;
        }
        assert!(start.elapsed() < Duration::from_secs(20));
        std::thread::sleep(Duration::from_millis(10));
    }
    ip(&format!("link add end{number} type veth peer name eth0 netns {}", holder.pid()));
    ip(&format!("link set end{number} master {bridge} up"));
    let inside = |arguments: &str| {
        let pid = holder.pid();
        let output = Command::new("nsenter")
            .args(["--net", "--target", &pid, "ip"])
            .args(arguments.split_whitespace())
            .output()
            .unwrap();
        assert!(output.status.success(), "{arguments}");
    };
    inside("link set lo up");
    inside("link set eth0 up");
    holder
}

/// A thread with a network of its own: a bridge br0 with 10.9.0.1.
pub(crate) fn on_a_network(work: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap_or_else(|error| panic!("this test needs root: {error}"));
            ip("link set lo up");
            ip("link add br0 type bridge forward_delay 0");
            ip("addr add 10.9.0.1/24 dev br0");
            ip("link set br0 up");
            work();
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

/// dnsmasq in the namespace of `pid`, on its eth0: a DHCP server that knows of no boot files.
pub(crate) fn dnsmasq(pid: &str, folder: &std::path::Path) -> Running {
    let leases = format!("--dhcp-leasefile={}", folder.join("dnsmasq").display());
    let arguments = [
        "--net",
        "--target",
        pid,
        "dnsmasq",
        "--no-daemon",
        "--conf-file=/dev/null",
        "--port=0",
        "--user=root",
        "--interface=eth0",
        "--dhcp-range=10.9.0.100,10.9.0.110,1h",
        &leases,
    ];
    Running::start("nsenter", &arguments)
}
