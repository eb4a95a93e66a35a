// SPDX-License-Identifier: Apache-2.0
//! What a capturing agent asks for.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::IntoResponse;
use unmoor_images::merkle::{Hash, Leaves};
use unmoor_images::store::{Codec, ImageName, PackedLeaf, Store, Writer};
use unmoor_images::{Error, ErrorKind, ExtentMap, LEAF, Result};

use super::answer::{Answer, Failed, bytes};
use super::body::{Pieces, decode_commit};
use super::sessions::{Capture, Session, Shared, blocking};
use super::{Access, Reach};
use crate::api::{Begun, Commit, Committed};
use crate::client::store::{MOST_FRAME, read_frames, whole_frames};

/// Most bytes of a question: 8 GiB of disk.
const MOST_HASHES: u64 = 1 << 20;
/// Most bytes of a request with frames.
const MOST_FRAMES: u64 = 64 << 20;
/// Most bytes of a commit: manifest and maps, 33 bytes for each 256 KiB of disks.
const MOST_COMMIT: u64 = 1 << 30;
/// How long a commit may take to come.
const COMMIT: Duration = Duration::from_secs(600);
/// Frames are taken in by so many bytes: what one request holds.
const BATCH: usize = 1 << 20;

/// The machine whose image the job may make.
fn machine(access: &Access) -> std::result::Result<&str, Failed> {
    match &access.reach {
        Reach::Capture { machine } => Ok(machine),
        Reach::Restore { .. } => Err(Failed::forbidden("this job captures nothing")),
    }
}

fn open(capture: &Option<Capture>) -> Result<&Writer> {
    let writer = capture.as_ref().map(|capture| &capture.writer);
    writer.ok_or_else(|| Error::new(ErrorKind::Io, "storing leaves").because("the capture has ended"))
}

pub(super) async fn begin(
    State(shared): State<Arc<Shared>>,
    Path(job): Path<String>,
    request: Request,
) -> Answer {
    let (head, _) = request.into_parts();
    let (access, session, _permit) = shared.admit(&job, &head).await?;
    let guard = shared
        .writer(&session, access.job, machine(&access)?)
        .await
        .map_err(|error| Failed::store(&error))?;
    let writer = open(&guard)?;
    let since = writer.parent().map(|image| image.time.clone());
    Ok(Json(Begun { since, level: writer.level() }).into_response())
}

pub(super) async fn wanted(
    State(shared): State<Arc<Shared>>,
    Path(job): Path<String>,
    request: Request,
) -> Answer {
    let (head, body) = request.into_parts();
    let mut pieces = Pieces::new(body, MOST_HASHES);
    let answer = wanted_of(&shared, &job, &head, &mut pieces).await;
    if answer.is_err() {
        pieces.drain().await;
    }
    answer
}

async fn wanted_of(shared: &Arc<Shared>, job: &str, head: &Parts, pieces: &mut Pieces) -> Answer {
    let (access, session, _permit) = shared.admit(job, head).await?;
    let machine = machine(&access)?;
    let hashes = pieces.whole().await?;
    let (hashes, rest) = hashes.as_chunks::<{ size_of::<Hash>() }>();
    if !rest.is_empty() {
        return Err(Failed::sent(&Error::malformed("reading hashes", "the last one is cut off")));
    }
    let guard = shared.writer(&session, access.job, machine).await.map_err(|error| Failed::store(&error))?;
    let writer = open(&guard)?;
    // Looked up in memory: no reason to change threads.
    Ok(bytes(hashes.iter().map(|hash| writer.lacks(hash).into()).collect()))
}

pub(super) async fn frames(
    State(shared): State<Arc<Shared>>,
    Path(job): Path<String>,
    request: Request,
) -> Answer {
    let (head, body) = request.into_parts();
    let mut pieces = Pieces::new(body, MOST_FRAMES);
    let answer = frames_of(&shared, &job, &head, &mut pieces).await;
    if answer.is_err() {
        pieces.drain().await;
    }
    answer
}

