// SPDX-License-Identifier: Apache-2.0
//! Who may do what with the store: asked of the server's state with every request.

use unmoor_images::Result;
use unmoor_images::store::ImageName;

use crate::api::Committed;

/// SHA-256 of the key (SubjectPublicKeyInfo, DER) that the peer's certificate has. The TLS acceptor puts it among a request's
/// extensions; without one nothing of a job is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PeerKey(pub [u8; 32]);

/// What a job's token is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reach {
    /// A new image of a machine.
    Capture {
        /// The machine's name in the store.
        machine: String,
    },
    /// Reading one image.
    Restore {
        /// Which; with its time.
        image: ImageName,
    },
}

/// A request that is let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access {
    /// The job.
    pub job: u64,
    /// What it may do.
    pub reach: Reach,
    /// Most bytes per second that the job may send or fetch, for the agent to keep; 0 means as many as there are.
    pub rate_limit: u64,
}

/// The server's state, as far as the store has to know it. All of it may block.
///
/// Errors of `admit` are `Refused` where key, token and job do not belong together, or the token has ended: the peer is told nothing
/// more.
pub trait Gate: Send + Sync {
    /// Lets a request of the job in, or not.
    fn admit(&self, key: &[u8; 32], token: &str, job: u64) -> Result<Access>;

    /// An image was stored. Called before the agent hears of it; if that fails the agent asks again.
    fn committed(&self, job: u64, committed: &Committed) -> Result<()>;

    /// What `committed` was told of this job: a commit whose answer was lost is answered the same again.
    fn committed_before(&self, job: u64) -> Result<Option<Committed>>;
}
