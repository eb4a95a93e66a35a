// SPDX-License-Identifier: Apache-2.0
//! Real clients, by names that are not there and lead elsewhere, over a network that loses datagrams.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{Folder, Limits, Packet, Server};
use crate::told::Told;

/// A server of a folder, for as long as `work` takes.
fn served(folder: &Path, limits: Limits, work: impl FnOnce(SocketAddr)) -> Vec<String> {
    let server = Server::bind((Ipv4Addr::LOCALHOST, 0).into(), limits).unwrap();
    let (files, told) = (Folder::open(folder).unwrap(), Arc::new(Told::default()));
    std::thread::scope(|scope| {
        scope.spawn(|| server.serve(&files, &*told).unwrap());
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(server.address())));
        told.stop.store(true, Ordering::Relaxed);
        done.unwrap();
    });
    told.said.lock().unwrap().clone()
}

fn content(len: usize) -> Vec<u8> {
    let mut state = 7u64;
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        })
        .collect()
}

fn client(program: &str, arguments: &[&str]) -> bool {
    let output = Command::new("timeout").arg("60").arg(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("{program} has to be installed: {error}"));
    let said =
        String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    output.status.success() && !said.contains("Error code")
}

#[test]
fn real_clients_read_files_of_every_length_around_a_block() {
    let folder = tempfile::tempdir().unwrap();
    let out = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("boot")).unwrap();
    // The last one needs more blocks than a number has bits.
    for len in [0, 1, 511, 512, 513, 1428, 40_000, 512 * 65_600 + 3] {
        std::fs::write(folder.path().join("boot/file"), content(len)).unwrap();
        let got = out.path().join("got");
        let got = got.to_str().unwrap();
        served(folder.path(), Limits::default(), |address| {
            let port = address.port().to_string();
            let url = format!("tftp://{address}/boot/file");
            // A client that waits for each of 65,600 blocks says enough of the numbers; the others need not.
            let few = if len > 1 << 20 { 2 } else { 0 };
            // curl takes a size of 0 in the answer for a broken one.
            let refused = |program: &str, arguments: &[&str]| {
                len == 0 && program == "curl" && arguments.contains(&"--tftp-blksize")
            };
            let curl = ["-s", "--tftp-blksize", "1428", "-o", got, &url];
            let plain = ["-s", "--tftp-no-options", "-o", got, &url];
            let windows = [
                "--option",
                "windowsize 16",
                "--option",
                "blksize 1024",
                "-g",
                "-r",
                "boot/file",
                "-l",
                got,
                "127.0.0.1",
                &port,
            ];
            let hpa = ["-m", "binary", "127.0.0.1", &port, "-c", "get", "boot/file", got];
            for (program, arguments) in
                [("curl", &curl[..]), ("tftp", &hpa), ("curl", &plain), ("atftp", &windows)]
                    .into_iter()
                    .skip(few)
            {
                if refused(program, arguments) {
                    continue;
                }
                let _ = std::fs::remove_file(got);
                assert!(client(program, arguments), "{program} {arguments:?} of {len} bytes");
                // curl makes no file of nothing.
                let found = std::fs::read(got).unwrap_or_default();
                assert!(found == content(len), "{program} {arguments:?}: {} of {len} bytes", found.len());
            }
        });
    }
}

#[test]
fn nothing_outside_of_the_folder_is_read_and_nothing_is_written() {
    let all = tempfile::tempdir().unwrap();
    let folder = all.path().join("served");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(all.path().join("secret"), "secret").unwrap();
    std::fs::write(folder.join("inside"), "inside").unwrap();
    std::os::unix::fs::symlink("../secret", folder.join("link")).unwrap();
    std::os::unix::fs::symlink(all.path().join("secret"), folder.join("absolute")).unwrap();
    std::os::unix::fs::symlink("inside", folder.join("fine")).unwrap();
    let out = all.path().join("got");
    let got = out.to_str().unwrap();
    served(&folder, Limits::default(), |address| {
        let get = |name: &str| {
            let _ = std::fs::remove_file(&out);
            let port = address.port().to_string();
            client("atftp", &["-g", "-r", name, "-l", got, "127.0.0.1", &port]);
            std::fs::read_to_string(&out).unwrap_or_default()
        };
        for name in
            ["../secret", "link", "absolute", "/../secret", "..\\secret", "a/../../secret", "", "/", "."]
        {
            assert_eq!(get(name), "", "{name}");
        }
        for name in ["inside", "/inside", "\\inside", "fine", "./inside"] {
            assert_eq!(get(name), "inside", "{name}");
        }
        std::fs::write(&out, "other").unwrap();
        let port = address.port().to_string();
        client("atftp", &["-p", "-r", "inside", "-l", got, "127.0.0.1", &port]);
        assert_eq!(get("inside"), "inside");
    });
}

