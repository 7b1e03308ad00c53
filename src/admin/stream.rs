//! Long answers piece by piece: a list of 100,000 services must not stand in memory as text.

use crate::model::ServiceKey;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Bytes, Frame};
use imbl::OrdMap;
use std::convert::Infallible;
use std::ops::Bound;

/// Of every answer, long or short.
pub(super) type Body = UnsyncBoxBody<Bytes, Infallible>;

/// Entries that are turned into text at once.
const PIECE: usize = 256;

/// `head`, which ends with an open list, the entries, `]}`. `write` appends an entry as JSON, or says
/// that it is left out; what it wrote of that entry is taken back.
pub(super) fn list<V, F>(head: String, entries: OrdMap<ServiceKey, V>, mut write: F) -> Body
where
    V: Clone + Send + Sync + 'static,
    F: FnMut(&mut Vec<u8>, &ServiceKey, &V) -> bool + Send + 'static,
{
    let mut text = head.into_bytes();
    let mut after = Bound::Unbounded;
    let mut first = true;
    let mut done = false;
    let pieces = std::iter::from_fn(move || {
        if done {
            return None;
        }
        let mut piece = std::mem::take(&mut text);
        let mut last = None;
        for (key, value) in entries.range((after.clone(), Bound::Unbounded)).take(PIECE) {
            let start = piece.len();
            if !first {
                piece.push(b',');
            }
            if write(&mut piece, key, value) {
                first = false;
            } else {
                piece.truncate(start);
            }
            last = Some(key.clone());
        }
        match last {
            Some(key) => after = Bound::Excluded(key),
            None => {
                piece.extend_from_slice(b"]}");
                done = true;
            }
        }
        Some(Ok::<_, Infallible>(Frame::data(Bytes::from(piece))))
    });
    StreamBody::new(futures_util::stream::iter(pieces)).boxed_unsync()
}
