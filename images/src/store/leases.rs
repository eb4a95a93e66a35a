// SPDX-License-Identifier: Apache-2.0
//! Leases: a capture says that it relies on what it found, and prune waits for it.
//!
//! A capture writes its lease before it asks what is there for the first time, renews it while it runs, and removes it
//! behind its image. Prune writes its mark, and then waits for every lease that it sees: until it is gone, or did not change for
//! [`DEAD`] by prune's own clock. A capture whose last renewal is older than [`LOST`] by its own clock gives up. So no clock has
//! to be right, and no two alike: it is enough that neither runs at twice the other's speed.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Store;
use super::backend::names;
use super::clock::rfc3339;
use super::document;
use super::keys::{hex, random};
use super::process;
use super::seal::{Kind, Seal};
use crate::{Error, ErrorKind, Result, ResultExt};

/// A lease that did not change for so long, as prune watched it, is that of a capture that is dead or has given up.
pub const DEAD: Duration = Duration::from_secs(3600);
/// A capture that could not renew its lease for so long gives up.
pub const LOST: Duration = Duration::from_secs(1800);
/// A lease is renewed so often.
const RENEW: Duration = Duration::from_secs(120);

/// What a lease object says. Not sealed: it has no name of a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseState {
    /// Its name: 32 hex digits.
    pub id: String,
    /// When it was taken, for people: RFC 3339.
    pub taken: String,
    /// When it was renewed, for people.
    pub renewed: String,
    /// How often it was renewed: what a watcher looks at.
    pub renewals: u64,
    /// Who has it, for people; empty in an encrypted store.
    pub holder: String,
    /// True for a prune's: there is one at a time, and captures do not rely on it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub prune: bool,
    /// The process that has it, as others on the same kernel can find out whether it still runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<String>,
}

impl LeaseState {
    fn object(id: &str) -> String {
        format!("leases/{id}.json")
    }

    /// All leases of a store. One that cannot be read counts as one that never changes.
    pub fn list(store: &Store) -> Result<Vec<Self>> {
        let mut leases = Vec::new();
        for name in names(store.backend(), "leases/")? {
            let Some(id) = name.strip_prefix("leases/").and_then(|name| name.strip_suffix(".json")) else {
                continue;
            };
            leases.extend(Self::read(store, id)?);
        }
        Ok(leases)
    }

    /// One lease; none where it has ended.
    pub(super) fn read(store: &Store, id: &str) -> Result<Option<Self>> {
        let name = Self::object(id);
        let Some(bytes) = store.backend().get(&name, 1 << 16)? else { return Ok(None) };
        let state = document::decode(&bytes, &Seal::none(), Kind::Key, &name).unwrap_or_else(|_| Self {
            id: id.to_owned(),
            taken: String::new(),
            renewed: String::new(),
            renewals: 0,
            holder: "unreadable".into(),
            prune: false,
            process: None,
        });
        Ok(Some(Self { id: id.to_owned(), ..state }))
    }

    /// True if whoever has it cannot act on it any more, without watching it.
    pub(super) fn is_surely_dead(&self) -> bool {
        self.process.as_deref().is_some_and(process::is_gone)
    }

    /// Removes the lease of a capture that is dead.
    pub fn remove(store: &Store, id: &str) -> Result<()> {
        store.backend().delete(&Self::object(id))
    }
}

/// A lease that this process has; renewed by a thread of its own until it is dropped.
pub struct Lease {
    shared: Arc<Shared>,
    renewer: Option<std::thread::JoinHandle<()>>,
}

struct Shared {
    store: Store,
    state: Mutex<State>,
    stop: Condvar,
}

