// SPDX-License-Identifier: Apache-2.0
//! Jobs that use the store: who is let in, the one writer that a capture keeps over all connections of its agent, and the images
//! that are read.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use tokio::sync::{OnceCell, OwnedRwLockReadGuard, OwnedSemaphorePermit, RwLock, Semaphore};
use unmoor_images::formats::Compression;
use unmoor_images::monitor::Silent;
use unmoor_images::store::{ImageName, Since, Store, StoredImage, Writer, WriterOptions};
use unmoor_images::{Error, ErrorKind, Result};

use super::super::errors::status;
use super::answer::Failed;
use super::turns::{Pace, Turns};
use super::{Access, Gate, Limits, PeerKey};
use crate::api::Committed;

/// Requests of one job that are worked on at a time; each holds some MiB at most.
const REQUESTS: usize = 8;

/// The store, and all jobs that use it.
pub(super) struct Shared {
    pub(super) store: Arc<Store>,
    pub(super) gate: Arc<dyn Gate>,
    limits: Limits,
    pub(super) turns: Arc<Turns>,
    pub(super) pace: Pace,
    /// Commits are the one thing that has to be in memory as a whole.
    pub(super) commits: Arc<Semaphore>,
    sessions: Mutex<HashMap<u64, Arc<Session>>>,
    images: tokio::sync::Mutex<HashMap<String, Weak<StoredImage>>>,
    /// Captures that are open.
    open: Arc<AtomicUsize>,
    sweeping: AtomicBool,
}

/// One job's use of the store.
pub(super) struct Session {
    requests: Arc<Semaphore>,
    seen: Mutex<Instant>,
    pub(super) capture: Arc<RwLock<Option<Capture>>>,
    /// What a commit was answered, until the server's state is known to have it.
    pub(super) done: Mutex<Option<Committed>>,
    image: OnceCell<Arc<StoredImage>>,
}

/// A capture that is open, counted while it is.
pub(super) struct Capture {
    pub(super) writer: Writer,
    count: Count,
}

struct Count(Arc<AtomicUsize>);

impl Drop for Count {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Capture {
    /// Ends the count.
    pub(super) fn into_writer(self) -> Writer {
        drop(self.count);
        self.writer
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Does what blocks, in a thread that may.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|_| {
        Err(Error::new(ErrorKind::Io, "working for an agent")
            .because("the server ends, or failed in the middle"))
    })
}

impl Shared {
    pub(super) fn new(store: Arc<Store>, gate: Arc<dyn Gate>, limits: Limits) -> Arc<Self> {
        Arc::new(Self {
            store,
            gate,
            turns: Turns::new(limits.workers),
            pace: Pace::new(limits.rate_limit),
            limits,
            commits: Arc::new(Semaphore::new(1)),
            sessions: Mutex::default(),
            images: tokio::sync::Mutex::default(),
            open: Arc::default(),
            sweeping: AtomicBool::new(false),
        })
    }

    /// Lets a request in, or not. The permit bounds what one job can have the server hold.
    pub(super) async fn admit(
        self: &Arc<Self>,
        job: &str,
        head: &Parts,
    ) -> std::result::Result<(Access, Arc<Session>, OwnedSemaphorePermit), Failed> {
        let PeerKey(key) = *head
            .extensions
            .get::<PeerKey>()
            .ok_or_else(|| Failed::unauthorized("the connection has no client certificate"))?;
        let token = head.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let token = token.and_then(|value| value.strip_prefix("Bearer ")).map(str::to_owned);
        let token = token.ok_or_else(|| Failed::unauthorized("the request has no token"))?;
        let job: u64 = job
            .parse()
            .map_err(|_| Failed::new(StatusCode::NOT_FOUND, "not_found", "there is no such job"))?;
        let gate = self.gate.clone();
        let access =
            blocking(move || gate.admit(&key, &token, job)).await.map_err(|error| match status(&error) {
                (401, kind) => Failed::new(StatusCode::UNAUTHORIZED, kind, error.chain()),
                (404, kind) => Failed::new(StatusCode::NOT_FOUND, kind, error.chain()),
                (403 | 409, _) => Failed::forbidden(error.chain()),
                _ => Failed::store(&error),
            })?;
        if !self.sweeping.swap(true, Ordering::Relaxed) {
            tokio::spawn(sweep(Arc::downgrade(self), self.limits.idle));
        }
        let session = lock(&self.sessions).entry(access.job).or_insert_with(Session::new).clone();
        session.touch();
        let permit = session.requests.clone().acquire_owned().await;
        let permit =
            permit.map_err(|_| Failed::new(StatusCode::SERVICE_UNAVAILABLE, "busy", "the server ends"))?;
        Ok((access, session, permit))
    }

