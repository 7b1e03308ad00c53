use super::*;
use std::time::Duration;

/// What kubeadm 1.37 writes.
pub(crate) const KUBEADM: &str = include_str!("../../../tests/validation/kubeadm.yaml");

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
        ("clientConnection: {contentType: application/json}", "contentType"),
        ("iptables: {masqueradeBit: 20}", "masqueradeBit"),
        ("nftables: {syncPeriod: 10s}", "syncPeriod"),
        ("ipvs: {syncPeriod: 10s}", "syncPeriod"),
        ("configSyncPeriod: 10m", "configSyncPeriod"),
        ("bindAddressHardFail: true", "bindAddressHardFail"),
        ("enableProfiling: true", "enableProfiling"),
        ("bindAddress: 192.0.2.1", "bindAddress"),
        ("bindAddress: '::'", "bindAddress"),
        ("showHiddenMetricsForVersion: '1.36'", "showHiddenMetricsForVersion"),
        ("featureGates: {NFTablesNetlink: false}", "NFTablesNetlink"),
        ("ipvs: {scheduler: lc}", "ipvs"),
        ("portRange: 1-2", "portRange"),
        ("logging: {flushFrequency: 7s}", "flushFrequency"),
        ("winkernel: {enableDSR: true}", "winkernel"),
        ("oomScoreAdj: 1\noomScoreAdj: 2", "twice"),
    ] {
        let told = told(given);
        assert!(told.len() == 1 && told[0].contains(word), "{given}: {told:?}");
    }
}

#[test]
fn what_says_something_is_known_by_its_field() {
    let given = |more: &str| parsed(more).unwrap().given;
    let always = ["apiVersion", "kind"].map(str::to_owned);
    assert_eq!(given("mode: ''\nipvs: {tcpTimeout: 0s}\nnodePortAddresses: []"), always.into());
    let some = given("iptables: {masqueradeAll: false}\nconntrack: {tcpCloseWaitTimeout: 0s}");
    for field in ["iptables.masqueradeAll", "conntrack.tcpCloseWaitTimeout"] {
        assert!(some.contains(field), "{field}: {some:?}");
    }
}

#[test]
fn durations_are_go_s() {
    let file = parsed("conntrack: {tcpEstablishedTimeout: 24h0m0s}").unwrap();
    let given = file.config.conntrack.unwrap().tcp_established_timeout.unwrap();
    assert_eq!(given.get(), Some(Duration::from_secs(86_400)));
}
