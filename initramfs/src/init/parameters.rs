// SPDX-License-Identifier: Apache-2.0
//! The kernel's command line: what the rescue environment is told by `unmoor.NAME` and `unmoor.NAME=VALUE`.
//!
//! | parameter | meaning |
//! |---|---|
//! | `unmoor.appliance` | a job will come through the virtio-serial port `unmoor.0`; hardware that it cannot need is left alone |
//! | `unmoor.net=dhcp` | every Ethernet link is brought up, and an address asked for |
//! | `unmoor.end=poweroff` `reboot` `stay` | what happens after a job; `poweroff` where nothing is said |
//! | `unmoor.patience=SECONDS` | how long a failure stays on the screen before the machine goes off; 10 |
//! | `unmoor.server=URL` | the agent talks to this server, and does its jobs; brings the network up by `dhcp` |
//! | `unmoor.pin=HEX` | SHA-256 of that server's CA |
//! | `unmoor.ca-url=URL` | where that CA is fetched; `http://SERVER/ca.pem` |
//! | `unmoor.verbose` | modules are named as they are loaded |

/// The parameters that are for unmoor.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Parameters(Vec<(String, String)>);

impl Parameters {
    /// From the text of /proc/cmdline. Values may stand in double quotes (Documentation/admin-guide/kernel-parameters.rst).
    pub fn parse(line: &str) -> Self {
        let mut parameters = Vec::new();
        let mut rest = line.trim_start();
        while !rest.is_empty() {
            let mut quoted = false;
            let end = rest.find(|char: char| {
                quoted ^= char == '"';
                char.is_whitespace() && !quoted
            });
            let (word, behind) = rest.split_at(end.unwrap_or(rest.len()));
            // What stands behind "--" is for init itself: its arguments.
            if word == "--" {
                break;
            }
            let word = word.replace('"', "");
            let (name, value) = word.split_once('=').unwrap_or((&word, ""));
            if let Some(name) = name.strip_prefix("unmoor.") {
                parameters.push((name.replace('-', "_"), value.to_owned()));
            }
            rest = behind.trim_start();
        }
        Self(parameters)
    }

    /// The last value given; "" for a parameter without one.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.0.iter().rev().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Whether it is there, and not as `=0`, `=no` or `=off`.
    pub fn is_set(&self, name: &str) -> bool {
        self.value(name).is_some_and(|value| !matches!(value, "0" | "no" | "off"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_value_counts_and_quotes_hold_words_together() {
        let line = "BOOT_IMAGE=/vmlinuz quiet unmoor.net=static unmoor.note=\"two words\" unmoor.net=dhcp unmoor.verbose \
                    unmoor.other=off -- unmoor.late";
        let parameters = Parameters::parse(line);
        assert_eq!(parameters.value("net"), Some("dhcp"));
        assert_eq!(parameters.value("note"), Some("two words"));
        assert_eq!(parameters.value("verbose"), Some(""));
        assert!(parameters.is_set("verbose") && !parameters.is_set("other"));
        assert_eq!(parameters.value("late"), None);
        assert_eq!(Parameters::parse("\"unmoor.a=b"), Parameters(vec![("a".into(), "b".into())]));
    }
}
