//! Lists of ports.

use smallvec::SmallVec;
use std::borrow::Borrow;
use std::ops::Deref;
use std::sync::Arc;

/// Ports in the object's order. One pointer, and shared: few different lists are in use, and most
/// have one port.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Ports<T>(Arc<SmallVec<[T; 1]>>);

impl<T> Clone for Ports<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Default for Ports<T> {
    fn default() -> Self {
        Self::from_iter([])
    }
}

impl<T> Deref for Ports<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.0
    }
}

impl<T> Borrow<[T]> for Ports<T> {
    fn borrow(&self) -> &[T] {
        self
    }
}

impl<T> FromIterator<T> for Ports<T> {
    fn from_iter<I: IntoIterator<Item = T>>(ports: I) -> Self {
        let mut ports = SmallVec::from_iter(ports);
        ports.shrink_to_fit();
        Self(Arc::new(ports))
    }
}

impl<T, const N: usize> From<[T; N]> for Ports<T> {
    fn from(ports: [T; N]) -> Self {
        Self::from_iter(ports)
    }
}
