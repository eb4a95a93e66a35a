// SPDX-License-Identifier: Apache-2.0
//! What can be told of disks and network in two seconds: enough to see a cable that negotiates 100 Mbit/s, a disk that crawls, or a
//! card in a slot that is too narrow.

use std::net::{ToSocketAddrs, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant};

use unmoor_capture::disk::Device;
use unmoor_images::BlockSource;
use unmoor_images::formats::AlignedBuffer;
use unmoor_images::manifest::{DiskFacts, MachineFacts};
use unmoor_pxe_boot::api::Verdict;
use unmoor_pxe_boot::client::Client;

/// How long each disk is read; all at once.
const READING: Duration = Duration::from_millis(500);
/// How long to wait for disks that do not answer.
const PATIENCE: Duration = Duration::from_millis(1500);
/// Bytes of a read.
const PIECE: usize = 1 << 20;
/// Disks under this rate need eyes (bytes per second).
const SLOW: u64 = 20 << 20;
/// How long the server is listened to.
const PROBING: Duration = Duration::from_millis(400);
/// A way under this rate needs eyes (bytes per second): half of what 100 Mbit/s carry.
const SLOW_WAY: u64 = 6 << 20;

/// Measures, within two seconds.
pub(super) fn measure(facts: &MachineFacts, client: &Client) -> Verdict {
    let mut concerns = Vec::new();
    let link = interface(client.server()).or_else(|| {
        let mut linked = facts.nics.iter().filter(|nic| nic.link);
        // With several links nobody knows which one leads there.
        linked.next().filter(|_| linked.next().is_none()).map(|nic| nic.name.clone())
    });
    let link_mbit = link.as_deref().and_then(|name| {
        let speed: i64 = read(format!("/sys/class/net/{name}/speed"))?.parse().ok()?;
        u64::try_from(speed).ok().filter(|speed| *speed > 0)
    });
    if let (Some(name), Some(speed @ ..1000)) = (&link, link_mbit) {
        concerns.push(format!("the link of {name} to the server has {speed} Mbit/s"));
    }
    let disks = read_disks(&facts.disks);
    for (name, rate) in &disks {
        if *rate < SLOW {
            concerns.push(format!("{name} reads {} KiB/s", rate >> 10));
        }
    }
    for function in &facts.pci {
        // Storage and network (PCI Code and ID Assignment, class codes 01 and 02).
        if function.class.starts_with("01") || function.class.starts_with("02") {
            concerns.extend(slot(Path::new("/sys/bus/pci/devices").join(&function.address).as_path()));
        }
    }
    let from_server = client.probe(PROBING);
    if let Some(rate) = from_server.filter(|rate| *rate < SLOW_WAY) {
        concerns.push(format!("the server's bytes arrive at {} KiB/s", rate >> 10));
    }
    Verdict { link_mbit, from_server, disks, concerns }
}

fn read(path: impl AsRef<Path>) -> Option<String> {
    std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

/// The interface whose address the kernel would use to talk to the server. Nothing is sent.
fn interface(server: &str) -> Option<String> {
    let authority = server.split("://").nth(1)?;
    let address = match authority.to_socket_addrs() {
        Ok(mut addresses) => addresses.next()?,
        // Without a port.
        Err(_) => format!("{authority}:443").to_socket_addrs().ok()?.next()?,
    };
    let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any).ok()?;
    socket.connect(address).ok()?;
    let own = socket.local_addr().ok()?.ip();
    let interfaces = nix::ifaddrs::getifaddrs().ok()?;
    interfaces
        .filter(|interface| {
            let address = interface.address.as_ref();
            let four = address.and_then(|address| address.as_sockaddr_in()).map(|found| found.ip().into());
            let six = address.and_then(|address| address.as_sockaddr_in6()).map(|found| found.ip().into());
            four.or(six) == Some(own)
        })
        .map(|interface| interface.interface_name)
        .find(|name| name != "lo")
}

/// Bytes per second of each disk. One that does not answer in time is left out.
fn read_disks(disks: &[DiskFacts]) -> Vec<(String, u64)> {
    let (sender, receiver) = std::sync::mpsc::channel();
    let mut expected = 0;
    for disk in disks.iter().filter(|disk| disk.size_bytes > 0) {
        let (name, sender) = (disk.name.clone(), sender.clone());
        // A disk that hangs keeps its thread, and nothing else.
        let started = std::thread::Builder::new().name("measure".into()).spawn(move || {
            let rate = rate(&Path::new("/dev").join(&name));
            let _ = sender.send((name, rate));
        });
        expected += usize::from(started.is_ok());
    }
    let end = Instant::now() + PATIENCE;
    let mut found = Vec::new();
    for _ in 0..expected {
        match receiver.recv_timeout(end.saturating_duration_since(Instant::now())) {
            Ok((name, Some(rate))) => found.push((name, rate)),
            Ok((_, None)) => {}
            Err(_) => break,
        }
    }
    found.sort();
    found
}

fn rate(path: &Path) -> Option<u64> {
    let disk = Device::open(path).ok()?;
    let mut buffer = AlignedBuffer::new(PIECE);
    let begin = Instant::now();
    let mut done = 0u64;
    while begin.elapsed() < READING && done.saturating_add(PIECE as u64) <= disk.size() {
        disk.read_at(&mut buffer, done).ok()?;
        done = done.saturating_add(PIECE as u64);
    }
    (done > 0).then(|| (done as f64 / begin.elapsed().as_secs_f64()) as u64)
}

/// What is wrong with a function's link.
fn slot(folder: &Path) -> Vec<String> {
    let address = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let text = |name: &str| read(folder.join(name));
    // "8.0 GT/s PCIe"
    let speed = |name: &str| text(name)?.split_whitespace().next()?.parse::<f64>().ok();
    let width = |name: &str| text(name)?.parse::<u32>().ok().filter(|lanes| *lanes > 0 && *lanes < 255);
    let mut found = Vec::new();
    if let (Some(now), Some(most)) = (speed("current_link_speed"), speed("max_link_speed"))
        && now < most
    {
        found.push(format!("PCI {address} runs at {now} GT/s of {most}"));
    }
    if let (Some(now), Some(most)) = (width("current_link_width"), width("max_link_width"))
        && now < most
    {
        found.push(format!("PCI {address} has {now} lanes of {most}"));
    }
    let saving: Vec<&str> = ["l0s_aspm", "l1_aspm", "l1_1_aspm", "l1_2_aspm"]
        .into_iter()
        .filter(|state| text(&format!("link/{state}")).as_deref() == Some("1"))
        .collect();
    if !saving.is_empty() {
        found.push(format!(
            "PCI {address} saves power on its link ({})",
            saving.join(", ").replace("_aspm", "")
        ));
    }
    found
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::slot;

    #[test]
    fn a_slow_narrow_or_sleepy_link_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        write("current_link_speed", "2.5 GT/s PCIe\n");
        write("max_link_speed", "8.0 GT/s PCIe\n");
        write("current_link_width", "1\n");
        write("max_link_width", "4\n");
        std::fs::create_dir(folder.path().join("link")).unwrap();
        write("link/l1_aspm", "1\n");
        let found = slot(folder.path()).join("; ");
        assert!(
            found.contains("2.5 GT/s of 8") && found.contains("1 lanes of 4") && found.contains("(l1)"),
            "{found}"
        );
        write("current_link_speed", "8.0 GT/s PCIe\n");
        write("current_link_width", "4\n");
        write("link/l1_aspm", "0\n");
        assert!(slot(folder.path()).is_empty());
    }
}
