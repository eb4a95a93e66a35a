// SPDX-License-Identifier: Apache-2.0
//! Which machine it is: by its firmware's UUID, then by an adapter's address, then by its serial number. Firmware is known to
//! have no UUID, or the same as thousands of others.

use rusqlite::{Connection, params};
use unmoor_images::Result;
use unmoor_images::manifest::MachineFacts;

use super::{failed, unsigned};
use crate::api::Selector;

/// What is compared.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Marks {
    pub(super) uuid: Option<String>,
    pub(super) serial: Option<String>,
    pub(super) macs: Vec<String>,
}

/// Serial numbers of boards that nobody numbered, lower case.
const NO_SERIALS: [&str; 12] = [
    "default string",
    "system serial number",
    "to be filled by o.e.m.",
    "to be filled by o.e.m",
    "not specified",
    "not applicable",
    "chassis serial number",
    "123456789",
    "1234567890",
    "0123456789",
    "xxxxxxxxxx",
    "unknown",
];

/// UUIDs that manufacturers gave to all their boards.
const NO_UUIDS: [&str; 4] = [
    "03000200-0400-0500-0006-000700080009",
    "00020003-0004-0005-0006-000700080009",
    "12345678-1234-5678-90ab-cddeefaabbcc",
    "fefefefe-fefe-fefe-fefe-fefefefefefe",
];

/// A UUID that says something, lower case.
pub(super) fn uuid(text: &str) -> Option<String> {
    let text = text.trim().to_ascii_lowercase();
    let digits: Vec<u8> = text.bytes().filter(|byte| *byte != b'-').collect();
    let right = text.len() == 36 && digits.len() == 32 && digits.iter().all(u8::is_ascii_hexdigit);
    let first = digits.first()?;
    let varied = digits.iter().any(|digit| digit != first);
    (right && varied && !NO_UUIDS.contains(&text.as_str())).then_some(text)
}

/// The same UUID as firmware writes it whose first three fields are in the other byte order (SMBIOS before 2.6 left that open).
fn swapped(uuid: &str) -> String {
    let turned = |text: &str| -> String {
        text.as_bytes().chunks(2).rev().flatten().map(|byte| char::from(*byte)).collect()
    };
    let mut fields: Vec<String> = uuid.split('-').map(str::to_owned).collect();
    for field in fields.iter_mut().take(3) {
        *field = turned(field);
    }
    fields.join("-")
}

fn same_uuid(one: &str, two: &str) -> bool {
    one == two || one == swapped(two)
}

/// A serial number that says something.
pub(super) fn serial(text: &str) -> Option<String> {
    let text = text.trim();
    let varied = text.bytes().any(|byte| Some(byte) != text.bytes().next());
    let known = NO_SERIALS.contains(&text.to_ascii_lowercase().as_str());
    (text.len() >= 4 && text.len() <= 256 && varied && !known).then(|| text.to_owned())
}

/// An address, lower case with colons; not that of an adapter that has none.
pub(super) fn mac(text: &str) -> Option<String> {
    let text = text.trim().to_ascii_lowercase().replace('-', ":");
    let mut bytes =
        text.split(':').map(|byte| (byte.len() == 2).then(|| u8::from_str_radix(byte, 16).ok()).flatten());
    let six: Vec<u8> = bytes.by_ref().take(7).collect::<Option<_>>()?;
    let says =
        six.len() == 6 && six.iter().any(|byte| *byte != 0) && six.first().is_some_and(|byte| byte & 1 == 0);
    says.then_some(text)
}

/// A selector with its words as they are compared.
pub(super) fn tidy(selector: &Selector) -> Selector {
    let lower = |text: &String| text.trim().to_ascii_lowercase();
    Selector {
        id: selector.id,
        name: selector.name.clone(),
        mac: selector.mac.as_ref().map(|text| mac(text).unwrap_or_else(|| lower(text))),
        uuid: selector.uuid.as_ref().map(lower),
        serial: selector.serial.as_ref().map(|text| text.trim().to_owned()),
    }
}

impl Marks {
    pub(super) fn of(facts: &MachineFacts) -> Self {
        let mut macs: Vec<String> =
            facts.nics.iter().filter_map(|nic| mac(nic.mac.as_deref()?)).take(64).collect();
        macs.sort();
        macs.dedup();
        Self {
            uuid: facts.uuid.as_deref().and_then(uuid),
            serial: facts.serial.as_deref().and_then(serial),
            macs,
        }
    }

