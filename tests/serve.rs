// SPDX-License-Identifier: Apache-2.0
//! `unmoor serve`: its example, what is wrong with a configuration, and what it would do.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::fs;

use common::{Scene, run};

#[test]
fn the_example_is_a_configuration_but_for_the_interface() {
    let scene = Scene::new();
    let example = run(&["serve", "--example"]).expect(0).stdout;
    let path = scene.path("serve.toml");
    fs::write(&path, example.replace("\"eth0\"", "\"none0\"")).unwrap();
    let said = run(&["serve", path.to_str().unwrap(), "--check"]).expect(2).stderr;
    assert!(said.contains("looking for the address of none0") && said.contains("lo"), "{said}");
}

#[test]
fn a_mistake_is_told_with_file_and_line() {
    let scene = Scene::new();
    let path = scene.path("serve.toml");
    let least = "state = \"/s\"\n[network]\ninterface = \"lo\"\n[store]\nurl = \"dir:/i\"\n";
    fs::write(&path, format!("{least}[dhcp]\nmode = \"both\"\n")).unwrap();
    let said = run(&["serve", path.to_str().unwrap(), "--check"]).expect(2).stderr;
    assert!(said.contains(&format!("{}: line 7: ", path.display())) && said.contains("both"), "{said}");
}

#[test]
fn what_it_would_do_is_said_and_nothing_is_made() {
    let scene = Scene::new();
    let (path, state) = (scene.path("serve.toml"), scene.path("state"));
    let (boot, rescue) = (scene.path("boot"), scene.path("rescue"));
    fs::create_dir(&boot).unwrap();
    fs::create_dir(&rescue).unwrap();
    fs::write(boot.join("undionly.kpxe"), "ipxe").unwrap();
    let facts = r#"{"release":"6.1.0-x","profile":"small","modules":1,"firmware":0,"payload":0,"kernel_size":1,
        "initramfs_size":1,"left_out":[]}"#;
    fs::write(rescue.join("rescue.json"), facts).unwrap();
    let config = format!(
        "state = {state:?}\n[network]\ninterface = \"lo\"\n[store]\nurl = \"dir:/images\"\n[https]\nlisten = \
         \"0.0.0.0:8443\"\nnames = [\"backup.lan\"]\n[dhcp]\nmode = \"proxy\"\n[boot]\nfiles = [{boot:?}]\n\
         [rescue]\nfolder = {rescue:?}\n[[group]]\nname = \"lab\"\ntrust_network = true\n"
    );
    fs::write(&path, config).unwrap();
    let said = run(&["serve", path.to_str().unwrap(), "--check"]).expect(0).stdout;
    for expected in [
        "https://127.0.0.1:8443",
        "backup.lan",
        "boot files alone, beside another server, on lo",
        "undionly.kpxe",
        "Linux 6.1.0-x",
        "dir:/images",
        "group lab: whoever",
    ] {
        assert!(said.contains(expected), "{expected}: {said}");
    }
    let json = run(&["serve", path.to_str().unwrap(), "--check", "--json"]).expect(0).stdout;
    assert!(json.lines().count() == 1 && json.contains("\"url\":\"https://127.0.0.1:8443\""), "{json}");
    assert!(!state.exists());
}
