// SPDX-License-Identifier: Apache-2.0
//! What a server is told when it starts.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use unmoor_images::store::Store;

use super::Server;
use crate::api::Selector;

/// Makes the pages that are served beside the API: everything that is not below `/v1`.
pub type Web = Arc<dyn Fn(&Arc<Server>) -> axum::Router + Send + Sync>;

/// How a server runs.
pub struct Options {
    /// The folder of its state: `state.sqlite`, `ca.pem`, `ca.key`, `server.pem`, `server.key`, `admin.token`. Made where it is missing.
    pub state: PathBuf,
    /// Where HTTPS is served. Port 0 takes a free one.
    pub listen: SocketAddr,
    /// DNS names and addresses for the server's own certificate.
    pub names: Vec<String>,
    /// Files (PEM) with a certificate chain and its key, where the server is to have those in place of its own.
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// Where images lie.
    pub store: Arc<Store>,
    /// Machines of the configuration.
    pub machines: Vec<Known>,
    /// Groups of the configuration.
    pub groups: Vec<Group>,
    /// Most bytes per second of all jobs together; 0 means as many as there are.
    pub rate_limit: u64,
    /// The web page.
    pub web: Option<Web>,
}

/// A machine of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// Its name.
    pub name: String,
    /// How it is recognized.
    pub selector: Selector,
    /// The group that it belongs to.
    pub group: Option<String>,
    /// The key that is approved beforehand: SHA-256 of its SubjectPublicKeyInfo (64 hex digits), or its short code.
    pub key: Option<String>,
}

/// Machines that are treated alike.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// Keys need no approval: whoever reaches the server and says that it is a machine of this group is believed.
    pub trust_network: bool,
    /// The profile that a restore with `auto` takes.
    pub profile: Option<String>,
    /// Words more on the kernel's command line. Never a secret.
    pub options: Vec<String>,
    /// Machines that the configuration does not name belong to it.
    pub unknown: bool,
}
