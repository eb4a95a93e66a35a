// SPDX-License-Identifier: Apache-2.0
//! A store: its backend, what it is, and its key.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::backend::{self, Backend, checked};
use super::clock::{Clock, SystemClock, rfc3339};
use super::keys::{self, KeyInfo, Secret};
use super::seal::{Kind, Seal};
use super::{Location, document};
use crate::{Error, ErrorKind, Result, ResultExt};

/// Version of all objects of a store.
pub(super) const VERSION: u16 = 1;
/// The object that makes a place a store. Written last when a store is made.
const OBJECT: &str = "store.json";
/// The one way to encrypt.
const CIPHER: &str = "xchacha20-poly1305";

/// What `store.json` says.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Config {
    /// Always "unmoor-store".
    pub format: String,
    /// The store's version.
    pub version: u16,
    /// Made at random: 32 hex digits.
    pub id: String,
    /// When it was made: RFC 3339.
    pub created: String,
    /// What a reader has to know beyond the version; an unknown word is a refusal.
    pub features: Vec<String>,
    /// The cipher, in an encrypted store.
    pub encryption: Option<String>,
}

/// How to make a store.
#[derive(Default)]
pub struct InitOptions {
    /// Encrypted, with this as its first key.
    pub secret: Option<Secret>,
}

/// A store that is open. Clones are the same store.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    backend: Box<dyn Backend>,
    config: Config,
    seal: Seal,
    key: Option<Zeroizing<[u8; 32]>>,
    clock: Arc<dyn Clock>,
}

impl Store {
    /// Makes a store where there is none.
    pub fn init(location: &Location, options: &InitOptions) -> Result<Self> {
        Self::init_on(backend::open(location)?, options, Arc::new(SystemClock::default()))
    }

    /// The same on any backend and clock.
    pub fn init_on(backend: Box<dyn Backend>, options: &InitOptions, clock: Arc<dyn Clock>) -> Result<Self> {
        let doing = || format!("making a store at {}", backend.describe());
        if backend.get(OBJECT, 1 << 20).doing(doing)?.is_some() {
            return Err(Error::refused(doing(), "there is one already"));
        }
        let mut occupied = false;
        backend
            .list("", &mut |_| {
                occupied = true;
                Ok(())
            })
            .doing(doing)?;
        if occupied {
            return Err(Error::refused(doing(), "there are other things: take an empty place"));
        }
        let mut id = [0; 16];
        keys::random(&mut id)?;
        let config = Config {
            format: "unmoor-store".into(),
            version: VERSION,
            id: keys::hex(&id),
            created: rfc3339(clock.unix_seconds()),
            features: Vec::new(),
            encryption: options.secret.is_some().then(|| CIPHER.into()),
        };
        let key = match &options.secret {
            None => None,
            Some(secret) => {
                let mut key = Zeroizing::new([0; 32]);
                keys::random(&mut *key)?;
                keys::add(&*backend, &config.id, &key, secret, config.created.clone()).doing(doing)?;
                Some(key)
            }
        };
        let bytes = document::encode(&config, &Seal::none(), Kind::Key, OBJECT)?;
        if !backend.create(OBJECT, &bytes).doing(doing)? {
            return Err(Error::refused(doing(), "somebody else made one just now"));
        }
        backend.barrier().doing(doing)?;
        Ok(Self::assemble(backend, config, key, clock))
    }

    /// Opens a store. An encrypted one needs one of its secrets.
    pub fn open(location: &Location, secret: Option<&Secret>) -> Result<Self> {
        Self::open_on(backend::open(location)?, secret, Arc::new(SystemClock::default()))
            .doing(|| format!("opening the store {location}"))
    }

