//! How the API server is reached, and as whom.
//!
//! In: `--kubeconfig`, `--master`, files that they name. Out: a client.
//! Never: an address that vipd itself must program first.

use super::pace::{Pace, Paced};
use hyper::Uri;
use kube::client::{AuthError, ClientBuilder};
use kube::config::{
    AuthInfo, Cluster, Context, KubeConfigOptions, Kubeconfig, KubeconfigError, NamedAuthInfo,
    NamedCluster, NamedContext,
};
use kube::{Client, Config};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tower::layer::layer_fn;
use tracing::warn;

/// Where a pod finds who it is.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// For a connection to the server, TLS included.
const CONNECT: Duration = Duration::from_secs(10);

/// For an exec plugin, before the log tells that it is waited for.
const SLOW: Duration = Duration::from_secs(5);

/// Without a byte from the server for this long a connection is dead: a watch ends after
/// [`WATCH`](super::follow::WATCH) seconds, and the server says something once a minute before.
const SILENCE: Duration = Duration::from_secs(75);

/// What says where the server is and who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access {
    /// Read again when the server refuses, or cannot be reached: certificates and tokens rotate.
    pub kubeconfig: Option<PathBuf>,
    /// URL of the server; stands before the kubeconfig's. Without one it is asked as the pod's
    /// service account.
    pub master: Option<String>,
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
    #[error("cannot ask the API server: {}; check certificates and tokens", chain(.0.as_ref()))]
    Client(#[source] Box<kube::Error>),
}

impl Access {
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

    async fn make_client(&self, pace: Pace) -> Result<Client, Error> {
        let master = self.master.as_deref().map(server).transpose()?;
        let mut config = match &self.kubeconfig {
            Some(path) => from_kubeconfig(path).await?,
            None => of_service_account(master.clone().unwrap_or_default()).await?,
        };
        if let Some(url) = master {
            config.cluster_url = url;
        }
        config.connect_timeout = Some(CONNECT);
        config.read_timeout = Some(SILENCE);
        config.write_timeout = Some(SILENCE);
        config.reset_reader_on_write = true;
        // The follower waits and asks again itself.
        config.default_retry = false;
        let client =
            ClientBuilder::try_from(config).map_err(|error| Error::Client(Box::new(error)))?;
        Ok(client.with_layer(&layer_fn(|inner| Paced::new(inner, pace.clone()))).build())
    }
}

async fn from_kubeconfig(path: &Path) -> Result<Config, Error> {
    let failed = |source| Error::Kubeconfig { path: path.into(), source: Box::new(source) };
    let file = Kubeconfig::read_from(path).map_err(failed)?;
    Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.map_err(failed)
}

/// As a kubeconfig that names the pod's own files would say it.
async fn of_service_account(master: Uri) -> Result<Config, Error> {
    let failed = |source| Error::ServiceAccount(Box::new(source));
    let file = |name: &str| Some(Path::new(SERVICE_ACCOUNT).join(name)).filter(|p| p.exists());
    let text = |path: PathBuf| path.to_string_lossy().into_owned();
    let certificate = file("ca.crt");
    let cluster = Cluster {
        server: Some(master.to_string()),
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
    Ok(config)
}

fn server(url: &str) -> Result<Uri, Error> {
    let wrong = |reason: String| Error::Master { url: url.to_owned(), reason };
    let parsed: Uri = url.parse().map_err(|error| wrong(format!("{error}")))?;
    match parsed.scheme_str() {
        Some("https" | "http") => Ok(parsed),
        _ => Err(wrong("it begins with neither https:// nor http://".into())),
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
    fn a_master_is_a_url() {
        for good in ["https://10.0.0.1:6443", "http://[::1]:8080", "https://api.example:6443/x"] {
            server(good).expect(good);
        }
        for (bad, part) in
            [("10.0.0.1:6443", "https://"), ("ftp://x", "http://"), ("a b", "invalid")]
        {
            let error = server(bad).expect_err(bad).to_string();
            assert!(error.contains(part) && error.contains(bad), "{error}");
        }
    }
}
