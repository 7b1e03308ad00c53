//! Both ends, over a socket of a directory of the test's own.

use super::message::{Head, Kind, LONGEST_TEXT, Request};
use super::stream::Stream;
use super::{Error, VERSION, ask, closed, ended, offer, path};
use crate::dataplane::userspace::Part;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;
use tokio::task::spawn_blocking;

fn place() -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let at = path(&directory.path().join("admin.sock"));
    (directory, at)
}

/// A file that tells which one it is.
fn named(name: &str) -> OwnedFd {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(name.as_bytes()).unwrap();
    file.into()
}

fn name(file: OwnedFd) -> String {
    let (mut file, mut name) = (File::from(file), String::new());
    file.rewind().unwrap();
    file.read_to_string(&mut name).unwrap();
    name
}

fn part(text: String, files: &[&str]) -> Part {
    Part { text: text.into(), files: files.iter().map(|name| named(name)).collect() }
}

#[test]
fn heads_are_read_as_they_are_written() {
    for kind in [Kind::Request, Kind::Part, Kind::Serving] {
        let head = Head { kind, files: 253, length: LONGEST_TEXT };
        assert_eq!(Head::read(head.written()), Some(head));
    }
    for none in [[0, 0, 0, 0, 0, 0], [99, 0, 0, 0, 0, 0], [4, 0, 255, 255, 255, 255]] {
        assert_eq!(Head::read(none), None, "{none:?}");
    }
}

#[test]
fn another_version_and_another_namespace_are_refused() {
    let namespace = (4, 4026531840);
    let request = Request { version: VERSION, namespace };
    assert_eq!(request.refusal(namespace), None);
    let other = Request { version: VERSION + 1, ..request.clone() };
    assert!(other.refusal(namespace).unwrap().contains("by version"));
    assert!(request.refusal((4, 1)).unwrap().contains("namespace"));
}

#[tokio::test(flavor = "multi_thread")]
async fn all_parts_arrive_with_their_files_in_order() {
    let (_directory, at) = place();
    let offer = offer(&at).unwrap();
    let asking = spawn_blocking(move || ask(&at));
    let successor = offer.asked().await;
    let handing = spawn_blocking(move || {
        successor.busy().unwrap();
        let parts = (0..50).map(|number| {
            let (one, other) = (format!("{number}a"), format!("{number}b"));
            let names = [one.as_str(), other.as_str()];
            part("x".repeat(number * 5_000), &names[..number % 3])
        });
        successor.hand(parts).unwrap();
        successor.busy().unwrap();
        successor.closed(Some(named("lock"))).unwrap();
        successor
    });
    let (parts, mut former) = asking.await.unwrap().unwrap();
    assert_eq!(parts.len(), 50);
    for (number, Part { text, files }) in parts.into_iter().enumerate() {
        assert_eq!(text.len(), number * 5_000);
        let names: Vec<String> = files.into_iter().map(name).collect();
        assert_eq!(names, [format!("{number}a"), format!("{number}b")][..number % 3]);
    }
    let mut successor = handing.await.unwrap();
    let waiting = spawn_blocking(move || {
        let lock = closed(&mut former).unwrap().map(name);
        former.speaker().unwrap().serving();
        ended(former);
        lock
    });
    spawn_blocking(move || successor.serving().unwrap()).await.unwrap();
    // With the successor's end of the stream.
    assert_eq!(waiting.await.unwrap().as_deref(), Some("lock"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_successor_that_ends_before_it_serves_is_told() {
    let (_directory, at) = place();
    let offer = offer(&at).unwrap();
    let asking = spawn_blocking(move || ask(&at).map(drop));
    let mut successor = offer.asked().await;
    let serves = spawn_blocking(move || {
        successor.hand([]).unwrap();
        successor.serving()
    });
    asking.await.unwrap().unwrap();
    assert!(matches!(serves.await.unwrap(), Err(Error::Broken(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_and_who_leaves_are_told_apart_from_who_is_silent() {
    let (_directory, at) = place();
    let asked = |at: &Path| {
        let at = at.to_owned();
        spawn_blocking(move || ask(&at).map(drop).unwrap_err())
    };
    assert!(matches!(asked(&at).await.unwrap(), Error::Nobody { .. }));
    let listener = UnixListener::bind(&at).unwrap();
    let asking = asked(&at);
    drop(listener.accept().unwrap());
    assert!(matches!(asking.await.unwrap(), Error::Broken(_)));
    let asking = asked(&at);
    let silent = listener.accept().unwrap();
    assert!(matches!(asking.await.unwrap(), Error::Silent));
    drop(silent);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_for_something_else_does_not_keep_others_from_asking() {
    let (_directory, at) = place();
    let offer = offer(&at).unwrap();
    let wrong = at.clone();
    let asking = spawn_blocking(move || {
        let mut refused = Vec::new();
        for request in [&br#"{"version":99,"namespace":[0,0]}"#[..], b"{}", b""] {
            let mut stream = Stream::new(UnixStream::connect(&wrong).unwrap()).unwrap();
            if !request.is_empty() {
                stream.send(Kind::Request, request, &[]).unwrap();
            }
            let answer = (!request.is_empty()).then(|| stream.receive().unwrap()).flatten();
            refused.push(answer.map(|answer| answer.kind));
        }
        (refused, ask(&wrong))
    });
    let successor = offer.asked().await;
    spawn_blocking(move || successor.hand([part("{}".into(), &[])]).unwrap()).await.unwrap();
    let (refused, handed) = asking.await.unwrap();
    assert_eq!(refused, [Some(Kind::Refusal), None, None]);
    assert_eq!(handed.unwrap().0.len(), 1);
}

#[test]
fn a_message_without_its_files_is_none() {
    let (one, other) = UnixStream::pair().unwrap();
    let head = Head { kind: Kind::Part, files: 1, length: 0 };
    (&one).write_all(&head.written()).unwrap();
    let mut stream = Stream::new(other).unwrap();
    assert!(matches!(stream.receive(), Err(Error::Nonsense(_))));
    let file = named("x");
    let sender = Stream::new(one).unwrap();
    sender.wait(Some(Duration::from_millis(10))).unwrap();
    assert!(sender.send(Kind::Part, b"", &vec![file.as_fd(); 300]).is_err());
}
