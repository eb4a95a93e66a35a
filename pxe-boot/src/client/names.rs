// SPDX-License-Identifier: Apache-2.0
//! Names of hosts, by our own resolver: the C library's does not work in a static executable.

use std::net::SocketAddr;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use unmoor_images::store::backend::addresses;

/// Resolves by `/etc/hosts` and the name servers of `/etc/resolv.conf`.
pub(super) struct Names;

impl Resolve for Names {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let found = addresses(name.as_str()).await?;
            let found: Addrs = Box::new(found.into_iter().map(|address| SocketAddr::new(address, 0)));
            Ok(found)
        })
    }
}
