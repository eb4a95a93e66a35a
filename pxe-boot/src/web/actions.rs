// SPDX-License-Identifier: Apache-2.0
//! Giving jobs to machines: a form, what it would do, and doing it. Forms and reviews are read only (GET); only the last step is sent.

use std::sync::Arc;

use axum::Form;
use axum::extract::{Extension, Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect, Response};
use unmoor_images::Result;

use super::forms::{self, Fields, csrf};
use super::html::Html;
use super::page::{Failure, Page, Tab, fact};
use super::session::Session;
use super::{Web, format, job, review};
use crate::api::{Approve, Machine, NewJob, Selector, Task};
use crate::server::{Admin, Image};

/// Whom a job is for.
struct Target {
    machine: Option<Machine>,
    selector: Selector,
    /// Where its forms lie: `/machines/3`, `/jobs/new`.
    base: String,
    images: Vec<Image>,
}

impl Target {
    fn known(admin: &dyn Admin, id: u64, images: bool) -> Result<Self> {
        let machine = admin.machine(id)?;
        let selector = Selector { id: Some(id), ..Selector::default() };
        let images = if images { admin.images()? } else { Vec::new() };
        Ok(Self { machine: Some(machine), selector, base: format!("/machines/{id}"), images })
    }

    fn expected(admin: &dyn Admin, fields: &Fields, images: bool) -> Result<Self> {
        let selector = fields.selector()?;
        let images = if images { admin.images()? } else { Vec::new() };
        Ok(Self { machine: None, selector, base: "/jobs/new".to_owned(), images })
    }

    fn name(&self) -> String {
        self.machine.as_ref().map_or_else(|| format::selector(&self.selector), |machine| machine.name.clone())
    }

    fn back(&self) -> &str {
        if self.machine.is_some() { &self.base } else { "/jobs" }
    }

    fn tab(&self) -> Tab {
        if self.machine.is_some() { Tab::Machines } else { Tab::Jobs }
    }
}

/// `GET /machines/ID/ACTION`
pub(super) async fn ask(
    State(web): State<Arc<Web>>,
    Extension(session): Extension<Session>,
    Path((id, action)): Path<(u64, String)>,
    Query(fields): Query<Fields>,
) -> std::result::Result<Response, Failure> {
    let images = action == "restore";
    let target = web
        .ask(move |admin| Target::known(admin, id, images))
        .await
        .map_err(|error| Failure::new(&error, &session))?;
    step(&target, &action, &fields, &session)
}

/// `GET /jobs/new/ACTION`
pub(super) async fn ask_expected(
    State(web): State<Arc<Web>>,
    Extension(session): Extension<Session>,
    Path(action): Path<String>,
    Query(fields): Query<Fields>,
) -> std::result::Result<Response, Failure> {
    let images = action == "restore";
    let sent = fields.clone();
    let target = web
        .ask(move |admin| Target::expected(admin, &sent, images))
        .await
        .map_err(|error| Failure::new(&error, &session))?;
    step(&target, &action, &fields, &session)
}

/// The form, or what it would do.
fn step(
    target: &Target,
    action: &str,
    fields: &Fields,
    session: &Session,
) -> std::result::Result<Response, Failure> {
    let mut body = Html::default();
    let heading = match (action, &target.machine) {
        ("forget", Some(machine)) => {
            forget(&mut body, machine, session);
            "Forget".to_owned()
        }
        ("capture" | "restore" | "wipe" | "reboot", _) if fields.review.is_empty() => {
            form(&mut body, target, action, fields)
        }
        ("capture" | "restore" | "wipe" | "reboot" | "inspect" | "idle", _) => {
            let task = fields.task(action).map_err(|error| Failure::new(&error, session))?;
            look_over(&mut body, target, &task, fields, session)
        }
        _ => return Err(Failure::said(StatusCode::NOT_FOUND, "there is no such action", session)),
    };
    Ok(Page { tab: target.tab(), title: heading, live: String::new(), body }.answer(Some(session)))
}

fn form(html: &mut Html, target: &Target, action: &str, fields: &Fields) -> String {
    let verb = verb(action);
    html.fill(
        "<h1>$ $</h1><form method='get' action='$/$' class='fields'>",
        &[&verb, &target.name(), &target.base, &action],
    );
    html.raw("<input type='hidden' name='review' value='1'>");
    if target.machine.is_none() {
        html.fill(
            "<input type='hidden' name='by' value='$'><input type='hidden' name='value' value='$'>",
            &[&fields.by, &fields.value],
        );
    }
    let disks = target.machine.as_ref().and_then(|machine| machine.facts.as_ref());
    let disks = disks.map(|facts| facts.disks.as_slice()).unwrap_or_default();
    match action {
        "capture" => forms::capture(html, &suggestion(target)),
        "restore" if target.images.is_empty() => {
            html.raw("<p class='note warn'>The store has no image yet: capture a machine first.</p>");
        }
        "restore" => forms::restore(html, &target.images, disks),
        "wipe" => forms::which(html, disks, false),
        _ => forms::reboot(html),
    }
    html.fill(
        "<p class='row'><button class='main'>Look it over</button><a class='button quiet' href='$'>Back</a></p></form>",
        &[&target.back()],
    );
    format!("{verb} {}", target.name())
}

