//! Which endpoint comes next.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use crate::planner::Target;
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

/// Session affinity of one listener. All its clients are this node, so they share one pin; it lasts
/// until nobody has connected for the service's timeout.
#[derive(Debug, Default)]
pub(super) struct Pin(Option<(Target, Instant)>);

/// What a choice depends on.
pub(super) struct Ask<'a> {
    pub candidates: &'a [Target],
    /// Seconds
    pub affinity: Option<NonZeroU32>,
    pub now: Instant,
    pub random: u64,
}

impl Pin {
    /// The pinned endpoint, if it is a candidate; else any one, which is pinned from now on, so
    /// that who connects at the same time goes there too. `None` without candidates.
    pub(super) fn choose(&mut self, ask: &Ask<'_>) -> Option<Target> {
        let Some(affinity) = ask.affinity else { return any(ask) };
        let timeout = Duration::from_secs(affinity.get().into());
        let pinned = self.0.filter(|(target, used)| {
            ask.now.saturating_duration_since(*used) < timeout && ask.candidates.contains(target)
        });
        let target = pinned.map(|(target, _)| target).or_else(|| any(ask))?;
        self.0 = Some((target, ask.now));
        Some(target)
    }
}

fn any(ask: &Ask<'_>) -> Option<Target> {
    let count = u64::try_from(ask.candidates.len()).ok().filter(|count| *count > 0)?;
    let index = usize::try_from(ask.random % count).ok()?;
    ask.candidates.get(index).copied()
}
