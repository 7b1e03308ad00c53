//! What is known.
