// SPDX-License-Identifier: Apache-2.0
#![allow(clippy::unwrap_used, reason = "tests")]

use crate::inspection::{ConfiguredBy, Interface, PinnedName, Stack};
use crate::plan::Severity;
use crate::request::TargetNic;
use crate::rules::tests::{Guest, Tree};

const OLD: &str = "52:54:00:00:00:01";
const OLD2: &str = "52:54:00:00:00:02";
const NEW: &str = "02:00:00:00:00:0a";
const NEW2: &str = "02:00:00:00:00:0b";
const UDEV: (&str, &str) = ("/usr/lib/udev/rules.d/80-net-setup-link.rules", "x");

fn interface(name: &str, mac: &str) -> Interface {
    Interface {
        name: (!name.is_empty()).then(|| name.to_owned()),
        mac: (!mac.is_empty()).then(|| mac.to_owned()),
        ..Interface::default()
    }
}

fn adapter(mac: &str) -> TargetNic {
    TargetNic { mac: Some(mac.to_owned()), modalias: None, model: None }
}

fn guest(tree: Tree<'_>, interfaces: &[(&str, &str)], adapters: &[&str]) -> Guest {
    let mut guest = Guest::new(&[tree, &[UDEV]].concat());
    guest.inspection.network.interfaces = interfaces.iter().map(|(name, mac)| interface(name, mac)).collect();
    guest.request.hardware.nics = adapters.iter().map(|mac| adapter(mac)).collect();
    guest
}

fn link(name: &str, lines: &str) -> String {
    format!(
        "# Made by unmoor: the adapter keeps the name that it had before the machine moved.\n[Match]\n{lines}\n[Link]\nName={name}\n"
    )
}

#[test]
fn one_adapter_keeps_its_name_by_its_new_address_in_the_initramfs_too() {
    let outcome = guest(&[], &[("lo", ""), ("ens3", OLD)], &["02:00:00:00:00:0A"]).plan();
    let path = "/etc/systemd/network/70-unmoor-ens3.link";
    let wanted = link("ens3", &format!("MACAddress={NEW}\nPath=*\n"));
    assert_eq!(outcome.text(path), wanted);
    assert_eq!(outcome.initramfs[path], wanted);
    assert_eq!(outcome.files.len(), 1);
    assert_eq!(outcome.plan.capabilities.nic_addresses, [Some("02:00:00:00:00:0A".to_owned())]);
    assert_eq!(outcome.finding("ens3 becomes adapter 1").severity, Severity::Note);
}

#[test]
fn one_adapter_of_unknown_address_is_whatever_is_on_a_bus() {
    let outcome = guest(&[], &[("eth0", OLD)], &[]).plan();
    assert_eq!(outcome.text("/etc/systemd/network/70-unmoor-eth0.link"), link("eth0", "Path=*\n"));
    let mut hyperv = guest(&[], &[("ens3", OLD)], &[NEW]);
    hyperv.request.hardware.hypervisor = Some("hyperv".into());
    assert!(hyperv.plan().text("/etc/systemd/network/70-unmoor-ens3.link").contains("Driver=hv_netvsc\n"));
}

#[test]
fn several_adapters_go_in_order_or_as_they_are_told() {
    let interfaces = [("ens3", OLD), ("ens4", OLD2)];
    let outcome = guest(&[], &interfaces, &[NEW, NEW2]).plan();
    assert!(outcome.text("/etc/systemd/network/70-unmoor-ens4.link").contains(NEW2));
    let mut told = guest(&[], &interfaces, &[NEW, NEW2]);
    told.request.nics = [("ens4".to_owned(), 0)].into();
    let outcome = told.plan();
    assert!(outcome.text("/etc/systemd/network/70-unmoor-ens4.link").contains(NEW));
    assert!(outcome.text("/etc/systemd/network/70-unmoor-ens3.link").contains(NEW2));
    for (name, number) in [("ens9", 0), ("ens3", 2)] {
        told.request.nics = [(name.to_owned(), number)].into();
        assert_eq!(told.try_plan().err().unwrap().kind(), unmoor_images::ErrorKind::Usage);
    }
    told.request.nics = [("ens3".to_owned(), 1), ("ens4".to_owned(), 1)].into();
    assert!(told.try_plan().is_err());

    let outcome = guest(&[], &interfaces, &[NEW]).plan();
    assert_eq!(outcome.finding("ens4: the new machine has no adapter").severity, Severity::Warning);
    assert!(!outcome.files.contains_key("/etc/systemd/network/70-unmoor-ens4.link"));
    // The definition of the virtual machine carries the old addresses over.
    let outcome = guest(&[], &interfaces, &[]).plan();
    assert!(outcome.text("/etc/systemd/network/70-unmoor-ens4.link").contains(OLD2));
    assert!(outcome.finding("ens4 is the adapter with its old address").remedy.is_some());
    let outcome = guest(&[], &[("ens3", ""), ("ens4", "")], &[]).plan();
    assert_eq!(outcome.worst(), Some(Severity::Warning));
}

