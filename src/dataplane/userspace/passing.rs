//! Room for what passes through.

use std::cell::RefCell;

/// As much as a datagram can hold.
pub(super) const SIZE: usize = 64 << 10;

thread_local! {
    static ROOM: RefCell<Box<[u8]>> = RefCell::new(vec![0; SIZE].into_boxed_slice());
}

/// What is read on this thread goes through here and is written at once: connections that wait,
/// which are nearly all, have no buffer of their own. Not to be used within itself.
pub(super) fn through<T>(with: impl FnOnce(&mut [u8]) -> T) -> T {
    ROOM.with_borrow_mut(|room| with(room))
}
