// SPDX-License-Identifier: Apache-2.0
//! What machines in the network say, and files that tell of them: clients that start from the network, name servers, profiles of object
//! storage, another machine's inventory.

use unmoor_convert::profiles;
use unmoor_images::ErrorKind;
use unmoor_images::store::backend::{decode_answer, decode_profile};
use unmoor_pxe_boot::{dhcp, tftp};

use super::{Answer, check_error, file_of, folder};
use crate::disk::Machine;

/// A datagram's most bytes.
const MOST: u64 = 64 << 10;

fn bytes(machine: &Machine, disk: usize) -> Vec<u8> {
    machine.disks.get(disk).map(|disk| disk.peek(0, disk.size().min(MOST) as usize)).unwrap_or_default()
}

/// What a client of the DHCP server sends.
pub(crate) fn discover(machine: &Machine) -> Answer {
    let packet = match dhcp::Packet::parse(&bytes(machine, 0)) {
        Ok(packet) => packet,
        Err(error) => return Answer::error(&error),
    };
    assert!(packet.hardware.len() <= 16);
    let client = dhcp::Client::of(&packet);
    if let Some(client) = &client {
        assert!(!client.mac().is_empty() && client.to_string().len() < 4096);
    }
    // What is written reads as it was; a name that fills its field cannot be written.
    let written =
        packet.encode().ok().map(|raw| dhcp::Packet::parse(&raw).expect("what is written can be read"));
    if let Some(written) = &written {
        assert!(written.options == packet.options && written.hardware == packet.hardware);
        assert!(written.xid == packet.xid && written.op == packet.op);
    }
    let reply = packet.reply().encode().expect("a reply has no names yet");
    assert_eq!(dhcp::Packet::parse(&reply).expect("a reply can be read").xid, packet.xid);
    let summary = match &client {
        Some(client) => format!("client, {:?}", client.architecture),
        None => "message".to_owned(),
    };
    Answer::new(summary, (packet, client, written.is_some()))
}

/// What a client of the TFTP server sends.
pub(crate) fn tftp(machine: &Machine) -> Answer {
    match tftp::Packet::parse(&bytes(machine, 0)) {
        Ok(packet) => {
            if let tftp::Packet::Read { name, options } = &packet {
                assert!(name.len() < 1024 && !name.contains('\0'));
                assert!(options.block.is_none_or(|block| (8..=65464).contains(&block)));
                assert!(options.timeout != Some(0) && options.window != Some(0));
            }
            let summary = match &packet {
                tftp::Packet::Read { .. } => "read",
                tftp::Packet::Write => "write",
                tftp::Packet::Ack(_) => "ack",
                tftp::Packet::Error { .. } => "gives up",
            };
            Answer::new(summary, packet)
        }
        Err(error) => Answer::error(&error),
    }
}

/// The name that the seeds' messages answer for.
pub(crate) const NAME: &str = "s3.example.org";

/// What a name server answers.
pub(crate) fn dns(machine: &Machine) -> Answer {
    let message = bytes(machine, 0);
    match decode_answer(NAME, &message) {
        Ok(Some(found)) => {
            assert!(found.len() <= message.len() / 4);
            Answer::new(format!("{} addresses", found.len()), found)
        }
        Ok(None) => Answer::new("cut off", ()),
        Err(error) => Answer::error(&error),
    }
}

/// The files `credentials` and `config` of object storage.
pub(crate) fn credentials(machine: &Machine) -> Answer {
    let text = |disk| String::from_utf8_lossy(&bytes(machine, disk)).into_owned();
    let (credentials, config) = (text(0), text(1));
    let name = if machine.choices & 1 == 0 { "default" } else { "work" };
    match decode_profile(&credentials, &config, name) {
        Some(found) => {
            for value in found.values() {
                assert!(!value.is_empty() && (credentials.contains(value) || config.contains(value)));
            }
            Answer::new(format!("{} settings", found.len()), found)
        }
        None => Answer::new("none", ()),
    }
}

/// The inventory of a machine that a guest is to be fitted to.
pub(crate) fn hardware(machine: &Machine) -> Answer {
    let folder = folder();
    let path = folder.path().join("machine.json");
    file_of(machine.first(), &path);
    match profiles::profile(&path.to_string_lossy()) {
        Ok(hardware) => {
            let parts: Vec<_> =
                hardware.parts.iter().map(|part| (&part.modalias, &part.name, part.certain)).collect();
            Answer::new(format!("{} parts", parts.len()), parts)
        }
        Err(error) => {
            check_error(&error, &[ErrorKind::Io]);
            Answer { summary: "error".into(), details: format!("{:?}", error.kind()) }
        }
    }
}
