// SPDX-License-Identifier: Apache-2.0
//! Where a server listens, and the URIs for it.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use unmoor_images::{Error, Result};

use super::accept_failed;
use super::channel::Socket;

/// Where to listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// Address and port; port 0 takes a free one.
    Tcp(SocketAddr),
    /// A socket of the filesystem.
    Unix(PathBuf),
}

enum Inner {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// A socket that listens. A socket of the filesystem is removed when this is dropped.
pub struct Listener {
    inner: Inner,
    address: Address,
    tls: bool,
}

impl Listener {
    /// Listens at `address`; `tls` is for the URIs.
    ///
    /// # Errors
    ///
    /// `Refused` where something that is not a dead server's socket lies at the path.
    pub fn bind(address: &Address, tls: bool) -> Result<Self> {
        let (inner, address) = match address {
            Address::Tcp(address) => {
                let failed = |error| Error::io(format!("listening on {address}"), error);
                let listener = TcpListener::bind(address).map_err(failed)?;
                listener.set_nonblocking(true).map_err(failed)?;
                let bound = listener.local_addr().map_err(failed)?;
                (Inner::Tcp(listener), Address::Tcp(bound))
            }
            Address::Unix(path) => {
                let failed = |error| Error::io("listening on", error).path(path);
                remove_stale(path)?;
                let listener = UnixListener::bind(path).map_err(failed)?;
                listener.set_nonblocking(true).map_err(failed)?;
                let path = path.canonicalize().map_err(failed)?;
                (Inner::Unix(listener), Address::Unix(path))
            }
        };
        Ok(Self { inner, address, tls })
    }

    /// Where it listens.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// The URI of an export (`doc/uri.md` beside the specification).
    pub fn uri(&self, export: &str) -> String {
        let scheme = if self.tls { "nbds" } else { "nbd" };
        let export = escaped(export.as_bytes(), b"");
        match &self.address {
            Address::Tcp(address) => format!("{scheme}://{address}/{export}"),
            Address::Unix(path) => {
                use std::os::unix::ffi::OsStrExt;
                format!("{scheme}+unix:///{export}?socket={}", escaped(path.as_os_str().as_bytes(), b"/"))
            }
        }
    }

    /// Waits at most `limit` for a client; its socket, and what to call it.
    pub(super) fn accept(&self, limit: Duration) -> Result<Option<(Socket, String)>> {
        let handle = match &self.inner {
            Inner::Tcp(listener) => listener.as_fd(),
            Inner::Unix(listener) => listener.as_fd(),
        };
        let timeout = PollTimeout::try_from(limit).unwrap_or(PollTimeout::ZERO);
        match poll(&mut [PollFd::new(handle, PollFlags::POLLIN)], timeout) {
            Ok(0) | Err(Errno::EINTR) => return Ok(None),
            other => other.map_err(|errno| accept_failed(errno.into()))?,
        };
        let accepted = match &self.inner {
            Inner::Tcp(listener) => {
                listener.accept().map(|(stream, peer)| (Socket::Tcp(stream), peer.to_string()))
            }
            Inner::Unix(listener) => {
                listener.accept().map(|(stream, _)| (Socket::Unix(stream), "a local client".to_owned()))
            }
        };
        match accepted {
            Ok(client) => Ok(Some(client)),
            Err(error) if passes(&error) => {
                // Of EMFILE and the like: the queue stays as it is, and asking again at once would only burn time.
                std::thread::sleep(Duration::from_millis(20));
                Ok(None)
            }
            Err(error) => Err(accept_failed(error)),
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Address::Unix(path) = &self.address {
            // Somebody may have removed it already.
            let _ = fs::remove_file(path);
        }
    }
}

/// True for what a client or a lack of something causes, after which the next accept may succeed (accept(2), "Error handling").
fn passes(error: &io::Error) -> bool {
    let passing = [libc::ECONNABORTED, libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM, libc::EPROTO];
    error.kind() == io::ErrorKind::WouldBlock
        || error.kind() == io::ErrorKind::Interrupted
        || error.raw_os_error().is_some_and(|errno| passing.contains(&errno))
}

/// Removes the socket of a server that was killed.
fn remove_stale(path: &Path) -> Result<()> {
    let refused = |because: &'static str| Err(Error::refused("listening on", because).path(path));
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Error::io("listening on", error).path(path)),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return refused("something that is not a socket is there: choose another name");
        }
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(|error| Error::io("removing the socket", error).path(path))
        }
        _ => refused("another server listens there"),
    }
}

/// Percent-encoding of all but the unreserved characters of RFC 3986, section 2.3, and those of `also`.
fn escaped(bytes: &[u8], also: &[u8]) -> String {
    let escape = |byte: &u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(*byte).to_string(),
        other if also.contains(other) => char::from(*other).to_string(),
        other => format!("%{other:02X}"),
    };
    bytes.iter().map(escape).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris_name_the_port_that_was_taken_and_escape_what_has_a_meaning() {
        let address = Address::Tcp("127.0.0.1:0".parse().unwrap());
        let listener = Listener::bind(&address, true).unwrap();
        let Address::Tcp(bound) = listener.address() else { panic!("it is TCP") };
        assert_ne!(bound.port(), 0);
        assert_eq!(listener.uri("disk 1?"), format!("nbds://127.0.0.1:{}/disk%201%3F", bound.port()));
    }

    #[test]
    fn a_dead_servers_socket_is_replaced_and_nothing_else_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a & b");
        let address = Address::Unix(path.clone());
        let first = Listener::bind(&address, false).unwrap();
        assert!(
            first.uri("").starts_with("nbd+unix:///?socket=/") && first.uri("").ends_with("/a%20%26%20b")
        );
        assert_eq!(Listener::bind(&address, false).err().unwrap().kind(), unmoor_images::ErrorKind::Refused);
        drop(first);
        assert!(!path.exists());
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "what a killed server leaves");
        drop(Listener::bind(&address, false).unwrap());
        fs::write(&path, "precious").unwrap();
        assert!(Listener::bind(&address, false).is_err());
        assert_eq!(fs::read(&path).unwrap(), b"precious");
    }
}
