// SPDX-License-Identifier: Apache-2.0
//! The server: machines, jobs, and the store behind them.
//!
//! ```text
//!   HTTPS --tls::Acceptor--> Peer (address, key) --http--> State (SQLite, sessions)     Admin, Choices, store::Gate
//!              `- limits        `- guard: 401, 429           `- events --> /v1/events, the web page
//! ```
//!
//! Async code waits for the network alone; what waits for a disk runs on threads for that.

mod admin;
mod certs;
pub mod errors;
mod http;
mod limits;
mod notes;
mod options;
mod state;
pub mod store;
mod tls;

#[cfg(test)]
mod tests;

use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use unmoor_images::monitor::Event;
use unmoor_images::store::Store;
use unmoor_images::{Error, ErrorKind, Monitor, Result, ResultExt};

use crate::api::{Approve, Committed, Job, LogLine, Machine, NewJob};
use crate::boot::{Asker, Choice, Choices};
use limits::Limits;
use notes::Notes;
use state::{Pace, Setting, State};
use store::{Access, Gate};

pub use admin::{Admin, Image, Subscription};
pub use options::{Group, Known, Options, Web};

/// Between two looks at whether to go on.
const LOOK: Duration = Duration::from_millis(100);
/// How long requests that are being answered may take when the server ends.
const GRACE: Duration = Duration::from_secs(3);
/// How long a request's head may take.
const HEAD: Duration = Duration::from_secs(15);
/// Threads for what waits for disks.
const BLOCKING: usize = 64;

/// A server that can serve.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    tls: Arc<rustls::ServerConfig>,
    ca_pem: String,
    pin: [u8; 32],
    admin_token: String,
    state: Arc<State>,
    store: Arc<Store>,
    rate_limit: u64,
    web: Option<Web>,
    limits: Arc<Limits>,
    traffic: Arc<tls::Traffic>,
    requests: http::Requests,
    said: Mutex<Receiver<Event>>,
    stopping: AtomicBool,
}

impl Server {
    /// Opens the state, and makes keys, certificates and the admin's token where there are none.
    ///
    /// # Errors
    ///
    /// `Refused` where another server has the state or a key is missing, `Io` where the address is taken.
    pub fn open(options: Options) -> Result<Arc<Self>> {
        Self::open_at(options, Pace::default())
    }

    fn open_at(options: Options, pace: Pace) -> Result<Arc<Self>> {
        let folder = &options.state;
        prepare(folder)?;
        let identity = certs::Identity::open(folder, &options.names, options.certificate.as_ref())?;
        let tls = Arc::new(tls::config(&identity)?);
        let admin_token = certs::admin_token(folder)?;
        let (notes, said) = Notes::new();
        let setting =
            Setting { store: options.store.clone(), known: options.machines, groups: options.groups, pace };
        let state = State::open(&folder.join("state.sqlite"), setting, notes)?;
        let listening = || format!("listening on {}", options.listen);
        let listener = TcpListener::bind(options.listen).doing(listening)?;
        let address = listener.local_addr().doing(listening)?;
        Ok(Arc::new(Self {
            listener,
            address,
            tls,
            ca_pem: identity.ca_pem,
            pin: identity.pin,
            admin_token,
            state: Arc::new(state),
            store: options.store,
            rate_limit: options.rate_limit,
            web: options.web,
            limits: Arc::default(),
            traffic: Arc::default(),
            requests: http::Requests::default(),
            said: Mutex::new(said),
            stopping: AtomicBool::new(false),
        }))
    }

    /// Where HTTPS is served.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The CA's certificate: what agents and administrators trust. Public.
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// SHA-256 of the CA's certificate (DER), as hex digits.
    pub fn pin(&self) -> String {
        state::hex(&self.pin)
    }

