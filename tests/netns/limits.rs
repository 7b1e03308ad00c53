//! What relayed connections may take, how long they last, and who may have one while the kernel's rules
//! are not there to say.

use super::support::manifests::{Svc, svc};
use super::support::plan::{Ext, L1, L2, Node};
use super::support::runner::{Case, case};
use super::support::servers::{Tcp, Udp};
use super::support::world::World;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const PORT: u16 = 9999;
const PATIENCE: Duration = Duration::from_secs(10);

/// An endpoint that sends back what it is sent, for as long as its client wants; and a Service of it.
fn echo(w: &World) -> Svc {
    let at = SocketAddr::new(w.address(L1), PORT);
    let listener = w.netns(L1).enter(|| TcpListener::bind(at)).expect("nobody has the port");
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut byte = [0];
                while stream.read_exact(&mut byte).and_then(|()| stream.write_all(&byte)).is_ok() {}
            });
        }
    });
    svc().relayed().on([L1]).to(PORT)
}

/// Asks once, and keeps the connection.
fn open(w: &World) -> io::Result<TcpStream> {
    let to = SocketAddr::new(w.cip(), 80);
    let mut stream = w.netns(L2).enter(move || TcpStream::connect(to))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    ask(&mut stream)?;
    Ok(stream)
}

fn ask(stream: &mut TcpStream) -> io::Result<()> {
    stream.write_all(b"x")?;
    stream.read_exact(&mut [0])
}

fn is_reset<T>(said: io::Result<T>) -> bool {
    said.is_err_and(|error| {
        matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
    })
}

/// The sum of a metric of relayed Services; 0 also where none has it.
fn metric(w: &World, name: &str) -> f64 {
    metric_of(w, name, "")
}

