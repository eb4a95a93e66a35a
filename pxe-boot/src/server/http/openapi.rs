// SPDX-License-Identifier: Apache-2.0
//! The description of the API (OpenAPI 3.1), from the types themselves.

use std::sync::Arc;

use axum::Router;
use axum::routing::get;
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Map, Value, json};
use unmoor_images::store::ImageRecord;

use super::super::{Image, Server};
use crate::api::{
    Approve, Assignment, Begun, Committed, Done, Event, Heartbeat, Job, LogLine, Machine, NewJob, Orders,
    Problem, Register, Registered,
};

pub(super) fn router() -> Router<Arc<Server>> {
    Router::new().route("/v1/openapi.json", get(|| async { axum::Json(document()) }))
}

/// Who may ask.
#[derive(Clone, Copy)]
enum Who {
    Agent,
    Job,
    Administrator,
}

/// What goes to and fro.
enum Content {
    Nothing,
    Json(Value),
    Bytes(&'static str),
    Text(&'static str),
}

struct Writer {
    schemas: SchemaGenerator,
    paths: Map<String, Value>,
}

impl Writer {
    fn of<T: JsonSchema>(&mut self) -> Content {
        Content::Json(self.schemas.subschema_for::<T>().to_value())
    }

    fn add(&mut self, method: &str, path: &str, who: Who, summary: &str, body: Content, answer: Content) {
        let (tag, security) = match who {
            Who::Agent => ("agents", json!([{ "agent_key": [] }])),
            Who::Job => ("jobs of agents", json!([{ "agent_key": [], "job_token": [] }])),
            Who::Administrator => ("administrators", json!([{ "admin_token": [] }])),
        };
        let id: String = path.trim_start_matches("/v1/").replace(['/', '.'], "_").replace(['{', '}'], "");
        let mut parameters = Vec::new();
        for name in path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}')) {
            parameters.push(json!({ "name": name, "in": "path", "required": true, "schema": { "type": "integer", "minimum": 0 } }));
        }
        let query: &[(&str, bool, &str)] = match path {
            "/v1/agent/jobs/next" => &[("wait", false, "Seconds to wait for a job; 60 at most.")],
            "/v1/agent/jobs/{id}/image/disks/{disk}/frames" => {
                &[("first", true, "The first leaf."), ("count", true, "How many leaves.")]
            }
            "/v1/jobs" | "/v1/machines/{id}/log" if method == "get" => {
                &[("most", false, "How many at most.")]
            }
            _ => &[],
        };
        for (name, required, description) in query {
            parameters
                .push(json!({ "name": name, "in": "query", "required": required, "description": description,
                "schema": { "type": "integer", "minimum": 0 } }));
        }
        let created = method == "post" && matches!(path, "/v1/jobs" | "/v1/jobs/{id}/retry");
        let mut responses = Map::new();
        let (status, answered) = match content(answer) {
            None => ("204", json!({ "description": "Done." })),
            Some(content) if created => ("201", json!({ "description": "Taken.", "content": content })),
            Some(content) => ("200", json!({ "description": "The answer.", "content": content })),
        };
        responses.insert(status.to_owned(), answered);
        if path == "/v1/agent/jobs/next" {
            responses.insert("204".to_owned(), json!({ "description": "There is none yet." }));
        }
        responses.insert("default".to_owned(), json!({ "$ref": "#/components/responses/Problem" }));
        let mut operation = json!({
            "operationId": format!("{method}_{id}"),
            "summary": summary,
            "tags": [tag],
            "security": security,
            "parameters": parameters,
            "responses": responses,
        });
        if let (Some(body), Some(operation)) = (content(body), operation.as_object_mut()) {
            operation.insert("requestBody".to_owned(), json!({ "required": true, "content": body }));
        }
        let entry = self.paths.entry(path.to_owned()).or_insert_with(|| json!({}));
        if let Some(entry) = entry.as_object_mut() {
            entry.insert(method.to_owned(), operation);
        }
    }
}

fn content(content: Content) -> Option<Value> {
    match content {
        Content::Nothing => None,
        Content::Json(schema) => Some(json!({ "application/json": { "schema": schema } })),
        Content::Bytes(what) => {
            Some(json!({ "application/octet-stream": { "schema": { "description": what } } }))
        }
        Content::Text(kind) => {
            let mut map = Map::new();
            map.insert(kind.to_owned(), json!({ "schema": { "type": "string" } }));
            Some(Value::Object(map))
        }
    }
}

/// The document.
pub(in super::super) fn document() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
    });
    let mut writer = Writer { schemas: settings.into_generator(), paths: Map::new() };
    let w = &mut writer;
    agents(w);
    administrators(w);
    let problem = w.schemas.subschema_for::<Problem>().to_value();
    // Of server-sent events, which no media type describes.
    w.schemas.subschema_for::<Event>();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "unmoor serve",
            "version": env!("CARGO_PKG_VERSION"),
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
            "description": "Machines, jobs and images. An agent shows its key as a TLS client certificate that need not be signed.",
        },
        "paths": writer.paths,
        "components": {
            "schemas": writer.schemas.take_definitions(true),
            "responses": { "Problem": {
                "description": "Why it was not done.",
                "content": { "application/json": { "schema": problem } },
            } },
            "securitySchemes": {
                "admin_token": { "type": "http", "scheme": "bearer", "description": "The content of admin.token." },
                "job_token": { "type": "http", "scheme": "bearer",
                    "description": "The token of an assignment; counts with the key that it was given to, for that job." },
                "agent_key": { "type": "mutualTLS", "description": "Any certificate; its key is what counts." },
            },
        },
    })
}