async fn frames_of(shared: &Arc<Shared>, job: &str, head: &Parts, pieces: &mut Pieces) -> Answer {
    let (access, session, _permit) = shared.admit(job, head).await?;
    let machine = machine(&access)?;
    let mut buffer = Vec::with_capacity(BATCH + MOST_FRAME as usize);
    loop {
        let piece = pieces.next().await?;
        let ended = piece.is_none();
        buffer.extend_from_slice(&piece.unwrap_or_default());
        if buffer.len() < BATCH && !ended {
            continue;
        }
        let whole = whole_frames(&buffer)?;
        if whole > 0 {
            shared.pace.pay(access.job, whole).await;
            buffer = take_in(shared, &session, (access.job, machine), buffer, whole).await?;
        }
        if ended {
            break;
        }
    }
    if !buffer.is_empty() {
        return Err(Failed::sent(&Error::malformed("reading frames", "the last one is cut off")));
    }
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Stores the frames that are `whole` bytes; answers the buffer with the rest.
async fn take_in(
    shared: &Arc<Shared>,
    session: &Session,
    (job, machine): (u64, &str),
    mut buffer: Vec<u8>,
    whole: usize,
) -> std::result::Result<Vec<u8>, Failed> {
    let guard = shared.writer(session, job, machine).await.map_err(|error| Failed::store(&error))?;
    let turn = shared.turns.take(job, whole as u64).await;
    let taken = blocking(move || {
        let _turn = turn;
        let frames = read_frames(buffer.get(..whole).unwrap_or_default())?;
        let leaves: Vec<PackedLeaf<'_>> = frames
            .iter()
            .map(|frame| PackedLeaf {
                hash: frame.hash,
                raw: frame.raw,
                codec: if frame.packed { Codec::Zstd } else { Codec::Plain },
                bytes: frame.bytes,
            })
            .collect();
        open(&guard)?.put_packed(&leaves)?;
        drop(frames);
        buffer.drain(..whole);
        Ok(buffer)
    });
    match taken.await {
        Ok(buffer) => Ok(buffer),
        Err(error) if matches!(error.kind(), ErrorKind::Mismatch | ErrorKind::Malformed) => {
            Err(Failed::sent(&error))
        }
        Err(error) => {
            shared.discard(session).await;
            Err(Failed::store(&error))
        }
    }
}

pub(super) async fn commit(
    State(shared): State<Arc<Shared>>,
    Path(job): Path<String>,
    request: Request,
) -> Answer {
    let (head, body) = request.into_parts();
    let mut pieces = Pieces::new(body, MOST_COMMIT);
    let answer = commit_of(&shared, &job, &head, &mut pieces).await;
    if answer.is_err() {
        pieces.drain().await;
    }
    answer
}

async fn commit_of(shared: &Arc<Shared>, job: &str, head: &Parts, pieces: &mut Pieces) -> Answer {
    let (access, session, _permit) = shared.admit(job, head).await?;
    let machine = machine(&access)?.to_owned();
    let _alone = shared.commits.clone().acquire_owned().await;
    // Others wait.
    let body = tokio::time::timeout(COMMIT, pieces.whole()).await;
    let body =
        body.map_err(|_| Failed::sent(&Error::malformed("reading a commit", "it takes too long")))??;
    let (known, gate, job) = (session.clone(), shared.gate.clone(), access.job);
    let before = blocking(move || {
        let before = known.done.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(before) = &before {
            gate.committed(job, before)?;
        }
        before.map_or_else(|| gate.committed_before(job), |before| Ok(Some(before)))
    });
    if let Some(before) = before.await.map_err(|error| Failed::store(&error))? {
        return Ok(Json(before).into_response());
    }
    drop(shared.writer(&session, job, &machine).await.map_err(|error| Failed::store(&error))?);
    // Not before those frames of this job that are on their way are stored.
    let mut guard = session.capture.clone().write_owned().await;
    let turn = shared.turns.take(job, LEAF).await;
    let (known, store, gate) = (session.clone(), shared.store.clone(), shared.gate.clone());
    let done = blocking(move || {
        let _turn = turn;
        let (commit, maps) = match decode_commit(&body) {
            Ok(decoded) => decoded,
            Err(error) => return Ok(Err(Failed::sent(&error))),
        };
        drop(body);
        let disks: Vec<(&ExtentMap, &Leaves)> =
            maps.iter().map(|(extents, leaves)| (extents, leaves)).collect();
        if let Err(error) = open(&guard)?.check(&commit.manifest, &disks) {
            return Ok(Err(unfit(&error)));
        }
        let committed = match stored_before(&store, &machine, &commit)? {
            Some(before) => {
                // Nothing waits for it; what it has sent another image may use.
                let _ = guard.take().map(|capture| capture.into_writer().suspend());
                before
            }
            None => {
                let capture = guard.take();
                let capture = capture.ok_or_else(|| Error::new(ErrorKind::Io, "storing the image"))?;
                let writer = capture.into_writer();
                let (image, summary) = writer.commit(commit.manifest, &disks, commit.read_bytes)?;
                Committed { time: image.time, summary }
            }
        };
        *known.done.lock().unwrap_or_else(PoisonError::into_inner) = Some(committed.clone());
        gate.committed(job, &committed)?;
        Ok(Ok(committed))
    });
    let committed = done.await.map_err(|error| Failed::store(&error))?;
    Ok(Json(committed?).into_response())
}

/// Why an image cannot be made of what came.
fn unfit(error: &Error) -> Failed {
    if error.kind() == ErrorKind::Mismatch {
        let message = format!(
            "{}: they were lost when the server was killed in the middle; do the job again, and only what lacks is sent",
            error.chain()
        );
        return Failed::new(StatusCode::CONFLICT, "io", message);
    }
    Failed::sent(error)
}

/// The image itself, if a commit stored it whose answer nobody remembers: the server was killed in between.
fn stored_before(store: &Store, machine: &str, commit: &Commit) -> Result<Option<Committed>> {
    let Ok(name) = ImageName::parse(&format!("{machine}@{}", commit.manifest.created)) else {
        return Ok(None);
    };
    let images = store.images_of(machine)?;
    let Some(image) = images.into_iter().find(|image| Some(&image.time) == name.time.as_ref()) else {
        return Ok(None);
    };
    let record = store.record(&image)?;
    let text = |manifest| serde_json::to_value(manifest).ok();
    let same = text(&record.manifest) == text(&commit.manifest);
    Ok(same.then_some(Committed { time: image.time, summary: record.summary }))
}