/// Of one protocol.
fn metric_of(w: &World, name: &str, protocol: &str) -> f64 {
    let said = w.vipd("metrics").out;
    assert!(said.contains(&format!("# TYPE {name} ")), "{name} is missing in:\n{said}");
    let of_protocol = format!("protocol=\"{protocol}");
    let lines = said.lines().filter(|line| line.starts_with(&format!("{name}{{")));
    let lines = lines.filter(|line| line.contains(&of_protocol));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

fn connections_are_bounded(w: &World) {
    let service = echo(w);
    let bounded = |most: &str| service.clone().annotated("max-connections", most);
    w.serve(bounded("2"));
    let mut held: Vec<TcpStream> = (0..2).map(|_| open(w).expect("there is room")).collect();
    assert!(is_reset(open(w)), "a third one");
    assert_eq!(metric(w, "vipd_relay_refused_total"), 1.0);
    w.serve(bounded("3"));
    held.push(open(w).expect("there is room for a third one by now"));
    w.serve(bounded("1"));
    assert!(is_reset(open(w)), "there are three");
    assert!(held.iter_mut().all(|stream| ask(stream).is_ok()), "what is open stays");
    held.clear();
    w.within(PATIENCE, || metric(w, "vipd_relay_connections") == 0.0);
    w.within(PATIENCE, || open(w).is_ok());
    let said = w.vipd("describe service svc").out;
    for part in [
        "vipd.io/max-connections: 1",
        "Limits:     1 connections (of the whole Service); idle 24h0m0s, half-closed 5m0s, connect 3.75s",
    ] {
        assert!(said.contains(part), "{part} is missing: {said}");
    }
}

fn idle_connections_end(w: &World) {
    let service = echo(w);
    w.serve(service.clone());
    let mut stream = open(w).expect("it is relayed");
    w.sleep(700);
    ask(&mut stream).expect("a day is not over");
    // Of the open one too.
    w.serve(service.annotated("idle-timeout", "300ms"));
    assert!(is_reset(stream.read_exact(&mut [0])), "nobody says anything");
    let mut busy = open(w).expect("it is relayed");
    for _ in 0..10 {
        w.sleep(100);
        ask(&mut busy).expect("it is used");
    }
}

fn sessions_end(w: &World) {
    let service = svc().relayed().udp().on([L1]);
    w.serve(service.clone());
    w.udp(L2, w.cip(), 80).times(5).only([L1]);
    assert!(metric(w, "vipd_relay_connections") > 0.0, "they have a minute");
    w.serve(service.annotated("session-timeout", "200ms"));
    w.within(PATIENCE, || metric(w, "vipd_relay_connections") == 0.0);
    let said = w.vipd("describe service svc").out;
    assert!(said.contains("as many sessions as there are files; idle 200ms"), "{said}");
}

fn flags_are_for_all(w: &World) {
    w.serve(echo(w));
    let _held = open(w).expect("there is room");
    assert!(is_reset(open(w)), "a second one");
    w.serve(svc().relayed().on([L1]).to(PORT).annotated("max-connections", "0"));
    let _more: Vec<TcpStream> = (0..5).map(|_| open(w).expect("as many as one likes")).collect();
}

/// Others delete the table that knows who may ask, over and over; vipd puts it back.
fn outsiders_stay_outside(w: &World) {
    let ranges = [w.family.outside_half()];
    let over =
        |service: Svc| service.relayed().load_balancer([w.vip()]).source_ranges(ranges).on([L1]);
    w.write(over(svc()));
    w.serve(over(svc().named("datagrams", 42).udp()));
    for client in [w.tcp(Ext, w.vip(), 80), w.udp(Ext, w.vip(), 80)] {
        client.times(5).only([L1]);
    }
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let others = w.netns(Node).spawn(move || {
        while !stopped.load(Ordering::Relaxed) {
            let _ = std::process::Command::new("nft")
                .args(["delete", "table", "inet", "vipd"])
                .stderr(std::process::Stdio::null())
                .status();
            // It is put back within this time, mostly: a commit that others meet half way is another case.
            std::thread::sleep(Duration::from_millis(150));
        }
    });
    let tries = |client: super::support::client::Client<'_>| {
        client.untraced().times(100).patience(Duration::from_millis(100)).replies()
    };
    for proto in [Tcp, Udp] {
        // Counted from nothing where the relay had to begin anew.
        let denied =
            || metric_of(w, "vipd_relay_denied_total", &format!("{proto:?}").to_uppercase()) > 0.0;
        let client = || match proto {
            Tcp => w.tcp(Ext, w.vip(), 80),
            Udp => w.udp(Ext, w.vip(), 80),
        };
        // Until some have come past the rules that are not there.
        for _ in 0..100 {
            let replies = tries(client().from(w.family.outside_second()));
            replies.check(replies.answers().is_empty(), "not a byte");
            if denied() {
                break;
            }
        }
        assert!(denied(), "{proto:?}: the kernel's rules were there all the time");
        let replies = tries(client());
        replies.check(!replies.answers().is_empty(), "who may ask is served meanwhile");
    }
    stop.store(true, Ordering::Relaxed);
    others.join().expect("no panic");
}

pub fn cases() -> Vec<Case> {
    let cases = vec![
        case("a Service has no more connections than it may, by what is written now", |w| {
            connections_are_bounded(w);
        }),
        case("connections on which nothing passes end in the time that is written now", |w| {
            idle_connections_end(w);
        }),
        case("sessions of UDP clients do the same", sessions_end),
        case("flags bound all Services that do not say otherwise", flags_are_for_all)
            .flag("--max-connections", "1"),
        case("source ranges hold for relayed frontends without the kernel's table", |w| {
            outsiders_stay_outside(w);
        }),
        case("a limit that cannot be read is told, and another one holds", |w| {
            w.serve(svc().relayed().on([L1]).annotated("idle-timeout", "never"));
            w.tcp(L2, w.cip(), 80).times(5).only([L1]);
            let said = w.vipd("describe service svc").out;
            let warning =
                "metadata.annotations[vipd.io/idle-timeout]: \"never\": expected a duration";
            assert!(said.contains(warning) && said.contains("idle 24h0m0s"), "{said}");
        }),
    ];
    cases.into_iter().map(Case::names_its_carrier).collect()
}
