//! From flags and a file to one checked configuration.
//!
//! In: flags as given, the file's text. Out: a [`Config`], with what it was made of.
//! Never: a default that depends on the machine, but for its name.

use super::file::{self, File, GoDuration};
use super::flags::RunFlags;
use super::mode::AskedMode;
use super::names::{NAMES, Name, Place};
use super::{Config, Error, Log, LogLevel, Source, Warning, conntrack, endpoint, gates};
use crate::conntrack::Sysctls;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// kube-proxy's default.
const OOM_SCORE_ADJ: i32 = -999;

/// The file of `--config` as it was read, with the flags beside it.
#[derive(Debug, Clone)]
pub struct ConfigFile {
    path: PathBuf,
    text: Arc<str>,
    flags: Box<RunFlags>,
}

impl ConfigFile {
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the file and the flags come to now; `None` if the file says what it said.
    pub fn reread(&self) -> Result<Option<Config>, Error> {
        let text = file::text(&self.path)?;
        if *text == *self.text {
            return Ok(None);
        }
        let flags = (*self.flags).clone();
        Ok(Some(flags.resolve_text(self.path.clone(), text)?.config))
    }
}

/// A checked configuration, and what it was made of.
pub(super) struct Resolved {
    pub config: Config,
    /// What counts of the flags: where a file is read, what it says stands in their place.
    pub flags: RunFlags,
    /// The fields that the file says something in; `None` without a file.
    pub fields: Option<BTreeSet<String>>,
}

impl RunFlags {
    pub fn check(self) -> Result<Config, Error> {
        Ok(self.resolve()?.config)
    }

    pub(super) fn resolve(self) -> Result<Resolved, Error> {
        match self.config_file() {
            Some(path) => {
                let text = file::text(&path)?;
                self.resolve_text(path, text)
            }
            None => self.settle(None),
        }
    }

    pub(super) fn config_file(&self) -> Option<PathBuf> {
        self.config.clone().filter(|path| !path.as_os_str().is_empty())
    }

    fn resolve_text(self, path: PathBuf, text: String) -> Result<Resolved, Error> {
        let file = file::parse(&text, &path)?;
        let kept = ConfigFile { path, text: text.into(), flags: Box::new(self.clone()) };
        let mut resolved = self.settle(Some(file))?;
        resolved.config.file = Some(kept);
        Ok(resolved)
    }

    fn settle(mut self, file: Option<File>) -> Result<Resolved, Error> {
        let means = |what: &str| {
            let ipvs = file.is_none() && self.node.proxy_mode == AskedMode::Ipvs;
            ipvs && what == "--ipvs-min-sync-period"
        };
        let in_vain = self.given.in_vain().filter(|(what, _)| !means(what));
        let mut warnings: Vec<Warning> =
            in_vain.map(|(what, why)| Warning::NoMeaning { what, why }).collect();
        if file.is_none() {
            warnings.extend(self.min_sync_in_vain());
            if let Some(least) = self.min_sync_given() {
                self.min_sync_period = least.get().unwrap_or_default();
            }
        }
        let fields = file.as_ref().map(|file| file.given.clone());
        let from_flags = file.is_none();
        let mut gates = match &file {
            Some(file) => file.config.feature_gates.clone().unwrap_or_default(),
            None => self.upstream.gates(),
        };
        if file.is_none() {
            warnings.extend(file::gates_without_meaning(&gates));
        }
        if self.given.has("external_ips") {
            gates.insert(gates::EXTERNAL_IPS.to_owned(), self.node.external_ips);
        } else {
            self.node.external_ips = gates::on(&gates, gates::EXTERNAL_IPS);
        }
        if let Some(file) = file {
            let (flags, more) = self.over(file);
            self = flags;
            warnings.extend(more);
        }
        self.fall_back_to_mode();
        let none = |path: &PathBuf| !path.as_os_str().is_empty();
        let source = Source::of(
            self.manifests.clone().filter(none),
            self.kubeconfig.clone().filter(none),
            self.master.clone().filter(|url| !url.is_empty()),
        )?;
        let followed = matches!(source, Source::ApiServer { .. });
        warnings.extend(self.node.proxy_mode.warning(followed));
        warnings.extend(self.ports_in_vain());
        let healthz = endpoint::with_port(self.healthz_bind_address.clone(), self.healthz_port);
        let metrics = endpoint::with_port(self.metrics_bind_address.clone(), self.metrics_port);
        let healthz_at = endpoint::addresses(&endpoint::HEALTHZ, healthz)?;
        let metrics_at = endpoint::addresses(&endpoint::METRICS, metrics)?;
        let mut node = self.node.clone().check()?;
        if from_flags {
            self.refuse_as_upstream(followed)?;
        }
        node.warnings.splice(0..0, warnings);
        // An offline question is asked without this flag all the time; a daemon rarely means it.
        if self.node.leaves_detection_open() {
            node.warnings.push(Warning::NoClusterCidr);
        }
        let defaults = if followed { conntrack::upstream() } else { Sysctls::default() };
        let asked = LogLevel::of_verbosity(self.verbosity.unwrap_or_default());
        let config = Config {
            source,
            node_name: node.node_name,
            policy: node.policy,
            oom_score_adj: self.oom_score_adj.or(followed.then_some(OOM_SCORE_ADJ)),
            min_sync_period: self.min_sync_period,
            admin_socket: self.admin_socket.clone(),
            healthz_at,
            metrics_at,
            sysctls: self.conntrack.sysctls(defaults),
            reset_gone_after: self.conntrack.reset_gone_after(),
            without: self.without.iter().copied().collect(),
            takeover: self.takeover,
            drain_timeout: self.drain_timeout,
            log: Log { level: self.log_level.max(asked), format: self.log_format() },
            gates,
            file: None,
            warnings: node.warnings,
        };
        Ok(Resolved { config, flags: self, fields })
    }