    /// Whether all that `selector` gives fits. A name is compared by whoever knows it.
    pub(super) fn fit(&self, selector: &Selector) -> bool {
        let fits =
            |wanted: &Option<String>, found: &dyn Fn(&str) -> bool| wanted.as_deref().is_none_or(found);
        fits(&selector.mac, &|mac| self.macs.iter().any(|own| own == mac))
            && fits(&selector.uuid, &|uuid| self.uuid.as_deref().is_some_and(|own| same_uuid(own, uuid)))
            && fits(&selector.serial, &|serial| self.serial.as_deref() == Some(serial))
    }

    pub(super) fn read(db: &Connection, machine: u64) -> Result<Self> {
        let mut statement =
            db.prepare_cached("SELECT uuid, serial FROM machines WHERE id = ?1").map_err(failed)?;
        let id = super::signed(machine);
        let (uuid, serial) =
            statement.query_row([id], |row| Ok((row.get(0)?, row.get(1)?))).map_err(failed)?;
        let mut statement =
            db.prepare_cached("SELECT mac FROM macs WHERE machine = ?1 ORDER BY mac").map_err(failed)?;
        let macs = statement.query_map([id], |row| row.get(0)).map_err(failed)?;
        Ok(Self { uuid, serial, macs: macs.collect::<rusqlite::Result<_>>().map_err(failed)? })
    }

    pub(super) fn write(&self, db: &Connection, machine: u64) -> Result<()> {
        let id = super::signed(machine);
        db.execute(
            "UPDATE machines SET uuid = coalesce(?2, uuid), serial = coalesce(?3, serial) WHERE id = ?1",
            params![id, self.uuid, self.serial],
        )
        .map_err(failed)?;
        if !self.macs.is_empty() {
            db.execute("DELETE FROM macs WHERE machine = ?1", [id]).map_err(failed)?;
        }
        for mac in &self.macs {
            db.execute("INSERT OR IGNORE INTO macs(mac, machine) VALUES(?1, ?2)", params![mac, id])
                .map_err(failed)?;
        }
        Ok(())
    }

    /// Whether these are the marks of one machine. `alive`: an agent of the one with another key is heard of right now, so that two
    /// machines that share marks are not taken for one.
    fn same(&self, other: &Self, alive: bool) -> bool {
        let uuids = self.uuid.as_deref().zip(other.uuid.as_deref()).map(|(one, two)| same_uuid(one, two));
        let serials = self.serial.as_ref().zip(other.serial.as_ref()).map(|(one, two)| one == two);
        let no_macs = self.macs.is_empty() || other.macs.is_empty();
        let shared = self.macs.iter().any(|mac| other.macs.contains(mac));
        match uuids {
            // Of another machine with the same board or UUID, or with an adapter that was moved, one mark at least differs.
            Some(true) => shared || no_macs || (serials == Some(true) && !alive),
            Some(false) => false,
            None => shared && serials != Some(false) || no_macs && serials == Some(true),
        }
    }

    /// The machine that has these marks.
    pub(super) fn find(&self, db: &Connection, alive: &dyn Fn(u64) -> bool) -> Result<Option<u64>> {
        let mut statement = db
            .prepare_cached(
                "SELECT id FROM machines WHERE uuid IN (?1, ?2)
                 UNION SELECT machine FROM macs WHERE mac IN (SELECT value FROM json_each(?3))
                 UNION SELECT id FROM machines WHERE serial = ?4 ORDER BY 1 LIMIT 64",
            )
            .map_err(failed)?;
        let other = self.uuid.as_deref().map(swapped);
        let rows = statement
            .query_map(params![self.uuid, other, super::json(&self.macs)?, self.serial], |row| {
                row.get::<_, i64>(0)
            })
            .map_err(failed)?;
        let mut found: Vec<(u8, u64)> = Vec::new();
        for row in rows {
            let id = unsigned(row.map_err(failed)?);
            let marks = Self::read(db, id)?;
            if self.same(&marks, alive(id)) {
                let rank = match (&self.uuid, &marks.uuid) {
                    (Some(_), Some(_)) => 0,
                    _ if self.macs.iter().any(|mac| marks.macs.contains(mac)) => 1,
                    _ => 2,
                };
                found.push((rank, id));
            }
        }
        Ok(found.into_iter().min().map(|(_, id)| id))
    }
}
