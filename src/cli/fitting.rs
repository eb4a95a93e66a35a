// SPDX-License-Identifier: Apache-2.0
//! What decides how a guest is fitted; `convert` and `restore` take the same.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use unmoor_convert::profiles;
use unmoor_convert::request::{Hardware, Identity, Request, SecureBoot, SignKey, TargetNic};
use unmoor_images::manifest::Firmware;
use unmoor_images::{Error, ErrorKind, Result, ResultExt};

use super::convert::KeyOptions;

/// How the guest is fitted.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Fitting options")]
pub(crate) struct FitOptions {
    /// The hardware to fit: kvm, vmware, hyperv, xen, physical, or a file that unmoor inspect --machine --json made
    #[arg(long, value_name = "PROFILE")]
    pub(crate) profile: Option<String>,
    /// How the new machine starts
    #[arg(long, value_enum, value_name = "FIRMWARE", default_value = "keep", requires = "profile")]
    firmware: FirmwareChoice,
    /// Which interface becomes which adapter, by its number from 0 or its hardware address; in order otherwise
    #[arg(long = "nic", value_name = "OLD=NEW", value_parser = parse_nic, requires = "profile")]
    nics: Vec<(String, String)>,
    /// Whether the machine moves, or a second one arises, with identifiers and keys of its own
    #[arg(long, value_enum, value_name = "WHAT", default_value = "move", requires = "profile")]
    identity: IdentityChoice,
    /// What to do with signed boot files; off replaces them where it must
    #[arg(long, value_enum, value_name = "WHAT", default_value = "keep", requires = "profile")]
    secure_boot: SecureBootChoice,
    /// A private key (PEM) to sign unified kernel images that are made anew
    #[arg(long, value_name = "FILE", requires_all = ["sign_cert", "profile"])]
    sign_key: Option<PathBuf>,
    /// Its certificate (PEM)
    #[arg(long, value_name = "FILE", requires = "sign_key")]
    sign_cert: Option<PathBuf>,
    #[command(flatten)]
    keys: KeyOptions,
}

/// `--firmware`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum FirmwareChoice {
    /// As the old one does
    Keep,
    /// By UEFI
    Uefi,
    /// By BIOS
    Bios,
}

/// `--identity`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum IdentityChoice {
    /// It stays who it is
    Move,
    /// It becomes another machine
    Clone,
}

/// `--secure-boot`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum SecureBootChoice {
    /// What is signed stays as it is
    Keep,
    /// The new machine checks no signatures
    Off,
}

impl FitOptions {
    /// Secrets for encrypted disks.
    pub(crate) fn keys(&self) -> Result<Vec<Vec<u8>>> {
        self.keys.read()
    }

    /// What is asked of the planning.
    pub(crate) fn request(&self, payload: BTreeMap<String, Vec<u8>>) -> Result<Request> {
        let name = self.profile.as_deref().ok_or_else(|| {
            Error::new(ErrorKind::Usage, "choosing a profile")
                .because("give --profile kvm, vmware, hyperv, xen, physical, or a machine's inventory")
        })?;
        let mut hardware = profiles::profile(name).doing(|| format!("reading the profile {name}"))?;
        let mut seed = [0; 32];
        std::fs::File::open("/dev/urandom")
            .and_then(|mut file| file.read_exact(&mut seed))
            .doing(|| "reading /dev/urandom")?;
        Ok(Request {
            nics: self.nics(&mut hardware)?,
            hardware,
            firmware: match self.firmware {
                FirmwareChoice::Keep => None,
                FirmwareChoice::Uefi => Some(Firmware::Uefi),
                FirmwareChoice::Bios => Some(Firmware::Bios),
            },
            identity: match self.identity {
                IdentityChoice::Move => Identity::Move,
                IdentityChoice::Clone => Identity::Clone,
            },
            secure_boot: match self.secure_boot {
                SecureBootChoice::Keep => SecureBoot::Keep,
                SecureBootChoice::Off => SecureBoot::Off,
            },
            sign_key: self.sign_key()?,
            payload,
            seed,
            now: jiff::Timestamp::now().as_second(),
        })
    }

