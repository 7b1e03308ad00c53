//! What a case sees: the topology with its servers, a directory of manifests, and vipd.
//!
//! In: the sentences of a case. Out: panics that tell what was seen instead.
//! Never: anything shared with another case.

use super::client::Client;
use super::clients::{self, Tries};
use super::directory::{Directory, Objects};
use super::flow::{Flow, FlowPlan, Manner};
use super::load::{Crowd, Load, Pace};
use super::manifests::{File, Manifest, node, slice, svc, tcp};
use super::netns::{Netns, Said};
use super::nft::Watch;
use super::plan::{
    CASE_SERVICE, Family, L2, L3, NODE_A, NODE_B, Node, PORTS, SENTINEL, V4, V6, Who,
};
use super::replies::Replies;
use super::servers::{Proto, Servers, Tcp, Udp};
use super::sniff::Sniffer;
use super::topology::Topology;
use super::trace::Trace;
use super::vipd::{self, Carrier, Flag, Vipd};
use rustix::process::Signal;
use serde_json::Value;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::ExitStatus;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// Where a case's files are.
pub const WORK: &str = "/run/case";
const MANIFESTS: &str = "/run/case/manifests";

const BALANCER: &str = "vipd.io/balancer";

#[derive(Clone)]
pub struct World {
    pub family: Family,
    inside: Rc<Inside>,
}

struct Inside {
    topology: Topology,
    servers: HashMap<Who, Servers>,
    objects: Box<dyn Objects>,
    vipd: RefCell<Option<Vipd>>,
    flags: RefCell<Vec<Flag>>,
    carrier: Cell<Carrier>,
    starts: Cell<u32>,
    sentinel: Cell<u16>,
    /// The node's link towards a client, for detectors that look at links.
    links: RefCell<HashMap<Who, &'static str>>,
}

/// As the kernel does, unless the case says how: a share that is even whatever takes how long.
fn balance_at_random(object: &mut Value) {
    if object["kind"] == "Service" {
        let annotations = object["metadata"]["annotations"].as_object_mut();
        let said = annotations.is_some_and(|all| all.contains_key(BALANCER));
        if !said {
            object["metadata"]["annotations"][BALANCER] = "random".into();
        }
    }
}

impl World {
    /// Everything but vipd.
    pub fn build(family: Family) -> World {
        World::build_with(family, |_| Box::new(Directory::make(Path::new(WORK))))
    }

    /// The same; `objects`: what vipd will learn of them from, made in the node's namespace.
    pub fn build_with(family: Family, objects: impl FnOnce(&Netns) -> Box<dyn Objects>) -> World {
        let topology = Topology::build();
        let servers: HashMap<Who, Servers> =
            Who::ALL.into_iter().map(|who| (who, Servers::start(topology.of(who)))).collect();
        for pod in Who::PODS {
            servers[&pod].listen([V4, V6].into_iter().flat_map(|family| {
                let address = family.address(pod);
                let both = move |port| {
                    [Tcp, Udp].map(move |proto| (proto, SocketAddr::new(address, port)))
                };
                PORTS.into_iter().flat_map(both)
            }));
        }
        std::fs::create_dir_all(WORK).expect("an own /run");
        let inside = Inside {
            objects: objects(topology.of(Node)),
            topology,
            servers,
            vipd: RefCell::default(),
            flags: RefCell::default(),
            carrier: Cell::default(),
            starts: Cell::new(0),
            sentinel: Cell::new(0),
            links: RefCell::default(),
        };
        let world = World { family, inside: Rc::new(inside) };
        world.write(node(NODE_A, Some("z1")));
        world.write(node(NODE_B, Some("z2")));
        world
    }

    /// From the next start on.
    pub fn set_carrier(&self, carrier: Carrier) {
        self.inside.carrier.set(carrier);
    }

    /// What a case expects of packets on the way to an endpoint may depend on it; who reaches what
    /// does not.
    pub fn carrier(&self) -> Carrier {
        self.inside.carrier.get()
    }

    /// The address by which an endpoint sees a client at a cluster IP, where nothing asks for the
    /// node's.
    pub fn seen(&self, who: Who) -> IpAddr {
        match self.carrier() {
            Carrier::Kernel => self.address(who),
            Carrier::Relay => self.address(Node),
        }
    }

