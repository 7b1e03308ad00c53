//! What is said, and its form. PURE.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use super::VERSION;
use serde::{Deserialize, Serialize};

/// The first byte of a message's head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Request = 1,
    Refusal = 2,
    Busy = 3,
    Part = 4,
    End = 5,
    Closed = 6,
    Serving = 7,
}

const KINDS: [Kind; 7] =
    [Kind::Request, Kind::Refusal, Kind::Busy, Kind::Part, Kind::End, Kind::Closed, Kind::Serving];

/// Before each message: its kind, its number of files, and the length of its text. It stays as it is
/// in all versions, so that they can refuse each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    pub kind: Kind,
    pub files: u8,
    pub length: u32,
}

pub(super) const HEAD: usize = 6;

/// Bytes of a message.
pub(super) const LONGEST_TEXT: u32 = 4 << 20;

impl Head {
    pub fn written(self) -> [u8; HEAD] {
        let [a, b, c, d] = self.length.to_le_bytes();
        [self.kind as u8, self.files, a, b, c, d]
    }

    /// `None`: this is none.
    pub fn read([kind, files, length @ ..]: [u8; HEAD]) -> Option<Self> {
        let kind = KINDS.into_iter().find(|known| *known as u8 == kind)?;
        let length = u32::from_le_bytes(length);
        (length <= LONGEST_TEXT).then_some(Self { kind, files, length })
    }
}

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Request {
    pub version: u32,
    /// Device and inode of its network namespace, as `/proc/self/ns/net` has them.
    pub namespace: (u64, u64),
}

impl Request {
    /// Why a process of this namespace cannot do as asked.
    pub fn refusal(&self, namespace: (u64, u64)) -> Option<String> {
        if self.version != VERSION {
            let asked = self.version;
            return Some(format!("it hands over by version {VERSION}, not by version {asked}"));
        }
        let same = self.namespace == namespace;
        (!same).then(|| "it runs in another network namespace".into())
    }
}