#[test]
fn names_that_the_kernel_owns_are_reached_in_two_steps() {
    let outcome =
        guest(&[], &[("eth0", OLD), ("eth1", OLD2), ("eth7", "")], &[NEW2, NEW, "02:00:00:00:00:0c"]).plan();
    assert!(outcome.text("/etc/systemd/network/70-unmoor-eth0.link").ends_with("Name=unmoor0\n"));
    assert!(outcome.text("/etc/systemd/network/70-unmoor-eth1.link").ends_with("Name=unmoor1\n"));
    // With three adapters the kernel hands out eth0 to eth2.
    assert!(outcome.text("/etc/systemd/network/70-unmoor-eth7.link").ends_with("Name=eth7\n"));
    let rules = outcome.text("/etc/udev/rules.d/81-unmoor-names.rules");
    assert_eq!(rules.matches("SUBSYSTEM").count(), 2);
    assert!(rules.contains("KERNEL==\"unmoor1\", RUN+=\"/bin/sh -c 'PATH="));
    assert!(rules.contains("ip link set dev unmoor1 name eth1 && exit 0"));
}

#[test]
fn an_old_udev_gets_rules() {
    let mut old = Guest::new(&[("/lib/udev/rules.d/75-x.rules", "x")]);
    old.inspection.network.interfaces = vec![interface("eth0", OLD)];
    old.request.hardware.nics = vec![adapter(NEW)];
    let outcome = old.plan();
    let rules = outcome.text("/etc/udev/rules.d/70-persistent-net.rules");
    assert!(rules.ends_with(&format!(
        "SUBSYSTEM==\"net\", ACTION==\"add\", DRIVERS==\"?*\", ATTR{{address}}==\"{NEW}\", ATTR{{type}}==\"1\", KERNEL==\"eth*\", NAME=\"eth0\"\n"
    )));
}

const RULE: &str = "SUBSYSTEM==\"net\", ACTION==\"add\", DRIVERS==\"?*\", ATTR{address}==\"52:54:00:00:00:01\", NAME=\"eth0\"\n";

#[test]
fn pinned_names_are_pinned_to_the_new_address_where_they_stand() {
    let rules = "/etc/udev/rules.d/70-persistent-net.rules";
    let file = "/etc/systemd/network/10-lan.link";
    let tree: Tree<'_> = &[
        (rules, &format!("{RULE}# 52:54:00:00:00:01\n")),
        (file, "[Match]\nMACAddress=52:54:00:00:00:02\n[Link]\nName=lan0\nMACAddress=52:54:00:00:00:02\n"),
    ];
    let pin = |guest: &mut Guest| {
        guest.inspection.network.pinned_names = vec![
            PinnedName { file: rules.into(), mac: Some(OLD.into()), path: None, name: "eth0".into() },
            PinnedName { file: file.into(), mac: Some(OLD2.into()), path: None, name: "lan0".into() },
        ];
    };
    let mut both = guest(tree, &[("eth0", OLD), ("lan0", OLD2)], &[NEW, NEW2]);
    pin(&mut both);
    let outcome = both.plan();
    assert_eq!(outcome.text(rules), format!("{}# 52:54:00:00:00:01\n", RULE.replace(OLD, NEW)));
    // What a file sets is not what it matches.
    let wanted = format!("[Match]\nMACAddress={NEW2}\n[Link]\nName=lan0\nMACAddress={OLD2}\n");
    assert_eq!(outcome.text(file), wanted);
    assert_eq!(outcome.initramfs[file], wanted);
    assert_eq!(outcome.files.len(), 2);

    let mut alone = guest(&tree[..1], &[("eth0", OLD)], &[]);
    alone.inspection.network.pinned_names =
        vec![PinnedName { file: rules.into(), mac: Some(OLD.into()), path: None, name: "eth0".into() }];
    assert!(alone.plan().text(rules).contains("ATTR{address}==\"?*\""));
}