    /// Waits until no route of vipd's leads packets for this address here, which happens a moment after
    /// the commit that needs none any more.
    #[track_caller]
    pub fn led_no_more(&self, address: IpAddr) {
        let family = if address.is_ipv4() { "-4" } else { "-6" };
        let routes = format!("ip {family} route show table local proto 118 {address}");
        self.within(Duration::from_secs(2), || self.sh(Node, &routes).is_empty());
    }

    /// The same world, looked at in another family.
    pub fn over(&self, family: Family) -> World {
        World { family, inside: self.inside.clone() }
    }

    pub fn address(&self, who: Who) -> IpAddr {
        self.family.address(who)
    }

    /// The cluster IP of most cases.
    pub fn cip(&self) -> IpAddr {
        self.family.cluster_ip(CASE_SERVICE)
    }

    /// The load balancer's address of most cases.
    pub fn vip(&self) -> IpAddr {
        self.family.vip()
    }

    pub fn netns(&self, who: Who) -> &Netns {
        self.inside.topology.of(who)
    }

    pub fn servers(&self, who: Who) -> &Servers {
        &self.inside.servers[&who]
    }

    #[track_caller]
    pub fn sh(&self, who: Who, command: &str) -> String {
        self.netns(who).sh(command)
    }

    // ---- manifests

    /// Writes the files; does not wait.
    pub fn write(&self, manifest: impl Manifest) {
        for mut file in manifest.files(self.family) {
            if self.carrier() == Carrier::Relay {
                file.objects.iter_mut().for_each(balance_at_random);
            }
            self.inside.objects.put(&file);
        }
    }

    /// Writes the files and waits until vipd has applied them.
    #[track_caller]
    pub fn serve(&self, manifest: impl Manifest) {
        self.write(manifest);
        self.settle();
    }

    /// Removes the files and waits until vipd has applied that.
    #[track_caller]
    pub fn withdraw(&self, manifest: impl Manifest) {
        self.remove(manifest);
        self.settle();
    }

    /// Removes what was written, whether or not anybody watches.
    pub fn remove(&self, manifest: impl Manifest) {
        for file in manifest.files(self.family) {
            self.inside.objects.remove(&file);
        }
    }

    /// The directory, where there is one.
    pub fn manifests(&self) -> &Path {
        Path::new(MANIFESTS)
    }

    #[track_caller]
    pub fn settle(&self) {
        self.settle_within(Duration::from_secs(10));
    }

