// SPDX-License-Identifier: Apache-2.0
//! `/jobs`: all jobs.

use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::{Extension, State};
use axum::response::Response;

use super::Web;
use super::format::{self, between, duration};
use super::html::Html;
use super::page::{Failure, Page, Tab};
use super::session::Session;
use crate::api::Job;

/// Jobs that are listed.
const MOST: usize = 200;

/// `GET /jobs`
pub(super) async fn list(
    State(web): State<Arc<Web>>,
    Extension(session): Extension<Session>,
) -> Result<Response, Failure> {
    let (jobs, machines) = web
        .ask(|admin| Ok((admin.jobs(MOST)?, admin.machines()?)))
        .await
        .map_err(|error| Failure::new(&error, &session))?;
    let names: HashMap<u64, String> =
        machines.into_iter().map(|machine| (machine.id, machine.name)).collect();
    let mut body = Html::default();
    body.raw("<div class='head'><h1>Jobs</h1><a class='button' href='/jobs/new'>New job…</a></div>");
    if jobs.is_empty() {
        body.raw("<p class='empty'>No job yet. Open a machine to give it one.</p>");
    }
    let (open, ended): (Vec<&Job>, Vec<&Job>) = jobs.iter().partition(|job| !format::ended(job.state));
    if !open.is_empty() {
        body.raw("<section aria-labelledby='h-open'><h2 id='h-open'>Open</h2>");
        named_table(&mut body, &open, "Open jobs", Some(&names));
        body.raw("</section>");
    }
    if !ended.is_empty() {
        body.raw("<section aria-labelledby='h-ended'><h2 id='h-ended'>Ended</h2>");
        named_table(&mut body, &ended, "Ended jobs", Some(&names));
        body.raw("</section>");
    }
    let page = Page { tab: Tab::Jobs, title: "Jobs".to_owned(), live: "jobs".to_owned(), body };
    Ok(page.answer(Some(&session)))
}

/// Some jobs of one machine.
pub(super) fn table(html: &mut Html, jobs: &[&Job]) {
    if jobs.is_empty() {
        return html.raw("<p class='empty'>None yet.</p>");
    }
    named_table(html, jobs, "Jobs", None);
}

fn named_table(html: &mut Html, jobs: &[&Job], caption: &'static str, names: Option<&HashMap<u64, String>>) {
    html.fill(
        "<div class='wide'><table class='cards jobs' role='table'><caption class='away'>$</caption><thead role='rowgroup'>\
         <tr role='row'><th scope='col' role='columnheader' class='right'>No.</th><th scope='col' role='columnheader'>Job</th>",
        &[&caption],
    );
    if names.is_some() {
        html.raw("<th scope='col' role='columnheader'>Machine</th>");
    }
    html.raw(
        "<th scope='col' role='columnheader'>State</th><th scope='col' role='columnheader'>Made</th>\
         <th scope='col' role='columnheader' class='right'>Took</th></tr></thead><tbody role='rowgroup'>",
    );
    for job in jobs {
        html.fill(
            "<tr role='row' id='j-$'><td role='cell' class='right num'>$</td><th scope='row' role='rowheader'><a href='/jobs/$'>$</a></th>",
            &[&job.id, &job.id, &job.id, &format::task(&job.task)],
        );
        if let Some(names) = names {
            html.raw("<td role='cell'>");
            html.add(&machine_of(job, names));
            html.raw("</td>");
        }
        html.raw("<td role='cell' class='job'>");
        html.add(&format::badge(job));
        html.add(&format::how_far(job));
        html.raw("</td><td role='cell' class='nowrap'>");
        html.add(&format::time(&job.created));
        let took = between(job.began.as_ref(), job.ended.as_ref()).map(duration).unwrap_or_default();
        html.fill("</td><td role='cell' class='right num nowrap'>$</td></tr>", &[&took]);
    }
    html.raw("</tbody></table></div>");
}

/// The machine's name, or what it is waited for by.
pub(super) fn machine_of(job: &Job, names: &HashMap<u64, String>) -> Html {
    match job.machine {
        Some(id) => {
            let name = names.get(&id).cloned().unwrap_or_else(|| format!("machine {id}"));
            Html::of("<a href='/machines/$'>$</a>", &[&id, &name])
        }
        None => Html::of("<span class='none'>waits for $</span>", &[&format::selector(&job.selector)]),
    }
}
