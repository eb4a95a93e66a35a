// SPDX-License-Identifier: Apache-2.0
//! The configuration file.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use toml::Spanned;
use unmoor_images::store::Location;
use unmoor_images::{Error, ErrorKind, Result};
use unmoor_pxe_boot::api::Selector;
use unmoor_pxe_boot::boot::{UefiLoader, check_option};
use unmoor_pxe_boot::server;

use crate::output::size::parse_size;

/// A file that shows all of it, and parses.
pub(crate) const EXAMPLE: &str = include_str!("example.toml");
/// Bytes of a file at most.
const LARGEST: u64 = 4 << 20;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    pub(crate) state: PathBuf,
    pub(crate) network: Network,
    pub(crate) store: Store,
    #[serde(default)]
    pub(crate) https: Https,
    #[serde(default)]
    pub(crate) http: Http,
    #[serde(default = "no_dhcp")]
    pub(crate) dhcp: Spanned<Dhcp>,
    #[serde(default)]
    pub(crate) tftp: Tftp,
    #[serde(default)]
    pub(crate) boot: Boot,
    #[serde(default)]
    pub(crate) rescue: Rescue,
    #[serde(default)]
    pub(crate) limits: Limits,
    #[serde(default, rename = "group")]
    pub(crate) groups: Vec<Spanned<Group>>,
    #[serde(default, rename = "machine")]
    pub(crate) machines: Vec<Spanned<Machine>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Network {
    pub(crate) interface: String,
    pub(crate) address: Option<Ipv4Addr>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Store {
    pub(crate) url: Url,
    pub(crate) key_file: Option<PathBuf>,
    pub(crate) password_file: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Https {
    pub(crate) listen: SocketAddr,
    pub(crate) names: Vec<String>,
    pub(crate) certificate: Option<PathBuf>,
    pub(crate) key: Option<PathBuf>,
}

impl Default for Https {
    fn default() -> Self {
        let listen = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 443));
        Self { listen, names: Vec::new(), certificate: None, key: None }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Http {
    pub(crate) listen: SocketAddr,
}

impl Default for Http {
    fn default() -> Self {
        Self { listen: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 80)) }
    }
}

fn no_dhcp() -> Spanned<Dhcp> {
    Spanned::new(0..0, Dhcp::default())
}

