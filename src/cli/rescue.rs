// SPDX-License-Identifier: Apache-2.0
//! `unmoor rescue`: builds the environment in which this program is PID 1; and being that.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};
use unmoor_images::{Error, ErrorKind, Result};
use unmoor_initramfs::init::{self, Handler};
use unmoor_initramfs::rescue::{self, Build, Built, KernelSource, Profile, iso, payload};
use unmoor_pxe_boot::boot::check_option;
use unmoor_pxe_boot::client::Pin;

use crate::output::size::show_size;
use crate::output::{Outcome, Terminal};

const EXAMPLES: &str = "\
Examples:
  unmoor rescue build --out rescue
      From the running kernel

  apt-get download linux-image-6.1.0-32-amd64 shim-signed grub-efi-amd64-signed
  unmoor rescue build --out rescue --kernel linux-image-*.deb --payload .
      From Debian packages, with boot loaders for guests that change their firmware

  apt-get download isolinux syslinux-common shim-signed shim-helpers-amd64-signed grub-efi-amd64-signed
  unmoor rescue iso --out rescue.iso --kernel linux-image-*.deb --payload .
      A CD image for BIOS and UEFI, which also starts from a USB disk

  unmoor rescue iso --out rescue.iso --server https://10.0.0.5 --pin 3f0c… \
      --kernel linux-image-*.deb --payload .
      One that does what this server says";

/// Build the rescue environment: kernel and initramfs, with this program as the only one in it
///
/// It boots from the network, or from CD or USB, and in QEMU it is the appliance in which `unmoor convert` mounts guests.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Build(BuildArguments),
    Iso(IsoArguments),
}

/// Write vmlinuz and initramfs
///
/// Of several kernels the newest is taken. What was built from the same inputs before comes from the cache.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
struct BuildArguments {
    /// Directory for vmlinuz, initramfs and rescue.json
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    #[command(flatten)]
    from: From,
}

/// Write a bootable CD image
///
/// It starts under BIOS and UEFI, with Secure Boot too where the kernel is a distribution's, and from a USB disk to which it is
/// written as it is. The boot loaders come from the payload.
#[derive(Debug, Args)]
struct IsoArguments {
    /// The image
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// The kernel's command line
    #[arg(long, value_name = "TEXT", default_value = iso::COMMAND_LINE)]
    append: String,
    /// The server whose jobs the machine does: https://10.0.0.5
    #[arg(long, value_name = "URL", requires = "pin")]
    server: Option<String>,
    /// SHA-256 of the server's CA, as `unmoor serve` shows it
    #[arg(long, value_name = "HEX", requires = "server")]
    pin: Option<String>,
    #[command(flatten)]
    from: From,
}

/// What is built from.
#[derive(Debug, Args)]
struct From {
    /// `running`, a linux-image-*.deb, or a directory with boot/ and lib/modules/
    #[arg(long, value_name = "KERNEL", num_args = 1.., default_value = "running")]
    kernel: Vec<String>,
    /// A directory as /lib/firmware is; what the modules ask for is taken from it
    #[arg(long, value_name = "DIR", num_args = 1..)]
    firmware: Vec<PathBuf>,
    /// Packages, or directories, with boot loaders: shim-signed, grub-efi-amd64-signed, grub-pc-bin ...
    #[arg(long, value_name = "DEB|DIR", num_args = 1..)]
    payload: Vec<PathBuf>,
    /// Which hardware it is for
    #[arg(long, value_enum, default_value_t = ProfileName::Small)]
    profile: ProfileName,
    /// The static executable that becomes /init, instead of this one
    #[arg(long, value_name = "FILE")]
    init: Option<PathBuf>,
    /// Where builds are kept, instead of ~/.cache/unmoor/rescue
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ProfileName {
    /// Storage, networks and filesystems of servers and desktops
    Small,
    /// Rare hardware too
    Full,
    /// QEMU's, for `unmoor convert`
    Appliance,
}

impl std::convert::From<ProfileName> for Profile {
    fn from(name: ProfileName) -> Self {
        match name {
            ProfileName::Small => Self::Small,
            ProfileName::Full => Self::Full,
            ProfileName::Appliance => Self::Appliance,
        }
    }
}

/// Builds.
pub(crate) fn run(arguments: &Arguments, terminal: &Terminal) -> Result<Outcome> {
    match &arguments.command {
        Command::Build(arguments) => {
            terminal.one_document();
            let built =
                rescue::build(&arguments.from.build()?, &arguments.out, arguments.from.cache().as_deref())?;
            show(&built, terminal)?;
        }
        Command::Iso(arguments) => {
            terminal.one_document();
            // Before anything is built: what cannot become bootable is refused at once.
            let command_line = arguments.command_line()?;
            let payload = payload::collect(&arguments.from.payload)?;
            let mut folder = arguments.out.as_os_str().to_owned();
            folder.push(".files");
            let folder = PathBuf::from(folder);
            let built = rescue::build(&arguments.from.build()?, &folder, arguments.from.cache().as_deref())?;
            let written =
                iso::write(&built.kernel, &built.initramfs, &payload, &command_line, &arguments.out);
            // What the image has in it is not needed beside it.
            std::fs::remove_dir_all(&folder).map_err(|error| Error::io("removing", error).path(&folder))?;
            written?;
            show_image(&arguments.out, &built, terminal)?;
        }
    }
    Ok(Outcome::Done)
}

impl IsoArguments {
    /// The kernel's command line, with the server and its CA's pin where they are given.
    fn command_line(&self) -> Result<String> {
        let (Some(server), Some(pin)) = (&self.server, &self.pin) else { return Ok(self.append.clone()) };
        Pin::parse(pin)?;
        let host = server.strip_prefix("https://").filter(|host| !host.is_empty());
        if host.is_none() {
            return Err(Error::new(ErrorKind::Usage, "naming the server")
                .because(format!("{server:.200?} does not begin with https://")));
        }
        check_option(server)?;
        Ok(format!("{} unmoor.server={server} unmoor.pin={pin}", self.append))
    }
}

impl From {
    fn build(&self) -> Result<Build> {
        let own = || std::env::current_exe().map_err(|error| Error::io("looking for this program", error));
        Ok(Build {
            kernels: self.kernel.iter().map(|text| KernelSource::parse(text)).collect(),
            firmware: self.firmware.clone(),
            payload: self.payload.clone(),
            profile: self.profile.into(),
            init: self.init.clone().map_or_else(own, Ok)?,
        })
    }

