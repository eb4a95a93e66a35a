// SPDX-License-Identifier: Apache-2.0
//! What to follow: the configuration file.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer};
use unmoor_capture::live::{Method, Options};
use unmoor_images::store::Policy;
use unmoor_images::{Error, ErrorKind, Result};

use super::control;
use crate::output::size::parse_size;

/// A file that shows all of it, and parses.
pub(crate) const EXAMPLE: &str = include_str!("example.toml");

/// The file.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Config {
    pub(crate) sources: Vec<PathBuf>,
    pub(crate) target: String,
    pub(crate) every: Every,
    pub(crate) password_file: Option<PathBuf>,
    pub(crate) store_key: Option<PathBuf>,
    pub(crate) max_freeze_milliseconds: u64,
    pub(crate) max_freeze_hard_seconds: u64,
    pub(crate) hooks: PathBuf,
    pub(crate) limit: Option<Bytes>,
    pub(crate) idle: bool,
    pub(crate) metrics: Option<PathBuf>,
    pub(crate) control: PathBuf,
    pub(crate) keep: Keep,
}

impl Default for Config {
    fn default() -> Self {
        let usual = Options::default();
        Self {
            sources: Vec::new(),
            target: String::new(),
            every: Every(Duration::from_secs(60)),
            password_file: None,
            store_key: None,
            max_freeze_milliseconds: usual.max_freeze.as_millis() as u64,
            max_freeze_hard_seconds: usual.max_freeze_hard.as_secs(),
            hooks: usual.hooks.unwrap_or_default(),
            limit: None,
            idle: false,
            metrics: None,
            control: control::SOCKET.into(),
            keep: Keep::default(),
        }
    }
}

impl Config {
    /// Reads and checks it.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|error| Error::io("reading", error).path(path))?;
        Self::parse(&text).map_err(|because| {
            Error::new(ErrorKind::Usage, "reading the configuration").path(path).because(because)
        })
    }

    fn parse(text: &str) -> std::result::Result<Self, String> {
        let config: Self = toml::from_str(text).map_err(|error| error.to_string().trim_end().to_owned())?;
        let wrong = |because: &str| Err(because.to_owned());
        if config.sources.is_empty() || config.target.is_empty() {
            return wrong("`sources` and `target` are needed");
        }
        if !(10..=600_000).contains(&config.max_freeze_milliseconds) {
            return wrong("`max_freeze_milliseconds` is 10 to 600000");
        }
        if !(1..=3600).contains(&config.max_freeze_hard_seconds) {
            return wrong("`max_freeze_hard_seconds` is 1 to 3600");
        }
        Ok(config)
    }

    /// How to freeze.
    pub(crate) fn freeze(&self) -> Options {
        let hard = Duration::from_secs(self.max_freeze_hard_seconds);
        Options {
            method: Method::Best,
            max_freeze: Duration::from_millis(self.max_freeze_milliseconds).min(hard),
            max_freeze_hard: hard,
            hooks: (!self.hooks.as_os_str().is_empty()).then(|| self.hooks.clone()),
            ..Options::default()
        }
    }
}

/// A span of time: `90s`, `5m`, `1h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Every(pub(crate) Duration);

impl FromStr for Every {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let wrong = || format!("{text:?} is no span of time from a second to a week: write 60s, 5m or 1h");
        let (number, unit) = text.split_at(text.len().saturating_sub(1));
        let seconds = match unit {
            "s" => 1u64,
            "m" => 60,
            "h" => 3600,
            "d" => 86_400,
            _ => return Err(wrong()),
        };
        let seconds =
            number.parse::<u64>().ok().and_then(|number| number.checked_mul(seconds)).ok_or_else(wrong)?;
        if !(1..=7 * 86_400).contains(&seconds) {
            return Err(wrong());
        }
        Ok(Self(Duration::from_secs(seconds)))
    }
}

impl fmt::Display for Every {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} s", self.0.as_secs())
    }
}

impl<'de> Deserialize<'de> for Every {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A number of bytes: `50M`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bytes(pub(crate) u64);

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        parse_size(&String::deserialize(deserializer)?).map(Self).map_err(serde::de::Error::custom)
    }
}

/// Which images stay.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Keep {
    last: u32,
    daily: u32,
    weekly: u32,
    monthly: u32,
    yearly: u32,
}

impl From<Policy> for Keep {
    fn from(policy: Policy) -> Self {
        let Policy { last, daily, weekly, monthly, yearly } = policy;
        Self { last, daily, weekly, monthly, yearly }
    }
}

impl Keep {
    /// True if there is a rule.
    pub(crate) fn any(&self) -> bool {
        !self.policy().keeps_all()
    }

    pub(crate) fn policy(&self) -> Policy {
        let Self { last, daily, weekly, monthly, yearly } = *self;
        // What is built upon stays.
        let last = if last + daily + weekly + monthly + yearly > 0 { last.max(1) } else { 0 };
        Policy { last, daily, weekly, monthly, yearly }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_parses_as_it_is_and_with_everything_switched_on() {
        let config = Config::parse(EXAMPLE).unwrap();
        assert_eq!((config.every.0.as_secs(), config.keep.any()), (60, false));
        assert_eq!(config.freeze().max_freeze.as_millis(), 800);
        let all: String = EXAMPLE
            .lines()
            .map(|line| match line.strip_prefix("# ") {
                Some(setting) if setting.contains(" = ") || setting == "[keep]" => format!("{setting}\n"),
                _ => format!("{line}\n"),
            })
            .collect();
        let config = Config::parse(&all).unwrap();
        assert_eq!((config.limit, config.keep.policy().weekly), (Some(Bytes(50 << 20)), 5));
    }

    #[test]
    fn mistakes_are_named() {
        let minimal = "sources = [\"/dev/sda\"]\ntarget = \"dir:/a/b\"\n";
        Config::parse(minimal).unwrap();
        for (line, word) in [
            ("every = \"0s\"", "span of time"),
            ("every = \"10\"", "span of time"),
            ("evry = \"10s\"", "evry"),
            ("max_freeze_milliseconds = 1", "max_freeze_milliseconds"),
            ("limit = \"fast\"", "fast"),
        ] {
            let error = Config::parse(&format!("{minimal}{line}\n")).unwrap_err();
            assert!(error.contains(word), "{error}");
        }
        assert!(Config::parse("target = \"dir:/a/b\"").unwrap_err().contains("sources"));
        assert_eq!(Keep::from(Policy { daily: 3, ..Policy::default() }).policy().last, 1);
    }
}
