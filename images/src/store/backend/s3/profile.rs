// SPDX-License-Identifier: Apache-2.0
//! Profiles: the files `credentials` and `config` of the AWS command line, as far as they tell of S3.
//!
//! ```text
//!   [default]                      [profile name] in `config`, [name] in `credentials`
//!   region = eu-central-1
//!   s3 =
//!     addressing_style = virtual   nested: indented below an empty value
//! ```
//!
//! The format is that of the "Configuration and credential file settings" of the AWS SDKs reference guide. What gets credentials by
//! running a program or asking another service is named, not done.

use std::collections::BTreeMap;

/// Settings of one section; those of a nested block are called `block.name`.
pub(super) type Section = BTreeMap<String, String>;

/// A file's sections. What is no setting is passed over, as others do.
pub(super) fn parse(text: &str) -> BTreeMap<String, Section> {
    let mut sections: BTreeMap<String, Section> = BTreeMap::new();
    let mut section: Option<String> = None;
    let mut block: Option<String> = None;
    for line in text.lines() {
        let plain = line.trim();
        if plain.is_empty() || plain.starts_with(['#', ';']) {
            continue;
        }
        if let Some(rest) = plain.strip_prefix('[') {
            let name = rest.split(']').next().unwrap_or_default();
            section = Some(name.split_whitespace().collect::<Vec<_>>().join(" "));
            block = None;
            continue;
        }
        let (Some(section), Some((name, value))) = (&section, plain.split_once('=')) else { continue };
        let name = name.trim().to_ascii_lowercase();
        // A comment behind a value begins with a space, so that secrets may contain either sign.
        let value = value.split(" #").next().unwrap_or_default();
        let value = value.split(" ;").next().unwrap_or_default().trim();
        let name = match &block {
            Some(block) if line.starts_with([' ', '\t']) => format!("{block}.{name}"),
            _ => {
                block = value.is_empty().then(|| name.clone());
                name
            }
        };
        if !value.is_empty() {
            // The first of two sections of one name wins in neither tool nor reference: the last does.
            sections.entry(section.clone()).or_default().insert(name, value.to_owned());
        }
    }
    sections
}

/// What the two files say of a profile; `credentials` wins. None where neither knows it.
pub(super) fn find(credentials: &str, config: &str, profile: &str) -> Option<Section> {
    let (mut credentials, mut config) = (parse(credentials), parse(config));
    let own = match profile {
        "default" => config.remove("default").or_else(|| config.remove("profile default")),
        name => config.remove(&format!("profile {name}")),
    };
    let keys = credentials.remove(profile);
    if own.is_none() && keys.is_none() {
        return None;
    }
    let mut found = own.unwrap_or_default();
    if let Some(services) = found.get("services").and_then(|name| config.remove(&format!("services {name}")))
    {
        for (name, value) in services {
            found.entry(name).or_insert(value);
        }
    }
    found.extend(keys.unwrap_or_default());
    Some(found)
}

/// A setting that gets credentials in a way that is not known here.
pub(super) fn unknown_source(profile: &Section) -> Option<&'static str> {
    let known = profile.contains_key("aws_access_key_id") && profile.contains_key("aws_secret_access_key");
    let sources =
        ["credential_process", "sso_session", "sso_start_url", "source_profile", "credential_source"];
    sources.into_iter().find(|source| !known && profile.contains_key(*source))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    const CREDENTIALS: &str = "[default]\naws_access_key_id=AKID\naws_secret_access_key = se/cr#et+=;x\n\n# a comment\n\
        [ work ]\naws_access_key_id = W ; ours\nAWS_SECRET_ACCESS_KEY = S #1\naws_session_token = T==\n";
    const CONFIG: &str = "[default]\nregion = us-west-2\n[profile work]\nregion=eu-central-1\ns3 =\n  addressing_style = virtual\n\
        \tmax_concurrent_requests = 4\noutput = json\nservices = lab\n[services lab]\ns3 =\n  endpoint_url = http://10.0.0.1:9000\n\
        [profile sso]\nsso_session = x\nregion = a\n";

    #[test]
    fn profiles_are_read_as_the_tools_read_them() {
        let default = find(CREDENTIALS, CONFIG, "default").unwrap();
        assert_eq!(default["aws_secret_access_key"], "se/cr#et+=;x");
        assert_eq!(default["region"], "us-west-2");
        let work = find(CREDENTIALS, CONFIG, "work").unwrap();
        assert_eq!(work["aws_access_key_id"], "W");
        assert_eq!(work["aws_secret_access_key"], "S");
        assert_eq!(work["aws_session_token"], "T==");
        assert_eq!(work["s3.addressing_style"], "virtual");
        assert_eq!(work["s3.endpoint_url"], "http://10.0.0.1:9000");
        assert_eq!(work["output"], "json");
        assert_eq!(find(CREDENTIALS, CONFIG, "other"), None);
        assert_eq!(unknown_source(&work), None);
        assert_eq!(unknown_source(&find(CREDENTIALS, CONFIG, "sso").unwrap()), Some("sso_session"));
    }

    #[test]
    fn whatever_the_files_hold_reading_them_ends() {
        let seeds = [CREDENTIALS, CONFIG];
        let mut state = 7u64;
        for round in 0..4000usize {
            let mut bytes = seeds[round % 2].as_bytes().to_vec();
            for _ in 0..1 + round % 5 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let at = (state >> 33) as usize % bytes.len();
                match state >> 20 & 3 {
                    0 => bytes[at] = (state >> 40) as u8,
                    1 => bytes.truncate(at.max(1)),
                    2 => bytes.insert(at, b"[]=\n #;."[(state >> 50) as usize % 8]),
                    _ => drop(bytes.remove(at)),
                }
                if bytes.is_empty() {
                    bytes.push(b'[');
                }
            }
            let text = String::from_utf8_lossy(&bytes).into_owned();
            for section in parse(&text).values() {
                assert!(section.values().all(|value| !value.is_empty() && text.contains(value.as_str())));
            }
            let _ = find(&text, CONFIG, "work");
        }
    }
}
