// SPDX-License-Identifier: Apache-2.0
//! One prune at a time, and waiting for captures.

use std::collections::HashSet;
use std::time::Duration;

use super::{Before, PruneOptions};
use crate::store::keys::random;
use crate::store::leases::{DEAD, Lease};
use crate::store::{Id, LeaseState, Mark, Store, parse_id};
use crate::{Error, Monitor, Result};

/// Leases are looked at so often.
const POLL: Duration = Duration::from_secs(5);
/// Whom it waits for is said so often.
const SAY: Duration = Duration::from_secs(600);

/// Waits until a listing shows what was written before, `times` over.
pub(super) fn settle(store: &Store, times: u32) {
    let lag = store.backend().listing_lag();
    if !lag.is_zero() {
        store.clock().sleep(lag * times);
    }
}

/// Leases of captures that run or were killed.
pub(super) fn captures(store: &Store) -> Result<Vec<LeaseState>> {
    Ok(LeaseState::list(store)?.into_iter().filter(|lease| !lease.prune).collect())
}

/// Takes a lease that no other prune has beside it.
pub(super) fn alone(store: &Store, options: &PruneOptions, monitor: &dyn Monitor) -> Result<Lease> {
    loop {
        let lease = Lease::take_for(store, &options.holder, true)?;
        settle(store, 2);
        let mut others = LeaseState::list(store)?;
        others.retain(|other| other.prune && other.id != lease.id());
        for dead in others.iter().filter(|other| other.is_surely_dead()) {
            LeaseState::remove(store, &dead.id)?;
        }
        others.retain(|other| !other.is_surely_dead());
        let Some(other) = others.first() else { return Ok(lease) };
        // Of two that see each other both withdraw; the dice say who is the first the next time.
        lease.release()?;
        if !options.wait {
            let because = format!("another prune runs: {}. Run this when it has ended", who(other));
            return Err(Error::refused("pruning", because));
        }
        for dead in watch(store, others, None, monitor)?.1 {
            LeaseState::remove(store, &dead)?;
        }
        let mut dice = [0; 2];
        random(&mut dice)?;
        store.clock().sleep(Duration::from_millis(u16::from_le_bytes(dice).into()) / 16);
    }
}

/// What a prune finds.
pub(super) fn before(store: &Store) -> Result<Before> {
    let (marks, leases) = (Mark::list_all(store)?, captures(store)?);
    let alive: HashSet<&str> =
        leases.iter().filter(|lease| !lease.is_surely_dead()).map(|lease| lease.id.as_str()).collect();
    let mut ripe: HashSet<Id> = HashSet::new();
    for mark in &marks {
        let ended = |ids: &Vec<String>| ids.iter().all(|id| !alive.contains(id.as_str()));
        if mark.leases.as_ref().is_some_and(ended) {
            ripe.extend(mark.packs.iter().filter_map(|pack| parse_id(pack).ok()));
        }
    }
    Ok(Before { leases, marks, ripe })
}

/// How the waiting ended.
pub(super) struct Waited {
    pub(super) mark: Mark,
    /// Captures that still run; none unless it was not to be waited.
    pub(super) alive: Vec<LeaseState>,
    /// Leases of captures that are dead.
    pub(super) dead: Vec<String>,
}

/// Waits for every capture whose lease is there once the mark is.
pub(super) fn for_captures(
    store: &Store,
    mark: Mark,
    options: &PruneOptions,
    lease: &Lease,
    monitor: &dyn Monitor,
) -> Result<Waited> {
    settle(store, 2);
    let (dead, alive): (Vec<_>, Vec<_>) = captures(store)?.into_iter().partition(LeaseState::is_surely_dead);
    let mut dead: Vec<String> = dead.into_iter().map(|lease| lease.id).collect();
    let mark = mark.waits_for(store, alive.iter().map(|lease| lease.id.clone()).collect())?;
    if !options.wait {
        return Ok(Waited { mark, alive, dead });
    }
    let (_, more) = watch(store, alive, Some(lease), monitor)?;
    dead.extend(more);
    Ok(Waited { mark, alive: Vec::new(), dead })
}

/// Watches leases until each is gone or dead. Answers how long it took by this machine's clock, and the dead.
fn watch(
    store: &Store,
    leases: Vec<LeaseState>,
    own: Option<&Lease>,
    monitor: &dyn Monitor,
) -> Result<(Duration, Vec<String>)> {
    let began = store.clock().elapsed();
    let mut watched: Vec<(LeaseState, Duration)> = leases.into_iter().map(|lease| (lease, began)).collect();
    let (mut dead, mut said) = (Vec::new(), None);
    loop {
        let now = store.clock().elapsed();
        let mut left = Vec::new();
        for (lease, since) in watched {
            // By name, not by listing: what a listing shows late must not look like an end.
            let Some(state) = LeaseState::read(store, &lease.id)? else { continue };
            let since = if state == lease { since } else { now };
            if state.is_surely_dead() || now.saturating_sub(since) >= DEAD {
                dead.push(lease.id);
            } else {
                left.push((state, since));
            }
        }
        watched = left;
        if watched.is_empty() {
            return Ok((now.saturating_sub(began), dead));
        }
        if said.is_none_or(|said| now.saturating_sub(said) >= SAY) {
            said = Some(now);
            for (lease, since) in &watched {
                let quiet = now.saturating_sub(*since).as_secs() / 60;
                monitor.note(format!(
                    "waiting for {}; its lease was renewed {} times, the last time {quiet} minutes ago or more; after 60 it counts as dead",
                    who(lease),
                    lease.renewals
                ));
            }
        }
        if monitor.cancelled() {
            let because = "it waited for others, and was told to stop. What it has marked stays marked: the next prune goes on";
            return Err(Error::new(crate::ErrorKind::Cancelled, "waiting").because(because));
        }
        if let Some(own) = own {
            own.renew()?;
        }
        store.clock().sleep(POLL);
    }
}

fn who(lease: &LeaseState) -> String {
    let what = if lease.prune { "a prune" } else { "a capture" };
    let holder = if lease.holder.is_empty() { String::new() } else { format!(" by {:.100}", lease.holder) };
    format!("{what}{holder} since {:.40}", lease.taken)
}
