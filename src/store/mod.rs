//! What is known.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]
