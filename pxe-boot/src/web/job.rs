// SPDX-License-Identifier: Apache-2.0
//! `/jobs/ID`: one job; cancelling it, and doing it again.

use std::collections::HashMap;
use std::sync::Arc;

use axum::Form;
use axum::extract::{Extension, Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect, Response};
use serde_json::Value;

use super::Web;
use super::format::{self, between, duration, size};
use super::forms::{Fields, csrf};
use super::html::Html;
use super::jobs::machine_of;
use super::page::{Failure, Page, Tab, fact, fact_html};
use super::session::Session;
use crate::api::{DiskRule, Job, JobState, Task};

/// Characters of a result that are shown.
const LONGEST: usize = 64 << 10;

/// `GET /jobs/ID`
pub(super) async fn show(
    State(web): State<Arc<Web>>,
    Extension(session): Extension<Session>,
    Path(id): Path<u64>,
) -> Result<Response, Failure> {
    let (job, names) = find(&web, &session, id).await?;
    let mut body = Html::default();
    body.fill("<div class='head'><h1>Job $: $ ", &[&job.id, &format::task(&job.task)]);
    body.add(&format::badge(&job));
    body.raw("</h1></div><section class='progress panel' aria-label='Progress'>");
    let far = format::how_far(&job);
    match (far.is_empty(), job.state) {
        (false, _) => body.add(&far),
        (true, JobState::Done) => body.raw("<p>It is done.</p>"),
        (true, _) => body.raw("<p class='none'>There is nothing to say yet.</p>"),
    }
    body.raw("<ul class='actions'>");
    if format::ended(job.state) {
        body.fill("<li><a class='button' href='/jobs/$/retry'>Do it again…</a></li>", &[&job.id]);
    } else {
        body.fill("<li><a class='button' href='/jobs/$/cancel'>Cancel…</a></li>", &[&job.id]);
    }
    body.raw("</ul></section><section aria-labelledby='h-what'><h2 id='h-what'>What</h2><dl class='facts'>");
    fact_html(&mut body, "Machine", &machine_of(&job, &names));
    task(&mut body, &job.task);
    if job.rate_limit > 0 {
        fact(&mut body, "At most", Some(&format!("{}/s", size(job.rate_limit))));
    }
    fact_html(&mut body, "Made", &format::time(&job.created));
    fact_html(&mut body, "Begun", &format::time_or_none(job.began.as_ref()));
    fact_html(&mut body, "Ended", &format::time_or_none(job.ended.as_ref()));
    let took = between(job.began.as_ref(), job.ended.as_ref()).map(duration);
    fact(&mut body, "Took", took.as_ref().map(|took| took as _));
    fact(&mut body, "Times begun", Some(&job.attempts));
    body.raw("</dl></section>");
    if !job.result.is_null() {
        result(&mut body, &job.result);
    }
    let title = format!("Job {id}");
    Ok(Page { tab: Tab::Jobs, title, live: format!("job-{id}"), body }.answer(Some(&session)))
}

async fn find(web: &Arc<Web>, session: &Session, id: u64) -> Result<(Job, HashMap<u64, String>), Failure> {
    web.ask(move |admin| {
        let job = admin.job(id)?;
        let machine = job.machine.and_then(|id| admin.machine(id).ok());
        Ok((job, machine.into_iter().map(|machine| (machine.id, machine.name)).collect()))
    })
    .await
    .map_err(|error| Failure::new(&error, session))
}