const STACKS: Tree<'_> = &[
    (
        "/etc/sysconfig/network-scripts/ifcfg-eth0",
        "DEVICE=eth0\nHWADDR=52:54:00:00:00:01\nMACADDR=52:54:00:00:00:01\nIPADDR=192.0.2.7\n",
    ),
    (
        "/etc/NetworkManager/system-connections/lan.nmconnection",
        "[connection]\nid=lan\ntype=ethernet\n\n[ethernet]\nmac-address=52:54:00:00:00:01\ncloned-mac-address=52:54:00:00:00:01\n",
    ),
    (
        "/etc/systemd/network/10-lan.network",
        "[Match]\nMACAddress=52:54:00:00:00:01\n\n[Network]\nAddress=192.0.2.7/24\n",
    ),
    (
        "/etc/netplan/50-cloud-init.yaml",
        "network:\n  version: 2\n  ethernets:\n    eth0:\n      dhcp4: true\n      macaddress: 52:54:00:00:00:01\n      match:\n        macaddress: \"52:54:00:00:00:01\"\n      set-name: eth0\n    eth9: {match: {macaddress: 52:54:00:00:00:01}}\n",
    ),
    (
        "/etc/network/interfaces",
        "auto eth0\niface eth0 inet static\n  address 192.0.2.7/24\n  hwaddress ether 52:54:00:00:00:01\nrename /52:54:00:00:00:01=eth0\n",
    ),
];

#[test]
fn what_every_network_stack_matches_is_changed_and_what_it_sets_is_not() {
    let outcome = guest(STACKS, &[("eth0", OLD)], &["02:00:00:00:00:0A"]).plan();
    let text = |number: usize| outcome.text(STACKS[number].0);
    assert_eq!(text(0), format!("DEVICE=eth0\nHWADDR={NEW}\nMACADDR={OLD}\nIPADDR=192.0.2.7\n"));
    assert!(text(1).ends_with(&format!("[ethernet]\nmac-address={NEW}\ncloned-mac-address={OLD}\n")));
    assert!(text(2).starts_with(&format!("[Match]\nMACAddress={NEW}\n")));
    assert_eq!(
        text(3),
        STACKS[3]
            .1
            .replace("\"52:54:00:00:00:01\"", &format!("\"{NEW}\""))
            .replace("{macaddress: 52:54:00:00:00:01}", &format!("{{macaddress: {NEW}}}"))
    );
    assert_eq!(text(4), STACKS[4].1.replace("/52:54:00:00:00:01=", &format!("/{NEW}=")));
}

#[test]
fn two_adapters_that_swap_addresses_are_not_mixed_up() {
    let tree: Tree<'_> = &[
        ("/etc/sysconfig/network-scripts/ifcfg-eth0", "HWADDR=52:54:00:00:00:01\n"),
        ("/etc/sysconfig/network-scripts/ifcfg-eth1", "HWADDR=52:54:00:00:00:02\n"),
    ];
    let outcome = guest(tree, &[("eth0", OLD), ("eth1", OLD2)], &[OLD2, OLD]).plan();
    assert_eq!(outcome.text(tree[0].0), format!("HWADDR={OLD2}\n"));
    assert_eq!(outcome.text(tree[1].0), format!("HWADDR={OLD}\n"));
}

#[test]
fn a_match_by_address_becomes_one_by_name_where_the_new_address_is_not_known() {
    let outcome = guest(STACKS, &[("eth0", OLD)], &[]).plan();
    let text = |number: usize| outcome.text(STACKS[number].0);
    assert!(text(0).contains("\n#HWADDR=") && text(0).contains("\nMACADDR="));
    assert!(
        text(1).starts_with("[connection]\ninterface-name=eth0\nid=lan\n")
            && text(1).contains("\n#mac-address=")
    );
    assert!(text(2).starts_with("[Match]\nPath=*\n"));
    assert!(
        text(3).contains("      match:\n        name: eth0\n")
            && text(3).ends_with("eth9: {match: {name: eth0}}\n"),
        "{}",
        text(3)
    );
    let yaml = outcome.text(STACKS[3].0);
    // It is YAML still.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.yaml");
    std::fs::write(&path, yaml).unwrap();
    let script =
        "import sys, yaml; print(yaml.safe_load(open(sys.argv[1]))['network']['ethernets']['eth0']['match'])";
    let seen = crate::rules::tests::ask("python3-yaml", "python3", &["-c", script, path.to_str().unwrap()]);
    assert_eq!(seen, "{'name': 'eth0'}\n");
}

