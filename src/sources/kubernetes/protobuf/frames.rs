//! A watch's body: frames of protobuf in, lines of JSON out.
//!
//! A frame is its length in four bytes, the greatest first, and a WatchEvent (apimachinery,
//! `serializer/protobuf`); an object is `k8s\0` and an Unknown that wraps it.

use super::Error;
use super::messages::{
    Any, EndpointSlice, Name, Service, Status, TypeMeta, Unknown, Unreadable, WatchEvent,
};
use hyper::body::{Body, Buf as _, Bytes, Frame};
use prost::Message;
use serde::Serialize;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use tower::BoxError;

const MAGIC: &[u8] = b"k8s\0";

const LENGTH: usize = size_of::<u32>();

/// etcd takes no object above some MiB.
const LARGEST: usize = 64 << 20;

/// What was told in one go is some chunk of the body; with more room than this its memory is not kept.
const KEPT: usize = 64 << 10;

pub(super) struct Frames<B> {
    body: Pin<Box<B>>,
    /// Of frames that are not whole.
    begun: Vec<u8>,
    /// Set if it cannot be told: the next one is asked for otherwise.
    failed: Arc<AtomicBool>,
}

impl<B> Frames<B> {
    pub fn new(body: B, failed: Arc<AtomicBool>) -> Self {
        Self { body: Box::pin(body), begun: Vec::new(), failed }
    }

    /// All frames that are whole by now.
    fn told(&mut self, chunk: Bytes) -> Result<Vec<u8>, Error> {
        let mut rest = match self.begun.is_empty() {
            true => chunk,
            false => {
                self.begun.extend_from_slice(&chunk);
                // What is whole is read where it is.
                match length(&self.begun)? {
                    Some(length) if self.begun.len() >= LENGTH + length => {
                        Bytes::from(std::mem::take(&mut self.begun))
                    }
                    _ => return Ok(Vec::new()),
                }
            }
        };
        let mut out = Vec::with_capacity(rest.len());
        while let Some(length) = length(&rest)?
            && rest.len() >= LENGTH + length
        {
            rest.advance(LENGTH);
            event(rest.split_to(length), &mut out)?;
        }
        self.begun.extend_from_slice(&rest);
        if self.begun.capacity() > KEPT {
            self.begun.shrink_to_fit();
        }
        Ok(out)
    }
}

impl<B> Body for Frames<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        loop {
            let Some(frame) = ready!(self.body.as_mut().poll_frame(context)) else {
                return Poll::Ready(None);
            };
            let chunk = match frame.map_err(Into::into)?.into_data() {
                Ok(chunk) => chunk,
                Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
            };
            let told = self.told(chunk).inspect_err(|_| self.failed.store(true, Relaxed))?;
            if !told.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(told.into()))));
            }
        }
    }
}

/// Of the frame that begins here, if that much of it is there.
fn length(from: &[u8]) -> Result<Option<usize>, Error> {
    let Some((length, _)) = from.split_first_chunk::<LENGTH>() else { return Ok(None) };
    match u32::from_be_bytes(*length) as usize {
        length if length > LARGEST => Err(Error::Large(length)),
        length => Ok(Some(length)),
    }
}

/// One event as the line that a server writes for it in JSON.
fn event(frame: Bytes, out: &mut Vec<u8>) -> Result<(), Error> {
    let WatchEvent { kind: event, object } = WatchEvent::decode(frame)?;
    let (of, raw) = unwrapped(object.unwrap_or_default().raw)?;
    match &*of.kind {
        "Service" => told::<Service>((&event, &of), raw, Unreadable::Spec, out),
        "EndpointSlice" => told::<EndpointSlice>((&event, &of), raw, Unreadable::Endpoints, out),
        "Status" => Line { event: &event, object: Typed { of: &of, object: Status::decode(raw)? } }
            .write(out),
        _ => Err(Error::Kind(of.kind)),
    }
}

/// A bad one costs itself: it is written with its name, and so that it is rejected for the reason.
fn told<T: Message + Serialize + Default>(
    (event, of): (&str, &TypeMeta),
    raw: Bytes,
    as_reason: fn(String) -> Unreadable,
    out: &mut Vec<u8>,
) -> Result<(), Error> {
    match T::decode(raw.clone()) {
        Ok(object) => Line { event, object: Typed { of, object } }.write(out),
        Err(error) => {
            let Any { metadata } = Any::decode(raw)?;
            let reason = as_reason(Error::Decode(error).to_string());
            Line { event, object: Typed { of, object: Refused { metadata, reason } } }.write(out)
        }
    }
}

#[derive(Serialize)]
struct Line<'a, T> {
    #[serde(rename = "type")]
    event: &'a str,
    object: Typed<'a, T>,
}

impl<T: Serialize> Line<'_, T> {
    fn write(&self, out: &mut Vec<u8>) -> Result<(), Error> {
        serde_json::to_writer(&mut *out, self)?;
        out.push(b'\n');
        Ok(())
    }
}

#[derive(Serialize)]
struct Refused {
    metadata: Option<Name>,
    #[serde(flatten)]
    reason: Unreadable,
}

/// A refusal, which is one object and no frame.
pub(super) fn whole(answer: Bytes) -> Result<Bytes, Error> {
    let (of, raw) = unwrapped(answer)?;
    match &*of.kind {
        "Status" => {
            let object = Typed { of: &of, object: Status::decode(raw)? };
            Ok(serde_json::to_vec(&object)?.into())
        }
        _ => Err(Error::Kind(of.kind)),
    }
}

/// JSON says what an object is beside its fields.
#[derive(Serialize)]
struct Typed<'a, T> {
    #[serde(flatten)]
    of: &'a TypeMeta,
    #[serde(flatten)]
    object: T,
}

fn unwrapped(mut object: Bytes) -> Result<(TypeMeta, Bytes), Error> {
    if !object.starts_with(MAGIC) {
        return Err(Error::NoObject);
    }
    object.advance(MAGIC.len());
    let Unknown { type_meta, raw } = Unknown::decode(object)?;
    Ok((type_meta.unwrap_or_default(), raw))
}
