//! How the API server is reached, and as whom.
//!
//! In: `--kubeconfig`, `--master`, files that they name. Out: a client.
//! Never: an address that vipd itself must program first.

use super::pace::{Pace, Paced};
use super::protobuf::Protobuf;
use super::proxy::{self, Environment};
use super::renewed::Renewed;
use super::requests::{Counted, Requests};
use super::token::TokenFile;
use hyper::http::uri::{Authority, PathAndQuery};
use hyper::{Request, Uri};
use kube::client::{AuthError, ClientBuilder};
use kube::config::{
    AuthInfo, Cluster, Context, KubeConfigOptions, Kubeconfig, KubeconfigError, NamedAuthInfo,
    NamedCluster, NamedContext,
};
use kube::{Client, Config};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tower::layer::layer_fn;
use tower::timeout::TimeoutLayer;
use tower::util::MapRequestLayer;
use tracing::warn;

/// Where a pod finds who it is.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// For a connection to the server, TLS included.
const CONNECT: Duration = Duration::from_secs(10);

/// For an exec plugin, before the log tells that it is waited for.
const SLOW: Duration = Duration::from_secs(5);

/// Without a byte from the server for this long a connection is dead: a watch ends before, after
/// [`WATCH`](super::follow::WATCH) seconds.
const SILENCE: Duration = Duration::from_secs(75);

/// What says where the server is and who asks.
#[derive(Debug, Clone)]
pub struct Access {
    /// Read again when the server refuses, or cannot be reached: certificates and tokens rotate.
    pub kubeconfig: Option<PathBuf>,
    /// URL of the server; stands before the kubeconfig's. Without one it is asked as the pod's
    /// service account.
    pub master: Option<String>,
    /// Counts what is asked.
    pub requests: Requests,
}

/// Why no client could be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("kubeconfig {path}: {}; check the file, and the files that it names", chain(.source.as_ref()))]
    Kubeconfig { path: PathBuf, source: Box<KubeconfigError> },
    #[error("the pod's service account ({SERVICE_ACCOUNT}): {}; check that its token is mounted (automountServiceAccountToken)", chain(.0.as_ref()))]
    ServiceAccount(#[source] Box<KubeconfigError>),
    #[error("--master {url}: {reason}; it is a URL such as https://10.0.0.1:6443")]
    Master { url: String, reason: String },
    #[error("kubeconfig {path}: server {url}: {reason}; it is a URL such as https://10.0.0.1:6443")]
    Server { path: PathBuf, url: String, reason: String },
    #[error(
        "token file {path}: {reason}; check tokenFile in the kubeconfig, or that the service account's token is mounted"
    )]
    Token { path: PathBuf, reason: String },
    #[error("cannot ask the API server: {}; check certificates and tokens", chain(.0.as_ref()))]
    Client(#[source] Box<kube::Error>),
}

impl Access {
    pub fn new(kubeconfig: Option<PathBuf>, master: Option<String>) -> Self {
        Self { kubeconfig, master, requests: Requests::default() }
    }

    /// A client with what the files say now. An exec plugin may take its time, and blocks: not on the
    /// thread that asks.
    pub(super) async fn client(&self, pace: &Pace) -> Result<Client, Error> {
        let (access, pace, runtime) = (self.clone(), pace.clone(), Handle::current());
        let mut made = spawn_blocking(move || runtime.block_on(access.make_client(pace)));
        let made = match timeout(SLOW, &mut made).await {
            Ok(made) => made,
            Err(_) => {
                warn!(
                    "the kubeconfig's exec plugin has not ended after {SLOW:?}; it is waited for, \
                     and what is programmed stays"
                );
                made.await
            }
        };
        match made {
            Ok(made) => made,
            // The runtime ends, and nobody waits any more.
            Err(_) => std::future::pending().await,
        }
    }

    /// As [`Access::client`], for requests of which none is a watch.
    pub async fn asking_client(&self) -> Result<Client, Error> {
        self.client(&Pace::new()).await
    }