#[test]
fn matches_by_path_and_driver_do_not_survive_the_old_hardware() {
    let file = "/etc/systemd/network/10-lan.network";
    let nm = "/etc/NetworkManager/system-connections/lan.nmconnection";
    let mut by_path = guest(
        &[
            (file, "[Match]\nPath=pci-0000:00:03.0\n[Network]\nDHCP=yes\n"),
            (nm, "[connection]\nid=lan\n[match]\npath=pci-0000:00:03.0;\n"),
        ],
        &[("ens3", OLD)],
        &[NEW],
    );
    let by = |file: &str, stack| ConfiguredBy {
        stack,
        file: file.into(),
        matches: [("path".to_owned(), "pci-0000:00:03.0".to_owned())].into(),
    };
    by_path.inspection.network.interfaces[0].configured_by =
        vec![by(file, Stack::Networkd), by(nm, Stack::NetworkManager)];
    let outcome = by_path.plan();
    assert_eq!(outcome.text(file), "[Match]\nName=ens3\n[Network]\nDHCP=yes\n");
    assert_eq!(
        outcome.text(nm),
        "[connection]\ninterface-name=ens3\nid=lan\n[match]\n# (unmoor: matched by name)\n"
    );
}

#[test]
fn cloud_init_does_not_replace_the_network() {
    let outcome = guest(&[("/etc/cloud/cloud.cfg", "x\n")], &[], &[]).plan();
    assert!(
        outcome
            .text("/etc/cloud/cloud.cfg.d/99-unmoor-network.cfg")
            .ends_with("network: {config: disabled}\n")
    );
}

#[test]
fn patterns_of_slot_names_take_the_kernel_s_names_in_where_adapters_have_no_slot() {
    let file = "/etc/systemd/network/20-wired.network";
    let yaml = "/etc/netplan/10.yaml";
    let tree: Tree<'_> = &[
        (file, "[Match]\nName=en* wl*\nType=ether\n\n[Network]\nDHCP=yes\n"),
        ("/etc/systemd/network/30.network", "[Match]\nName=e*\n[Network]\nDHCP=yes\n"),
        ("/etc/systemd/network/40.network", "[Match]\nName=ens3\n[Network]\nDHCP=yes\n"),
        (
            yaml,
            "network:\n  ethernets:\n    all:\n      match:\n        name: \"en*\"\n      dhcp4: true\n    one: {match: {name: ens*}, dhcp4: true}\n",
        ),
    ];
    for hypervisor in ["hyperv", "xen"] {
        let mut pattern = guest(tree, &[], &[]);
        pattern.request.hardware.hypervisor = Some(hypervisor.into());
        let outcome = pattern.plan();
        assert_eq!(outcome.files.len(), 2);
        assert!(outcome.text(file).starts_with("[Match]\nName=en* wl* eth*\nType=ether\n"));
        let wanted = tree[3].1.replace("en*", "e*").replace("ens*", "e*");
        assert_eq!(outcome.text(yaml), wanted);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.yaml");
        std::fs::write(&path, wanted).unwrap();
        let script = "import sys, yaml; print([e['match']['name'] for e in yaml.safe_load(open(sys.argv[1]))['network']['ethernets'].values()])";
        let seen =
            crate::rules::tests::ask("python3-yaml", "python3", &["-c", script, path.to_str().unwrap()]);
        assert_eq!(seen, "['e*', 'e*']\n");
    }
    assert!(guest(tree, &[], &[]).plan().files.is_empty());
}

#[test]
fn an_only_adapter_of_metal_that_is_not_known_is_a_warning() {
    let mut metal = guest(&[], &[("ens3", OLD)], &[]);
    metal.request.hardware.hypervisor = None;
    let outcome = metal.plan();
    let finding = outcome.finding("ens3: where the new machine has several adapters");
    assert!(
        finding.severity == Severity::Warning && finding.remedy.as_ref().unwrap().contains("--nic ens3=")
    );
    metal.request.hardware.nics = vec![adapter(NEW)];
    assert_ne!(metal.plan().worst(), Some(Severity::Warning));
}
