//! A single file that is followed.

use super::super::FollowedFile;
use super::super::watches::Watches;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;
use tempfile::TempDir;
use tokio::time::timeout;

/// Longer than the pause between looks for a missing directory.
const SOON: Duration = Duration::from_secs(20);
/// Longer than what it waits for quiet.
const QUIET: Duration = Duration::from_millis(300);

async fn notices(file: &mut FollowedFile, what: &str, change: impl FnOnce()) {
    change();
    let noticed = timeout(SOON, file.changed()).await;
    noticed.unwrap_or_else(|_| panic!("not noticed: {what}")).unwrap();
}

async fn ignores(file: &mut FollowedFile, what: &str, change: impl FnOnce()) {
    change();
    assert!(timeout(QUIET, file.changed()).await.is_err(), "{what}");
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
}

#[tokio::test]
async fn writes_renames_and_removals_are_noticed_and_neighbours_are_not() {
    let directory = TempDir::new().unwrap();
    let at = |name: &str| directory.path().join(name);
    write(&at("c"), "1");
    let mut file = FollowedFile::open(at("c")).unwrap();
    ignores(&mut file, "a neighbour", || write(&at("d"), "1")).await;
    notices(&mut file, "a write", || write(&at("c"), "2")).await;
    notices(&mut file, "a rename", || {
        write(&at("new"), "3");
        fs::rename(at("new"), at("c")).unwrap();
    })
    .await;
    notices(&mut file, "a write to the new one", || write(&at("c"), "4")).await;
    notices(&mut file, "a removal", || fs::remove_file(at("c")).unwrap()).await;
    notices(&mut file, "a file again", || write(&at("c"), "5")).await;
}

#[tokio::test]
async fn links_are_followed_wherever_they_lead() {
    let (directory, elsewhere) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let at = |name: &str| directory.path().join(name);
    let far = |name: &str| elsewhere.path().join(name);
    for version in ["1", "2"] {
        fs::create_dir(far(version)).unwrap();
        write(&far(version).join("c"), version);
    }
    symlink("1", far("data")).unwrap();
    symlink(far("data").join("c"), at("c")).unwrap();
    let mut file = FollowedFile::open(at("c")).unwrap();
    notices(&mut file, "a swap", || {
        symlink("2", far("tmp")).unwrap();
        fs::rename(far("tmp"), far("data")).unwrap();
    })
    .await;
    assert_eq!(fs::read_to_string(at("c")).unwrap(), "2");
    notices(&mut file, "a write at the end of the way", || write(&far("2").join("c"), "3")).await;
    ignores(&mut file, "a write where it led before", || write(&far("1").join("c"), "4")).await;
    notices(&mut file, "another first link", || {
        symlink(far("1").join("c"), at("tmp")).unwrap();
        fs::rename(at("tmp"), at("c")).unwrap();
    })
    .await;
    notices(&mut file, "a write at its end", || write(&far("1").join("c"), "5")).await;
}

#[tokio::test]
async fn a_directory_that_goes_and_comes_again() {
    let directory = TempDir::new().unwrap();
    let inner = directory.path().join("inner");
    fs::create_dir(&inner).unwrap();
    write(&inner.join("c"), "1");
    let mut file = FollowedFile::open(inner.join("c")).unwrap();
    notices(&mut file, "its removal", || fs::remove_dir_all(&inner).unwrap()).await;
    notices(&mut file, "its return", || {
        fs::create_dir(&inner).unwrap();
        write(&inner.join("c"), "2");
    })
    .await;
    notices(&mut file, "a write in the new one", || write(&inner.join("c"), "3")).await;
}

#[test]
fn a_way_that_is_followed_again_loses_no_event_and_makes_none() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("c");
    write(&path, "1");
    let mut watches = Watches::new().unwrap();
    assert!(watches.add_link(&path), "not followed before");
    write(&path, "2");
    assert!(!watches.add_link(&path), "the same way");
    assert!(!watches.events().unwrap().is_empty(), "the write");
    assert!(!watches.add_link(&path));
    let descriptor = watches.descriptor().unwrap();
    let mut waiting = [PollFd::new(&descriptor, PollFlags::IN)];
    assert_eq!(poll(&mut waiting, Some(&Timespec::default())).unwrap(), 0, "nothing to read");
}
