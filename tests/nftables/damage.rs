use crate::runner::Case;
pub const CASES: &[Case] = &[];
