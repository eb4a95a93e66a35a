// SPDX-License-Identifier: Apache-2.0
//! What a restoring agent asks for: its job's image, and no other.

use std::io;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::{Path, Request, State};
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use tokio::sync::mpsc;
use unmoor_images::manifest::encode_map_to;
use unmoor_images::store::{Codec, StoredImage};
use unmoor_images::{Error, ErrorKind, LEAF, Result};

use super::answer::{Answer, Failed, bytes};
use super::sessions::{Session, Shared, blocking};
use super::{Access, Reach};
use crate::client::store::Frame;

/// Most leaves of one answer: 16 MiB.
const MOST_LEAVES: u64 = 64;
/// A map goes out in pieces of so many bytes.
const PIECE: usize = 64 << 10;

async fn open(
    shared: &Shared,
    session: &Session,
    access: &Access,
) -> std::result::Result<Arc<StoredImage>, Failed> {
    match &access.reach {
        Reach::Restore { image } => {
            shared.image(session, access.job, image).await.map_err(|error| Failed::store(&error))
        }
        Reach::Capture { .. } => Err(Failed::forbidden("this job reads no image")),
    }
}

fn disk(image: &StoredImage, number: &str) -> std::result::Result<usize, Failed> {
    let number = number.parse().ok().filter(|number| *number < image.disks.len());
    number.ok_or_else(|| Failed::new(StatusCode::NOT_FOUND, "not_found", "the image has no such disk"))
}

pub(super) async fn image(
    State(shared): State<Arc<Shared>>,
    Path(job): Path<String>,
    request: Request,
) -> Answer {
    let (head, _) = request.into_parts();
    let (access, session, _permit) = shared.admit(&job, &head).await?;
    let image = open(&shared, &session, &access).await?;
    Ok(axum::Json(&image.record).into_response())
}

/// Bytes on their way to a peer; whoever writes waits for it.
struct Outgoing {
    piece: Vec<u8>,
    sender: mpsc::Sender<io::Result<Bytes>>,
}

impl io::Write for Outgoing {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.piece.extend_from_slice(buf);
        if self.piece.len() >= PIECE {
            self.flush()?;
        }
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        let piece = std::mem::replace(&mut self.piece, Vec::with_capacity(PIECE));
        self.sender.blocking_send(Ok(piece.into())).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

pub(super) async fn map(
    State(shared): State<Arc<Shared>>,
    Path((job, number)): Path<(String, String)>,
    request: Request,
) -> Answer {
    let (head, _) = request.into_parts();
    let (access, session, permit) = shared.admit(&job, &head).await?;
    let image = open(&shared, &session, &access).await?;
    let number = disk(&image, &number)?;
    let (sender, receiver) = mpsc::channel(4);
    tokio::task::spawn_blocking(move || {
        let (_permit, _session) = (permit, session);
        let Some(disk) = image.disks.get(number) else { return };
        let mut out = Outgoing { piece: Vec::new(), sender };
        let written = encode_map_to(&mut out, &disk.extents, &disk.leaves);
        // Who does not take it has gone.
        let _ = written.and_then(|()| io::Write::flush(&mut out));
    });
    let pieces = futures_util::stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|piece| (piece, receiver))
    });
    Ok(([(header::CONTENT_TYPE, "application/octet-stream")], Body::from_stream(pieces)).into_response())
}

/// A number of the query.
fn number(query: Option<&str>, name: &str) -> Result<Option<u64>> {
    let pairs = query.unwrap_or_default().split('&');
    let value = pairs.filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == name);
    let parsed = value.map(|(_, value)| value.parse()).transpose();
    parsed.map_err(|_| {
        Error::new(ErrorKind::Usage, "reading the query").because(format!("{name} is no number"))
    })
}

pub(super) async fn frames(
    State(shared): State<Arc<Shared>>,
    Path((job, disk_number)): Path<(String, String)>,
    request: Request,
) -> Answer {
    let (head, _) = request.into_parts();
    let (access, session, _permit) = shared.admit(&job, &head).await?;
    let image = open(&shared, &session, &access).await?;
    let disk_number = disk(&image, &disk_number)?;
    let query = head.uri.query();
    let first = number(query, "first")?.unwrap_or(0);
    let count = number(query, "count")?.unwrap_or(1).min(MOST_LEAVES);
    let checked = number(query, "check")?.unwrap_or(0) != 0;
    let turn = shared.turns.take(access.job, count.saturating_mul(LEAF) / 2).await;
    let read = blocking(move || {
        let _turn = turn;
        let mut out = Vec::new();
        let Some(disk) = image.disks.get(disk_number) else { return Ok(out) };
        let end = first.saturating_add(count).min(disk.leaves.count());
        disk.source.packed(first.min(end)..end, checked, &mut |leaf| {
            let packed = leaf.codec == Codec::Zstd;
            Frame { hash: leaf.hash, raw: leaf.raw, packed, bytes: leaf.bytes }.write(&mut out)
        })?;
        Ok(out)
    });
    let out = read.await.map_err(|error| Failed::store(&error))?;
    shared.pace.pay(access.job, out.len()).await;
    Ok(bytes(out))
}
