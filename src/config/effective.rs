//! The configuration that is in effect, and where each value came from.
//!
//! In: flags and what they point to. Out: a list for people and programs (`vipd config`).
//! Never: a value that the daemon would not use.

use super::names::Place;
use super::resolve::Resolved;
use super::{
    Config, Error, Feature, LogFormat, LogLevel, RunFlags, Source, Warning, gates, node_ports,
};
use crate::model::duration::text as duration;
use crate::planner::{DetectLocal, ExternalIps, Outsiders};
use clap::ValueEnum;
use serde::Serialize;
use std::path::Path;
use std::time::Duration;

/// All of it.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Effective {
    pub settings: Vec<Setting>,
    /// What was accepted, and means nothing here.
    pub without_meaning: Vec<Void>,
    /// What should be looked at besides.
    pub warnings: Vec<String>,
}

/// One value. Its name is the flag's, without the dashes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Setting {
    pub name: &'static str,
    pub value: String,
    #[serde(flatten)]
    pub from: From,
}

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "from", content = "at", rename_all = "camelCase")]
pub enum From {
    /// Which one.
    Flag(String),
    /// Which variable.
    Environment(String),
    /// Which field of the file of `--config`.
    File(String),
    /// kube-proxy has the same.
    DefaultOfKubeProxy,
    /// kube-proxy has another one, or no such setting.
    DefaultOfVipd,
}

impl std::fmt::Display for From {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            From::Flag(name) => write!(f, "flag {name}"),
            From::Environment(name) => write!(f, "environment {name}"),
            From::File(field) => write!(f, "file {field}"),
            From::DefaultOfKubeProxy => f.write_str("default of kube-proxy"),
            From::DefaultOfVipd => f.write_str("default of vipd"),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Void {
    pub what: String,
    pub why: String,
}

const UPSTREAM: From = From::DefaultOfKubeProxy;
const OWN: From = From::DefaultOfVipd;

impl RunFlags {
    /// As [`RunFlags::check`], with the reasons.
    pub fn explain(self) -> Result<Effective, Error> {
        let resolved = self.resolve()?;
        let (mut without_meaning, mut warnings) = (Vec::new(), Vec::new());
        for warning in &resolved.config.warnings {
            match warning {
                Warning::NoMeaning { what, why } => {
                    without_meaning.push(Void { what: (*what).into(), why: (*why).into() });
                }
                Warning::GatesWithoutMeaning { names } => without_meaning.push(Void {
                    what: format!("feature gates {names}"),
                    why: "vipd has flags for what can be chosen".into(),
                }),
                other => warnings.push(other.to_string()),
            }
        }
        let mut rows = Rows { of: &resolved, settings: Vec::new() };
        rows.source();
        rows.node();
        rows.relay();
        rows.kernel();
        rows.process();
        Ok(Effective { settings: rows.settings, without_meaning, warnings })
    }
}

struct Rows<'a> {
    of: &'a Resolved,
    settings: Vec<Setting>,
}

