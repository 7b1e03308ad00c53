//! The text exposition format: families with HELP and TYPE, samples with labels. PURE.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use crate::histogram::Histogram;
use std::fmt::{Display, Write as _};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// Samples of one name and meaning.
#[derive(Debug, Clone, Copy)]
pub(super) struct Family {
    pub kind: Kind,
    pub name: &'static str,
    /// One sentence, and the unit.
    pub help: &'static str,
}

pub(super) fn counter(name: &'static str, help: &'static str) -> Family {
    Family { kind: Kind::Counter, name, help }
}

pub(super) fn histogram(name: &'static str, help: &'static str) -> Family {
    Family { kind: Kind::Histogram, name, help }
}

pub(super) fn gauge(name: &'static str, help: &'static str) -> Family {
    Family { kind: Kind::Gauge, name, help }
}

/// Values of kube-proxy's label `ip_family`, in the order of [`crate::model::Family::BOTH`].
pub(super) const IP_FAMILIES: [&str; 2] = ["IPv4", "IPv6"];

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
        let samples = samples.into_iter().map(|(of, value)| (labels(&[(label, of)]), value));
        self.labelled(family, samples);
    }

    /// A family with a sample for each family of addresses, and of these one for each value of another
    /// label.
    pub(super) fn of_families<V: Display>(
        &mut self,
        family: Family,
        label: &str,
        samples: impl IntoIterator<Item = (&'static str, [V; 2])>,
    ) {
        let samples = samples.into_iter().flat_map(|(of, values)| {
            let of_family = move |(ip, value)| (labels(&[("ip_family", ip), (label, of)]), value);
            IP_FAMILIES.into_iter().zip(values).map(of_family)
        });
        self.labelled(family, samples);
    }

    /// A family with a sample for each family of addresses.
    pub(super) fn of_each_family<V: Display>(&mut self, family: Family, values: [V; 2]) {
        self.each(family, "ip_family", IP_FAMILIES.into_iter().zip(values));
    }

    /// A family whose sample is of both families of addresses: vipd writes them together, kube-proxy
    /// one after the other.
    pub(super) fn of_both<V: Display + Copy>(&mut self, family: Family, value: V) {
        self.of_each_family(family, [value; 2]);
    }

    /// A family whose samples have these labels, as [`labels`] writes them.
    pub(super) fn labelled<V: Display>(
        &mut self,
        family: Family,
        samples: impl IntoIterator<Item = (String, V)>,
    ) {
        self.head(family);
        for (labels, value) in samples {
            self.line(format_args!("{}{{{labels}}} {value}", family.name));
        }
    }

    /// A family of histograms with these labels.
    pub(super) fn histograms<'a>(
        &mut self,
        family: Family,
        samples: impl IntoIterator<Item = (String, &'a Histogram)>,
    ) {
        self.head(family);
        let name = family.name;
        for (labels, histogram) in samples {
            let mut count = 0;
            for (bound, below) in histogram.cumulative() {
                let bound = bound_text(bound);
                self.line(format_args!("{name}_bucket{{{labels},le=\"{bound}\"}} {below}"));
                count = below;
            }
            self.line(format_args!("{name}_sum{{{labels}}} {}", histogram.sum()));
            self.line(format_args!("{name}_count{{{labels}}} {count}"));
        }
    }

    fn head(&mut self, Family { kind, name, help }: Family) {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
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

/// As Go writes numbers, `1.048576e+06`: a label's value is compared as text.
fn bound_text(bound: f64) -> String {
    let scientific = format!("{bound:e}");
    match scientific.split_once('e') {
        _ if bound.is_infinite() => "+Inf".into(),
        Some((digits, exponent)) if bound >= 1e6 => format!("{digits}e+{exponent:0>2}"),
        _ => bound.to_string(),
    }
}

/// `name="value",…`
pub(super) fn labels(pairs: &[(&str, &str)]) -> String {
    let pair = |(name, value): &(&str, &str)| format!("{name}=\"{}\"", label_value(value));
    pairs.iter().map(pair).collect::<Vec<_>>().join(",")
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
    fn a_histogram_has_buckets_a_sum_and_a_count() {
        let durations = crate::sync::Durations::default();
        durations.syncs.observe(std::time::Duration::from_millis(3));
        let mut text = Text::default();
        let family = Family { kind: Kind::Histogram, name: "h", help: "Seconds." };
        text.histograms(family, [(labels(&[("of", "a")]), &durations.syncs)]);
        let text = text.finish();
        for line in [
            "# TYPE h histogram",
            "h_bucket{of=\"a\",le=\"0.002\"} 0",
            "h_bucket{of=\"a\",le=\"0.004\"} 1",
            "h_bucket{of=\"a\",le=\"+Inf\"} 1",
            "h_sum{of=\"a\"} 0.003",
            "h_count{of=\"a\"} 1",
        ] {
            assert!(text.lines().any(|other| other == line), "{line} is missing in:\n{text}");
        }
    }

    #[test]
    fn bounds_are_written_as_go_writes_them() {
        for (bound, text) in [
            (0.005, "0.005"),
            (16.384, "16.384"),
            (262144.0, "262144"),
            (1048576.0, "1.048576e+06"),
            (16777216.0, "1.6777216e+07"),
            (f64::INFINITY, "+Inf"),
        ] {
            assert_eq!(bound_text(bound), text);
        }
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
