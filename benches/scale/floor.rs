//! The bare writer: N × (1 + E) elements into two maps, as fast as nf_tables takes them. EDGE.
//!
//! In: a [`Cluster`]. Out: seconds, and microseconds of one change.
//! Never: a thought about what the elements mean; anything of vipd's but its netlink socket.

use crate::Outcome;
use crate::generate::{Cluster, SERVICE_PORT, ServiceSpec, TARGET_PORT};
use crate::nft::{Census, NFT_MSG_DELSETELEM, NFT_MSG_NEWSETELEM, Transactions};
use crate::world::Namespace;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

/// The two maps, and one rule bound to each. Keys and data have the sizes that a proxy needs:
/// address . protocol . port (12 bytes) to a u32, and u32 . u32 (8 bytes) to address . port.
const TABLE: &str = "
table inet floor {
    map services {
        typeof ip daddr . meta l4proto . th dport : meta priority
        SERVICES
    }
    map endpoints {
        typeof meta priority . numgen random mod 2 : ip daddr . th dport
        ENDPOINTS
    }
    chain prerouting {
        type nat hook prerouting priority dstnat
        meta priority set ip daddr . meta l4proto . th dport map @services
        meta l4proto tcp dnat ip to meta priority . numgen random mod 2 map @endpoints
    }
}
";

const NFTA_SET_ELEM_LIST_TABLE: u16 = 1;
const NFTA_SET_ELEM_LIST_SET: u16 = 2;
const NFTA_SET_ELEM_LIST_ELEMENTS: u16 = 3;
const NFTA_LIST_ELEM: u16 = 1;
const NFTA_SET_ELEM_KEY: u16 = 1;
const NFTA_SET_ELEM_DATA: u16 = 2;
const NFTA_DATA_VALUE: u16 = 1;

const SERVICES_PER_TRANSACTION: usize = 1_000;
/// An element takes 36 bytes here, and an attribute holds less than 64 KiB.
const ELEMENTS_PER_LIST: usize = 1_600;

struct Element {
    key: [u8; 12],
    key_length: usize,
    value: [u8; 8],
    value_length: usize,
}

impl Element {
    fn service(spec: &ServiceSpec, pool: u32) -> Self {
        let mut key = [0; 12];
        key[..4].copy_from_slice(&spec.cluster_ip.octets());
        key[4] = 6;
        key[8..10].copy_from_slice(&SERVICE_PORT.to_be_bytes());
        let mut value = [0; 8];
        value[..4].copy_from_slice(&pool.to_ne_bytes());
        Self { key, key_length: 12, value, value_length: 4 }
    }

    fn endpoint(pool: u32, slot: u32, address: Ipv4Addr) -> Self {
        let mut key = [0; 12];
        key[..4].copy_from_slice(&pool.to_ne_bytes());
        key[4..8].copy_from_slice(&slot.to_ne_bytes());
        let mut value = [0; 8];
        value[..4].copy_from_slice(&address.octets());
        value[4..6].copy_from_slice(&TARGET_PORT.to_be_bytes());
        Self { key, key_length: 8, value, value_length: 8 }
    }
}

/// How the maps are declared.
#[derive(Debug, Clone, Copy)]
pub enum Declared {
    /// As nft's language does it unasked: the kernel picks a hash table that grows.
    Growing,
    /// With `size`, of what is to come: the kernel picks a hash table of fixed size, which fills
    /// faster.
    Sized { services: u64, elements: u64 },
}

impl Declared {
    pub fn sized(cluster: &Cluster) -> Self {
        Declared::Sized { services: cluster.services.len() as u64, elements: cluster.elements() }
    }

    fn table(self) -> String {
        let (services, endpoints) = match self {
            Declared::Growing => (String::new(), String::new()),
            Declared::Sized { services, elements } => {
                (format!("size {services}"), format!("size {}", elements - services))
            }
        };
        TABLE.replace("SERVICES", &services).replace("ENDPOINTS", &endpoints)
    }
}

/// A namespace with the two maps in it, and the socket that fills them.
pub struct Writer {
    transactions: Transactions,
    pub namespace: Namespace,
}

impl Writer {
    pub fn new(declared: Declared) -> Outcome<Self> {
        let namespace = Namespace::new()?;
        namespace.nft(&declared.table())?;
        Ok(Self { transactions: Transactions::open(&namespace)?, namespace })
    }

    /// What the kernel says is in the maps.
    pub fn held(&self) -> Outcome<u64> {
        Census::open(&self.namespace, "floor")?.total()
    }

