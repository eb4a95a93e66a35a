// SPDX-License-Identifier: Apache-2.0
//! A DHCP client (RFC 2131): one thread for each Ethernet interface, which asks, applies and renews.

mod message;

use std::collections::BTreeSet;
use std::hash::{BuildHasher, RandomState};
use std::path::Path;
use std::time::{Duration, Instant};

use unmoor_images::{Error, Result};

use super::console::say;
use crate::sys::network::{self, Packets};
use message::{Answer, Client, Lease};

/// How often new interfaces are looked for.
const LOOK: Duration = Duration::from_secs(2);
/// RFC 2131, 4.1: waits double from 4 s to 64 s. The first is shorter, since links are often up before their switch is.
const WAITS: [u64; 7] = [2, 4, 8, 16, 32, 64, 64];

/// Asks on every interface that is there and on those that come later.
pub(super) fn start() -> Result<()> {
    super::spawn("network", || {
        let mut known = BTreeSet::new();
        loop {
            for name in interfaces() {
                if !known.insert(name.clone()) {
                    continue;
                }
                let asked = super::spawn("dhcp", move || {
                    loop {
                        if let Err(error) = serve(&name) {
                            say(&error.chain());
                        }
                        std::thread::sleep(LOOK);
                        if !Path::new("/sys/class/net").join(&name).exists() {
                            return;
                        }
                    }
                });
                if let Err(error) = asked {
                    say(&error.chain());
                }
            }
            known.retain(|name| Path::new("/sys/class/net").join(name).exists());
            std::thread::sleep(LOOK);
        }
    })
}

/// Ethernet interfaces with hardware behind them (ARPHRD_ETHER is 1).
fn interfaces() -> Vec<String> {
    let Ok(entries) = std::fs::read_dir("/sys/class/net") else { return Vec::new() };
    let is_ethernet = |path: &Path| {
        std::fs::read_to_string(path.join("type")).is_ok_and(|kind| kind.trim() == "1")
            && path.join("device").exists()
    };
    let entries = entries.filter_map(std::result::Result::ok).filter(|entry| is_ethernet(&entry.path()));
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// Gets an address and keeps it; returns when it is lost.
fn serve(name: &str) -> Result<()> {
    network::bring_up(name)?;
    let packets = Packets::open(name)?;
    let mac = mac(name)?;
    // Not a secret: it tells one's own answers from those to others.
    let transaction = RandomState::new().hash_one((mac, name)) as u32;
    let client = Client { transaction, mac };
    let mut lease = ask(&packets, &client)?;
    apply(name, &lease)?;
    loop {
        std::thread::sleep(Duration::from_secs(u64::from(lease.renewal)));
        let end = Instant::now() + Duration::from_secs(u64::from(lease.duration - lease.renewal));
        lease = loop {
            let renewed = exchange(&packets, &client.renew(&lease), &client, Duration::from_secs(16))?;
            match renewed {
                Some(Answer::Granted(renewed)) => break renewed,
                Some(Answer::Refused) => return Err(lost(name)),
                _ if Instant::now() >= end => return Err(lost(name)),
                _ => {}
            }
        };
        apply(name, &lease)?;
    }
}

fn lost(name: &str) -> Error {
    Error::new(unmoor_images::ErrorKind::Io, "renewing the address of")
        .path(name)
        .because("the server takes it back")
}

/// Discover, offer, request, grant.
fn ask(packets: &Packets, client: &Client) -> Result<Lease> {
    let mut waits = WAITS.iter().chain(std::iter::repeat(&64));
    loop {
        let wait = Duration::from_secs(waits.next().copied().unwrap_or(64));
        let offered = exchange(packets, &client.discover(), client, wait)?;
        let Some(Answer::Offer(lease)) = offered else { continue };
        let granted = exchange(packets, &client.request(&lease), client, wait)?;
        if let Some(Answer::Granted(lease)) = granted {
            return Ok(lease);
        }
    }
}

/// Sends, and waits for the first answer.
fn exchange(packets: &Packets, packet: &[u8], client: &Client, wait: Duration) -> Result<Option<Answer>> {
    let end = Instant::now() + wait;
    // A link without a carrier does not send; it may come back.
    let _ = packets.broadcast(packet);
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(None);
        }
        let received =
            packets.receive(left).map_err(|error| Error::io("waiting for a DHCP server", error))?;
        if let Some(answer) = received.and_then(|packet| client.answer(&packet)) {
            return Ok(Some(answer));
        }
    }
}

fn apply(name: &str, lease: &Lease) -> Result<()> {
    network::set_address(name, lease.address, lease.mask)?;
    if let Some(router) = lease.routers.first() {
        network::set_default_route(name, *router)?;
    }
    let mut text = String::new();
    // Only what a name can be made of: a server's text must not become further lines.
    let is_plain = |char: char| char.is_ascii_alphanumeric() || matches!(char, '.' | '-' | '_' | ' ');
    if let Some(domain) = lease.domain.as_deref().filter(|domain| domain.chars().all(is_plain)) {
        text.push_str(&format!("search {domain}\n"));
    }
    for server in lease.name_servers.iter().take(3) {
        text.push_str(&format!("nameserver {server}\n"));
    }
    let path = Path::new("/etc/resolv.conf");
    std::fs::write(path, text).map_err(|error| Error::io("writing", error).path(path))?;
    say(&format!("{name} has the address {} for {} s from {}", lease.address, lease.duration, lease.server));
    Ok(())
}

fn mac(name: &str) -> Result<[u8; 6]> {
    let path = Path::new("/sys/class/net").join(name).join("address");
    let text = std::fs::read_to_string(&path).map_err(|error| Error::io("reading", error).path(&path))?;
    let bytes: Vec<u8> =
        text.trim().split(':').filter_map(|byte| u8::from_str_radix(byte, 16).ok()).collect();
    bytes.try_into().map_err(|_| Error::malformed("reading", "it is no Ethernet address").path(&path))
}
