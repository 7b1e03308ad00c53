//! `vipd trace`: what must happen to a packet, and why.

use super::Error;
use super::answers::From;
use super::output::{self, TextFormat, escape};
use crate::admin::views::TraceView;
use crate::admin::{TraceQuery, protocol_named};
use crate::model::Protocol;
use clap::Args;
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

#[derive(Debug, Args)]
pub(super) struct Flags {
    /// Address that the packet comes from; one of the node's own means the node
    #[arg(value_name = "SRC", value_parser = address)]
    source: IpAddr,

    /// Where it goes, IPv6 in brackets: 10.254.0.10:53/UDP, [fd00::1]:80 (TCP unless said)
    #[arg(value_name = "DST:PORT/PROTO", value_parser = destination)]
    destination: Destination,

    /// Interface that it comes in by, for detectors that ask
    #[arg(long, value_name = "NAME")]
    in_interface: Option<String>,

    #[command(flatten)]
    from: From,

    /// How to print it
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    output: TextFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Destination {
    address: SocketAddr,
    protocol: Protocol,
}

pub(super) fn run(flags: Flags) -> Result<(), Error> {
    let Destination { address, protocol } = flags.destination;
    let query = TraceQuery {
        source: flags.source,
        destination: address.ip(),
        port: address.port(),
        protocol,
        in_interface: flags.in_interface,
    };
    let trace = flags.from.open()?.trace(&query)?;
    match flags.output {
        TextFormat::Text => output::print(&render(&query, &trace)),
        TextFormat::Json => output::print_json(&trace),
        TextFormat::Yaml => output::print_yaml(&trace),
    }
}

fn render(query: &TraceQuery, trace: &TraceView) -> String {
    let destination = SocketAddr::new(query.destination, query.port);
    let mut text =
        format!("{} -> {destination}/{}: {}\n", query.source, query.protocol, trace.verdict);
    for (number, step) in trace.steps.iter().enumerate() {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  {}. {}", number + 1, escape(&step.what));
        let _ = writeln!(text, "     because {}", escape(&step.why));
    }
    if !trace.endpoints.is_empty() {
        text.push_str("Endpoints:\n");
    }
    for endpoint in &trace.endpoints {
        let how = if endpoint.masquerade { "masqueraded" } else { "source kept" };
        let _ = writeln!(text, "  {}  {how}", endpoint.address);
    }
    text
}

/// With or without brackets.
fn address(text: &str) -> Result<IpAddr, String> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    bare.parse().map_err(|_| "expected an IP address".to_owned())
}

fn destination(text: &str) -> Result<Destination, String> {
    const EXPECTED: &str =
        "expected ADDRESS:PORT/PROTO such as 10.254.0.10:53/UDP or [fd00::1]:80/TCP";
    let (address, protocol) = text.rsplit_once('/').unwrap_or((text, "TCP"));
    let protocol = protocol_named(protocol).ok_or(EXPECTED)?;
    let address: SocketAddr = address.parse().map_err(|_| EXPECTED)?;
    if address.port() == 0 {
        return Err(EXPECTED.into());
    }
    Ok(Destination { address, protocol })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("10.254.0.10:53/udp", "10.254.0.10:53", Protocol::Udp)]
    #[case("10.254.0.10:80", "10.254.0.10:80", Protocol::Tcp)]
    #[case("[fd00::1]:80/SCTP", "[fd00::1]:80", Protocol::Sctp)]
    fn destinations(#[case] text: &str, #[case] at: SocketAddr, #[case] protocol: Protocol) {
        assert_eq!(destination(text), Ok(Destination { address: at, protocol }));
    }

    #[rstest]
    #[case("10.254.0.10")]
    #[case("10.254.0.10:0")]
    #[case("10.254.0.10:80/icmp")]
    #[case("fd00::1:80")]
    #[case("web:80/TCP")]
    fn no_destinations(#[case] text: &str) {
        assert!(destination(text).is_err(), "{text} was read");
    }

    #[test]
    fn a_source_may_stand_in_brackets() {
        assert_eq!(address("[fd00::1]"), address("fd00::1"));
        assert!(address("node").is_err());
    }
}
