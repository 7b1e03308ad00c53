//! How the API server is reached, and as whom.
//!
//! In: `--kubeconfig`, `--master`, files that they name. Out: a client.
//! Never: an address that vipd itself must program first.

use super::pace::{Pace, Paced};
use hyper::Uri;
use kube::client::{AuthError, ClientBuilder};
use kube::config::{AuthInfo, KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::task::spawn_blocking;
use tower::layer::layer_fn;

/// Where a pod finds who it is.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// For a connection to the server, TLS included.
const CONNECT: Duration = Duration::from_secs(10);

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
    #[error("kubeconfig {path}: {}; check the file, and the files that it names", of_kubeconfig(.source))]
    Kubeconfig { path: PathBuf, source: Box<KubeconfigError> },
    #[error("--master {url}: {reason}; it is a URL such as https://10.0.0.1:6443")]
    Master { url: String, reason: String },
    #[error("cannot ask the API server: {}; check certificates and tokens", of_client(.0))]
    Client(#[source] Box<kube::Error>),
}

impl Access {
    /// A client with what the files say now. An exec plugin may take its time, and blocks: not on the
    /// thread that asks.
    pub(super) async fn client(&self, pace: &Pace) -> Result<Client, Error> {
        let (access, pace, runtime) = (self.clone(), pace.clone(), Handle::current());
        match spawn_blocking(move || runtime.block_on(access.make_client(pace))).await {
            Ok(made) => made,
            // The runtime ends, and nobody waits any more.
            Err(_) => std::future::pending().await,
        }
    }

    async fn make_client(&self, pace: Pace) -> Result<Client, Error> {
        let mut config = match &self.kubeconfig {
            Some(path) => from_kubeconfig(path).await?,
            None => of_service_account(),
        };
        if let Some(url) = &self.master {
            config.cluster_url = server(url)?;
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
    let current = KubeConfigOptions::default();
    Config::from_custom_kubeconfig(file, &current).await.map_err(failed)
}

fn of_service_account() -> Config {
    let file =
        |name: &str| Some(Path::new(SERVICE_ACCOUNT).join(name)).filter(|path| path.exists());
    let mut config = Config::new(Uri::default());
    config.root_cert_file = file("ca.crt");
    let token_file = file("token").map(|path| path.to_string_lossy().into_owned());
    config.auth_info = AuthInfo { token_file, ..AuthInfo::default() };
    config
}

fn server(url: &str) -> Result<Uri, Error> {
    let wrong = |reason: String| Error::Master { url: url.to_owned(), reason };
    let parsed: Uri = url.parse().map_err(|error| wrong(format!("{error}")))?;
    match parsed.scheme_str() {
        Some("https" | "http") => Ok(parsed),
        _ => Err(wrong("it begins with neither https:// nor http://".into())),
    }
}

fn of_kubeconfig(error: &KubeconfigError) -> String {
    chain(error)
}

fn of_client(error: &kube::Error) -> String {
    chain(error)
}

/// What went wrong, down to its cause; each thing once. What an exec plugin printed, or a line of a
/// kubeconfig, may hold a token: of these only the kind is told.
pub(super) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
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
