//! Columns as kubectl sets them: no lines, three spaces between.

use super::output::escape;
use comfy_table::presets::NOTHING;
use comfy_table::{ContentArrangement, Table};

const GAP: u16 = 3;

pub(super) struct Columns {
    table: Table,
}

impl Columns {
    pub(super) fn new(header: &[&str]) -> Self {
        let mut table = Table::new();
        table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        table.set_header(header.to_vec());
        for column in table.column_iter_mut() {
            column.set_padding((0, GAP));
        }
        Self { table }
    }

    pub(super) fn row(&mut self, cells: &[&str]) {
        self.table.add_row(cells.iter().map(|cell| escape(cell).into_owned()));
    }

    pub(super) fn text(&self) -> String {
        self.table.lines().map(|line| format!("{}\n", line.trim_end())).collect()
    }
}

/// `a,b,c`; kubectl's word where there is nothing.
pub(super) fn joined<T: ToString>(values: &[T]) -> String {
    if values.is_empty() {
        return "<none>".to_owned();
    }
    values.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

/// The first three, and how many are left out.
pub(super) fn abbreviated<T: ToString>(values: &[T]) -> String {
    const SHOWN: usize = 3;
    match values.len().checked_sub(SHOWN) {
        None | Some(0) => joined(values),
        Some(more) => format!("{} + {more} more...", joined(&values[..SHOWN])),
    }
}
