// SPDX-License-Identifier: Apache-2.0
//! Values that several commands take, and what they mean to the libraries.

use clap::{Args, ValueEnum};
use unmoor_images::formats::{Compression, Format};
use unmoor_images::layout::Hibernated;

use crate::output::size::parse_size;

/// `--format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum FormatName {
    /// Byte n of the file is byte n of the disk; sparse
    Raw,
    /// QEMU's format, compressed
    Qcow2,
    /// VMware's format; written as a compressed stream, as OVF has it
    Vmdk,
    /// Hyper-V's format, written dynamic
    Vhdx,
    /// Virtual PC's format, read only
    Vhd,
    /// VirtualBox's format, read only
    Vdi,
}

impl From<FormatName> for Format {
    fn from(name: FormatName) -> Self {
        match name {
            FormatName::Raw => Self::Raw,
            FormatName::Qcow2 => Self::Qcow2,
            FormatName::Vmdk => Self::Vmdk,
            FormatName::Vhdx => Self::Vhdx,
            FormatName::Vhd => Self::Vhd,
            FormatName::Vdi => Self::Vdi,
        }
    }
}

/// `--compress`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Effort {
    /// No compression
    None,
    /// zstd, for the fastest disks
    Fast,
    /// zstd at level 1
    Default,
    /// zstd at a level that archives use
    Best,
    /// zstd, its level following the slowest of source, processor and target
    Auto,
    /// Deflate, for readers older than QEMU 5.1
    Zlib,
}

/// How images are written.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Image options")]
pub(crate) struct ImageOptions {
    /// Format of the image, where its name does not tell
    #[arg(long, value_enum, value_name = "FORMAT")]
    pub(crate) format: Option<FormatName>,
    /// How hard to compress
    #[arg(long, value_enum, default_value = "default", value_name = "EFFORT")]
    pub(crate) compress: Effort,
    /// Size of a cluster, a power of two: qcow2 512 to 2M (64K if absent), vhdx 1M to 256M
    #[arg(long, value_name = "SIZE", value_parser = parse_cluster_size)]
    pub(crate) cluster_size: Option<u32>,
}

impl ImageOptions {
    pub(crate) fn compression(&self) -> Compression {
        compression(self.compress)
    }
}

/// What `--compress` means.
pub(crate) fn compression(effort: Effort) -> Compression {
    match effort {
        Effort::None => Compression::None,
        Effort::Fast => Compression::Zstd(-3),
        Effort::Default => Compression::Zstd(1),
        Effort::Best => Compression::Zstd(9),
        Effort::Auto => Compression::Auto,
        Effort::Zlib => Compression::Zlib(6),
    }
}

fn parse_cluster_size(text: &str) -> Result<u32, String> {
    let size = parse_size(text)?;
    match u32::try_from(size) {
        Ok(size) if size.is_power_of_two() && (512..=256 << 20).contains(&size) => Ok(size),
        _ => Err("clusters have 512 bytes to 256 MiB, a power of two".to_owned()),
    }
}

/// `--hibernated`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum HibernatedChoice {
    /// Keep the suspended system: its swap and filesystems are captured whole
    Keep,
    /// Give the suspended system up: it will start afresh
    Discard,
}

impl From<HibernatedChoice> for Hibernated {
    fn from(choice: HibernatedChoice) -> Self {
        match choice {
            HibernatedChoice::Keep => Self::Keep,
            HibernatedChoice::Discard => Self::Discard,
        }
    }
}