    fn cache(&self) -> Option<PathBuf> {
        self.cache.clone().or_else(cache)
    }
}

/// Where builds are kept; nowhere without a home.
fn cache() -> Option<PathBuf> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let cache = absolute("XDG_CACHE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".cache")));
    cache.map(|cache| cache.join("unmoor/rescue"))
}

fn show(built: &Built, terminal: &Terminal) -> Result<()> {
    let facts = &built.facts;
    if terminal.json() {
        let document = json!({
            "kernel": built.kernel, "initramfs": built.initramfs, "cached": built.cached, "facts": facts,
            "warnings": terminal.warnings(),
        });
        return terminal.print(&document.to_string());
    }
    let from = if built.cached { ", built before" } else { "" };
    terminal.print(&format!(
        "{}  {}, Linux {}{from}",
        built.kernel.display(),
        show_size(facts.kernel_size),
        facts.release
    ))?;
    terminal.print(&format!(
        "{}  {}, {} modules, {} firmware files, {} boot loader files",
        built.initramfs.display(),
        show_size(facts.initramfs_size),
        facts.modules,
        facts.firmware,
        facts.payload
    ))?;
    if terminal.verbose() && !facts.left_out.is_empty() {
        terminal.print(&format!(
            "left out, since something that they need is missing: {}",
            facts.left_out.join(" ")
        ))?;
    }
    Ok(())
}

fn show_image(path: &Path, built: &Built, terminal: &Terminal) -> Result<()> {
    let size = std::fs::metadata(path).map_err(|error| Error::io("reading", error).path(path))?.len();
    if terminal.json() {
        let document =
            json!({ "image": path, "size": size, "facts": built.facts, "warnings": terminal.warnings() });
        return terminal.print(&document.to_string());
    }
    terminal.print(&format!(
        "{}  {}, Linux {}, BIOS and UEFI",
        path.display(),
        show_size(size),
        built.facts.release
    ))
}

/// Is PID 1 of the rescue environment.
pub(crate) fn be_init() -> ! {
    init::run(&mut Jobs)
}

/// What can be asked of the rescue environment.
struct Jobs;

impl Handler for Jobs {
    fn agent(&mut self, parameters: &init::Parameters) -> Option<init::Agent> {
        let options = super::agent::options(parameters)?;
        Some(Box::new(move |say| match &options {
            Ok(options) => super::agent::in_rescue(options, say),
            Err(error) => Err(Error::new(error.kind(), "reading unmoor.pin").because(error.chain())),
        }))
    }

    fn job(&mut self, job: &Value, events: &(dyn Fn(Value) + Sync)) -> Value {
        match job.get("job").and_then(Value::as_str) {
            Some("echo") => {
                events(json!({ "event": "note", "note": "echoing" }));
                json!({ "result": job.get("value") })
            }
            Some("fit") => crate::fit::job::answer(job, events),
            Some("facts") => json!({ "result": init::facts() }),
            Some("load") => {
                let names = job.get("modules").and_then(Value::as_array).into_iter().flatten();
                let names: Vec<&str> = names.filter_map(Value::as_str).collect();
                json!({ "result": { "missing": init::load_modules(&names) } })
            }
            other => init::failure(&Error::new(ErrorKind::Unsupported, "doing the job").because(format!(
                "{} is no job that it knows: build it anew with this unmoor",
                other.unwrap_or("nothing")
            ))),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        iso: IsoArguments,
    }

    fn line(more: &[&str]) -> Result<String> {
        let arguments = ["iso", "--out", "x.iso"].iter().chain(more);
        Line::try_parse_from(arguments)
            .map_err(|error| Error::new(ErrorKind::Usage, error.to_string()))?
            .iso
            .command_line()
    }

    #[test]
    fn the_server_and_its_pin_are_on_the_image_s_command_line_or_neither() {
        let pin = "ab".repeat(32);
        let expected = format!("{} unmoor.server=https://10.0.0.5:8443 unmoor.pin={pin}", iso::COMMAND_LINE);
        assert_eq!(line(&["--server", "https://10.0.0.5:8443", "--pin", &pin]).unwrap(), expected);
        assert_eq!(line(&[]).unwrap(), iso::COMMAND_LINE);
        for wrong in [
            &["--server", "https://10.0.0.5"][..],
            &["--pin", &pin],
            &["--server", "http://10.0.0.5", "--pin", &pin],
            &["--server", "https://a b", "--pin", &pin],
            &["--server", "https://10.0.0.5", "--pin", "abc"],
        ] {
            assert_eq!(line(wrong).unwrap_err().kind(), ErrorKind::Usage, "{wrong:?}");
        }
    }
}
