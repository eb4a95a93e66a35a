// SPDX-License-Identifier: Apache-2.0
//! `/`: all machines.

use std::sync::Arc;

use axum::extract::{Extension, Query, State};
use axum::response::Response;
use serde::Deserialize;

use super::Web;
use super::disks::{in_short, total};
use super::format::{self, count};
use super::html::Html;
use super::page::{Failure, Page, Tab, filter, fits};
use super::session::Session;
use crate::api::{JobState, Machine, Presence};

/// What lists are asked for.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Asked {
    pub(super) q: String,
}

/// `GET /`
pub(super) async fn list(
    State(web): State<Arc<Web>>,
    Extension(session): Extension<Session>,
    Query(asked): Query<Asked>,
) -> Result<Response, Failure> {
    let machines = web.ask(|admin| admin.machines()).await.map_err(|error| Failure::new(&error, &session))?;
    let mut body = Html::default();
    body.raw("<div class='head'><h1>Machines</h1>");
    if !machines.is_empty() {
        body.add(&filter("/", "Name, address, serial, product", &asked.q));
    }
    body.raw("</div>");
    body.add(&summary(&machines));
    let shown: Vec<&Machine> = machines.iter().filter(|machine| is_meant(&asked.q, machine)).collect();
    if machines.is_empty() {
        body.raw(
            "<p class='empty'>No machine has asked for anything yet. Start one from the network: it appears here once it asks to be \
             booted. A job can be <a href='/jobs/new'>added beforehand</a>.</p>",
        );
    } else if shown.is_empty() {
        body.fill(
            "<p class='empty'>None of the $ fits “$”.</p>",
            &[&count(machines.len(), "machine"), &asked.q],
        );
    } else {
        table(&mut body, &shown);
    }
    let page =
        Page { tab: Tab::Machines, title: "Machines".to_owned(), live: "machines jobs".to_owned(), body };
    Ok(page.answer(Some(&session)))
}

fn is_meant(q: &str, machine: &Machine) -> bool {
    let facts = machine.facts.as_ref();
    let text = |text: Option<&Option<String>>| text.cloned().flatten().unwrap_or_default();
    fits(
        q,
        &[
            &machine.name,
            &machine.macs.join(" "),
            machine.address.as_deref().unwrap_or_default(),
            machine.group.as_deref().unwrap_or_default(),
            &text(facts.map(|facts| &facts.serial)),
            &text(facts.map(|facts| &facts.uuid)),
            &product(machine),
        ],
    )
}

/// How many there are of what, and what waits for a person.
fn summary(machines: &[Machine]) -> Html {
    let is = |presence| machines.iter().filter(|machine| machine.presence == presence).count();
    let job = |wanted: &[JobState]| {
        machines
            .iter()
            .filter(|machine| machine.job.as_ref().is_some_and(|job| wanted.contains(&job.state)))
            .count()
    };
    let mut html = Html::default();
    html.raw("<ul class='summary' id='summary'>");
    let unapproved = machines.iter().filter(|machine| waits_for_approval(machine)).count();
    for (class, number, word) in [
        ("", is(Presence::Here), "here"),
        ("", is(Presence::Booting), "booting"),
        ("", is(Presence::Gone), "gone"),
        ("", job(&[JobState::Running]), "at work"),
        ("warn", unapproved, "to approve"),
        ("warn", job(&[JobState::Lost]), "lost in a job"),
        ("bad", job(&[JobState::Failed, JobState::Refused]), "failed or refused"),
    ] {
        if number > 0 {
            html.fill("<li class='$'><b>$</b> $</li>", &[&class, &number, &word]);
        }
    }
    html.raw("</ul>");
    html
}

/// Whether somebody has to look at its code.
pub(super) fn waits_for_approval(machine: &Machine) -> bool {
    machine.code.is_some() && !machine.approved && machine.presence == Presence::Here
}

fn table(html: &mut Html, machines: &[&Machine]) {
    html.raw(
        "<div class='wide'><table class='cards machines' role='table'><caption class='away'>Machines</caption>\
         <thead role='rowgroup'><tr role='row'><th scope='col' role='columnheader'>Machine</th>\
         <th scope='col' role='columnheader'>State</th><th scope='col' role='columnheader'>Key</th>\
         <th scope='col' role='columnheader'>Disks</th><th scope='col' role='columnheader'>Job</th></tr></thead>\
         <tbody role='rowgroup'>",
    );
    for machine in machines {
        row(html, machine);
    }
    html.raw("</tbody></table></div>");
}

fn row(html: &mut Html, machine: &Machine) {
    html.fill(
        "<tr role='row' id='m-$'><th scope='row' role='rowheader'><a href='/machines/$'>$</a><span class='sub'>$</span></th>",
        &[&machine.id, &machine.id, &machine.name, &product(machine)],
    );
    html.raw("<td role='cell' class='nowrap'>");
    html.add(&format::presence(machine.presence));
    html.raw("<span class='sub'>");
    if machine.presence == Presence::Here {
        html.text(&machine.address.as_deref().unwrap_or_default());
    } else {
        html.raw("last heard ");
        html.add(&format::time(&machine.last_seen));
    }
    html.raw("</span></td><td role='cell' class='nowrap'>");
    match &machine.code {
        Some(code) if machine.approved => {
            html.fill("<span class='ok'>approved</span><span class='sub code'>$</span>", &[code]);
        }
        Some(code) => html.fill(
            "<a href='/machines/$#key' aria-label='Approve $'>approve…</a><span class='sub code'>$</span>",
            &[&machine.id, &machine.name, code],
        ),
        None => html.raw("<span class='none'>none yet</span>"),
    }
    html.raw("</td><td role='cell'>");
    match &machine.facts {
        Some(facts) if !facts.disks.is_empty() => html.fill(
            "<span class='nowrap'>$</span><span class='sub'>$</span>",
            &[&total(&facts.disks), &in_short(&facts.disks)],
        ),
        Some(_) => html.raw("<span class='none'>no disk</span>"),
        None => html.raw("<span class='none'>not known yet</span>"),
    }
    html.raw("</td><td role='cell' class='job'>");
    match &machine.job {
        Some(job) => {
            html.add(&format::badge(job));
            html.fill(" <a href='/jobs/$'>$</a>", &[&job.id, &format::task(&job.task)]);
            html.add(&format::how_far(job));
        }
        None => html.raw("<span class='none'>none</span>"),
    }
    html.raw("</td></tr>");
}

/// What is bought under which name, else the adapter's address.
pub(super) fn product(machine: &Machine) -> String {
    let facts = machine.facts.as_ref();
    let words: Vec<&str> = facts
        .map(|facts| [&facts.vendor, &facts.product].into_iter().flatten().map(String::as_str).collect())
        .unwrap_or_default();
    if words.is_empty() { machine.macs.first().cloned().unwrap_or_default() } else { words.join(" ") }
}
