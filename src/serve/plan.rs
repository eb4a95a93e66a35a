// SPDX-License-Identifier: Apache-2.0
//! What a configuration comes to on this host.

use std::fmt;
use std::net::Ipv4Addr;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::time::Duration;

use nix::ifaddrs::getifaddrs;
use unmoor_images::{Error, ErrorKind, Result};
use unmoor_pxe_boot::dhcp;

use super::config::{Config, Dhcp, Mode};

/// The port of HTTPS, which URLs leave out.
const HTTPS: u16 = 443;
/// How long addresses are given for where nothing else is said.
const LEASE: Duration = Duration::from_secs(3600);

/// Addresses, names and places.
pub(crate) struct Plan {
    /// Where machines reach this server.
    pub(crate) address: Ipv4Addr,
    mask: Option<Ipv4Addr>,
    /// What its certificate is for.
    pub(crate) names: Vec<String>,
    state: PathBuf,
}

impl Plan {
    /// Looks at the host's interfaces.
    ///
    /// # Errors
    ///
    /// `Usage` where the interface is not there, has no such address, or DHCP's range is of another network.
    pub(crate) fn of(config: &Config) -> Result<Self> {
        let (interface, wanted) = (&config.network.interface, config.network.address);
        let (address, mask) = address(interface, wanted)?;
        let mut names = vec![address.to_string()];
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let host = host.trim();
        if !host.is_empty() && host != "(none)" {
            names.push(host.to_owned());
        }
        names.extend(config.https.names.iter().cloned());
        names.dedup();
        let plan = Self { address, mask, names, state: config.state.clone() };
        plan.network(config.dhcp.get_ref())?;
        Ok(plan)
    }

    /// Makes the folder of the state, which has keys in it.
    pub(crate) fn make_state(&self) -> Result<()> {
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.state);
        made.map_err(|error| Error::io("making", error).path(&self.state))
    }

    /// The server's URL, for agents and people.
    pub(crate) fn url(&self, port: u16) -> String {
        if port == HTTPS {
            format!("https://{}", self.address)
        } else {
            format!("https://{}:{port}", self.address)
        }
    }

    /// True if machines get boot loaders from here.
    pub(crate) fn boots(&self, config: &Config) -> bool {
        config.tftp.enabled && config.dhcp.get_ref().mode != Mode::Off
    }

    /// What DHCP does, for people.
    pub(crate) fn dhcp(&self, config: &Config) -> String {
        let (dhcp, interface) = (config.dhcp.get_ref(), &config.network.interface);
        match (dhcp.mode, dhcp.range) {
            (Mode::Off, _) => "off".to_owned(),
            (Mode::Server, Some((first, last))) => {
                format!("addresses from {first} to {last}, and boot files, on {interface}")
            }
            _ => format!("boot files alone, beside another server, on {interface}"),
        }
    }

    /// What DHCP is to the network, with the leases of earlier runs; none where it is off.
    pub(crate) fn role(&self, config: &Config) -> Result<Option<dhcp::Role>> {
        let dhcp = config.dhcp.get_ref();
        match (dhcp.mode, dhcp.range, self.network(dhcp)?) {
            (Mode::Proxy, ..) => Ok(Some(dhcp::Role::Proxy)),
            (Mode::Server, Some((first, last)), Some(network)) => {
                let mut reserved = vec![self.address];
                reserved.extend(network.router);
                reserved.extend(&network.dns);
                let leases = self.state.join("leases.json");
                let pool = dhcp::Pool::open(first, last, &reserved, Some(&leases))?;
                Ok(Some(dhcp::Role::Server(network, Box::new(pool))))
            }
            _ => Ok(None),
        }
    }

    /// What DHCP's clients are told of the network.
    fn network(&self, dhcp: &Dhcp) -> Result<Option<dhcp::Network>> {
        let (Mode::Server, Some((first, last))) = (dhcp.mode, dhcp.range) else { return Ok(None) };
        let doing = "giving addresses";
        let mask = dhcp.mask.or(self.mask).ok_or_else(|| {
            Error::new(ErrorKind::Usage, doing).because("the interface has no mask: set it under [dhcp]")
        })?;
        let network = |address: Ipv4Addr| address.to_bits() & mask.to_bits();
        if [first, last].iter().any(|address| network(*address) != network(self.address)) {
            return Err(Error::new(ErrorKind::Usage, doing).because(format!(
                "{first} to {last} is not in the network of {} with the mask {mask}",
                self.address
            )));
        }
        Ok(Some(dhcp::Network {
            mask,
            router: dhcp.router,
            dns: dhcp.dns.clone(),
            lease: dhcp.lease.as_ref().map_or(LEASE, |lease| lease.0),
        }))
    }
}

/// The interface's first IPv4 address, or the one that is wanted, with its mask.
fn address(interface: &str, wanted: Option<Ipv4Addr>) -> Result<(Ipv4Addr, Option<Ipv4Addr>)> {
    let doing = format!("looking for the address of {interface}");
    let all = getifaddrs().map_err(|error| Error::io(doing.clone(), error.into()))?;
    let (mut known, mut found) = (Known::default(), Vec::new());
    for entry in all {
        if !known.0.contains(&entry.interface_name) {
            known.0.push(entry.interface_name.clone());
        }
        if entry.interface_name != interface {
            continue;
        }
        let ip = |address: Option<nix::sys::socket::SockaddrStorage>| Some(address?.as_sockaddr_in()?.ip());
        if let Some(address) = ip(entry.address) {
            found.push((address, ip(entry.netmask)));
        }
    }
    let chosen = found.iter().find(|(address, _)| wanted.is_none_or(|wanted| *address == wanted));
    chosen.copied().ok_or_else(|| {
        let because = match wanted {
            _ if !known.0.iter().any(|name| name == interface) => {
                format!("there is no such interface; there are {known}")
            }
            Some(wanted) => format!("{wanted} is none of its addresses"),
            None => "it has no IPv4 address".to_owned(),
        };
        Error::new(ErrorKind::Usage, doing).because(because)
    })
}

/// Names of interfaces.
#[derive(Default)]
struct Known(Vec<String>);

impl fmt::Display for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(", "))
    }
}
