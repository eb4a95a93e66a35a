// SPDX-License-Identifier: Apache-2.0
//! The server as its clients see it: the agents' own, curl, and openssl.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

mod agents;
mod foreign;
mod machines;
mod scene;

use serde_json::json;

use super::http::document;
use scene::Scene;

#[test]
fn what_is_made_first_stays_and_the_certificate_follows_its_names() {
    let mut scene = Scene::start();
    let (pin, token, ca) =
        (scene.server().pin(), scene.server().admin_token().to_owned(), scene.server().ca_pem().to_owned());
    let folder = scene.folder.path().join("state");
    let leaf = || std::fs::read_to_string(folder.join("server.pem")).unwrap();
    let first = leaf();
    use std::os::unix::fs::PermissionsExt;
    for entry in std::fs::read_dir(&folder).unwrap() {
        let entry = entry.unwrap();
        let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
        // SQLite gives its log the mode of its database.
        assert_eq!(mode, 0o600, "{:?}", entry.path());
    }
    scene.restart();
    let server = scene.server();
    assert_eq!(
        (server.pin(), server.admin_token(), server.ca_pem()),
        (pin.clone(), token.as_str(), ca.as_str())
    );
    assert_eq!(leaf(), first);
    scene.names.push("unmoor.example".to_owned());
    scene.restart();
    assert!(leaf() != first && leaf().contains("unmoor.example") && scene.server().pin() == pin);
    // A second server on the same state would give out the same jobs.
    let mut options = scene.options();
    options.listen = "127.0.0.1:0".parse().unwrap();
    let other = super::Server::open(options).err().unwrap();
    assert!(other.chain().contains("another server"), "{}", other.chain());
}

#[test]
fn the_description_names_every_path_and_refers_to_nothing_that_is_missing() {
    fn references(value: &serde_json::Value, found: &mut Vec<String>) {
        match value {
            serde_json::Value::Object(map) => {
                if let Some(serde_json::Value::String(text)) = map.get("$ref") {
                    found.push(text.clone());
                }
                map.values().for_each(|value| references(value, found));
            }
            serde_json::Value::Array(list) => list.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }
    let document = document();
    let mut found = Vec::new();
    references(&document, &mut found);
    assert!(found.len() > 50);
    for reference in found {
        let pointer = reference.strip_prefix('#').unwrap();
        assert!(document.pointer(pointer).is_some(), "{reference}");
    }
    let paths = document["paths"].as_object().unwrap();
    for line in include_str!("../../api/mod.rs").lines().filter(|line| line.starts_with("//! | `")) {
        let words: Vec<&str> = line.split(['`', ' ', ',']).filter(|word| word.starts_with("/v1/")).collect();
        for word in words {
            let path = word.split('?').next().unwrap().replace("ID", "{id}").replace("/N/", "/{disk}/");
            assert!(paths.contains_key(&path), "{path}");
        }
    }
    assert_eq!(document["openapi"], json!("3.1.0"));

    // Where there is a validator, it says the rest.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("openapi.json");
    std::fs::write(&path, document.to_string()).unwrap();
    let command =
        std::process::Command::new("python3").args(["-m", "openapi_spec_validator"]).arg(&path).output();
    match command {
        Ok(output) if String::from_utf8_lossy(&output.stderr).contains("No module named") => {
            eprintln!("skipped: the document is not validated, as openapi-spec-validator (PyPI) is missing");
        }
        Ok(output) => assert!(output.status.success(), "{output:?}"),
        Err(_) => eprintln!("skipped: the document is not validated, as python3 is missing"),
    }
}
