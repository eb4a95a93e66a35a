// SPDX-License-Identifier: Apache-2.0
//! The pages over a real listener, asked in plain HTTP/1.1.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

mod fake;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use fake::{Fleet, HOSTILE};

use super::router;
use crate::api::{Event, JobState};
use crate::server::Admin;

const TOKEN: &str = "a-token-of-the-administrator";

struct Site {
    fleet: Arc<Fleet>,
    address: SocketAddr,
    cookie: String,
    _runtime: tokio::runtime::Runtime,
}

struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (found, value) = line.split_once(": ")?;
            found.eq_ignore_ascii_case(name).then_some(value)
        })
    }

    /// The token of the page's forms.
    fn csrf(&self) -> &str {
        self.body.split("name='csrf' value='").nth(1).unwrap().split('\'').next().unwrap()
    }
}

impl Site {
    fn start(fleet: Fleet) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let fleet = Arc::new(fleet);
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let pages = router(fleet.clone(), Arc::new(|token: &str| token == TOKEN));
        runtime.spawn(async move { axum::serve(listener, pages).await });
        Self { fleet, address, cookie: String::new(), _runtime: runtime }
    }

    fn signed_in(fleet: Fleet) -> Self {
        let mut site = Self::start(fleet);
        let answer = site.post("/login", &format!("token={TOKEN}"));
        assert_eq!((answer.status, answer.header("location")), (303, Some("/")));
        let cookie = answer.header("set-cookie").unwrap();
        for part in ["__Host-", "HttpOnly", "Secure", "SameSite=Strict", "Path=/"] {
            assert!(cookie.contains(part), "{cookie}");
        }
        site.cookie = cookie.split(';').next().unwrap().to_owned();
        site
    }

    fn ask(&self, method: &str, path: &str, more: &str, body: &str) -> Answer {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let cookie = &self.cookie;
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nCookie: {cookie}\r\nConnection: close\r\n{more}Content-Length: {}\r\n\r\n{body}",
            self.address,
            body.len()
        )
        .unwrap();
        let mut text = Vec::new();
        stream.read_to_end(&mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Answer { status, head: head.to_owned(), body: body.to_owned() }
    }

    fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, "", "")
    }

    fn post(&self, path: &str, body: &str) -> Answer {
        self.ask("POST", path, "Content-Type: application/x-www-form-urlencoded\r\n", body)
    }
}

#[test]
fn nothing_is_shown_to_who_is_not_signed_in() {
    let mut site = Site::start(Fleet::new());
    for path in ["/", "/machines/1", "/machines/1/wipe", "/jobs", "/jobs/new", "/jobs/7", "/images"] {
        let answer = site.get(path);
        assert_eq!((answer.status, answer.header("location")), (303, Some("/login")), "{path}");
        assert!(!answer.body.contains("web01"));
    }
    assert_eq!(site.get("/events").status, 401);
    assert_eq!(site.post("/machines/1/forget", "csrf=x").status, 303);
    assert_eq!(site.fleet.machines().unwrap().len(), 6);
    site.cookie = "__Host-unmoor=0000".to_owned();
    assert_eq!(site.get("/").status, 303);
    for _ in 0..5 {
        assert_eq!(site.post("/login", "token=wrong").status, 401);
    }
    let answer = site.post("/login", &format!("token={TOKEN}"));
    assert!(answer.status == 429 && answer.body.contains("wait a minute"));
}

#[test]
fn every_page_is_complete_and_strict() {
    let site = Site::signed_in(Fleet::new());
    let pages = [
        ("/", "42 %, 29.0 GiB of 69.0 GiB, 812.0 MiB/s, 0:51 left"),
        ("/machines/1", "UEFI, Secure Boot on"),
        ("/machines/4", "once its agent has registered"),
        ("/machines/1/capture", "Name in the store"),
        ("/machines/1/restore", "web01@20261130T215000Z"),
        ("/machines/2/wipe", "serial=WD-1"),
        ("/jobs", "waits for MAC 52:54:00:aa:bb:cc"),
        ("/jobs/new", "Told by"),
        ("/jobs/new/restore?by=mac&value=52-54-00-AA-BB-CC", "MAC 52:54:00:aa:bb:cc"),
        ("/jobs/5", "web02@20261124T215000Z"),
        ("/jobs/6", "2 disks fit"),
        ("/jobs/7/cancel", "without a system that boots"),
        ("/images?q=db01", "10 images"),
    ];
    for (path, wanted) in pages {
        let answer = site.get(path);
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
        assert!(answer.body.contains(wanted), "{path} lacks {wanted}: {}", answer.body);
        assert!(answer.body.starts_with("<!doctype html>") && answer.body.trim_end().ends_with("</html>"));
        assert!(
            !answer.body.contains("style=") && !answer.body.contains("<script>"),
            "{path} has something inline"
        );
        let policy = answer.header("content-security-policy").unwrap();
        assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
        assert_eq!(answer.header("cache-control"), Some("no-store"));
    }
    for path in ["/machines/99", "/jobs/99", "/machines/1/explode"] {
        assert_eq!(site.get(path).status, 404, "{path}");
    }
    for (asset, kind) in
        [("style.css", "text/css"), ("page.js", "text/javascript"), ("icon.svg", "image/svg")]
    {
        let answer = site.get(&format!("/assets/{asset}"));
        assert!(answer.status == 200 && answer.header("content-type").unwrap().starts_with(kind));
    }
}

