// SPDX-License-Identifier: Apache-2.0
//! Databases that are written to while their host is captured: what was committed before the instant is in the image, and nothing that began
//! after it. With the hooks that packaging/freeze.d has.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "helpers of tests are tests")]

mod common;

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use common::unmoor;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

fn tool(program: &str, arguments: &[&str]) -> Result<String, String> {
    said(Command::new(program).args(arguments))
}

fn said(command: &mut Command) -> Result<String, String> {
    let shown = format!("{command:?}");
    let output = command.output().map_err(|error| format!("{shown}: {error}"))?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned()),
        false => Err(format!("{shown}: {}", String::from_utf8_lossy(&output.stderr))),
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A filesystem image that is mounted until it is dropped.
struct Mounted {
    device: String,
    at: PathBuf,
}

impl Mounted {
    fn new(file: &Path, at: PathBuf) -> Result<Self, String> {
        fs::create_dir_all(&at).unwrap();
        let device = tool("losetup", &["--find", "--show", text(file)])?;
        let mounted = Self { device, at };
        tool("mount", &[&mounted.device, text(&mounted.at)])?;
        Ok(mounted)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = tool("umount", &["-l", text(&self.at)]);
        let _ = tool("losetup", &["-d", &self.device]);
    }
}

/// A database server of either kind.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Postgres,
    Mariadb,
}

struct Server {
    kind: Kind,
    child: Child,
    sockets: PathBuf,
}

impl Server {
    fn prepare(kind: Kind, data: &Path) -> Result<(), String> {
        match kind {
            Kind::Postgres => {
                fs::create_dir(data).unwrap();
                tool("chown", &["postgres", text(data)])?;
                said(postgres("initdb").args(["-D", text(data), "-A", "trust", "--no-sync"])).map(drop)
            }
            Kind::Mariadb => {
                let data = format!("--datadir={}", data.display());
                let arguments =
                    ["--no-defaults", "--user=root", "--auth-root-authentication-method=normal", &data];
                tool("mariadb-install-db", &arguments).map(drop)
            }
        }
    }

    fn start(kind: Kind, data: &Path, sockets: &Path) -> Self {
        fs::create_dir_all(sockets).unwrap();
        tool("chmod", &["777", text(sockets)]).unwrap();
        let log = File::create(sockets.join("log")).unwrap();
        let mut command = match kind {
            Kind::Postgres => {
                let mut command = postgres("postgres");
                command.args(["-D", text(data), "-k", text(sockets), "-c", "listen_addresses="]);
                command
            }
            Kind::Mariadb => {
                let mut command = Command::new("mariadbd");
                let socket = sockets.join("socket");
                command.args(["--no-defaults", "--user=root", "--skip-networking"]);
                command
                    .arg(format!("--datadir={}", data.display()))
                    .arg(format!("--socket={}", socket.display()));
                command
            }
        };
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let server = Self { kind, child: command.spawn().unwrap(), sockets: sockets.to_owned() };
        let began = Instant::now();
        while server.ask("SELECT 1").is_err() {
            let log = || fs::read_to_string(sockets.join("log")).unwrap();
            assert!(began.elapsed() < Duration::from_secs(120), "{}", log());
            std::thread::sleep(Duration::from_millis(100));
        }
        server
    }

    fn client(&self) -> Command {
        match self.kind {
            Kind::Postgres => {
                let mut command = Command::new("psql");
                command.args([
                    "-X",
                    "-q",
                    "-t",
                    "-A",
                    "-U",
                    "postgres",
                    "-d",
                    "postgres",
                    "-h",
                    text(&self.sockets),
                ]);
                command
            }
            Kind::Mariadb => {
                let mut command = Command::new("mariadb");
                command.args(["--no-defaults", "-uroot", "-N", "-B", "--unbuffered"]);
                command.arg(format!("--socket={}", self.sockets.join("socket").display()));
                command
            }
        }
    }

    fn ask(&self, query: &str) -> Result<String, String> {
        said(self.client().args([if self.kind == Kind::Postgres { "-c" } else { "-e" }, query]))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // At once, as by a power cut.
        let _ = kill(Pid::from_raw(self.child.id() as i32), Signal::SIGQUIT);
        std::thread::sleep(Duration::from_millis(300));
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// As the user postgres, for its programs refuse to run as root.
fn postgres(program: &str) -> Command {
    let folders = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let installed = folders.map(|folder| folder.path().join("bin").join(program)).find(|path| path.exists());
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups", "--"]);
    command.arg(installed.unwrap_or_else(|| program.into())).current_dir("/");
    command
}

/// Commits numbers one by one, and notes when each was acknowledged.
struct Committer {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<Mutex<Vec<u128>>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

fn milliseconds() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()
}

impl Committer {
    fn start(server: &Server, tables: &'static [&'static str]) -> Self {
        let mut child = server.client().stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (stop, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let thread = std::thread::spawn({
            let (stop, acknowledged) = (Arc::clone(&stop), Arc::clone(&acknowledged));
            move || {
                let (mut into, mut from) =
                    (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
                let mut line = String::new();
                for number in 1.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    for table in tables {
                        writeln!(
                            into,
                            "INSERT INTO {table} VALUES ({number}, repeat('x', {}));",
                            number % 3000
                        )
                        .unwrap();
                    }
                    writeln!(into, "SELECT 'done';").unwrap();
                    line.clear();
                    from.read_line(&mut line).unwrap();
                    assert_eq!(line.trim(), "done");
                    acknowledged.lock().unwrap().push(milliseconds());
                }
                drop(into);
                let _ = child.wait();
            }
        });
        Self { stop, acknowledged, thread: Some(thread) }
    }

    /// How many were acknowledged before a time.
    fn before(&self, instant: u128) -> u64 {
        self.acknowledged.lock().unwrap().iter().filter(|time| **time < instant).count() as u64
    }
}

impl Drop for Committer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().unwrap().join();
    }
}

