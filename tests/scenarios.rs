//! Objects in, golden text out: what a node does about `scenarios/NAME.yaml` stands in `NAME.snap`.
//!
//! A manifest begins with what it shows. Documents are taken in one after the other, so that an
//! object that comes twice is one that changes; all is then planned once more from nothing, which
//! must lead to the same text.

use clap::Parser;
use rstest::rstest;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use vipd::admin::render::render_plan;
use vipd::config::{NodeConfig, NodeFlags};
use vipd::dataplane::nftables::listing;
use vipd::model::{NodeFacts, Object, ObjectRef};
use vipd::planner::{Plan, Planner, explain, problems};
use vipd::sources::decode::{Decoded, Format, Names, decode};
use vipd::store::Store;

/// The node of every scenario, unless a scenario says otherwise.
const NODE: &str = r#"
apiVersion: v1
kind: Node
metadata: {name: node-a, labels: {topology.kubernetes.io/zone: z1}}
spec: {podCIDRs: [10.180.0.0/24, "fd00:180::/64"]}
status: {addresses: [{type: InternalIP, address: 192.168.0.2}]}
"#;
/// Its flags, unless a scenario has a line `# flags: …`.
const FLAGS: &str = "--cluster-cidr 10.180.0.0/16,fd00:180::/48 \
                     --service-cluster-ip-range 10.254.0.0/16,fd00:254::/112";

#[derive(Debug, Parser)]
struct Flags {
    #[command(flatten)]
    node: NodeFlags,
}

fn config(manifest: &str) -> NodeConfig {
    let flags = manifest.lines().find_map(|line| line.strip_prefix("# flags: "));
    let words = flags.unwrap_or(FLAGS).split_whitespace();
    let words = ["vipd", "--hostname-override", "node-a"].into_iter().chain(words);
    Flags::try_parse_from(words).expect("flags of vipd").node.check().expect("good flags")
}

/// A node that has taken objects in.
struct Node {
    store: Store,
    planner: Planner,
    name: std::sync::Arc<str>,
}

impl Node {
    fn new(config: NodeConfig) -> Self {
        Self {
            store: Store::new(config.node_name.clone()),
            planner: Planner::new(config.policy, config.node_name.clone()),
            name: config.node_name,
        }
    }

    fn of(config: NodeConfig, objects: impl Iterator<Item = Object>) -> Self {
        let mut node = Self::new(config);
        objects.for_each(|object| node.store.upsert(object));
        node.replan();
        node
    }

    fn replan(&mut self) {
        let dirty = self.store.take_dirty();
        let mut keys: BTreeSet<_> = dirty.services.into_iter().collect();
        if dirty.node {
            self.planner.set_facts(self.facts(), &self.store.service_cidrs());
            keys.extend(self.store.known().keys().cloned());
        }
        self.planner.replan(keys, self.store.known());
    }

    fn facts(&self) -> NodeFacts {
        let Some(node) = self.store.node() else {
            return NodeFacts { name: self.name.clone(), ..NodeFacts::default() };
        };
        NodeFacts {
            name: self.name.clone(),
            zone: node.zone.clone(),
            addresses: node.addresses.to_vec(),
            interface_addresses: node.addresses.to_vec(),
            pod_cidrs: node.pod_cidrs.to_vec(),
            going_away: node.going_away,
        }
    }

    fn plan(&self) -> &Plan {
        self.planner.plan()
    }

    /// What the node does, and why it does no more.
    fn text(&self) -> String {
        let mut out = render_plan(self.plan());
        let unused = self.unused();
        if !unused.is_empty() {
            let _ = write!(out, "\nendpoints that are not used\n{unused}");
        }
        let problems = problems(self.plan(), self.store.known());
        if !problems.is_empty() {
            out.push_str("\nproblems of the plan\n");
        }
        for problem in problems {
            let _ = writeln!(out, "  {}: {problem}", problem.severity.name());
        }
        let _ = write!(out, "\n{}", listing(self.plan()));
        out
    }

    fn unused(&self) -> String {
        let mut out = String::new();
        for service in self.plan().services() {
            let key = &service.key;
            let Some(known) = self.store.known().get(key) else { continue };
            for port in &service.ports {
                for (target, reason) in explain(known, &self.plan().facts, port) {
                    if !reason.is_used() {
                        let _ = writeln!(out, "  {key} {}: {target}: {reason}", port.name.0);
                    }
                }
            }
        }
        out
    }
}

/// Runs a manifest, and says first what in it is not served.
fn run(manifest: &str) -> String {
    let mut names = Names::default();
    let path = Path::new("scenario.yaml").into();
    let mut decode = |text: &str| {
        decode(text.as_bytes(), Format::Yaml, &path, &mut names).expect("the scenario is YAML")
    };
    let mut documents = decode(NODE);
    documents.extend(decode(manifest));
    let mut out = String::new();
    let mut last_words: BTreeMap<ObjectRef, Object> = BTreeMap::new();
    let mut node = Node::new(config(manifest));
    for document in documents {
        for warning in &document.warnings {
            let _ = writeln!(out, "{}: {warning}", warning.severity.name());
        }
        match document.decoded {
            Decoded::Object(object) => {
                last_words.insert(object.object_ref(), object.clone());
                node.store.upsert(object);
            }
            Decoded::Ignored { object, why } => {
                let which = object.as_ref().map_or("an object".to_owned(), ToString::to_string);
                let _ = writeln!(out, "ignored: {which}: {why}");
                // The same as if it did not exist (any more).
                if let Some(object) = object {
                    last_words.remove(&object);
                    node.store.delete(&object);
                }
            }
            Decoded::Rejected(problem) => {
                let _ = writeln!(out, "{}: {problem}", problem.severity.name());
            }
        }
        node.replan();
    }
    let text = node.text();
    let fresh = Node::of(config(manifest), last_words.into_values().rev());
    assert_eq!(text, fresh.text(), "the way here matters");
    if !out.is_empty() {
        out.push('\n');
    }
    out + &text
}

#[rstest]
fn scenario(#[files("tests/scenarios/*.yaml")] path: PathBuf) {
    let manifest = fs::read_to_string(&path).expect("a readable scenario");
    let title = manifest.lines().next().and_then(|line| line.strip_prefix("# "));
    let title = title.expect("a first line that says what the scenario shows");
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("scenarios");
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.set_description(title);
    let name = path.file_stem().expect("a file").to_string_lossy().into_owned();
    settings.bind(|| insta::assert_snapshot!(name, run(&manifest)));
}

#[test]
fn every_golden_file_has_its_scenario() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
    let mut files: Vec<PathBuf> =
        fs::read_dir(dir).expect("the scenarios").map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "snap"));
    assert!(!files.is_empty());
    for golden in files {
        assert!(golden.with_extension("yaml").exists(), "{} is of no scenario", golden.display());
    }
}
