// SPDX-License-Identifier: Apache-2.0
//! Which disks a job means. A rule means one disk: what is ambiguous, and what means none, is refused with a list of the disks.

use unmoor_images::manifest::DiskFacts;
use unmoor_images::{Error, ErrorKind, Result};

use crate::api::DiskRule;

/// A rule, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Rule {
    Serial(String),
    Wwn(String),
    Name(String),
    AtLeast(u64),
    AtMost(u64),
    Only,
}

impl Rule {
    fn parse(rule: &DiskRule) -> Result<Self> {
        let text = rule.0.trim();
        let usage = |because: &'static str| {
            Error::new(ErrorKind::Usage, format!("reading the disk rule {text:.100?}")).because(because)
        };
        const FORMS: &str = "write serial=S, wwn=W, name=sda, size>=100G, size<=2T, or only";
        let size = |text: &str| parse_size(text).ok_or_else(|| usage("a size is 4096, 64K, 10G, 2TiB"));
        if text == "only" {
            return Ok(Self::Only);
        }
        if let Some(least) = text.strip_prefix("size>=") {
            return size(least).map(Self::AtLeast);
        }
        if let Some(most) = text.strip_prefix("size<=") {
            return size(most).map(Self::AtMost);
        }
        match text.split_once('=') {
            Some((_, "")) | None => Err(usage(FORMS)),
            Some(("serial", serial)) => Ok(Self::Serial(serial.to_owned())),
            Some(("wwn", wwn)) => Ok(Self::Wwn(wwn.to_owned())),
            Some(("name", name)) => Ok(Self::Name(name.strip_prefix("/dev/").unwrap_or(name).to_owned())),
            Some(_) => Err(usage(FORMS)),
        }
    }

    fn fits(&self, disk: &DiskFacts) -> bool {
        let same = |known: &Option<String>, wanted: &str| {
            known.as_deref().is_some_and(|known| known.trim().eq_ignore_ascii_case(wanted.trim()))
        };
        match self {
            Self::Serial(serial) => same(&disk.serial, serial),
            Self::Wwn(wwn) => same(&disk.wwn, wwn),
            Self::Name(name) => disk.name == *name,
            Self::AtLeast(size) => disk.size_bytes >= *size,
            Self::AtMost(size) => disk.size_bytes <= *size,
            Self::Only => true,
        }
    }

    /// Whether it says which disk, rather than what kind of disk.
    fn names(&self) -> bool {
        matches!(self, Self::Serial(_) | Self::Wwn(_) | Self::Name(_))
    }
}

/// Bytes of `4096`, `64K`, `10G`, `2TiB`; units are binary, as everywhere.
fn parse_size(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(digits)?;
    let shift = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kib" => 10,
        "m" | "mib" => 20,
        "g" | "gib" => 30,
        "t" | "tib" => 40,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// The disks that `rules` mean, one a rule, in their order. A removable disk, or one on USB, is taken where a rule names it and
/// `removable` allows that.
///
/// # Errors
///
/// `Refused` where a rule fits no disk, or several, or one that another rule has taken; `Usage` for a rule that is none.
pub fn choose<'a>(rules: &[DiskRule], disks: &'a [DiskFacts], removable: bool) -> Result<Vec<&'a DiskFacts>> {
    let mut chosen: Vec<&DiskFacts> = Vec::new();
    for text in rules {
        let rule = Rule::parse(text)?;
        let fitting: Vec<&DiskFacts> = disks
            .iter()
            .filter(|disk| disk.size_bytes > 0 && rule.fits(disk))
            .filter(|disk| !disk.removable || (removable && rule.names()))
            .collect();
        let refuse = |because: &str| {
            let because = format!("{because}; the machine has {}", list(disks));
            Err(Error::refused(format!("choosing a disk by {:.100?}", text.0), because))
        };
        match fitting.as_slice() {
            [disk] if chosen.iter().any(|known| known.name == disk.name) => {
                return refuse("another rule means the same disk");
            }
            [disk] => chosen.push(disk),
            [] => return refuse("no disk fits that may be taken"),
            several => return refuse(&format!("{} disks fit", several.len())),
        }
    }
    Ok(chosen)
}

