// SPDX-License-Identifier: Apache-2.0
//! Menus and files as real clients get them: curl, tftp, and GRUB's own checker of scripts.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::literal_string_with_formatting_args,
    reason = "tests, and strings that iPXE replaces"
)]

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use unmoor_images::Result;

use super::http::{Limits, Server};
use super::{Asker, Choice, Choices, Settings, Shelf, Starter, UefiLoader, check_option, names, script};
use crate::dhcp::{Architecture, Client, Loader, Menu, options::message};
use crate::tftp;
use crate::told::Told;

/// One machine has its disk, one is ignored, all others are rescued.
#[derive(Default)]
struct Known(Mutex<Vec<Asker>>);

impl Choices for Known {
    fn choose(&self, asker: &Asker) -> Result<Choice> {
        self.0.lock().unwrap().push(asker.clone());
        Ok(match asker.mac.as_deref() {
            Some("52:54:00:00:00:02") => Choice::Disk,
            Some("52:54:00:00:00:03") => Choice::Ignore,
            Some("52:54:00:00:00:04") => Choice::Rescue { options: vec!["a;${b}".to_owned()] },
            _ => Choice::Rescue { options: vec!["unmoor.verbose".to_owned()] },
        })
    }
}

fn settings() -> Settings {
    Settings {
        address: Ipv4Addr::new(10, 9, 0, 1),
        http_port: 80,
        server: "https://10.9.0.1".to_owned(),
        pin: "ab".repeat(32),
        ca_pem: "-----BEGIN CERTIFICATE-----\n".to_owned(),
        uefi: Some(UefiLoader::Shim),
        uefi_http: Some(UefiLoader::Snponly),
        options: Vec::new(),
    }
}

fn starter(folder: &Path, settings: Settings) -> (Arc<Starter>, Arc<Known>) {
    let shelf = Shelf::open(folder).unwrap();
    for name in names::ALL {
        shelf.put(name, &content(name)).unwrap();
    }
    std::fs::write(folder.join("secret"), "secret").unwrap();
    std::fs::write(folder.parent().unwrap().join("outside"), "secret").unwrap();
    let known = Arc::new(Known::default());
    let warn = Box::new(|text| panic!("{text}"));
    (Arc::new(Starter::new(Arc::clone(&known) as _, shelf, settings, warn)), known)
}

fn content(name: &str) -> Vec<u8> {
    (0..300_000_u32).flat_map(|number| (number ^ name.len() as u32).to_le_bytes()).collect()
}

/// A server on this host, for as long as `work` takes.
fn served(limits: Limits, work: impl FnOnce(SocketAddr, &Known)) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let shelf = folder.path().join("boot");
    std::fs::create_dir(&shelf).unwrap();
    let (starter, known) = starter(&shelf, settings());
    let server = Server::bind((Ipv4Addr::LOCALHOST, 0).into(), limits).unwrap();
    let told = Told::default();
    std::thread::scope(|scope| {
        scope.spawn(|| server.serve(starter, &told).unwrap());
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(server.address(), &known)));
        told.stop.store(true, Ordering::Relaxed);
        if let Err(panic) = done {
            std::panic::resume_unwind(panic);
        }
    });
    told.said.into_inner().unwrap()
}

/// Head and body, as curl got them.
fn curl(arguments: &[&str]) -> (String, Vec<u8>) {
    let output = Command::new("curl")
        .args(["--silent", "--include", "--path-as-is", "--max-time", "30", "--noproxy", "*"])
        .args(arguments)
        .output()
        .unwrap_or_else(|error| panic!("curl has to be installed: {error}"));
    let end = output.stdout.windows(4).position(|bytes| bytes == b"\r\n\r\n").map_or(0, |at| at + 4);
    let (head, body) = output.stdout.split_at(end);
    (String::from_utf8_lossy(head).to_lowercase(), body.to_vec())
}

