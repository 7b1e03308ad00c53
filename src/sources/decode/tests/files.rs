//! Files: documents, Lists, syntax errors, and one bad object among good ones.

use super::{GOOD, documents, ignored, only, rejected, service_text};
use crate::model::{Kind, Origin};
use crate::sources::decode::{Decoded, Document, Format, Names, SyntaxError, decode};
use rstest::rstest;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use tracing_subscriber::filter::LevelFilter;

/// `ok`, `ignored`, or the field of the fault: enough to see which document became what.
fn summary(documents: &[Document]) -> Vec<String> {
    let word = |document: &Document| {
        let word = match &document.decoded {
            Decoded::Object(_) => "ok".to_owned(),
            Decoded::Ignored { .. } => "ignored".to_owned(),
            Decoded::Rejected(problem) => {
                let path: Arc<Path> = Path::new("a.yaml").into();
                assert_eq!(problem.origin, Origin::File { path, document: document.number });
                format!("rejected {}", problem.field)
            }
        };
        format!("{} {word}", document.number)
    };
    documents.iter().map(word).collect()
}

fn syntax_error(text: &[u8], format: Format) -> SyntaxError {
    let path: Arc<Path> = Path::new("a.yaml").into();
    decode(text, format, &path, &mut Names::default()).expect_err("must not parse")
}

#[test]
fn each_document_of_a_stream_stands_alone() {
    let good = service_text(GOOD);
    let bad = service_text("clusterIP: 10.254.0.1, ports: [{port: 80a}]");
    let text = format!(
        "# a comment first\n---\n{good}\n---\n# nothing here\n---\n{bad}\n---   # a comment\nhello\n...\n%YAML 1.2\n---\n{good}\n--- {good}\n"
    );
    let expected = ["1 ok", "2 rejected spec.ports[0].port", "3 rejected ", "4 ok", "5 ok"];
    assert_eq!(summary(&documents(&text, Format::Yaml)), expected);
}

#[test]
fn a_marker_inside_a_block_scalar_is_indented_and_ends_nothing() {
    let text = format!("a: |\n  ---\n  text\n---\n{}\n", service_text(GOOD));
    assert_eq!(summary(&documents(&text, Format::Yaml)), ["1 rejected kind", "2 ok"]);
}

