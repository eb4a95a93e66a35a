// SPDX-License-Identifier: Apache-2.0
//! The listener, and what a network may take of it.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Extension;
use axum::extract::ConnectInfo;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use unmoor_images::{Error, Monitor, Result};

use super::routes;
use crate::boot::starter::Starter;

const TICK: Duration = Duration::from_millis(250);
/// How long a client may take for the head of a request, and be silent between two.
const HEAD: Duration = Duration::from_secs(20);
/// Bytes of a request's head at most.
const LARGEST_HEAD: usize = 16 << 10;
const MOST_HEADERS: usize = 64;
/// A client that takes nothing for so many milliseconds is gone.
const STALLED: u32 = 30_000;
/// Lines that wait to be told; what is more is dropped.
const LINES: usize = 1024;

/// What a network may take of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections at a time.
    pub connections: usize,
    /// Of them, from one address.
    pub of_client: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections: 1024, of_client: 16 }
    }
}

/// What is to be told, from tasks that the monitor's lifetime does not reach.
#[derive(Clone)]
pub(super) struct Teller(mpsc::Sender<(bool, String)>);

impl Teller {
    pub(super) fn note(&self, text: String) {
        let _ = self.0.try_send((false, text));
    }

    pub(super) fn warn(&self, text: String) {
        let _ = self.0.try_send((true, text));
    }
}

/// A server that listens.
pub struct Server {
    listener: std::net::TcpListener,
    address: SocketAddr,
    limits: Limits,
}

impl Server {
    /// Listens; firmware asks port 80.
    ///
    /// # Errors
    ///
    /// `Io` where the port is taken.
    pub fn bind(address: SocketAddr, limits: Limits) -> Result<Self> {
        let failed = |error| Error::io(format!("listening for HTTP on {address}"), error);
        let listener = std::net::TcpListener::bind(address).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self { listener, address, limits })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until the monitor is cancelled; what is being sent then is cut.
    ///
    /// # Errors
    ///
    /// `Io` where the runtime does not start.
    pub fn serve(&self, starter: Arc<Starter>, monitor: &dyn Monitor) -> Result<()> {
        let failed = |error| Error::io("serving HTTP", error);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .max_blocking_threads(16)
            .thread_name("boot-http")
            .enable_all()
            .build()
            .map_err(failed)?;
        let listener = self.listener.try_clone().map_err(failed)?;
        let outcome = runtime.block_on(async {
            let listener = TcpListener::from_std(listener).map_err(failed)?;
            self.accept(&listener, starter, monitor).await;
            Ok(())
        });
        runtime.shutdown_timeout(Duration::from_secs(1));
        outcome
    }

    async fn accept(&self, listener: &TcpListener, starter: Arc<Starter>, monitor: &dyn Monitor) {
        let (sender, mut lines) = mpsc::channel(LINES);
        let router = routes::router(starter, Teller(sender));
        let running = Arc::new(Running::default());
        let mut tick = tokio::time::interval(TICK);
        while !monitor.cancelled() {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, client)) => {
                        // Beyond the limits a connection is closed at once: whoever boots tries again.
                        let Some(place) = Place::take(&running, client.ip(), self.limits) else { continue };
                        let router = router.clone().layer(Extension(ConnectInfo(client)));
                        tokio::spawn(async move {
                            connection(stream, router).await;
                            drop(place);
                        });
                    }
                    // Of the connection, or for want of descriptors: neither ends the server.
                    Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                },
                Some((is_warning, line)) = lines.recv() => {
                    if is_warning { monitor.warn(line) } else { monitor.note(line) }
                }
                _ = tick.tick() => {}
            }
        }
    }
}

async fn connection(stream: TcpStream, router: axum::Router) {
    // Neither is needed to serve.
    let _ = stream.set_nodelay(true);
    let _ = setsockopt(&stream, sockopt::TcpUserTimeout, &STALLED);
    // Its errors are the client's: it went away, or spoke something else.
    let _ = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(LARGEST_HEAD)
        .max_headers(MOST_HEADERS)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
        .await;
}

/// Connections by client.
#[derive(Default)]
struct Running(Mutex<HashMap<IpAddr, usize>>);

/// A connection that counts.
struct Place(Arc<Running>, IpAddr);

impl Place {
    fn take(running: &Arc<Running>, client: IpAddr, limits: Limits) -> Option<Self> {
        let mut clients = running.0.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = clients.values().sum();
        let own = clients.get(&client).copied().unwrap_or(0);
        if all >= limits.connections || own >= limits.of_client {
            return None;
        }
        clients.insert(client, own.saturating_add(1));
        Some(Self(Arc::clone(running), client))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut clients = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = clients.get_mut(&self.1) {
            *own = own.saturating_sub(1);
            if *own == 0 {
                clients.remove(&self.1);
            }
        }
    }
}
