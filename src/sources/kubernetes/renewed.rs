//! A client certificate in files, which is renewed while it is in use.
//!
//! In: the files that a kubeconfig names. Out: a service whose next connection shows what they say now.
//! Never: an end of what is under way: a watch goes on, and what follows it has the new connection.
//! client-go closes its connections instead, within five minutes.

use hyper::{Request, Response};
use kube::client::{Body, ClientBuilder};
use kube::config::AuthInfo;
use kube::{Client, Config, Error};
use std::fs;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use tower::Service;
use xxhash_rust::xxh3::Xxh3;

/// The client of a configuration, anew when its certificate is another one. Copies share it.
#[derive(Clone)]
pub(super) struct Renewed {
    config: Arc<Config>,
    files: Arc<[PathBuf]>,
    shown: Arc<Mutex<Shown>>,
}

struct Shown {
    /// Of the files, when the client was made.
    digest: Option<u64>,
    client: Client,
}

impl Renewed {
    pub fn of(config: Config) -> Result<Self, Error> {
        let files = files(&config.auth_info);
        // Before the client reads them: what changes in between is seen as a change.
        let digest = digest(&files);
        let client = ClientBuilder::try_from(config.clone())?.build();
        let shown = Arc::new(Mutex::new(Shown { digest, client }));
        Ok(Self { config: Arc::new(config), files: files.into(), shown })
    }

    fn client(&self) -> Client {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        let digest = digest(&self.files);
        if digest.is_some() && digest != shown.digest {
            match ClientBuilder::try_from(Config::clone(&self.config)) {
                Ok(builder) => {
                    tracing::info!(
                        "the client certificate is another one: it is shown from now on"
                    );
                    *shown = Shown { digest, client: builder.build() };
                }
                // One of the two is written before the other.
                Err(error) => {
                    tracing::debug!(%error, "the changed client certificate cannot be used yet");
                }
            }
        }
        shown.client.clone()
    }
}

impl Service<Request<Body>> for Renewed {
    type Response = Response<Body>;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let client = self.client();
        Box::pin(async move { client.send(request).await })
    }
}

/// Those that count: data in the kubeconfig itself stand before them, and a plugin gives its own.
fn files(user: &AuthInfo) -> Vec<PathBuf> {
    let of = |data: bool, file: &Option<String>| {
        file.as_ref().filter(|_| !data && user.exec.is_none()).map(PathBuf::from)
    };
    let certificate = of(user.client_certificate_data.is_some(), &user.client_certificate);
    let key = of(user.client_key_data.is_some(), &user.client_key);
    certificate.into_iter().chain(key).collect()
}

/// `None`: there are none, or they cannot be read.
fn digest(files: &[PathBuf]) -> Option<u64> {
    let mut digest = Xxh3::new();
    for file in files {
        let text = fs::read(file).ok()?;
        digest.update(&text.len().to_le_bytes());
        digest.update(&text);
    }
    (!files.is_empty()).then(|| digest.digest())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    #[test]
    fn a_change_of_either_file_is_seen_and_their_end_is_none() {
        let directory = TempDir::new().expect("a temporary directory");
        let [certificate, key] = ["crt", "key"].map(|name| directory.path().join(name));
        let text = |path: &PathBuf| Some(path.display().to_string());
        let user = AuthInfo {
            client_certificate: text(&certificate),
            client_key: text(&key),
            ..AuthInfo::default()
        };
        let files = files(&user);
        assert_eq!(files, [certificate.clone(), key.clone()]);
        assert_eq!(digest(&files), None, "they are not there yet");
        let mut seen = Vec::new();
        for (path, said) in [(&certificate, "ab"), (&key, "c"), (&certificate, "a"), (&key, "bc")] {
            fs::write(path, said).expect("it is ours");
            let now = digest(&files);
            assert!(!seen.contains(&now), "{said}");
            assert_eq!(now, digest(&files));
            seen.push(now);
        }
        fs::remove_file(&key).expect("it is ours");
        assert_eq!(digest(&files), None);
        assert_eq!(digest(&[]), None);
    }

    #[test]
    fn data_in_the_kubeconfig_stand_before_files() {
        let user = AuthInfo {
            client_certificate: Some("/crt".into()),
            client_certificate_data: Some("PEM".into()),
            client_key: Some("/key".into()),
            ..AuthInfo::default()
        };
        assert_eq!(files(&user), [PathBuf::from("/key")]);
    }
}
