// SPDX-License-Identifier: Apache-2.0
//! A store on S3-compatible object storage, through the `object_store` crate.
//!
//! - [`settings`] says where and as whom: environment, [`profile`] files, then what the machine itself is.
//! - `persist` tries again; `failure` says what went wrong, and what to do.
//! - [`resolve`] finds hosts by their names, with [`dns`]'s messages.
//!
//! The crate is asynchronous; a runtime of our own, with threads of its own, keeps that in this folder. Its own retries are
//! switched off: they send one signature for minutes, and some broken answers are not among what they repeat.

mod dns;
mod failure;
mod persist;
mod profile;
mod resolve;
mod settings;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};
use object_store::aws::AmazonS3;
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use object_store::{
    GetOptions, GetRange, MultipartId, ObjectMeta, ObjectStore, PutMode, PutOptions, PutPayload,
};
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;

use super::{Backend, Listed};
use crate::store::pool::IN_FLIGHT;
use crate::{Error, ErrorKind, Result, ResultExt};
use failure::Failure;
use persist::persist;
use settings::Settings;

pub use persist::Patience;
pub use resolve::addresses;

/// What a name server's message answers to the question for the addresses of `name`, for the fuzzer. None where it has to be asked again
/// by TCP.
///
/// # Errors
///
/// `Malformed` where it answers nothing of the kind.
pub fn decode_answer(name: &str, message: &[u8]) -> Result<Option<Vec<std::net::IpAddr>>> {
    let question = dns::question(0x1234, name, dns::Kind::A)
        .ok_or_else(|| Error::new(ErrorKind::Usage, "asking a name server").because("it is no name"))?;
    Ok(match dns::answer(&question, message, dns::Kind::A)? {
        dns::Answer::Addresses(found) => Some(found),
        dns::Answer::Nothing => Some(Vec::new()),
        dns::Answer::Truncated => None,
    })
}

/// What the two files say of a profile, for the fuzzer.
pub fn decode_profile(
    credentials: &str,
    config: &str,
    name: &str,
) -> Option<std::collections::BTreeMap<String, String>> {
    profile::find(credentials, config, name)
}

/// Bytes of a part, and of the largest object that is sent as one. S3 wants at least 5 MiB.
const PART: usize = 8 << 20;
/// Objects that are listed between two looks at the caller.
const PAGE: usize = 1000;
/// An upload that the server has lost is begun anew so often.
const UPLOADS: usize = 3;

/// How to open a bucket.
#[derive(Debug, Clone)]
pub struct S3Options {
    /// Variables with their values; this program's own by default.
    pub environment: Vec<(String, String)>,
    /// How long to try.
    pub patience: Patience,
}

impl Default for S3Options {
    fn default() -> Self {
        Self { environment: settings::environment(), patience: Patience::default() }
    }
}

/// A prefix in a bucket.
pub struct S3 {
    inner: Arc<Inner>,
    runtime: Option<Runtime>,
}

struct Inner {
    store: AmazonS3,
    permits: Semaphore,
    patience: Patience,
    /// Set once the server has answered.
    reached: AtomicBool,
    bucket: String,
    /// Without slashes at its ends; may be empty.
    prefix: String,
    /// Where the bucket is, for people.
    endpoint: String,
}

impl S3 {
    /// Opens a prefix of a bucket, with what the environment and the profile files say.
    ///
    /// # Errors
    ///
    /// Where they contradict themselves, or there are no credentials. The bucket is not asked yet.
    pub fn open(bucket: &str, prefix: &str) -> Result<Self> {
        Self::open_with(bucket, prefix, &S3Options::default())
    }

