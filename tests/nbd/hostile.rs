// SPDX-License-Identifier: Apache-2.0
//! Clients that are broken or mean harm: they lose their own connection, and nobody else loses anything.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::common::{Scene, noise, tool};
use crate::support::{Server, images, nbdsh, path};

fn connect(server: &Server) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", server.port())).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream
}

/// Greeted, and in the transmission phase of the default export, without structured replies.
fn transmission(server: &Server) -> TcpStream {
    let mut stream = connect(server);
    let mut greeting = [0; 18];
    stream.read_exact(&mut greeting).unwrap();
    assert_eq!(&greeting[..16], b"NBDMAGICIHAVEOPT");
    stream.write_all(&[0, 0, 0, 3]).unwrap();
    stream.write_all(b"IHAVEOPT\0\0\0\x01\0\0\0\0").unwrap();
    let mut export = [0; 10];
    stream.read_exact(&mut export).unwrap();
    stream
}

/// Reads until the server closes; true if it does so in time.
fn is_closed(mut stream: TcpStream) -> bool {
    let mut rest = Vec::new();
    match stream.read_to_end(&mut rest) {
        Ok(_) => true,
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    }
}

fn request(command: u16, offset: u64, len: u32) -> Vec<u8> {
    let mut bytes = 0x2560_9513u32.to_be_bytes().to_vec();
    bytes.extend(0u16.to_be_bytes());
    bytes.extend(command.to_be_bytes());
    bytes.extend(1u64.to_be_bytes());
    bytes.extend(offset.to_be_bytes());
    bytes.extend(len.to_be_bytes());
    bytes
}

#[test]
fn what_breaks_the_protocol_ends_its_connection_and_no_other() {
    let scene = Scene::new();
    let (_, image) = images(&scene);
    let overlay = scene.path("overlay.raw");
    let server = Server::start(&scene, &[path(&image), "--overlay", path(&overlay)]);
    let bystander = transmission(&server);
    let handshakes: [&[u8]; 6] = [
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        // Flags that nobody knows.
        &[0xff, 0, 0, 3],
        // An option of 4 GiB, of which nothing comes.
        b"\0\0\0\x03IHAVEOPT\0\0\0\x07\xff\xff\xff\xff",
        // An option without its magic number.
        b"\0\0\0\x03IHAVEOPX\0\0\0\x07\0\0\0\0",
        // An export that is not there.
        b"\0\0\0\x03IHAVEOPT\0\0\0\x01\0\0\0\x03abc",
        // A name that is not UTF-8.
        b"\0\0\0\x03IHAVEOPT\0\0\0\x01\0\0\0\x01\xff",
    ];
    for bytes in handshakes {
        let mut stream = connect(&server);
        let _ = stream.write_all(bytes);
        assert!(is_closed(stream), "{bytes:?}");
    }
    let requests = [
        vec![0; 28],
        noise(28, 3),
        // A write of 4 GiB.
        request(1, 0, u32::MAX),
        // DISC.
        request(2, 0, 0),
    ];
    for bytes in requests {
        let mut stream = transmission(&server);
        stream.write_all(&bytes).unwrap();
        assert!(is_closed(stream), "{bytes:?}");
    }
    // A write beyond the end, and of more than 32 MiB, all of which comes: it is refused, and the connection goes on.
    let mut stream = transmission(&server);
    stream.write_all(&request(1, 0, (32 << 20) + 1)).unwrap();
    stream.write_all(&vec![7; (32 << 20) + 1]).unwrap();
    let mut reply = [0; 16];
    stream.read_exact(&mut reply).unwrap();
    assert_eq!(reply[..8], [0x67, 0x44, 0x66, 0x98, 0, 0, 0, 28]);
    stream.write_all(&request(0, 0, 4)).unwrap();
    let mut reply = [0; 20];
    stream.read_exact(&mut reply).unwrap();
    assert_eq!(reply[4..8], [0; 4]);
    drop(stream);
    // A client that leaves in the middle of its write has written nothing.
    let mut stream = transmission(&server);
    stream.write_all(&request(1, 0, 8192)).unwrap();
    stream.write_all(&[9; 4000]).unwrap();
    drop(stream);
    let mut stream = bystander;
    stream.write_all(&request(0, 0, 8192)).unwrap();
    let mut reply = vec![0; 16 + 8192];
    stream.read_exact(&mut reply).unwrap();
    assert!(reply[16..] == noise(8192, 5), "the image's bytes, to the one that was there all the time");
    assert_eq!(server.stop()["written_bytes"], 0);
}

#[test]
fn clients_that_stand_in_the_way_are_counted_and_the_others_served() {
    let scene = Scene::new();
    let (_, image) = images(&scene);
    let server = Server::start(&scene, &[path(&image), "--max-clients", "4"]);
    // They say nothing, or want replies that they do not read.
    let mut stuck = vec![connect(&server), transmission(&server), transmission(&server)];
    for stream in &mut stuck[1..] {
        for _ in 0..200 {
            if stream.set_nonblocking(true).and_then(|()| stream.write_all(&request(0, 0, 16 << 20))).is_err()
            {
                break;
            }
        }
    }
    let script = "assert len(h.pread(16 << 20, 0)) == 16 << 20";
    nbdsh(server.uri(), script).expect(0);
    // The fourth place is taken; the fifth client is turned away.
    let fourth = transmission(&server);
    assert!(is_closed(connect(&server)));
    drop(fourth);
    let mut served = false;
    for _ in 0..100 {
        served = tool("libnbd-bin", "nbdinfo", &["--size", server.uri()]).code == Some(0);
        if served {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(served, "a place that became free");
    // With all of them still there it ends.
    server.stop();
    drop(stuck);
}

#[test]
fn a_signal_lets_what_was_asked_be_answered_and_flushes() {
    let scene = Scene::new();
    let (_, image) = images(&scene);
    let overlay = scene.path("overlay.raw");
    let arguments = [path(&image), "--overlay", path(&overlay)];
    let server = Server::start(&scene, &arguments);
    let mut stream = transmission(&server);
    let mut bytes = request(1, 4096, 4096);
    bytes.extend([0xab; 4096]);
    stream.write_all(&bytes).unwrap();
    let mut reply = [0; 16];
    stream.read_exact(&mut reply).unwrap();
    assert_eq!(reply[4..8], [0; 4]);
    // Not flushed by its client.
    assert_eq!(server.stop()["written_bytes"], 4096);
    assert!(is_closed(stream));
    let server = Server::start(&scene, &arguments);
    nbdsh(server.uri(), "assert h.pread(4096, 4096) == b'\\xab' * 4096").expect(0);
}