    /// Fails for what waiting cannot mend. An exec plugin is not asked: what it says now it may not say
    /// later, and it may take its time.
    pub(super) async fn check(&self) -> Result<(), Error> {
        let (config, token) = self.config().await?;
        if self.kubeconfig.is_none() && token.is_none() {
            warn!(
                "there is no token in {SERVICE_ACCOUNT}: the API server is asked anonymously; pass \
                 --kubeconfig, or mount the service account's token (automountServiceAccountToken)"
            );
        }
        match config.auth_info.exec {
            Some(_) => Ok(()),
            None => self.connect(config, token, Pace::new()).map(drop),
        }
    }

    async fn make_client(&self, pace: Pace) -> Result<Client, Error> {
        let (config, token) = self.config().await?;
        self.connect(config, token, pace)
    }

    /// What the files say, and the token of one.
    async fn config(&self) -> Result<(Config, Option<TokenFile>), Error> {
        let mut config = match &self.kubeconfig {
            Some(path) => from_kubeconfig(path).await?,
            None => of_service_account().await?,
        };
        if let Some(url) = &self.master {
            let wrong = |reason| Error::Master { url: url.clone(), reason };
            config.cluster_url = server(url, speaks_tls(&config)).map_err(wrong)?;
        }
        let environment = || Environment::of_this_process().proxy_for(&config.cluster_url);
        config.proxy_url = config.proxy_url.clone().or_else(environment);
        let said = &mut config.auth_info;
        // Stands before a token beside it, as in client-go.
        let token = said.token_file.take().filter(|_| said.username.is_none());
        let open = |path: String| {
            let path = PathBuf::from(path);
            TokenFile::open(path.clone()).map_err(|reason| Error::Token { path, reason })
        };
        let token = token.map(open).transpose()?;
        if token.is_some() {
            said.token = None;
        }
        Ok((config, token))
    }

    fn connect(
        &self,
        mut config: Config,
        token: Option<TokenFile>,
        pace: Pace,
    ) -> Result<Client, Error> {
        config.connect_timeout = Some(CONNECT);
        config.read_timeout = Some(SILENCE);
        config.write_timeout = Some(SILENCE);
        config.reset_reader_on_write = true;
        // The follower waits and asks again itself.
        config.default_retry = false;
        let host: Arc<str> = config.cluster_url.authority().map_or("", Authority::as_str).into();
        let namespace = config.default_namespace.clone();
        let client = Renewed::of(config).map_err(|error| Error::Client(Box::new(error)))?;
        let client = ClientBuilder::new(client, namespace);
        let signed = MapRequestLayer::new(move |request| match &token {
            Some(token) => token.sign(request),
            None => request,
        });
        let of = (self.requests.clone(), host);
        let counted = layer_fn(|inner| Counted::new(inner, of.clone()));
        let paced = layer_fn(|inner| Paced::new(inner, pace.clone(), of.clone()));
        // A plugin that hangs while it is asked for a new token would hold the request for ever.
        let client = client.with_layer(&signed).with_layer(&TimeoutLayer::new(SILENCE));
        let client = client.with_layer(&counted).with_layer(&paced);
        let client = client.with_layer(&layer_fn(Protobuf::new));
        Ok(client.with_layer(&MapRequestLayer::new(of_now)).build())
    }
}

/// A list by stream is asked of the server's present state: what its cache happens to hold (which is
/// what the client asks for, `resourceVersion=0`) may lie before what another server has told already,
/// and newer Services would seem to be gone. client-go asks so too.
fn of_now<B>(mut request: Request<B>) -> Request<B> {
    let asked = request.uri().path_and_query().map_or("", PathAndQuery::as_str);
    if let Some((path, query)) = asked.split_once('?')
        && query.contains("sendInitialEvents=true")
    {
        let rest: Vec<&str> = query.split('&').filter(|one| *one != "resourceVersion=0").collect();
        let mut parts = request.uri().clone().into_parts();
        parts.path_and_query = format!("{path}?{}", rest.join("&")).parse().ok();
        if let Ok(uri) = Uri::from_parts(parts) {
            *request.uri_mut() = uri;
        }
    }
    request
}