    /// Returns when vipd has applied all that was written before. Files are applied in the
    /// order of their changes, and a sentinel service comes last: on a new port each time, it
    /// must reach a target port that alternates.
    #[track_caller]
    pub fn settle_within(&self, patience: Duration) -> Duration {
        let start = Instant::now();
        let turn = self.inside.sentinel.get() + 1;
        self.inside.sentinel.set(turn);
        let (port, target) = (1000 + turn, 7001 + turn % 2);
        self.write_sentinel(port, target);
        for family in [V4, V6] {
            let tries = Tries {
                patience: Duration::from_millis(40),
                ..self.over(family).tries(L3, Tcp, family.cluster_ip(SENTINEL), port)
            };
            loop {
                let replies = self.run(L3, &tries, None);
                if replies.answers().iter().any(|answer| answer.local.port() == target) {
                    break;
                }
                self.assert_running();
                assert!(
                    start.elapsed() < patience,
                    "not applied after {patience:?}: {replies}\nvipd said:\n{}",
                    self.log()
                );
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        // What vipd tells of itself is published after the commit.
        let tries = self.tries(L3, Tcp, self.family.cluster_ip(SENTINEL), port);
        while self.is_running()
            && !self.trace(L3, &tries).endpoints.iter().any(|one| one.address.port() == target)
        {
            assert!(start.elapsed() < patience, "vipd does not tell what it has applied");
        }
        start.elapsed()
    }

    fn write_sentinel(&self, port: u16, target: u16) {
        let service = svc().named("sentinel", SENTINEL).dual_stack().port(port);
        let mut objects = service.files(V4);
        for family in [V4, V6] {
            let ready = slice([L2]).of("sentinel").named(family.kubernetes().to_lowercase());
            objects.extend(ready.ports([tcp("", target)]).files(family));
        }
        let objects = objects.into_iter().flat_map(|file| file.objects).collect();
        self.inside.objects.put(&File { name: "sentinel.yaml".to_owned(), objects });
    }

    // ---- vipd

    /// Starts vipd and waits until it serves.
    #[track_caller]
    pub fn start(&self, flags: &[Flag]) {
        self.launch(flags);
        self.settle();
    }

    /// Starts vipd without waiting.
    pub fn launch(&self, flags: &[Flag]) {
        let starts = self.inside.starts.get() + 1;
        self.inside.starts.set(starts);
        *self.inside.flags.borrow_mut() = flags.to_vec();
        let flags = [self.carrier().flags(), flags].concat();
        let arguments = vipd::arguments_of(self.inside.objects.arguments(), &flags);
        let log = Path::new(WORK).join(format!("vipd-{starts}.log"));
        *self.inside.vipd.borrow_mut() = Some(Vipd::start(self.netns(Node), &arguments, log));
    }

    #[track_caller]
    fn take_vipd(&self) -> Vipd {
        self.inside.vipd.borrow_mut().take().expect("vipd was started")
    }

    pub fn kill(&self) {
        self.take_vipd().kill();
    }

    #[track_caller]
    pub fn terminate(&self) -> ExitStatus {
        self.take_vipd().terminate()
    }

    /// SIGTERM, then a start with the same flags.
    #[track_caller]
    pub fn restart(&self) {
        self.terminate();
        let flags = self.inside.flags.borrow().clone();
        self.start(&flags);
    }

    /// Starts another vipd in the place of the running one, and waits until it has the turn. Returns
    /// the former one.
    #[track_caller]
    pub fn replace(&self) -> Vipd {
        let flags = self.inside.flags.borrow().clone();
        self.replace_with(&flags)
    }

    /// The same, with other flags.
    #[track_caller]
    pub fn replace_with(&self, flags: &[Flag]) -> Vipd {
        let former = self.take_vipd();
        let mut flags = flags.to_vec();
        flags.retain(|(name, _)| *name != "--replace");
        flags.push(("--replace", ""));
        self.launch(&flags);
        self.within(Duration::from_secs(20), || {
            self.assert_running();
            self.log().contains("started")
        });
        former
    }

    /// A signal to the running daemon.
    pub fn signal(&self, signal: Signal) {
        self.inside.vipd.borrow().as_ref().expect("vipd was started").signal(signal);
    }

    /// Of the running daemon.
    pub fn pid(&self) -> u32 {
        self.inside.vipd.borrow().as_ref().expect("vipd was started").pid()
    }

    pub fn resident(&self) -> u64 {
        self.inside.vipd.borrow().as_ref().expect("vipd was started").resident()
    }

    pub fn is_running(&self) -> bool {
        self.inside.vipd.borrow().is_some()
    }

    /// What the running daemon has logged.
    pub fn log(&self) -> String {
        self.inside.vipd.borrow().as_ref().map(Vipd::log).unwrap_or_default()
    }

    /// The same, without a kube-proxy that runs elsewhere on this machine: its processes are seen from
    /// here, where none can tell whose network is theirs.
    pub fn log_of_node(&self) -> String {
        let log = self.log();
        let elsewhere = |line: &&str| !line.contains("in a network namespace that cannot be read");
        log.lines().filter(elsewhere).fold(String::new(), |log, line| log + line + "\n")
    }

    /// A daemon that was started and not ended by the case is still there.
    #[track_caller]
    pub fn assert_running(&self) {
        if let Some(vipd) = self.inside.vipd.borrow_mut().as_mut()
            && let Some(status) = vipd.ended()
        {
            panic!("vipd ended by itself, {status}:\n{}", vipd.log());
        }
    }

    /// One command of vipd on the node.
    pub fn vipd(&self, arguments: &str) -> Said {
        vipd::command(self.netns(Node), arguments)
    }

    /// The node sees this client on another link than usual.
    pub fn behind_link(&self, who: Who, link: &'static str) {
        self.inside.links.borrow_mut().insert(who, link);
    }

    #[track_caller]
    pub fn trace(&self, who: Who, tries: &Tries) -> Trace {
        let link = match who {
            Node => String::new(),
            _ => format!("--in-interface {}", self.link_of(who)),
        };
        let proto = tries.proto.kubernetes();
        let said = self.vipd(&format!("trace {} {}/{proto} {link} -o json", tries.from, tries.to));
        assert!(said.code == 0, "vipd trace {} {}/{proto}: {}", tries.from, tries.to, said.out);
        Trace::parse(&said.out).unwrap_or_else(|error| panic!("vipd trace {}: {error}", tries.to))
    }

    fn link_of(&self, who: Who) -> String {
        let usual = match who {
            Who::Ext => "ext0".to_owned(),
            Who::R1 | Who::R2 | Who::NodeB => "up0".to_owned(),
            pod => format!("p{pod}"),
        };
        self.inside.links.borrow().get(&who).map_or(usual, |link| (*link).to_owned())
    }

    // ---- traffic

    fn tries(&self, who: Who, proto: Proto, to: IpAddr, port: u16) -> Tries {
        Tries {
            proto,
            from: Family::of(to).client_address(who),
            to: SocketAddr::new(to, port),
            times: 1,
            at_once: 32,
            patience: Duration::from_millis(2500),
            size: 1,
        }
    }

    pub fn run(&self, who: Who, tries: &Tries, trace: Option<Trace>) -> Replies {
        let outcomes = self.netns(who).enter(|| clients::run(tries));
        Replies { who, tries: tries.clone(), outcomes, trace, carrier: self.carrier() }
    }

    pub fn tcp(&self, who: Who, to: IpAddr, port: u16) -> Client<'_> {
        self.client(who, Tcp, to, port)
    }

    pub fn udp(&self, who: Who, to: IpAddr, port: u16) -> Client<'_> {
        self.client(who, Udp, to, port)
    }

