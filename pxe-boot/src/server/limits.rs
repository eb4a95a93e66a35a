// SPDX-License-Identifier: Apache-2.0
//! How much anybody may ask of the server before it knows who it is, and how many connections there may be.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// Open connections in all.
const CONNECTIONS: usize = 16_384;
/// Of them, of one address.
const OF_ONE: u32 = 512;
/// Addresses of which something is remembered.
const ADDRESSES: usize = 16_384;

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Requests that show neither a key nor a token.
    Anonymous,
    /// Keys that were never seen.
    Stranger,
    /// Tokens that do not count.
    Wrong,
}

impl Kind {
    /// At once, and then per second.
    fn allowance(self) -> (f64, f64) {
        match self {
            Self::Anonymous => (200.0, 50.0),
            Self::Stranger => (50.0, 5.0),
            Self::Wrong => (20.0, 0.5),
        }
    }
}

#[derive(Clone, Copy)]
struct Bucket {
    left: f64,
    filled: Instant,
}

#[derive(Default)]
struct Address {
    buckets: [Option<Bucket>; 3],
    connections: u32,
}

/// What addresses have used up.
#[derive(Default)]
pub(crate) struct Limits {
    addresses: Mutex<HashMap<IpAddr, Address>>,
    connections: AtomicUsize,
}

/// A connection that was let in.
pub(crate) struct Permit(Arc<Limits>, IpAddr);

/// One who has an IPv6 network has all its addresses.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !(u128::from(u64::MAX))).into(),
        address => address,
    }
}

impl Limits {
    /// Whether one more is allowed.
    pub(crate) fn allows(&self, address: IpAddr, kind: Kind) -> bool {
        let (most, rate) = kind.allowance();
        let now = Instant::now();
        let mut addresses = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        make_room(&mut addresses, now);
        let entry = addresses.entry(network(address)).or_default();
        let Some(bucket) = entry.buckets.get_mut(kind as usize) else { return false };
        let bucket = bucket.get_or_insert(Bucket { left: most, filled: now });
        bucket.left = (bucket.left + now.duration_since(bucket.filled).as_secs_f64() * rate).min(most);
        bucket.filled = now;
        let allowed = bucket.left >= 1.0;
        if allowed {
            bucket.left -= 1.0;
        }
        allowed
    }

    /// Whether one more connection may be; it counts until the permit is dropped.
    pub(crate) fn connect(self: &Arc<Self>, address: IpAddr) -> Option<Permit> {
        let address = network(address);
        if self.connections.load(Ordering::Relaxed) >= CONNECTIONS {
            return None;
        }
        let mut addresses = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        make_room(&mut addresses, Instant::now());
        let entry = addresses.entry(address).or_default();
        if entry.connections >= OF_ONE {
            return None;
        }
        entry.connections += 1;
        self.connections.fetch_add(1, Ordering::Relaxed);
        Some(Permit(self.clone(), address))
    }

    /// Connections that are open.
    pub(crate) fn open(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let Self(limits, address) = self;
        limits.connections.fetch_sub(1, Ordering::Relaxed);
        let mut addresses = limits.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = addresses.get_mut(address) {
            entry.connections = entry.connections.saturating_sub(1);
            if entry.connections == 0 && entry.buckets.iter().all(Option::is_none) {
                addresses.remove(address);
            }
        }
    }
}

/// Forgets whose buckets are full again; where all are in use, everybody's but the connections.
fn make_room(addresses: &mut HashMap<IpAddr, Address>, now: Instant) {
    if addresses.len() < ADDRESSES {
        return;
    }
    addresses.retain(|_, entry| {
        let recent = |bucket: &Bucket| now.duration_since(bucket.filled).as_secs() < 60;
        entry.connections > 0 || entry.buckets.iter().flatten().any(recent)
    });
    if addresses.len() >= ADDRESSES {
        addresses.retain(|_, entry| entry.connections > 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_uses_up_its_own_allowance_only_and_a_connection_is_given_back() {
        let limits = Arc::new(Limits::default());
        let (one, two): (IpAddr, IpAddr) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        let allowed = (0..100).filter(|_| limits.allows(one, Kind::Wrong)).count();
        assert!((20..40).contains(&allowed), "{allowed}");
        assert!(limits.allows(two, Kind::Wrong) && limits.allows(one, Kind::Anonymous));
        let permits: Vec<Permit> = std::iter::from_fn(|| limits.connect(one)).collect();
        assert_eq!(permits.len(), 512);
        assert!(limits.connect(two).is_some());
        drop(permits);
        assert_eq!(limits.open(), 0);
        assert!(limits.connect(one).is_some());
    }

    #[test]
    fn an_ipv6_network_counts_as_one_and_a_mapped_address_as_what_it_is() {
        let address = |text: &str| text.parse::<IpAddr>().ok().map(network);
        assert_eq!(address("2001:db8::1"), address("2001:db8::ffff:2"));
        assert_ne!(address("2001:db8::1"), address("2001:db8:0:1::1"));
        assert_eq!(address("::ffff:10.0.0.1"), address("10.0.0.1"));
    }
}
