// SPDX-License-Identifier: Apache-2.0
//! Machines in QEMU that start from the network: SeaBIOS with iPXE, OVMF by PXE and by HTTP, with Secure Boot, beside dnsmasq. What
//! they start is a distribution's kernel, which shows its command line; the initramfs is none.
//!
//! Takes minutes: `cargo xtask lab network`. `UNMOOR_BOOT_PACKAGES` names a folder with the packages ipxe, shim-signed,
//! grub-efi-amd64-signed and linux-image.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "helpers of tests are tests")]

mod common;

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use common::{Running, Told, dnsmasq, ip, neighbour, on_a_network};
use unmoor_images::Result;
use unmoor_initramfs::rescue::loaders;
use unmoor_pxe_boot::boot::{self, Asker, Choice, Choices, Settings, Shelf, Starter, UefiLoader, names};
use unmoor_pxe_boot::{dhcp, tftp};

const HOST: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
const MAC: &str = "52:54:00:12:34:56";
const LIMIT: Duration = Duration::from_secs(600);
const FIRMWARE: &str = "/usr/share/OVMF";

/// A machine, and what it is to find.
struct Cell {
    name: &'static str,
    uefi: bool,
    secure: bool,
    /// None: PXE is not answered, so that the firmware tries HTTP.
    pxe: bool,
    loader: UefiLoader,
    proxy: bool,
    /// What the servers have to have said.
    asked: &'static [&'static str],
}

const CELLS: [Cell; 6] = [
    Cell {
        name: "bios",
        uefi: false,
        secure: false,
        pxe: true,
        loader: UefiLoader::Shim,
        proxy: false,
        asked: &["menu for iPXE", "vmlinuz, 200", "initramfs, 200"],
    },
    Cell {
        name: "bios-beside-dnsmasq",
        uefi: false,
        secure: false,
        pxe: true,
        loader: UefiLoader::Shim,
        proxy: true,
        asked: &["menu for iPXE", "vmlinuz, 200", "initramfs, 200"],
    },
    Cell {
        name: "uefi-secure-boot",
        uefi: true,
        secure: true,
        pxe: true,
        loader: UefiLoader::Shim,
        proxy: false,
        asked: &[
            "shimx64.efi",
            "grubx64.efi",
            "grub/grub.cfg",
            "boot/grub?mac=52:54:00:12:34:56",
            "vmlinuz",
            "initramfs",
        ],
    },
    Cell {
        name: "uefi-beside-dnsmasq",
        uefi: true,
        secure: false,
        pxe: true,
        loader: UefiLoader::Shim,
        proxy: true,
        asked: &["shimx64.efi", "grubx64.efi", "boot/grub?mac=52:54:00:12:34:56", "vmlinuz", "initramfs"],
    },
    Cell {
        name: "uefi-ipxe",
        uefi: true,
        secure: false,
        pxe: true,
        loader: UefiLoader::Snponly,
        proxy: false,
        asked: IPXE,
    },
    Cell {
        name: "uefi-http",
        uefi: true,
        secure: false,
        pxe: false,
        loader: UefiLoader::Shim,
        proxy: false,
        asked: IPXE,
    },
];

/// The same of a UEFI machine that gets iPXE, as it also does where the packages' GRUB could not go on.
const IPXE: &[&str] = &["snponly.efi", "menu for iPXE", "vmlinuz, 200", "initramfs, 200"];

struct All;

impl Choices for All {
    fn choose(&self, _asker: &Asker) -> Result<Choice> {
        Ok(Choice::Rescue { options: vec!["panic=-1".to_owned(), "unmoor.cell=yes".to_owned()] })
    }
}

/// The menu, but for PXE where the cell is about HTTP.
struct Filtered(Arc<Starter>, bool);

impl dhcp::Menu for Filtered {
    fn boot(&self, client: &dhcp::Client) -> Option<dhcp::Boot> {
        (self.1 || client.loader != dhcp::Loader::Pxe).then(|| self.0.boot(client)).flatten()
    }
}

#[test]
#[ignore = "minutes in QEMU: cargo xtask lab network"]
fn machines_of_every_firmware_start_the_rescue_environment() {
    let Some(packages) = std::env::var_os("UNMOOR_BOOT_PACKAGES").map(PathBuf::from) else {
        return println!("skipped: UNMOOR_BOOT_PACKAGES names no folder with packages");
    };
    let folder = tempfile::tempdir().unwrap();
    let boot = folder.path().join("boot");
    std::fs::create_dir(&boot).unwrap();
    fill(&Shelf::open(&boot).unwrap(), &packages);
    let wanted = std::env::var("UNMOOR_CELLS").unwrap_or_default();
    for cell in
        CELLS.iter().filter(|cell| wanted.is_empty() || wanted.split(',').any(|name| name == cell.name))
    {
        let start = Instant::now();
        on_a_network(|| started(cell, folder.path(), &boot));
        println!("{}: {} s", cell.name, start.elapsed().as_secs());
    }
}

fn fill(shelf: &Shelf, packages: &Path) {
    for (name, content) in loaders::collect(&[packages.to_owned()]).unwrap() {
        shelf.put(name, &content).unwrap();
    }
    let entries = std::fs::read_dir(packages).unwrap().map(|entry| entry.unwrap().path());
    let kernel = entries.into_iter().find(|path| path.to_string_lossy().contains("/linux-image-")).unwrap();
    let script = "dpkg-deb --fsys-tarfile \"$0\" | tar --extract --to-stdout --wildcards './boot/vmlinuz-*'";
    let output = Command::new("sh").args(["-c", script]).arg(&kernel).output().unwrap();
    assert!(output.status.success() && output.stdout.len() > 1 << 20, "{}", kernel.display());
    shelf.put(names::KERNEL, &output.stdout).unwrap();
    // Large enough to need many datagrams, small enough to be quick.
    shelf.put(names::INITRAMFS, &vec![0; 4 << 20]).unwrap();
}

