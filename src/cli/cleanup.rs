//! `vipd cleanup`: the host as it was before.

use super::Error;
use crate::app;

pub(super) fn run() -> Result<(), Error> {
    Ok(app::cleanup()?)
}
