// SPDX-License-Identifier: Apache-2.0
//! The web page: machines, jobs and images for people, over [`Admin`].
//!
//! ```text
//!   router --guard: session cookie--> machines, machine, jobs, images  --> Html (escapes all that it is given) --> page
//!                                     actions: form -> review -> POST with the session's token -> 303
//!                                     events: what changed, so that the script asks for its page again
//! ```
//!
//! Pages are complete without the script; with it they stay up to date: it fetches the page that it is on, and changes what differs.
//! To add a page: a file with a function that fills an `html::Html`, and its route here.

mod actions;
mod assets;
mod disks;
mod events;
mod format;
mod forms;
mod guard;
mod html;
mod images;
mod job;
mod jobs;
mod login;
mod machine;
mod machines;
mod page;
mod review;
mod session;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use axum::Router;
use axum::routing::{get, post};
use unmoor_images::{Error, ErrorKind, Result};

use crate::server::Admin;
use session::{Attempts, Sessions};

/// Whether a token is the administrator's.
pub type Check = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// What all pages share.
struct Web {
    admin: Arc<dyn Admin>,
    check: Check,
    sessions: Sessions,
    attempts: Attempts,
}

impl Web {
    /// Asks, where blocking is no harm.
    async fn ask<T: Send + 'static>(
        self: &Arc<Self>,
        question: impl FnOnce(&dyn Admin) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let web = self.clone();
        tokio::task::spawn_blocking(move || question(web.admin.as_ref()))
            .await
            .unwrap_or_else(|error| Err(Error::new(ErrorKind::Io, "answering").source(error)))
    }
}

/// The pages. They are to be served by HTTPS alone, since the session's cookie is for that; `check` says who may sign in. Where the
/// request carries `ConnectInfo<SocketAddr>`, failed attempts are counted by address.
pub fn router(admin: Arc<dyn Admin>, check: Check) -> Router {
    let web = Arc::new(Web { admin, check, sessions: Sessions::default(), attempts: Attempts::default() });
    let pages = Router::new()
        .route("/", get(machines::list))
        .route("/machines/{id}", get(machine::show))
        .route("/machines/{id}/{action}", get(actions::ask).post(actions::act))
        .route("/jobs", get(jobs::list))
        .route("/jobs/new", get(actions::choose))
        .route("/jobs/new/{action}", get(actions::ask_expected).post(actions::act_expected))
        .route("/jobs/{id}", get(job::show))
        .route("/jobs/{id}/{action}", get(job::ask).post(job::act))
        .route("/images", get(images::list))
        .route("/events", get(events::stream))
        .route("/logout", post(login::leave))
        .route_layer(axum::middleware::from_fn_with_state(web.clone(), guard::signed_in));
    Router::new()
        .route("/login", get(login::ask).post(login::enter))
        .route("/assets/{name}", get(assets::get))
        .merge(pages)
        .layer(axum::middleware::from_fn(guard::headers))
        .with_state(web)
}
