// SPDX-License-Identifier: Apache-2.0
//! What firmware sends, as it was seen, and what it has to be answered.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use super::options::*;
use super::{Architecture, Boot, Client, Loader, Menu, Network, Op, Packet, Pool, Responder, Role};

const HOST: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
const MAC: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];

struct Files;

impl Menu for Files {
    fn boot(&self, client: &Client) -> Option<Boot> {
        let file = match (client.loader, client.architecture) {
            (Loader::Ipxe, _) => "http://10.9.0.1/v1/boot.ipxe",
            (Loader::Http, Some(Architecture::UefiX64)) => "http://10.9.0.1/boot/snponly.efi",
            (Loader::Pxe, Some(Architecture::UefiX64)) => "snponly.efi",
            (Loader::Pxe, Some(Architecture::Bios)) => "undionly.kpxe",
            _ => return None,
        };
        Some(Boot { server: HOST, file: file.to_owned() })
    }
}

/// A client's message.
fn message_of(mac: [u8; 6], kind: u8, class: &str, number: Option<u16>, more: &[(u8, &[u8])]) -> Packet {
    let none = Ipv4Addr::UNSPECIFIED;
    let mut packet = Packet {
        op: Op::Request,
        hardware_type: 1,
        hops: 0,
        xid: 0x1234_5678,
        secs: 4,
        flags: 0x8000,
        ciaddr: none,
        yiaddr: none,
        siaddr: none,
        giaddr: none,
        hardware: mac.to_vec(),
        sname: String::new(),
        file: String::new(),
        options: vec![(MESSAGE_TYPE, vec![kind])],
    };
    if !class.is_empty() {
        packet.push(VENDOR_CLASS, class.as_bytes());
    }
    if let Some(number) = number {
        packet.push(ARCHITECTURE, number.to_be_bytes());
    }
    for (code, value) in more {
        packet.push(*code, *value);
    }
    packet
}

fn proxy() -> Responder {
    Responder { address: HOST, role: Role::Proxy, menu: Box::new(Files) }
}

fn server(last: u8) -> Responder {
    let network = Network {
        mask: Ipv4Addr::new(255, 255, 255, 0),
        router: Some(HOST),
        dns: vec![HOST, Ipv4Addr::new(10, 9, 0, 2)],
        lease: Duration::from_secs(600),
    };
    let pool = Pool::open(Ipv4Addr::new(10, 9, 0, 1), Ipv4Addr::new(10, 9, 0, last), &[HOST], None).unwrap();
    Responder { address: HOST, role: Role::Server(network, Box::new(pool)), menu: Box::new(Files) }
}

const ANYBODY: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 68);

fn ask(responder: &mut Responder, packet: &Packet, now: u64) -> Option<Packet> {
    // As it crosses the wire.
    let packet = Packet::parse(&packet.encode().unwrap()).unwrap();
    let answer = responder.answer(&packet, (67, ANYBODY), now).unwrap()?;
    let data = answer.packet.encode().unwrap();
    assert!(data.len() >= 300);
    let answer = Packet::parse(&data).unwrap();
    assert_eq!((answer.op, answer.xid, &answer.hardware), (Op::Reply, packet.xid, &packet.hardware));
    assert_eq!(answer.options[0].0, MESSAGE_TYPE);
    assert_eq!(answer.address(SERVER_ID), Some(HOST));
    Some(answer)
}

const UEFI: &str = "PXEClient:Arch:00007:UNDI:003001";
const BIOS: &str = "PXEClient:Arch:00000:UNDI:002001";

