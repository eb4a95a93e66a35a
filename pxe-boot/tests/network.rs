// SPDX-License-Identifier: Apache-2.0
//! The DHCP server on a network of its own: a client that configures itself by it, and another server beside it. Needs root, for
//! network namespaces; nothing leaves them.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "helpers of tests are tests")]

mod common;

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use common::{Running, Told, dnsmasq, neighbour, on_a_network};
use nix::sched::{CloneFlags, setns};
use unmoor_pxe_boot::dhcp::options::{ARCHITECTURE, BOOT_FILE, MESSAGE_TYPE, VENDOR_CLASS, message};
use unmoor_pxe_boot::dhcp::{
    Architecture, Boot, Client, Loader, Menu, Network, Op, Packet, Pool, Responder, Role, Server, Settings,
};

const HOST: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);

struct Files;

impl Menu for Files {
    fn boot(&self, client: &Client) -> Option<Boot> {
        let uefi = client.architecture == Some(Architecture::UefiX64) && client.loader == Loader::Pxe;
        uefi.then(|| Boot { server: HOST, file: "snponly.efi".to_owned() })
    }
}

/// Serves while `work` runs.
fn served(role: Role, work: impl FnOnce()) -> Vec<String> {
    let responder = Responder { address: HOST, role, menu: Box::new(Files) };
    let mut server = Server::bind(&Settings { interface: "br0".to_owned() }, responder).unwrap();
    let told = Told::default();
    std::thread::scope(|scope| {
        scope.spawn(|| server.serve(&told).unwrap());
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        told.stop.store(true, Ordering::Relaxed);
        if let Err(panic) = done {
            std::panic::resume_unwind(panic);
        }
    });
    told.said.into_inner().unwrap()
}

fn udhcpc(client: &Running, folder: &Path, more: &[&str]) -> String {
    let (script, out) = (folder.join("script"), folder.join("out"));
    let text = format!("#!/bin/sh\n[ \"$1\" = bound ] && env > {}\nexit 0\n", out.display());
    std::fs::write(&script, text).unwrap();
    Command::new("chmod").arg("+x").arg(&script).status().unwrap();
    let _ = std::fs::remove_file(&out);
    let status = Command::new("timeout")
        .args([
            "60",
            "nsenter",
            "--net",
            "--target",
            &client.pid(),
            "udhcpc",
            "-i",
            "eth0",
            "-f",
            "-q",
            "-n",
            "-s",
        ])
        .arg(&script)
        .args(more)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success());
    std::fs::read_to_string(&out).unwrap()
}

fn network() -> Network {
    Network {
        mask: Ipv4Addr::new(255, 255, 255, 0),
        router: Some(HOST),
        dns: vec![HOST],
        lease: Duration::from_secs(600),
    }
}

#[test]
fn a_client_gets_an_address_the_network_and_the_same_again() {
    on_a_network(|| {
        let folder = tempfile::tempdir().unwrap();
        let client = neighbour("br0", 1);
        let leases = folder.path().join("leases.json");
        let pool = || {
            Pool::open(Ipv4Addr::new(10, 9, 0, 50), Ipv4Addr::new(10, 9, 0, 60), &[HOST], Some(&leases))
                .unwrap()
        };
        let mut first = String::new();
        served(Role::Server(network(), Box::new(pool())), || first = udhcpc(&client, folder.path(), &[]));
        for line in ["ip=10.9.0.50", "subnet=255.255.255.0", "router=10.9.0.1", "dns=10.9.0.1", "lease=600"] {
            assert!(first.lines().any(|known| known == line), "{line} is missing in {first}");
        }
        // Another server with the same leases, and a client that forgot what it had.
        let mut second = String::new();
        let firmware = ["-V", "PXEClient:Arch:00007:UNDI:003001", "-x", "0x5d:0007", "-O", "bootfile"];
        let said = served(Role::Server(network(), Box::new(pool())), || {
            second = udhcpc(&client, folder.path(), &firmware);
        });
        assert!(second.contains("ip=10.9.0.50\n"), "{second}");
        assert!(
            second.contains("boot_file=snponly.efi\n") && second.contains("siaddr=10.9.0.1\n"),
            "{second}"
        );
        assert!(
            said.iter().any(|line| line.contains("10.9.0.50") && line.contains("snponly.efi")),
            "{said:?}"
        );
    });
}

