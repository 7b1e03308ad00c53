//! The node's addresses as they come and go, with `ip` making them.

use crate::namespace::{isolated, run};
use std::io::Write;
use std::net::IpAddr;
use std::time::Duration;
use tokio::sync::watch;

const PATIENCE: Duration = Duration::from_secs(10);

/// Runs `test` beside the watch, both on this thread: while `test` blocks, nothing is read.
fn watched<F: Future<Output = ()>>(test: impl FnOnce(watch::Receiver<Vec<IpAddr>>) -> F) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let (out, addresses) = watch::channel(Vec::new());
        let watching = tokio::spawn(vipd::node::watch(out));
        test(addresses).await;
        let ended =
            tokio::time::timeout(PATIENCE, watching).await.expect("it ends with its reader");
        ended.expect("no panic").expect("no error");
    });
}

async fn expect(addresses: &mut watch::Receiver<Vec<IpAddr>>, wanted: &[&str]) {
    let wanted: Vec<IpAddr> = wanted.iter().map(|text| text.parse().expect("an address")).collect();
    let arrived = addresses.wait_for(|is| *is == wanted);
    let in_time = tokio::time::timeout(PATIENCE, arrived).await.is_ok_and(|ended| ended.is_ok());
    assert!(in_time, "wanted {wanted:?}, have {:?}", *addresses.borrow());
}

fn ip(arguments: &str) {
    run("ip", &arguments.split(' ').collect::<Vec<_>>());
}

#[test]
fn addresses_come_and_go() {
    isolated(|| {
        ip("link set lo up");
        ip("link add v0 type veth peer name v1");
        ip("addr add 10.9.0.2/24 dev v0");
        watched(|mut addresses| async move {
            expect(&mut addresses, &["10.9.0.2"]).await;
            ip("addr add 2001:db8:9::2/64 dev v0 nodad");
            expect(&mut addresses, &["10.9.0.2", "2001:db8:9::2"]).await;
            ip("addr add 169.254.7.7/32 dev v0");
            ip("addr add fe80::7/64 dev v0 nodad");
            ip("addr add 127.0.0.2/8 dev lo");
            // Point to point: the local end counts.
            ip("addr add 10.9.1.1 peer 10.9.1.2/32 dev v1");
            let of_one_link = "169.254.7.7";
            expect(&mut addresses, &["10.9.0.2", "10.9.1.1", of_one_link, "2001:db8:9::2"]).await;
            ip("addr del 169.254.7.7/32 dev v0");
            expect(&mut addresses, &["10.9.0.2", "10.9.1.1", "2001:db8:9::2"]).await;
            // On two interfaces: once, and until it left both.
            ip("addr add 10.9.0.2/24 dev v1");
            ip("addr add 10.9.2.1/24 dev v1");
            expect(&mut addresses, &["10.9.0.2", "10.9.1.1", "10.9.2.1", "2001:db8:9::2"]).await;
            ip("addr del 10.9.0.2/24 dev v0");
            ip("addr del 10.9.2.1/24 dev v1");
            expect(&mut addresses, &["10.9.0.2", "10.9.1.1", "2001:db8:9::2"]).await;
            ip("link del v0");
            expect(&mut addresses, &[]).await;
        });
    });
}

#[test]
fn nothing_is_published_before_the_first_listing_nor_twice() {
    isolated(|| {
        watched(|mut addresses| async move {
            // An empty list is a first value too.
            let first = tokio::time::timeout(PATIENCE, addresses.changed()).await;
            first.expect("in time").expect("published");
            assert!(addresses.borrow_and_update().is_empty());
            ip("link set lo up");
            ip("link add v0 type veth peer name v1");
            ip("addr add 127.0.0.2/8 dev lo");
            tokio::time::sleep(Duration::from_millis(100)).await;
            assert!(!addresses.has_changed().expect("still watched"));
        });
    });
}

/// More notifications than the socket holds while nobody reads: listed again.
#[test]
fn lost_notifications_are_made_up_for() {
    isolated(|| {
        ip("link add v0 type veth peer name v1");
        ip("addr add 10.9.0.2/24 dev v0");
        watched(|mut addresses| async move {
            expect(&mut addresses, &["10.9.0.2"]).await;
            let mut batch = tempfile::NamedTempFile::new().expect("a file");
            for index in 0..4000 {
                let (high, low) = (index / 250, index % 250);
                for verb in ["add", "del"] {
                    writeln!(batch, "addr {verb} 10.10.{high}.{low}/32 dev v0").expect("written");
                }
            }
            writeln!(batch, "addr add 10.9.3.3/24 dev v0").expect("written");
            writeln!(batch, "addr del 10.9.0.2/24 dev v0").expect("written");
            batch.flush().expect("written");
            run("ip", &["-batch", batch.path().to_str().expect("a path")]);
            expect(&mut addresses, &["10.9.3.3"]).await;
        });
    });
}
