// SPDX-License-Identifier: Apache-2.0
//! Addresses that are given for a time, and kept over restarts in a file.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use unmoor_images::{Error, ErrorKind, Result, ResultExt};

/// An offer is held for so many seconds.
const OFFERED: u64 = 60;
/// An address that somebody else was found to use is left alone for so many seconds.
const DECLINED: u64 = 3600;
/// Addresses of a pool at most: a /16.
const MOST: u32 = 1 << 16;

/// An address that somebody has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Who, hex; empty where it is only known to be used.
    pub client: String,
    /// Until then, in seconds since the epoch.
    pub until: u64,
}

/// Addresses to give.
#[derive(Debug)]
pub struct Pool {
    first: u32,
    last: u32,
    reserved: Vec<Ipv4Addr>,
    leases: BTreeMap<Ipv4Addr, Lease>,
    /// What was offered and not yet taken.
    offered: BTreeMap<Ipv4Addr, Lease>,
    file: Option<PathBuf>,
}

impl Pool {
    /// The addresses from `first` to `last` but for `reserved`, such as the server's own. Leases are kept in `file`.
    ///
    /// # Errors
    ///
    /// `Usage` where the range is none; `Malformed` where the file holds something else.
    pub fn open(first: Ipv4Addr, last: Ipv4Addr, reserved: &[Ipv4Addr], file: Option<&Path>) -> Result<Self> {
        let (first, last) = (first.to_bits(), last.to_bits());
        if last < first || last - first >= MOST {
            return Err(Error::new(ErrorKind::Usage, "choosing addresses")
                .because("a range goes from a lower address to a higher one, and has 65536 at most"));
        }
        let mut leases = BTreeMap::new();
        if let Some(path) = file {
            match fs::read(path) {
                Ok(bytes) => {
                    leases = serde_json::from_slice(&bytes)
                        .map_err(|error| Error::malformed("reading leases", error.to_string()).path(path))?;
                }
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(Error::io("reading leases", error).path(path)),
            }
        }
        let offered = BTreeMap::new();
        Ok(Self { first, last, reserved: reserved.to_vec(), leases, offered, file: file.map(Path::to_owned) })
    }

    /// Who has what.
    pub fn leases(&self) -> impl Iterator<Item = (Ipv4Addr, &Lease)> {
        self.leases.iter().map(|(address, lease)| (*address, lease))
    }

    fn is_given(&self, address: Ipv4Addr, client: &str, now: u64) -> bool {
        let others = |leases: &BTreeMap<Ipv4Addr, Lease>| {
            leases.get(&address).is_some_and(|lease| lease.client != client && lease.until > now)
        };
        others(&self.leases) || others(&self.offered)
    }

    fn is_ours(&self, address: Ipv4Addr) -> bool {
        (self.first..=self.last).contains(&address.to_bits()) && !self.reserved.contains(&address)
    }

    /// An address for a client: the one that it has or had, the one that it would like, one that nobody had yet, one that
    /// somebody had. None where all are given.
    pub(super) fn offer(
        &mut self,
        client: &[u8],
        wanted: Option<Ipv4Addr>,
        now: u64,
    ) -> Result<Option<Ipv4Addr>> {
        let client = hex(client);
        let own = |leases: &BTreeMap<Ipv4Addr, Lease>| {
            leases.iter().find(|(_, lease)| lease.client == client).map(|(address, _)| *address)
        };
        let free = |address: &Ipv4Addr| self.is_ours(*address) && !self.is_given(*address, &client, now);
        let fresh = || {
            let all = (self.first..=self.last).map(Ipv4Addr::from_bits);
            let mut unused = all.filter(|address| !self.leases.contains_key(address));
            unused.find(|address| free(address))
        };
        let oldest = || {
            let mut ended: Vec<_> = self.leases.iter().filter(|(address, _)| free(address)).collect();
            ended.sort_by_key(|(_, lease)| lease.until);
            ended.first().map(|(address, _)| **address)
        };
        let found = own(&self.leases)
            .filter(|address| free(address))
            .or_else(|| own(&self.offered).filter(|address| free(address)))
            .or_else(|| wanted.filter(|address| free(address)))
            .or_else(fresh)
            .or_else(oldest);
        if let Some(address) = found {
            self.offered.retain(|_, lease| lease.until > now && lease.client != client);
            self.offered.insert(address, Lease { client, until: now.saturating_add(OFFERED) });
        }
        Ok(found)
    }

    /// Gives `address` until `until`; false where it is not for this client.
    pub(super) fn take(&mut self, client: &[u8], address: Ipv4Addr, now: u64, until: u64) -> Result<bool> {
        let client = hex(client);
        if !self.is_ours(address) || self.is_given(address, &client, now) {
            return Ok(false);
        }
        self.offered.retain(|_, lease| lease.client != client);
        // One machine has one address.
        self.leases.retain(|other, lease| lease.client != client || *other == address);
        self.leases.insert(address, Lease { client, until });
        self.keep()?;
        Ok(true)
    }

    /// The client has taken another server's offer.
    pub(super) fn withdraw(&mut self, client: &[u8], now: u64) {
        let client = hex(client);
        self.offered.retain(|_, lease| lease.client != client && lease.until > now);
    }

    /// Somebody uses the address without asking.
    pub(super) fn decline(&mut self, client: &[u8], address: Ipv4Addr, now: u64) -> Result<()> {
        let client = hex(client);
        let had = |leases: &BTreeMap<Ipv4Addr, Lease>| {
            leases.get(&address).is_some_and(|lease| lease.client == client)
        };
        // Only of one's own address: nobody may make the others' unusable.
        if had(&self.leases) || had(&self.offered) {
            self.offered.remove(&address);
            let until = now.saturating_add(DECLINED);
            self.leases.insert(address, Lease { client: String::new(), until });
            self.keep()?;
        }
        Ok(())
    }

    /// Gives an address back. The client gets it again as long as nobody needs it.
    pub(super) fn release(&mut self, client: &[u8], address: Ipv4Addr) -> Result<()> {
        let client = hex(client);
        self.offered.retain(|_, lease| lease.client != client);
        if let Some(lease) = self.leases.get_mut(&address).filter(|lease| lease.client == client) {
            lease.until = 0;
            self.keep()?;
        }
        Ok(())
    }

    /// Written before an address is given: what was said holds after a crash.
    fn keep(&self) -> Result<()> {
        let Some(path) = &self.file else { return Ok(()) };
        let doing = || format!("keeping leases in {}", path.display());
        let bytes = serde_json::to_vec_pretty(&self.leases)
            .map_err(|error| Error::malformed("writing leases", error.to_string()))?;
        let mut next = path.clone().into_os_string();
        next.push(".next");
        let mut file = fs::File::create(&next).doing(doing)?;
        file.write_all(&bytes).and_then(|()| file.sync_all()).doing(doing)?;
        fs::rename(&next, path).doing(doing)
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
