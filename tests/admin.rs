//! The daemon's answers over a real Unix socket: who may ask, what is answered, what is refused.

use arc_swap::ArcSwap;
use imbl::OrdMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use vipd::admin::{self, Client, ClientError, Error, TraceQuery};
use vipd::metrics::Metrics;
use vipd::model::{
    Annotations, AppProtocol, ClusterIps, Created, Known, Protocol, Service, ServiceKey,
    ServicePort, ServiceType, Shown, TargetPort, TrafficPolicy,
};
use vipd::planner::{DetectLocal, Planner, Policy};
use vipd::sync::{Snapshot, SyncStatus};

fn service(number: u16) -> Service {
    let [high, low] = number.to_be_bytes();
    Service {
        key: ServiceKey::new("default", &format!("s{number}")),
        created: Created::new(Some(1_700_000_000)),
        service_type: ServiceType::ClusterIp,
        cluster_ips: ClusterIps { v4: Some([10, 254, high, low].into()), v6: None },
        ports: [ServicePort {
            name: "".into(),
            protocol: Protocol::Tcp,
            port: 80,
            node_port: None,
            app_protocol: AppProtocol::default(),
            target_port: TargetPort::Unset,
        }]
        .into(),
        uncommon: None,
        internal_policy: TrafficPolicy::Cluster,
        external_policy: TrafficPolicy::Cluster,
        affinity: None,
        publish_not_ready_addresses: false,
        annotations: Annotations::default(),
        shown: Shown::default(),
    }
}

/// Services s1 to s`count`, none with an endpoint.
fn snapshot(count: u16) -> Snapshot {
    let known: OrdMap<ServiceKey, Arc<Known>> = (1..=count)
        .map(|number| {
            let service = Arc::new(service(number));
            (service.key.clone(), Arc::new(Known { service: Some(service), ..Known::default() }))
        })
        .collect();
    let policy = Policy {
        masquerade_all: false,
        detect: DetectLocal::BridgeInterface("cni0".into()),
        service_ranges: Vec::new(),
        drop_invalid: true,
        ..Policy::default()
    };
    let mut planner = Planner::new(policy, "node-a".into());
    planner.replan(known.keys().cloned().collect::<Vec<_>>(), &known);
    Snapshot {
        known,
        plan: planner.plan().clone(),
        problems: OrdMap::new(),
        status: SyncStatus { synced: true, ..SyncStatus::default() },
    }
}

/// A server in a directory of its own.
struct Daemon {
    path: PathBuf,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
    _directory: TempDir,
}

impl Daemon {
    fn start(snapshot: Snapshot) -> Self {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("run/admin.sock");
        let (task, shutdown) = serve(&path, snapshot);
        Self { path, shutdown, task, _directory: directory }
    }

    fn client(&self) -> Client {
        Client::new(&self.path)
    }

    /// Status line and body of an answer to these bytes.
    async fn raw(&self, request: &str) -> (String, String) {
        let mut stream = UnixStream::connect(&self.path).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        (head.to_owned(), body.to_owned())
    }

    /// The command `vipd`, asking this daemon.
    async fn vipd(&self, arguments: &str) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vipd"));
        command.args(arguments.split_whitespace()).arg("--admin-socket").arg(&self.path);
        tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
    }
}

