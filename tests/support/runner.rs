//! Runs cases, each in a process and namespaces of its own, a few at once.
//!
//! In: cases and the arguments of a test binary. Out: a line per case, closing lines, an exit
//! status.
//! Never: a thread before a case has entered its namespaces.

use super::plan::{Family, V4, V6};
use super::sandbox::{self, Way};
use super::servers;
use super::vipd::{Carrier, Flag};
use super::world::World;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::unix::process::CommandExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

/// Exit status of a case that cannot run on this kernel.
const SKIPPED: i32 = 77;

#[derive(Clone)]
pub struct Case {
    title: &'static str,
    body: fn(&World),
    families: &'static [Family],
    flags: Vec<Flag>,
    vipd: Start,
    length: Length,
    company: Company,
    carriers: Carriers,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Start {
    BeforeTheCase,
    ByTheCase,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Company {
    Any,
    Alone,
}

/// Which dataplanes a case is about.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Carriers {
    Both,
    /// Why it says nothing about the relay.
    KernelOnly(&'static str),
    /// Services of the case say it themselves.
    SaidByTheCase,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Length {
    Short,
    Soak,
}

/// A case for both families, with vipd running.
pub fn case(title: &'static str, body: fn(&World)) -> Case {
    let families = &[V4, V6];
    Case {
        title,
        body,
        families,
        flags: Vec::new(),
        vipd: Start::BeforeTheCase,
        length: Length::Short,
        company: Company::Any,
        carriers: Carriers::Both,
    }
}

impl Case {
    /// Not with `--proxy-mode userspace`, and why not.
    pub fn kernel_only(mut self, why: &'static str) -> Case {
        self.carriers = Carriers::KernelOnly(why);
        self
    }

    /// For what says itself who carries its Services, or has none.
    pub fn names_its_carrier(mut self) -> Case {
        self.carriers = Carriers::SaidByTheCase;
        self
    }

    /// For what does not depend on the family, or looks at both by itself.
    pub fn once(mut self) -> Case {
        self.families = &[V4];
        self
    }

    pub fn flag(mut self, name: &'static str, value: &'static str) -> Case {
        self.flags.push((name, value));
        self
    }

    pub fn without_vipd(mut self) -> Case {
        self.vipd = Start::ByTheCase;
        self
    }

    /// With no other case beside it: what it looks at is a matter of milliseconds.
    pub fn alone(mut self) -> Case {
        self.company = Company::Alone;
        self
    }

    /// Only with NETNS_SOAK=1.
    pub fn soak(mut self) -> Case {
        self.length = Length::Soak;
        self
    }

    fn run(&self, family: Family, carrier: Carrier) {
        let world = World::build(family);
        world.set_carrier(carrier);
        let told = catch_unwind(AssertUnwindSafe(|| {
            if self.vipd == Start::BeforeTheCase {
                world.start(&self.flags);
            }
            (self.body)(&world);
            world.assert_running();
        }));
        if let Err(panic) = told {
            println!("{}", world.state());
            std::panic::resume_unwind(panic);
        }
    }
}

/// Ends the case as skipped.
pub fn skip(reason: &str) -> ! {
    println!("SKIPPED: {reason}");
    std::process::exit(SKIPPED);
}

/// True in the long runs.
pub fn soak() -> bool {
    std::env::var_os("NETNS_SOAK").is_some_and(|value| value != "0" && !value.is_empty())
}

struct Unit {
    name: String,
    case: Case,
    family: Family,
    carrier: Carrier,
    turn: Turn,
}

/// When a unit runs that nobody names.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Turn {
    Always,
    /// Elsewhere the other family's stands for both.
    InLongRuns,
}

fn units(groups: Vec<(&'static str, Vec<Case>)>) -> Vec<Unit> {
    let mut units = Vec::new();
    for (group, cases) in groups {
        let cases = cases.into_iter().filter(|case| soak() || case.length == Length::Short);
        for (number, case) in cases.enumerate() {
            for carrier in [Carrier::Kernel, Carrier::Relay] {
                if carrier == Carrier::Relay && case.carriers != Carriers::Both {
                    continue;
                }
                for &family in case.families {
                    let suffix = match (case.families.len(), family, carrier) {
                        (1, _, Carrier::Kernel) => "",
                        (1, _, Carrier::Relay) => " (userspace)",
                        (_, V4, Carrier::Kernel) => " (IPv4)",
                        (_, V6, Carrier::Kernel) => " (IPv6)",
                        (_, V4, Carrier::Relay) => " (IPv4, userspace)",
                        (_, V6, Carrier::Relay) => " (IPv6, userspace)",
                    };
                    let name = format!("{group}: {}{suffix}", case.title);
                    let turn = match (carrier, family, case.families.len()) {
                        (Carrier::Relay, V4, 2) if number % 2 == 1 => Turn::InLongRuns,
                        (Carrier::Relay, V6, 2) if number % 2 == 0 => Turn::InLongRuns,
                        _ => Turn::Always,
                    };
                    units.push(Unit { name, case: case.clone(), family, carrier, turn });
                }
            }
        }
    }
    units
}

#[derive(Default)]
struct Arguments {
    filters: Vec<String>,
    skips: Vec<String>,
    exact: Option<()>,
    list: Option<()>,
    ignored: Option<()>,
    jobs: Option<usize>,
}

fn read_arguments() -> Arguments {
    let mut read = Arguments::default();
    let mut rest = std::env::args().skip(1);
    while let Some(argument) = rest.next() {
        match argument.as_str() {
            "--list" => read.list = Some(()),
            "--exact" => read.exact = Some(()),
            "--ignored" => read.ignored = Some(()),
            "--skip" => read.skips.extend(rest.next()),
            "--test-threads" => read.jobs = rest.next().and_then(|count| count.parse().ok()),
            "--format" | "--color" | "-Z" => drop(rest.next()),
            other if other.starts_with("--test-threads=") => {
                read.jobs = other.split_once('=').and_then(|(_, count)| count.parse().ok());
            }
            other if other.starts_with('-') => {}
            filter => read.filters.push(filter.to_owned()),
        }
    }
    read
}

impl Arguments {
    fn wants(&self, name: &str) -> bool {
        let matches = |filter: &String| match self.exact {
            Some(()) => name == filter,
            None => name.contains(filter.as_str()),
        };
        self.ignored.is_none()
            && (self.filters.is_empty() || self.filters.iter().any(matches))
            && !self.skips.iter().any(matches)
    }
}

/// The whole of `main`.
pub fn main(groups: Vec<(&'static str, Vec<Case>)>) -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.first().map(String::as_str) {
        Some("--probe") => return probe(&words[1]),
        Some(servers::PROCESS) => return servers::serve_alone(&words[1]),
        Some("--case") => return one_case(groups, &words[1], &words[2]),
        _ => {}
    }
    let arguments = read_arguments();
    let kept = kept_from_the_relay(&groups);
    let all = units(groups);
    let total = all.len();
    let long = soak() || number("NETNS_REPEAT").is_some() || !arguments.filters.is_empty();
    let wanted = |unit: &Unit| arguments.wants(&unit.name) && (long || unit.turn == Turn::Always);
    let wanted: Vec<Unit> = all.into_iter().filter(wanted).collect();
    if arguments.list.is_some() {
        wanted.iter().for_each(|unit| println!("{}: test", unit.name));
        return ExitCode::SUCCESS;
    }
    let start = Instant::now();
    println!("\nrunning {} tests", wanted.len());
    let filtered = total - wanted.len();
    let way = if wanted.is_empty() { Ok(Way::Rootless) } else { sandbox::find_way() };
    let tally = match &way {
        Ok(way) => Run::new(*way, &arguments).all(&wanted),
        Err(_) => Tally { skipped: wanted.len(), ..Tally::default() },
    };
    if arguments.filters.is_empty() {
        println!("\n{kept}");
    }
    let code = tally.close(filtered, start.elapsed());
    if let Err(reason) = way {
        sandbox::tell_skipped("netns", wanted.len(), &reason);
    }
    code
}

/// Which cases do not run for the relay, and why.
fn kept_from_the_relay(groups: &[(&str, Vec<Case>)]) -> String {
    let mut reasons: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (group, case) in
        groups.iter().flat_map(|(group, cases)| cases.iter().map(move |c| (group, c)))
    {
        if let Carriers::KernelOnly(why) = case.carriers {
            reasons.entry(why).or_default().push(format!("{group}: {}", case.title));
        }
    }
    let mut text = "not with --proxy-mode userspace:\n".to_owned();
    for (why, titles) in reasons {
        text += &format!("    {why}:\n        {}\n", titles.join("\n        "));
    }
    text
}

fn probe(way: &str) -> ExitCode {
    let way = Way::from_flag(way).expect("written by find_way");
    match sandbox::probe(way) {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("{reason}");
            ExitCode::FAILURE
        }
    }
}

fn one_case(groups: Vec<(&'static str, Vec<Case>)>, way: &str, name: &str) -> ExitCode {
    let way = Way::from_flag(way).expect("written by the runner");
    if let Err(reason) = sandbox::enter(way) {
        println!("no namespaces: {reason}");
        return ExitCode::FAILURE;
    }
    let unit = units(groups).into_iter().find(|unit| unit.name == name);
    let unit = unit.expect("written by the runner");
    match catch_unwind(|| unit.case.run(unit.family, unit.carrier)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

#[derive(Default)]
struct Tally {
    passed: usize,
    failed: Vec<String>,
    skipped: usize,
}

impl Tally {
    fn close(self, filtered: usize, took: Duration) -> ExitCode {
        if !self.failed.is_empty() {
            println!("\nfailures:");
            self.failed.iter().for_each(|name| println!("    {name}"));
        }
        let (passed, failed, skipped) = (self.passed, self.failed.len(), self.skipped);
        let word = if failed == 0 { "ok" } else { "FAILED" };
        println!("\n{passed} passed, {failed} failed, {skipped} skipped");
        println!(
            "test result: {word}. {passed} passed; {failed} failed; {skipped} ignored; 0 measured; \
             {filtered} filtered out; finished in {:.2}s\n",
            took.as_secs_f64()
        );
        if failed == 0 { ExitCode::SUCCESS } else { ExitCode::from(101) }
    }
}

/// A case under way.
struct Running<'u> {
    unit: &'u Unit,
    child: Child,
    output: File,
    start: Instant,
}

/// A number from the environment.
fn number(name: &str) -> Option<usize> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

struct Run {
    way: Way,
    jobs: usize,
    repeat: usize,
}

impl Run {
    fn new(way: Way, arguments: &Arguments) -> Run {
        let jobs = number("NETNS_JOBS").or(arguments.jobs).unwrap_or(3);
        Run { way, jobs: jobs.max(1), repeat: number("NETNS_REPEAT").unwrap_or(1) }
    }

    fn all(&self, units: &[Unit]) -> Tally {
        let mut tally = Tally::default();
        self.some(units, (Company::Any, self.jobs), &mut tally);
        self.some(units, (Company::Alone, 1), &mut tally);
        tally
    }

    fn some(&self, units: &[Unit], (company, jobs): (Company, usize), tally: &mut Tally) {
        let wanted = || units.iter().filter(|unit| unit.case.company == company);
        let mut waiting = (0..self.repeat).flat_map(|_| wanted());
        let mut running = Vec::<Running>::new();
        loop {
            while running.len() < jobs
                && let Some(unit) = waiting.next()
            {
                running.push(self.start(unit));
            }
            if running.is_empty() {
                return;
            }
            let ended = running.iter_mut().position(|one| one.has_ended());
            match ended {
                Some(index) => running.swap_remove(index).report(tally),
                None => std::thread::sleep(Duration::from_millis(5)),
            }
        }
    }

    /// In a process group of its own, so that all it started can be ended with it.
    fn start<'u>(&self, unit: &'u Unit) -> Running<'u> {
        let output = tempfile::tempfile().expect("a temporary file");
        let clone = || output.try_clone().expect("a plain file");
        let child = Command::new("/proc/self/exe")
            .args(["--case", self.way.flag(), &unit.name])
            .stdin(Stdio::null())
            .stdout(clone())
            .stderr(clone())
            .env("RUST_BACKTRACE", "0")
            .process_group(0)
            .spawn()
            .expect("can start itself");
        Running { unit, child, output, start: Instant::now() }
    }
}

impl Running<'_> {
    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Ended, though not yet waited for: its process group still has its name.
    fn has_ended(&mut self) -> bool {
        let limit = Duration::from_secs(if soak() { 1800 } else { 120 });
        if self.start.elapsed() > limit {
            writeln!(self.output, "stopped after {limit:?}").ok();
            kill_process_group(self.pid(), Signal::KILL).ok();
        }
        let how = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        !matches!(waitid(WaitId::Pid(self.pid()), how), Ok(None))
    }

    fn report(mut self, tally: &mut Tally) {
        kill_process_group(self.pid(), Signal::KILL).ok();
        let status = self.child.wait().expect("own child");
        let took = self.start.elapsed().as_secs_f64();
        let name = &self.unit.name;
        let mut said = String::new();
        self.output.rewind().ok();
        let mut bytes = Vec::new();
        self.output.read_to_end(&mut bytes).ok();
        said.push_str(&String::from_utf8_lossy(&bytes));
        match status.code() {
            Some(0) => {
                println!("test {name} ... ok ({took:.1} s)");
                tally.passed += 1;
            }
            Some(SKIPPED) => {
                println!("test {name} ... ignored");
                let reasons = said.lines().filter(|line| line.starts_with("SKIPPED"));
                reasons.for_each(|reason| println!("{reason}"));
                tally.skipped += 1;
            }
            _ => {
                println!("test {name} ... FAILED ({took:.1} s, {status})");
                println!("---- {name} ----\n{said}----");
                tally.failed.push(name.clone());
            }
        }
    }
}
