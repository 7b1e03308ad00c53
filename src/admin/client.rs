//! Asks a running daemon.

use super::ClientError;
use super::query::TraceQuery;
use super::route::METRICS;
use super::server::SYNCED;
use super::views::{
    DescribeView, EndpointsView, List, PlanView, ProblemView, ServiceView, StatusView, TraceView,
};
use crate::model::ServiceKey;
use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper::header::HOST;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::UnixStream;

/// Long enough for a plan of 100,000 services on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(60);

/// One daemon's socket; each question is a connection of its own.
#[derive(Debug, Clone)]
pub struct Client {
    path: PathBuf,
}

/// An answer, and whether the daemon had read everything when it gave it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answered<T> {
    pub value: T,
    pub synced: bool,
}

impl Client {
    pub fn new(path: &Path) -> Self {
        Self { path: path.into() }
    }

    pub async fn services(&self) -> Result<Answered<List<ServiceView>>, ClientError> {
        self.get("/v1/services").await
    }

    pub async fn endpoints(&self) -> Result<Answered<List<EndpointsView>>, ClientError> {
        self.get("/v1/endpoints").await
    }

    pub async fn rejected(&self) -> Result<Answered<List<ProblemView>>, ClientError> {
        self.get("/v1/rejected").await
    }

    pub async fn service(&self, key: &ServiceKey) -> Result<Answered<DescribeView>, ClientError> {
        self.get(&format!("/v1/services/{key}")).await
    }

    pub async fn trace(&self, query: &TraceQuery) -> Result<Answered<TraceView>, ClientError> {
        self.get(&format!("/v1/trace?{}", query.encode())).await
    }

    pub async fn plan(&self) -> Result<Answered<PlanView>, ClientError> {
        self.get("/v1/plan").await
    }

    pub async fn status(&self) -> Result<Answered<StatusView>, ClientError> {
        self.get("/v1/status").await
    }

    /// In the Prometheus text exposition format.
    pub async fn metrics(&self) -> Result<Answered<String>, ClientError> {
        let Answered { value, synced } = self.fetch(METRICS).await?;
        let value = String::from_utf8(value.into()).map_err(|error| self.failed(error))?;
        Ok(Answered { value, synced })
    }

    async fn get<T: DeserializeOwned>(&self, target: &str) -> Result<Answered<T>, ClientError> {
        let Answered { value, synced } = self.fetch(target).await?;
        let value = serde_json::from_slice(&value).map_err(|error| self.failed(error))?;
        Ok(Answered { value, synced })
    }

    async fn fetch(&self, target: &str) -> Result<Answered<Bytes>, ClientError> {
        match tokio::time::timeout(TIMEOUT, self.ask(target)).await {
            Ok(answered) => answered,
            Err(_) => Err(self.failed(format!("nothing for {} s", TIMEOUT.as_secs()))),
        }
    }

    async fn ask(&self, target: &str) -> Result<Answered<Bytes>, ClientError> {
        let stream = UnixStream::connect(&self.path).await.map_err(|error| self.refused(error))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| self.failed(error))?;
        let request = Request::get(target)
            .header(HOST, "vipd")
            .body(Empty::<Bytes>::new())
            .map_err(|error| self.failed(error))?;
        // The connection moves the bytes; it ends with the answer.
        let (answer, _) = tokio::join!(
            async {
                let answer = sender.send_request(request).await?;
                let (head, body) = answer.into_parts();
                let body = body.collect().await?.to_bytes();
                drop(sender);
                Ok::<_, hyper::Error>((head, body))
            },
            connection
        );
        let (head, body) = answer.map_err(|error| self.failed(error))?;
        match head.status {
            StatusCode::OK => {
                let synced = head.headers.get(SYNCED).is_none_or(|value| value != "false");
                Ok(Answered { value: body, synced })
            }
            StatusCode::NOT_FOUND => Err(ClientError::NotFound(error_text(&body))),
            StatusCode::BAD_REQUEST => Err(ClientError::BadRequest(error_text(&body))),
            other => Err(self.failed(format!("{other}: {}", error_text(&body)))),
        }
    }

    fn refused(&self, source: std::io::Error) -> ClientError {
        let path = self.path.clone();
        match source.kind() {
            ErrorKind::NotFound | ErrorKind::ConnectionRefused | ErrorKind::NotADirectory => {
                ClientError::NoDaemon { path }
            }
            ErrorKind::PermissionDenied => ClientError::Permission { path },
            _ => ClientError::Connect { path, source },
        }
    }

    fn failed(&self, reason: impl ToString) -> ClientError {
        ClientError::Answer { path: self.path.clone(), reason: reason.to_string() }
    }
}

fn error_text(body: &[u8]) -> String {
    let value: Option<serde_json::Value> = serde_json::from_slice(body).ok();
    let text = value.as_ref().and_then(|value| value.get("error")?.as_str());
    text.unwrap_or("no reason given").to_owned()
}
