// SPDX-License-Identifier: Apache-2.0
//! What machines load: boot loaders, their menus, the rescue environment.
//!
//! ```text
//!   firmware               first, by TFTP                     then, by HTTP
//!   BIOS                   undionly.kpxe (iPXE)               /boot/ipxe -> vmlinuz, initramfs; or the disk
//!   UEFI PXE               shimx64.efi, grubx64.efi,          - (all of it by TFTP: GRUB asks where it came from)
//!                            grub/grub.cfg, boot/grub?mac=...
//!                          or snponly.efi (iPXE)              /boot/ipxe
//!   UEFI HTTP              -                                  /boot/shimx64.efi ..., the same
//!   iPXE already           -                                  /boot/ipxe
//! ```
//!
//! [`Starter`] answers DHCP and TFTP and writes the menus, [`http::Server`] is plain HTTP. What a machine is to start, [`Choices`] says.

mod choice;
pub mod http;
mod question;
mod script;
mod shelf;
mod starter;
#[cfg(test)]
mod tests;

pub use choice::{Asker, Choice, Choices};
pub use script::check_option;
pub use shelf::{Shelf, UefiLoader, names};
pub use starter::{Settings, Starter};