    fn fall_back_to_mode(&mut self) {
        if self.node.node_ports_at().is_empty() {
            let entries = self.node.proxy_mode.node_ports_at();
            self.node.nodeport_addresses = vec![super::node_ports::Entries(entries)];
        }
    }

    /// Flags of the least time between two commits of which another one is read.
    fn min_sync_in_vain(&self) -> impl Iterator<Item = Warning> + use<> {
        let of_mode = self.node.proxy_mode.min_sync_flag();
        let twice =
            self.given.has(of_mode) && self.given.place("min_sync_period") == Some(Place::Flag);
        let other = self.given.has("iptables_min_sync_period") && of_mode == "ipvs_min_sync_period";
        let twice = twice.then_some(Warning::NoMeaning {
            what: "--iptables-min-sync-period and --ipvs-min-sync-period",
            why: "--min-sync-period is given too, and counts",
        });
        let other = other.then_some(Warning::NoMeaning {
            what: "--iptables-min-sync-period",
            why: "as with kube-proxy, mode ipvs has --ipvs-min-sync-period in its place",
        });
        twice.into_iter().chain(other)
    }

    /// Ports of addresses that have one.
    fn ports_in_vain(&self) -> impl Iterator<Item = Warning> + use<> {
        let both = [
            ("--healthz-port", self.healthz_port, &self.healthz_bind_address),
            ("--metrics-port", self.metrics_port, &self.metrics_bind_address),
        ];
        let in_vain = both.map(|(what, port, address)| {
            let port = port.filter(|port| *port > 0);
            let taken = endpoint::with_port(address.clone(), port) != *address;
            (port.is_some() && !taken).then_some(Warning::NoMeaning {
                what,
                why: "as with kube-proxy it is the port of a bind address that is given without one",
            })
        });
        in_vain.into_iter().flatten()
    }

    /// By the rules of a file, told with the flags' names.
    fn refuse_as_upstream(&self, followed: bool) -> Result<(), Error> {
        let mut config = self.as_file();
        if !followed {
            // Without a cluster there is no period of kube-proxy's that another must not exceed.
            let only_a_negative = |least: &mut Option<GoDuration>| {
                *least = least.filter(|least| least.is_negative());
            };
            config
                .iptables
                .iter_mut()
                .for_each(|section| only_a_negative(&mut section.min_sync_period));
            config
                .ipvs
                .iter_mut()
                .for_each(|section| only_a_negative(&mut section.min_sync_period));
            config
                .nftables
                .iter_mut()
                .for_each(|section| only_a_negative(&mut section.min_sync_period));
        }
        let mut faults: Vec<String> = file::check(&config).into_iter().map(in_flags).collect();
        let upstream = &self.upstream;
        if !gates::on(&upstream.gates(), gates::LOGGING) {
            let split = [
                ("--log-json-split-stream", upstream.log_json_split_stream),
                ("--log-text-split-stream", upstream.log_text_split_stream),
            ];
            let split = split.into_iter().filter(|(_, split)| *split == Some(true));
            faults.extend(split.map(|(flag, _)| {
                format!("{flag}: expected false without feature gate LoggingAlphaOptions")
            }));
        }
        match faults.is_empty() {
            true => Ok(()),
            false => Err(Error::Flags { faults: faults.join("; ") }),
        }
    }