    /// The same on any backend and clock.
    pub fn open_on(
        backend: Box<dyn Backend>,
        secret: Option<&Secret>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self> {
        let read = || match backend.get(OBJECT, 1 << 20)? {
            Some(bytes) => document::decode(&bytes, &Seal::none(), Kind::Key, OBJECT).map(Some),
            None => Ok(None),
        };
        let Some(config) = checked::<Option<Config>>(read)? else {
            return Err(absent(&*backend));
        };
        config.check()?;
        let key = match (&config.encryption, secret) {
            (None, _) => None,
            (Some(_), Some(secret)) => Some(keys::unlock(&*backend, &config.id, secret)?),
            (Some(_), None) => {
                let because = "it is encrypted: give --password-file or --store-key, or set UNMOOR_PASSWORD";
                return Err(Error::refused("reading the store", because));
            }
        };
        Ok(Self::assemble(backend, config, key, clock))
    }

    /// Whether there is a store.
    pub fn is_at(location: &Location) -> Result<bool> {
        Ok(backend::open(location)?.get(OBJECT, 1 << 20)?.is_some())
    }

    /// Whether a store is encrypted, before there is a secret for it.
    pub fn needs_secret(location: &Location) -> Result<bool> {
        let backend = backend::open(location)?;
        match backend.get(OBJECT, 1 << 20)? {
            None => Ok(false),
            Some(bytes) => {
                let config: Config = document::decode(&bytes, &Seal::none(), Kind::Key, OBJECT)?;
                Ok(config.encryption.is_some())
            }
        }
    }

    fn assemble(
        backend: Box<dyn Backend>,
        config: Config,
        key: Option<Zeroizing<[u8; 32]>>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let seal = key.as_ref().map_or_else(Seal::none, |key| Seal::with_key(key));
        Self { inner: Arc::new(Inner { backend, config, seal, key, clock }) }
    }

    /// What holds its objects.
    pub fn backend(&self) -> &dyn Backend {
        &*self.inner.backend
    }

    /// What it is.
    pub fn config(&self) -> &Config {
        &self.inner.config
    }

    pub(super) fn seal(&self) -> &Seal {
        &self.inner.seal
    }

    pub(super) fn clock(&self) -> &dyn Clock {
        &*self.inner.clock
    }

    /// Adds a key to an encrypted store; answers its name.
    pub fn add_key(&self, secret: &Secret) -> Result<String> {
        let key = self.inner.key.as_ref().ok_or_else(|| {
            Error::new(ErrorKind::Usage, "adding a key").because("the store is not encrypted")
        })?;
        keys::add(self.backend(), &self.config().id, key, secret, rfc3339(self.clock().unix_seconds()))
    }

    /// The keys of an encrypted store.
    pub fn keys(&self) -> Result<Vec<KeyInfo>> {
        keys::list(self.backend())
    }

    /// Key objects that cannot be read.
    pub(super) fn unreadable_keys(&self) -> Result<Vec<String>> {
        keys::unreadable(self.backend())
    }

    /// Removes a key. Who has opened the store with it before may have kept the data key.
    pub fn remove_key(&self, id: &str) -> Result<()> {
        keys::remove(self.backend(), id)
    }
}

/// Why there is no store, where none is found.
fn absent(backend: &dyn Backend) -> Error {
    let doing = format!("looking for a store at {}", backend.describe());
    let mut images = false;
    // Who lost store.json is better not told to make a new store.
    let listed = backend.list("images/", &mut |_| {
        images = true;
        Ok(())
    });
    if listed.is_ok() && images {
        let because = "there are images, but store.json is gone: bring it back from a copy of the store";
        return Error::new(ErrorKind::Mismatch, doing).because(because);
    }
    Error::refused(doing, "there is none: make one with `unmoor images init`")
}

impl Config {
    pub(super) fn check(&self) -> Result<()> {
        const DOING: &str = "reading store.json";
        if self.format != "unmoor-store" {
            return Err(Error::malformed(DOING, format!("its format is {:.80?}", self.format)));
        }
        if self.version != VERSION {
            let because = format!("the store is of version {}, this unmoor knows {VERSION}", self.version);
            return Err(Error::unsupported(DOING, because));
        }
        if let Some(feature) = self.features.first() {
            let because =
                format!("the store needs {feature:.80?}, which this unmoor does not know: use a newer one");
            return Err(Error::unsupported(DOING, because));
        }
        match self.encryption.as_deref() {
            None | Some(CIPHER) => Ok(()),
            Some(other) => Err(Error::unsupported(
                DOING,
                format!("it is encrypted with {other:.80?}, which is not known here"),
            )),
        }
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Store({})", self.backend().describe())
    }
}
