// SPDX-License-Identifier: Apache-2.0
//! Which machine it is, who approves its keys, and what it boots.

use unmoor_images::manifest::MachineFacts;

use super::scene::{Scene, by_mac, mac, nic, register};
use crate::api::{Approve, Presence, Register, Selector, Task};
use crate::boot::{Asker, Choice, Choices};
use crate::client::Identity;
use crate::server::{Admin, Group, Known, errors};

fn found(scene: &Scene, change: impl FnOnce(&mut MachineFacts)) -> (u64, Identity) {
    let identity = Identity::new().unwrap();
    let mut register: Register = register(&identity, 1);
    change(&mut register.facts);
    let client = scene.client(&identity);
    (client.register(&register, &|| false, &|error| panic!("{}", error.chain())).unwrap().machine, identity)
}

#[test]
fn a_machine_is_known_by_uuid_address_and_serial_and_none_of_them_is_trusted_alone() {
    let mut scene = Scene::start();
    scene.pace.gone = std::time::Duration::ZERO;
    scene.restart();
    let first = found(&scene, |facts| facts.serial = Some("ABC1234".into())).0;
    // The same with an address more, and without its UUID.
    assert_eq!(found(&scene, |facts| facts.nics.push(nic(9))).0, first);
    assert_eq!(found(&scene, |facts| facts.uuid = None).0, first);
    // The first fields of the UUID in the other byte order.
    let swapped = "44454c4c-5100-1030-8052-b4c04f5a3201";
    assert_eq!(found(&scene, |facts| facts.uuid = Some(swapped.into())).0, first);
    // Another adapter, and the serial number still says who it is.
    let other_nic = |facts: &mut MachineFacts| facts.nics[0].mac = Some(mac(77));
    assert_eq!(
        found(&scene, |facts| {
            other_nic(facts);
            facts.serial = Some("ABC1234".into());
        })
        .0,
        first
    );
    // A board of the same UUID, in another machine.
    let board = found(&scene, |facts| {
        facts.nics[0].mac = Some(mac(33));
        facts.serial = Some("XYZ9876".into());
    });
    assert_ne!(board.0, first);
    // UUIDs and serial numbers that say nothing; the addresses do.
    let empty = |scene: &Scene, number| {
        found(scene, |facts| {
            facts.uuid = Some("00000000-0000-0000-0000-000000000000".into());
            facts.serial = Some("To be filled by O.E.M.".into());
            facts.nics[0].mac = Some(mac(number));
        })
        .0
    };
    let (one, two) = (empty(&scene, 50), empty(&scene, 51));
    assert!(one != two && one != first && empty(&scene, 50) == one);
    // An adapter that moved into a machine with another UUID.
    let moved = found(&scene, |facts| facts.uuid = Some("4c4c4544-0051-3010-8052-b4c04f5a3299".into())).0;
    assert_ne!(moved, first);
}

#[test]
fn keys_are_approved_beforehand_by_the_network_or_not_at_all() {
    let key = Identity::new().unwrap();
    let known = |name: &str, number, group: Option<&str>, key: Option<&str>| Known {
        name: name.into(),
        selector: by_mac(number),
        group: group.map(str::to_owned),
        key: key.map(str::to_owned),
    };
    let machines = vec![known("db01", 1, None, Some(key.code())), known("lab1", 2, Some("lab"), None)];
    let lab = Group {
        name: "lab".into(),
        trust_network: true,
        profile: None,
        options: vec!["console=ttyS0".into()],
        unknown: false,
    };
    let scene = Scene::start_with(machines, vec![lab]);
    let client = scene.client(&key);
    let registered = client.register(&register(&key, 1), &|| false, &|_| {}).unwrap();
    assert_eq!((registered.name.as_str(), registered.approved), ("db01", true));
    // The same key as another machine: its approval was not for that.
    assert!(!client.register(&register(&key, 3), &|| false, &|_| {}).unwrap().approved);
    let lab = scene.agent(2);
    assert!(lab.registered.approved);
    assert_eq!(scene.server().machine(lab.registered.machine).unwrap().group.as_deref(), Some("lab"));
    assert!(!scene.agent(1).registered.approved);
    let asker = Asker { mac: Some(mac(2)), ..Asker::default() };
    assert_eq!(scene.server().choose(&asker).unwrap(), Choice::Disk);
    scene.add(Selector { name: Some("lab1".into()), ..Selector::default() }, Task::Inspect);
    let options = vec!["console=ttyS0".to_owned()];
    assert_eq!(scene.server().choose(&asker).unwrap(), Choice::Rescue { options });
}

#[test]
fn a_stranger_boots_the_rescue_environment_and_one_that_is_done_its_disk() {
    let scene = Scene::start();
    let server = scene.server();
    let asker = Asker { mac: Some(mac(1).to_uppercase()), ..Asker::default() };
    let rescue = Choice::Rescue { options: Vec::new() };
    assert_eq!(server.choose(&asker).unwrap(), rescue);
    let machines = server.machines().unwrap();
    assert_eq!((machines.len(), machines[0].presence), (1, Presence::Booting));
    // The menu's request says more of the same machine.
    let agent = scene.agent(1);
    assert_eq!(agent.registered.machine, machines[0].id);
    let next = || agent.client.next_job(&|| false, &|_| {}).unwrap().unwrap();
    let finish = |assignment: &crate::api::Assignment| {
        let done = crate::api::Done {
            outcome: crate::api::Outcome::Done,
            result: serde_json::Value::Null,
            log: Vec::new(),
        };
        agent.client.job(assignment, Default::default()).done(&done, &|| false).unwrap();
    };
    scene.add(by_mac(1), Task::Inspect);
    finish(&next());
    assert_eq!(server.choose(&asker).unwrap(), Choice::Disk);
    scene.add(by_mac(1), Task::Reboot { into: "network".into() });
    assert_eq!(server.choose(&asker).unwrap(), rescue);
    finish(&next());
    assert_eq!(server.choose(&asker).unwrap(), rescue);
    scene.agent(1);
    assert_eq!(server.choose(&asker).unwrap(), Choice::Disk);
    server.forget(agent.registered.machine).unwrap();
    assert!(errors::is_missing(&server.machine(agent.registered.machine).unwrap_err()));
    let code = agent.identity.code().to_owned();
    assert!(errors::is_missing(&server.approve(agent.registered.machine, &Approve { code }).unwrap_err()));
    assert_eq!(server.choose(&asker).unwrap(), rescue);
}