/// What this server is to the network.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Mode {
    Proxy,
    Server,
    #[default]
    Off,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Dhcp {
    pub(crate) mode: Mode,
    pub(crate) range: Option<(Ipv4Addr, Ipv4Addr)>,
    pub(crate) mask: Option<Ipv4Addr>,
    pub(crate) router: Option<Ipv4Addr>,
    pub(crate) dns: Vec<Ipv4Addr>,
    pub(crate) lease: Option<Lease>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Tftp {
    pub(crate) enabled: bool,
}

impl Default for Tftp {
    fn default() -> Self {
        Self { enabled: true }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Boot {
    pub(crate) loader: Option<UefiLoader>,
    pub(crate) files: Vec<PathBuf>,
}

impl Default for Boot {
    fn default() -> Self {
        Self { loader: None, files: vec!["/".into()] }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Rescue {
    pub(crate) folder: Option<PathBuf>,
    pub(crate) kernel: Vec<String>,
    pub(crate) firmware: Vec<PathBuf>,
    pub(crate) payload: Vec<PathBuf>,
    pub(crate) profile: Hardware,
    pub(crate) init: Option<PathBuf>,
    pub(crate) options: Vec<Word>,
}

/// Which hardware a rescue environment is for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Hardware {
    #[default]
    Small,
    Full,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Limits {
    pub(crate) rate: Option<Size>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Group {
    name: String,
    #[serde(default)]
    trust_network: bool,
    profile: Option<String>,
    #[serde(default)]
    options: Vec<Word>,
    #[serde(default)]
    unknown: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Machine {
    name: String,
    mac: Option<String>,
    uuid: Option<String>,
    serial: Option<String>,
    group: Option<String>,
    key: Option<String>,
}

/// A store's place.
#[derive(Debug, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Url(pub(crate) Location);

impl TryFrom<String> for Url {
    type Error = String;

    fn try_from(text: String) -> std::result::Result<Self, String> {
        Location::parse(&text).map(Self).map_err(|error| error.chain())
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A word of a kernel's command line.
#[derive(Debug, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Word(pub(crate) String);

impl TryFrom<String> for Word {
    type Error = String;

    fn try_from(text: String) -> std::result::Result<Self, String> {
        check_option(&text).map_err(|error| error.chain())?;
        Ok(Self(text))
    }
}

/// Bytes, as people write them.
#[derive(Debug, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Size(pub(crate) u64);

impl TryFrom<String> for Size {
    type Error = String;

    fn try_from(text: String) -> std::result::Result<Self, String> {
        parse_size(&text).map(Self)
    }
}

/// How long addresses are given for: `600s`, `30m`, `12h`, `1d`.
#[derive(Debug, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Lease(pub(crate) Duration);

impl TryFrom<String> for Lease {
    type Error = String;

    fn try_from(text: String) -> std::result::Result<Self, String> {
        let wrong = || format!("{text:.50?} is no time: write 600s, 30m, 12h, 1d, of two minutes at least");
        let unit = text.chars().last().ok_or_else(wrong)?;
        let seconds: u64 = match unit {
            's' => 1,
            'm' => 60,
            'h' => 3600,
            'd' => 86400,
            _ => return Err(wrong()),
        };
        let count: u64 = text.trim_end_matches(unit).parse().map_err(|_| wrong())?;
        let seconds = count.checked_mul(seconds).filter(|seconds| (120..1 << 31).contains(seconds));
        seconds.map(|seconds| Self(Duration::from_secs(seconds))).ok_or_else(wrong)
    }
}

impl Config {
    /// Reads a file.
    ///
    /// # Errors
    ///
    /// `Io`; `Usage` where something in it makes no sense, with the line.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let failed = |error| Error::io("reading", error).path(path);
        let size = std::fs::metadata(path).map_err(failed)?.len();
        if size > LARGEST {
            return Err(Error::new(ErrorKind::Usage, "reading").path(path).because("it is no configuration"));
        }
        let text = std::fs::read_to_string(path).map_err(failed)?;
        Self::parse(&text)
            .map_err(|because| Error::new(ErrorKind::Usage, "reading").path(path).because(because))
    }

    /// Parses and checks the text.
    pub(crate) fn parse(text: &str) -> std::result::Result<Self, String> {
        let config: Self = toml::from_str(text).map_err(|error| {
            let line = error.span().map_or(1, |span| line_of(text, span.start));
            format!("line {line}: {}", error.message())
        })?;
        config.check().map_err(|(at, because)| format!("line {}: {because}", line_of(text, at)))?;
        Ok(config)
    }

    /// What one value alone does not show; where, as a byte of the text, and why.
    fn check(&self) -> std::result::Result<(), (usize, String)> {
        if self.https.certificate.is_some() != self.https.key.is_some() {
            return Err((0, "https needs both certificate and key, or neither".to_owned()));
        }
        if self.rescue.folder.is_some() && !self.rescue.kernel.is_empty() {
            return Err((0, "rescue takes folder or kernel, not both".to_owned()));
        }
        let (dhcp, at) = (self.dhcp.get_ref(), self.dhcp.span().start);
        match (dhcp.mode, dhcp.range) {
            (Mode::Server, None) => {
                return Err((at, "dhcp as a server needs the range of addresses that it gives".to_owned()));
            }
            (Mode::Server, Some((first, last))) if last < first => {
                return Err((at, format!("the range from {first} to {last} is none")));
            }
            (Mode::Proxy | Mode::Off, Some(_)) => {
                return Err((at, "a range is for dhcp as a server: set mode = \"server\"".to_owned()));
            }
            _ => {}
        }
        let mut names: Vec<&str> = Vec::new();
        for group in &self.groups {
            let (at, group) = (group.span().start, group.get_ref());
            if names.contains(&group.name.as_str()) {
                return Err((at, format!("there are two groups {:?}", group.name)));
            }
            names.push(&group.name);
        }
        if let Some(second) = self.groups.iter().filter(|group| group.get_ref().unknown).nth(1) {
            return Err((second.span().start, "unknown machines can belong to one group only".to_owned()));
        }
        for (index, machine) in self.machines.iter().enumerate() {
            let (at, machine) = (machine.span().start, machine.get_ref());
            let earlier = self.machines.iter().take(index);
            if earlier.into_iter().any(|other| other.get_ref().name == machine.name) {
                return Err((at, format!("there are two machines {:?}", machine.name)));
            }
            if let Some(group) = machine.group.as_deref().filter(|group| !names.contains(group)) {
                return Err((at, format!("machine {:?}: there is no group {group:?}", machine.name)));
            }
            machine.selector().map_err(|because| (at, format!("machine {:?}: {because}", machine.name)))?;
        }
        Ok(())
    }

    /// The groups, for the server.
    pub(crate) fn groups(&self) -> Vec<server::Group> {
        let group = |group: &Spanned<Group>| {
            let group = group.get_ref();
            server::Group {
                name: group.name.clone(),
                trust_network: group.trust_network,
                profile: group.profile.clone(),
                options: words(&group.options),
                unknown: group.unknown,
            }
        };
        self.groups.iter().map(group).collect()
    }

    /// The machines, for the server.
    pub(crate) fn machines(&self) -> Vec<server::Known> {
        let machine = |machine: &Spanned<Machine>| {
            let machine = machine.get_ref();
            Some(server::Known {
                name: machine.name.clone(),
                selector: machine.selector().ok()?,
                group: machine.group.clone(),
                key: machine.key.clone(),
            })
        };
        self.machines.iter().filter_map(machine).collect()
    }
}

impl Machine {
    fn selector(&self) -> std::result::Result<Selector, String> {
        let hex = |text: &str| text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let mac = self.mac.as_ref().map(|mac| mac.replace('-', ":").to_lowercase());
        if let Some(mac) = &mac
            && !(mac.len() == 17 && mac.split(':').all(|pair| pair.len() == 2 && hex(pair)))
        {
            return Err(format!("{mac:?} is no address of an adapter: write 52:54:00:12:34:56"));
        }
        let uuid = self.uuid.as_ref().map(|uuid| uuid.to_lowercase());
        if let Some(uuid) = &uuid {
            let lengths: Vec<usize> = uuid.split('-').map(str::len).collect();
            if lengths != [8, 4, 4, 4, 12] || !uuid.split('-').all(hex) {
                return Err(format!("{uuid:?} is no UUID"));
            }
        }
        if mac.is_none() && uuid.is_none() && self.serial.is_none() {
            return Err("say how it is recognized: mac, uuid or serial".to_owned());
        }
        Ok(Selector { id: None, name: None, mac, uuid, serial: self.serial.clone() })
    }
}

/// The words' texts.
pub(crate) fn words(words: &[Word]) -> Vec<String> {
    words.iter().map(|word| word.0.clone()).collect()
}

/// The line, from 1, of a byte of the text.
fn line_of(text: &str, at: usize) -> usize {
    text.bytes().take(at).filter(|byte| *byte == b'\n').count().saturating_add(1)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    const LEAST: &str = "state = \"/s\"\n[network]\ninterface = \"lo\"\n[store]\nurl = \"dir:/i\"\n";

    #[test]
    fn the_example_parses_as_it_stands_and_with_every_choice_that_it_shows() {
        let config = Config::parse(EXAMPLE).unwrap();
        assert_eq!(config.dhcp.get_ref().mode, Mode::Proxy);
        assert!(config.groups().iter().any(|group| group.unknown && !group.trust_network));
        assert!(config.machines().is_empty());
        // Settings stand behind "# " at a line's beginning; what two lines say in different ways stays out.
        let shown: Vec<String> = EXAMPLE
            .lines()
            .map(|line| match line.strip_prefix("# ") {
                Some(text) if text.starts_with("folder =") => String::new(),
                Some(text) if text.starts_with("[[machine]]") => text.to_owned(),
                Some(text) if text.split_once(" = ").is_some_and(|(name, _)| !name.contains(' ')) => {
                    text.to_owned()
                }
                _ => line.replace("\"proxy\"\n", ""),
            })
            .map(|line| line.replace("mode = \"proxy\"", "mode = \"server\""))
            .collect();
        let config = Config::parse(&shown.join("\n")).unwrap();
        assert_eq!(config.limits.rate.as_ref().unwrap().0, 100 << 20);
        assert_eq!(config.dhcp.get_ref().lease.as_ref().unwrap().0, Duration::from_secs(3600));
        assert_eq!(config.machines().len(), 1);
        for line in EXAMPLE.lines() {
            assert!(line.chars().count() <= 88, "{line}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_said_with_its_line() {
        for (more, line, words) in [
            ("oops = 1\n", 6, "unknown field"),
            ("[https]\nlisten = \"here\"\n", 7, "socket address"),
            ("[dhcp]\nmode = \"both\"\n", 7, "proxy"),
            ("[dhcp]\nmode = \"server\"\n", 6, "range"),
            ("[dhcp]\nmode = \"server\"\nrange = [\"10.0.0.9\", \"10.0.0.1\"]\n", 6, "is none"),
            ("[dhcp]\nlease = \"1 week\"\n", 7, "12h"),
            ("[rescue]\noptions = [\"a b\"]\n", 7, "cannot stand"),
            ("[limits]\nrate = \"fast\"\n", 7, "no size"),
            ("[[machine]]\nname = \"a\"\n", 6, "mac, uuid or serial"),
            ("[[machine]]\nname = \"a\"\nmac = \"1\"\n", 6, "no address"),
            ("[[machine]]\nname = \"a\"\nserial = \"1\"\ngroup = \"b\"\n", 6, "no group"),
            ("[[group]]\nname = \"a\"\n[[group]]\nname = \"a\"\n", 8, "two groups"),
            (
                "[[group]]\nname = \"a\"\nunknown = true\n[[group]]\nname = \"b\"\nunknown = true\n",
                9,
                "one group",
            ),
            ("[[group]]\nname = \"a\"\noptions = [\"${x}\"]\n", 8, "cannot stand"),
        ] {
            let said = Config::parse(&format!("{LEAST}{more}")).unwrap_err();
            assert!(said.starts_with(&format!("line {line}: ")) && said.contains(words), "{more}: {said}");
        }
        assert!(Config::parse(LEAST).is_ok());
        assert!(Config::parse("state = [").unwrap_err().starts_with("line 1: "));
    }
}
