// SPDX-License-Identifier: Apache-2.0
//! Stores on the command line: what opens one, and what an image in one is to commands that take files.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use nix::sys::termios::{LocalFlags, SetArg, tcgetattr, tcsetattr};
use unmoor_images::store::{Location, Secret, Store, StoredImage};
use unmoor_images::{Error, ErrorKind, Monitor, Result};
use zeroize::Zeroizing;

/// The variable that holds a passphrase.
const VARIABLE: &str = "UNMOOR_PASSWORD";
/// Longest passphrase in bytes.
const LONGEST: usize = 4096;

/// What opens an encrypted store.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Store options")]
pub(crate) struct StoreOptions {
    /// Read the passphrase of an encrypted store from the first line of this file; otherwise from UNMOOR_PASSWORD, or
    /// a terminal
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// The key file of an encrypted store
    #[arg(long, value_name = "FILE", conflicts_with = "password_file")]
    store_key: Option<PathBuf>,
}

impl StoreOptions {
    /// Opens a store, and asks for its passphrase if it needs one and there is somebody to ask.
    pub(crate) fn open(&self, location: &Location) -> Result<Store> {
        self.open_plainly(location).map_err(|error| {
            let within = Location::parse_image(&location.to_string()).ok();
            match within.filter(|(above, _)| is_none(&error) && is_store(above)) {
                Some((above, name)) => Error::new(ErrorKind::Usage, format!("opening the store {location}"))
                    .because(format!(
                        "{name} is a machine in the store {above}, if anything: give the store"
                    )),
                None => error,
            }
        })
    }

    /// Opens the store in which `machine` is named.
    pub(crate) fn open_for(&self, location: &Location, machine: &str) -> Result<Store> {
        self.open_plainly(location).map_err(|error| {
            let whole = format!("{location}/{machine}");
            if is_none(&error) && Location::parse(&whole).is_ok_and(|whole| is_store(&whole)) {
                let because = format!("it is a store: add the name of a machine in it, {whole}/NAME");
                return Error::new(ErrorKind::Usage, format!("opening {whole}")).because(because);
            }
            error
        })
    }

    fn open_plainly(&self, location: &Location) -> Result<Store> {
        let given = self.given()?;
        let secret = match given {
            None if Store::needs_secret(location)? => ask("Passphrase of the store: ")?,
            given => given,
        };
        Store::open(location, secret.as_ref())
    }

    /// Opens the image that `path` names in a store.
    pub(crate) fn open_image(&self, path: &Path, monitor: &dyn Monitor) -> Result<StoredImage> {
        let (location, name) = Location::parse_image(&path.to_string_lossy())?;
        let image = self.open_for(&location, &name.machine)?.open_image(&name)?;
        for warning in &image.warnings {
            monitor.warn(format!("{location}: {warning}"));
        }
        Ok(image)
    }

    /// From files alone.
    pub(crate) fn of(password_file: Option<PathBuf>, store_key: Option<PathBuf>) -> Self {
        Self { password_file, store_key }
    }

    /// The secret of the options.
    pub(crate) fn in_files(&self) -> Result<Option<Secret>> {
        if let Some(path) = &self.store_key {
            return Secret::key_file(path).map(Some);
        }
        let Some(path) = &self.password_file else { return Ok(None) };
        let text = std::fs::read(path).map_err(|error| Error::io("reading", error).path(path))?;
        first_line(Zeroizing::new(text)).map(Some)
    }

    /// The secret of the options or the environment.
    pub(crate) fn given(&self) -> Result<Option<Secret>> {
        if let Some(secret) = self.in_files()? {
            return Ok(Some(secret));
        }
        match std::env::var_os(VARIABLE) {
            Some(text) if !text.is_empty() => first_line(Zeroizing::new(text.into_encoded_bytes())).map(Some),
            _ => Ok(None),
        }
    }
}

/// True for the answer that there is no store.
fn is_none(error: &Error) -> bool {
    error.kind() == ErrorKind::Refused
}

fn is_store(location: &Location) -> bool {
    Store::is_at(location).unwrap_or(false)
}

fn first_line(mut text: Zeroizing<Vec<u8>>) -> Result<Secret> {
    if let Some(end) = text.iter().position(|byte| matches!(byte, b'\n' | b'\r')) {
        text.truncate(end);
    }
    if text.is_empty() || text.len() > LONGEST {
        return Err(Error::new(ErrorKind::Usage, "reading the passphrase")
            .because("it is empty, or longer than 4096 bytes"));
    }
    Ok(Secret::Passphrase(text))
}

/// Asks without showing what is typed; none where nobody can be asked.
pub(crate) fn ask(question: &str) -> Result<Option<Secret>> {
    let (input, error) = (std::io::stdin(), std::io::stderr());
    if !input.is_terminal() || !error.is_terminal() {
        return Ok(None);
    }
    let failed = |error: nix::errno::Errno| Error::io("asking for the passphrase", error.into());
    let before = tcgetattr(&input).map_err(failed)?;
    let mut silent = before.clone();
    silent.local_flags.remove(LocalFlags::ECHO);
    silent.local_flags.insert(LocalFlags::ECHONL);
    tcsetattr(&input, SetArg::TCSAFLUSH, &silent).map_err(failed)?;
    let asked = write!(&error, "{question}").and_then(|()| (&error).flush());
    let mut line = Zeroizing::new(String::new());
    let read = asked.and_then(|()| input.read_line(&mut line));
    tcsetattr(&input, SetArg::TCSAFLUSH, &before).map_err(failed)?;
    read.map_err(|error| Error::io("asking for the passphrase", error))?;
    first_line(Zeroizing::new(line.as_bytes().to_vec())).map(Some)
}
