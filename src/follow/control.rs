// SPDX-License-Identifier: Apache-2.0
//! A socket through which one unmoor asks another that follows: a line goes in, a line of JSON comes out.

use std::fs;
use std::io::{BufRead, BufReader, ErrorKind as IoKind, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use unmoor_images::{Error, Result};

/// Where it usually is.
pub(crate) const SOCKET: &str = "/run/unmoor/follow.sock";
/// A question takes no longer than that to arrive.
const PATIENCE: Duration = Duration::from_secs(2);
/// Bytes of an answer at most.
const LONGEST: u64 = 1 << 20;

/// The side that follows.
pub(crate) struct Control {
    listener: UnixListener,
    path: PathBuf,
}

impl Control {
    /// Listens at `path`; refused if somebody does already.
    pub(crate) fn listen(path: &Path) -> Result<Self> {
        if UnixStream::connect(path).is_ok() {
            let because = "another unmoor follows from there: end it, or give --control another name";
            return Err(Error::refused("listening at", because).path(path));
        }
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(|error| Error::io("making", error).path(folder))?;
        }
        let _ = fs::remove_file(path);
        let failed = |error| Error::io("listening at", error).path(path);
        let listener = UnixListener::bind(path).map_err(failed)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        Ok(Self { listener, path: path.to_owned() })
    }

    /// Those who wait for an image. Whatever `at_once` has an answer to is answered.
    pub(crate) fn asked(&self, at_once: &mut dyn FnMut(&str) -> Option<Value>) -> Vec<UnixStream> {
        let mut waiting = Vec::new();
        while let Ok((stream, _)) = self.listener.accept() {
            let _ = stream.set_nonblocking(false);
            let _ = stream.set_read_timeout(Some(PATIENCE));
            let _ = stream.set_write_timeout(Some(PATIENCE));
            let mut question = String::new();
            if BufReader::new(&stream).take(64).read_line(&mut question).is_err() {
                continue;
            }
            match question.trim() {
                "now" => waiting.push(stream),
                other => {
                    let unknown = || serde_json::json!({ "error": "that question is not known" });
                    let said = at_once(other).unwrap_or_else(unknown);
                    answer(vec![stream], &said);
                }
            }
        }
        waiting
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Answers everybody who waits; one who has gone away does not matter.
pub(crate) fn answer(waiting: Vec<UnixStream>, said: &Value) {
    for mut stream in waiting {
        let _ = writeln!(stream, "{said}");
    }
}

/// Asks, and waits for the answer.
pub(crate) fn ask(path: &Path, question: &str) -> Result<Value> {
    let failed = |error: std::io::Error| match error.kind() {
        IoKind::NotFound | IoKind::ConnectionRefused => Error::refused(
            "asking",
            "no unmoor follows from there: start `unmoor follow`, or give its --control",
        )
        .path(path),
        _ => Error::io("asking the unmoor that follows from", error).path(path),
    };
    let mut stream = UnixStream::connect(path).map_err(failed)?;
    writeln!(stream, "{question}").map_err(failed)?;
    let mut line = String::new();
    BufReader::new(stream).take(LONGEST).read_line(&mut line).map_err(failed)?;
    serde_json::from_str(&line)
        .map_err(|_| Error::malformed("asking", "it ended before it had answered").path(path))
}

/// An answer for people.
pub(crate) fn words(answer: &Value) -> String {
    let live = answer.get("live").and_then(|live| serde_json::from_value(live.clone()).ok());
    if let (Some(image), Some(live)) = (answer.get("image").and_then(Value::as_str), live) {
        return format!("{image}: {}", crate::cli::live::line(&live));
    }
    let fields = answer.as_object().into_iter().flatten();
    fields.map(|(name, value)| format!("{name}: {value}")).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_are_answered_and_a_second_listener_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/follow.sock");
        assert!(ask(&path, "now").is_err());
        let control = Control::listen(&path).unwrap();
        assert!(Control::listen(&path).is_err());
        let asker = std::thread::spawn({
            let path = path.clone();
            move || (ask(&path, "status").unwrap(), ask(&path, "now").unwrap(), ask(&path, "what").unwrap())
        });
        let mut answered = 0;
        let mut at_once = |question: &str| (question == "status").then(|| serde_json::json!({ "dirty": 7 }));
        // Bounded by the asker, who ends after three answers.
        while !asker.is_finished() {
            let waiting = control.asked(&mut at_once);
            answered += waiting.len();
            answer(waiting, &serde_json::json!({ "image": "x" }));
            std::thread::sleep(Duration::from_millis(5));
        }
        let (status, now, what) = asker.join().unwrap();
        assert_eq!((status["dirty"].as_u64(), now["image"].as_str()), (Some(7), Some("x")));
        assert!(what.get("error").is_some() && answered == 1);
        drop(control);
        assert!(!path.exists());
    }
}