async fn from_kubeconfig(path: &Path) -> Result<Config, Error> {
    let failed = |source| Error::Kubeconfig { path: path.into(), source: Box::new(source) };
    let mut file = Kubeconfig::read_from(path).map_err(failed)?;
    let (mut proxy, mut host) = (None, None);
    if let Some(cluster) = spoken_of(&mut file) {
        let url = cluster.proxy_url.as_deref().filter(|url| !url.is_empty());
        proxy = url.and_then(proxy::url);
        host = cluster.server.clone().filter(|url| !url.is_empty() && !url.contains("://"));
        if let Some(host) = &host {
            // The client knows URLs only; which scheme it is follows from what it makes of the file.
            cluster.server = Some(format!("https://{host}"));
        }
    }
    let current = KubeConfigOptions::default();
    let mut config = Config::from_custom_kubeconfig(file, &current).await.map_err(failed)?;
    config.proxy_url = proxy;
    if let Some(url) = host {
        let tls = speaks_tls(&config);
        let wrong = |reason| Error::Server { path: path.into(), url: url.clone(), reason };
        config.cluster_url = server(&url, tls).map_err(wrong)?;
    }
    Ok(config)
}

/// The cluster of the current context.
fn spoken_of(file: &mut Kubeconfig) -> Option<&mut Cluster> {
    let current = file.current_context.as_ref()?;
    let context = file.contexts.iter().find(|context| context.name == *current)?;
    let cluster = &context.context.as_ref()?.cluster;
    file.clusters.iter_mut().find(|named| named.name == *cluster)?.cluster.as_mut()
}

/// As a kubeconfig that names the pod's own files would say it. The server's address is for the caller to set.
async fn of_service_account() -> Result<Config, Error> {
    let failed = |source| Error::ServiceAccount(Box::new(source));
    let file = |name: &str| Some(Path::new(SERVICE_ACCOUNT).join(name)).filter(|p| p.exists());
    let text = |path: PathBuf| path.to_string_lossy().into_owned();
    let certificate = file("ca.crt");
    let cluster = Cluster {
        server: Some("https://localhost".to_owned()),
        certificate_authority: certificate.clone().map(text),
        ..Cluster::default()
    };
    let user = AuthInfo { token_file: file("token").map(text), ..AuthInfo::default() };
    let name = || "pod".to_owned();
    let context = Context { cluster: name(), user: Some(name()), ..Context::default() };
    let said = Kubeconfig {
        clusters: vec![NamedCluster {
            name: name(),
            cluster: Some(cluster),
            ..NamedCluster::default()
        }],
        auth_infos: vec![NamedAuthInfo {
            name: name(),
            auth_info: Some(user),
            ..NamedAuthInfo::default()
        }],
        contexts: vec![NamedContext {
            name: name(),
            context: Some(context),
            ..NamedContext::default()
        }],
        current_context: Some(name()),
        ..Kubeconfig::default()
    };
    let current = KubeConfigOptions::default();
    let mut config = Config::from_custom_kubeconfig(said, &current).await.map_err(failed)?;
    // Read again now and then: the authority's certificate rotates too.
    config.root_cert_file = certificate;
    config.proxy_url = None;
    Ok(config)
}

/// Whether something is said that only TLS has a use for; client-go's `DefaultServerUrlFor` (0.37) asks
/// the same.
fn speaks_tls(config: &Config) -> bool {
    let user = &config.auth_info;
    config.root_cert.is_some()
        || config.root_cert_file.is_some()
        || config.accept_invalid_certs
        || user.client_certificate.is_some()
        || user.client_certificate_data.is_some()
}

/// A URL, or HOST:PORT, which is asked by TLS if `tls`; as client-go reads it. Else why not.
fn server(url: &str, tls: bool) -> Result<Uri, String> {
    let whole = match (url.contains("://"), tls) {
        (true, _) => url.to_owned(),
        (false, true) => format!("https://{url}"),
        (false, false) => format!("http://{url}"),
    };
    let parsed: Uri = whole.parse().map_err(|error| format!("{error}"))?;
    match parsed.scheme_str() {
        Some("https" | "http") if url.contains("://") || parsed.path() == "/" => Ok(parsed),
        Some("https" | "http") => Err("a path needs https:// or http:// before it".into()),
        _ => Err("it begins with neither https:// nor http://".into()),
    }
}

