//! The source `kubernetes` against a stand-in for an API server: what it asks for, what it says, and
//! that what it has said is what the server holds, whatever went wrong in between.
//!
//! The stand-in (`cluster.rs`) does on purpose what a real server does once in a while. Real ones are
//! asked elsewhere.

mod cluster;
mod events;

use cluster::Cluster;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use vipd::model::{Kind, Object, ObjectRef, Problem};
use vipd::sources::kubernetes::{self, Access};
use vipd::sources::{Batch, Change, Scope};

/// Longer than the longest pause of a follower, with its jitter.
const SOON: Duration = Duration::from_secs(30);
const KINDS: [Kind; 6] =
    [Kind::Service, Kind::EndpointSlice, Kind::Endpoints, Kind::Pod, Kind::Node, Kind::ServiceCidr];

/// What a source has said so far.
struct Told {
    batches: mpsc::Receiver<Batch>,
    objects: BTreeMap<ObjectRef, Object>,
    problems: BTreeMap<ObjectRef, Vec<Problem>>,
    /// Slices, with when what led to them was done.
    triggers: Vec<(String, SystemTime)>,
    synced: Vec<Kind>,
    deletions: usize,
    source: JoinHandle<()>,
    _directory: TempDir,
    kubeconfig: PathBuf,
}

impl Drop for Told {
    fn drop(&mut self) {
        self.source.abort();
    }
}

fn kubeconfig(cluster: &Cluster, token: &str) -> String {
    kubeconfig_of(cluster, &json!({"token": token}))
}

