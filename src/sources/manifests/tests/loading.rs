//! One full scan without following.

use super::{Known, service};
use crate::sources::manifests::{Error, load};
use std::fs;
use std::os::unix::fs::symlink;
use tempfile::TempDir;

#[test]
fn everything_below_a_directory_is_read_once() {
    let dir = TempDir::new().expect("a temporary directory");
    let root = dir.path();
    fs::create_dir_all(root.join("x/y")).expect("mkdir");
    // More files than are read without threads.
    for i in 0..40 {
        fs::write(root.join(format!("x/{i}.yml")), service(&format!("s{i}"), i + 1))
            .expect("write");
    }
    fs::write(root.join("x/y/b.yaml"), service("b", 1)).expect("write");
    fs::write(root.join("x/empty.json"), "").expect("write");
    symlink("../..", root.join("x/y/up")).expect("symlink");
    let mut known = Known::default();
    for batch in load(root).expect("readable") {
        assert!(known.synced.is_empty(), "synced comes last");
        known.apply(batch);
    }
    assert_eq!((known.objects.len(), known.upserts, known.synced.len()), (41, 41, 6));
    assert_eq!(known.reasons(), "");
}

#[test]
fn a_file_that_does_not_parse_serves_nothing_and_says_where() {
    let dir = TempDir::new().expect("a temporary directory");
    let text = format!("{}---\na: [\n", service("a", 80));
    fs::write(dir.path().join("a.yaml"), text).expect("write");
    let mut known = Known::default();
    load(dir.path()).expect("readable").into_iter().for_each(|batch| known.apply(batch));
    assert_eq!(known.services(), "");
    assert!(known.reasons().contains("a.yaml: line 3 column"), "{}", known.reasons());
}

#[test]
fn a_file_is_no_directory() {
    let dir = TempDir::new().expect("a temporary directory");
    let file = dir.path().join("a.yaml");
    fs::write(&file, "").expect("write");
    assert!(matches!(load(&file), Err(Error::Directory { .. })));
}
