//! The steps, each with what must be seen.

use super::manifests::{Manifests, State};
use super::traffic::{self, Outcome, PLACES, Sample, TARGET, Traffic, millis};
use super::world::{CLIENT, NODE, World};
use super::{Result, pause};
use std::collections::BTreeSet;
use std::io::Write;
use std::time::{Duration, Instant};

const STEPS: u32 = 9;
/// How long traffic is watched in one state.
const WATCH: Duration = Duration::from_millis(1500);
/// Between writing a manifest and the moment from which its state is demanded of everybody, where
/// the former state may be seen a little longer. vipd needs some milliseconds; the rest is for
/// the machine.
const SLACK: Duration = Duration::from_millis(200);
/// After a pod is marked as terminating, it refuses.
const POD_STOPS_AFTER: Duration = Duration::from_millis(20);
/// An unanswered SYN is sent again after a second: what takes less was told at once.
const AT_ONCE: Duration = Duration::from_millis(250);
/// A connection's own limits, 500 ms and 1 s, and the time to hear of it.
const LAST_ENDS_WITHIN: Duration = Duration::from_millis(1200);

const CONNECTIONS: u32 = 300;

type PodName = (&'static str, &'static str);

const FIRST: [PodName; 5] = [
    ("nginx-1", "10.180.0.11"),
    ("nginx-2", "10.180.0.12"),
    ("nginx-3", "10.180.0.13"),
    ("nginx-4", "10.180.0.14"),
    ("nginx-5", "10.180.0.15"),
];
const SECOND: [PodName; 5] = [
    ("nginx-6", "10.180.0.16"),
    ("nginx-7", "10.180.0.17"),
    ("nginx-8", "10.180.0.18"),
    ("nginx-9", "10.180.0.19"),
    ("nginx-10", "10.180.0.20"),
];

pub fn tell(id: &str, keep: bool) -> Result<()> {
    let start = Instant::now();
    let mut step = Step(0);

    let mut world = step.run("namespaces: node, client, outside, pods", || {
        let mut world = World::build(id)?;
        for (name, address) in FIRST.into_iter().take(3) {
            world.add_pod(name, address)?;
            world.serve(name, address)?;
        }
        Ok((format!("named {id}-…"), world))
    })?;

    let manifests = Manifests::copy_to(world.folder.join("manifests"))?;
    step.run("vipd run --manifests examples/nginx", || begin(&mut world, &manifests))?;
    let table = step.run(&format!("{CONNECTIONS} connections from each to {TARGET}"), || {
        let samples = traffic::burst(&world, CONNECTIONS)?;
        let told = traffic::none_failed(&samples)?;
        check_spread(&samples, &FIRST[..3])?;
        check_sources(&samples)?;
        Ok((told, who_answered(&samples)))
    })?;
    print!("{table}");
    let described = step.run("vipd describe service default/nginx-service", || describe(&world))?;
    print!("{described}");

    let traffic = Traffic::start(&world)?;
    step.run("scale to 5", || scale_up(&mut world, &manifests, &traffic))?;
    step.run("roll pod by pod", || roll(&mut world, &manifests, &traffic))?;
    step.run("scale to 0", || scale_to_zero(&manifests, &traffic))?;
    step.run("and back to 3", || scale_back(&manifests, &traffic))?;
    drop(traffic);

    if keep {
        println!("{}", how_to_look(&world, &manifests));
        return Ok(());
    }
    step.run("vipd stopped, vipd cleanup", || clean(&mut world))?;
    println!("all as it should be, in {:.0} s", start.elapsed().as_secs_f64());
    Ok(())
}

fn begin(world: &mut World, manifests: &Manifests) -> Result<(String, ())> {
    let start = Instant::now();
    world.start_vipd(&manifests.folder)?;
    for (place, namespace) in PLACES {
        let answered =
            super::world::run(world.own(namespace)?.args(["client", TARGET, "until-answered"]));
        if let Err(error) = answered {
            let why = world.vipd_ended().unwrap_or(error);
            return Err(format!("no answer to {place}: {why}"));
        }
    }
    Ok((format!("all three places served after {} ms", millis(start.elapsed())), ()))
}

fn describe(world: &World) -> Result<(String, String)> {
    let socket = world.socket().display().to_string();
    let what = ["describe", "service", "default/nginx-service", "--admin-socket", &socket];
    let text = world.ask_vipd(&what)?;
    for (_, address) in FIRST.into_iter().take(3) {
        if !text.contains(address) {
            return Err(format!("{address} is not in it:\n{text}"));
        }
    }
    let text: String = text.lines().map(|line| format!("      {line}\n")).collect();
    Ok((String::new(), text))
}

