//! How packets of local pods are told from others.

use super::{Error, Warning, cidr};
use crate::model::Family;
use crate::planner::{DetectLocal, Outsiders, Policy};
use clap::ValueEnum;
use ipnet::IpNet;

/// `--detect-local-mode`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    ClusterCidr,
    NodeCidr,
    BridgeInterface,
    InterfaceNamePrefix,
}

impl Mode {
    /// Empty is the default, as in kube-proxy's configuration.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let modes = [Mode::NodeCidr, Mode::BridgeInterface, Mode::InterfaceNamePrefix];
        match modes.into_iter().find(|mode| mode.name() == text) {
            Some(mode) => Ok(mode),
            None if text.is_empty() || text == Mode::ClusterCidr.name() => Ok(Mode::ClusterCidr),
            None => {
                Err("expected ClusterCIDR, NodeCIDR, BridgeInterface or InterfaceNamePrefix".into())
            }
        }
    }

    /// As the flag and KubeProxyConfiguration write it.
    pub fn name(self) -> &'static str {
        match self {
            Mode::ClusterCidr => "ClusterCIDR",
            Mode::NodeCidr => "NodeCIDR",
            Mode::BridgeInterface => "BridgeInterface",
            Mode::InterfaceNamePrefix => "InterfaceNamePrefix",
        }
    }
}

/// The flags that belong to the modes, as given.
pub(super) struct Given<'a> {
    pub mode: Option<Mode>,
    pub cluster_cidr: &'a [IpNet],
    pub bridge: Option<&'a str>,
    pub prefix: Option<&'a str>,
}

pub(super) fn resolve(given: &Given, warnings: &mut Vec<Warning>) -> Result<DetectLocal, Error> {
    let mode = given.mode.unwrap_or(Mode::ClusterCidr);
    // In other modes nobody reads them, here or upstream.
    let cidrs = match mode {
        Mode::ClusterCidr => cidr::pair("--cluster-cidr", given.cluster_cidr, warnings)?,
        _ => Vec::new(),
    };
    let unused = [
        (Mode::ClusterCidr, "--cluster-cidr", !given.cluster_cidr.is_empty()),
        (Mode::BridgeInterface, "--pod-bridge-interface", given.bridge.is_some()),
        (Mode::InterfaceNamePrefix, "--pod-interface-name-prefix", given.prefix.is_some()),
    ];
    for (owner, flag, present) in unused {
        if present && owner != mode {
            warnings.push(Warning::NoEffect { flag, mode: mode.name() });
        }
    }
    let missing = |flag, reason| Error::Missing { mode: mode.name(), flag, reason };
    match mode {
        Mode::ClusterCidr if cidrs.is_empty() => {
            if given.mode.is_some() {
                warnings.push(Warning::NoClusterCidr);
            }
            Ok(DetectLocal::None)
        }
        Mode::ClusterCidr => Ok(DetectLocal::ClusterCidr(cidrs)),
        Mode::NodeCidr => Ok(DetectLocal::NodeCidr),
        Mode::BridgeInterface => {
            let name = given.bridge.ok_or_else(|| {
                missing("--pod-bridge-interface NAME", "the bridge that all pods are attached to")
            })?;
            Ok(DetectLocal::BridgeInterface(name.into()))
        }
        Mode::InterfaceNamePrefix => {
            let prefix = given.prefix.ok_or_else(|| {
                missing("--pod-interface-name-prefix PREFIX", "how pods' interfaces begin (veth)")
            })?;
            Ok(DetectLocal::InterfaceNamePrefix(prefix.into()))
        }
    }
}

/// `--cluster-ip-outsiders`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ClusterIpOutsiders {
    Serve,
    Drop,
}

impl From<ClusterIpOutsiders> for Outsiders {
    fn from(given: ClusterIpOutsiders) -> Self {
        match given {
            ClusterIpOutsiders::Serve => Outsiders::Served,
            ClusterIpOutsiders::Drop => Outsiders::Dropped,
        }
    }
}

/// Whoever is to be turned away must be known.
pub(super) fn check_outsiders(policy: &Policy, warnings: &mut Vec<Warning>) -> Result<(), Error> {
    match (policy.outsiders, &policy.detect) {
        (Outsiders::Dropped, DetectLocal::None) => Err(Error::NobodyIsLocal),
        (Outsiders::Dropped, DetectLocal::ClusterCidr(cidrs)) => {
            let unknown = |family: &Family| cidrs.iter().all(|c| Family::of(c.addr()) != *family);
            let unknown = Family::BOTH.into_iter().filter(unknown);
            warnings.extend(unknown.map(|family| Warning::OutsidersUnknown { family }));
            Ok(())
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: Given = Given { mode: None, cluster_cidr: &[], bridge: None, prefix: None };

    #[test]
    fn without_a_cidr_there_is_no_detector() {
        let mut warnings = Vec::new();
        assert_eq!(resolve(&NOTHING, &mut warnings), Ok(DetectLocal::None));
        assert_eq!(warnings, []);
        let asked = Given { mode: Some(Mode::ClusterCidr), ..NOTHING };
        assert_eq!(resolve(&asked, &mut warnings), Ok(DetectLocal::None));
        assert_eq!(warnings, [Warning::NoClusterCidr]);
    }

    #[test]
    fn interface_modes_need_their_interface() {
        for (mode, flag) in [
            (Mode::BridgeInterface, "--pod-bridge-interface"),
            (Mode::InterfaceNamePrefix, "--pod-interface-name-prefix"),
        ] {
            let given = Given { mode: Some(mode), ..NOTHING };
            let error = resolve(&given, &mut Vec::new()).unwrap_err().to_string();
            assert!(error.contains(flag) && error.contains(mode.name()), "{error}");
        }
    }

    #[test]
    fn outsiders_cannot_be_dropped_where_nobody_knows_them() {
        let policy = |detect| Policy { detect, outsiders: Outsiders::Dropped, ..Policy::default() };
        let mut warnings = Vec::new();
        let nothing = policy(DetectLocal::None);
        assert_eq!(check_outsiders(&nothing, &mut warnings), Err(Error::NobodyIsLocal));
        let v6 = policy(DetectLocal::ClusterCidr(vec!["fd00::/48".parse().unwrap()]));
        assert_eq!(check_outsiders(&v6, &mut warnings), Ok(()));
        assert_eq!(warnings, [Warning::OutsidersUnknown { family: Family::V4 }]);
        let by_node = policy(DetectLocal::NodeCidr);
        assert_eq!(check_outsiders(&by_node, &mut warnings), Ok(()));
        assert_eq!(warnings.len(), 1);
    }

    #[test]
    fn another_modes_flag_has_no_effect() {
        let given = Given { mode: Some(Mode::NodeCidr), bridge: Some("cni0"), ..NOTHING };
        let mut warnings = Vec::new();
        assert_eq!(resolve(&given, &mut warnings), Ok(DetectLocal::NodeCidr));
        assert_eq!(
            warnings,
            [Warning::NoEffect { flag: "--pod-bridge-interface", mode: "NodeCIDR" }]
        );
    }
}
