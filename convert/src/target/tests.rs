// SPDX-License-Identifier: Apache-2.0
//! Definitions, judged by the programs that take them.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use unmoor_images::manifest::{MachineFacts, NicFacts};

use super::*;

fn run(package: &str, command: &mut Command, input: &str) -> (bool, String) {
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child =
        child.unwrap_or_else(|error| panic!("{command:?} is needed (Debian package {package}): {error}"));
    // A program that ends before it reads is judged by its answer.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    (output.status.success(), text.concat())
}

fn definitions(folder: &Path) -> Vec<Definition> {
    let facts = MachineFacts {
        uuid: Some("4c4c4544-0042-3510-8052-b3c04f4c4c31".into()),
        serial: Some("A&B <1>, 'x'".into()),
        cpu_count: 2,
        memory_bytes: 987 << 20,
        nics: vec![
            NicFacts { mac: Some("52:54:00:12:34:56".into()), ..NicFacts::default() },
            NicFacts { mac: Some("52:54:00:12:34:57".into()), ..NicFacts::default() },
        ],
        ..MachineFacts::default()
    };
    let path = folder.join("disk, 'one'.qcow2");
    let format = ["create", "-q", "-f", "qcow2"];
    let made = run("qemu-utils", Command::new("qemu-img").args(format).arg(&path).arg("8M"), "");
    assert!(made.0, "{}", made.1);
    let disk = |sector_size| Disk { path: path.clone(), format: "qcow2".into(), sector_size };
    let mut all = Vec::new();
    for (buses, nic, uefi, secure_boot, modern) in [
        ("virtio", "virtio-net-pci", false, false, true),
        ("virtio", "virtio-net-pci", false, false, false),
        ("virtio-scsi", "virtio-net-pci", true, false, true),
        ("virtio", "virtio-net-pci", true, true, true),
        ("ahci", "e1000", false, false, true),
        ("ide", "rtl8139", false, false, false),
        ("nvme", "e1000e", true, false, true),
        ("megasas", "vmxnet3", false, false, true),
        ("mptsas", "pcnet", false, false, true),
        ("lsi53c895a", "e1000", false, false, true),
        ("hyperv pvscsi", "vmxnet3", false, false, true),
        ("usb", "e1000", false, false, true),
    ] {
        let capabilities = Capabilities {
            disk_buses: buses.split(' ').map(str::to_owned).collect(),
            nic_models: vec![nic.into()],
            uefi,
            secure_boot,
            virtio_modern: modern,
            ..Capabilities::default()
        };
        let size = if buses == "nvme" { 4096 } else { 512 };
        all.push(Definition::new("web 01/ä", &capabilities, Some(&facts), vec![disk(size)]));
    }
    all
}

#[test]
fn domains_are_valid_for_libvirt() {
    let dir = tempfile::tempdir().unwrap();
    for definition in definitions(dir.path()) {
        let path = dir.path().join("domain.xml");
        std::fs::write(&path, definition.libvirt()).unwrap();
        let mut command = Command::new("virt-xml-validate");
        let (valid, text) = run("libvirt-clients", command.arg(&path).arg("domain"), "");
        assert!(valid, "{text}\n{}", definition.libvirt());
    }
}

#[test]
fn command_lines_are_taken_by_qemu_as_they_are() {
    let dir = tempfile::tempdir().unwrap();
    for definition in definitions(dir.path()) {
        let variables = dir.path().join("vars.fd");
        if let Some(template) = definition.ovmf_variables() {
            std::fs::copy(template, &variables)
                .unwrap_or_else(|error| panic!("{template} (Debian package ovmf): {error}"));
        }
        // Stopped before its first instruction; what the machine has is asked for.
        let mut arguments = definition.qemu(&variables, "tcg,thread=multi");
        arguments.extend(["-S", "-display", "none"].map(str::to_owned));
        let line = shell(&arguments);
        let input = "info network\ninfo uuid\ninfo block\nquit\n";
        let (done, text) =
            run("qemu-system-x86", Command::new("sh").arg("-c").arg(&line), &format!("\x01c{input}"));
        assert!(done, "{line}\n{text}");
        assert!(text.contains("macaddr=52:54:00:12:34:56"), "{line}\n{text}");
        assert!(text.contains("4c4c4544-0042-3510-8052-b3c04f4c4c31"), "{line}\n{text}");
        assert!(text.contains("disk, 'one'.qcow2"), "{line}\n{text}");
    }
}

#[test]
fn commands_for_proxmox_say_what_the_machine_has() {
    let dir = tempfile::tempdir().unwrap();
    let all = definitions(dir.path());
    let commands = all[3].proxmox(101, "local-lvm", "vmbr0");
    assert_eq!(commands.len(), 3);
    for part in [
        "qm create 101 --name web-01",
        "--memory 1024 --cores 2",
        "--machine q35 --bios ovmf --efidisk0 local-lvm:1,efitype=4m,pre-enrolled-keys=1",
        "--smbios1 uuid=4c4c4544-0042-3510-8052-b3c04f4c4c31,serial=QSZCIDwxPiwgJ3gn,base64=1",
        "--net0 virtio=52:54:00:12:34:56,bridge=vmbr0 --net1 virtio=52:54:00:12:34:57,bridge=vmbr0",
    ] {
        assert!(commands[0].contains(part), "{part}: {}", commands[0]);
    }
    assert!(commands[1].starts_with("qm set 101 --virtio0 'local-lvm:0,import-from="), "{}", commands[1]);
    assert_eq!(commands[2], "qm set 101 --boot order=virtio0");
}

#[test]
fn words_reach_a_program_through_a_shell_as_they_are() {
    let words: Vec<String> =
        ["printf", "%s\\n", "plain", "", "a b", "it's", "$x `y` \"z\"", "ä;&|"].map(str::to_owned).to_vec();
    let (done, text) = run("dash", Command::new("sh").arg("-c").arg(shell(&words)), "");
    assert!(done);
    assert_eq!(text, words[2..].join("\n") + "\n");
}

#[test]
fn an_address_that_was_told_is_that_of_the_adapter() {
    let facts = MachineFacts {
        nics: vec![NicFacts { mac: Some("52:54:00:12:34:56".into()), ..NicFacts::default() }],
        ..MachineFacts::default()
    };
    let macs = |told: Vec<Option<String>>| -> Vec<Option<String>> {
        let capabilities = Capabilities { nic_addresses: told, ..Capabilities::default() };
        let definition = Definition::new("", &capabilities, Some(&facts), Vec::new());
        definition.nics.into_iter().map(|nic| nic.mac).collect()
    };
    let told = vec![Some("02:00:00:00:00:0a".to_owned()), None];
    assert_eq!(macs(told.clone()), told);
    for untold in [Vec::new(), vec![None]] {
        assert_eq!(macs(untold), [Some("52:54:00:12:34:56".to_owned())]);
    }
}

#[test]
fn nothing_known_makes_a_machine_all_the_same() {
    let definition = Definition::new("", &Capabilities::default(), None, Vec::new());
    assert_eq!((definition.name.as_str(), definition.bus, definition.cpus), ("guest", Bus::Ahci, 1));
    assert_eq!((definition.memory_mib, definition.nics.len()), (DEFAULT_MEMORY, 1));
}