fn verb(action: &str) -> &'static str {
    match action {
        "capture" => "Capture",
        "restore" => "Restore onto",
        "wipe" => "Wipe",
        "reboot" => "Reboot",
        "inspect" => "Inspect",
        _ => "Idle",
    }
}

/// A name that the store takes: that of the machine, where it is one.
fn suggestion(target: &Target) -> String {
    let name = target.machine.as_ref().map(|machine| machine.name.as_str()).unwrap_or_default();
    let fits =
        name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')) && name.len() <= 100;
    if fits { name.to_owned() } else { String::new() }
}

fn look_over(html: &mut Html, target: &Target, task: &Task, fields: &Fields, session: &Session) -> String {
    let heading = format!("{} {}?", verb(task.name()), target.name());
    html.fill("<h1>$</h1>", &[&heading]);
    let possible = review::consequences(html, task, target.machine.as_ref());
    if let Some(machine) =
        target.machine.as_ref().filter(|machine| task.needs_approval() && !machine.approved)
    {
        html.fill(
            "<p class='note warn'>The job waits until the machine's key is approved<span class='code'> $</span>.</p>",
            &[&machine.code.as_deref().unwrap_or_default()],
        );
    }
    html.raw("<dl class='facts'>");
    fact(html, "Machine", Some(&target.name()));
    if let Some(facts) = target.machine.as_ref().and_then(|machine| machine.facts.as_ref()) {
        let words: Vec<&str> = [&facts.vendor, &facts.product, &facts.serial]
            .into_iter()
            .flatten()
            .map(String::as_str)
            .collect();
        fact(html, "Product", (!words.is_empty()).then(|| words.join(" ")).as_ref().map(|words| words as _));
    }
    job::task(html, task);
    if let Task::Restore { image, .. } = task
        && let Some(image) =
            target.images.iter().find(|known| known.name == *image || known.summary.machine == *image)
    {
        let summary = &image.summary;
        let words =
            format!("{}, {} of data", format::size(summary.size_bytes), format::size(summary.data_bytes));
        fact(html, "Its size", Some(&words));
    }
    html.raw("</dl>");
    if possible {
        html.fill("<form method='post' action='$/$' class='fields'>", &[&target.base, &task.name()]);
        csrf(html, session);
        fields.hidden(html);
        if matches!(task, Task::Wipe { .. }) {
            html.raw(
                "<label for='confirm'>Type <b>wipe</b> to go on</label><input id='confirm' name='confirm' required pattern='wipe' \
                 autocomplete='off' autocapitalize='none' spellcheck='false'>",
            );
        }
        let class = if matches!(task, Task::Wipe { .. } | Task::Restore { .. }) { "danger" } else { "main" };
        html.fill(
            "<p class='row'><button class='$'>$</button><a class='button quiet' href='$'>Back</a></p></form>",
            &[&class, &button(task), &target.back()],
        );
    } else {
        html.fill("<p><a class='button' href='$'>Back</a></p>", &[&target.back()]);
    }
    heading
}

fn button(task: &Task) -> &'static str {
    match task {
        Task::Capture { .. } => "Capture",
        Task::Restore { .. } => "Restore, and lose what is there",
        Task::Wipe { .. } => "Wipe",
        Task::Reboot { .. } => "Reboot",
        Task::Inspect => "Inspect",
        Task::Idle => "Idle",
    }
}

fn forget(html: &mut Html, machine: &Machine, session: &Session) {
    html.fill(
        "<h1>Forget $?</h1><p class='note warn'>The server forgets the machine, its key and its log. If its agent still runs, it appears \
         again, and its key has to be approved again.</p><form method='post' action='/machines/$/forget' class='row'>",
        &[&machine.name, &machine.id],
    );
    csrf(html, session);
    html.fill(
        "<button class='danger'>Forget it</button><a class='button quiet' href='/machines/$'>Back</a></form>",
        &[&machine.id],
    );
}

