use super::*;
use std::time::Duration;

/// What kubeadm 1.37 writes.
pub(crate) const KUBEADM: &str = "
apiVersion: kubeproxy.config.k8s.io/v1alpha1
bindAddress: 0.0.0.0
bindAddressHardFail: false
clientConnection:
  acceptContentTypes: \"\"
  burst: 0
  contentType: \"\"
  kubeconfig: /var/lib/kube-proxy/kubeconfig.conf
  qps: 0
clusterCIDR: 10.244.0.0/16
configSyncPeriod: 0s
conntrack:
  maxPerCore: null
  min: null
  tcpBeLiberal: false
  tcpCloseWaitTimeout: null
  tcpEstablishedTimeout: null
  udpStreamTimeout: 0s
  udpTimeout: 0s
detectLocal:
  bridgeInterface: \"\"
  interfaceNamePrefix: \"\"
detectLocalMode: \"\"
enableProfiling: false
healthzBindAddress: \"\"
hostnameOverride: \"\"
iptables:
  localhostNodePorts: null
  masqueradeAll: false
  masqueradeBit: null
  minSyncPeriod: 0s
  syncPeriod: 0s
ipvs:
  excludeCIDRs: null
  minSyncPeriod: 0s
  scheduler: \"\"
  strictARP: false
  syncPeriod: 0s
  tcpFinTimeout: 0s
  tcpTimeout: 0s
  udpTimeout: 0s
kind: KubeProxyConfiguration
logging:
  flushFrequency: 0
  options:
    json:
      infoBufferSize: \"0\"
    text:
      infoBufferSize: \"0\"
  verbosity: 0
metricsBindAddress: \"\"
mode: \"\"
nftables:
  masqueradeAll: false
  masqueradeBit: null
  minSyncPeriod: 0s
  syncPeriod: 0s
nodePortAddresses: null
oomScoreAdj: null
portRange: \"\"
showHiddenMetricsForVersion: \"\"
winkernel:
  enableDSR: false
  forwardHealthCheckVip: false
  networkName: \"\"
  rootHnsEndpointName: \"\"
  sourceVip: \"\"
";

fn parsed(more: &str) -> Result<File, String> {
    let text = format!("apiVersion: {API_VERSION}\nkind: {KIND}\n{more}");
    parse(&text, Path::new("/etc/config.conf")).map_err(|error| error.to_string())
}

#[test]
fn what_kubeadm_writes_is_read_without_a_word() {
    let file = parse(KUBEADM, Path::new("/etc/config.conf")).unwrap();
    assert_eq!(file.warnings, []);
    assert_eq!(file.config.cluster_cidr.as_deref(), Some("10.244.0.0/16"));
    let client = file.config.client_connection.unwrap();
    assert_eq!(client.kubeconfig.as_deref(), Some("/var/lib/kube-proxy/kubeconfig.conf"));
}

