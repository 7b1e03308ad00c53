//! The text exposition format: families with HELP and TYPE, samples with labels. PURE.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::fmt::{Display, Write as _};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Counter,
    Gauge,
}

/// Samples of one name and meaning.
#[derive(Debug, Clone, Copy)]
pub(super) struct Family {
    pub kind: Kind,
    pub name: &'static str,
    /// One sentence, and the unit.
    pub help: &'static str,
}

#[derive(Debug, Default)]
pub(super) struct Text(String);

impl Text {
    /// A family of one sample without labels.
    pub(super) fn one(&mut self, family: Family, value: impl Display) {
        self.head(family);
        self.line(format_args!("{} {value}", family.name));
    }

    /// A family whose samples differ in one label.
    pub(super) fn each<V: Display>(
        &mut self,
        family: Family,
        label: &str,
        samples: impl IntoIterator<Item = (&'static str, V)>,
    ) {
        self.head(family);
        for (of, value) in samples {
            self.line(format_args!("{}{{{label}=\"{}\"}} {value}", family.name, label_value(of)));
        }
    }

    fn head(&mut self, Family { kind, name, help }: Family) {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        self.line(format_args!("# HELP {name} {}", help_text(help)));
        self.line(format_args!("# TYPE {name} {kind}"));
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, "{line}");
    }

    pub(super) fn finish(self) -> String {
        self.0
    }
}

fn help_text(text: &str) -> String {
    text.replace('\\', r"\\").replace('\n', r"\n")
}

fn label_value(text: &str) -> String {
    help_text(text).replace('"', r#"\""#)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GAUGE: Family = Family { kind: Kind::Gauge, name: "g", help: "A \\ and\na line." };

    #[test]
    fn a_family_has_help_and_type_before_its_samples() {
        let mut text = Text::default();
        text.one(Family { kind: Kind::Counter, name: "c_total", help: "Things." }, 3);
        text.each(GAUGE, "of", [("a", 1.5), ("b", 0.0)]);
        let expected = "# HELP c_total Things.\n# TYPE c_total counter\nc_total 3\n\
                        # HELP g A \\\\ and\\na line.\n# TYPE g gauge\n\
                        g{of=\"a\"} 1.5\ng{of=\"b\"} 0\n";
        assert_eq!(text.finish(), expected);
    }

    #[test]
    fn label_values_escape_what_would_end_them() {
        let mut text = Text::default();
        text.each(GAUGE, "of", [("a\"b\\c\nd", 1)]);
        assert!(text.finish().ends_with("g{of=\"a\\\"b\\\\c\\nd\"} 1\n"));
    }

    #[test]
    fn a_family_without_samples_is_still_declared() {
        let mut text = Text::default();
        text.each(GAUGE, "of", [("a", 1); 0]);
        assert_eq!(text.finish().lines().count(), 2);
    }
}