/// `POST /machines/ID/ACTION`
pub(super) async fn act(
    State(web): State<Arc<Web>>,
    Extension(session): Extension<Session>,
    Path((id, action)): Path<(u64, String)>,
    Form(fields): Form<Fields>,
) -> std::result::Result<Response, Failure> {
    fields.of_session(&session)?;
    let target = Selector { id: Some(id), ..Selector::default() };
    let to = match action.as_str() {
        "approve" => {
            let code = spelled(&fields.code);
            web.ask(move |admin| admin.approve(id, &Approve { code }).map(|_| format!("/machines/{id}")))
                .await
        }
        "forget" => web.ask(move |admin| admin.forget(id).map(|()| "/".to_owned())).await,
        _ => return add(&web, target, &action, &fields, &session).await,
    };
    to.map(|to| Redirect::to(&to).into_response()).map_err(|error| Failure::new(&error, &session))
}

/// A code as it was typed: `abcdefgh`, `ABCD EFGH` -> `ABCD-EFGH`.
fn spelled(typed: &str) -> String {
    let letters: Vec<char> =
        typed.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_uppercase()).collect();
    letters.chunks(4).map(|four| four.iter().collect::<String>()).collect::<Vec<_>>().join("-")
}

/// `POST /jobs/new/ACTION`
pub(super) async fn act_expected(
    State(web): State<Arc<Web>>,
    Extension(session): Extension<Session>,
    Path(action): Path<String>,
    Form(fields): Form<Fields>,
) -> std::result::Result<Response, Failure> {
    fields.of_session(&session)?;
    let selector = fields.selector().map_err(|error| Failure::new(&error, &session))?;
    add(&web, selector, &action, &fields, &session).await
}

async fn add(
    web: &Arc<Web>,
    machine: Selector,
    action: &str,
    fields: &Fields,
    session: &Session,
) -> std::result::Result<Response, Failure> {
    let task = fields.task(action).map_err(|error| Failure::new(&error, session))?;
    if matches!(task, Task::Wipe { .. }) && fields.confirm.trim() != "wipe" {
        return Err(Failure::said(StatusCode::BAD_REQUEST, "it was not confirmed: type wipe", session));
    }
    let new = NewJob { machine, task, rate_limit: 0 };
    let job =
        web.ask(move |admin| admin.add_job(&new)).await.map_err(|error| Failure::new(&error, session))?;
    Ok(Redirect::to(&format!("/jobs/{}", job.id)).into_response())
}

/// `GET /jobs/new`: for a machine that has not appeared yet.
pub(super) async fn choose(
    Extension(session): Extension<Session>,
    Query(fields): Query<Fields>,
) -> std::result::Result<Response, Failure> {
    if !fields.action.is_empty() {
        fields.selector().map_err(|error| Failure::new(&error, &session))?;
        return step_to(&fields, &session);
    }
    let mut body = Html::default();
    body.raw(
        "<h1>New job</h1><p>For a machine that has not appeared yet; the job waits for it. To one that is known, give it on its own \
         <a href='/'>page</a>.</p><form method='get' action='/jobs/new' class='fields'><label for='by'>Told by</label>\
         <select id='by' name='by'><option value='mac'>address of an adapter (MAC)</option><option value='uuid'>UUID of its firmware\
         </option><option value='serial'>serial number</option><option value='name'>name</option></select>\
         <label for='value'>Which is</label><input id='value' name='value' required autocomplete='off' spellcheck='false'>\
         <label for='action'>To do</label><select id='action' name='action'><option value='restore'>restore an image</option>\
         <option value='capture'>capture</option><option value='inspect'>inspect</option><option value='wipe'>wipe</option>\
         <option value='reboot'>reboot</option><option value='idle'>idle</option></select>\
         <p class='row'><button class='main'>Go on</button><a class='button quiet' href='/jobs'>Back</a></p></form>",
    );
    Ok(Page { tab: Tab::Jobs, title: "New job".to_owned(), live: String::new(), body }.answer(Some(&session)))
}

/// On to the form of the job that was chosen.
fn step_to(fields: &Fields, session: &Session) -> std::result::Result<Response, Failure> {
    let action = fields.action.as_str();
    if !["capture", "restore", "wipe", "reboot", "inspect", "idle"].contains(&action) {
        return Err(Failure::said(StatusCode::NOT_FOUND, "there is no such job", session));
    }
    let query = [("by", fields.by.as_str()), ("value", fields.value.trim())]
        .map(|(name, value)| format!("{name}={}", encoded(value)));
    Ok(Redirect::to(&format!("/jobs/new/{action}?{}", query.join("&"))).into_response())
}

/// For a query (RFC 3986, section 2.1).
fn encoded(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                char::from(byte).to_string()
            }
            byte => format!("%{byte:02X}"),
        })
        .collect()
}
