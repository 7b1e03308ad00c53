//! Sees every nf_tables commit of a namespace, as the kernel announces it. EDGE.
//!
//! In: notifications of NFNLGRP_NFTABLES. Out: [`Commit`]s with the moment they were seen.
//! Never: vipd's own word for what it did. A subscriber about doubles what a commit costs, so that
//! latencies seen here are upper bounds.

use crate::Outcome;
use crate::generate::is_fresh;
use crate::nft::{NFT_MSG_DELSETELEM, NFT_MSG_NEWGEN, NFT_MSG_NEWSETELEM};
use crate::world::Namespace;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use vipd::netlink::{Message, SUBSYS_NFTABLES, Socket};

/// `NFNLGRP_NFTABLES`
const GROUP: u32 = 7;
const NFTA_SET_ELEM_LIST_ELEMENTS: u16 = 3;

#[derive(Debug, Clone)]
pub struct Commit {
    /// When its NEWGEN was received.
    pub at: Instant,
    /// Elements, rules, chains and sets that it wrote or removed.
    pub operations: u64,
    /// Addresses that it brought in and that only a change brings.
    pub fresh: Vec<Ipv4Addr>,
}

#[derive(Debug)]
pub struct Watcher {
    commits: Receiver<Outcome<Commit>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watcher {
    pub fn start(namespace: &Namespace) -> Outcome<Self> {
        let mut socket = namespace.run(|| Ok(Socket::open()?))?;
        socket.join(GROUP)?;
        set_socket_timeout(&socket, Timeout::Recv, Some(Duration::from_millis(100)))?;
        let (sender, commits) = channel();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut open = Commit { at: Instant::now(), operations: 0, fresh: Vec::new() };
            while !stopped.load(Ordering::Relaxed) {
                let messages = match socket.receive() {
                    Ok(messages) => messages,
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
                    // ENOBUFS: what was lost cannot be measured.
                    Err(error) => {
                        let _ =
                            sender.send(Err(format!("nf_tables notifications: {error}").into()));
                        return;
                    }
                };
                for message in messages {
                    if note(&message, &mut open) {
                        open.at = Instant::now();
                        let done = open.clone();
                        open = Commit { operations: 0, fresh: Vec::new(), ..open };
                        if sender.send(Ok(done)).is_err() {
                            return;
                        }
                    }
                }
            }
        });
        Ok(Self { commits, stop, thread: Some(thread) })
    }

    /// The next commit, unless there is none for `patience`.
    pub fn next(&self, patience: Duration) -> Outcome<Option<Commit>> {
        match self.commits.recv_timeout(patience) {
            Ok(commit) => commit.map(Some),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err("the watcher has ended".into()),
        }
    }

    /// When the commit with `address` was seen.
    pub fn until(&self, address: Ipv4Addr, patience: Duration) -> Outcome<Instant> {
        let deadline = Instant::now() + patience;
        while let Some(commit) = self.next(deadline.saturating_duration_since(Instant::now()))? {
            if commit.fresh.contains(&address) {
                return Ok(commit.at);
            }
        }
        Err(format!("no commit brought {address} within {patience:?}").into())
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // Its panic was printed, and there is nobody to tell.
            let _ = thread.join();
        }
    }
}

/// Adds a message to the commit it belongs to; true for the NEWGEN that ends it.
fn note(message: &Message<'_>, open: &mut Commit) -> bool {
    if message.kind >> 8 != SUBSYS_NFTABLES {
        return false;
    }
    match message.kind & 0xff {
        NFT_MSG_NEWGEN => return true,
        kind @ (NFT_MSG_NEWSETELEM | NFT_MSG_DELSETELEM) => {
            let list = message.attributes().find(NFTA_SET_ELEM_LIST_ELEMENTS);
            open.operations += list.map_or(0, |list| list.nested().count()) as u64;
            if kind == NFT_MSG_NEWSETELEM {
                open.fresh.extend(fresh_in(message.payload));
            }
        }
        _ => open.operations += 1,
    }
    false
}

/// Attributes are aligned to four bytes, and so is every part of a key or value: an address can be
/// found without knowing the layout it stands in.
fn fresh_in(payload: &[u8]) -> impl Iterator<Item = Ipv4Addr> {
    payload.chunks_exact(4).filter_map(|word| {
        let address = Ipv4Addr::new(word[0], word[1], word[2], word[3]);
        is_fresh(address).then_some(address)
    })
}
