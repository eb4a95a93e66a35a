// SPDX-License-Identifier: Apache-2.0
//! `/machines/ID`: all that is known of one machine, and what can be done with it.

use std::sync::Arc;

use axum::extract::{Extension, Path, State};
use axum::response::Response;
use unmoor_images::manifest::{Firmware, MachineFacts};

use super::Web;
use super::format::{self, size};
use super::html::Html;
use super::machines::{product, waits_for_approval};
use super::page::{Failure, Page, Tab, fact, fact_html};
use super::session::Session;
use super::{disks, jobs};
use crate::api::{Job, LogLine, Machine, Verdict};

/// Lines of the log that are shown.
const LINES: usize = 400;
/// Jobs that are looked through for this machine's.
const JOBS: usize = 1000;

/// `GET /machines/ID`
pub(super) async fn show(
    State(web): State<Arc<Web>>,
    Extension(session): Extension<Session>,
    Path(id): Path<u64>,
) -> Result<Response, Failure> {
    let (machine, log, jobs) = web
        .ask(move |admin| {
            let machine = admin.machine(id)?;
            let mut jobs = admin.jobs(JOBS)?;
            jobs.retain(|job| job.machine == Some(id));
            Ok((machine, admin.log(id, LINES)?, jobs))
        })
        .await
        .map_err(|error| Failure::new(&error, &session))?;
    let mut body = Html::default();
    head(&mut body, &machine);
    key(&mut body, &machine, &session);
    if let Some(job) = &machine.job {
        current(&mut body, job);
    }
    actions(&mut body, &machine);
    inventory(&mut body, &machine);
    boot_log(&mut body, &log);
    body.raw("<section aria-labelledby='h-jobs'><h2 id='h-jobs'>Jobs</h2>");
    jobs::table(&mut body, &jobs.iter().take(20).collect::<Vec<_>>());
    body.raw("</section>");
    let live = format!("machine-{id} log-{id}");
    Ok(Page { tab: Tab::Machines, title: machine.name.clone(), live, body }.answer(Some(&session)))
}

fn head(html: &mut Html, machine: &Machine) {
    html.fill("<div class='head'><h1>$ ", &[&machine.name]);
    html.add(&format::presence(machine.presence));
    html.fill("</h1><p class='lead'>$", &[&product(machine)]);
    if let Some(address) = &machine.address {
        html.fill(" <span class='num'>$</span>", &[address]);
    }
    html.raw(", last heard ");
    html.add(&format::time(&machine.last_seen));
    html.raw("</p></div>");
}

fn key(html: &mut Html, machine: &Machine, session: &Session) {
    let Some(code) = machine.code.as_ref().filter(|_| !machine.approved) else { return };
    html.fill("<section id='key' class='panel warn' aria-labelledby='h-key'><h2 id='h-key'>Key to approve</h2><p>This agent's key has the code <span class='code big'>$</span>. ", &[code]);
    html.raw(if waits_for_approval(machine) {
        "Captures, restores and wipes wait until it is approved. Read the code from the machine's own console: if it shows another one, \
         somebody is in between."
    } else {
        "The machine is not heard of now."
    });
    html.fill(
        "</p><form method='post' action='/machines/$/approve' class='row' data-keep id='approve'>\
         <input type='hidden' name='csrf' value='$'><label for='code'>Code on its console</label>\
         <input id='code' name='code' required size='10' maxlength='16' autocomplete='off' autocapitalize='characters' \
         spellcheck='false' class='code'><button class='main'>Approve</button></form></section>",
        &[&machine.id, &session.csrf],
    );
}

fn current(html: &mut Html, job: &Job) {
    html.raw("<section class='panel' aria-labelledby='h-now'><h2 id='h-now'>");
    html.raw(if format::ended(job.state) { "Last job" } else { "Job" });
    html.raw("</h2><p>");
    html.add(&format::badge(job));
    html.fill(" <a href='/jobs/$'>$</a></p><div class='progress'>", &[&job.id, &format::task(&job.task)]);
    html.add(&format::how_far(job));
    html.raw("</div></section>");
}

fn actions(html: &mut Html, machine: &Machine) {
    html.raw("<section aria-labelledby='h-do'><h2 id='h-do'>Give it a job</h2><ul class='actions'>");
    for (action, word) in [
        ("capture", "Capture…"),
        ("restore", "Restore…"),
        ("inspect", "Inspect…"),
        ("reboot", "Reboot…"),
        ("idle", "Idle…"),
    ] {
        html.fill("<li><a class='button' href='/machines/$/$'>$</a></li>", &[&machine.id, &action, &word]);
    }
    html.fill(
        "<li><a class='button danger' href='/machines/$/wipe'>Wipe…</a></li>\
         <li class='apart'><a class='button quiet' href='/machines/$/forget'>Forget…</a></li></ul></section>",
        &[&machine.id, &machine.id],
    );
}