    /// The administrators' token.
    pub fn admin_token(&self) -> &str {
        &self.admin_token
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// Serves HTTPS until `stopped`, asked several times a second. The monitor hears what happens, as lines of `key=value`.
    ///
    /// # Errors
    ///
    /// Those of starting; a request's are its own.
    pub fn serve(self: &Arc<Self>, stopped: &(dyn Fn() -> bool + Sync), monitor: &dyn Monitor) -> Result<()> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .max_blocking_threads(BLOCKING)
            .thread_name("serve")
            .enable_all()
            .build()
            .doing(|| "starting threads")?;
        let handle = axum_server::Handle::new();
        let serving = runtime.spawn(self.clone().accept(handle.clone()));
        let mut ticked = Instant::now();
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        while !stopped() && !serving.is_finished() {
            match said.recv_timeout(LOOK) {
                Ok(event) => monitor.event(event),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
            }
            if ticked.elapsed() >= Duration::from_secs(1) {
                ticked = Instant::now();
                if let Err(error) = self.state.tick() {
                    monitor.warn(error.chain());
                }
            }
        }
        self.stopping.store(true, Ordering::Relaxed);
        self.state.wake_all();
        handle.graceful_shutdown(Some(GRACE));
        let ended = runtime.block_on(serving);
        runtime.shutdown_timeout(GRACE);
        self.state.flush()?;
        said.try_iter().for_each(|event| monitor.event(event));
        match ended {
            Ok(served) => served,
            Err(error) => Err(Error::new(ErrorKind::Io, "serving HTTPS").source(error)),
        }
    }

    async fn accept(self: Arc<Self>, handle: axum_server::Handle<SocketAddr>) -> Result<()> {
        let serving = || "serving HTTPS";
        let listener = self.listener.try_clone().doing(serving)?;
        let acceptor = tls::Acceptor {
            tls: self.tls.clone().into(),
            limits: self.limits.clone(),
            traffic: self.traffic.clone(),
        };
        let mut server =
            axum_server::from_tcp(listener).doing(serving)?.acceptor(acceptor).handle(handle).http1_only();
        server.http_builder().http1().header_read_timeout(HEAD).max_buf_size(64 << 10).max_headers(64);
        server.first_request_timeout(HEAD).serve(http::router(&self).into_make_service()).await.doing(serving)
    }
}

/// The folder of the state, for its owner alone.
fn prepare(folder: &Path) -> Result<()> {
    let doing = || format!("preparing the state's folder {}", folder.display());
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).doing(doing)?;
    let database = folder.join("state.sqlite");
    if !database.exists() {
        certs::write(&database, &[])?;
    }
    let mode = std::fs::metadata(&database).doing(doing)?.permissions().mode();
    if mode & 0o077 != 0 {
        std::fs::set_permissions(&database, std::fs::Permissions::from_mode(0o600)).doing(doing)?;
    }
    Ok(())
}

impl Choices for Server {
    fn choose(&self, asker: &Asker) -> Result<Choice> {
        self.state.choose(asker)
    }
}

impl Gate for State {
    fn admit(&self, key: &[u8; 32], token: &str, job: u64) -> Result<Access> {
        self.admit(key, token, job)
    }

    fn committed(&self, job: u64, committed: &Committed) -> Result<()> {
        self.committed(job, committed)
    }

    fn committed_before(&self, job: u64) -> Result<Option<Committed>> {
        self.committed_before(job)
    }
}

impl Admin for Server {
    fn machines(&self) -> Result<Vec<Machine>> {
        self.state.machines()
    }

    fn machine(&self, id: u64) -> Result<Machine> {
        self.state.machine(id)
    }

    fn log(&self, id: u64, most: usize) -> Result<Vec<LogLine>> {
        self.state.lines(id, most)
    }

    fn approve(&self, id: u64, approve: &Approve) -> Result<Machine> {
        self.state.approve(id, approve)
    }

    fn forget(&self, id: u64) -> Result<()> {
        self.state.forget(id)
    }

    fn jobs(&self, most: usize) -> Result<Vec<Job>> {
        self.state.jobs(most)
    }

    fn job(&self, id: u64) -> Result<Job> {
        self.state.job(id)
    }

    fn add_job(&self, job: &NewJob) -> Result<Job> {
        self.state.add_job(job)
    }

    fn cancel_job(&self, id: u64) -> Result<Job> {
        self.state.cancel_job(id)
    }

    fn retry_job(&self, id: u64) -> Result<Job> {
        self.state.retry_job(id)
    }

    fn images(&self) -> Result<Vec<Image>> {
        admin::images(&self.store)
    }

    fn subscribe(&self) -> Subscription {
        self.state.subscribe()
    }
}