    /// An address that the profile does not know belongs to the first adapter of which it tells none.
    fn nics(&self, hardware: &mut Hardware) -> Result<BTreeMap<String, usize>> {
        let mut chosen = BTreeMap::new();
        let is_open = hardware.nics.is_empty();
        for (old, new) in &self.nics {
            let number = match new.parse() {
                Ok(number) => number,
                Err(_) => addressed(hardware, new, is_open).ok_or_else(|| {
                    Error::new(ErrorKind::Usage, "choosing adapters").because(format!(
                        "{new} is neither a number nor the hardware address of an adapter of the profile"
                    ))
                })?,
            };
            if chosen.values().any(|known| *known == number) || chosen.insert(old.clone(), number).is_some() {
                return Err(Error::new(ErrorKind::Usage, "choosing adapters")
                    .because(format!("--nic {old}={new} repeats an interface or an adapter")));
            }
        }
        Ok(chosen)
    }

    fn sign_key(&self) -> Result<Option<SignKey>> {
        let (Some(key), Some(certificate)) = (&self.sign_key, &self.sign_cert) else { return Ok(None) };
        let read = |path: &PathBuf| {
            std::fs::read_to_string(path).map_err(|error| Error::io("reading", error).path(path))
        };
        Ok(Some(SignKey { key: read(key)?, certificate: read(certificate)? }))
    }
}

/// The number of the adapter with this address. Profiles that stand for many machines tell no addresses, and some, which are
/// `open`, tell no adapters either.
fn addressed(hardware: &mut Hardware, address: &str, open: bool) -> Option<usize> {
    let is_it = |nic: &TargetNic| nic.mac.as_deref().is_some_and(|mac| mac.eq_ignore_ascii_case(address));
    if let Some(number) = hardware.nics.iter().position(is_it) {
        return Some(number);
    }
    let mac = is_address(address).then(|| address.to_ascii_lowercase())?;
    match hardware.nics.iter_mut().enumerate().find(|(_, nic)| nic.mac.is_none()) {
        Some((number, nic)) => {
            nic.mac = Some(mac);
            Some(number)
        }
        None if open => {
            hardware.nics.push(TargetNic { mac: Some(mac), modalias: None, model: None });
            Some(hardware.nics.len() - 1)
        }
        None => None,
    }
}

/// "52:54:00:12:34:56"
fn is_address(text: &str) -> bool {
    let bytes: Vec<&str> = text.split(':').collect();
    bytes.len() == 6
        && bytes.iter().all(|byte| byte.len() == 2 && byte.bytes().all(|digit| digit.is_ascii_hexdigit()))
}

fn parse_nic(text: &str) -> std::result::Result<(String, String), String> {
    match text.split_once('=') {
        Some((old, new)) if !old.is_empty() && !new.is_empty() => Ok((old.to_owned(), new.to_owned())),
        _ => Err("write OLD=NEW, such as ens3=0 or ens3=52:54:00:12:34:56".to_owned()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::addressed;
    use unmoor_convert::profiles;

    #[test]
    fn an_address_that_the_profile_does_not_tell_is_that_of_an_adapter_without_one() {
        let (one, two) = ("52:54:00:0D:0D:02", "52:54:00:0d:0d:03");
        let mut emulated = profiles::profile("qemu:nvme+e1000e").unwrap();
        assert_eq!(addressed(&mut emulated, one, false), Some(0));
        assert_eq!(emulated.nics[0].mac.as_deref(), Some("52:54:00:0d:0d:02"));
        assert_eq!(addressed(&mut emulated, one, false), Some(0));
        assert_eq!(addressed(&mut emulated, two, false), None);
        let mut kvm = profiles::profile("kvm").unwrap();
        assert_eq!(addressed(&mut kvm, one, true), Some(0));
        assert_eq!(addressed(&mut kvm, two, true), Some(1));
        assert_eq!(kvm.nics.len(), 2);
        for wrong in ["enp0s3", "52:54:00:0d:0d", "52:54:00:0d:0d:0g", "+2:54:00:0d:0d:02"] {
            assert_eq!(addressed(&mut kvm, wrong, true), None, "{wrong}");
        }
    }
}
