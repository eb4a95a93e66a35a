// SPDX-License-Identifier: Apache-2.0
//! Unified kernel images: kernel, initramfs and command line as sections of one EFI program.

mod build;
mod carry;
mod der;
mod pe;
mod sign;
#[cfg(test)]
pub(crate) mod tests;

use unmoor_convert::request::SignKey;
use unmoor_images::Result;

pub use build::rebuild;
pub(crate) use carry::carry;
pub use pe::{Image, Section};
pub use sign::sign;

/// The image at hand with other kernel arguments, signed if there is a key. An image that was signed and is not signed anew does not
/// start where Secure Boot is on: that is the caller's to decide.
///
/// # Errors
///
/// As [`Image::parse`], [`rebuild`] and [`sign()`].
pub fn with_arguments(file: &[u8], arguments: &str, key: Option<&SignKey>) -> Result<Vec<u8>> {
    let image = Image::parse(file)?;
    let built = rebuild(&image, &[(".cmdline", arguments.as_bytes())])?;
    match key {
        Some(key) => sign(&built, key),
        None => Ok(built),
    }
}
