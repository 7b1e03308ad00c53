//! kube-proxy's leftovers of mode ipvs. EDGE: rtnetlink, /proc, the program ipvsadm.
//!
//! In: the interface kube-ipvs0 with its addresses, the kernel's list of IPVS services. Out: what
//! of them is kube-proxy's; its removal.
//! Never: a service at an address that kube-ipvs0 does not hold: other balancers use IPVS too.

use super::error::Error;
use super::services::{VirtualService, at_addresses, virtual_services};
use futures_util::TryStreamExt as _;
use rtnetlink::packet_route::address::AddressAttribute;
use rtnetlink::packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage};
use rtnetlink::{Handle, new_connection};
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::process::Command;

/// The interface that kube-proxy gives every service address to.
const LINK: &str = "kube-ipvs0";
/// Absent without the kernel's IPVS. Of the thread's namespace.
const SERVICES: &str = "/proc/thread-self/net/ip_vs";
const IPVSADM: &str = "ipvsadm";

/// What mode ipvs left; there is none of it without its interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ipvs {
    index: u32,
    kind: LinkKind,
    pub addresses: BTreeSet<IpAddr>,
    /// At those addresses.
    pub services: Vec<VirtualService>,
    /// At others: kube-proxy's node ports, or somebody else's.
    pub others: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LinkKind {
    Dummy,
    Other,
}

/// What a removal did.
#[derive(Debug, Default)]
pub struct Removed {
    pub services: usize,
    pub links: usize,
    pub left: Vec<Error>,
}

pub async fn observe() -> Result<Option<Ipvs>, Error> {
    let (connection, handle, _) = new_connection().map_err(|e| Error::Link(e.to_string()))?;
    let _connection = AbortOnDrop(tokio::spawn(connection));
    let Some(link) = link(&handle).await? else { return Ok(None) };
    let index = link.header.index;
    let addresses = addresses(&handle, index).await?;
    let text = match fs::read_to_string(SERVICES) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(Error::File { path: SERVICES, error }),
    };
    let all = virtual_services(&text);
    let services = at_addresses(&all, &addresses);
    let others = all.len() - services.len();
    Ok(Some(Ipvs { index, kind: kind(&link), addresses, services, others }))
}

/// Services before the interface: without its addresses they could not be told from others.
pub async fn remove(found: &Ipvs) -> Removed {
    let mut removed = Removed::default();
    let mut refused = None;
    for service in &found.services {
        match delete(service) {
            Ok(()) => removed.services += 1,
            Err(reason) => {
                refused.get_or_insert(reason);
            }
        }
    }
    if let Some(reason) = refused {
        let count = found.services.len() - removed.services;
        removed.left.push(Error::Ipvs { count, reason });
        return removed;
    }
    if found.kind == LinkKind::Other {
        removed.left.push(Error::NotDummy);
        return removed;
    }
    match delete_link(found.index).await {
        Ok(()) => removed.links += 1,
        Err(error) => removed.left.push(error),
    }
    removed
}

fn delete(service: &VirtualService) -> Result<(), String> {
    let output = Command::new(IPVSADM).args(service.deletion()).output().map_err(|error| {
        match error.kind() {
            io::ErrorKind::NotFound => format!("the program {IPVSADM} is not installed"),
            _ => format!("{IPVSADM}: {error}"),
        }
    })?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{IPVSADM}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}

async fn delete_link(index: u32) -> Result<(), Error> {
    let (connection, handle, _) = new_connection().map_err(|e| Error::Link(e.to_string()))?;
    let _connection = AbortOnDrop(tokio::spawn(connection));
    handle.link().del(index).execute().await.map_err(|e| Error::Link(e.to_string()))
}

async fn link(handle: &Handle) -> Result<Option<LinkMessage>, Error> {
    let mut answers = std::pin::pin!(handle.link().get().match_name(LINK).execute());
    match answers.try_next().await {
        Ok(link) => Ok(link),
        Err(rtnetlink::Error::NetlinkError(error)) if error.raw_code() == -libc::ENODEV => Ok(None),
        Err(error) => Err(Error::Link(error.to_string())),
    }
}

fn kind(link: &LinkMessage) -> LinkKind {
    let infos = link.attributes.iter().filter_map(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => Some(infos),
        _ => None,
    });
    let dummy = infos.flatten().any(|info| matches!(info, LinkInfo::Kind(InfoKind::Dummy)));
    if dummy { LinkKind::Dummy } else { LinkKind::Other }
}

async fn addresses(handle: &Handle, index: u32) -> Result<BTreeSet<IpAddr>, Error> {
    let request = handle.address().get().set_link_index_filter(index);
    let mut answers = std::pin::pin!(request.execute());
    let mut found = BTreeSet::new();
    while let Some(message) = answers.try_next().await.map_err(|e| Error::Link(e.to_string()))? {
        found.extend(message.attributes.iter().filter_map(|attribute| match attribute {
            AddressAttribute::Address(address) => Some(*address),
            _ => None,
        }));
    }
    Ok(found)
}

struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_dummy_interface_is_kube_proxys() {
        let mut link = LinkMessage::default();
        assert_eq!(kind(&link), LinkKind::Other);
        link.attributes.push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge)]));
        assert_eq!(kind(&link), LinkKind::Other);
        link.attributes.push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Dummy)]));
        assert_eq!(kind(&link), LinkKind::Dummy);
    }
}