    /// Writes all elements; seconds, from the first byte encoded to the last commit done.
    pub fn load(&mut self, cluster: &Cluster) -> Outcome<f64> {
        let start = Instant::now();
        for (chunk, services) in cluster.services.chunks(SERVICES_PER_TRANSACTION).enumerate() {
            let first = (chunk * SERVICES_PER_TRANSACTION) as u32;
            self.transactions.begin();
            let endpoints = (first..).zip(services).flat_map(|(pool, service)| {
                (0..).zip(&service.endpoints).map(move |(slot, endpoint)| {
                    Element::endpoint(pool << 12, slot, endpoint.address)
                })
            });
            self.elements(NFT_MSG_NEWSETELEM, "endpoints", endpoints);
            let services = (first..).zip(services).map(|(pool, s)| Element::service(s, pool << 12));
            self.elements(NFT_MSG_NEWSETELEM, "services", services);
            self.transactions.commit()?;
        }
        Ok(start.elapsed().as_secs_f64())
    }

    /// Microseconds of adding one endpoint in a transaction of its own, `pause` apart.
    pub fn add_one(&mut self, count: u32, pause: Duration) -> Outcome<Vec<f64>> {
        let pools = u32::MAX - count..u32::MAX;
        let mut times = Vec::new();
        for pool in pools.clone() {
            times.push(self.change(pause, |writer| {
                let element = Element::endpoint(pool, 0, Ipv4Addr::from(pool));
                writer.elements(NFT_MSG_NEWSETELEM, "endpoints", [element]);
            })?);
        }
        for pool in pools {
            self.transactions.begin();
            let element = Element::endpoint(pool, 0, Ipv4Addr::from(pool));
            self.elements(NFT_MSG_DELSETELEM, "endpoints", [element]);
            self.transactions.commit()?;
        }
        Ok(times)
    }

    /// Microseconds of giving one endpoint another address: delete and add in one transaction.
    pub fn replace_one(
        &mut self,
        cluster: &Cluster,
        count: u32,
        pause: Duration,
    ) -> Outcome<Vec<f64>> {
        let mut times = Vec::new();
        let mut now: Vec<Ipv4Addr> =
            cluster.services.iter().map(|s| s.endpoints[0].address).collect();
        let mut fresh = cluster.clone();
        for index in 0..count as usize {
            let service = index.wrapping_mul(7919) % now.len();
            let pool = (service as u32) << 12;
            let old = Element::endpoint(pool, 0, now[service]);
            now[service] = fresh.fresh();
            let new = Element::endpoint(pool, 0, now[service]);
            times.push(self.change(pause, |writer| {
                writer.elements(NFT_MSG_DELSETELEM, "endpoints", [old]);
                writer.elements(NFT_MSG_NEWSETELEM, "endpoints", [new]);
            })?);
        }
        Ok(times)
    }

    /// Adds one endpoint that leads to `address`.
    pub fn bring(&mut self, address: Ipv4Addr) -> Outcome<()> {
        self.transactions.begin();
        let element = Element::endpoint(u32::from(address), 0, address);
        self.elements(NFT_MSG_NEWSETELEM, "endpoints", [element]);
        self.transactions.commit()
    }

    fn change(&mut self, pause: Duration, write: impl FnOnce(&mut Self)) -> Outcome<f64> {
        if !pause.is_zero() {
            std::thread::sleep(pause);
        }
        let start = Instant::now();
        self.transactions.begin();
        write(self);
        self.transactions.commit()?;
        Ok(start.elapsed().as_secs_f64() * 1e6)
    }

    fn elements(&mut self, kind: u16, map: &str, elements: impl IntoIterator<Item = Element>) {
        let mut elements = elements.into_iter().peekable();
        while elements.peek().is_some() {
            let buffer = self.transactions.message(kind);
            buffer.attr_str(NFTA_SET_ELEM_LIST_TABLE, "floor");
            buffer.attr_str(NFTA_SET_ELEM_LIST_SET, map);
            let list = buffer.nest(NFTA_SET_ELEM_LIST_ELEMENTS);
            for element in elements.by_ref().take(ELEMENTS_PER_LIST) {
                let nest = buffer.nest(NFTA_LIST_ELEM);
                let key = buffer.nest(NFTA_SET_ELEM_KEY);
                buffer.attr(NFTA_DATA_VALUE, &element.key[..element.key_length]);
                buffer.close(key);
                let value = buffer.nest(NFTA_SET_ELEM_DATA);
                buffer.attr(NFTA_DATA_VALUE, &element.value[..element.value_length]);
                buffer.close(value);
                buffer.close(nest);
            }
            buffer.close(list);
        }
    }
}