fn serve(path: &Path, snapshot: Snapshot) -> (JoinHandle<()>, CancellationToken) {
    let listener = admin::bind(path).unwrap();
    let shutdown = CancellationToken::new();
    let published = Arc::new(ArcSwap::from_pointee(snapshot));
    let serving = admin::serve(listener, published, Metrics::default(), shutdown.clone());
    (tokio::spawn(serving), shutdown)
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn only_the_owner_can_ask() {
    let daemon = Daemon::start(snapshot(1));
    assert_eq!(mode(&daemon.path), 0o600);
    assert_eq!(mode(daemon.path.parent().unwrap()), 0o700);
    assert_eq!(fs::read_dir(daemon.path.parent().unwrap()).unwrap().count(), 1);
}

#[tokio::test]
async fn long_lists_arrive_whole_and_in_order() {
    let daemon = Daemon::start(snapshot(1000));
    let list = daemon.client().services().await.unwrap();
    assert!(list.synced);
    let names: Vec<_> = list.value.items.iter().map(|item| item.name.clone()).collect();
    assert_eq!(names.len(), 1000);
    assert!(names.is_sorted());
    assert_eq!(daemon.client().endpoints().await.unwrap().value.items.len(), 1000);
    assert_eq!(daemon.client().plan().await.unwrap().value.services.len(), 1000);
}

#[tokio::test]
async fn an_empty_node_answers_empty_lists() {
    let daemon = Daemon::start(snapshot(0));
    assert_eq!(daemon.client().services().await.unwrap().value.items, []);
    assert_eq!(daemon.client().plan().await.unwrap().value.services, []);
    assert_eq!(daemon.client().rejected().await.unwrap().value.items, []);
}

#[tokio::test]
async fn a_namespace_narrows_lists() {
    let daemon = Daemon::start(snapshot(3));
    let get = |namespace| format!("GET /v1/services?namespace={namespace} HTTP/1.0\r\n\r\n");
    let (_, other) = daemon.raw(&get("other")).await;
    assert_eq!(other, r#"{"kind":"ServiceList","items":[]}"#);
    let (_, all) = daemon.raw(&get("default")).await;
    assert_eq!(all.matches("clusterIPs").count(), 3, "{all}");
}

#[tokio::test]
async fn one_service_or_none() {
    let daemon = Daemon::start(snapshot(2));
    let described = daemon.client().service(&ServiceKey::new("default", "s2")).await.unwrap();
    assert_eq!(described.value.ports[0].frontends[0].action, "reject");
    match daemon.client().service(&ServiceKey::new("default", "s3")).await {
        Err(ClientError::NotFound(text)) => assert_eq!(text, "service default/s3 not found"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn traces_and_what_they_lack() {
    let daemon = Daemon::start(snapshot(1));
    let query = |to: &str| TraceQuery {
        source: "10.180.0.1".parse().unwrap(),
        destination: to.parse().unwrap(),
        port: 80,
        protocol: Protocol::Tcp,
        in_interface: None,
    };
    assert_eq!(daemon.client().trace(&query("10.254.0.1")).await.unwrap().value.verdict, "reject");
    match daemon.client().trace(&query("fd00::1")).await {
        Err(ClientError::BadRequest(text)) => assert!(text.contains("families"), "{text}"),
        other => panic!("{other:?}"),
    }
    let (head, body) = daemon.raw("GET /v1/trace?source=x HTTP/1.0\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.0 400"), "{head}");
    assert!(body.contains("expected an IP address"), "{body}");
}

#[tokio::test]
async fn metrics_are_text_in_the_exposition_format() {
    let daemon = Daemon::start(snapshot(3));
    let (head, body) = daemon.raw("GET /metrics HTTP/1.0\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.0 200"), "{head}");
    assert!(head.contains("content-type: text/plain; version=0.0.4; charset=utf-8"), "{head}");
    assert!(body.contains("# TYPE vipd_services gauge\nvipd_services 3\n"), "{body}");
    let asked = daemon.client().metrics().await.unwrap();
    assert!(asked.synced);
    // What the process uses is another number each time.
    let still = |text: &str| -> Vec<String> {
        let lines = text.lines().filter(|line| !line.starts_with("process_"));
        lines.map(str::to_owned).collect()
    };
    assert!(body.contains("\nprocess_open_fds "), "{body}");
    assert_eq!(still(&asked.value), still(&body));
    let printed = daemon.vipd("metrics").await;
    assert_eq!(printed.status.code(), Some(0));
    assert_eq!(still(&String::from_utf8(printed.stdout).unwrap()), still(&body));
    let (head, _) = daemon.raw("POST /metrics HTTP/1.0\r\ncontent-length: 0\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.0 405"), "{head}");
}

#[tokio::test]
async fn nothing_else_is_answered() {
    let daemon = Daemon::start(snapshot(1));
    for path in ["/", "/v1", "/v1/services/default", "/v1/services/a/b/c", "/v2/services"] {
        let (head, body) = daemon.raw(&format!("GET {path} HTTP/1.0\r\n\r\n")).await;
        assert!(head.starts_with("HTTP/1.0 404"), "{path}: {head}");
        assert!(body.starts_with(r#"{"error":"#), "{path}: {body}");
    }
    for method in ["POST", "PUT", "DELETE", "PATCH"] {
        let request =
            format!("{method} /v1/services HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n");
        let (head, _) = daemon.raw(&request).await;
        assert!(head.starts_with("HTTP/1.1 405"), "{method}: {head}");
        assert!(head.contains("allow: GET"), "{method}: {head}");
    }
    let long = format!("GET /v1/services?{} HTTP/1.1\r\nhost: x\r\n\r\n", "x".repeat(100_000));
    let mut stream = UnixStream::connect(&daemon.path).await.unwrap();
    // The server may close before it has read all of it.
    let _ = stream.write_all(long.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    let answer = String::from_utf8_lossy(&answer);
    assert!(!answer.contains("200 OK"), "{answer}");
    assert!(daemon.client().status().await.is_ok());
}

#[tokio::test]
async fn idle_connections_do_not_shut_others_out() {
    let daemon = Daemon::start(snapshot(1));
    let mut idle = Vec::new();
    for _ in 0..40 {
        idle.push(UnixStream::connect(&daemon.path).await.unwrap());
    }
    let asked = tokio::time::timeout(Duration::from_secs(25), daemon.client().status()).await;
    assert!(asked.unwrap().is_ok());
}

#[tokio::test]
async fn the_file_goes_with_the_server_and_a_stale_one_is_replaced() {
    let daemon = Daemon::start(snapshot(1));
    daemon.shutdown.cancel();
    daemon.task.await.unwrap();
    assert!(!daemon.path.exists());
    // What a killed daemon leaves: a socket that nobody listens on.
    drop(std::os::unix::net::UnixListener::bind(&daemon.path).unwrap());
    assert!(fs::symlink_metadata(&daemon.path).unwrap().file_type().is_socket());
    let (_task, _shutdown) = serve(&daemon.path, snapshot(1));
    assert!(Client::new(&daemon.path).status().await.is_ok());
    assert_eq!(mode(&daemon.path), 0o600);
}

#[tokio::test]
async fn neither_a_live_socket_nor_a_file_is_replaced() {
    let daemon = Daemon::start(snapshot(1));
    assert!(matches!(admin::bind(&daemon.path), Err(Error::InUse { .. })));
    assert!(daemon.client().status().await.is_ok());
    let file = daemon.path.with_file_name("file");
    fs::write(&file, "precious").unwrap();
    assert!(matches!(admin::bind(&file), Err(Error::NotASocket { .. })));
    assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
}

#[tokio::test]
async fn without_a_server_the_client_says_what_to_do() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("admin.sock");
    let missing = Client::new(&path).status().await.unwrap_err();
    assert!(matches!(missing, ClientError::NoDaemon { .. }), "{missing:?}");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let stale = Client::new(&path).status().await.unwrap_err();
    assert!(stale.to_string().contains("is it running?"), "{stale}");
}

#[tokio::test]
async fn the_command_asks_the_daemon() {
    let daemon = Daemon::start(snapshot(2));
    let services = daemon.vipd("get services").await;
    let text = String::from_utf8(services.stdout).unwrap();
    assert_eq!(text.lines().count(), 3, "{text}");
    assert_eq!(daemon.vipd("describe service s1").await.status.code(), Some(0));
    assert_eq!(daemon.vipd("describe service s9").await.status.code(), Some(1));
    let plan = daemon.vipd("plan").await;
    let expected = admin::render::render_plan(&snapshot(2).plan);
    assert_eq!(String::from_utf8(plan.stdout).unwrap(), expected);
    let mixed = daemon.vipd("trace 10.180.0.1 [fd00::1]:80").await;
    assert_eq!(mixed.status.code(), Some(2));
}

#[tokio::test]
async fn a_daemon_that_has_not_read_everything_says_so() {
    let mut early = snapshot(0);
    early.status.synced = false;
    let daemon = Daemon::start(early);
    let services = daemon.vipd("get services -A").await;
    let text = String::from_utf8(services.stderr).unwrap();
    assert!(text.contains("not read everything yet"), "{text}");
}
