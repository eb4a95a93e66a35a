// SPDX-License-Identifier: Apache-2.0
//! What a machine that asks to be booted starts: the rescue environment where there is something to do or nobody knows the machine,
//! its own disk otherwise.

use rusqlite::params;
use unmoor_images::Result;

use super::identity::{self, Marks};
use super::{State, failed, machines, now, signed};
use crate::boot::{Asker, Choice};

impl State {
    pub(crate) fn choose(&self, asker: &Asker) -> Result<Choice> {
        let marks = Marks {
            uuid: asker.uuid.as_deref().and_then(identity::uuid),
            serial: asker.serial.as_deref().and_then(identity::serial),
            macs: asker.mac.as_deref().and_then(identity::mac).into_iter().collect(),
        };
        let mut guard = self.lock();
        let inner = &mut *guard;
        let found = marks.find(&inner.db, &|_| false)?;
        let machine = match found {
            Some(id) => id,
            // Whoever says nothing of itself is nobody to remember.
            None if marks == Marks::default() => {
                let options = self.group(None).map(|group| group.options.clone());
                return Ok(Choice::Rescue { options: options.unwrap_or_default() });
            }
            None => self.place(inner, &marks, None, &|_| false)?.0,
        };
        // What is known of it besides what firmware says of it.
        let all = Marks::read(&inner.db, machine)?;
        let known = self.known(&all).or_else(|| self.known(&marks));
        let name = machines::name(&inner.db, machine)?;
        let (open, ended, rescue, seen): (i64, i64, bool, bool) = inner
            .db
            .query_row(
                "SELECT (SELECT count(*) FROM jobs WHERE machine = ?1 AND ended IS NULL),
                        (SELECT count(*) FROM jobs WHERE machine = ?1 AND ended IS NOT NULL),
                        rescue, facts IS NOT NULL FROM machines WHERE id = ?1",
                [signed(machine)],
                |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)),
            )
            .map_err(failed)?;
        let awaited = self.is_awaited(&inner.db, &marks, Some(&name))?;
        // One that was named or has done what there was is left alone; of others an administrator knows nothing yet.
        let stranger = known.is_none() && ended == 0;
        let rescued = open > 0 || rescue || awaited || stranger;
        let address = asker.address.map(|address| address.to_string());
        inner.lazily(|db| {
            db.execute(
                "UPDATE machines SET last_seen = ?2, booted = CASE WHEN ?3 THEN ?2 ELSE NULL END,
                 address = coalesce(?4, address) WHERE id = ?1",
                params![signed(machine), signed(now()), rescued, address],
            )
            .map_err(failed)?;
            Ok(())
        })?;
        if !seen || rescued {
            self.tell_machine(inner, machine);
        }
        if !rescued {
            return Ok(Choice::Disk);
        }
        let options = self.group(known).map(|group| group.options.clone()).unwrap_or_default();
        Ok(Choice::Rescue { options })
    }
}