#[rstest]
#[case::list("v1", "List", true)]
#[case::typed("v1", "ServiceList", false)]
fn items_of_a_list_stand_alone(#[case] version: &str, #[case] kind: &str, #[case] named: bool) {
    let typed = if named { r#""apiVersion":"v1","kind":"Service","# } else { "" };
    let item = |port: &str| {
        format!(
            r#"{{{typed}"metadata":{{"name":"a"}},"spec":{{"clusterIP":"10.254.0.1","ports":[{{"port":{port}}}]}}}}"#
        )
    };
    let text = format!(
        r#"{{"apiVersion":"{version}","kind":"{kind}","metadata":{{}},"items":[{},{},7,{}]}}"#,
        item("80"),
        item("\"80\""),
        item("81")
    );
    let expected = ["1 ok", "2 rejected spec.ports[0].port", "3 rejected ", "4 ok"];
    assert_eq!(summary(&documents(&text, Format::Json)), expected);
    assert_eq!(summary(&documents(&text, Format::Yaml)), expected, "JSON is YAML");
}

#[test]
fn json_documents_follow_one_another() {
    let one = r#"{"apiVersion":"v1","kind":"Service","metadata":{"name":"a"},"spec":{"clusterIP":"10.254.0.1","ports":[{"port":80}]}}"#;
    let text = format!("\u{feff}{one}\n[1]\n{one}{one}");
    assert_eq!(summary(&documents(&text, Format::Json)), ["1 ok", "2 rejected ", "3 ok", "4 ok"]);
}

#[rstest]
#[case("")]
#[case("\u{feff}")]
#[case("\n\n")]
fn an_empty_file_holds_nothing(#[case] text: &str) {
    assert_eq!(documents(text, Format::Json), []);
    assert_eq!(documents(text, Format::Yaml), []);
}

#[test]
fn a_list_longer_than_the_yaml_parsers_budgets_is_read() {
    let mut text = "apiVersion: v1\nkind: List\nitems:\n".to_owned();
    for i in 0..20_000 {
        text += &format!(
            "- {{apiVersion: v1, kind: Pod, metadata: {{name: p{i}, labels: {{a: b}}}}}}\n"
        );
    }
    assert_eq!(documents(&text, Format::Yaml).len(), 20_000);
    let text = "---\n{apiVersion: v1, kind: Pod}\n".repeat(1_100);
    assert_eq!(documents(&text, Format::Yaml).len(), 1_100);
}

#[test]
fn an_alias_bomb_is_refused() {
    let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for i in 1..12 {
        let references = vec![format!("*a{}", i - 1); 10].join(", ");
        text += &format!("a{i}: &a{i} [{references}]\n");
    }
    syntax_error(text.as_bytes(), Format::Yaml);
}

#[rstest]
#[case::yaml(Format::Yaml, "a: b\n---\nc: [1,\n  2\nd: e\n", 5)]
#[case::yaml_tab(Format::Yaml, "---\na:\n\tb: c\n", 3)]
#[case::duplicate_key(Format::Yaml, "---\na: 1\nb: 2\na: 3\n", 4)]
#[case::json(Format::Json, "{\n\"a\": 1,\n}", 3)]
#[case::json_cut_short(Format::Json, "{\n\"a\": [1", 2)]
fn a_syntax_error_says_where(#[case] format: Format, #[case] text: &str, #[case] line: u64) {
    let error = syntax_error(text.as_bytes(), format);
    assert_eq!(error.line, line, "{error}");
    assert!(error.column > 0 && !error.reason.contains(" line "), "{error}");
    assert!(!error.reason.contains("Options"), "advice to a programmer: {error}");
}

#[test]
fn text_that_is_not_utf8_says_where() {
    let error = syntax_error(b"a: b\nc: \xff", Format::Yaml);
    assert_eq!((error.line, error.column), (2, 4));
}

#[rstest]
#[case("{kind: Service}", "apiVersion")]
#[case("{apiVersion: v1}", "kind")]
#[case("{apiVersion: discovery.k8s.io/v1beta1, kind: EndpointSlice}", "apiVersion")]
#[case("{apiVersion: v1, kind: Service, metadata: {name: 5}}", "metadata.name")]
#[case("{apiVersion: v1, kind: Service, metadata: {name: a}, spec: []}", "spec")]
fn what_an_object_must_say(#[case] text: &str, #[case] field: &str) {
    assert_eq!(&*rejected(text).field, field);
}

#[rstest]
#[case("{apiVersion: apps/v1, kind: Deployment, metadata: {name: a}}")]
#[case("{apiVersion: serving.knative.dev/v1, kind: Service, metadata: {name: a}}")]
fn other_kinds_are_ignored(#[case] text: &str) {
    assert_eq!(ignored(text).0, None);
}

#[test]
fn unknown_fields_are_ignored() {
    let text = service_text(&format!("{GOOD}, colour: red"));
    assert!(matches!(only(&text).decoded, Decoded::Object(_)));
}

#[test]
fn unknown_fields_are_named() {
    let text = r#"{"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a", "hue": 1},
        "spec": {"colour": "red", "ports": [{"port": 80}, {"port": 81, "shade": {"of": "blue"}}]}}"#;
    let unknown = crate::sources::decode::object::unknown_fields(Kind::Service, text);
    assert_eq!(unknown, ["metadata.hue", "spec.colour", "spec.ports[1].shade"]);
}

/// Hands on what is logged.
struct Line(Sender<String>);

impl io::Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _ = self.0.send(String::from_utf8_lossy(bytes).into_owned());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// One after the other: which lines are wanted at all is remembered for the whole process.
#[test]
fn unknown_fields_are_logged() {
    for (level, more, parts) in [
        (LevelFilter::DEBUG, ", colour: red", &["a.yaml", "document=1", "spec.colour"][..]),
        (LevelFilter::DEBUG, "", &[]),
        (LevelFilter::INFO, ", colour: red", &[]),
    ] {
        let (sender, lines) = channel();
        let log = tracing_subscriber::fmt().with_max_level(level).with_ansi(false);
        let log = log.with_writer(move || Line(sender.clone())).finish();
        tracing::subscriber::with_default(log, || only(&service_text(&format!("{GOOD}{more}"))));
        let logged: String = lines.try_iter().collect();
        assert_eq!(logged.is_empty(), parts.is_empty(), "{logged}");
        for part in parts {
            assert!(logged.contains(part), "{part} is missing: {logged}");
        }
    }
}

#[test]
fn a_rejection_names_the_object_and_what_is_right() {
    let problem = rejected(&service_text("clusterIP: 10.254.0.1, ports: [{port: 70000}]"));
    assert_eq!(
        problem.to_string(),
        "a.yaml document 1: Service default/web: spec.ports[0].port: 70000 is not a port (1 to 65535)"
    );
}