#[test]
fn curl_gets_files_parts_of_them_and_nothing_else() {
    let whole = content(names::INITRAMFS);
    let said = served(Limits::default(), |address, _| {
        let url = |path: &str| format!("http://{address}{path}");
        let file = url("/boot/initramfs");
        let (head, body) = curl(&[&file]);
        assert!(head.starts_with("http/1.1 200") && head.contains("accept-ranges: bytes"), "{head}");
        assert!(head.contains("content-length: 1200000\r\n") && body == whole, "{head}");
        let tag = head.lines().find_map(|line| line.strip_prefix("etag: ")).unwrap().to_owned();

        let (head, body) = curl(&["--head", &file]);
        assert!(head.contains("content-length: 1200000\r\n") && body.is_empty(), "{head}");
        for (range, expected) in
            [("5-9", &whole[5..10]), ("1199990-", &whole[1_199_990..]), ("-7", &whole[1_199_993..])]
        {
            let (head, body) = curl(&["--range", range, &file]);
            assert!(head.starts_with("http/1.1 206") && head.contains("/1200000\r\n"), "{head}");
            assert!(body == expected, "{range}");
        }
        let (head, body) = curl(&["--range", "1200000-", &file]);
        assert!(
            head.starts_with("http/1.1 416") && head.contains("content-range: bytes */1200000"),
            "{head}"
        );
        assert!(body.is_empty());
        let none = format!("If-None-Match: {tag}");
        assert!(curl(&["-H", &none, &file]).0.starts_with("http/1.1 304"));
        let other = curl(&["-H", "If-Range: \"other\"", "--range", "1-2", &file]);
        assert!(other.0.starts_with("http/1.1 200") && other.1 == whole);
        let same = format!("If-Range: {tag}");
        assert!(curl(&["-H", &same, "--range", "1-2", &file]).0.starts_with("http/1.1 206"));

        assert!(curl(&[&url("/boot/shimx64.efi")]).0.contains("content-type: application/efi"));
        assert!(curl(&[&url("/ca.pem")]).1.starts_with(b"-----BEGIN"));
        for path in [
            "/boot/secret",
            "/boot/../outside",
            "/boot/..%2foutside",
            "/boot/%2e%2e/%2e%2e/etc/passwd",
            "/boot//etc/passwd",
            "/boot/",
            "/",
            "/secret",
            "/boot/initramfs%00",
        ] {
            let (head, body) = curl(&[&url(path)]);
            assert!(head.starts_with("http/1.1 404"), "{path}: {head}");
            assert!(!body.windows(6).any(|bytes| bytes == b"secret"), "{path}");
        }
        assert!(curl(&["-X", "PUT", "-d", "x", &file]).0.starts_with("http/1.1 405"));
        let long = format!("X-Long: {}", "x".repeat(40_000));
        assert!(curl(&["-H", &long, &file]).0.starts_with("http/1.1 431"));
    });
    assert!(said.iter().any(|line| line.contains("initramfs, 206")), "{said:?}");
}

#[test]
fn one_client_does_not_take_all_connections() {
    served(Limits { connections: 8, of_client: 2 }, |address, _| {
        let held: Vec<_> = (0..2).map(|_| std::net::TcpStream::connect(address).unwrap()).collect();
        let url = format!("http://{address}/ca.pem");
        // The server has taken both once it turns away a third.
        let refused = (0..100).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(20));
            curl(&[&url]).0.is_empty()
        });
        assert!(refused);
        drop(held);
        let again = (0..100).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(20));
            curl(&[&url]).0.starts_with("http/1.1 200")
        });
        assert!(again);
    });
}

