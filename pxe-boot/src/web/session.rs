// SPDX-License-Identifier: Apache-2.0
//! Who is signed in: in memory alone, so that a restart signs everybody out.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::http::HeaderMap;
use axum::http::header::COOKIE;
use sha2::{Digest, Sha256};
use unmoor_images::{Error, ErrorKind, Result};

/// The cookie. Browsers take a name with this prefix over HTTPS only, for this host and all its paths (RFC 6265bis, section 4.1.3.2).
const COOKIE_NAME: &str = "__Host-unmoor";
/// How long a session lasts.
const LASTS: Duration = Duration::from_secs(12 * 3600);
/// So many at once; the oldest end first.
const MOST: usize = 256;

/// Somebody who is signed in.
#[derive(Debug, Clone)]
pub(super) struct Session {
    /// What the forms of this session carry.
    pub(super) csrf: String,
    key: [u8; 32],
    ends: Instant,
}

impl Session {
    /// Whether a form is this session's.
    pub(super) fn wrote(&self, csrf: &str) -> bool {
        digest(csrf) == digest(&self.csrf)
    }
}

/// All sessions, by the hash of their cookies: looking one up takes no time that depends on how much of it is right.
#[derive(Debug, Default)]
pub(super) struct Sessions(Mutex<HashMap<[u8; 32], Session>>);

impl Sessions {
    fn all(&self) -> MutexGuard<'_, HashMap<[u8; 32], Session>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins one; answers its cookie.
    pub(super) fn begin(&self) -> Result<String> {
        let (cookie, csrf, now) = (random()?, random()?, Instant::now());
        let key = digest(&cookie);
        let mut all = self.all();
        all.retain(|_, session| session.ends > now);
        if all.len() >= MOST
            && let Some(oldest) = all.values().min_by_key(|session| session.ends).map(|session| session.key)
        {
            all.remove(&oldest);
        }
        all.insert(key, Session { csrf, key, ends: now + LASTS });
        Ok(format!(
            "{COOKIE_NAME}={cookie}; Path=/; Secure; HttpOnly; SameSite=Strict; Max-Age={}",
            LASTS.as_secs()
        ))
    }

    /// Whose request it is.
    pub(super) fn of(&self, headers: &HeaderMap) -> Option<Session> {
        let cookies = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
        let mut pairs =
            cookies.flat_map(|cookies| cookies.split(';')).filter_map(|pair| pair.trim().split_once('='));
        let (_, value) = pairs.find(|(name, _)| *name == COOKIE_NAME)?;
        self.all().get(&digest(value)).filter(|session| session.ends > Instant::now()).cloned()
    }

    /// Whether it still lasts.
    pub(super) fn lasts(&self, session: &Session) -> bool {
        session.ends > Instant::now() && self.all().contains_key(&session.key)
    }

    /// Ends one; answers what takes its cookie away.
    pub(super) fn end(&self, session: &Session) -> String {
        self.all().remove(&session.key);
        format!("{COOKIE_NAME}=; Path=/; Secure; HttpOnly; SameSite=Strict; Max-Age=0")
    }
}

fn digest(text: &str) -> [u8; 32] {
    Sha256::digest(text.as_bytes()).into()
}

fn random() -> Result<String> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes)
        .map_err(|error| Error::new(ErrorKind::Io, "drawing a random number").source(error))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Failed attempts to sign in, by address. So many in [`SPAN`] and the address has to wait.
#[derive(Debug, Default)]
pub(super) struct Attempts(Mutex<HashMap<Option<IpAddr>, (u32, Instant)>>);

/// Attempts that may fail.
const MAY_FAIL: u32 = 5;
/// How long they count.
const SPAN: Duration = Duration::from_secs(60);
/// So many addresses are remembered.
const ADDRESSES: usize = 4096;

impl Attempts {
    /// True where an address may try.
    pub(super) fn may(&self, address: Option<IpAddr>) -> bool {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(&address).is_none_or(|(failed, since)| *failed < MAY_FAIL || since.elapsed() >= SPAN)
    }

    /// An attempt has failed.
    pub(super) fn failed(&self, address: Option<IpAddr>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, (_, since)| since.elapsed() < SPAN);
        if all.len() < ADDRESSES || all.contains_key(&address) {
            let entry = all.entry(address).or_insert((0, Instant::now()));
            entry.0 = entry.0.saturating_add(1);
        }
    }
}
