//! `--nodeport-addresses`: where node ports answer.

use super::value;
use crate::planner::NodePortAddresses;

/// What one flag says: entries with commas between; empty: none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entries(pub Vec<NodePortAddresses>);

impl Entries {
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Ok(Self(Vec::new()));
        }
        text.split(',').map(parse).collect::<Result<_, _>>().map(Self)
    }
}

/// One entry: a CIDR, or one of the keywords.
pub fn parse(text: &str) -> Result<NodePortAddresses, String> {
    match text {
        "primary" => Ok(NodePortAddresses::Primary),
        "localhost" => Ok(NodePortAddresses::Localhost),
        "all" => Ok(NodePortAddresses::All),
        other => value::net(other)
            .map(|net| NodePortAddresses::Within(net.trunc()))
            .ok_or("expected a CIDR (192.168.0.0/16), primary, localhost or all".to_owned()),
    }
}

/// As it is written.
pub fn text(entry: NodePortAddresses) -> String {
    match entry {
        NodePortAddresses::Within(net) => net.to_string(),
        NodePortAddresses::Primary => "primary".to_owned(),
        NodePortAddresses::Localhost => "localhost".to_owned(),
        NodePortAddresses::All => "all".to_owned(),
    }
}

/// The first keyword that is there twice. A range that is there twice is said twice, no more.
pub fn repeated(entries: &[NodePortAddresses]) -> Option<String> {
    let keyword = |entry: &NodePortAddresses| !matches!(entry, NodePortAddresses::Within(_));
    let mut numbered = entries.iter().enumerate();
    let twice = numbered.find(|(at, entry)| keyword(entry) && entries[..*at].contains(entry))?;
    Some(text(*twice.1))
}

/// Each once.
pub fn distinct(entries: Vec<NodePortAddresses>) -> Vec<NodePortAddresses> {
    let mut out = Vec::new();
    for entry in entries {
        if !out.contains(&entry) {
            out.push(entry);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("primary", NodePortAddresses::Primary)]
    #[case("localhost", NodePortAddresses::Localhost)]
    #[case("all", NodePortAddresses::All)]
    #[case("192.168.0.7/24", NodePortAddresses::Within("192.168.0.0/24".parse().unwrap()))]
    #[case("::1/128", NodePortAddresses::Within("::1/128".parse().unwrap()))]
    fn entries(#[case] text: &str, #[case] entry: NodePortAddresses) {
        assert_eq!(parse(text), Ok(entry));
    }

    #[rstest]
    #[case("")]
    #[case(" all ")]
    #[case("Primary")]
    #[case("192.168.0.7")]
    #[case("192.168.0.0/33")]
    fn others(#[case] text: &str) {
        assert!(parse(text).unwrap_err().contains("CIDR"));
    }

    #[test]
    fn a_keyword_twice() {
        let entries = |text| Entries::parse(text).unwrap().0;
        assert_eq!(repeated(&entries("")), None);
        assert_eq!(repeated(&entries("10.0.0.0/8,all,10.1.0.0/8")), None);
        assert_eq!(distinct(entries("10.0.0.0/8,all,10.1.0.0/8")).len(), 2);
        assert_eq!(repeated(&entries("all,primary,all")), Some("all".to_owned()));
        assert!(Entries::parse("all, primary").is_err() && Entries::parse("all,").is_err());
    }
}
