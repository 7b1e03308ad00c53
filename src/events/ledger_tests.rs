//! What is sent of what is said, by a clock of the test's.

use super::ledger::{Ledger, Moment, Outcome, Sending, Step};
use super::notice::{About, Notice, Reason};
use super::rate::{Bucket, Limit};
use crate::model::ServiceKey;
use std::time::{Duration, Instant, UNIX_EPOCH};

struct Desk {
    ledger: Ledger,
    start: Instant,
    seconds: u64,
}

fn of_service(name: &str, reason: Reason, note: &str) -> Notice {
    let about = About::service(&ServiceKey::new("prod", name));
    Notice { about, reason, note: note.into() }
}

fn of_node(note: &str) -> Notice {
    Notice { about: About::Node, reason: Reason::ForeignEditRepaired, note: note.into() }
}

impl Desk {
    fn new() -> Self {
        Self { ledger: Ledger::default(), start: Instant::now(), seconds: 0 }
    }

    fn now(&self) -> Instant {
        self.start + Duration::from_secs(self.seconds)
    }

    fn wait(&mut self, seconds: u64) {
        self.seconds += seconds;
    }

    fn say(&mut self, notice: Notice) {
        let wall = UNIX_EPOCH + Duration::from_secs(self.seconds);
        self.ledger.take(notice, Moment { instant: self.now(), wall });
    }

    fn next(&self) -> Option<Sending> {
        self.ledger.next(self.now())
    }

    fn done(&mut self, sending: &Sending, outcome: Outcome) {
        self.ledger.done(sending, outcome, self.now());
    }

    /// Sends what may go now: notes, with the count where it is not the first time.
    fn send(&mut self) -> Vec<String> {
        let mut sent = Vec::new();
        while let Some(sending) = self.next() {
            let note = &sending.notice.note;
            sent.push(match &sending.step {
                Step::Make => note.to_string(),
                Step::Count { name, count, .. } => {
                    assert_eq!(**name, *format!("name of {note}"), "as the server knows it");
                    format!("{note} ×{count}")
                }
            });
            let name = format!("name of {note}");
            self.done(&sending, Outcome::Sent(name.into()));
        }
        sent
    }
}

#[test]
fn what_happens_again_is_counted_and_not_said_twice() {
    let mut desk = Desk::new();
    desk.say(of_node("edit"));
    assert_eq!(desk.send(), ["edit"]);
    desk.say(of_node("edit"));
    assert_eq!(desk.send(), ["edit ×2"], "the second time at once");
    for _ in 0..5 {
        desk.wait(10);
        desk.say(of_node("edit"));
        assert_eq!(desk.send(), [""; 0]);
    }
    assert_eq!(desk.ledger.wake_at(desk.now()), Some(desk.now() + Duration::from_secs(10)));
    desk.wait(10);
    assert_eq!(desk.send(), ["edit ×7"], "then what came in a minute in one go");
    assert_eq!(desk.ledger.wake_at(desk.now()), None);
}

#[test]
fn another_note_is_another_event() {
    let mut desk = Desk::new();
    desk.say(of_node("one"));
    desk.say(of_node("two"));
    assert_eq!(desk.send(), ["one", "two"]);
}

#[test]
fn said_again_after_a_while_it_is_news() {
    let mut desk = Desk::new();
    desk.say(of_node("edit"));
    assert_eq!(desk.send(), ["edit"]);
    desk.wait(15 * 60);
    desk.say(of_node("edit"));
    let sending = desk.next().expect("something to send");
    assert_eq!((sending.step, sending.first), (Step::Make, UNIX_EPOCH + Duration::from_secs(900)));
}

#[test]
fn what_every_node_finds_is_said_once() {
    let mut desk = Desk::new();
    for _ in 0..3 {
        desk.say(of_service("web", Reason::Rejected, "bad"));
        desk.wait(60);
        let first = desk.send();
        assert!(first.is_empty() || desk.seconds == 60, "{first:?}");
    }
}

#[test]
fn an_event_that_the_server_forgot_is_made_anew() {
    let mut desk = Desk::new();
    desk.say(of_node("edit"));
    desk.send();
    desk.wait(30);
    desk.say(of_node("edit"));
    let sending = desk.next().expect("something to send");
    assert!(matches!(sending.step, Step::Count { count: 2, .. }));
    desk.done(&sending, Outcome::Gone);
    let sending = desk.next().expect("something to send");
    assert_eq!((sending.step, sending.first), (Step::Make, UNIX_EPOCH + Duration::from_secs(30)));
    assert_eq!(desk.send(), ["edit"]);
    assert_eq!(desk.next(), None);
}