#[test]
fn what_machines_say_is_never_markup() {
    let site = Site::signed_in(Fleet::new());
    for path in [
        "/",
        "/machines/2",
        "/machines/2/restore",
        "/machines/2/forget",
        "/jobs",
        "/jobs/6",
        "/?q=%3Cimg%20src%3E",
    ] {
        let answer = site.get(path);
        assert!(
            !answer.body.contains("<img") && !answer.body.contains("alert('x')"),
            "{path}: {}",
            answer.body
        );
        assert!(!answer.body.contains('\u{202e}'), "{path}");
    }
    assert!(site.get("/machines/2").body.contains("&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;"));
    assert!(HOSTILE.contains("<img"));
}

#[test]
fn nothing_is_done_without_the_sessions_token_or_from_elsewhere() {
    let site = Site::signed_in(Fleet::new());
    for body in ["", "csrf=", "csrf=0000"] {
        assert_eq!(site.post("/machines/1/inspect", body).status, 403);
        assert_eq!(site.post("/jobs/7/cancel", body).status, 403);
        assert_eq!(site.post("/logout", body).status, 403);
    }
    let csrf = site.get("/").csrf().to_owned();
    let kind = "Content-Type: application/x-www-form-urlencoded\r\nOrigin: https://elsewhere.example\r\n";
    assert_eq!(site.ask("POST", "/machines/1/inspect", kind, &format!("csrf={csrf}")).status, 403);
    assert_eq!(site.fleet.jobs.lock().unwrap().len(), 4);
}

#[test]
fn actions_are_looked_over_and_done() {
    let site = Site::signed_in(Fleet::new());
    let review = site.get("/machines/1/restore?review=1&image=web01&disk=only&profile=auto");
    assert!(review.body.contains("will be lost") && review.body.contains("S649NX0"), "{}", review.body);
    // Two disks: the rule means none of them.
    let refused = site.get("/machines/2/restore?review=1&image=web01&disk=only");
    assert!(
        refused.body.contains("2 disks fit") && !refused.body.contains("lose what is there"),
        "{}",
        refused.body
    );
    let csrf = review.csrf().to_owned();
    let answer = site.post("/machines/1/restore", &format!("csrf={csrf}&image=web01&disk=only"));
    assert_eq!((answer.status, answer.header("location")), (303, Some("/jobs/9")));
    let unsure = site.post("/machines/1/wipe", &format!("csrf={csrf}&disk=only"));
    assert!(unsure.status == 400 && unsure.body.contains("type wipe"));
    assert_eq!(site.post("/machines/1/wipe", &format!("csrf={csrf}&disk=only&confirm=wipe")).status, 303);
    let wrong = site.post("/machines/2/approve", &format!("csrf={csrf}&code=aaaa-bbbb"));
    assert!(wrong.status == 409 && wrong.body.contains("the code is another one"));
    assert_eq!(site.post("/machines/2/approve", &format!("csrf={csrf}&code=k7qm+2xpa")).status, 303);
    assert!(site.fleet.machine(2).unwrap().approved);
    assert_eq!(site.post("/jobs/7/cancel", &format!("csrf={csrf}")).status, 303);
    assert_eq!(site.fleet.job(7).unwrap().state, JobState::Cancelled);
    assert_eq!(site.post("/logout", &format!("csrf={csrf}")).status, 303);
    assert_eq!(site.get("/").status, 303, "the session has ended");
}

#[test]
fn what_changes_is_told_in_topics() {
    let site = Site::signed_in(Fleet::new());
    let mut stream = TcpStream::connect(site.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    write!(stream, "GET /events HTTP/1.1\r\nHost: here\r\nCookie: {}\r\n\r\n", site.cookie).unwrap();
    let (mut seen, mut piece) = (String::new(), [0; 4096]);
    let mut told = false;
    while !seen.contains("data: job-7 jobs machine-1") {
        let read = stream.read(&mut piece).unwrap();
        assert!(read > 0, "the stream ended: {seen}");
        seen.push_str(std::str::from_utf8(&piece[..read]).unwrap());
        if !told && seen.contains(": here") {
            let job = Box::new(site.fleet.job(7).unwrap());
            site.fleet.events.send(Arc::new(Event::Job { job })).unwrap();
            told = true;
        }
    }
}

#[test]
fn where_there_is_nothing_the_pages_say_what_to_do() {
    let site = Site::signed_in(Fleet::empty());
    for (path, words) in
        [("/", "Start one from the network"), ("/jobs", "No job yet"), ("/images", "no image yet")]
    {
        assert!(site.get(path).body.contains(words), "{path}");
    }
}

/// `cargo xtask test --all` installs what it needs.
#[test]
#[allow(clippy::print_stdout, reason = "a skip says what is missing")]
fn a_browser_finds_nothing_wrong_at_any_width_in_light_and_dark() {
    let set = |name| std::env::var_os(name).map(PathBuf::from);
    let cache = set("XDG_CACHE_HOME").or_else(|| set("HOME").map(|home| home.join(".cache")));
    let lab =
        set("UNMOOR_LAB_DIR").or_else(|| cache.map(|cache| cache.join("unmoor-lab"))).unwrap_or_default();
    let modules = lab.join("browser");
    for needed in
        [modules.join("node_modules/playwright-core"), "/usr/bin/chromium".into(), "/usr/bin/node".into()]
    {
        if !needed.exists() {
            return println!("skipped, {} is missing: cargo xtask test --all installs it", needed.display());
        }
    }
    let site = Site::start(Fleet::new());
    let mut command = Command::new("timeout");
    command
        .args(["300", "/usr/bin/node"])
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/src/web/tests/browser.mjs"));
    command.arg(format!("http://localhost:{}", site.address.port())).arg(TOKEN).arg(&modules);
    command.args(set("UNMOOR_WEB_SHOTS"));
    let output = command.stdin(Stdio::null()).output().unwrap();
    let said = |bytes| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}{}", said(&output.stdout), said(&output.stderr));
}
