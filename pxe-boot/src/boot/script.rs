// SPDX-License-Identifier: Apache-2.0
//! Menus, as iPXE and GRUB read them.
//!
//! Both languages split lines into words and replace `$`. Nothing that a client said is written into a script, and what an administrator
//! said only where [`check_option`] takes it.

use std::net::Ipv4Addr;

use unmoor_images::{Error, ErrorKind, Result};

use super::choice::Choice;
use super::shelf::names;
use super::starter::Settings;

/// Longest word of a kernel's command line here, in bytes.
const LONGEST: usize = 512;
/// The kernel takes no longer line (COMMAND_LINE_SIZE on x86), in bytes.
const LONGEST_LINE: usize = 2047;
/// Both consoles; the serial one is /dev/console.
const CONSOLES: [&str; 2] = ["console=tty0", "console=ttyS0,115200"];
/// Drives that BIOS numbers, in the order in which they are tried.
const DRIVES: [&str; 4] = ["0x80", "0x81", "0x82", "0x83"];

/// Whether a word may stand on a kernel's command line in both kinds of scripts.
///
/// # Errors
///
/// `Usage` where it has a character that means something to one of them.
pub fn check_option(word: &str) -> Result<()> {
    let plain = |char: char| char.is_ascii_alphanumeric() || "-_.,:/=@+%".contains(char);
    if word.is_empty() || word.len() > LONGEST || !word.chars().all(plain) {
        return Err(Error::new(ErrorKind::Usage, "writing a kernel's command line").because(format!(
            "{word:.100?} cannot stand in a boot loader's script: letters, digits and -_.,:/=@+% can"
        )));
    }
    Ok(())
}

/// "10.0.0.5", or with the port where that is not HTTP's own.
pub(super) fn host(address: Ipv4Addr, port: u16) -> String {
    if port == 80 { address.to_string() } else { format!("{address}:{port}") }
}

/// The words of the rescue environment's kernel.
fn command_line(settings: &Settings, options: &[String]) -> Result<String> {
    let host = host(settings.address, settings.http_port);
    let mut words =
        vec![format!("unmoor.server={}", settings.server), format!("unmoor.pin={}", settings.pin)];
    if settings.http_port != 80 {
        words.push(format!("unmoor.ca-url=http://{host}/ca.pem"));
    }
    words.extend(CONSOLES.map(str::to_owned));
    words.extend(settings.options.iter().chain(options).cloned());
    for word in &words {
        check_option(word)?;
    }
    let line = words.join(" ");
    if line.len() > LONGEST_LINE {
        return Err(Error::new(ErrorKind::Usage, "writing a kernel's command line")
            .because(format!("it has {} bytes, and the kernel takes {LONGEST_LINE}", line.len())));
    }
    Ok(line)
}

/// What iPXE does for `choice`. `bios` where it runs over a BIOS.
pub(super) fn ipxe(settings: &Settings, choice: &Choice, bios: bool) -> Result<String> {
    Ok(match choice {
        Choice::Rescue { options } => {
            let line = command_line(settings, options)?;
            let host = host(settings.address, settings.http_port);
            let (kernel, initramfs) = (names::KERNEL, names::INITRAMFS);
            // The kernel's EFI stub asks for the initramfs by the name in initrd=.
            format!(
                "#!ipxe\n\
                 :again\n\
                 echo unmoor: loading the rescue environment from {host}\n\
                 kernel http://{host}/boot/{kernel} initrd={initramfs} {line} || goto failed\n\
                 initrd --name {initramfs} http://{host}/boot/{initramfs} || goto failed\n\
                 boot || goto failed\n\
                 :failed\n\
                 echo unmoor: it cannot be loaded; trying again in 10 seconds\n\
                 imgfree\n\
                 sleep 10\n\
                 goto again\n"
            )
        }
        Choice::Disk if bios => {
            let mut script = "#!ipxe\necho unmoor: starting from the disk\n".to_owned();
            for drive in DRIVES {
                script.push_str(&format!("sanboot --no-describe --drive {drive} ||\n"));
            }
            script.push_str("exit\n");
            script
        }
        Choice::Disk => "#!ipxe\necho unmoor: starting from the disk\nexit\n".to_owned(),
        Choice::Ignore => "#!ipxe\nexit\n".to_owned(),
    })
}

/// What GRUB does for `choice`. Files come from where GRUB came from: Debian 12's signed image has no HTTP. UEFI goes on with its next boot entry when a loader ends.
pub(super) fn grub(settings: &Settings, choice: &Choice) -> Result<String> {
    Ok(match choice {
        Choice::Rescue { options } => {
            let line = command_line(settings, options)?;
            let host = host(settings.address, settings.http_port);
            let (kernel, initramfs) = (names::KERNEL, names::INITRAMFS);
            format!(
                "echo 'unmoor: loading the rescue environment from {host}'\n\
                 if linux /boot/{kernel} {line}; then\n\
                 if initrd /boot/{initramfs}; then\n\
                 boot\n\
                 fi\n\
                 fi\n\
                 echo 'unmoor: it cannot be loaded; starting again in 10 seconds'\n\
                 sleep 10\n\
                 reboot\n"
            )
        }
        Choice::Disk => "echo 'unmoor: starting from the disk'\nexit\n".to_owned(),
        Choice::Ignore => "exit\n".to_owned(),
    })
}

/// GRUB's first configuration, the same for all: it asks for the machine's own, saying who it is.
///
/// GRUB writes what follows the host into its request as it stands, so that a serial number is told only where it needs no escapes.
pub(super) fn grub_first(settings: &Settings) -> String {
    let host = host(settings.address, settings.http_port);
    format!(
        "set timeout=0\n\
         set query=\"mac=${{net_default_mac}}&arch=${{grub_platform}}-${{grub_cpu}}\"\n\
         if smbios --type 1 --get-uuid 8 --set uuid; then set query=\"${{query}}&uuid=${{uuid}}\"; fi\n\
         if smbios --type 1 --get-string 7 --set serial; then\n\
         if regexp '^[A-Za-z0-9._-]+$' \"${{serial}}\"; then set query=\"${{query}}&serial=${{serial}}\"; fi\n\
         fi\n\
         configfile \"/boot/grub?${{query}}\"\n\
         echo 'unmoor: {host} has no menu for this machine'\n\
         sleep 5\n\
         exit\n"
    )
}