#[test]
fn beside_another_server_one_gives_the_address_and_we_the_boot_file() {
    on_a_network(|| {
        let folder = tempfile::tempdir().unwrap();
        let (client, other) = (neighbour("br0", 1), neighbour("br0", 2));
        let enter = |pid: &str, arguments: &[&str]| {
            let status = Command::new("nsenter")
                .args(["--net", "--target", pid, "ip"])
                .args(arguments)
                .status()
                .unwrap();
            assert!(status.success());
        };
        enter(&other.pid(), &["addr", "add", "10.9.0.2/24", "dev", "eth0"]);
        let _dnsmasq = dnsmasq(&other.pid(), folder.path());
        let mut found: Vec<(Ipv4Addr, String)> = Vec::new();
        served(Role::Proxy, || {
            let theirs = std::fs::File::open(format!("/proc/{}/ns/net", client.pid())).unwrap();
            let asked = std::thread::spawn(move || {
                setns(theirs, CloneFlags::CLONE_NEWNET).unwrap();
                offers()
            });
            found = asked.join().unwrap();
        });
        let given = |offer: &&(Ipv4Addr, String)| (100..=110).contains(&offer.0.octets()[3]);
        let ours = |offer: &&(Ipv4Addr, String)| offer.0.is_unspecified() && offer.1 == "snponly.efi";
        assert!(found.iter().any(|offer| given(&offer)), "{found:?}");
        assert!(found.iter().any(|offer| ours(&offer)), "{found:?}");
        assert!(found.iter().all(|offer| given(&offer) || ours(&offer)), "{found:?}");
    });
}

/// Asks as firmware does, again and again, until both kinds of offers are there or half a minute is over.
fn offers() -> Vec<(Ipv4Addr, String)> {
    let any = Ipv4Addr::UNSPECIFIED;
    let ok = Command::new("ip").args(["route", "add", "default", "dev", "eth0"]).status().unwrap();
    assert!(ok.success());
    let socket = UdpSocket::bind((any, 68)).unwrap();
    socket.set_broadcast(true).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let mut packet = Packet {
        op: Op::Request,
        hardware_type: 1,
        hops: 0,
        xid: 0x5151_5151,
        secs: 0,
        flags: 0x8000,
        ciaddr: any,
        yiaddr: any,
        siaddr: any,
        giaddr: any,
        hardware: vec![0x52, 0x54, 0, 1, 2, 3],
        sname: String::new(),
        file: String::new(),
        options: vec![(MESSAGE_TYPE, vec![message::DISCOVER])],
    };
    packet.push(VENDOR_CLASS, b"PXEClient:Arch:00007:UNDI:003001".as_slice());
    packet.push(ARCHITECTURE, 7u16.to_be_bytes());
    let (start, mut found) = (Instant::now(), Vec::new());
    let mut buffer = [0; 2048];
    while start.elapsed() < Duration::from_secs(30) {
        let to = SocketAddrV4::new(Ipv4Addr::BROADCAST, 67);
        socket.send_to(&packet.encode().unwrap(), to).unwrap();
        while let Ok(len) = socket.recv(&mut buffer) {
            let Ok(offer) = Packet::parse(&buffer[..len]) else { continue };
            if offer.op == Op::Reply && offer.option(MESSAGE_TYPE) == Some(&[message::OFFER]) {
                found.push((offer.yiaddr, offer.text(BOOT_FILE).unwrap_or_default()));
            }
        }
        let addresses = found.iter().filter(|(address, _)| !address.is_unspecified()).count();
        if addresses > 0 && addresses < found.len() {
            break;
        }
    }
    found
}
