// SPDX-License-Identifier: Apache-2.0
//! A server that is killed: what its clients had flushed is there, and the rest is old or new and nothing else.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::common::Scene;
use crate::support::{PYTHON, Server, images, path};

/// Kills of the server.
const ROUNDS: usize = 20;
/// Bytes of a record; unaligned on purpose, so that granules are filled from the image.
const RECORD: usize = 1500;

/// Writes records as fast as it can and prints the number of each that a flush, or its own FUA, has made durable.
const WRITER: &str = r#"
import nbd, random, sys
h = nbd.NBD()
h.connect_uri(sys.argv[1])
start, seed = int(sys.argv[2]), int(sys.argv[3])
random.seed(seed)
written = []
for number in range(start, start + 100000):
    place = number % 10000
    record = b"%08d" % number * (1500 // 8 + 1)
    fua = random.random() < 0.1
    h.pwrite(record[:1500], place * 1500, nbd.CMD_FLAG_FUA if fua else 0)
    if fua:
        print(number, flush=True)
    written.append(number)
    if random.random() < 0.2:
        h.flush()
        for done in written:
            print(done)
        sys.stdout.flush()
        written = []
"#;

#[test]
fn what_was_flushed_survives_twenty_kills_of_the_server() {
    let scene = Scene::new();
    let (raw, image) = images(&scene);
    let original = std::fs::read(&raw).unwrap();
    let overlay = scene.path("overlay.raw");
    let mut durable: Vec<Option<u32>> = vec![None; 10_000];
    let mut next = 0u32;
    for round in 0..ROUNDS {
        let mut arguments = vec![path(&image), "--overlay", path(&overlay)];
        if round % 2 == 1 {
            arguments.push("--hydrate");
        }
        let server = Server::start(&scene, &arguments);
        let mut writer = Command::new(PYTHON)
            .args(["-c", WRITER, server.uri(), &next.to_string(), &round.to_string()])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(writer.stdout.take().unwrap()).lines();
        // At another moment each time: after so many durable records, and a bit.
        let (mut server, after) = (Some(server), 3 + round * 17);
        let mut last = next;
        for (count, line) in lines.map_while(Result::ok).enumerate() {
            let number: u32 = line.parse().unwrap();
            durable[number as usize % 10_000] = Some(number);
            last = last.max(number);
            if count >= after
                && let Some(server) = server.take()
            {
                std::thread::sleep(Duration::from_micros(round as u64 * 331));
                server.kill();
            }
        }
        writer.wait().unwrap();
        assert!(server.is_none(), "the writer stopped early: is python3-libnbd installed?");
        // Numbers that were written and not made durable are not used again.
        let begun = last + 2000;
        check(&scene, &arguments[..3], &original, &durable, begun);
        next = begun;
    }
    assert!(durable.iter().flatten().count() > 500);
}

/// Every record that was durable is there, or a later one in its place; all other bytes are the image's or a record's.
fn check(scene: &Scene, arguments: &[&str], original: &[u8], durable: &[Option<u32>], begun: u32) {
    let server = Server::start(scene, arguments);
    let copy = scene.path("copy.raw");
    crate::common::tool("libnbd-bin", "nbdcopy", &[server.uri(), path(&copy)]).expect(0);
    let content = std::fs::read(&copy).unwrap();
    let mut torn = 0;
    for (place, number) in durable.iter().enumerate() {
        let range = place * RECORD..(place + 1) * RECORD;
        if number.is_none() && content[range.clone()] == original[range.clone()] {
            continue;
        }
        let mut found: Vec<u32> = Vec::new();
        // The kernel ends a write of a process that is killed at a page's border.
        let border = range.end - range.end % 4096;
        for part in [range.start..border.max(range.start), border.max(range.start)..range.end] {
            if number.is_none() && content[part.clone()] == original[part.clone()] {
                continue;
            }
            found.extend(record(&content[part.clone()], part.start - range.start, place));
        }
        assert!(found.iter().all(|first| *first < begun && Some(*first) >= *number), "{found:?} {number:?}");
        torn += usize::from(found.windows(2).any(|pair| pair[0] != pair[1]));
    }
    assert!(torn <= ROUNDS, "{torn} records are of two writes: each kill explains one");
    let end = 10_000 * RECORD;
    assert!(content[end..] == original[end..]);
}

/// The number of the record that `part`, which begins `from` bytes into its place, belongs to; none if it is too short to say.
fn record(part: &[u8], from: usize, place: usize) -> Option<u32> {
    let first = from.next_multiple_of(8) - from;
    let number: u32 = std::str::from_utf8(part.get(first..first + 8)?).unwrap().parse().unwrap();
    let whole = format!("{number:08}").repeat(RECORD / 8 + 1);
    assert!(part == &whole.as_bytes()[from..from + part.len()], "place {place}, byte {from}");
    assert_eq!(number as usize % 10_000, place);
    Some(number)
}
