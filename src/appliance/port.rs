// SPDX-License-Identifier: Apache-2.0
//! The host's end of the appliance's port: one line goes in, lines come out until a result or an error.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use serde_json::Value;
use unmoor_images::{Error, ErrorKind, Result, ResultExt};

/// Bytes that an appliance may say in all: plans with drivers in them have some MiB.
const MOST: u64 = 256 << 20;

/// What came.
#[derive(Debug)]
pub(super) enum Line {
    Event(Value),
    Result(Value),
    /// The job failed.
    Failed(Error),
    /// Something that is none of these.
    Malformed(String),
    /// Nothing in the time that was given, or nothing any more.
    Nothing,
}

/// The port.
pub(super) struct Port {
    lines: Receiver<Line>,
}

impl Port {
    /// Listens at `path`; who connects gets `job`.
    pub(super) fn listen(path: &Path, job: &Value) -> Result<Self> {
        let listener = UnixListener::bind(path).doing(|| "opening a socket for the appliance")?;
        let mut text = job.to_string();
        text.push('\n');
        let (sender, lines) = channel();
        // Both threads end with the connection, and without one with this process.
        std::thread::spawn(move || {
            let Ok((stream, _)) = listener.accept() else { return };
            if let Ok(mut out) = stream.try_clone() {
                // A guest that does not read must not keep what it says from being read.
                std::thread::spawn(move || {
                    let _ = out.write_all(text.as_bytes());
                });
            }
            read(stream, &sender);
        });
        Ok(Self { lines })
    }

    /// The next line.
    pub(super) fn next(&self, within: Duration) -> Line {
        match self.lines.recv_timeout(within) {
            Ok(line) => line,
            Err(RecvTimeoutError::Timeout) => Line::Nothing,
            Err(RecvTimeoutError::Disconnected) => {
                std::thread::sleep(within);
                Line::Nothing
            }
        }
    }
}

fn read(stream: UnixStream, to: &Sender<Line>) {
    let mut input = BufReader::new(stream.take(MOST));
    let mut line = Vec::new();
    loop {
        line.clear();
        match input.read_until(b'\n', &mut line) {
            Ok(len) if len > 0 && line.ends_with(b"\n") => {}
            // A line that is cut is no line.
            _ => return,
        }
        let parsed = parse(&line);
        let last = !matches!(parsed, Line::Event(_));
        if to.send(parsed).is_err() || last {
            return;
        }
    }
}

fn parse(line: &[u8]) -> Line {
    match serde_json::from_slice::<Value>(line) {
        Ok(Value::Object(mut said)) => {
            if let Some(result) = said.remove("result") {
                Line::Result(result)
            } else if let Some(error) = said.remove("error") {
                Line::Failed(failure(&error))
            } else if said.contains_key("event") {
                Line::Event(Value::Object(said))
            } else {
                Line::Malformed("a line without event, result or error".into())
            }
        }
        Ok(_) => Line::Malformed("a line that is no object".into()),
        Err(error) => Line::Malformed(error.to_string()),
    }
}

/// The appliance's error as one of ours.
fn failure(error: &Value) -> Error {
    let text = |name: &str| error.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let kind = match text("kind").as_str() {
        "malformed" => ErrorKind::Malformed,
        "unsupported" => ErrorKind::Unsupported,
        "mismatch" => ErrorKind::Mismatch,
        "refused" => ErrorKind::Refused,
        "usage" => ErrorKind::Usage,
        _ => ErrorKind::Io,
    };
    let message = text("message");
    Error::new(kind, if message.is_empty() { error.to_string() } else { message })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
mod tests {
    use super::*;
    use serde_json::json;

    fn talk(say: &'static [u8]) -> (Vec<Line>, String) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("job");
        let port = Port::listen(&path, &json!({ "job": "x".repeat(3 << 20) })).unwrap();
        let mut stream = UnixStream::connect(&path).unwrap();
        stream.write_all(say).unwrap();
        let mut job = String::new();
        BufReader::new(&stream).read_line(&mut job).unwrap();
        drop(stream);
        let mut lines = Vec::new();
        loop {
            match port.next(Duration::from_millis(300)) {
                Line::Nothing => return (lines, job),
                line => lines.push(line),
            }
        }
    }

    #[test]
    fn a_job_goes_in_and_events_and_a_result_come_out() {
        let (lines, job) = talk(b"{\"event\":\"ready\"}\n{\"result\":{\"n\":7}}\n{\"event\":\"late\"}\n");
        assert!(job.len() > 3 << 20 && job.ends_with("\"}\n"));
        match lines.as_slice() {
            [Line::Event(event), Line::Result(result)] => {
                assert_eq!((&event["event"], &result["n"]), (&json!("ready"), &json!(7)));
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn errors_keep_their_kind_and_nonsense_is_told() {
        let (lines, _) = talk(b"{\"error\":{\"kind\":\"refused\",\"message\":\"mounting /boot: no\"}}\n");
        assert!(matches!(lines.as_slice(), [Line::Failed(error)]
            if error.kind() == ErrorKind::Refused && error.chain() == "mounting /boot: no"));
        for nonsense in [&b"[1]\n"[..], b"{}\n", b"\xff\n", b"\n"] {
            let (lines, _) = talk(nonsense.to_vec().leak());
            assert!(matches!(lines.as_slice(), [Line::Malformed(_)]), "{lines:?}");
        }
        let (lines, _) = talk(b"{\"result\":1}");
        assert!(lines.is_empty(), "a line that was cut");
    }
}
