//! The sections of kube-proxy's modes: what one says that is not the mode's.
//!
//! In: a configuration, its mode. Out: the fields that say something and are not read.
//! Never: a word about a value that would be so without it.

use super::super::Warning;
use super::super::mode::AskedMode;
use super::defaults::MIN_SYNC_PERIOD;
use super::schema::{GoDuration, KubeProxyConfiguration};

/// As upstream converts them (v1alpha1/conversion.go, 1.37).
pub fn in_vain(config: &KubeProxyConfiguration, mode: AskedMode) -> Vec<Warning> {
    let iptables = config.iptables.clone().unwrap_or_default();
    let ipvs = config.ipvs.clone().unwrap_or_default();
    let nftables = config.nftables.clone().unwrap_or_default();
    let says = |value: Option<GoDuration>, default: GoDuration| {
        value.is_some_and(|value| value != GoDuration::ZERO && value != default)
    };
    let (all, least) = (mode.masquerade_section(), mode.section());
    let fields = [
        ("iptables", "iptables.masqueradeAll", all, iptables.masquerade_all == Some(true)),
        ("nftables", "nftables.masqueradeAll", all, nftables.masquerade_all == Some(true)),
        (
            "iptables",
            "iptables.minSyncPeriod",
            least,
            says(iptables.min_sync_period, MIN_SYNC_PERIOD),
        ),
        ("ipvs", "ipvs.minSyncPeriod", least, says(ipvs.min_sync_period, GoDuration::ZERO)),
        (
            "nftables",
            "nftables.minSyncPeriod",
            least,
            says(nftables.min_sync_period, MIN_SYNC_PERIOD),
        ),
    ];
    let lost = fields.into_iter().filter(|(section, _, counts, says)| *says && section != counts);
    lost.map(|(_, field, counts, _)| Warning::OtherSection { field, mode: mode.name(), counts })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::super::{Config, RunFlags};
    use super::super::tests::KUBEADM;
    use super::*;
    use std::time::Duration;

    const MODES: [&str; 6] =
        ["", "mode: ''", "mode: iptables", "mode: ipvs", "mode: nftables", "mode: userspace"];
    const SECTIONS: [&str; 3] = ["iptables", "ipvs", "nftables"];

    fn config(text: &str) -> Config {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.conf");
        std::fs::write(&path, text).unwrap();
        let file = format!("--config={}", path.display());
        let flags = RunFlags::parsed([file.as_str(), "--hostname-override=n"].into_iter());
        flags.unwrap().check().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    fn with(more: &str) -> Config {
        config(&format!(
            "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n\
             clientConnection: {{kubeconfig: /k}}\nclusterCIDR: 10.1.0.0/16\n{more}\n"
        ))
    }

    fn told(config: &Config) -> Vec<&'static str> {
        let fields = config.warnings.iter().filter_map(|warning| match warning {
            Warning::OtherSection { field, .. } => Some(*field),
            _ => None,
        });
        fields.collect()
    }

    #[test]
    fn each_section_s_field_counts_or_is_told() {
        for mode in MODES {
            let mut counted = 0;
            for section in SECTIONS {
                let field = format!("{section}.minSyncPeriod");
                let given = with(&format!("{mode}\n{section}: {{minSyncPeriod: 3s}}"));
                let counts = given.min_sync_period == Duration::from_secs(3);
                let expected = if counts { vec![] } else { vec![field.as_str()] };
                assert_eq!(told(&given), expected, "{mode}");
                counted += u32::from(counts);
                if section == "ipvs" {
                    continue;
                }
                let field = format!("{section}.masqueradeAll");
                let given = with(&format!("{mode}\n{section}: {{masqueradeAll: true}}"));
                let counts = given.policy.masquerade_all;
                let expected = if counts { vec![] } else { vec![field.as_str()] };
                assert_eq!(told(&given), expected, "{mode}");
                counted += u32::from(counts);
            }
            assert_eq!(counted, 2, "{mode}: one section has each of both");
        }
    }

    #[test]
    fn the_section_that_counts_is_named() {
        for (mode, part) in [
            ("", "without a mode it is section iptables"),
            ("mode: ipvs", "in mode ipvs it is section iptables"),
        ] {
            let given = with(&format!("{mode}\nnftables: {{masqueradeAll: true}}"));
            let lines: Vec<String> = given.warnings.iter().map(ToString::to_string).collect();
            assert!(lines.iter().any(|line| line.contains(part)), "{mode}: {lines:?}");
        }
    }

    #[test]
    fn what_is_so_anyway_is_not_told() {
        for mode in MODES {
            let values = "iptables: {masqueradeAll: false, minSyncPeriod: 1s}\n\
                          ipvs: {minSyncPeriod: 0s}\n\
                          nftables: {masqueradeAll: null, minSyncPeriod: 1s}";
            assert_eq!(told(&with(&format!("{mode}\n{values}"))), [""; 0], "{mode}");
            let kubeadm = KUBEADM.replace("mode: \"\"", mode);
            assert_eq!(told(&config(&kubeadm)), [""; 0], "{mode}");
        }
    }
}
