//! The same object in several files.

use super::{Followed, Known, service};
use crate::model::Object;
use crate::sources::manifests::claims::Claims;
use crate::sources::manifests::file::Contents;
use std::fs;
use std::path::Path;

fn three() -> Followed {
    Followed::new(|root| {
        for (name, port) in [("b.yaml", 2), ("a.yaml", 1), ("c/a.yaml", 3)] {
            fs::create_dir_all(root.join("c")).expect("mkdir");
            fs::write(root.join(name), service("web", port)).expect("write");
        }
    })
}

#[test]
fn the_lowest_path_serves_and_the_others_are_listed() {
    let followed = three();
    assert_eq!(followed.known.services(), "web:1");
    let reasons = followed.known.reasons();
    let listed: Vec<_> = reasons.lines().collect();
    assert_eq!(listed.len(), 2, "{reasons}");
    for (line, file) in listed.iter().zip(["/b.yaml document 1", "/c/a.yaml document 1"]) {
        assert!(line.contains(file) && line.contains("/a.yaml document 1 has"), "{line}");
    }
}

#[test]
fn the_next_takes_over_when_the_first_goes() {
    let mut followed = three();
    fs::remove_file(followed.path("a.yaml")).expect("remove");
    followed.until_services("web:2");
    assert_eq!(followed.known.reasons().lines().count(), 1);
    fs::remove_file(followed.path("b.yaml")).expect("remove");
    followed.until_services("web:3");
    assert_eq!(followed.known.reasons(), "");
    assert_eq!(followed.known.deletes, [""; 0]);
    followed.write("a.yaml", &service("web", 4));
    followed.until_services("web:4");
}

#[test]
fn an_edit_of_a_copy_that_does_not_serve_changes_nothing() {
    let mut followed = three();
    let upserts = followed.known.upserts;
    followed.write("b.yaml", &service("web", 9));
    followed.settle();
    assert_eq!(followed.known.upserts, upserts + 1, "only the settling edit");
    assert_eq!(followed.known.services(), "web:1");
}

#[test]
fn a_valid_object_that_is_not_served_stands_before_the_others() {
    let mut followed = three();
    followed.write("a.yaml", &service("web", 1).replace("10.254.0.1", "None"));
    followed.until_services("");
    let reasons = followed.known.reasons();
    assert_eq!(reasons.lines().count(), 2, "{reasons}");
    for line in reasons.lines() {
        assert!(line.contains("/a.yaml document 1 has"), "{line}");
        assert!(line.contains("not served: headless") && !line.contains("serves"), "{line}");
    }
}

#[test]
fn a_bad_object_gives_way_to_a_good_copy() {
    let mut followed = three();
    followed.write("a.yaml", &service("web", 1).replace("port: 1", "port: x"));
    followed.until_services("web:2");
}

#[test]
fn in_one_file_the_first_document_serves() {
    let text = format!("{}---\n{}", service("web", 1), service("web", 2));
    let followed = Followed::new(|root| fs::write(root.join("a.yaml"), text).expect("write"));
    assert_eq!(followed.known.services(), "web:1");
    assert!(followed.known.reasons().contains("a.yaml document 2"), "{}", followed.known.reasons());
}

fn pod(address: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: p, labels: {{app: web}}}}, \
         status: {{podIP: {address}}}}}\n"
    )
}

/// Where pod `p` is, if it is anywhere.
fn pod_address(known: &Known) -> Option<String> {
    match known.objects.get("Pod default/p")? {
        Object::Pod(pod) => Some(pod.addresses[0].to_string()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn copies_rejections_and_broken_files_of_pods_are_those_of_any_kind() {
    let mut followed = Followed::new(|root| {
        fs::write(root.join("a.yaml"), pod("10.180.0.1")).expect("write");
        fs::write(root.join("b.yaml"), pod("10.180.0.2")).expect("write");
    });
    let at =
        |address: &'static str| move |known: &Known| pod_address(known).as_deref() == Some(address);
    assert!(at("10.180.0.1")(&followed.known));
    assert!(followed.known.reasons().contains("b.yaml document 1: Pod default/p"));
    followed.write("a.yaml", "{");
    followed.until("the syntax error", |known| known.reasons().contains("until it parses again"));
    assert!(at("10.180.0.1")(&followed.known), "what a file held stays until it parses again");
    followed.write("a.yaml", &pod("10.180.0.300"));
    followed.until("the good copy", at("10.180.0.2"));
    assert!(followed.known.reasons().contains("a.yaml document 1: Pod default/p: status.podIP"));
    followed.write("b.yaml", &pod("10.180.0.2").replace("podIP", "phase: Failed, podIP"));
    followed.until("its end", |known| pod_address(known).is_none());
    assert_eq!(followed.known.deletes, ["Pod default/p"]);
}

#[test]
fn a_path_holds_what_is_below_it_and_not_its_namesakes() {
    let mut claims = Claims::default();
    let names = ["m/a", "m/a-1.yaml", "m/a.yaml", "m/a/b.yaml", "m/a/c/d.yaml", "m/ab.yaml"];
    for name in names {
        let nothing = Contents::empty(0);
        claims.set(&Path::new(name).into(), nothing, &mut Vec::new());
    }
    let under = |path: &str| {
        let found = claims.under(Path::new(path));
        found.iter().map(|path| path.display().to_string()).collect::<Vec<_>>()
    };
    assert_eq!(under("m/a"), ["m/a", "m/a/b.yaml", "m/a/c/d.yaml"]);
    assert_eq!(under("m/a/"), ["m/a/b.yaml", "m/a/c/d.yaml"]);
    assert_eq!(under("m/a.yaml"), ["m/a.yaml"]);
    assert_eq!(under("m/").len(), names.len());
    assert_eq!(under("m/x"), [""; 0]);
}