fn started(cell: &Cell, folder: &Path, boot: &Path) {
    let shelf = Shelf::open(boot).unwrap();
    let chosen = Some(cell.loader);
    let uefi = if cell.proxy { shelf.proxy_loader(chosen).unwrap() } else { chosen };
    let uefi_http = shelf.http_loader(chosen);
    let asked = if cell.uefi && uefi == Some(UefiLoader::Snponly) { IPXE } else { cell.asked };
    let settings = Settings {
        address: HOST,
        http_port: 80,
        server: format!("https://{HOST}"),
        pin: "ab".repeat(32),
        ca_pem: String::new(),
        uefi,
        uefi_http,
        options: Vec::new(),
    };
    let warn = Box::new(|text| println!("warning: {text}"));
    let starter = Arc::new(Starter::new(Arc::new(All), shelf, settings, warn));
    let http = boot::http::Server::bind((HOST, 80).into(), boot::http::Limits::default()).unwrap();
    let tftp = tftp::Server::bind((HOST, 69).into(), tftp::Limits::default()).unwrap();
    let role = if cell.proxy { dhcp::Role::Proxy } else { server() };
    let _other = cell.proxy.then(|| other_server(folder));
    let menu = Box::new(Filtered(Arc::clone(&starter), cell.pxe));
    let responder = dhcp::Responder { address: HOST, role, menu };
    let mut dhcp = dhcp::Server::bind(&dhcp::Settings { interface: "br0".to_owned() }, responder).unwrap();
    ip("tuntap add dev tap0 mode tap");
    ip("link set tap0 master br0 up");
    let told = Told::default();
    let console = folder.join(format!("{}.console", cell.name));
    let machine = machine(cell, folder, &console);
    let seen = std::thread::scope(|scope| {
        scope.spawn(|| http.serve(Arc::clone(&starter), &told).unwrap());
        scope.spawn(|| tftp.serve(&*starter, &told).unwrap());
        scope.spawn(|| dhcp.serve(&told).unwrap());
        let start = Instant::now();
        let seen = loop {
            let said = std::fs::read(&console).unwrap_or_default();
            let said = String::from_utf8_lossy(&said).into_owned();
            if said.contains("Kernel command line:") && said.contains("unmoor.cell=yes") {
                break true;
            }
            if start.elapsed() > LIMIT {
                println!("{said}");
                break false;
            }
            std::thread::sleep(Duration::from_millis(250));
        };
        told.stop.store(true, Ordering::Relaxed);
        seen
    });
    drop(machine);
    let said = told.said.lock().unwrap().clone();
    assert!(seen, "{}: the kernel does not start: {said:#?}", cell.name);
    for asked in asked {
        assert!(said.iter().any(|line| line.contains(asked)), "{}: {asked}: {said:#?}", cell.name);
    }
}

fn server() -> dhcp::Role {
    let network = dhcp::Network {
        mask: Ipv4Addr::new(255, 255, 255, 0),
        router: None,
        dns: Vec::new(),
        lease: Duration::from_secs(600),
    };
    let pool = dhcp::Pool::open(Ipv4Addr::new(10, 9, 0, 50), Ipv4Addr::new(10, 9, 0, 60), &[HOST], None);
    dhcp::Role::Server(network, Box::new(pool.unwrap()))
}

/// The network's own DHCP server, on another host.
fn other_server(folder: &Path) -> (Running, Running) {
    let other = neighbour("br0", 2);
    let pid = other.pid();
    let status = Command::new("nsenter")
        .args(["--net", "--target", &pid, "ip", "addr", "add", "10.9.0.2/24", "dev", "eth0"])
        .status()
        .unwrap();
    assert!(status.success());
    let server = dnsmasq(&pid, folder);
    (server, other)
}

fn machine(cell: &Cell, folder: &Path, console: &Path) -> Running {
    let mut command = Command::new("qemu-system-x86_64");
    command.args([
        "-accel",
        "tcg,thread=multi",
        "-smp",
        "2",
        "-m",
        "1024",
        "-nodefaults",
        "-display",
        "none",
    ]);
    command.args(["-cpu", "qemu64,+ssse3,+sse4.1,+sse4.2,+popcnt", "-no-reboot"]);
    command.args(["-machine", if cell.secure { "q35,smm=on" } else { "q35" }]);
    if cell.uefi {
        let variables = folder.join("variables.fd");
        let (code, template) = if cell.secure {
            ("OVMF_CODE_4M.secboot.fd", "OVMF_VARS_4M.ms.fd")
        } else {
            ("OVMF_CODE_4M.fd", "OVMF_VARS_4M.fd")
        };
        std::fs::copy(Path::new(FIRMWARE).join(template), &variables).unwrap();
        if cell.secure {
            command.args(["-global", "driver=cfi.pflash01,property=secure,value=on"]);
        }
        command.args(["-drive", &format!("if=pflash,format=raw,readonly=on,file={FIRMWARE}/{code}")]);
        command.args(["-drive", &format!("if=pflash,format=raw,file={}", variables.display())]);
    }
    command.args(["-netdev", "tap,id=net,ifname=tap0,script=no,downscript=no", "-device"]);
    // Without its ROM it is the firmware's own client that asks.
    let rom = if cell.uefi { ",romfile=" } else { "" };
    command.arg(format!("virtio-net-pci,netdev=net,mac={MAC}{rom}"));
    command.args(["-device", "virtio-rng-pci", "-serial", &format!("file:{}", console.display())]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    Running(command.spawn().unwrap_or_else(|error| panic!("qemu-system-x86_64 has to be installed: {error}")))
}
