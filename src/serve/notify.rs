// SPDX-License-Identifier: Apache-2.0
//! sd_notify(3), where a service manager asks for it.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// It serves.
pub(super) fn ready() {
    tell("READY=1");
}

/// It ends.
pub(super) fn stopping() {
    tell("STOPPING=1");
}

/// A manager that does not listen is none of the server's concern.
fn tell(what: &str) {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let address = match path.as_encoded_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(&path),
    };
    if let (Ok(address), Ok(socket)) = (address, UnixDatagram::unbound()) {
        let _ = socket.send_to_addr(what.as_bytes(), &address);
    }
}