    /// The configuration that `--write-config-to` writes, as YAML.
    pub fn written(&self) -> Result<String, Error> {
        let config = match self.config_file() {
            Some(path) => self.beside_file(file::parse(&file::text(&path)?, &path)?.config),
            None => {
                self.refuse_as_upstream(true)?;
                let mut config = self.as_file();
                // A flag of bindAddress comes too late to change what these default to.
                for (value, endpoint, host) in [
                    (&mut config.healthz_bind_address, &endpoint::HEALTHZ, "0.0.0.0"),
                    (&mut config.metrics_bind_address, &endpoint::METRICS, "127.0.0.1"),
                ] {
                    value.get_or_insert_with(|| format!("{host}:{}", endpoint.port));
                }
                config
            }
        };
        let unwritten = |reason: String| Error::Unwritten { reason };
        // By way of a value, which sorts the fields as upstream does.
        let value = serde_json::to_value(file::spelled_out(config));
        let value = value.map_err(|error| unwritten(error.to_string()))?;
        serde_saphyr::to_string(&value).map_err(|error| unwritten(error.to_string()))
    }
}

/// `clientConnection.burst: …` as `--kube-api-burst: …`.
fn in_flags(fault: String) -> String {
    let Some((field, rest)) = fault.split_once(": ") else { return fault };
    let alone = field.rsplit('.').next().unwrap_or(field);
    let field = field.split('[').next().unwrap_or(field);
    let named = |name: &&Name| name.field == Some(field);
    let of_section = |name: &&Name| name.field == Some(alone);
    match NAMES.iter().find(named).or_else(|| NAMES.iter().find(of_section)) {
        Some(name) => format!("{}: {rest}", name.flag),
        None => fault,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ProxyMode;
    use std::time::Duration;

    fn flags(line: &str) -> RunFlags {
        RunFlags::parsed(line.split_whitespace()).unwrap()
    }

    /// What `vipd --config` makes of the file that these flags write.
    fn read_back(line: &str) -> Config {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("written.yaml");
        std::fs::write(&path, flags(line).written().unwrap()).unwrap();
        flags(&format!("--config={} --hostname-override=n", path.display())).check().unwrap()
    }

    #[test]
    fn what_is_written_means_the_same_when_it_is_read() {
        for line in [
            "--kubeconfig=/k",
            "--kubeconfig=/k --proxy-mode=iptables --masquerade-all --iptables-min-sync-period=2s",
            "--kubeconfig=/k --proxy-mode=ipvs --ipvs-min-sync-period=3s --oom-score-adj=0",
            "--kubeconfig=/k --proxy-mode=userspace --masquerade-all --min-sync-period=4s",
            "--kubeconfig=/k --cluster-cidr=10.1.0.0/16,fd00::/48 --nodeport-addresses=all -v=6 \
             --conntrack-udp-timeout=90s --conntrack-min=7 --conntrack-tcp-timeout-established=0 \
             --feature-gates=AllowServiceExternalIPs=false --localhost-nodeports=false",
            "--kubeconfig=/k --detect-local-mode=BridgeInterface --pod-bridge-interface=cni0 \
             --masquerade-all --healthz-bind-address=1.2.3.4:5 --logging-format=json",
        ] {
            let meant = flags(&format!("{line} --hostname-override=n")).check().unwrap();
            let read = read_back(line);
            assert_eq!(read.policy, meant.policy, "{line}");
            assert_eq!(read.source, meant.source, "{line}");
            assert_eq!(read.min_sync_period, meant.min_sync_period, "{line}");
            assert_eq!(read.oom_score_adj, meant.oom_score_adj, "{line}");
            assert_eq!(read.log, meant.log, "{line}");
            assert_eq!(read.healthz_at, meant.healthz_at, "{line}");
            // Upstream's file has 0 and false where nothing is said: both leave the kernel alone.
            let zero = |value: Option<Duration>| value.filter(|value| !value.is_zero());
            let kept = |config: &Config| {
                let all = config.sysctls;
                let times = [all.tcp_established, all.tcp_close_wait, all.udp, all.udp_stream];
                (all.max_per_core, all.min, times.map(zero))
            };
            assert_eq!(kept(&read), kept(&meant), "{line}");
        }
    }

    #[test]
    fn the_least_period_is_the_mode_s() {
        let seconds = |line: &str| {
            let config = flags(&format!("--kubeconfig=/k --cluster-cidr=10.1.0.0/16 {line}"));
            let config = config.check().unwrap();
            let void = |warning: &Warning| match warning {
                Warning::NoMeaning { what, .. } => Some(*what),
                _ => None,
            };
            let told: Vec<_> = config.warnings.iter().filter_map(void).collect();
            (config.min_sync_period.as_secs(), told)
        };
        let (iptables, ipvs) = ("--iptables-min-sync-period", "--ipvs-min-sync-period");
        let either = "--iptables-min-sync-period and --ipvs-min-sync-period";
        for (line, least, told) in [
            ("--iptables-min-sync-period=3s", 3, vec![]),
            ("--proxy-mode=nftables --iptables-min-sync-period=3s", 3, vec![]),
            ("--proxy-mode=ipvs --iptables-min-sync-period=3s", 0, vec![iptables]),
            ("--proxy-mode=ipvs --ipvs-min-sync-period=3s", 3, vec![]),
            ("--proxy-mode=ipvs --min-sync-period=3s", 3, vec![]),
            ("--proxy-mode=iptables --ipvs-min-sync-period=3s", 0, vec![ipvs]),
            ("--min-sync-period=3s --iptables-min-sync-period=4s", 3, vec![either]),
        ] {
            assert_eq!(seconds(line), (least, told), "{line}");
        }
        let written = read_back("--kubeconfig=/k --proxy-mode=ipvs --min-sync-period=3s");
        assert_eq!(written.min_sync_period, Duration::from_secs(3));
        for flag in [iptables, ipvs] {
            let mode = if flag == ipvs { "ipvs" } else { "iptables" };
            let line = format!("--kubeconfig=/k --proxy-mode={mode} {flag}=-1s");
            let error = flags(&line).check().unwrap_err().to_string();
            assert!(error.contains("min-sync-period"), "{line}: {error}");
        }
    }

    #[test]
    fn flags_beside_a_file_take_part_as_upstream() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("c");
        let head = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";
        std::fs::write(&path, format!("{head}mode: ipvs\noomScoreAdj: 3\nportRange: 1-2\n"))
            .unwrap();
        let line = format!(
            "--config={} --hostname-override=node-x -v=7 --oom-score-adj=9",
            path.display()
        );
        let text = flags(&line).written().unwrap();
        for part in [
            "oomScoreAdj: 3\n",
            "verbosity: 7\n",
            "hostnameOverride: node-x\n",
            "mode: ipvs\n",
            "portRange: \"\"\n",
        ] {
            assert!(text.contains(part), "{part} is missing: {text}");
        }
    }

    #[test]
    fn modes_without_a_dataplane_are_refused_plainly() {
        let error = flags("--kubeconfig=/k --proxy-mode=ebpf").check().unwrap_err();
        let text = error.to_string();
        assert!(text.contains("ebpf") && text.contains("does not exist"), "{text}");
    }

    #[test]
    fn the_mode_is_what_serves_services_that_do_not_say() {
        for (mode, runs) in [
            ("", ProxyMode::Nftables),
            ("nftables", ProxyMode::Nftables),
            ("ipvs", ProxyMode::Nftables),
            ("userspace", ProxyMode::Userspace),
        ] {
            let config = flags(&format!("--kubeconfig=/k --proxy-mode={mode}")).check().unwrap();
            assert_eq!(config.policy.mode, runs, "{mode}");
        }
    }

    #[test]
    fn no_mode_is_told_in_a_cluster() {
        let told = |line: &str| {
            let config = flags(line).check().unwrap();
            config.warnings.iter().map(Warning::reason).collect::<Vec<_>>()
        };
        let cidr = "--cluster-cidr=10.1.0.0/16";
        assert_eq!(told(&format!("--kubeconfig=/k {cidr}")), ["KubeProxyDefaultMode"]);
        assert_eq!(told(&format!("--kubeconfig=/k {cidr} --proxy-mode=nftables")), [""; 0]);
        assert_eq!(told(&format!("--kubeconfig=/k {cidr} --proxy-mode=ipvs")), ["IPVSDeprecation"]);
        assert_eq!(told(&format!("--manifests=/m {cidr}")), [""; 0]);
        let ports = format!("--kubeconfig=/k {cidr} --proxy-mode=nftables --healthz-port=9");
        assert_eq!(told(&ports), ["ConfigurationWithoutMeaning"]);
        let config = flags(
            "--kubeconfig=/k --healthz-port=0 --metrics-bind-address=1.2.3.4 --metrics-port=5",
        );
        let config = config.check().unwrap();
        assert_eq!(config.healthz_at, []);
        assert_eq!(config.metrics_at, ["1.2.3.4:5".parse().unwrap()]);
    }
}
