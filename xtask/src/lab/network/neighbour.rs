// SPDX-License-Identifier: Apache-2.0
//! dnsmasq on a host of its own on the bridge.

use crate::lab::network::Bridge;
use crate::lab::network::bridge::Host;
use crate::run::{Result, While};
use std::path::Path;
use std::process::{Child, Stdio};

/// Another DHCP server, which gives addresses and nothing else.
pub(super) struct Neighbour {
    dnsmasq: Child,
    _host: Host,
}

impl Neighbour {
    pub(super) fn start(bridge: &Bridge, folder: &Path) -> Result<Self> {
        let log = std::fs::File::create(folder.join("dnsmasq.log")).while_doing("creating dnsmasq.log")?;
        let host = bridge.host("10.0.2.3/24")?;
        let mut command = host.command("dnsmasq");
        command.args([
            "--keep-in-foreground",
            "--port=0",
            "--interface=eth0",
            "--bind-interfaces",
            "--no-resolv",
        ]);
        command.args([
            "--dhcp-range=10.0.2.100,10.0.2.150,1h",
            "--log-facility=-",
            "--log-dhcp",
            "--no-hosts",
        ]);
        let leases = folder.join("dnsmasq.leases");
        command.arg("--conf-file=/dev/null").arg(format!("--dhcp-leasefile={}", leases.display()));
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let dnsmasq = command.spawn().while_doing("starting dnsmasq")?;
        Ok(Self { dnsmasq, _host: host })
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        let _ = self.dnsmasq.kill();
        let _ = self.dnsmasq.wait();
    }
}