#[test]
fn each_rule_has_a_good_and_a_bad_value() {
    for (good, bad, field) in [
        (
            "iptables: {masqueradeBit: 31}",
            "iptables: {masqueradeBit: 32}",
            "iptables.masqueradeBit",
        ),
        ("iptables: {masqueradeBit: 0}", "iptables: {masqueradeBit: -1}", "iptables.masqueradeBit"),
        (
            "nftables: {masqueradeBit: 99}",
            "{mode: nftables, nftables: {masqueradeBit: 99}}",
            "nftables.masqueradeBit",
        ),
        ("oomScoreAdj: -1000", "oomScoreAdj: -1001", "oomScoreAdj"),
        ("oomScoreAdj: 1000", "oomScoreAdj: 1001", "oomScoreAdj"),
        ("iptables: {syncPeriod: 5s}", "iptables: {syncPeriod: -5s}", "iptables.syncPeriod"),
        (
            "iptables: {syncPeriod: 9s, minSyncPeriod: 9s}",
            "iptables: {syncPeriod: 9s, minSyncPeriod: 10s}",
            "iptables.minSyncPeriod",
        ),
        (
            "nftables: {minSyncPeriod: 31s}",
            "{mode: nftables, nftables: {minSyncPeriod: 31s}}",
            "nftables.minSyncPeriod",
        ),
        ("iptables: {minSyncPeriod: 0s}", "iptables: {minSyncPeriod: -1s}", "minSyncPeriod"),
        ("configSyncPeriod: 15m", "configSyncPeriod: -15m", "configSyncPeriod"),
        ("conntrack: {maxPerCore: 0}", "conntrack: {maxPerCore: -1}", "conntrack.maxPerCore"),
        ("conntrack: {min: 7}", "conntrack: {min: -7}", "conntrack.min"),
        (
            "conntrack: {tcpEstablishedTimeout: 24h0m0s}",
            "conntrack: {tcpEstablishedTimeout: -1s}",
            "conntrack.tcpEstablishedTimeout",
        ),
        (
            "conntrack: {tcpCloseWaitTimeout: 1h}",
            "conntrack: {tcpCloseWaitTimeout: -1h}",
            "conntrack.tcpCloseWaitTimeout",
        ),
        ("conntrack: {udpTimeout: 0s}", "conntrack: {udpTimeout: -1s}", "conntrack.udpTimeout"),
        (
            "conntrack: {udpStreamTimeout: 1s}",
            "conntrack: {udpStreamTimeout: -1s}",
            "conntrack.udpStreamTimeout",
        ),
        ("clientConnection: {burst: 0}", "clientConnection: {burst: -1}", "clientConnection.burst"),
        ("bindAddress: '::'", "bindAddress: node", "bindAddress"),
        ("healthzBindAddress: 0.0.0.0:9", "healthzBindAddress: 'x:9'", "healthzBindAddress"),
        ("healthzBindAddress: 127.0.0.1", "healthzBindAddress: '1.2.3.4:0'", "healthzBindAddress"),
        ("metricsBindAddress: '[::1]:9'", "metricsBindAddress: '[::1'", "metricsBindAddress"),
        ("mode: nftables", "mode: ebtables", "mode"),
        ("mode: ipvs", "mode: IPVS", "mode"),
        ("detectLocalMode: NodeCIDR", "detectLocalMode: Node", "detectLocalMode"),
        (
            "clusterCIDR: '10.0.0.0/8,fd00::/48'",
            "clusterCIDR: '10.0.0.0/8,11.0.0.0/8'",
            "clusterCIDR",
        ),
        ("clusterCIDR: 10.0.0.0/8", "clusterCIDR: 10.0.0.0", "clusterCIDR"),
        ("{clusterCIDR: x, detectLocalMode: NodeCIDR}", "clusterCIDR: x", "clusterCIDR"),
        (
            "{detectLocalMode: BridgeInterface, detectLocal: {bridgeInterface: cni0}}",
            "detectLocalMode: BridgeInterface",
            "detectLocal.bridgeInterface",
        ),
        (
            "{detectLocalMode: InterfaceNamePrefix, detectLocal: {interfaceNamePrefix: veth}}",
            "detectLocalMode: InterfaceNamePrefix",
            "detectLocal.interfaceNamePrefix",
        ),
        (
            "nodePortAddresses: [10.0.0.0/8, primary]",
            "nodePortAddresses: [10.0.0.0]",
            "nodePortAddresses[0]",
        ),
        (
            "nodePortAddresses: [10.0.0.0/8, 10.0.0.0/8]",
            "nodePortAddresses: [all, all]",
            "nodePortAddresses[1]",
        ),
        (
            "{mode: ipvs, ipvs: {tcpTimeout: 0s}}",
            "{mode: ipvs, ipvs: {tcpTimeout: -1s}}",
            "ipvs.tcpTimeout",
        ),
        ("ipvs: {udpTimeout: -1s}", "{mode: ipvs, ipvs: {udpTimeout: -1s}}", "ipvs.udpTimeout"),
        (
            "{mode: ipvs, ipvs: {excludeCIDRs: [10.0.0.0/8]}}",
            "{mode: ipvs, ipvs: {excludeCIDRs: [10.0.0.1]}}",
            "ipvs.excludeCIDRs[0]",
        ),
    ] {
        let inline = |text: &str| match text.strip_prefix('{') {
            Some(inner) => {
                let inner = inner.strip_suffix('}').expect("it is closed");
                let split = inner.split_once(", ").expect("two fields");
                format!("{}\n{}", split.0, split.1)
            }
            None => text.to_owned(),
        };
        if let Err(error) = parsed(&inline(good)) {
            panic!("{good}: {error}");
        }
        let error = parsed(&inline(bad)).expect_err(bad);
        assert!(error.contains(&format!("{field}: ")), "{bad}: {error}");
        assert!(error.contains("/etc/config.conf"), "{error}");
    }
}