fn list<T: ToString>(values: &[T]) -> String {
    values.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

fn word<T: ValueEnum>(value: &T) -> String {
    value.to_possible_value().map(|word| word.get_name().to_owned()).unwrap_or_default()
}

fn path(path: Option<&Path>) -> String {
    path.map(|path| path.display().to_string()).unwrap_or_default()
}

/// `left`: what nothing at all means.
fn or<T>(value: Option<T>, left: &str, text: impl Fn(T) -> String) -> String {
    value.map_or_else(|| left.to_owned(), text)
}

const LEFT: &str = "left alone";
const NOWHERE: &str = "nowhere";

impl Rows<'_> {
    fn config(&self) -> &Config {
        &self.of.config
    }

    fn followed(&self) -> bool {
        matches!(self.config().source, Source::ApiServer { .. })
    }

    /// `ids`: the flags that may say it, the first one names it; `field`: who says it in a file.
    fn add(&mut self, ids: &[&str], field: Option<&str>, value: String, default: From) {
        let flag_of = |id: &str| match id {
            "verbosity" => "-v".to_owned(),
            id => format!("--{}", id.replace('_', "-")),
        };
        let by_flag = || {
            let given = ids.iter().filter_map(|id| Some((*id, self.of.flags.given.place(id)?)));
            let given = given.min_by_key(|(_, place)| *place)?;
            Some(match given {
                (id, Place::Flag) => From::Flag(flag_of(id)),
                (id, Place::Environment) => {
                    From::Environment(format!("VIPD_{}", id.to_uppercase()))
                }
            })
        };
        let by_file = || {
            let (fields, field) = (self.of.fields.as_ref()?, field?);
            fields.contains(field).then(|| From::File(field.to_owned()))
        };
        // These may stand beside a file; for all others it takes the flags' place.
        let beside = ["hostname_override", "log_level", "log_format", "external_ips"];
        // Only a flag can say this.
        let nowhere = value == NOWHERE;
        let beside = nowhere || field.is_none() || beside.contains(&ids[0]);
        let flags_count = self.of.fields.is_none() || beside;
        let from = if flags_count { by_flag().or_else(by_file) } else { by_file() };
        let name = SETTINGS.iter().find(|name| name.replace('-', "_") == ids[0]);
        self.settings.push(Setting {
            name: name.copied().unwrap_or_default(),
            value,
            from: from.unwrap_or(default),
        });
    }

    fn source(&mut self) {
        let (manifests, kubeconfig, master) = match &self.config().source {
            Source::Manifests(directory) => (path(Some(directory)), String::new(), String::new()),
            Source::ApiServer { kubeconfig, master } => {
                (String::new(), path(kubeconfig.as_deref()), master.clone().unwrap_or_default())
            }
        };
        let file = path(self.config().file.as_ref().map(|file| file.path()));
        self.add(&["manifests"], None, manifests, OWN);
        self.add(&["kubeconfig"], Some("clientConnection.kubeconfig"), kubeconfig, UPSTREAM);
        self.add(&["master"], None, master, UPSTREAM);
        self.add(&["config"], None, file, UPSTREAM);
    }

    fn node(&mut self) {
        let (config, flags) = (self.config().clone(), &self.of.flags.node);
        let policy = &config.policy;
        let mode = self.of.flags.node.proxy_mode;
        let asked = flags.detect_local_mode.map_or("ClusterCIDR", |mode| mode.name());
        let (bridge, prefix) =
            (flags.pod_bridge_interface.clone(), flags.pod_interface_name_prefix.clone());
        let cidrs = match &policy.detect {
            DetectLocal::ClusterCidr(cidrs) => list(cidrs),
            _ => list(&flags.cluster_cidr),
        };
        let section = mode.section();
        let all_field = mode.masquerade_section();
        let entries: Vec<_> = policy.node_ports_at.iter().map(|e| node_ports::text(*e)).collect();
        let entries = if entries.is_empty() { "primary,localhost".into() } else { list(&entries) };
        let every = !mode.node_ports_at().is_empty();
        self.add(
            &["hostname_override"],
            Some("hostnameOverride"),
            config.node_name.to_string(),
            UPSTREAM,
        );
        let runs = match mode.name() {
            "" | "nftables" => "nftables".to_owned(),
            "userspace" => "userspace".to_owned(),
            other => format!("nftables (for {other})"),
        };
        self.add(&["proxy_mode"], Some("mode"), runs, OWN);
        self.add(&["detect_local_mode"], Some("detectLocalMode"), asked.into(), UPSTREAM);
        self.add(&["cluster_cidr"], Some("clusterCIDR"), cidrs, UPSTREAM);
        let field = Some("detectLocal.bridgeInterface");
        self.add(&["pod_bridge_interface"], field, bridge.unwrap_or_default(), UPSTREAM);
        let field = Some("detectLocal.interfaceNamePrefix");
        self.add(&["pod_interface_name_prefix"], field, prefix.unwrap_or_default(), UPSTREAM);
        let field = format!("{all_field}.masqueradeAll");
        self.add(&["masquerade_all"], Some(&field), policy.masquerade_all.to_string(), UPSTREAM);
        self.add(&["service_cluster_ip_range"], None, list(&policy.service_ranges), OWN);
        let default = if every { UPSTREAM } else { OWN };
        self.add(&["nodeport_addresses"], Some("nodePortAddresses"), entries, default);
        let field = Some("iptables.localhostNodePorts");
        let localhost = policy.localhost_node_ports.to_string();
        let ids = ["localhost_nodeports", "iptables_localhost_nodeports"];
        self.add(&ids, field, localhost, UPSTREAM);
        let outsiders = match policy.outsiders {
            Outsiders::Served => "serve",
            Outsiders::Dropped => "drop",
        };
        self.add(&["cluster_ip_outsiders"], None, outsiders.into(), OWN);
        let external = (policy.external_ips == ExternalIps::Served).to_string();
        let field = Some("featureGates.AllowServiceExternalIPs");
        let gates = self.of.flags.upstream.gates();
        let by_gate = self.of.fields.is_none() && gates.contains_key(gates::EXTERNAL_IPS);
        let ids = if by_gate { &["external_ips", "feature_gates"][..] } else { &["external_ips"] };
        self.add(ids, field, external, UPSTREAM);
        self.add(&["drop_invalid"], None, policy.drop_invalid.to_string(), OWN);
        let field = format!("{section}.minSyncPeriod");
        let ids = ["min_sync_period", mode.min_sync_flag()];
        self.add(&ids, Some(&field), duration(config.min_sync_period), OWN);
    }

    fn relay(&mut self) {
        let limits = self.config().policy.limits;
        self.add(&["max_connections"], None, limits.connections.to_string(), OWN);
        for (id, timeout) in [
            ("idle_timeout", limits.idle),
            ("half_closed_timeout", limits.half_closed),
            ("connect_timeout", limits.connect),
            ("session_timeout", limits.session),
        ] {
            self.add(&[id], None, duration(timeout), OWN);
        }
    }

    fn kernel(&mut self) {
        let config = self.config();
        let (sysctls, reset) = (config.sysctls, config.reset_gone_after);
        let default = if self.followed() { UPSTREAM } else { OWN };
        let time = |value: Option<Duration>| or(value, LEFT, duration);
        let count = |value: Option<u32>| or(value, LEFT, |count| count.to_string());
        for (id, field, value) in [
            ("conntrack_max_per_core", "maxPerCore", count(sysctls.max_per_core)),
            ("conntrack_min", "min", count(sysctls.min)),
            (
                "conntrack_tcp_timeout_established",
                "tcpEstablishedTimeout",
                time(sysctls.tcp_established),
            ),
            (
                "conntrack_tcp_timeout_close_wait",
                "tcpCloseWaitTimeout",
                time(sysctls.tcp_close_wait),
            ),
            (
                "conntrack_tcp_be_liberal",
                "tcpBeLiberal",
                or(sysctls.tcp_be_liberal, LEFT, |liberal| liberal.to_string()),
            ),
            ("conntrack_udp_timeout", "udpTimeout", time(sysctls.udp)),
            ("conntrack_udp_timeout_stream", "udpStreamTimeout", time(sysctls.udp_stream)),
        ] {
            self.add(&[id], Some(&format!("conntrack.{field}")), value, default.clone());
        }
        self.add(&["reset_gone_after"], None, or(reset, "never", duration), OWN);
    }

    fn process(&mut self) {
        let config = self.config().clone();
        let default = if self.followed() { UPSTREAM } else { OWN };
        let at = |sockets: &[_]| if sockets.is_empty() { NOWHERE.into() } else { list(sockets) };
        let (healthz, metrics) = (at(&config.healthz_at), at(&config.metrics_at));
        let ids = &["healthz_bind_address", "healthz_port"];
        self.add(ids, Some("healthzBindAddress"), healthz, UPSTREAM);
        let ids = &["metrics_bind_address", "metrics_port"];
        self.add(ids, Some("metricsBindAddress"), metrics, UPSTREAM);
        let score = or(config.oom_score_adj, LEFT, |score| score.to_string());
        self.add(&["oom_score_adj"], Some("oomScoreAdj"), score, default);
        self.add(&["drain_timeout"], None, duration(config.drain_timeout), OWN);
        self.add(&["admin_socket"], None, path(Some(&config.admin_socket)), OWN);
        let without: Vec<String> = config.without.iter().map(word::<Feature>).collect();
        self.add(&["without"], None, list(&without), OWN);
        self.add(&["takeover"], None, config.takeover.to_string(), OWN);
        let field = Some("logging.verbosity");
        self.add(&["log_level", "verbosity"], field, word::<LogLevel>(&config.log.level), OWN);
        let field = Some("logging.format");
        self.add(
            &["log_format", "logging_format"],
            field,
            word::<LogFormat>(&config.log.format),
            UPSTREAM,
        );
    }
}

