// SPDX-License-Identifier: Apache-2.0
//! LUKS containers, opened by dm-crypt with the volume key that [`luks`] finds.

use unmoor_images::layout::Content;
use unmoor_images::volume::luks::{self, Limits, VolumeKey};
use unmoor_images::{Error, ErrorKind, Result, ResultExt};
use zeroize::Zeroizing;

use super::builder::{Builder, Spot};
use super::disk::{Disk, device_number};
use super::held::Held;
use super::mapping::{Mapping, MappingLine, SECTOR};
use super::{Inner, describe};

impl Builder<'_> {
    /// Opens every container that was not tried yet and that some key opens.
    ///
    /// # Errors
    ///
    /// Where a key that names its container does not open it.
    pub(super) fn open_containers(&mut self, spots: &[Spot]) -> Result<()> {
        for spot in spots {
            let Content::Luks { version, uuid } = &spot.content else { continue };
            if self.tried.contains(&(spot.disk, spot.place.clone())) {
                continue;
            }
            self.tried.push((spot.disk, spot.place.clone()));
            let named = self.options.keys.iter().any(|key| key.uuid.is_some() && key.uuid == *uuid);
            match self.open(spot, *version, uuid.as_deref(), spots) {
                Ok(()) => {}
                Err(error) if named => return Err(error),
                Err(error) => self.miss(spot, error.chain()),
            }
        }
        Ok(())
    }

    fn open(&mut self, spot: &Spot, version: u16, uuid: Option<&str>, spots: &[Spot]) -> Result<()> {
        let called = uuid.unwrap_or("without a UUID");
        let doing = || format!("opening LUKS{version} {called} in {}", describe(&spot.place));
        let keys: Vec<_> = self
            .options
            .keys
            .iter()
            .filter(|key| key.uuid.as_deref().is_none_or(|of| Some(of) == uuid))
            .collect();
        if keys.is_empty() {
            return Err(Error::refused(doing(), "it is encrypted, and there is no key for it"));
        }
        let Some(node) = self.node(spot, spots)? else {
            return Err(Error::unsupported(doing(), "it is a part of another volume"));
        };
        let device = Disk::open(&node, true, 0)?;
        let limits = Limits { memory: available_memory().min(Limits::default().memory), ..Limits::default() };
        let mut found = None;
        for key in keys {
            match luks::unlock(&device, &key.secret, &limits) {
                Ok(volume) => {
                    found = Some(volume);
                    break;
                }
                Err(error) if error.kind() == ErrorKind::Refused => {}
                Err(error) => return Err(error).doing(doing),
            }
        }
        let volume = found.ok_or_else(|| Error::refused(doing(), "none of the keys opens it"))?;
        let name = format!("luks-{}", uuid.unwrap_or(&node.display().to_string()).replace('/', "-"));
        let id = uuid.unwrap_or_default().replace('-', "");
        let line =
            line(&volume, unmoor_images::BlockSource::size(&device), device_number(&node)?).doing(doing)?;
        let read_only = self.options.read_only;
        let mapping = Mapping::create(&name, &format!("CRYPT-LUKS{version}-{id}-{name}"), &[line], read_only)
            .doing(doing)?;
        let path = mapping.path().to_owned();
        self.stack.push(Held::Mapping(mapping));
        self.add_disk(&path, spot, Inner::Luks { uuid: uuid.map(str::to_owned) })
    }
}

/// dm-crypt's table (kernel's admin-guide/device-mapper/dm-crypt): cipher, key, offset of the IV, device, start, options.
fn line(volume: &VolumeKey, size: u64, (major, minor): (u32, u32)) -> Result<MappingLine> {
    let len = volume.len.unwrap_or_else(|| size.saturating_sub(volume.offset));
    let whole = len / u64::from(volume.sector_size) * u64::from(volume.sector_size);
    if whole == 0 || volume.offset.checked_add(whole).is_none_or(|end| end > size) {
        return Err(Error::malformed("mapping it", "its data lies beyond the device's end"));
    }
    let mut parameters = Zeroizing::new(String::with_capacity(256 + 2 * volume.key.len()));
    parameters.push_str(&volume.cipher);
    parameters.push(' ');
    for byte in volume.key.iter() {
        let digit = |nibble: u8| char::from_digit(u32::from(nibble), 16).unwrap_or('0');
        parameters.push(digit(byte >> 4));
        parameters.push(digit(byte & 15));
    }
    let start = volume.offset / SECTOR;
    parameters.push_str(&format!(" {} {major}:{minor} {start}", volume.iv_offset));
    if u64::from(volume.sector_size) != SECTOR {
        parameters.push_str(&format!(" 1 sector_size:{}", volume.sector_size));
    }
    Ok(MappingLine { len: whole, kind: "crypt", parameters })
}

/// Memory that a key derivation may take, in bytes: what the kernel calls available, less a little for all else.
fn available_memory() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))
        .and_then(|rest| rest.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
    kib.map_or(u64::MAX, |kib| (kib << 10).saturating_sub(16 << 20))
}
