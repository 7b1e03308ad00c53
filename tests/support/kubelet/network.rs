//! Where pods live: a network namespace each, with a link to the node.
//!
//! ```text
//! node ADDRESS ── podN ════ eth0 172.17.0.N  (one pair for each pod, a route for each address)
//! ```
//! In: names. Out: namespaces with an address each.
//! Never: an address that another pod has, or had a moment ago.

use crate::netns::Netns;
use ipnet::Ipv4Net;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A pod's place.
#[derive(Clone)]
pub struct Place {
    pub name: String,
    pub netns: Netns,
    pub address: Ipv4Addr,
    link: String,
}

#[derive(Default)]
struct Places {
    by_address: BTreeMap<Ipv4Addr, Place>,
    last: Option<Ipv4Addr>,
}

pub struct Network {
    node: Netns,
    address: Ipv4Addr,
    range: Ipv4Net,
    places: Mutex<Places>,
}

impl Network {
    pub fn new(node: Netns, address: Ipv4Addr, range: Ipv4Net) -> Self {
        Self { node, address, range, places: Mutex::default() }
    }

    fn places(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a namespace of this name, with its link up; `None` where no address is left. Waits for
    /// a former one of this name to go.
    pub fn add(&self, name: &str) -> Option<Place> {
        let file = Path::new("/run/netns").join(name);
        let end = Instant::now() + Duration::from_secs(10);
        while file.exists() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(10));
        }
        let mut places = self.places();
        let address = self.free(&places)?;
        let link = format!("pod{}", u32::from(address) - u32::from(self.range.network()));
        let netns = Netns::add(name);
        let place = Place { name: name.to_owned(), netns, address, link };
        places.last = Some(address);
        places.by_address.insert(address, place.clone());
        // The locks are held: what is made is also what would be removed.
        self.connect(&place);
        Some(place)
    }

    /// The next one after the last that was given, so that none comes again soon.
    fn free(&self, places: &Places) -> Option<Ipv4Addr> {
        let all = || self.range.hosts().skip(1);
        let after = all().filter(|address| places.last.is_none_or(|last| *address > last));
        after.chain(all()).find(|address| !places.by_address.contains_key(address))
    }

    fn connect(&self, place: &Place) {
        let (node, address) = (self.address, place.address);
        let (link, name) = (&place.link, &place.name);
        // The node's address on each link, so that what it masquerades has just that.
        self.node.ip(&[
            format!("link add {link} type veth peer name eth0 netns {name}"),
            format!("addr add {node}/32 dev {link}"),
            format!("link set {link} up"),
            format!("route add {address}/32 dev {link} src {node}"),
        ]);
        place.netns.ip(&[
            format!("addr add {address}/32 dev eth0"),
            "link set eth0 up".to_owned(),
            format!("route add {node} dev eth0"),
            format!("route add default via {node}"),
        ]);
    }

    /// The address is free from then on.
    pub fn remove(&self, place: &Place) {
        let mut places = self.places();
        self.disconnect(place);
        places.by_address.remove(&place.address);
    }

    fn disconnect(&self, place: &Place) {
        // The link goes with the namespace, but only once nobody has that open any more.
        self.node.try_sh(&format!("ip link del {}; ip netns del {}", place.link, place.name));
    }

    pub fn remove_all(&self) {
        let mut places = self.places();
        for place in std::mem::take(&mut places.by_address).into_values() {
            self.disconnect(&place);
        }
    }

    pub fn of(&self, name: &str) -> Option<Netns> {
        let places = self.places();
        let mut all = places.by_address.values();
        all.find(|place| place.name == name).map(|place| place.netns.clone())
    }
}