/// All names, in the order of the list.
const SETTINGS: &[&str] = &[
    "manifests",
    "kubeconfig",
    "master",
    "config",
    "hostname-override",
    "proxy-mode",
    "detect-local-mode",
    "cluster-cidr",
    "pod-bridge-interface",
    "pod-interface-name-prefix",
    "masquerade-all",
    "service-cluster-ip-range",
    "nodeport-addresses",
    "localhost-nodeports",
    "cluster-ip-outsiders",
    "external-ips",
    "drop-invalid",
    "min-sync-period",
    "max-connections",
    "idle-timeout",
    "half-closed-timeout",
    "connect-timeout",
    "session-timeout",
    "conntrack-max-per-core",
    "conntrack-min",
    "conntrack-tcp-timeout-established",
    "conntrack-tcp-timeout-close-wait",
    "conntrack-tcp-be-liberal",
    "conntrack-udp-timeout",
    "conntrack-udp-timeout-stream",
    "reset-gone-after",
    "healthz-bind-address",
    "metrics-bind-address",
    "oom-score-adj",
    "drain-timeout",
    "admin-socket",
    "without",
    "takeover",
    "log-level",
    "log-format",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn explained(flags: &str) -> Effective {
        RunFlags::parsed(flags.split_whitespace()).unwrap().explain().unwrap()
    }

    fn setting<'a>(all: &'a Effective, name: &str) -> (&'a str, &'a From) {
        let found = all.settings.iter().find(|setting| setting.name == name);
        let found = found.unwrap_or_else(|| panic!("{name} is missing"));
        (&found.value, &found.from)
    }

    #[test]
    fn each_setting_is_there_once() {
        let all = explained("--manifests=/m");
        let names: Vec<_> = all.settings.iter().map(|setting| setting.name).collect();
        assert_eq!(names, SETTINGS);
    }

    #[test]
    fn flags_and_defaults_are_told_apart() {
        let all = explained(
            "--kubeconfig=/k --cluster-cidr=10.1.0.0/16 --iptables-min-sync-period=2s --metrics-port=0 \
             --feature-gates=AllowServiceExternalIPs=false --kube-api-qps=50 -v=4",
        );
        let flag = |name: &str| From::Flag(name.to_owned());
        assert_eq!(setting(&all, "cluster-cidr"), ("10.1.0.0/16", &flag("--cluster-cidr")));
        assert_eq!(setting(&all, "min-sync-period"), ("2s", &flag("--iptables-min-sync-period")));
        assert_eq!(setting(&all, "metrics-bind-address"), ("nowhere", &flag("--metrics-port")));
        assert_eq!(setting(&all, "external-ips"), ("false", &flag("--feature-gates")));
        assert_eq!(setting(&all, "log-level"), ("debug", &flag("-v")));
        assert_eq!(setting(&all, "conntrack-min"), ("131072", &UPSTREAM));
        assert_eq!(setting(&all, "proxy-mode"), ("nftables", &OWN));
        assert_eq!(setting(&all, "nodeport-addresses"), ("primary,localhost", &OWN));
        assert_eq!(all.without_meaning[0].what, "--kube-api-qps");
        let manifests = explained("--manifests=/m --proxy-mode=ipvs");
        assert_eq!(setting(&manifests, "conntrack-min"), (LEFT, &OWN));
        assert_eq!(setting(&manifests, "nodeport-addresses"), ("all", &UPSTREAM));
    }

    #[test]
    fn a_flag_with_two_names_is_told_by_the_one_that_counts() {
        for (given, name, value, flag) in [
            ("--iptables-localhost-nodeports=false", "localhost-nodeports", "false", 0),
            (
                "--localhost-nodeports --iptables-localhost-nodeports=false",
                "localhost-nodeports",
                "false",
                1,
            ),
            (
                "--iptables-localhost-nodeports=false --localhost-nodeports",
                "localhost-nodeports",
                "true",
                1,
            ),
            ("--logging-format=json", "log-format", "json", 0),
            ("--log-format=text --logging-format=json", "log-format", "json", 1),
            ("--logging-format=json --log-format=text", "log-format", "text", 1),
        ] {
            let all = explained(&format!("--kubeconfig=/k --cluster-cidr=10.1.0.0/16 {given}"));
            let flag = given.split(' ').nth(flag).and_then(|flag| flag.split('=').next());
            let from = From::Flag(flag.unwrap_or_default().to_owned());
            assert_eq!(setting(&all, name), (value, &from), "{given}");
        }
    }

    #[test]
    fn the_file_takes_the_place_of_flags() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("c");
        let text = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n\
                    clientConnection: {kubeconfig: /k, qps: 7}\nmode: nftables\n\
                    nftables: {minSyncPeriod: 3s, masqueradeAll: false}\noomScoreAdj: 0\n\
                    conntrack: {udpTimeout: 0s, tcpEstablishedTimeout: 0s}\n";
        std::fs::write(&path, text).unwrap();
        let flags = "--min-sync-period=9s --cluster-cidr=10.1.0.0/16 --hostname-override=n";
        let all = explained(&format!("--config={} {flags}", path.display()));
        let file = |name: &str| From::File(name.to_owned());
        assert_eq!(setting(&all, "min-sync-period"), ("3s", &file("nftables.minSyncPeriod")));
        assert_eq!(setting(&all, "masquerade-all"), ("false", &file("nftables.masqueradeAll")));
        assert_eq!(setting(&all, "oom-score-adj"), ("0", &file("oomScoreAdj")));
        assert_eq!(setting(&all, "cluster-cidr"), ("", &UPSTREAM));
        assert_eq!(setting(&all, "conntrack-udp-timeout").1, &UPSTREAM);
        let established = setting(&all, "conntrack-tcp-timeout-established");
        assert_eq!(established, ("0s", &file("conntrack.tcpEstablishedTimeout")));
        let name = From::Flag("--hostname-override".into());
        assert_eq!(setting(&all, "hostname-override"), ("n", &name));
        assert_eq!(all.without_meaning[0].what, "clientConnection.qps and burst");
        let told = all.warnings.join("\n");
        assert!(told.contains("--cluster-cidr") && told.contains("--min-sync-period"), "{told}");
    }
}