    /// The same with another environment, or another patience.
    pub fn open_with(bucket: &str, prefix: &str, options: &S3Options) -> Result<Self> {
        let doing = || format!("opening s3://{bucket}");
        if !prefix.is_empty() && Path::parse(prefix).is_err() {
            let because = "the prefix has characters that not every object storage takes: use letters, digits, dots and dashes";
            return Err(Error::new(ErrorKind::Usage, doing()).because(because));
        }
        // A second call finds it set, which is what is wanted.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let settings = Settings::gather(&options.environment, bucket).doing(doing)?;
        let (endpoint, unsigned) = (settings.endpoint(), settings.is_unsigned());
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("s3")
            .enable_all()
            .build()
            .doing(|| "starting threads for requests")?;
        // The crate may look for the runtime that it is used from.
        let store = {
            let _within = runtime.enter();
            settings.build().doing(doing)?
        };
        if !unsigned {
            runtime.block_on(store.credentials().get_credential()).map_err(|error| {
                Error::new(ErrorKind::Usage, doing()).because(failure::NO_CREDENTIALS).source(error)
            })?;
        }
        let inner = Inner {
            store,
            permits: Semaphore::new(IN_FLIGHT),
            patience: options.patience,
            reached: AtomicBool::new(false),
            bucket: bucket.to_owned(),
            prefix: prefix.to_owned(),
            endpoint,
        };
        Ok(Self { inner: Arc::new(inner), runtime: Some(runtime) })
    }

    /// Waits for a request, or several.
    fn wait<T>(&self, work: impl Future<Output = T>) -> Result<T> {
        let runtime = self.runtime.as_ref();
        let runtime = runtime.ok_or_else(|| Error::new(ErrorKind::Cancelled, "asking the bucket"))?;
        Ok(runtime.block_on(work))
    }
}