#[test]
fn a_proxy_tells_each_firmware_its_file_and_gives_no_address() {
    let mut proxy = proxy();
    let uuid: &[u8] = &[0, 0x78, 0x56, 0x34, 0x12, 0xbc, 0x9a, 0xf0, 0xde, 1, 2, 3, 4, 5, 6, 7, 8];
    for (class, number, more, file) in [
        (BIOS, Some(0), &[][..], "undionly.kpxe"),
        (UEFI, Some(7), &[(MACHINE_ID, uuid)], "snponly.efi"),
        (UEFI, None, &[], "snponly.efi"),
        ("HTTPClient:Arch:00016:UNDI:003001", Some(16), &[], "http://10.9.0.1/boot/snponly.efi"),
        (UEFI, Some(7), &[(USER_CLASS, b"iPXE")], "http://10.9.0.1/v1/boot.ipxe"),
    ] {
        let discover = message_of(MAC, message::DISCOVER, class, number, more);
        let offer = ask(&mut proxy, &discover, 0).unwrap();
        assert_eq!((offer.yiaddr, offer.siaddr), (Ipv4Addr::UNSPECIFIED, HOST));
        assert_eq!((offer.file.as_str(), offer.text(BOOT_FILE).as_deref()), (file, Some(file)));
        assert_eq!(offer.option(LEASE_TIME), None);
        let class = offer.text(VENDOR_CLASS);
        match file {
            // Without it iPXE takes the offer of another server alone, which has no file.
            "http://10.9.0.1/v1/boot.ipxe" => assert_eq!(class.as_deref(), Some("PXEClient")),
            file if file.starts_with("http") => assert_eq!(class.as_deref(), Some("HTTPClient")),
            _ => {
                assert_eq!(class.as_deref(), Some("PXEClient"));
                assert_eq!(offer.option(VENDOR), Some(&[6, 1, 8, 255][..]));
            }
        }
        if !more.is_empty() && more[0].0 == MACHINE_ID {
            assert_eq!(offer.option(MACHINE_ID), Some(uuid));
            let client = Client::of(&discover).unwrap();
            assert_eq!(client.uuid.as_deref(), Some("12345678-9abc-def0-0102-030405060708"));
            assert_eq!(client.mac(), "52:54:00:12:34:56");
        }
    }
}

#[test]
fn a_proxy_is_silent_where_it_was_not_asked() {
    let mut proxy = proxy();
    let other: &[u8] = &[10, 9, 0, 7];
    for packet in [
        message_of(MAC, message::DISCOVER, "", None, &[]),
        message_of(MAC, message::DISCOVER, "udhcp 1.35", None, &[]),
        message_of(MAC, message::DISCOVER, "PXEClient:Arch:00011", Some(11), &[]),
        message_of(MAC, message::REQUEST, UEFI, Some(7), &[(SERVER_ID, other)]),
        message_of(MAC, message::RELEASE, UEFI, Some(7), &[]),
        message_of(MAC, message::OFFER, UEFI, Some(7), &[]),
    ] {
        assert_eq!(ask(&mut proxy, &packet, 0), None, "{packet:?}");
    }
    let mut reply = message_of(MAC, message::DISCOVER, UEFI, Some(7), &[]);
    reply.op = Op::Reply;
    assert_eq!(proxy.answer(&reply, (67, ANYBODY), 0).unwrap(), None);
}

#[test]
fn firmware_that_asks_the_proxy_again_is_answered_where_it_asks_from() {
    let mut proxy = proxy();
    let mut request = message_of(MAC, message::REQUEST, UEFI, Some(7), &[]);
    request.ciaddr = Ipv4Addr::new(10, 9, 0, 50);
    let from = SocketAddrV4::new(request.ciaddr, 4011);
    let answer = proxy.answer(&request, (4011, from), 0).unwrap().unwrap();
    assert_eq!(answer.to, from);
    assert_eq!(answer.packet.option(MESSAGE_TYPE), Some(&[message::ACK][..]));
    assert_eq!(answer.packet.file, "snponly.efi");
}

#[test]
fn an_address_is_given_kept_and_given_to_others_only_when_it_is_free() {
    let mut server = server(3);
    let mac = |last| [2, 0, 0, 0, 0, last];
    let mut get = |last: u8, now: u64| -> Option<Ipv4Addr> {
        let offer = ask(&mut server, &message_of(mac(last), message::DISCOVER, "", None, &[]), now)?;
        assert_eq!(offer.option(SUBNET_MASK), Some(&[255, 255, 255, 0][..]));
        assert_eq!(offer.option(DNS), Some(&[10, 9, 0, 1, 10, 9, 0, 2][..]));
        assert_eq!(offer.file, "");
        let wanted = offer.yiaddr.octets();
        let own: &[u8] = &HOST.octets();
        let request = message_of(
            mac(last),
            message::REQUEST,
            "",
            None,
            &[(REQUESTED_ADDRESS, &wanted), (SERVER_ID, own)],
        );
        let ack = ask(&mut server, &request, now)?;
        assert_eq!((ack.option(MESSAGE_TYPE), ack.yiaddr), (Some(&[message::ACK][..]), offer.yiaddr));
        Some(ack.yiaddr)
    };
    let (one, two) = (get(1, 0).unwrap(), get(2, 0).unwrap());
    assert_eq!((one, two), (Ipv4Addr::new(10, 9, 0, 2), Ipv4Addr::new(10, 9, 0, 3)));
    assert_eq!(get(1, 100), Some(one), "who has one gets it again");
    assert_eq!(get(3, 200), None, "all are given");
    assert_eq!(get(3, 650), Some(two), "one has ended");
    // Somebody else's address is refused by name.
    let wanted = two.octets();
    let request = message_of(mac(1), message::REQUEST, "", None, &[(REQUESTED_ADDRESS, &wanted)]);
    let nak = ask(&mut server, &request, 660).unwrap();
    assert_eq!(nak.option(MESSAGE_TYPE), Some(&[message::NAK][..]));
    assert!(nak.wants_broadcast() && nak.yiaddr.is_unspecified());
    // Another server's client is none of ours.
    let other: &[u8] = &[10, 9, 0, 7];
    let request =
        message_of(mac(5), message::REQUEST, "", None, &[(SERVER_ID, other), (REQUESTED_ADDRESS, &wanted)]);
    assert_eq!(ask(&mut server, &request, 661), None);
    // What a stranger says of somebody's address changes nothing.
    let decline = message_of(mac(9), message::DECLINE, "", None, &[(REQUESTED_ADDRESS, &wanted)]);
    assert_eq!(ask(&mut server, &decline, 662), None);
    let Role::Server(_, pool) = &server.role else { panic!() };
    assert!(pool.leases().all(|(_, lease)| !lease.client.is_empty()));
}

