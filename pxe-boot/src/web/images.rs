// SPDX-License-Identifier: Apache-2.0
//! `/images`: what the store has.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::{Extension, Query, State};
use axum::response::Response;

use super::Web;
use super::format::{self, count, size};
use super::html::Html;
use super::machines::Asked;
use super::page::{Failure, Page, Tab, filter, fits};
use super::session::Session;
use crate::server::Image;

/// `GET /images`
pub(super) async fn list(
    State(web): State<Arc<Web>>,
    Extension(session): Extension<Session>,
    Query(asked): Query<Asked>,
) -> Result<Response, Failure> {
    let images = web.ask(|admin| admin.images()).await.map_err(|error| Failure::new(&error, &session))?;
    let mut body = Html::default();
    body.raw("<div class='head'><h1>Images</h1>");
    if !images.is_empty() {
        body.add(&filter("/images", "Name or time", &asked.q));
    }
    body.raw("</div>");
    let mut machines: BTreeMap<&str, Vec<&Image>> = BTreeMap::new();
    for image in images.iter().filter(|image| fits(&asked.q, &[&image.name])) {
        machines.entry(&image.summary.machine).or_default().push(image);
    }
    if images.is_empty() {
        body.raw("<p class='empty'>The store has no image yet. Open a machine and capture it.</p>");
    } else if machines.is_empty() {
        body.fill("<p class='empty'>None of the $ fits “$”.</p>", &[&count(images.len(), "image"), &asked.q]);
    } else {
        table(&mut body, &machines);
    }
    let page = Page { tab: Tab::Images, title: "Images".to_owned(), live: "images".to_owned(), body };
    Ok(page.answer(Some(&session)))
}

fn table(html: &mut Html, machines: &BTreeMap<&str, Vec<&Image>>) {
    html.raw(
        "<div class='wide' tabindex='0' role='region' aria-label='Images'><table class='images'><caption class='away'>Images by machine, newest first</caption><thead><tr>\
         <th scope='col'>Captured</th><th scope='col' class='right'>Disks</th><th scope='col' class='right'>Data</th>\
         <th scope='col' class='right'>Read</th><th scope='col' class='right'>New</th><th scope='col' class='right'>Stored</th>\
         </tr></thead>",
    );
    for (machine, images) in machines {
        html.fill(
            "<tbody><tr class='group'><th colspan='6' scope='rowgroup'>$ <span class='sub'>$</span></th></tr>",
            &[machine, &count(images.len(), "image")],
        );
        for image in images {
            let (summary, added) = (&image.summary, &image.summary.added);
            let stamp = image.name.rsplit_once('@').map_or("", |(_, time)| time);
            html.fill("<tr id='i-$'><th scope='row' class='nowrap'>", &[&image.name]);
            html.add(&format::time(&summary.created));
            html.fill(" <span class='sub code'>$</span></th>", &[&stamp]);
            for bytes in [
                summary.size_bytes,
                summary.data_bytes,
                added.read_bytes,
                added.new_bytes,
                added.stored_bytes,
            ] {
                html.fill("<td class='right num nowrap'>$</td>", &[&size(bytes)]);
            }
            html.raw("</tr>");
        }
        html.raw("</tbody>");
    }
    html.raw("</table></div>");
}