#[test]
fn menus_are_by_machine_and_have_nothing_in_them_that_a_client_said() {
    served(Limits::default(), |address, known| {
        let menu = |query: &str| {
            let (head, body) = curl(&[&format!("http://{address}/boot/{query}")]);
            (head, String::from_utf8(body).unwrap())
        };
        let (head, script) = menu(
            "ipxe?mac=52:54:00:00:00:01&uuid=B0E1F2A3-0000-1111-2222-333344445555&serial=A%20B&arch=pcbios-i386",
        );
        assert!(head.contains("cache-control: no-store"), "{head}");
        assert!(script.starts_with("#!ipxe\n"), "{script}");
        let line = format!(
            "kernel http://10.9.0.1/boot/vmlinuz initrd=initramfs unmoor.server=https://10.9.0.1 unmoor.pin={} \
             console=tty0 console=ttyS0,115200 unmoor.verbose || goto failed\n",
            "ab".repeat(32)
        );
        assert!(script.contains(&line), "{script}");
        let asker = known.0.lock().unwrap().pop().unwrap();
        assert_eq!(asker.mac.as_deref(), Some("52:54:00:00:00:01"));
        assert_eq!(asker.uuid.as_deref(), Some("b0e1f2a3-0000-1111-2222-333344445555"));
        assert_eq!(asker.serial.as_deref(), Some("A B"));
        assert_eq!(asker.architecture, Some(Architecture::Bios));
        assert_eq!(asker.address, Some(Ipv4Addr::LOCALHOST.into()));

        let disk = "mac=52:54:00:00:00:02";
        assert!(
            menu(&format!("ipxe?{disk}&arch=pcbios-i386"))
                .1
                .contains("sanboot --no-describe --drive 0x81 ||\n")
        );
        assert!(!menu(&format!("ipxe?{disk}&arch=efi-x86_64")).1.contains("sanboot"));
        assert!(menu(&format!("grub?{disk}")).1.ends_with("\nexit\n"));
        assert_eq!(menu("ipxe?mac=52:54:00:00:00:03").1, "#!ipxe\nexit\n");

        let (_, script) = menu("ipxe?mac=%0aexit&serial=x%0ashell&uuid=${pwn}&arch=%24(x)");
        assert!(!["exit", "shell", "pwn", "$(x)"].iter().any(|word| script.contains(word)), "{script}");
        let asker = known.0.lock().unwrap().pop().unwrap();
        let nobody = Asker { address: asker.address, ..Asker::default() };
        assert_eq!(asker, nobody);
        // An option that would be more than a word fails as a whole.
        assert!(menu("grub?mac=52:54:00:00:00:04").0.starts_with("http/1.1 500"));
    });
}

#[test]
fn grub_reads_its_scripts_as_they_are_meant() {
    let folder = tempfile::tempdir().unwrap();
    let other = Settings { http_port: 8080, ..settings() };
    let rescue = Choice::Rescue { options: vec!["a=%b+c,d@e".to_owned()] };
    let scripts = [
        script::grub_first(&other),
        script::grub(&other, &rescue).unwrap(),
        script::grub(&other, &Choice::Disk).unwrap(),
        script::grub(&other, &Choice::Ignore).unwrap(),
    ];
    assert!(scripts[1].contains("unmoor.ca-url=http://10.9.0.1:8080/ca.pem"), "{}", scripts[1]);
    for script in scripts {
        let path = folder.path().join("grub.cfg");
        std::fs::write(&path, &script).unwrap();
        match Command::new("grub-script-check").arg(&path).output() {
            Ok(output) => assert!(output.status.success(), "{script}"),
            Err(_) => println!("grub-script-check is not there: the scripts are not checked"),
        }
    }
}

#[test]
fn words_that_mean_something_to_a_loader_are_no_options() {
    for word in ["unmoor.net=dhcp", "console=ttyS1,115200n8", "ip=10.0.0.1::10.0.0.2"] {
        check_option(word).unwrap();
    }
    for word in ["", "a b", "a;b", "${a}", "a\nb", "a||b", "'a'", "\"a\"", "a\\b", "#a", "ä", "{a}"] {
        assert!(check_option(word).is_err(), "{word:?}");
    }
}

fn client(loader: Loader, architecture: Architecture, last: u8) -> Client {
    Client {
        hardware: vec![0x52, 0x54, 0, 0, 0, last],
        uuid: None,
        architecture: Some(architecture),
        loader,
        id: vec![1],
        message: message::DISCOVER,
    }
}