fn scale_up(world: &mut World, manifests: &Manifests, traffic: &Traffic) -> Result<(String, ())> {
    let before = Instant::now();
    for (name, address) in &FIRST[3..] {
        world.add_pod(name, address)?;
        world.serve(name, address)?;
    }
    let edit = Instant::now();
    manifests.endpoints(&ready(&FIRST))?;
    pause(SLACK + WATCH)?;
    let end = Instant::now();
    pause(LAST_ENDS_WITHIN)?;
    let told = traffic::none_failed(&traffic.between(before, end))?;
    check_spread(&traffic.between(edit + SLACK, end), &FIRST)?;
    let after = first_from(traffic, edit, end, &FIRST[3..])?;
    Ok((format!("{told}; the first at a new pod {after} ms after the edit"), ()))
}

fn roll(world: &mut World, manifests: &Manifests, traffic: &Traffic) -> Result<(String, ())> {
    let before = Instant::now();
    let mut pods: Vec<PodName> = FIRST.to_vec();
    let mut edits = Vec::new();
    for (old, new) in FIRST.into_iter().zip(SECOND) {
        world.add_pod(new.0, new.1)?;
        world.serve(new.0, new.1)?;
        pods.retain(|pod| *pod != old);
        pods.push(new);
        let mut states = ready(&pods);
        states.insert(0, (old.0, old.1, State::Terminating));
        edits.push((Instant::now(), format!("{} was marked", old.0)));
        manifests.endpoints(&states)?;
        std::thread::sleep(POD_STOPS_AFTER);
        world.stop_serving(old.0)?;
        pause(Duration::from_millis(150))?;
        edits.push((Instant::now(), format!("{} was taken out", old.0)));
        manifests.endpoints(&ready(&pods))?;
        pause(Duration::from_millis(150))?;
    }
    let rolled = Instant::now();
    pause(WATCH)?;
    let end = Instant::now();
    pause(LAST_ENDS_WITHIN)?;
    let samples = traffic.between(before, end);
    let told = traffic::none_failed(&samples)
        .map_err(|error| format!("{error}\n{}", when_failed(&samples, &edits)))?;
    check_spread(&traffic.between(rolled, end), &SECOND)?;
    let stops = POD_STOPS_AFTER.as_millis();
    Ok((format!("{told}; each old pod refused {stops} ms after it was marked"), ()))
}

fn scale_to_zero(manifests: &Manifests, traffic: &Traffic) -> Result<(String, ())> {
    let edit = Instant::now();
    manifests.endpoints(&[])?;
    pause(SLACK + WATCH)?;
    let end = Instant::now();
    pause(LAST_ENDS_WITHIN)?;
    none_lost(&traffic.between(edit, end))?;
    let told = traffic::all_refused(&traffic.between(edit + SLACK, end), AT_ONCE)?;
    Ok((told, ()))
}

fn scale_back(manifests: &Manifests, traffic: &Traffic) -> Result<(String, ())> {
    let edit = Instant::now();
    manifests.endpoints(&ready(&SECOND[..3]))?;
    pause(SLACK + WATCH)?;
    let end = Instant::now();
    pause(LAST_ENDS_WITHIN)?;
    none_lost(&traffic.between(edit, end))?;
    let settled = traffic.between(edit + SLACK, end);
    let told = traffic::none_failed(&settled)?;
    check_spread(&settled, &SECOND[..3])?;
    let after = first_from(traffic, edit, end, &SECOND[..3])?;
    Ok((format!("{told}; the first answer {after} ms after the edit"), ()))
}

fn clean(world: &mut World) -> Result<(String, ())> {
    world.stop_vipd()?;
    let tables =
        |world: &World| super::world::run(world.command("node", "nft").args(["list", "tables"]));
    if tables(world)?.trim().is_empty() {
        return Err("the rules went with the daemon: a restart would interrupt".to_owned());
    }
    world.ask_vipd(&["cleanup"])?;
    match tables(world)?.trim() {
        "" => Ok(("no rule is left".to_owned(), ())),
        left => Err(format!("left behind: {left}")),
    }
}

fn ready(pods: &[PodName]) -> Vec<(&'static str, &'static str, State)> {
    pods.iter().map(|(name, address)| (*name, *address, State::Ready)).collect()
}

/// Every pod has its share from every place, within five standard deviations, and nobody else any.
fn check_spread(samples: &[Sample], pods: &[PodName]) -> Result<()> {
    let wanted: BTreeSet<&str> = pods.iter().map(|(name, _)| *name).collect();
    for (place, by_pod) in traffic::answers(samples) {
        if let Some(other) = by_pod.keys().find(|name| !wanted.contains(name.as_str())) {
            return Err(format!("{other} answered to {place}, and should not have"));
        }
        let all = f64::from(by_pod.values().sum::<u32>());
        let share = 1.0 / wanted.len() as f64;
        let allowed = 5.0 * (all * share * (1.0 - share)).sqrt();
        for name in &wanted {
            let count = f64::from(by_pod.get(*name).copied().unwrap_or(0));
            if (count - all * share).abs() > allowed {
                return Err(format!("{name} answered {count} of {all} times to {place}"));
            }
        }
    }
    Ok(())
}