/// What a job was told.
pub(super) fn task(html: &mut Html, task: &Task) {
    let rules = |disks: &[DiskRule], none: &str| match disks {
        [] => none.to_owned(),
        disks => disks.iter().map(|rule| rule.0.as_str()).collect::<Vec<_>>().join(", "),
    };
    match task {
        Task::Inspect | Task::Idle => {}
        Task::Capture { name, disks } => {
            fact(html, "As", Some(name));
            fact(html, "Disks", Some(&rules(disks, "all that are built in")));
        }
        Task::Restore { image, profile, firmware, disks, removable, then } => {
            fact(html, "Image", Some(image));
            fact(html, "Onto", Some(&rules(disks, "the only disk")));
            if *removable {
                fact(html, "Removable", Some(&"allowed"));
            }
            fact(html, "Fitted to", Some(&if profile == "auto" { "this machine" } else { profile.as_str() }));
            fact(
                html,
                "Firmware",
                Some(&if firmware == "auto" { "as it was started" } else { firmware.as_str() }),
            );
            fact(html, "Then", Some(then));
        }
        Task::Wipe { disks } => fact(html, "Disks", Some(&rules(disks, "none"))),
        Task::Reboot { into } => fact(html, "From", Some(into)),
    }
}

fn result(html: &mut Html, result: &Value) {
    let mut text = serde_json::to_string_pretty(result).unwrap_or_default();
    if let Some((end, _)) = text.char_indices().nth(LONGEST) {
        text.truncate(end);
        text.push_str("\n…");
    }
    html.fill(
        "<section aria-labelledby='h-result'><h2 id='h-result'>Result</h2>\
         <pre tabindex='0' role='group' aria-labelledby='h-result'>$</pre></section>",
        &[&text],
    );
}

/// `GET /jobs/ID/cancel`, `/retry`: whether it is meant.
pub(super) async fn ask(
    State(web): State<Arc<Web>>,
    Extension(session): Extension<Session>,
    Path((id, action)): Path<(u64, String)>,
) -> Result<Response, Failure> {
    let (job, names) = find(&web, &session, id).await?;
    let (heading, words, button): (_, &'static str, _) = match (action.as_str(), &job.task) {
        ("cancel", Task::Restore { .. } | Task::Wipe { .. }) if job.state == JobState::Running => (
            "Cancel this job?",
            "It is running: the machine's disk is left without a system that boots, until another restore.",
            "Cancel the job",
        ),
        ("cancel", _) => {
            ("Cancel this job?", "It is given up with the agent's next heartbeat.", "Cancel the job")
        }
        ("retry", Task::Restore { .. } | Task::Wipe { .. }) => (
            "Do it again?",
            "A new job is made of it. What is on the disks that it means will be lost.",
            "Do it again",
        ),
        ("retry", _) => ("Do it again?", "A new job is made of it.", "Do it again"),
        _ => return Err(Failure::said(StatusCode::NOT_FOUND, "there is no such action", &session)),
    };
    let mut body = Html::default();
    body.fill("<h1>$</h1><p class='note warn'>$</p><dl class='facts'>", &[&heading, &words]);
    fact(&mut body, "Job", Some(&format!("{} ({})", format::task(&job.task), job.id)));
    fact_html(&mut body, "Machine", &machine_of(&job, &names));
    task(&mut body, &job.task);
    body.fill("</dl><form method='post' action='/jobs/$/$' class='row'>", &[&id, &action]);
    csrf(&mut body, &session);
    body.fill(
        "<button class='main'>$</button><a class='button quiet' href='/jobs/$'>Back</a></form>",
        &[&button, &id],
    );
    Ok(Page { tab: Tab::Jobs, title: heading.to_owned(), live: String::new(), body }.answer(Some(&session)))
}

/// `POST /jobs/ID/cancel`, `/retry`
pub(super) async fn act(
    State(web): State<Arc<Web>>,
    Extension(session): Extension<Session>,
    Path((id, action)): Path<(u64, String)>,
    Form(fields): Form<Fields>,
) -> Result<Response, Failure> {
    fields.of_session(&session)?;
    let job = web
        .ask(move |admin| match action.as_str() {
            "cancel" => admin.cancel_job(id),
            "retry" => admin.retry_job(id),
            _ => Err(unmoor_images::Error::new(
                unmoor_images::ErrorKind::Usage,
                "choosing what to do with a job",
            )),
        })
        .await
        .map_err(|error| Failure::new(&error, &session))?;
    Ok(Redirect::to(&format!("/jobs/{}", job.id)).into_response())
}