#[test]
fn each_firmware_is_told_what_it_can_run() {
    use Architecture::{Bios, UefiArm64, UefiX64};
    let folder = tempfile::tempdir().unwrap();
    let shelf = folder.path().join("boot");
    std::fs::create_dir(&shelf).unwrap();
    let (starter, _) = starter(&shelf, settings());
    let file =
        |loader, architecture, last| starter.boot(&client(loader, architecture, last)).map(|boot| boot.file);
    assert_eq!(file(Loader::Pxe, Bios, 1).unwrap(), "undionly.kpxe");
    assert_eq!(file(Loader::Pxe, UefiX64, 1).unwrap(), "shimx64.efi");
    assert_eq!(file(Loader::Http, UefiX64, 1).unwrap(), "http://10.9.0.1/boot/snponly.efi");
    assert_eq!(
        file(Loader::Ipxe, Bios, 1).unwrap(),
        "http://10.9.0.1/boot/ipxe?mac=52:54:00:00:00:01&uuid=${uuid}&serial=${serial:uristring}\
         &arch=${platform}-${buildarch}"
    );
    assert_eq!(file(Loader::Pxe, UefiArm64, 1), None);
    // The disk: a BIOS is told so, UEFI goes on by itself.
    assert_eq!(file(Loader::Pxe, Bios, 2).unwrap(), "undionly.kpxe");
    assert_eq!(file(Loader::Pxe, UefiX64, 2), None);
    assert_eq!(file(Loader::Ipxe, Bios, 3), None);

    let shelf = starter.shelf();
    assert_eq!(shelf.uefi_loader(None).unwrap(), Some(UefiLoader::Shim));
    // GRUB only where it can go on.
    assert_eq!(shelf.http_loader(Some(UefiLoader::Shim)), Some(UefiLoader::Snponly));
    assert_eq!(shelf.http_loader(Some(UefiLoader::Ipxe)), Some(UefiLoader::Ipxe));
    assert_eq!(shelf.proxy_loader(Some(UefiLoader::Shim)).unwrap(), Some(UefiLoader::Snponly));
    shelf.put(names::GRUB, b"efinet\0setting values from proxy offer\0").unwrap();
    assert_eq!(shelf.proxy_loader(Some(UefiLoader::Shim)).unwrap(), Some(UefiLoader::Shim));
    shelf.remove(names::GRUB).unwrap();
    assert!(shelf.uefi_loader(Some(UefiLoader::Shim)).is_err());
    assert_eq!(shelf.uefi_loader(None).unwrap(), Some(UefiLoader::Snponly));
}

#[test]
fn tftp_has_the_loaders_and_grubs_first_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let shelf = folder.path().join("boot");
    std::fs::create_dir(&shelf).unwrap();
    let (starter, _) = starter(&shelf, settings());
    let server = tftp::Server::bind((Ipv4Addr::LOCALHOST, 0).into(), tftp::Limits::default()).unwrap();
    let told = Told::default();
    let get = |name: &str| {
        let out = folder.path().join("got");
        let _ = std::fs::remove_file(&out);
        let port = server.address().port().to_string();
        let status = Command::new("timeout")
            .args(["30", "tftp", "-m", "binary", "127.0.0.1", &port, "-c", "get", name])
            .arg(&out)
            .output()
            .unwrap_or_else(|error| panic!("tftp has to be installed: {error}"));
        assert!(status.status.success());
        std::fs::read(&out).ok().filter(|bytes| !bytes.is_empty())
    };
    std::thread::scope(|scope| {
        scope.spawn(|| server.serve(&*starter, &told).unwrap());
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            assert!(get("undionly.kpxe").unwrap() == content("undionly.kpxe"));
            assert!(get("//grubx64.efi").unwrap() == content("grubx64.efi"));
            assert!(get("/boot/shimx64.efi").unwrap() == content("shimx64.efi"));
            let first = String::from_utf8(get("/grub/grub.cfg").unwrap()).unwrap();
            assert!(first.contains("configfile \"/boot/grub?${query}\""), "{first}");
            let menu = String::from_utf8(get("/boot/grub?mac=52-54-00-00-00-02&uuid=x").unwrap()).unwrap();
            assert!(menu.ends_with("\nexit\n"), "{menu}");
            assert!(get("secret").is_none() && get("../outside").is_none());
        }));
        told.stop.store(true, Ordering::Relaxed);
        if let Err(panic) = done {
            std::panic::resume_unwind(panic);
        }
    });
}