#[test]
fn leases_outlive_the_server() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("leases.json");
    let (first, last) = (Ipv4Addr::new(10, 9, 0, 10), Ipv4Addr::new(10, 9, 0, 12));
    let open = || Pool::open(first, last, &[], Some(&file)).unwrap();
    let mut pool = open();
    let address = pool.offer(b"one", None, 5).unwrap().unwrap();
    assert!(pool.take(b"one", address, 5, 100).unwrap());
    drop(pool);
    let mut pool = open();
    assert_ne!(pool.offer(b"two", Some(address), 6).unwrap(), Some(address));
    assert_eq!(pool.offer(b"one", None, 6).unwrap(), Some(address));
    pool.release(b"one", address).unwrap();
    assert_eq!(pool.offer(b"three", Some(address), 7).unwrap(), Some(address));
    std::fs::write(&file, "{").unwrap();
    assert!(Pool::open(first, last, &[], Some(&file)).is_err());
    assert!(Pool::open(last, first, &[], None).is_err());
}

#[test]
fn options_go_on_in_other_fields_and_in_several_pieces() {
    let long = vec![b'x'; 700];
    let packet = message_of(MAC, message::DISCOVER, BIOS, Some(0), &[(CLIENT_ID, &long)]);
    let mut data = packet.encode().unwrap();
    assert_eq!(Packet::parse(&data).unwrap().option(CLIENT_ID), Some(long.as_slice()));
    // The end of the options becomes: there are more in file and sname.
    let end = data.iter().rposition(|byte| *byte == 255).unwrap();
    data.splice(end..end, [OVERLOAD, 1, 3]);
    data[108..113].copy_from_slice(&[MESSAGE, 2, b'h', b'i', 255]);
    data[44..48].copy_from_slice(&[ROUTER, 1, 9, 255]);
    let parsed = Packet::parse(&data).unwrap();
    assert_eq!((parsed.text(MESSAGE).as_deref(), parsed.option(ROUTER)), (Some("hi"), Some(&[9][..])));
    assert_eq!((parsed.file.as_str(), parsed.sname.as_str()), ("", ""));
}

#[test]
fn no_message_makes_the_reader_or_the_answer_fail_badly() {
    let uuid = [0u8; 17];
    let seed =
        message_of(MAC, message::DISCOVER, UEFI, Some(7), &[(MACHINE_ID, &uuid), (CLIENT_ID, b"\x01abc")]);
    let seed = seed.encode().unwrap();
    let mut state = 3u32;
    let mut next = |below: usize| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as usize % below
    };
    let (mut responders, mut answered) = ([proxy(), server(200)], 0);
    for round in 0..20_000u64 {
        let mut data = seed.clone();
        for _ in 0..=next(6) {
            // Most of what decides stands in the first bytes and in the options.
            let at = if next(2) == 0 { next(44) } else { 240 + next(data.len() - 240) };
            data[at] = next(256) as u8;
        }
        data.truncate(data.len() - next(2) * next(60));
        let Ok(packet) = Packet::parse(&data) else { continue };
        for responder in &mut responders {
            if let Some(answer) = responder.answer(&packet, (67, ANYBODY), round).unwrap() {
                answer.packet.encode().unwrap();
                answered += 1;
            }
        }
    }
    assert!(answered > 1000, "{answered}");
}
