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
        // A profile that is no machine's inventory knows no addresses: those that are given are its adapters'.
        if hardware.nics.is_empty() {
            let given = self.nics.iter().filter(|(_, new)| is_mac(new));
            hardware.nics = given
                .map(|(_, new)| TargetNic {
                    mac: Some(new.to_ascii_lowercase()),
                    modalias: None,
                    model: None,
                })
                .collect();
        }
        let mut seed = [0; 32];
        std::fs::File::open("/dev/urandom")
            .and_then(|mut file| file.read_exact(&mut seed))
            .doing(|| "reading /dev/urandom")?;
        Ok(Request {
            nics: self.nics(&hardware)?,
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

    fn nics(&self, hardware: &Hardware) -> Result<BTreeMap<String, usize>> {
        let mut chosen = BTreeMap::new();
        for (old, new) in &self.nics {
            let by_mac = hardware
                .nics
                .iter()
                .position(|nic| nic.mac.as_deref().is_some_and(|mac| mac.eq_ignore_ascii_case(new)));
            let number = by_mac.or_else(|| new.parse().ok()).ok_or_else(|| {
                Error::new(ErrorKind::Usage, "choosing adapters").because(format!(
                    "{new} is neither a number nor the hardware address of an adapter of the profile"
                ))
            })?;
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

/// "52:54:00:12:34:56"
fn is_mac(text: &str) -> bool {
    let parts: Vec<&str> = text.split(':').collect();
    parts.len() == 6 && parts.iter().all(|part| part.len() == 2 && u8::from_str_radix(part, 16).is_ok())
}

fn parse_nic(text: &str) -> std::result::Result<(String, String), String> {
    match text.split_once('=') {
        Some((old, new)) if !old.is_empty() && !new.is_empty() => Ok((old.to_owned(), new.to_owned())),
        _ => Err("write OLD=NEW, such as ens3=0 or ens3=52:54:00:12:34:56".to_owned()),
    }
}