/// Pods keep their address; the node's and the outside host's become the node's.
fn check_sources(samples: &[Sample]) -> Result<()> {
    for sample in samples {
        let Outcome::Answered { saw, by } = &sample.outcome else { continue };
        let wanted = if sample.place == "pod" { CLIENT } else { NODE };
        if saw != wanted {
            return Err(format!("{by} saw {saw} instead of {wanted} from {}", sample.place));
        }
    }
    Ok(())
}

/// Timeouts and resets are wrong in every state.
fn none_lost(samples: &[Sample]) -> Result<()> {
    let lost = samples.iter().find_map(|sample| match &sample.outcome {
        Outcome::Failed(why) => Some(format!("from {}: {why}", sample.place)),
        _ => None,
    });
    lost.map_or(Ok(()), Err)
}

/// Each connection that was not answered, by the edit that went before it.
fn when_failed(samples: &[Sample], edits: &[(Instant, String)]) -> String {
    let mut text = String::new();
    for sample in samples {
        if matches!(sample.outcome, Outcome::Answered { .. }) {
            continue;
        }
        let edit = edits.iter().rev().find(|(at, _)| *at <= sample.started);
        let when = edit.map_or("before the first edit".to_owned(), |(at, what)| {
            format!("{} ms after {what}", millis(sample.started - *at))
        });
        text += &format!("  from {} {when}\n", sample.place);
    }
    text
}

fn first_from(traffic: &Traffic, edit: Instant, end: Instant, pods: &[PodName]) -> Result<String> {
    let is_one = |name: &str| pods.iter().any(|pod| pod.0 == name);
    let samples = traffic.between(edit, end);
    let ends = samples.iter().filter_map(|sample| match &sample.outcome {
        Outcome::Answered { by, .. } if is_one(by) => Some(sample.started + sample.took),
        _ => None,
    });
    let first = ends.min().ok_or("no new pod answered")?;
    Ok(millis(first.duration_since(edit)))
}

fn who_answered(samples: &[Sample]) -> String {
    let answers = traffic::answers(samples);
    let mut text = format!("      {:<8} {:<13}", "from", "pods see");
    for (name, _) in &FIRST[..3] {
        text += &format!("{name:>9}");
    }
    text.push('\n');
    for (place, _) in PLACES {
        let saw = if place == "pod" { "its address" } else { "the node's" };
        text += &format!("      {place:<8} {saw:<13}");
        for (name, _) in &FIRST[..3] {
            let count = answers.get(place).and_then(|pods| pods.get(*name)).copied();
            text += &format!("{:>9}", count.unwrap_or(0));
        }
        text.push('\n');
    }
    text
}

fn how_to_look(world: &World, manifests: &Manifests) -> String {
    let own = std::env::current_exe().unwrap_or_else(|_| "demo".into());
    let own = own.display();
    let socket = world.socket();
    let socket = socket.display();
    let folder = manifests.folder.display();
    let (node, client) = (world.namespace("node"), world.namespace("client"));
    // Names of a user's own namespaces are seen only from inside.
    let inside = match world.vipd_pid() {
        Some(pid) if std::env::var_os(super::INSIDE).is_some() => {
            format!("first: nsenter --preserve-credentials -U -m -t {pid}\n  ")
        }
        _ => String::new(),
    };
    format!(
        "left running:\n  {inside}\
         edit     {folder}\n  \
         ask      ip netns exec {client} bash -c 'cat </dev/tcp/10.254.56.190/8000'\n  \
         look     vipd get endpoints --admin-socket {socket}\n  \
         rules    ip netns exec {node} nft list table inet vipd\n  \
         remove   {own} remove {}",
        world.id
    )
}

struct Step(u32);

impl Step {
    /// Says what is being done, then how it went.
    fn run<T>(&mut self, name: &str, work: impl FnOnce() -> Result<(String, T)>) -> Result<T> {
        self.0 += 1;
        print!("[{}/{STEPS}] {name} … ", self.0);
        // Nothing to be done about a closed terminal.
        let _ = std::io::stdout().flush();
        match work() {
            Ok((told, value)) => {
                println!("ok{}{told}", if told.is_empty() { "" } else { ": " });
                Ok(value)
            }
            Err(error) => {
                println!("FAILED");
                Err(format!("{name}: {error}"))
            }
        }
    }
}
