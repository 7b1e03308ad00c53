//! The node's own addresses, live.

use futures_util::StreamExt;
use rtnetlink::packet_core::{
    NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::{Handle, MulticastGroup, new_multicast_connection};
use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::time::Duration;
use tokio::sync::watch;

/// Between two listings that the kernel interrupts or cannot deliver whole.
const PAUSE: Duration = Duration::from_millis(20);

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("no rtnetlink socket ({0}); are netlink sockets forbidden here?")]
    Open(#[source] io::Error),
    #[error("the kernel does not list the node's addresses: {0}")]
    List(String),
    #[error("the rtnetlink socket was closed; the log says why")]
    Closed,
}

/// Publishes the node's addresses: sorted, each once, without loopback ones and those of IPv6 that
/// mean something on one link only (a socket there would have to name it). The first value comes when
/// the first listing is complete, another only if it differs. Ends without an error when nobody
/// listens any more.
///
/// Runs in the network namespace of the thread that polls it first, which all of a runtime's
/// threads share.
pub async fn watch(out: watch::Sender<Vec<IpAddr>>) -> Result<(), Error> {
    // Subscribed first: what changes during a listing is told as well, and comes after it.
    let groups = [MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr];
    let (connection, mut handle, mut events) =
        new_multicast_connection(&groups).map_err(Error::Open)?;
    let _connection = AbortOnDrop(tokio::spawn(connection));
    let mut published = None;
    loop {
        let mut table = Table::default();
        if list(&mut handle, &mut table).await? == Listing::Partial {
            tokio::time::sleep(PAUSE).await;
            continue;
        }
        loop {
            // What is already known goes into one value.
            let mut lost = false;
            while let Ok((message, _)) = events.try_recv() {
                lost |= table.apply(message.payload) == Applied::Lost;
            }
            if lost {
                break;
            }
            publish(&out, &table, &mut published);
            let event = tokio::select! {
                event = events.next() => event,
                () = out.closed() => return Ok(()),
            };
            let Some((message, _)) = event else { return Err(Error::Closed) };
            if table.apply(message.payload) == Applied::Lost {
                break;
            }
        }
        tracing::warn!("notifications of address changes were lost; listing all addresses again");
    }
}

fn publish(out: &watch::Sender<Vec<IpAddr>>, table: &Table, published: &mut Option<Vec<IpAddr>>) {
    let addresses = table.addresses();
    if published.as_ref() != Some(&addresses) {
        out.send_replace(addresses.clone());
        *published = Some(addresses);
    }
}

struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Listing {
    Whole,
    /// The kernel was interrupted, or could not deliver all.
    Partial,
}

async fn list(handle: &mut Handle, table: &mut Table) -> Result<Listing, Error> {
    let request = RouteNetlinkMessage::GetAddress(AddressMessage::default());
    let mut request = NetlinkMessage::from(request);
    request.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let mut answers = handle.request(request).map_err(|error| Error::List(error.to_string()))?;
    let mut listing = Listing::Whole;
    while let Some(message) = answers.next().await {
        if message.header.flags & NLM_F_DUMP_INTR != 0 {
            listing = Listing::Partial;
        }
        match message.payload {
            NetlinkPayload::Error(error) => return Err(Error::List(error.to_string())),
            payload => {
                if table.apply(payload) == Applied::Lost {
                    listing = Listing::Partial;
                }
            }
        }
    }
    Ok(listing)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Applied {
    Known,
    /// The kernel had more to say than it could keep.
    Lost,
}

/// What is known, by interface: one address may be on several, and stays until it left the last.
#[derive(Debug, Default)]
struct Table(BTreeSet<(IpAddr, u32)>);

impl Table {
    fn apply(&mut self, payload: NetlinkPayload<RouteNetlinkMessage>) -> Applied {
        match payload {
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewAddress(message)) => {
                self.0.extend(own_address(&message));
            }
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelAddress(message)) => {
                if let Some(gone) = own_address(&message) {
                    self.0.remove(&gone);
                }
            }
            NetlinkPayload::Overrun(_) => return Applied::Lost,
            _ => {}
        }
        Applied::Known
    }

    fn addresses(&self) -> Vec<IpAddr> {
        let mut addresses: Vec<_> = self.0.iter().map(|(address, _)| *address).collect();
        addresses.dedup();
        addresses
    }
}

/// The address that counts, with its interface.
fn own_address(message: &AddressMessage) -> Option<(IpAddr, u32)> {
    let (mut local, mut address) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(ip) => local = Some(*ip),
            AddressAttribute::Address(ip) => address = Some(*ip),
            _ => {}
        }
    }
    // On a point-to-point link IFA_ADDRESS is the peer's.
    let own = local.or(address)?;
    let counts = match own {
        IpAddr::V4(ip) => !ip.is_loopback(),
        IpAddr::V6(ip) => !ip.is_loopback() && !ip.is_unicast_link_local(),
    };
    counts.then_some((own, message.header.index))
}