    fn client(&self, who: Who, proto: Proto, to: IpAddr, port: u16) -> Client<'_> {
        Client::new(self, who, self.tries(who, proto, to, port))
    }

    /// A long-lived flow that sends every `every`.
    #[track_caller]
    #[expect(clippy::too_many_arguments, reason = "who speaks how to whom, as a case says it")]
    pub fn flow(
        &self,
        who: Who,
        proto: Proto,
        to: SocketAddr,
        every: Duration,
        manner: Manner,
    ) -> Flow {
        let from = SocketAddr::new(Family::of(to.ip()).client_address(who), 0);
        Flow::start(self.netns(who), FlowPlan { proto, from, to, every, manner })
    }

    /// A flow of fifty numbered lines a second, each answered.
    #[track_caller]
    pub fn talking(&self, who: Who, proto: Proto, to: IpAddr, port: u16) -> Flow {
        self.flow(who, proto, SocketAddr::new(to, port), Duration::from_millis(20), Manner::Talking)
    }

    /// A UDP flow that no server answers.
    #[track_caller]
    pub fn one_way(&self, who: Who, to: IpAddr, port: u16) -> Flow {
        self.flow(who, Udp, SocketAddr::new(to, port), Duration::from_millis(20), Manner::OneWay)
    }

    /// Waits until the flow is answered by `pod`.
    #[track_caller]
    pub fn answered_by(&self, flow: &Flow, pod: Who) {
        let start = Instant::now();
        self.within(Duration::from_secs(3), || flow.servers(start).contains(pod.name()));
    }

    pub fn sleep(&self, milliseconds: u64) {
        std::thread::sleep(Duration::from_millis(milliseconds));
    }

    pub fn sleep_until(&self, time: Instant) {
        std::thread::sleep(time.saturating_duration_since(Instant::now()));
    }

    /// A packet watcher in a namespace.
    pub fn sniff(&self, who: Who) -> Sniffer {
        Sniffer::start(self.netns(who))
    }

    /// Open-loop connections at `per_second` until `Load::stop`.
    pub fn load(&self, who: Who, to: IpAddr, port: u16, per_second: u32) -> Load {
        let tries = Tries { patience: Duration::from_secs(5), ..self.tries(who, Tcp, to, port) };
        let pace = Pace { first_after: Duration::ZERO, every: Duration::from_secs(1) / per_second };
        Load::start(self.netns(who), who, tries, pace)
    }

    /// The same of many clients, who share that rate. Nobody waits for an answer for more than a
    /// second.
    pub fn crowd(
        &self,
        clients: &[(Who, IpAddr)],
        (to, port): (IpAddr, u16),
        per_second: u32,
    ) -> Crowd {
        let client = |&(who, from): &(Who, IpAddr)| {
            let patience = Duration::from_secs(1);
            let tries = Tries { from, patience, ..self.tries(who, Tcp, to, port) };
            (self.netns(who), who, tries)
        };
        Crowd::start(clients.iter().map(client), Duration::from_secs(1) / per_second)
    }

    /// Starts vipd again over what it left, and fails if it writes anything.
    #[track_caller]
    pub fn launch_over_the_same(&self, patience: Duration) {
        let watch = Watch::start(self.netns(Node));
        self.launch(&[]);
        self.within(patience, || self.vipd("get services").code == 0);
        self.sleep(500);
        let changes = watch.changes();
        assert_eq!(changes.objects, 0, "{changes:?}\n{}", self.log());
    }

    /// Retries a check that may panic until it holds; its last panic otherwise.
    #[track_caller]
    pub fn within(&self, patience: Duration, holds: impl Fn() -> bool) -> Duration {
        let start = Instant::now();
        while !holds() {
            assert!(
                start.elapsed() < patience,
                "does not hold within {patience:?}\n{}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(2));
        }
        start.elapsed()
    }

    /// Waits for so long a time in which nothing arrives; since when that is.
    #[track_caller]
    pub fn silence(&self, long: Duration, arrived: impl Fn(Instant) -> usize) -> Instant {
        let end = Instant::now() + Duration::from_secs(5).max(long * 2);
        loop {
            let since = Instant::now();
            std::thread::sleep(long);
            let late = arrived(since);
            if late == 0 {
                return since;
            }
            assert!(Instant::now() < end, "still reached: {late} in {long:?}\n{}", self.log());
        }
    }

    /// Conntrack entries of the node from a client to an address, as `conntrack -L` prints them.
    pub fn conntrack(&self, from: IpAddr, to: IpAddr) -> Vec<String> {
        let family = if to.is_ipv4() { "ipv4" } else { "ipv6" };
        let listed = self.sh(Node, &format!("conntrack -L -f {family} -s {from} -d {to}"));
        listed.lines().filter(|line| line.contains("src=")).map(str::to_owned).collect()
    }

    /// The number of the node's one UDP entry from a client to an address, which a new entry for the
    /// same flow does not have.
    #[track_caller]
    pub fn conntrack_id(&self, from: IpAddr, to: IpAddr) -> String {
        let family = if to.is_ipv4() { "ipv4" } else { "ipv6" };
        let listed =
            self.sh(Node, &format!("conntrack -L -f {family} -p udp -s {from} -d {to} -o id"));
        let ids: Vec<&str> =
            listed.split_whitespace().filter(|word| word.starts_with("id=")).collect();
        assert_eq!(ids.len(), 1, "entries from {from} to {to}: {listed}");
        ids[0].to_owned()
    }

    /// What somebody who looks for the cause of a failure wants to see.
    pub fn state(&self) -> String {
        let mut text = String::new();
        for command in
            ["nft list ruleset | head -400", "conntrack -L 2>&1 | head -400", "ip -br addr"]
        {
            text += &format!("--- node: {command}\n{}\n", self.netns(Node).try_sh(command).out);
        }
        for command in ["get rejected -A", "get endpoints -A"] {
            text += &format!("--- vipd {command}\n{}\n", self.vipd(command).out);
        }
        for start in 1..=self.inside.starts.get() {
            let log = format!("{WORK}/vipd-{start}.log");
            text += &format!("--- {log}\n{}\n", std::fs::read_to_string(&log).unwrap_or_default());
        }
        text
    }
}