struct State {
    lease: LeaseState,
    /// By the store's clock, when the last renewal that succeeded was begun.
    renewed: Duration,
    stopped: bool,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Renews if it is time.
    fn renew(&self) -> Result<()> {
        let mut state = self.state();
        let now = self.store.clock().elapsed();
        let age = now.saturating_sub(state.renewed);
        if age < RENEW {
            return Ok(());
        }
        if age >= LOST {
            return Err(lost());
        }
        let mut next = state.lease.clone();
        next.renewals += 1;
        next.renewed = rfc3339(self.store.clock().unix_seconds());
        let object = LeaseState::object(&next.id);
        self.store.backend().put(&object, &document::encode(&next, &Seal::none(), Kind::Key, &object)?)?;
        state.lease = next;
        state.renewed = now;
        Ok(())
    }
}

fn lost() -> Error {
    Error::new(ErrorKind::Io, "keeping the lease").because(
        "it could not be renewed for half an hour, or this machine slept: what was found in the store may be gone. Run it again; what \
         has arrived is not sent again",
    )
}

impl Lease {
    /// Takes a lease, durable before anything is asked of the store.
    pub fn take(store: &Store, holder: &str) -> Result<Self> {
        Self::take_for(store, holder, false)
    }

    /// The same, for prune as well. That it is the only prune is for the caller to find out.
    pub(super) fn take_for(store: &Store, holder: &str, prune: bool) -> Result<Self> {
        let mut id = [0; 16];
        random(&mut id)?;
        let time = rfc3339(store.clock().unix_seconds());
        let holder = if store.seal().is_sealed() { String::new() } else { holder.to_owned() };
        let lease = LeaseState {
            id: hex(&id),
            taken: time.clone(),
            renewed: time,
            renewals: 0,
            holder,
            prune,
            process: process::this(),
        };
        let object = LeaseState::object(&lease.id);
        let renewed = store.clock().elapsed();
        let bytes = document::encode(&lease, &Seal::none(), Kind::Key, &object)?;
        store.backend().put(&object, &bytes).doing(|| "taking a lease")?;
        store.backend().barrier()?;
        let state = Mutex::new(State { lease, renewed, stopped: false });
        let shared = Arc::new(Shared { store: store.clone(), state, stop: Condvar::new() });
        let thread = shared.clone();
        let renewer = std::thread::Builder::new()
            .name("lease".into())
            .spawn(move || {
                loop {
                    let state = thread.state();
                    if state.stopped {
                        return;
                    }
                    let waited = thread.stop.wait_timeout(state, Duration::from_secs(5));
                    if waited.unwrap_or_else(PoisonError::into_inner).0.stopped {
                        return;
                    }
                    // A failure is tried again until the lease is lost, which `check` says.
                    let _ = thread.renew();
                }
            })
            .doing(|| "starting a thread")?;
        Ok(Self { shared, renewer: Some(renewer) })
    }

    /// Its name.
    pub fn id(&self) -> String {
        self.shared.state().lease.id.clone()
    }

    /// Renews it if that is due.
    pub fn renew(&self) -> Result<()> {
        self.shared.renew()
    }

    /// Fails unless all that was found since the lease was taken is still there.
    pub fn check(&self) -> Result<()> {
        self.shared.renew()?;
        let id = self.id();
        let age = self.shared.store.clock().elapsed().saturating_sub(self.shared.state().renewed);
        let there = self.shared.store.backend().get(&LeaseState::object(&id), 1 << 16)?.is_some();
        if there && age < LOST { Ok(()) } else { Err(lost()) }
    }

    /// Ends it: the image is there.
    pub fn release(mut self) -> Result<()> {
        self.stop();
        let id = self.id();
        LeaseState::remove(&self.shared.store, &id)
    }

    fn stop(&mut self) {
        self.shared.state().stopped = true;
        self.shared.stop.notify_all();
        if let Some(renewer) = self.renewer.take() {
            // It panics only if another thread did.
            let _ = renewer.join();
        }
    }
}

impl Drop for Lease {
    /// A lease that is not released stays: the next capture looks for what this one had sent.
    fn drop(&mut self) {
        self.stop();
    }
}