/// Captures the host of a database that commits all the time, three times; what it says of each image is checked.
fn check(kind: Kind, hook: &str, create: &str, tables: &'static [&'static str]) {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    tool("chmod", &["755", text(folder.path())]).unwrap();
    let disk = path("disk");
    File::create(&disk).unwrap().set_len(1 << 30).unwrap();
    let mounted = tool("mkfs.ext4", &["-q", "-F", text(&disk)]).and_then(|_| Mounted::new(&disk, path("at")));
    let mounted = match mounted {
        Ok(mounted) => mounted,
        Err(because) => return println!("skipped: {because}"),
    };
    if let Err(because) = Server::prepare(kind, &mounted.at.join("data")) {
        return println!("skipped: {because}");
    }
    let server = Server::start(kind, &mounted.at.join("data"), &path("sockets"));
    for query in create.split(';') {
        server.ask(query).unwrap();
    }
    let hooks = path("hooks");
    fs::create_dir(&hooks).unwrap();
    fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/freeze.d").join(hook), hooks.join(hook))
        .unwrap();
    let committer = Committer::start(&server, tables);
    std::thread::sleep(Duration::from_secs(2));
    for round in 0..3 {
        let image = path(&format!("image{round}.qcow2"));
        let mut command = unmoor();
        command.args(["capture", "--live", "--json", "--hooks", text(&hooks), &mounted.device]).arg(&image);
        command.env("PGHOST", path("sockets")).env("UNMOOR_HOOK_STATE", path("state"));
        let socket = path("sockets/socket");
        command.env("MARIADB_HOOK_OPTIONS", format!("--no-defaults -uroot --socket={}", socket.display()));
        let out = said(&mut command).unwrap();
        let results = out.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let live = results
            .filter_map(|line| line.get("live").filter(|live| live.is_object()).cloned())
            .next()
            .unwrap();
        assert_eq!(live["hooks"][0], hook);
        let instant = tool("date", &["--date", live["instant"].as_str().unwrap(), "+%s%3N"]).unwrap();
        let instant: u128 = instant.parse().unwrap();
        // What is acknowledged goes on: nothing is held for longer than the capture.
        let (count, began) = (committer.before(u128::MAX), Instant::now());
        while committer.before(u128::MAX) < count + 3 {
            assert!(began.elapsed() < Duration::from_secs(60), "the database stands still");
            std::thread::sleep(Duration::from_millis(20));
        }
        let before = committer.before(instant);
        let back = path("back.raw");
        let _ = fs::remove_file(&back);
        said(unmoor().args(["restore", "--yes"]).arg(&image).arg(&back)).unwrap();
        let copy = Mounted::new(&back, path("copy")).unwrap();
        // It names the process that runs here; on another machine there would be none.
        let _ = fs::remove_file(copy.at.join("data/postmaster.pid"));
        let restored = Server::start(kind, &copy.at.join("data"), &path("sockets2"));
        for table in tables {
            let counts = restored.ask(&format!("SELECT count(*), max(n) FROM {table}")).unwrap();
            let counts: Vec<u64> = counts.split(['|', '\t']).map(|count| count.parse().unwrap()).collect();
            assert_eq!(counts[0], counts[1], "{table}: there is a gap");
            assert!((before..=before + 2).contains(&counts[0]), "{table}: {} and {before}", counts[0]);
        }
        assert!(before > 10);
    }
}

#[test]
fn postgresql_has_what_was_committed_before_the_instant() {
    check(Kind::Postgres, "10-postgresql", "CREATE TABLE numbers (n integer, filling text)", &["numbers"]);
}

#[test]
fn mariadb_has_what_was_committed_before_the_instant_in_tables_that_do_not_recover_too() {
    let create = "CREATE DATABASE test2;CREATE TABLE test2.numbers (n INT, filling TEXT) ENGINE=InnoDB;\
                  CREATE TABLE test2.plain (n INT, filling TEXT) ENGINE=MyISAM";
    check(Kind::Mariadb, "20-mariadb", create, &["test2.numbers", "test2.plain"]);
}