#[test]
fn wrong_types_are_told_with_their_field() {
    for (bad, field) in [
        ("oomScoreAdj: many", "oomScoreAdj"),
        ("iptables: {syncPeriod: 30}", "iptables.syncPeriod"),
        ("conntrack: {tcpBeLiberal: 1}", "conntrack.tcpBeLiberal"),
        ("nodePortAddresses: all", "nodePortAddresses"),
        ("iptables: {syncPeriod: 30 seconds}", "iptables.syncPeriod"),
    ] {
        let error = parsed(bad).expect_err(bad);
        assert!(error.contains(field), "{bad}: {error}");
    }
    let error = parse("a: [", Path::new("/x")).unwrap_err().to_string();
    assert!(error.contains("/x"), "{error}");
    let other = parse("apiVersion: v1\nkind: Pod\n", Path::new("/x")).unwrap_err().to_string();
    assert!(other.contains(API_VERSION) && other.contains("Pod"), "{other}");
}

#[test]
fn nothing_is_silently_lost() {
    let told = |more: &str| {
        let warnings = parsed(more).unwrap_or_else(|error| panic!("{more}: {error}")).warnings;
        warnings.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let unknown = told("clusterCidr: 10.0.0.0/8\niptables: {masqueradeBits: 3}");
    assert_eq!(unknown.len(), 2, "{unknown:?}");
    assert!(unknown[0].contains("clusterCidr") && unknown[1].contains("iptables.masqueradeBits"));
    for (given, word) in [
        ("clientConnection: {qps: 50, burst: 100}", "qps"),
        ("clientConnection: {contentType: application/vnd.kubernetes.protobuf}", "contentType"),
        ("iptables: {masqueradeBit: 20}", "masqueradeBit"),
        ("nftables: {syncPeriod: 10s}", "syncPeriod"),
        ("configSyncPeriod: 10m", "configSyncPeriod"),
        ("bindAddressHardFail: true", "bindAddressHardFail"),
        ("enableProfiling: true", "enableProfiling"),
        ("bindAddress: 192.0.2.1", "bindAddress"),
        ("showHiddenMetricsForVersion: '1.36'", "showHiddenMetricsForVersion"),
        ("featureGates: {NFTablesNetlink: false}", "featureGates"),
        ("ipvs: {scheduler: lc}", "ipvs"),
        ("portRange: 1-2", "portRange"),
    ] {
        let told = told(given);
        assert!(told.len() == 1 && told[0].contains(word), "{given}: {told:?}");
    }
}

#[test]
fn durations_are_go_s() {
    let file = parsed("conntrack: {tcpEstablishedTimeout: 24h0m0s}").unwrap();
    let given = file.config.conntrack.unwrap().tcp_established_timeout.unwrap();
    assert_eq!(given.get(), Some(Duration::from_secs(86_400)));
}