fn kubeconfig_of(cluster: &Cluster, user: &Value) -> String {
    let server = format!("http://{}", cluster.address);
    let file = json!({"apiVersion": "v1", "kind": "Config", "current-context": "x",
        "clusters": [{"name": "x", "cluster": {"server": server}}],
        "users": [{"name": "x", "user": user}],
        "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}]});
    file.to_string()
}

impl Told {
    async fn by(cluster: &Cluster) -> Self {
        Self::by_user(cluster, |_| json!({"token": "first"})).await
    }

    /// `user`: of the kubeconfig; its files are in this directory.
    async fn by_user(cluster: &Cluster, user: impl FnOnce(&Path) -> Value) -> Self {
        let directory = TempDir::new().expect("a directory");
        let path = directory.path().join("kubeconfig");
        let text = kubeconfig_of(cluster, &user(directory.path()));
        std::fs::write(&path, text).expect("it can be written");
        let access = Access::new(Some(path.clone()), None);
        let source = kubernetes::open(access, "node-a").await.expect("a good kubeconfig");
        let (send, batches) = mpsc::channel(64);
        let source = tokio::spawn(source.run(send));
        Self {
            batches,
            objects: BTreeMap::new(),
            problems: BTreeMap::new(),
            triggers: Vec::new(),
            synced: Vec::new(),
            deletions: 0,
            source,
            _directory: directory,
            kubeconfig: path,
        }
    }

    fn take(&mut self, batch: Batch) {
        for trigger in &batch.triggers {
            match &batch.changes[trigger.change] {
                Change::Upsert(Object::EndpointSlice(slice)) => {
                    self.triggers.push((slice.key.to_string(), trigger.at));
                }
                other => panic!("the trigger of {other:?}"),
            }
        }
        for change in batch.changes {
            match change {
                Change::Upsert(object) => {
                    let key = ObjectRef { service: None, ..object.told_as() };
                    self.objects.insert(key, object);
                }
                Change::Delete(key) => {
                    self.deletions += usize::from(self.objects.remove(&key).is_some());
                }
                Change::Problems { scope: Scope::Object(key), problems } if problems.is_empty() => {
                    self.problems.remove(&key);
                }
                Change::Problems { scope: Scope::Object(key), problems } => {
                    self.problems.insert(key, problems);
                }
                Change::Problems { scope, .. } => panic!("a problem of {scope:?}"),
                Change::Synced(kind) => self.synced.push(kind),
            }
        }
    }

    /// Listens until it is so.
    #[track_caller]
    fn until(&mut self, what: &str, is: impl Fn(&Self) -> bool) -> impl Future<Output = ()> {
        let end = Instant::now() + SOON;
        async move {
            while !is(self) {
                let left = end.saturating_duration_since(Instant::now());
                match timeout(left, self.batches.recv()).await {
                    Ok(Some(batch)) => self.take(batch),
                    Ok(None) => panic!("the source ended before {what}"),
                    Err(_) => panic!("not within {SOON:?}: {what}; {} objects", self.objects.len()),
                }
            }
        }
    }

    async fn synced(&mut self) {
        self.until("all kinds are synced", |told| told.synced.len() >= KINDS.len()).await;
        self.synced.sort_unstable();
        let mut all = KINDS;
        all.sort_unstable();
        assert_eq!(self.synced, all, "each once");
    }

    /// Takes what comes, for as long.
    async fn listen(&mut self, long: Duration) {
        let end = Instant::now() + long;
        while let Ok(Some(batch)) =
            timeout(end.saturating_duration_since(Instant::now()), self.batches.recv()).await
        {
            self.take(batch);
        }
    }

    fn services(&self) -> Vec<&str> {
        let services = self.objects.keys().filter(|object| object.kind == Kind::Service);
        services.map(|object| &*object.key).collect()
    }

    fn cluster_ip(&self, key: &str) -> Option<String> {
        match self.objects.get(&ObjectRef::new(Kind::Service, key))? {
            Object::Service(service) => service.cluster_ips.v4.map(|ip| ip.to_string()),
            _ => None,
        }
    }
}

fn service(ip: &str) -> Value {
    json!({"metadata": {"uid": "u"}, "spec": {"clusterIP": ip, "clusterIPs": [ip],
        "ports": [{"port": 80, "protocol": "TCP"}]}})
}

fn slice(service: &str, pod: &str) -> Value {
    json!({"metadata": {"labels": {"kubernetes.io/service-name": service}}, "addressType": "IPv4",
        "ports": [{"name": "", "port": 8080, "protocol": "TCP"}],
        "endpoints": [{"addresses": [pod], "conditions": {"ready": true}}]})
}

/// One Service with a slice, the node, a range.
async fn small() -> Arc<Cluster> {
    let cluster = Cluster::start().await;
    cluster.put("services", "default/web", service("10.254.0.1"));
    cluster.put("endpointslices", "default/web-1", slice("web", "10.1.0.1"));
    cluster.put("nodes", "node-a", json!({"metadata": {}, "spec": {"podCIDR": "10.1.0.0/24"}}));
    cluster.put(
        "servicecidrs",
        "kubernetes",
        json!({"metadata": {}, "spec": {"cidrs": ["10.254.0.0/16"]}}),
    );
    cluster
}

#[tokio::test]
async fn lists_come_first_then_changes() {
    let cluster = small().await;
    let mut told = Told::by(&cluster).await;
    told.synced().await;
    assert_eq!(told.objects.len(), 4, "{:?}", told.objects.keys());
    cluster.put("services", "default/api", service("10.254.0.2"));
    told.until("one more", |told| told.services() == ["default/api", "default/web"]).await;
    cluster.put("services", "default/api", service("10.254.0.3"));
    told.until("another address", |told| {
        told.cluster_ip("default/api").as_deref() == Some("10.254.0.3")
    })
    .await;
    cluster.delete("services", "default/web");
    told.until("one less", |told| told.services() == ["default/api"]).await;
    for resource in ["services", "endpointslices", "nodes", "servicecidrs"] {
        assert_eq!(cluster.lists(resource), 1, "{resource}");
    }
}

#[tokio::test]
async fn asks_for_what_it_serves_only() {
    let cluster = small().await;
    let mut told = Told::by(&cluster).await;
    told.synced().await;
    let asked = cluster.asked();
    let of = |resource: &str| asked.iter().find(|one| one.resource == resource).expect("asked for");
    for (resource, labels) in [
        ("services", "!service.kubernetes.io/service-proxy-name"),
        ("endpointslices", "!service.kubernetes.io/headless"),
    ] {
        assert!(of(resource).is("labelSelector", labels), "{:?}", of(resource));
    }
    assert!(of("services").is("fieldSelector", "spec.clusterIP!=None"), "{:?}", of("services"));
    assert!(of("nodes").is("fieldSelector", "metadata.name=node-a"), "{:?}", of("nodes"));
    for one in &asked {
        assert!(one.is("watch", "true") && one.is("allowWatchBookmarks", "true"), "{one:?}");
        let seconds = one.query.get("timeoutSeconds").and_then(|text| text.parse::<u32>().ok());
        assert!(seconds.is_some_and(|seconds| seconds <= 60), "{one:?}");
        // What one server's cache still holds may be older than what another has told.
        assert_eq!(one.query.get("resourceVersion"), None, "{one:?}");
    }
}

#[tokio::test]
async fn what_a_slice_follows_from_stands_beside_its_change() {
    let cluster = small().await;
    let mut slice = slice("web", "10.1.0.2");
    let annotation = "endpoints.kubernetes.io/last-change-trigger-time";
    slice["metadata"]["annotations"] = json!({annotation: "2026-01-02T03:04:05Z"});
    cluster.put("endpointslices", "default/web-2", slice.clone());
    let at = UNIX_EPOCH + Duration::from_secs(1_767_323_045);
    let mut told = Told::by(&cluster).await;
    told.synced().await;
    assert_eq!(told.triggers, [("default/web-2".to_owned(), at)], "in a list");
    let before = told.objects.clone();
    slice["metadata"]["annotations"][annotation] = "2026-01-02T03:04:06Z".into();
    cluster.put("endpointslices", "default/web-2", slice);
    told.until("the change", |told| told.triggers.len() == 2).await;
    assert_eq!(told.triggers[1].1, at + Duration::from_secs(1));
    assert_eq!(told.objects, before, "the object is the same");
}

#[tokio::test]
async fn a_broken_watch_goes_on_where_it_stood() {
    let cluster = small().await;
    let mut told = Told::by(&cluster).await;
    told.synced().await;
    for round in 0..3 {
        cluster.cut();
        cluster.put("services", "default/new", service(&format!("10.254.1.{round}")));
        told.until("what changed meanwhile", |told| {
            told.cluster_ip("default/new") == Some(format!("10.254.1.{round}"))
        })
        .await;
    }
    assert_eq!(cluster.lists("services"), 1, "nothing is listed anew");
    assert_eq!(told.deletions, 0);
}

#[tokio::test]
async fn what_vanished_while_the_history_was_lost_is_gone() {
    let cluster = small().await;
    let mut told = Told::by(&cluster).await;
    told.synced().await;
    cluster.stop().await;
    cluster.delete("services", "default/web");
    cluster.put("services", "default/new", service("10.254.0.9"));
    cluster.compact();
    told.listen(Duration::from_millis(300)).await;
    assert_eq!((told.deletions, told.services()), (0, vec!["default/web"]), "while it is away");
    cluster.start_again().await;
    told.until("the new list", |told| told.services() == ["default/new"]).await;
    assert_eq!(told.synced.len(), KINDS.len(), "a kind is synced once");
}

#[tokio::test]
async fn servers_without_streaming_lists_are_asked_for_pages() {
    for ignorant in [false, true] {
        let cluster = small().await;
        cluster.faults(|faults| (faults.no_streaming, faults.ignorant) = (!ignorant, ignorant));
        for number in 0..1200 {
            let ip = format!("10.254.{}.{}", 1 + number / 200, 1 + number % 200);
            cluster.put("services", &format!("default/s{number:04}"), service(&ip));
        }
        let mut told = Told::by(&cluster).await;
        told.synced().await;
        assert_eq!(told.services().len(), 1201, "ignorant: {ignorant}");
        let pages = cluster.asked();
        let pages =
            pages.iter().filter(|one| one.resource == "services" && !one.is("watch", "true"));
        assert_eq!(pages.count(), 3, "of 500 each");
        cluster.delete("services", "default/s0000");
        told.until("what follows the pages", |told| told.services().len() == 1200).await;
    }
}

#[tokio::test]
async fn servers_that_do_not_know_a_field_are_asked_without_it() {
    let cluster = small().await;
    cluster.faults(|faults| faults.no_field_labels = true);
    let mut told = Told::by(&cluster).await;
    told.synced().await;
    cluster.put("services", "default/bare", service("None"));
    cluster.put("services", "default/new", service("10.254.0.9"));
    told.until("the change", |told| told.services().len() == 2).await;
    assert!(told.problems.is_empty(), "{:?}", told.problems);
}

#[tokio::test]
async fn who_ends_watches_at_once_is_not_asked_without_a_pause() {
    let cluster = small().await;
    cluster.faults(|faults| faults.no_watches = true);
    let mut told = Told::by(&cluster).await;
    told.synced().await;
    let (before, since) = (cluster.asked().len(), Instant::now());
    told.listen(Duration::from_secs(2)).await;
    let asked = cluster.asked().len() - before;
    // Ten at once and five a second; pages may come between them.
    let most = 10 + 5 * (since.elapsed().as_secs() + 1);
    assert!(asked as u64 <= most, "{asked} requests in {:?}", since.elapsed());
    cluster.faults(|faults| faults.no_watches = false);
    cluster.put("services", "default/new", service("10.254.0.9"));
    told.until("the change", |told| told.services().len() == 2).await;
}

#[tokio::test]
async fn a_list_that_breaks_off_leaves_nothing_behind() {
    let cluster = small().await;
    cluster.faults(|faults| (faults.no_streaming, faults.broken_page) = (true, Some(1500)));
    for number in 0..2000 {
        cluster.put("services", &format!("default/s{number:04}"), service("10.254.3.3"));
    }
    let mut told = Told::by(&cluster).await;
    // What the first pages named goes before a list comes to its end.
    told.until("the first pages", |told| told.services().len() > 1000).await;
    // The stand-in's pages are of the moment: the broken one must have been asked for by now.
    told.listen(Duration::from_millis(100)).await;
    assert!(cluster.asked().iter().any(|one| one.is("continue", "1500")));
    assert!(!told.synced.contains(&Kind::Service));
    for number in 0..2000 {
        cluster.delete("services", &format!("default/s{number:04}"));
    }
    cluster.faults(|faults| faults.broken_page = None);
    told.until("only what is there", |told| told.services() == ["default/web"]).await;
    told.synced().await;
}

#[tokio::test]
async fn a_server_that_shows_nothing_for_once_takes_nothing_away() {
    let cluster = small().await;
    let mut told = Told::by(&cluster).await;
    told.synced().await;
    for code in [404, 403, 500] {
        cluster.faults(|faults| {
            faults.refused.insert("services", code);
        });
        cluster.compact();
        cluster.cut();
        told.listen(Duration::from_millis(500)).await;
        assert_eq!((told.deletions, told.services()), (0, vec!["default/web"]), "{code}");
        cluster.faults(|faults| faults.refused.clear());
    }
    cluster.put("services", "default/new", service("10.254.0.9"));
    told.until("what comes after", |told| told.services().len() == 2).await;
}

#[tokio::test]
async fn a_token_that_rotates_is_read_again() {
    let cluster = small().await;
    cluster.faults(|faults| faults.token = Some("first".into()));
    let mut told = Told::by(&cluster).await;
    told.synced().await;
    cluster.faults(|faults| faults.token = Some("second".into()));
    std::fs::write(&told.kubeconfig, kubeconfig(&cluster, "second")).expect("it can be written");
    cluster.cut();
    cluster.put("services", "default/new", service("10.254.0.9"));
    told.until("the change", |told| told.services().len() == 2).await;
    assert_eq!(told.deletions, 0);
}

/// The file `token`, anew.
fn write(at: &Path, token: &str) {
    std::fs::write(at.join("token"), token).expect("it can be written");
}

/// As the kubelet does with a service account's: the file is another one, the server the same.
#[tokio::test]
async fn a_token_file_that_changes_is_read_again() {
    let cluster = small().await;
    cluster.faults(|faults| faults.token = Some("first".into()));
    let mut told = Told::by_user(&cluster, |at| {
        write(at, "first");
        json!({"tokenFile": at.join("token")})
    })
    .await;
    told.synced().await;
    let at = told.kubeconfig.parent().expect("a directory").to_owned();
    for round in 0..2 {
        let token = format!("token-{round}");
        write(&at, &token);
        // What is open stays so for a while; who asks anew needs the new one.
        cluster.faults(|faults| faults.token = Some(token));
        cluster.put("services", "default/new", service(&format!("10.254.1.{round}")));
        told.until("a change while the old one is connected", |told| {
            told.cluster_ip("default/new") == Some(format!("10.254.1.{round}"))
        })
        .await;
        cluster.cut();
        cluster.put("services", "default/new", service(&format!("10.254.2.{round}")));
        told.until("a change that only the new one may see", |told| {
            told.cluster_ip("default/new") == Some(format!("10.254.2.{round}"))
        })
        .await;
    }
    assert_eq!(told.deletions, 0);
}

/// A plugin that says what the file `token` says, good for `lasts` seconds.
fn plugin(at: &Path, lasts: u32) -> Value {
    let (script, token) = (at.join("plugin"), at.join("token"));
    let text = format!(
        "expires=$(date -u -d '+{lasts} seconds' +%FT%TZ)\n\
         printf '{{\"apiVersion\":\"client.authentication.k8s.io/v1\",\"kind\":\"ExecCredential\",'\n\
         printf '\"status\":{{\"token\":\"%s\",\"expirationTimestamp\":\"%s\"}}}}' \
         \"$(cat {})\" \"$expires\"\n",
        token.display()
    );
    std::fs::write(&script, text).expect("it can be written");
    json!({"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "/bin/sh",
        "args": [script], "interactiveMode": "Never"}})
}

#[tokio::test]
async fn a_plugin_is_asked_again_when_its_credentials_are_about_to_end() {
    // A minute before they end they are asked for anew.
    for (lasts, lists) in [(30, 1), (3600, 2)] {
        let cluster = small().await;
        cluster.faults(|faults| faults.token = Some("first".into()));
        let mut told = Told::by_user(&cluster, |at| {
            write(at, "first");
            plugin(at, lasts)
        })
        .await;
        told.synced().await;
        let at = told.kubeconfig.parent().expect("a directory").to_owned();
        write(&at, "second");
        cluster.faults(|faults| faults.token = Some("second".into()));
        cluster.cut();
        cluster.put("services", "default/new", service("10.254.0.9"));
        told.until("the change", |told| told.services().len() == 2).await;
        // Who is refused begins with a list; else the watch goes on where it stood.
        assert_eq!(cluster.lists("services"), lists, "{lasts}");
        assert_eq!(told.deletions, 0);
    }
}

#[tokio::test]
async fn nothing_is_synced_that_may_not_be_read() {
    let cluster = small().await;
    cluster.faults(|faults| {
        faults.refused.insert("endpointslices", 403);
    });
    let mut told = Told::by(&cluster).await;
    told.listen(Duration::from_secs(1)).await;
    assert!(!told.synced.contains(&Kind::EndpointSlice) && told.synced.len() == KINDS.len() - 1);
    cluster.faults(|faults| faults.refused.clear());
    told.synced().await;
}

#[tokio::test]
async fn service_cidrs_can_be_done_without() {
    for code in [403, 404] {
        let cluster = small().await;
        cluster.faults(|faults| {
            faults.refused.insert("servicecidrs", code);
        });
        let mut told = Told::by(&cluster).await;
        told.synced().await;
        assert_eq!(told.objects.len(), 3, "{code}");
    }
}

#[tokio::test]
async fn a_bad_object_costs_only_itself() {
    let cluster = small().await;
    cluster.put("services", "default/bad", service("10.254.0.300"));
    let mut told = Told::by(&cluster).await;
    told.synced().await;
    let bad = ObjectRef::new(Kind::Service, "default/bad");
    assert_eq!(told.services(), ["default/web"]);
    assert!(told.problems[&bad][0].reason.contains("10.254.0.300"), "{:?}", told.problems);
    cluster.put("services", "default/bad", service("10.254.0.30"));
    told.until("it is mended", |told| told.services().len() == 2).await;
    assert!(told.problems.is_empty());
    cluster.put("services", "default/bad", service("x"));
    told.until("it is bad again", |told| told.problems.contains_key(&bad)).await;
    assert_eq!(told.services(), ["default/web"]);
    cluster.delete("services", "default/bad");
    told.until("its problem goes with it", |told| told.problems.is_empty()).await;
}

#[tokio::test]
async fn a_server_that_is_away_is_waited_for() {
    let cluster = small().await;
    cluster.stop().await;
    let mut told = Told::by(&cluster).await;
    told.listen(Duration::from_millis(500)).await;
    assert_eq!(told.synced, [Kind::Endpoints, Kind::Pod]);
    cluster.start_again().await;
    told.synced().await;
    assert_eq!(told.objects.len(), 4);
}

#[tokio::test]
async fn what_cannot_be_mended_by_waiting_is_an_error() {
    let missing = Access::new(Some("/nonexistent/kubeconfig".into()), None);
    let error = kubernetes::open(missing, "node-a").await.err().expect("no file").to_string();
    assert!(error.contains("/nonexistent/kubeconfig") && error.contains("No such file"), "{error}");
    let wrong = Access::new(None, Some("ftp://10.0.0.1".into()));
    let error = kubernetes::open(wrong, "node-a").await.err().expect("no URL").to_string();
    assert!(error.contains("--master ftp://10.0.0.1"), "{error}");
}
