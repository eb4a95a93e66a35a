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
}

impl From<FormatName> for Format {
    fn from(name: FormatName) -> Self {
        match name {
            FormatName::Raw => Self::Raw,
            FormatName::Qcow2 => Self::Qcow2,
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
    /// Size of a cluster, 512 to 2M, a power of two
    #[arg(long, value_name = "SIZE", default_value = "64K", value_parser = parse_cluster_size)]
    pub(crate) cluster_size: u32,
}

impl ImageOptions {
    pub(crate) fn compression(&self) -> Compression {
        match self.compress {
            Effort::None => Compression::None,
            Effort::Fast => Compression::Zstd(-3),
            Effort::Default => Compression::Zstd(1),
            Effort::Best => Compression::Zstd(9),
            Effort::Auto => Compression::Auto,
            Effort::Zlib => Compression::Zlib(6),
        }
    }
}

fn parse_cluster_size(text: &str) -> Result<u32, String> {
    let size = parse_size(text)?;
    match u32::try_from(size) {
        Ok(size) if size.is_power_of_two() && (512..=2 << 20).contains(&size) => Ok(size),
        _ => Err("clusters have 512 bytes to 2 MiB, a power of two".to_owned()),
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
