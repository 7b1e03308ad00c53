//! `--nodeport-addresses`: where node ports answer.

use crate::planner::NodePortAddresses;
use ipnet::IpNet;

/// One entry: a CIDR, or one of the keywords.
pub fn parse(text: &str) -> Result<NodePortAddresses, String> {
    match text.trim() {
        "primary" => Ok(NodePortAddresses::Primary),
        "localhost" => Ok(NodePortAddresses::Localhost),
        "all" => Ok(NodePortAddresses::All),
        other => other
            .parse::<IpNet>()
            .map(|net| NodePortAddresses::Within(net.trunc()))
            .map_err(|_| "expected a CIDR (192.168.0.0/16), primary, localhost or all".to_owned()),
    }
}

/// The first entry that is there twice, as it is written.
pub fn repeated(entries: &[NodePortAddresses]) -> Option<String> {
    let twice = entries.iter().enumerate().find(|(at, entry)| entries[..*at].contains(entry))?;
    Some(match twice.1 {
        NodePortAddresses::Within(net) => net.to_string(),
        NodePortAddresses::Primary => "primary".to_owned(),
        NodePortAddresses::Localhost => "localhost".to_owned(),
        NodePortAddresses::All => "all".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("primary", NodePortAddresses::Primary)]
    #[case("localhost", NodePortAddresses::Localhost)]
    #[case(" all ", NodePortAddresses::All)]
    #[case("192.168.0.7/24", NodePortAddresses::Within("192.168.0.0/24".parse().unwrap()))]
    #[case("::1/128", NodePortAddresses::Within("::1/128".parse().unwrap()))]
    fn entries(#[case] text: &str, #[case] entry: NodePortAddresses) {
        assert_eq!(parse(text), Ok(entry));
    }

    #[rstest]
    #[case("")]
    #[case("Primary")]
    #[case("192.168.0.7")]
    #[case("192.168.0.0/33")]
    fn others(#[case] text: &str) {
        assert!(parse(text).unwrap_err().contains("CIDR"));
    }

    #[test]
    fn the_same_range_twice() {
        let entry = |text| parse(text).unwrap();
        assert_eq!(repeated(&[entry("primary"), entry("10.0.0.0/8")]), None);
        let twice = [entry("10.0.0.0/8"), entry("all"), entry("10.1.0.0/8")];
        assert_eq!(repeated(&twice), Some("10.0.0.0/8".to_owned()));
    }
}