/// All disks that are built in and have a size.
///
/// # Errors
///
/// `Refused` where there are none.
pub fn fixed(disks: &[DiskFacts]) -> Result<Vec<&DiskFacts>> {
    let found: Vec<&DiskFacts> = disks.iter().filter(|disk| !disk.removable && disk.size_bytes > 0).collect();
    if found.is_empty() {
        return Err(Error::refused(
            "choosing disks",
            format!("no fixed disk is there; the machine has {}", list(disks)),
        ));
    }
    Ok(found)
}

/// The disks in words.
fn list(disks: &[DiskFacts]) -> String {
    if disks.is_empty() {
        return "no disk at all".to_owned();
    }
    let words = disks.iter().map(|disk| {
        let mut words = format!("{} ({} MiB", disk.name, disk.size_bytes >> 20);
        for part in [&disk.model, &disk.serial].into_iter().flatten() {
            words.push_str(", ");
            words.push_str(part);
        }
        if disk.removable {
            words.push_str(", removable");
        }
        words + ")"
    });
    words.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn disk(name: &str, gib: u64, serial: &str, removable: bool) -> DiskFacts {
        DiskFacts {
            name: name.to_owned(),
            size_bytes: gib << 30,
            serial: Some(serial.to_owned()),
            wwn: Some(format!("naa.{serial}")),
            removable,
            ..DiskFacts::default()
        }
    }

    fn names(
        rules: &[&str],
        disks: &[DiskFacts],
        removable: bool,
    ) -> std::result::Result<Vec<String>, ErrorKind> {
        let rules: Vec<DiskRule> = rules.iter().map(|rule| DiskRule((*rule).to_owned())).collect();
        let chosen = choose(&rules, disks, removable).map_err(|error| error.kind())?;
        Ok(chosen.into_iter().map(|disk| disk.name.clone()).collect())
    }

    #[test]
    fn a_rule_means_one_disk_or_is_refused() {
        let disks =
            [disk("sda", 100, "A1", false), disk("sdb", 500, "B2", false), disk("sdc", 32, "STICK", true)];
        assert_eq!(names(&["serial=b2"], &disks, false).unwrap(), ["sdb"]);
        assert_eq!(names(&["wwn=naa.A1", "name=/dev/sdb"], &disks, false).unwrap(), ["sda", "sdb"]);
        assert_eq!(names(&["size>=200G"], &disks, false).unwrap(), ["sdb"]);
        assert_eq!(names(&["size<=200G"], &disks, false).unwrap(), ["sda"]);
        for refused in
            [&["only"][..], &["size>=1G"], &["size>=1T"], &["name=sdz"], &["name=sda", "serial=A1"]]
        {
            assert_eq!(names(refused, &disks, false), Err(ErrorKind::Refused), "{refused:?}");
        }
        for usage in ["", "only ever", "serial=", "size>=big", "model=x", "size>=99999999999T"] {
            assert_eq!(names(&[usage], &disks, false), Err(ErrorKind::Usage), "{usage:?}");
        }
        assert_eq!(names(&["only"], &disks[..1], false).unwrap(), ["sda"]);
    }

    #[test]
    fn a_removable_disk_is_taken_by_name_only_and_where_that_is_allowed() {
        let disks =
            [disk("sda", 100, "A1", false), disk("sdc", 32, "STICK", true), disk("sdd", 0, "EMPTY", false)];
        assert_eq!(names(&["only"], &disks, true).unwrap(), ["sda"]);
        assert_eq!(names(&["serial=STICK"], &disks, false), Err(ErrorKind::Refused));
        assert_eq!(names(&["serial=STICK"], &disks, true).unwrap(), ["sdc"]);
        assert_eq!(names(&["size<=50G"], &disks, true), Err(ErrorKind::Refused));
        assert_eq!(names(&["name=sdd"], &disks, true), Err(ErrorKind::Refused));
        assert_eq!(fixed(&disks).unwrap().len(), 1);
        assert_eq!(fixed(&disks[1..]).unwrap_err().kind(), ErrorKind::Refused);
        let error = choose(&[DiskRule("name=sdz".into())], &disks, false).unwrap_err().chain();
        assert!(error.contains("sda (102400 MiB, A1)") && error.contains("STICK, removable"), "{error}");
    }
}