#[test]
fn datagrams_that_are_lost_or_come_twice_change_nothing() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("file"), content(300_000)).unwrap();
    served(folder.path(), Limits::default(), |address| {
        for window in [1u64, 8] {
            let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            let request = format!("\0\x01file\0octet\0blksize\x001400\0timeout\x001\0windowsize\0{window}\0");
            socket.send_to(request.as_bytes(), address).unwrap();
            let (mut got, mut acknowledged, mut count) = (Vec::<u8>::new(), 0u16, 0u32);
            let mut buffer = [0; 2048];
            let (_, peer) = socket.recv_from(&mut buffer).unwrap();
            assert_eq!(&buffer[..2], [0, 6]);
            socket.send_to(&[0, 4, 0, 0], peer).unwrap();
            let mut in_window = 0;
            loop {
                let (len, from) = socket.recv_from(&mut buffer).unwrap();
                assert_eq!(from, peer);
                count += 1;
                // Every seventeenth block does not arrive.
                if count % 17 == 0 {
                    continue;
                }
                assert_eq!(&buffer[..2], [0, 3]);
                let number = u16::from_be_bytes([buffer[2], buffer[3]]);
                let fits = number == acknowledged.wrapping_add(1);
                if fits {
                    got.extend(&buffer[4..len]);
                    acknowledged = number;
                    in_window += 1;
                }
                let last = fits && len < 1404;
                if !fits || last || in_window >= window {
                    in_window = 0;
                    let ack = [[0, 4], acknowledged.to_be_bytes()].concat();
                    // And some acknowledgements arrive twice.
                    for _ in 0..1 + count % 3 / 2 {
                        socket.send_to(&ack, peer).unwrap();
                    }
                }
                if last {
                    break;
                }
            }
            assert!(got == content(300_000), "window {window}: {} bytes", got.len());
        }
    });
}

#[test]
fn a_client_gets_no_more_transfers_than_its_share() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("file"), content(4000)).unwrap();
    let limits = Limits { transfers: 3, of_client: 2 };
    served(folder.path(), limits, |address| {
        let ask = || {
            let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            socket.send_to(b"\0\x01file\0octet\0", address).unwrap();
            let mut buffer = [0; 2048];
            let (_, peer) = socket.recv_from(&mut buffer).unwrap();
            (socket, peer, buffer[1])
        };
        let (first, peer, kind) = ask();
        let (_second, _, other) = ask();
        assert_eq!((kind, other), (3, 3));
        assert_eq!(ask().2, 5);
        first.send_to(b"\0\x05\0\0enough\0", peer).unwrap();
        let again = (0..50).find(|_| {
            std::thread::sleep(Duration::from_millis(50));
            ask().2 == 3
        });
        assert!(again.is_some());
    });
}

#[test]
fn no_message_makes_the_reader_fail_badly() {
    let seeds: [&[u8]; 4] = [
        b"\0\x01pxelinux.0\0octet\0blksize\x001456\0tsize\x000\0windowsize\x0016\0",
        b"\0\x02x\0netascii\0",
        b"\0\x04\0\x07",
        b"\0\x05\0\x08no\0",
    ];
    let mut state = 1u32;
    let mut next = |below: usize| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as usize % below
    };
    let mut read = 0;
    for _ in 0..20_000 {
        let mut data = seeds[next(4)].to_vec();
        for _ in 0..=next(4) {
            let at = next(data.len());
            data[at] = next(256) as u8;
        }
        data.truncate(next(data.len() + 1));
        read += u32::from(Packet::parse(&data).is_ok());
    }
    assert!(read > 100, "{read}");
}