/// What went wrong, down to its cause; each thing once. What an exec plugin printed, or a line of a
/// kubeconfig, may hold a token: of these only the kind is told.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut next = Some(error);
    while let Some(error) = next {
        match error.downcast_ref::<AuthError>() {
            Some(AuthError::AuthExecRun { .. }) => return "the exec plugin failed".into(),
            Some(AuthError::AuthExecParse(_)) => {
                return "the exec plugin printed no ExecCredential".into();
            }
            _ => {}
        }
        if let Some(KubeconfigError::Parse(error)) = error.downcast_ref::<KubeconfigError>() {
            return error.without_snippet().to_string();
        }
        next = error.source();
    }
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_by_stream_is_of_now_and_a_watch_goes_on_where_it_stood() {
        let after = |uri: &str| of_now(Request::get(uri).body(()).unwrap()).uri().to_string();
        assert_eq!(
            after("/api/v1/services?watch=true&resourceVersion=0&sendInitialEvents=true"),
            "/api/v1/services?watch=true&sendInitialEvents=true"
        );
        for same in ["/api/v1/services?watch=true&resourceVersion=7", "/api/v1/services?limit=500"]
        {
            assert_eq!(after(same), same);
        }
    }

    #[test]
    fn a_master_is_a_url() {
        for good in ["https://10.0.0.1:6443", "http://[::1]:8080", "https://api.example:6443/x"] {
            for tls in [false, true] {
                let whole = server(good, tls).expect(good).to_string();
                assert_eq!(whole.trim_end_matches('/'), good, "{tls}");
            }
        }
        for (bad, part) in [("10.0.0.1/x", "a path"), ("ftp://x", "http://"), ("a b", "invalid")] {
            let error = server(bad, true).expect_err(bad);
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn a_master_without_a_scheme_is_a_host() {
        for host in ["10.0.0.1:6443", "[::1]:8080", "localhost:8080", "api.example"] {
            assert_eq!(server(host, true).expect(host), *format!("https://{host}/"));
            assert_eq!(server(host, false).expect(host), *format!("http://{host}/"));
        }
    }

    #[tokio::test]
    async fn such_a_host_is_asked_by_tls_where_a_kubeconfig_speaks_of_it() {
        // A certificate in form, base64.
        const PEM: &str =
            "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0tCkFBQUEKLS0tLS1FTkQgQ0VSVElGSUNBVEUtLS0tLQo=";
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("kubeconfig");
        for (cluster, user, whole) in [
            ("", "token: t", "http://10.0.0.1:6443/"),
            (", insecure-skip-tls-verify: true", "token: t", "https://10.0.0.1:6443/"),
            (&format!(", certificate-authority-data: {PEM}"), "token: t", "https://10.0.0.1:6443/"),
            ("", &format!("client-certificate-data: {PEM}"), "https://10.0.0.1:6443/"),
        ] {
            let text = format!(
                "apiVersion: v1\nkind: Config\ncurrent-context: a\n\
                 contexts: [{{name: a, context: {{cluster: a, user: a}}}}]\n\
                 clusters: [{{name: a, cluster: {{server: 'https://192.0.2.1:1'{cluster}}}}}]\n\
                 users: [{{name: a, user: {{{user}}}}}]\n"
            );
            std::fs::write(&path, &text).expect("a file");
            let access = Access::new(Some(path.clone()), Some("10.0.0.1:6443".into()));
            let (config, _) =
                access.config().await.unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(config.cluster_url, whole, "{text}");
            // The same host, said by the file itself.
            let text = text.replace("https://192.0.2.1:1", "10.0.0.1:6443");
            std::fs::write(&path, &text).expect("a file");
            let access = Access::new(Some(path.clone()), None);
            let (config, _) =
                access.config().await.unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(config.cluster_url, whole, "{text}");
            std::fs::write(&path, text.replace(":6443", ":6443/x")).expect("a file");
            let error = access.config().await.expect_err("a path").to_string();
            assert!(error.contains("server 10.0.0.1:6443/x: a path needs"), "{error}");
        }
    }
}