    /// The capture of a job: the one that is open, or a new one. After a restart of the server it is a new one in the midst of the
    /// agent's work; what was stored before it finds.
    pub(super) async fn writer(
        &self,
        session: &Session,
        job: u64,
        machine: &str,
    ) -> Result<OwnedRwLockReadGuard<Option<Capture>>> {
        let guard = session.capture.clone().read_owned().await;
        if let Some(capture) = guard.as_ref() {
            capture.writer.limit_packs(self.pack_bytes());
            return Ok(guard);
        }
        drop(guard);
        let mut guard = session.capture.clone().write_owned().await;
        if guard.is_none() {
            let turn = self.turns.take(job, 1 << 20).await;
            let (store, machine) = (self.store.clone(), machine.to_owned());
            let options = WriterOptions {
                compression: Compression::Auto,
                since: Since::Latest,
                holder: format!("unmoor serve, job {job}"),
            };
            let begun = blocking(move || {
                let _turn = turn;
                Writer::begin(&store, &machine, &options, &Silent)
            });
            let writer = begun.await?;
            self.open.fetch_add(1, Ordering::Relaxed);
            writer.limit_packs(self.pack_bytes());
            *guard = Some(Capture { writer, count: Count(self.open.clone()) });
        }
        Ok(guard.downgrade())
    }

    /// All open captures together have so much memory for packs, three each.
    fn pack_bytes(&self) -> usize {
        self.limits.memory / self.open.load(Ordering::Relaxed).saturating_mul(3).max(1)
    }

    /// Gives up a capture that nothing can be relied upon of any more; the next request begins another one.
    pub(super) async fn discard(&self, session: &Session) {
        let taken = session.capture.clone().write_owned().await.take();
        let dropped = blocking(move || {
            drop(taken);
            Ok(())
        });
        // The request has failed already.
        let _ = dropped.await;
    }

    /// The image of a job, opened once for all who read it.
    pub(super) async fn image(
        &self,
        session: &Session,
        job: u64,
        name: &ImageName,
    ) -> Result<Arc<StoredImage>> {
        let open = || async {
            let mut images = self.images.lock().await;
            if let Some(image) = images.get(&name.to_string()).and_then(Weak::upgrade) {
                return Ok(image);
            }
            let turn = self.turns.take(job, 1 << 20).await;
            let (store, wanted) = (self.store.clone(), name.clone());
            let opened = blocking(move || {
                let _turn = turn;
                store.open_image(&wanted).map(Arc::new)
            });
            let image = opened.await?;
            images.retain(|_, image| image.strong_count() > 0);
            images.insert(name.to_string(), Arc::downgrade(&image));
            Ok(image)
        };
        session.image.get_or_try_init(open).await.cloned()
    }

    /// Sessions that nobody has used for so long, taken out.
    fn idle(&self, time: Duration) -> Vec<Arc<Session>> {
        let mut sessions = lock(&self.sessions);
        // A request that runs holds its session, too.
        let idle: Vec<u64> = sessions
            .iter()
            .filter(|(_, session)| Arc::strong_count(session) == 1 && lock(&session.seen).elapsed() >= time)
            .map(|(job, _)| *job)
            .collect();
        idle.iter().filter_map(|job| sessions.remove(job)).collect()
    }
}

impl Session {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            requests: Arc::new(Semaphore::new(REQUESTS)),
            seen: Mutex::new(Instant::now()),
            capture: Arc::default(),
            done: Mutex::default(),
            image: OnceCell::new(),
        })
    }

    fn touch(&self) {
        *lock(&self.seen) = Instant::now();
    }
}

/// Ends captures that nobody talks to.
async fn sweep(shared: Weak<Shared>, time: Duration) {
    let pause = (time / 8).clamp(Duration::from_millis(50), Duration::from_secs(30));
    loop {
        tokio::time::sleep(pause).await;
        let Some(shared) = shared.upgrade() else { return };
        for session in shared.idle(time) {
            let capture = session.capture.clone().write_owned().await.take();
            if let Some(capture) = capture {
                // What cannot be stored is sent again; its lease stays, and says to the next capture where to look.
                let _ = blocking(move || capture.into_writer().suspend()).await;
            }
        }
        let _ = blocking(move || {
            drop(shared);
            Ok(())
        })
        .await;
    }
}

impl Drop for Shared {
    /// A server that ends stores what has come, so that captures go on with the next one.
    fn drop(&mut self) {
        let sessions = std::mem::take(&mut *lock(&self.sessions));
        let captures: Vec<Capture> =
            sessions.into_values().filter_map(|session| session.capture.try_write().ok()?.take()).collect();
        // In threads of its own: this one may belong to a runtime, in which stores must not wait.
        std::thread::scope(|scope| {
            for capture in captures {
                let suspend = || {
                    // As above.
                    let _ = capture.into_writer().suspend();
                };
                let _ = std::thread::Builder::new().name("suspend".into()).spawn_scoped(scope, suspend);
            }
        });
    }
}