#[test]
fn one_object_has_a_burst_then_one_a_minute_and_others_do_not_wait_for_it() {
    let mut desk = Desk::new();
    for number in 0..12 {
        desk.say(of_service("web", Reason::FailedToStartServiceHealthcheck, &number.to_string()));
    }
    desk.say(of_service("api", Reason::FailedToStartServiceHealthcheck, "other"));
    let sent = desk.send();
    assert_eq!((sent.len(), sent.last().map(String::as_str)), (11, Some("other")));
    assert_eq!(desk.ledger.wake_at(desk.now()), Some(desk.now() + Duration::from_secs(60)));
    desk.wait(60);
    assert_eq!(desk.send(), ["10"]);
    desk.wait(59);
    assert_eq!(desk.send(), [""; 0]);
    desk.wait(1);
    assert_eq!(desk.send(), ["11"]);
}

#[test]
fn a_node_sends_a_burst_then_one_a_second() {
    let mut desk = Desk::new();
    for number in 0..60 {
        desk.say(of_service(&format!("s{number}"), Reason::Rejected, "bad"));
    }
    assert_eq!(desk.send().len(), 50);
    desk.wait(1);
    assert_eq!(desk.send().len(), 1);
    desk.wait(5);
    assert_eq!(desk.send().len(), 5);
}

#[test]
fn while_the_server_is_away_nothing_grows() {
    let mut desk = Desk::new();
    for number in 0..1000 {
        desk.say(of_service(&format!("s{number}"), Reason::Rejected, "bad"));
        desk.say(of_node("edit"));
        let sending = desk.next().expect("it waits");
        desk.done(&sending, Outcome::Later);
    }
    assert_eq!(desk.ledger.take_dropped(), 1000 - 255);
    assert_eq!(desk.ledger.take_dropped(), 0);
    for number in 0..40 {
        desk.say(of_node(&format!("node {number}")));
    }
    assert_eq!(desk.ledger.take_dropped(), 40 - 32, "some room is the node's");
    let mut sent = desk.send();
    for _ in 0..4000 {
        desk.wait(1);
        sent.extend(desk.send());
    }
    assert_eq!(sent.len(), 255 + 2 + 32, "and the count of what happened a thousand times");
    assert_eq!(sent[1], "edit");
    assert!(sent.contains(&"edit ×1000".into()), "{sent:?}");
}

#[test]
fn what_is_refused_is_let_go_and_tried_when_it_is_said_again() {
    let mut desk = Desk::new();
    desk.say(of_service("web", Reason::Rejected, "bad"));
    let sending = desk.next().expect("something to send");
    desk.done(&sending, Outcome::Refused);
    assert_eq!((desk.next(), desk.ledger.take_dropped()), (None, 0), "there was room");
    desk.say(of_service("web", Reason::Rejected, "bad"));
    assert_eq!(desk.send(), ["bad"]);
}

#[test]
fn what_is_remembered_has_a_bound() {
    let mut desk = Desk::new();
    for number in 0..4000 {
        desk.say(of_service(&format!("s{number}"), Reason::Rejected, "bad"));
        desk.send();
        desk.wait(1);
    }
    // A quarter of an hour's worth is remembered, and room is made for the rest.
    assert_eq!(desk.ledger.take_dropped(), 0);
    let mut desk = Desk::new();
    for _ in 0..10 {
        desk.wait(120);
        for number in 0..250 {
            desk.say(of_service(&format!("s{}-{number}", desk.seconds), Reason::Rejected, "bad"));
        }
        for _ in 0..250 {
            desk.send();
            desk.wait(1);
        }
    }
    assert!(desk.ledger.take_dropped() == 0);
}

#[test]
fn a_bucket_has_a_burst_then_one_at_a_time() {
    let limit = Limit { burst: 3, every: Duration::from_secs(10) };
    let (start, mut bucket) = (Instant::now(), Bucket::default());
    let at = |seconds| start + Duration::from_secs(seconds);
    for (now, ready) in [(0, 0), (0, 0), (1, 1), (1, 10), (10, 10), (11, 20)] {
        assert_eq!(bucket.ready_at(limit, at(now)), at(ready), "at {now}");
        if ready == now {
            bucket.take(limit, at(now));
        }
    }
    assert!(!bucket.is_full(at(39)) && bucket.is_full(at(40)));
    assert_eq!(bucket.ready_at(limit, at(1000)), at(1000));
}
