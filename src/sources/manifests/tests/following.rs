//! What happens to a followed directory.

use super::{Followed, service};
use crate::sources::manifests::open;
use rstest::rstest;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::symlink;
use std::thread;
use std::time::{Duration, Instant, UNIX_EPOCH};

fn one_file() -> Followed {
    Followed::new(|root| fs::write(root.join("a.yaml"), service("a", 80)).expect("write"))
}

#[test]
fn the_first_scan_ends_with_every_kind_synced() {
    let followed = one_file();
    assert_eq!(followed.known.services(), "a:80");
    assert_eq!(followed.known.synced.len(), 6);
}

#[test]
fn a_closed_write_acts_at_once() {
    let mut followed = one_file();
    followed.write("a.yaml", &service("a", 81));
    followed.until_services("a:81");
    assert_eq!(followed.known.deletes, [""; 0]);
    followed.write("b.json", r#"{"apiVersion":"v1","kind":"Service","metadata":{"name":"b"},"spec":{"clusterIP":"10.254.0.2","ports":[{"port":1}]}}"#);
    followed.until_services("a:81 b:1");
}

#[test]
fn a_file_that_is_moved_in_replaces_and_one_that_is_removed_deletes() {
    let mut followed = one_file();
    followed.write(".a.yaml.tmp", &service("a", 82));
    fs::rename(followed.path(".a.yaml.tmp"), followed.path("a.yaml")).expect("rename");
    followed.until_services("a:82");
    fs::remove_file(followed.path("a.yaml")).expect("remove");
    followed.until_services("");
}

#[test]
fn a_renamed_file_keeps_its_objects_served() {
    let mut followed = one_file();
    fs::rename(followed.path("a.yaml"), followed.path("b.yaml")).expect("rename");
    followed.settle();
    fs::rename(followed.path("b.yaml"), followed.path("0.yaml")).expect("rename");
    followed.settle();
    assert_eq!(followed.known.services(), "a:80");
    assert_eq!(followed.known.deletes, ["Service default/settle"; 2]);
    fs::remove_file(followed.path("0.yaml")).expect("remove");
    followed.until_services("");
}

#[test]
fn a_file_held_open_is_read_within_100_ms_of_its_last_write() {
    let mut followed = one_file();
    let mut file = File::create(followed.path("b.yaml")).expect("create");
    file.write_all(service("b", 1).as_bytes()).expect("write");
    let written = Instant::now();
    followed.until_services("a:80 b:1");
    let took = written.elapsed();
    // Twice the bound: other tests run on the same cores.
    assert!(took < Duration::from_millis(200), "{took:?}");
    file.write_all(format!("---\n{}", service("c", 2)).as_bytes()).expect("write");
    followed.until_services("a:80 b:1 c:2");
}

#[test]
fn a_touched_file_changes_nothing() {
    let mut followed = one_file();
    let upserts = followed.known.upserts;
    followed.write("a.yaml", &service("a", 80));
    followed.settle();
    assert_eq!(followed.known.upserts, upserts + 1, "only the settling edit");
}

#[test]
fn only_the_changed_object_of_a_file_is_told() {
    let both = |b: u16| format!("{}---\n{}", service("a", 80), service("b", b));
    let mut followed =
        Followed::new(|root| fs::write(root.join("a.yaml"), both(1)).expect("write"));
    followed.write("a.yaml", &both(2));
    followed.until_services("a:80 b:2");
    assert_eq!(followed.known.upserts, 3);
}

#[rstest]
#[case(".a.yaml")]
#[case("a.yaml~")]
#[case(".b.yaml.swp")]
#[case("a.txt")]
#[case(".git/a.yaml")]
fn other_files_are_no_manifests(#[case] name: &str) {
    let mut followed = Followed::new(|root| fs::create_dir(root.join(".git")).expect("mkdir"));
    followed.write(name, &service("other", 80));
    followed.settle();
    assert_eq!(followed.known.upserts, 1, "only the settling edit");
}

#[test]
fn directories_come_move_and_go() {
    let mut followed = one_file();
    fs::create_dir_all(followed.path("x/y")).expect("mkdir");
    followed.write("x/y/b.yaml", &service("b", 1));
    followed.until_services("a:80 b:1");
    fs::rename(followed.path("x"), followed.path("z")).expect("rename");
    followed.write("z/y/b.yaml", &service("b", 2));
    followed.until_services("a:80 b:2");
    assert_eq!(followed.known.deletes, [""; 0]);
    fs::rename(followed.path("z"), followed.dir.path().join("outside")).expect("rename");
    followed.until_services("a:80");
    fs::write(followed.dir.path().join("outside/y/b.yaml"), service("b", 3)).expect("write");
    followed.settle();
    assert_eq!(followed.known.services(), "a:80");
    fs::rename(followed.dir.path().join("outside"), followed.path("back")).expect("rename");
    followed.until_services("a:80 b:3");
    fs::remove_dir_all(followed.path("back")).expect("remove");
    followed.until_services("a:80");
}

#[test]
fn a_config_map_swap_is_one_step_and_its_hidden_directories_are_not_read() {
    let mut followed = Followed::new(|root| {
        fs::create_dir(root.join("..one")).expect("mkdir");
        fs::write(root.join("..one/a.yaml"), service("a", 1)).expect("write");
        fs::write(root.join("..one/b.yaml"), service("b", 1)).expect("write");
        symlink("..one", root.join("..data")).expect("symlink");
        symlink("..data/a.yaml", root.join("a.yaml")).expect("symlink");
        symlink("..data/b.yaml", root.join("b.yaml")).expect("symlink");
    });
    assert_eq!(followed.known.services(), "a:1 b:1");
    assert_eq!(followed.known.reasons(), "");
    for (round, (new, old)) in [("..two", "..one"), ("..three", "..two")].into_iter().enumerate() {
        let port = round as u16 + 2;
        fs::create_dir(followed.path(new)).expect("mkdir");
        followed.write(&format!("{new}/a.yaml"), &service("a", port));
        followed.write(&format!("{new}/b.yaml"), &service("b", port));
        symlink(new, followed.path("..data_tmp")).expect("symlink");
        fs::rename(followed.path("..data_tmp"), followed.path("..data")).expect("rename");
        fs::remove_dir_all(followed.path(old)).expect("remove");
        followed.next("the swap");
        assert_eq!(followed.known.services(), format!("a:{port} b:{port}"));
    }
    assert_eq!(followed.known.deletes, [""; 0]);
}

#[test]
fn symlinks_to_files_and_directories_elsewhere_are_followed() {
    let mut followed = one_file();
    let outside = followed.dir.path().join("outside");
    fs::create_dir(&outside).expect("mkdir");
    fs::write(outside.join("b.yaml"), service("b", 1)).expect("write");
    symlink(&outside, followed.path("team")).expect("symlink");
    followed.until_services("a:80 b:1");
    fs::write(outside.join("b.yaml"), service("b", 2)).expect("write");
    followed.until_services("a:80 b:2");
    fs::remove_file(followed.path("team")).expect("remove");
    followed.until_services("a:80");

    symlink("../outside/c.yaml", followed.path("link.yaml")).expect("symlink");
    fs::write(outside.join("c.yaml"), service("c", 1)).expect("write");
    followed.until_services("a:80 c:1");
    fs::write(outside.join(".c"), service("c", 2)).expect("write");
    fs::rename(outside.join(".c"), outside.join("c.yaml")).expect("rename");
    followed.until_services("a:80 c:2");
    fs::remove_file(outside.join("c.yaml")).expect("remove");
    followed.until_services("a:80");
}

#[test]
fn loops_of_symlinks_end() {
    let mut followed = Followed::new(|root| {
        fs::write(root.join("a.yaml"), service("a", 80)).expect("write");
        symlink(".", root.join("loop")).expect("symlink");
        symlink("self.yaml", root.join("self.yaml")).expect("symlink");
    });
    assert_eq!(followed.known.services(), "a:80");
    followed.write("a.yaml", &service("a", 81));
    followed.until_services("a:81");
    assert_eq!(followed.known.reasons(), "");
    fs::create_dir(followed.path("sub")).expect("mkdir");
    symlink("..", followed.path("sub/later")).expect("symlink");
    symlink(".", followed.path("later")).expect("symlink");
    followed.settle();
    assert_eq!(followed.known.reasons(), "", "as if it had been there at the start");
}

#[test]
fn a_file_that_stops_parsing_keeps_its_objects_and_says_so() {
    let mut followed = one_file();
    followed.write("a.yaml", "a: b\nc: [\n");
    followed.until("the problem", |known| known.reasons().contains("a.yaml: line 2 column"));
    assert_eq!(followed.known.services(), "a:80");
    followed.write("a.yaml", &service("a", 81));
    followed.until_services("a:81");
    assert_eq!((followed.known.reasons().as_str(), followed.known.deletes.len()), ("", 0));
}

#[test]
fn an_object_that_becomes_bad_or_headless_is_no_longer_served() {
    let mut followed = one_file();
    followed.write("a.yaml", &service("a", 80).replace("80", "80000"));
    followed.until_services("");
    assert!(followed.known.reasons().contains("spec.ports[0].port"), "{:?}", followed.known);
    followed.write("a.yaml", &service("a", 80));
    followed.until_services("a:80");
    assert_eq!(followed.known.reasons(), "");
    followed.write("a.yaml", &service("a", 80).replace("10.254.0.1", "None"));
    followed.until_services("");
    assert_eq!(followed.known.reasons(), "");
}

#[test]
fn the_root_may_be_replaced_and_its_loss_drops_nothing() {
    let mut followed = one_file();
    let away = followed.dir.path().join("away");
    fs::rename(&followed.root, &away).expect("rename");
    followed.until("the problem", |known| known.reasons().contains("cannot be read"));
    assert_eq!(followed.known.services(), "a:80");
    fs::write(away.join("a.yaml"), service("a", 81)).expect("write");
    fs::rename(&away, &followed.root).expect("rename");
    followed.until_services("a:81");
    followed.write("a.yaml", &service("a", 82));
    followed.until_services("a:82");
    assert_eq!((followed.known.reasons().as_str(), followed.known.deletes.len()), ("", 0));
}

#[test]
fn a_queue_overflow_is_answered_by_reading_everything_again() {
    let mut followed = one_file();
    let limit = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").expect("a limit");
    let limit: usize = limit.trim().parse().expect("a number");
    // While the channel is full the thread reads no events, so the queue overflows.
    for round in 0..40u16 {
        followed.write("a.yaml", &service("a", 1000 + round));
        thread::sleep(Duration::from_millis(3));
    }
    for n in 0..=limit / 2 {
        let name = followed.path(if n % 2 == 0 { "even.txt" } else { "odd.txt" });
        fs::write(&name, "x").expect("write");
        fs::remove_file(&name).expect("remove");
    }
    followed.write("a.yaml", &service("a", 81));
    followed.write("b.yaml", &service("b", 1));
    followed.until_services("a:81 b:1");
}

#[test]
fn a_large_file_is_followed_as_a_small_one_is() {
    let mut followed = one_file();
    let objects = |port| (0..1000).map(move |n| service(&format!("many-{n}"), port));
    let many = |port| objects(port).collect::<Vec<_>>().join("---\n");
    for port in [1, 2] {
        followed.write("many.yaml", &many(port));
        followed.write("a.yaml", &service("a", 80 + port));
        let last = format!("many-999:{port}");
        followed.until("the last object of the file", |known| known.services().contains(&last));
        let small = format!("a:{} ", 80 + port);
        followed.until("the small file", |known| known.services().contains(&small));
    }
    fs::remove_file(followed.path("many.yaml")).expect("remove");
    followed.until_services("a:82");
}

#[test]
fn dropping_the_future_ends_the_thread() {
    let mut followed = one_file();
    drop(followed.watch.take());
    let end = Instant::now() + Duration::from_secs(10);
    while !followed.batches.is_closed() && Instant::now() < end {
        thread::sleep(Duration::from_millis(1));
    }
    assert!(followed.batches.is_closed(), "the thread still holds the sender");
}

#[test]
fn a_directory_that_is_none_is_an_error_that_says_what_to_check() {
    let opened = open("/nonexistent/manifests".into()).map(|_| ());
    let error = opened.expect_err("no such directory");
    assert!(
        error.to_string().contains("/nonexistent/manifests") && error.to_string().contains("check")
    );
}

/// Of service `web`, written at this second of the epoch.
fn slice(name: &str, address: &str, second: u32) -> String {
    format!(
        "---\n\
         {{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{name: {name}, \
         labels: {{kubernetes.io/service-name: web}}, annotations: \
         {{endpoints.kubernetes.io/last-change-trigger-time: \"1970-01-01T00:00:{second:02}Z\"}}}}, \
         addressType: IPv4, ports: [{{port: 80}}], endpoints: [{{addresses: [{address}]}}]}}\n"
    )
}

#[test]
fn what_a_slice_follows_from_stands_beside_its_change() {
    let first = [service("a", 80), slice("s", "10.1.0.1", 1)].concat();
    let mut followed = Followed::new(|root| fs::write(root.join("a.yaml"), first).expect("write"));
    followed.settle();
    assert_eq!(followed.known.triggers, [], "nobody waited for what was there before");
    let [s, t] = [slice("s", "10.1.0.2", 2), slice("t", "10.1.0.3", 3)];
    followed.write("a.yaml", &[service("a", 81), s.clone(), t].concat());
    followed.until_services("a:81");
    let at = |second| UNIX_EPOCH + Duration::from_secs(second);
    let both = [("default/s".to_owned(), at(2)), ("default/t".to_owned(), at(3))];
    assert_eq!(followed.known.triggers, both);
    followed.write("a.yaml", &[service("a", 82), s].concat());
    followed.until_services("a:82");
    assert_eq!(followed.known.triggers, both, "one is the same, the other went");
}
