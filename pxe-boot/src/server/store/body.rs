// SPDX-License-Identifier: Apache-2.0
//! Bodies: read piece by piece, within bounds of size and time; and what a commit's is made of.

use std::time::Duration;

use axum::body::{Body, BodyDataStream, Bytes};
use futures_util::StreamExt;
use unmoor_images::manifest::decode_map;
use unmoor_images::merkle::Leaves;
use unmoor_images::{Error, ErrorKind, ExtentMap, Result, ResultExt};

use crate::api::Commit;

/// How long a peer may be silent in the middle of a body.
const SILENCE: Duration = Duration::from_secs(60);

/// Bytes that are taken of a request that has failed already: above what agents send at once.
const MOST_DRAINED: u64 = 8 << 20;

/// A body as it comes.
pub(super) struct Pieces {
    stream: BodyDataStream,
    left: u64,
}

impl Pieces {
    /// Of at most `most` bytes.
    pub(super) fn new(body: Body, most: u64) -> Self {
        Self { stream: body.into_data_stream(), left: most }
    }

    /// The next piece; none at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>> {
        const DOING: &str = "reading a request";
        let next = tokio::time::timeout(SILENCE, self.stream.next()).await;
        let next = next.map_err(|_| Error::malformed(DOING, "nothing of it came for a minute"))?;
        let Some(piece) = next else { return Ok(None) };
        let piece =
            piece.map_err(|error| Error::new(ErrorKind::Malformed, DOING).source(error.to_string()))?;
        let left = self.left.checked_sub(piece.len() as u64);
        self.left = left.ok_or_else(|| Error::malformed(DOING, "it is longer than it may be"))?;
        Ok(Some(piece))
    }

    /// Takes what still comes, within reason: a peer that is still sending would not hear an answer.
    pub(super) async fn drain(&mut self) {
        self.left = MOST_DRAINED;
        while let Ok(Some(_)) = self.next().await {}
    }

    /// All of it.
    pub(super) async fn whole(&mut self) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        while let Some(piece) = self.next().await? {
            bytes.extend_from_slice(&piece);
        }
        Ok(bytes)
    }
}

/// A commit's body: the document, directly followed by each disk's map.
///
/// # Errors
///
/// `Malformed` where it is not that, or where lengths do not add up. Whether manifest and maps belong together is not looked at.
pub fn decode_commit(body: &[u8]) -> Result<(Commit, Vec<(ExtentMap, Leaves)>)> {
    const DOING: &str = "reading a commit";
    let mut stream = serde_json::Deserializer::from_slice(body).into_iter::<Commit>();
    let commit = stream.next().ok_or_else(|| Error::malformed(DOING, "it is empty"))?;
    let commit = commit.map_err(|error| Error::malformed(DOING, format!("{error:.300}")))?;
    let mut rest = body.get(stream.byte_offset()..).unwrap_or_default();
    let mut maps = Vec::new();
    for (number, len) in commit.maps.iter().enumerate() {
        let map = usize::try_from(*len).ok().and_then(|len| rest.split_at_checked(len));
        let (map, behind) = map.ok_or_else(|| Error::malformed(DOING, "a map is cut off"))?;
        let decoded = decode_map(map).doing(|| format!("reading the map of disk {number}"));
        // What ends too soon is no failure of this machine.
        maps.push(decoded.map_err(|error| Error::malformed(DOING, error.chain()))?);
        rest = behind;
    }
    if rest.is_empty() {
        Ok((commit, maps))
    } else {
        Err(Error::malformed(DOING, "something follows the maps"))
    }
}