fn agents(w: &mut Writer) {
    use Content::{Bytes, Nothing};
    let (body, answer) = (w.of::<Register>(), w.of::<Registered>());
    w.add("post", "/v1/agent/register", Who::Agent, "An agent has started.", body, answer);
    let (body, answer) = (w.of::<Heartbeat>(), w.of::<Orders>());
    w.add("post", "/v1/agent/heartbeat", Who::Agent, "An agent lives.", body, answer);
    w.add(
        "get",
        "/v1/agent/probe",
        Who::Agent,
        "Zeros: how fast they come tells of the way.",
        Nothing,
        Bytes("Zeros."),
    );
    let answer = w.of::<Assignment>();
    w.add(
        "get",
        "/v1/agent/jobs/next",
        Who::Agent,
        "The next job, if there is one in time.",
        Nothing,
        answer,
    );
    let body = w.of::<Done>();
    w.add("post", "/v1/agent/jobs/{id}/done", Who::Job, "A job has ended; may be said twice.", body, Nothing);
    let answer = w.of::<Begun>();
    w.add("post", "/v1/agent/jobs/{id}/store/begin", Who::Job, "A capture begins.", Nothing, answer);
    let (body, answer) = (Bytes("Hashes, 32 bytes each."), Bytes("One byte each, 1 where it is wanted."));
    w.add(
        "post",
        "/v1/agent/jobs/{id}/store/wanted",
        Who::Job,
        "Which leaves the store lacks.",
        body,
        answer,
    );
    w.add(
        "post",
        "/v1/agent/jobs/{id}/store/frames",
        Who::Job,
        "Leaves.",
        Bytes("Frames of leaves."),
        Nothing,
    );
    let answer = w.of::<Committed>();
    let body = Bytes("Commit as JSON, then each disk's map.");
    w.add("post", "/v1/agent/jobs/{id}/store/commit", Who::Job, "The image is complete.", body, answer);
    let answer = w.of::<ImageRecord>();
    w.add("get", "/v1/agent/jobs/{id}/image", Who::Job, "The image of a restore.", Nothing, answer);
    let map = "/v1/agent/jobs/{id}/image/disks/{disk}/map";
    w.add("get", map, Who::Job, "A disk's map.", Nothing, Bytes("As a file image's .map."));
    let frames = "/v1/agent/jobs/{id}/image/disks/{disk}/frames";
    w.add("get", frames, Who::Job, "Leaves that are not zeros.", Nothing, Bytes("Frames of leaves."));
}

fn administrators(w: &mut Writer) {
    use Content::{Nothing, Text};
    let who = Who::Administrator;
    let answer = w.of::<Vec<Machine>>();
    w.add("get", "/v1/machines", who, "All machines, by name.", Nothing, answer);
    let answer = w.of::<Machine>();
    w.add("get", "/v1/machines/{id}", who, "One machine.", Nothing, answer);
    w.add(
        "delete",
        "/v1/machines/{id}",
        who,
        "Forgets it and its key; not while a job runs.",
        Nothing,
        Nothing,
    );
    let answer = w.of::<Vec<LogLine>>();
    w.add("get", "/v1/machines/{id}/log", who, "The last lines of what its agents said.", Nothing, answer);
    let (body, answer) = (w.of::<Approve>(), w.of::<Machine>());
    w.add("post", "/v1/machines/{id}/approve", who, "Approves the key of that code.", body, answer);
    let answer = w.of::<Vec<Job>>();
    w.add("get", "/v1/jobs", who, "Jobs, the newest first.", Nothing, answer);
    let (body, answer) = (w.of::<NewJob>(), w.of::<Job>());
    w.add("post", "/v1/jobs", who, "Takes a job.", body, answer);
    let answer = w.of::<Job>();
    w.add("get", "/v1/jobs/{id}", who, "One job.", Nothing, answer);
    let answer = w.of::<Job>();
    w.add("post", "/v1/jobs/{id}/cancel", who, "Gives it up.", Nothing, answer);
    let answer = w.of::<Job>();
    w.add("post", "/v1/jobs/{id}/retry", who, "Does an ended one again, as a new one.", Nothing, answer);
    let answer = w.of::<Vec<Image>>();
    w.add("get", "/v1/images", who, "Images of the store, the newest first.", Nothing, answer);
    let summary = "Server-sent events: each has an Event as JSON; `lagged` says that some were lost.";
    w.add("get", "/v1/events", who, summary, Nothing, Text("text/event-stream"));
    w.add("get", "/metrics", who, "Numbers for Prometheus.", Nothing, Text("text/plain"));
}