fn inventory(html: &mut Html, machine: &Machine) {
    html.raw("<section aria-labelledby='h-what'><h2 id='h-what'>Inventory</h2><dl class='facts'>");
    if let Some(facts) = &machine.facts {
        hardware(html, facts);
    }
    fact(html, "Group", machine.group.as_ref().map(|group| group as _));
    fact(html, "Adapters", Some(&machine.macs.join(", ")));
    if let Some(code) = machine.code.as_ref().filter(|_| machine.approved) {
        fact_html(html, "Key", &Html::of("<span class='code'>$</span> approved", &[code]));
    }
    fact_html(html, "First heard", &format::time(&machine.first_seen));
    html.raw("</dl>");
    let Some(facts) = &machine.facts else {
        return html.raw("<p class='empty'>What it is shows once its agent has registered.</p></section>");
    };
    if let Some(verdict) = &machine.verdict {
        judged(html, verdict);
    }
    html.raw("<h3>Disks</h3>");
    if facts.disks.is_empty() {
        html.raw("<p class='empty'>The kernel shows no disk.</p>");
    } else {
        disks::table(html, machine, &facts.disks);
    }
    disks::content(html, &machine.disks);
    adapters(html, facts);
    html.raw("</section>");
}

fn hardware(html: &mut Html, facts: &MachineFacts) {
    let text = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let mut line = |word, value: Option<String>| fact(html, word, value.as_ref().map(|value| value as _));
    let words = |parts: &[&Option<String>]| {
        let parts: Vec<&str> = parts.iter().filter_map(|part| part.as_deref()).collect();
        (!parts.is_empty()).then(|| parts.join(" "))
    };
    line("Product", words(&[&facts.vendor, &facts.product]));
    line("Serial", text(&facts.serial));
    line("UUID", text(&facts.uuid));
    line("Board", text(&facts.board));
    let mode = match (facts.firmware, facts.secure_boot) {
        (Firmware::Bios, _) => "BIOS",
        (Firmware::Uefi, Some(true)) => "UEFI, Secure Boot on",
        (Firmware::Uefi, _) => "UEFI, Secure Boot off",
    };
    let version = words(&[&facts.bios_vendor, &facts.bios_version, &facts.bios_date]);
    line("Firmware", Some(version.map_or_else(|| mode.to_owned(), |version| format!("{mode}; {version}"))));
    let model = facts.cpu_model.clone().unwrap_or_else(|| facts.architecture.clone());
    line("Processors", Some(format!("{} × {model}", facts.cpu_count)));
    line("Memory", Some(size(facts.memory_bytes)));
}

fn judged(html: &mut Html, verdict: &Verdict) {
    html.raw("<h3>Verdict</h3><p>");
    let mut words = Vec::new();
    words.extend(verdict.link_mbit.map(|speed| format!("link to the server {speed} Mbit/s")));
    words.extend(verdict.from_server.map(|rate| format!("{}/s from the server", size(rate))));
    if verdict.concerns.is_empty() {
        words.push("nothing that needs eyes".to_owned());
    }
    html.fill("$.</p>", &[&words.join(", ")]);
    if !verdict.concerns.is_empty() {
        html.raw("<ul class='note warn'>");
        for concern in &verdict.concerns {
            html.fill("<li>$</li>", &[concern]);
        }
        html.raw("</ul>");
    }
}

fn adapters(html: &mut Html, facts: &MachineFacts) {
    if facts.nics.is_empty() {
        return;
    }
    html.raw(
        "<h3>Network adapters</h3><div class='wide' tabindex='0' role='region' aria-label='Network adapters'><table class='tight'><caption class='away'>Network adapters</caption><thead><tr>\
         <th scope='col'>Adapter</th><th scope='col'>Address</th><th scope='col'>Link</th><th scope='col'>Driver</th></tr></thead><tbody>",
    );
    for nic in &facts.nics {
        let link = match (nic.link, nic.speed_mbit) {
            (true, Some(speed)) => format!("{speed} Mbit/s"),
            (true, None) => "up".to_owned(),
            (false, _) => "none".to_owned(),
        };
        html.fill(
            "<tr><th scope='row'>$</th><td class='mono'>$</td><td class='nowrap'>$</td><td>$</td></tr>",
            &[
                &nic.name,
                &nic.mac.as_deref().unwrap_or_default(),
                &link,
                &nic.driver.as_deref().unwrap_or_default(),
            ],
        );
    }
    html.raw("</tbody></table></div>");
}

fn boot_log(html: &mut Html, log: &[LogLine]) {
    html.raw("<section aria-labelledby='h-log'><h2 id='h-log'>Log</h2>");
    if log.is_empty() {
        return html.raw("<p class='empty'>Its agent has said nothing yet.</p></section>");
    }
    html.raw("<div class='log' role='group' aria-labelledby='h-log' tabindex='0' id='log'><ol>");
    for line in log {
        let level = match line.level.as_str() {
            "warning" => "warning",
            "error" => "error",
            _ => "info",
        };
        html.fill("<li class='$'><span class='at'>$</span> ", &[&level, &format!("{:10.3}", line.seconds)]);
        if level != "info" {
            html.fill("<b>$:</b> ", &[&level]);
        }
        html.fill("$</li>", &[&line.text]);
    }
    html.raw("</ol></div></section>");
}