impl Drop for S3 {
    /// Does not wait for requests that nobody waits for.
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Inner {
    fn path(&self, name: &str) -> Path {
        if self.prefix.is_empty() { Path::from(name) } else { Path::from(format!("{}/{name}", self.prefix)) }
    }

    /// The object's name in the store.
    fn name<'a>(&self, location: &'a Path) -> &'a str {
        let whole = location.as_ref();
        whole.strip_prefix(&self.prefix).unwrap_or(whole).trim_start_matches('/')
    }

    fn error(&self, doing: &str, name: &str, failure: Failure) -> Error {
        let doing = format!("{doing} s3://{}/{}", self.bucket, self.path(name));
        failure.explain(doing, &self.bucket, &self.endpoint)
    }

    /// Tries until it succeeds, or trying does not help; answers how often it failed before.
    async fn persist<T, F>(&self, attempt: impl FnMut() -> F) -> std::result::Result<(T, u32), Failure>
    where
        F: Future<Output = object_store::Result<T>>,
    {
        let found = persist(&self.permits, &self.patience, &self.reached, attempt).await;
        if found.is_ok() {
            self.reached.store(true, Ordering::Relaxed);
        }
        found
    }

    /// The object or a range of it, and its whole length; none where there is none.
    async fn get(
        &self,
        name: &str,
        range: Option<GetRange>,
        most: u64,
    ) -> std::result::Result<Option<(Vec<u8>, u64)>, Failure> {
        let path = self.path(name);
        let got = self
            .persist(|| async {
                let options = GetOptions { range: range.clone(), ..GetOptions::default() };
                let found = match self.store.get_opts(&path, options).await {
                    // Of an empty object there is no range: some servers refuse it, others send what there is.
                    Err(error) if error.to_string().contains("non-partial response") => {
                        self.store.get_opts(&path, GetOptions::default()).await?
                    }
                    found => found?,
                };
                let (len, range) = (found.meta.size, found.range.clone());
                let wanted = range.end.saturating_sub(range.start);
                if wanted > most {
                    return Ok((Vec::new(), len));
                }
                let mut bytes = Vec::with_capacity(wanted as usize);
                let mut stream = found.into_stream();
                while let Some(piece) = stream.try_next().await? {
                    bytes.extend_from_slice(&piece);
                }
                if bytes.len() as u64 != wanted {
                    return Err(failure::short(wanted, bytes.len() as u64));
                }
                Ok((bytes, len))
            })
            .await;
        match got {
            Ok((found, _)) => Ok(Some(found)),
            Err(failure) if failure.is_absent() => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    async fn put(&self, name: &str, data: Bytes) -> std::result::Result<(), Failure> {
        let path = self.path(name);
        if data.len() <= PART {
            let options = PutOptions::default;
            let put = || self.store.put_opts(&path, PutPayload::from(data.clone()), options());
            return self.persist(put).await.map(drop);
        }
        let mut rounds = 0;
        loop {
            rounds += 1;
            match self.put_parts(&path, &data).await {
                Err(failure) if failure.has("NoSuchUpload") && rounds < UPLOADS => {}
                done => return done,
            }
        }
    }

    async fn put_parts(&self, path: &Path, data: &Bytes) -> std::result::Result<(), Failure> {
        let (id, _) = self.persist(|| self.store.create_multipart(path)).await?;
        let ended = self.send_parts(path, &id, data).await;
        if ended.is_err() {
            // What may stay of it, the bucket's own rule for unfinished uploads removes.
            let _ = self.store.abort_multipart(path, &id).await;
        }
        ended
    }

    async fn send_parts(
        &self,
        path: &Path,
        id: &MultipartId,
        data: &Bytes,
    ) -> std::result::Result<(), Failure> {
        let part = |index: usize| async move {
            let from = index * PART;
            let bytes = data.slice(from..data.len().min(from + PART));
            let send = || self.store.put_part(path, id, index, PutPayload::from(bytes.clone()));
            self.persist(send).await.map(|(part, _)| part)
        };
        let parts: Vec<PartId> =
            futures_util::future::try_join_all((0..data.len().div_ceil(PART)).map(part)).await?;
        let completed = self.persist(|| self.store.complete_multipart(path, id, parts.clone())).await;
        match completed {
            Ok(_) => Ok(()),
            // The first answer was lost on its way, and there is nothing left to complete.
            Err(failure) if failure.tries > 0 && failure.has("NoSuchUpload") => {
                let name = self.name(path);
                match self.get(name, Some(GetRange::Suffix(1)), 1).await? {
                    Some((_, len)) if len == data.len() as u64 => Ok(()),
                    _ => Err(failure),
                }
            }
            Err(failure) => Err(failure),
        }
    }

    async fn create(&self, name: &str, data: Bytes) -> std::result::Result<bool, Failure> {
        let path = self.path(name);
        // Servers that do not know the condition ignore it: then this alone keeps what is there.
        match self.get(name, Some(GetRange::Suffix(1)), 1).await {
            Ok(None) => {}
            Ok(Some(_)) => return Ok(false),
            // It is there, and empty.
            Err(failure) if failure.status() == Some(416) => return Ok(false),
            Err(failure) => return Err(failure),
        }
        let put = |mode: PutMode| {
            let options = PutOptions { mode, ..PutOptions::default() };
            self.store.put_opts(&path, PutPayload::from(data.clone()), options)
        };
        match self.persist(|| put(PutMode::Create)).await {
            Ok(_) => Ok(true),
            // An attempt whose answer was lost may have been ours.
            Err(failure) if failure.already_exists() && failure.tries > 0 => {
                let there = self.get(name, None, data.len() as u64).await?;
                Ok(there.is_some_and(|(bytes, _)| bytes == data))
            }
            Err(failure) if failure.already_exists() => Ok(false),
            Err(failure) if failure.has("NotImplemented") || failure.status() == Some(501) => {
                self.persist(|| put(PutMode::Overwrite)).await.map(|_| true)
            }
            Err(failure) => Err(failure),
        }
    }

    /// Objects below `prefix` and behind `after`, up to [`PAGE`] of them.
    async fn page(
        &self,
        prefix: Option<&Path>,
        after: Option<&Path>,
    ) -> std::result::Result<Vec<ObjectMeta>, Failure> {
        let list = || async {
            let stream = match after {
                Some(after) => self.store.list_with_offset(prefix, after),
                None => self.store.list(prefix),
            };
            stream.take(PAGE).try_collect::<Vec<_>>().await
        };
        self.persist(list).await.map(|(page, _)| page)
    }
}

impl Backend for S3 {
    fn describe(&self) -> String {
        let Inner { bucket, prefix, .. } = &*self.inner;
        if prefix.is_empty() { format!("s3://{bucket}") } else { format!("s3://{bucket}/{prefix}") }
    }

    fn is_remote(&self) -> bool {
        true
    }

    fn get(&self, name: &str, most: u64) -> Result<Option<Vec<u8>>> {
        let inner = &self.inner;
        let got =
            self.wait(inner.get(name, None, most))?.map_err(|error| inner.error("reading", name, error))?;
        let Some((bytes, len)) = got else { return Ok(None) };
        if len > most {
            return Err(Error::malformed(
                format!("reading s3://{}/{}", inner.bucket, inner.path(name)),
                format!("it has more than {most} bytes"),
            ));
        }
        Ok(Some(bytes))
    }

    fn read(&self, name: &str, buf: &mut [u8], offset: u64) -> Result<()> {
        if buf.is_empty() {
            return Ok(());
        }
        let inner = &self.inner;
        let (path, len) = (inner.path(name), buf.len() as u64);
        // What has arrived of a broken answer is not asked for again.
        let state = std::sync::Mutex::new((0usize, buf));
        let read = inner.persist(|| async {
            let begun = state.lock().map_or(0, |state| state.0) as u64;
            let range = GetRange::Bounded(offset.saturating_add(begun)..offset.saturating_add(len));
            let options = GetOptions { range: Some(range), ..GetOptions::default() };
            let mut stream = self.inner.store.get_opts(&path, options).await?.into_stream();
            while let Some(piece) = stream.try_next().await? {
                let mut state = state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                let (done, buf) = &mut *state;
                let Some(room) = buf.get_mut(*done..*done + piece.len()) else { break };
                room.copy_from_slice(&piece);
                *done += piece.len();
            }
            let done = state.lock().map_or(0, |state| state.0) as u64;
            if done < len { Err(failure::short(len, done)) } else { Ok(()) }
        });
        match self.wait(read)? {
            Ok(_) => Ok(()),
            Err(failure) if failure.is_absent() => {
                Err(Error::io("reading", std::io::ErrorKind::NotFound.into()).path(path.as_ref()).at(offset))
            }
            Err(failure) => Err(inner.error("reading", name, failure).at(offset)),
        }
    }

    fn tail(&self, name: &str, most: u64) -> Result<Option<(Vec<u8>, u64)>> {
        let inner = &self.inner;
        let suffix = Some(GetRange::Suffix(most.max(1)));
        match self.wait(inner.get(name, suffix, most))? {
            // An empty object has no range that could be asked for.
            Err(failure) if failure.status() == Some(416) => Ok(self.get(name, most)?.map(|all| (all, 0))),
            found => found.map_err(|error| inner.error("reading", name, error)),
        }
    }

    fn put(&self, name: &str, data: &[u8]) -> Result<()> {
        let inner = &self.inner;
        let put = self.wait(inner.put(name, Bytes::copy_from_slice(data)))?;
        put.map_err(|error| inner.error("writing", name, error))
    }

    fn put_buffer(&self, name: &str, data: &mut Vec<u8>) -> Result<()> {
        let inner = &self.inner;
        let bytes = Bytes::from(std::mem::take(data));
        let put = self.wait(inner.put(name, bytes.clone()))?;
        // The buffer itself, unless a request that was given up still has a hand on it.
        *data = bytes.try_into_mut().map_or_else(|_| Vec::new(), Vec::from);
        put.map_err(|error| inner.error("writing", name, error))
    }

    fn create(&self, name: &str, data: &[u8]) -> Result<bool> {
        let inner = &self.inner;
        let created = self.wait(inner.create(name, Bytes::copy_from_slice(data)))?;
        created.map_err(|error| inner.error("writing", name, error))
    }

    /// An object whose writing was answered is there.
    fn barrier(&self) -> Result<()> {
        Ok(())
    }

    fn delete(&self, name: &str) -> Result<()> {
        let inner = &self.inner;
        let path = inner.path(name);
        let delete = || async {
            let one = futures_util::stream::once(std::future::ready(Ok(path.clone()))).boxed();
            self.inner.store.delete_stream(one).try_collect::<Vec<_>>().await.map(drop)
        };
        match self.wait(inner.persist(delete))? {
            Ok(_) => Ok(()),
            Err(failure) if failure.is_absent() => Ok(()),
            Err(failure) => Err(inner.error("removing", name, failure)),
        }
    }

    fn list(&self, prefix: &str, each: &mut dyn FnMut(Listed) -> Result<()>) -> Result<()> {
        let inner = &self.inner;
        let below = inner.path(prefix.trim_end_matches('/'));
        let below = Some(&below).filter(|path| !path.as_ref().is_empty());
        let mut after: Option<Path> = None;
        loop {
            let page = self.wait(inner.page(below, after.as_ref()))?;
            let page = page.map_err(|error| inner.error("listing", prefix, error))?;
            let last = page.len() < PAGE;
            after = page.last().map(|found| found.location.clone());
            for found in page {
                each(Listed { name: inner.name(&found.location).to_owned(), bytes: found.size })?;
            }
            if last {
                return Ok(());
            }
        }
    }
}
