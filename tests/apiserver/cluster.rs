//! A stand-in for an API server: lists, pages, watches, streaming lists, bookmarks, and what goes
//! wrong with them. Events are taken and kept. It speaks the protocol over a real socket, and nothing
//! else of an API server.

use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::header::AUTHORIZATION;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// What is wrong with a server.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    /// This status for every request about a resource.
    pub refused: HashMap<&'static str, u16>,
    /// Streaming lists are refused, as a server does that knows and does not want them.
    pub no_streaming: bool,
    /// They are taken for mere watches, as a server does that never heard of them.
    pub ignorant: bool,
    /// Services cannot be told apart by their cluster IPs, as before Kubernetes could do that.
    pub no_field_labels: bool,
    /// Watches end at once, and well, as with a proxy that does not know of them.
    pub no_watches: bool,
    /// The page of a list that begins here is refused.
    pub broken_page: Option<usize>,
    /// Only who bears this token is served.
    pub token: Option<String>,
}

/// One request, as far as tests ask.
#[derive(Debug, Clone)]
pub struct Asked {
    pub method: Method,
    pub resource: String,
    /// Of whose objects, if of one namespace's.
    pub namespace: Option<String>,
    pub query: HashMap<String, String>,
}

impl Asked {
    pub fn is(&self, name: &str, value: &str) -> bool {
        self.query.get(name).is_some_and(|given| given == value)
    }

    /// A list, in whichever way.
    pub fn is_list(&self) -> bool {
        !self.is("watch", "true") || self.is("sendInitialEvents", "true")
    }
}

#[derive(Default)]
struct State {
    revision: u64,
    /// Resource and key, with the object.
    objects: BTreeMap<(String, String), Value>,
    /// Revision, resource, event.
    log: Vec<(u64, String, String)>,
    /// Revisions up to this one are forgotten.
    compacted: u64,
    faults: Faults,
    asked: Vec<Asked>,
    events: BTreeMap<String, Value>,
}

pub struct Cluster {
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
    /// Counts up with each change, and with each cut.
    changed: watch::Sender<u64>,
    cut: watch::Sender<u64>,
    listening: Mutex<Option<AbortHandle>>,
}

const API_VERSIONS: [(&str, &str, &str); 4] = [
    ("services", "v1", "Service"),
    ("nodes", "v1", "Node"),
    ("endpointslices", "discovery.k8s.io/v1", "EndpointSlice"),
    ("servicecidrs", "networking.k8s.io/v1", "ServiceCIDR"),
];

impl Cluster {
    pub async fn start() -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port of the loopback");
        let address = listener.local_addr().expect("it is bound");
        let state = Arc::new(Mutex::new(State { revision: 100, ..State::default() }));
        let cluster = Arc::new(Self {
            address,
            state,
            changed: watch::channel(0).0,
            cut: watch::channel(0).0,
            listening: Mutex::default(),
        });
        cluster.listen(listener);
        cluster
    }

    fn listen(self: &Arc<Self>, listener: TcpListener) {
        let cluster = Arc::clone(self);
        let task = tokio::spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else { continue };
                let (cluster, mut cut) = (Arc::clone(&cluster), cluster.cut.subscribe());
                tokio::spawn(async move {
                    let answer = service_fn(move |request| {
                        let cluster = Arc::clone(&cluster);
                        async move { Ok::<_, Infallible>(cluster.answer(request).await) }
                    });
                    let serve =
                        http1::Builder::new().serve_connection(TokioIo::new(stream), answer);
                    tokio::select! {
                        _ = serve => {}
                        _ = cut.changed() => {}
                    }
                });
            }
        });
        *self.listening.lock().expect("no holder panics") = Some(task.abort_handle());
    }

    /// Nobody listens any more, and all connections are gone.
    pub async fn stop(&self) {
        if let Some(task) = self.listening.lock().expect("no holder panics").take() {
            task.abort();
        }
        self.cut();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    pub async fn start_again(self: &Arc<Self>) {
        for _ in 0..100 {
            match TcpListener::bind(self.address).await {
                Ok(listener) => return self.listen(listener),
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
        panic!("{} is taken", self.address);
    }

    /// Closes every connection.
    pub fn cut(&self) {
        self.cut.send_modify(|cuts| *cuts += 1);
    }

    fn state<T>(&self, with: impl FnOnce(&mut State) -> T) -> T {
        with(&mut self.state.lock().expect("no holder panics"))
    }

    pub fn faults(&self, set: impl FnOnce(&mut Faults)) {
        self.state(|state| set(&mut state.faults));
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.state(|state| state.asked.clone())
    }

    /// Lists of a resource that were asked for so far; a list in pages counts once.
    pub fn lists(&self, resource: &str) -> usize {
        let asked = self.asked();
        let first = |one: &&Asked| one.is_list() && !one.query.contains_key("continue");
        asked.iter().filter(|one| one.resource == resource).filter(first).count()
    }

    /// Events by namespace and name.
    pub fn events(&self) -> BTreeMap<String, Value> {
        self.state(|state| state.events.clone())
    }

    pub fn put(&self, resource: &str, key: &str, mut object: Value) {
        self.state(|state| {
            state.revision += 1;
            let (namespace, name) = key.split_once('/').map_or((None, key), |(n, k)| (Some(n), k));
            let (_, version, kind) =
                API_VERSIONS.into_iter().find(|a| a.0 == resource).expect("known");
            object["apiVersion"] = version.into();
            object["kind"] = kind.into();
            object["metadata"]["name"] = name.into();
            if let Some(namespace) = namespace {
                object["metadata"]["namespace"] = namespace.into();
            }
            object["metadata"]["resourceVersion"] = state.revision.to_string().into();
            let before = state.objects.insert((resource.into(), key.into()), object.clone());
            let what = if before.is_some() { "MODIFIED" } else { "ADDED" };
            state.log.push((state.revision, resource.into(), event(what, &object)));
        });
        self.changed.send_modify(|changes| *changes += 1);
    }

    pub fn delete(&self, resource: &str, key: &str) {
        self.state(|state| {
            state.revision += 1;
            let removed = state.objects.remove(&(resource.to_owned(), key.to_owned()));
            let mut object = removed.expect("it was there");
            object["metadata"]["resourceVersion"] = state.revision.to_string().into();
            state.log.push((state.revision, resource.into(), event("DELETED", &object)));
        });
        self.changed.send_modify(|changes| *changes += 1);
    }

    /// Forgets what happened, as etcd does after a while.
    pub fn compact(&self) {
        self.state(|state| state.compacted = state.revision);
    }

    async fn answer(self: &Arc<Self>, request: Request<Incoming>) -> Response<Body> {
        let parts: Vec<String> = request.uri().path().split('/').map(str::to_owned).collect();
        // A change of one object names it behind the resource.
        let named = usize::from(request.method() == Method::PATCH);
        let resource = parts.iter().rev().nth(named).cloned().unwrap_or_default();
        let namespace = parts.iter().skip_while(|part| *part != "namespaces").nth(1).cloned();
        let method = request.method().clone();
        let query: HashMap<String, String> = request
            .uri()
            .query()
            .unwrap_or_default()
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .map(|(name, value)| (name.to_owned(), decoded(value)))
            .collect();
        let asked = Asked { method, resource: resource.clone(), namespace, query };
        let faults = self.state(|state| {
            state.asked.push(asked.clone());
            state.faults.clone()
        });
        let bearer = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        if let Some(token) = &faults.token
            && bearer != Some(format!("Bearer {token}").as_str())
        {
            return status(401, "Unauthorized");
        }
        if let Some(code) = faults.refused.get(resource.as_str()) {
            let verb = match asked.method {
                Method::POST => "create",
                Method::PATCH => "patch",
                _ => "list",
            };
            let said =
                format!("{resource} is refused: User \"x\" cannot {verb} resource \"{resource}\"");
            return status(*code, &said);
        }
        if asked.method != Method::GET {
            let name = parts.last().cloned().unwrap_or_default();
            let body = request.into_body().collect().await.expect("a body").to_bytes();
            let said: Value = serde_json::from_slice(&body).expect("JSON");
            return self.write(&asked, &name, said);
        }
        if faults.no_field_labels
            && asked.query.get("fieldSelector").is_some_and(|s| s.contains("spec"))
        {
            return status(400, "field label not supported: spec.clusterIP");
        }
        let page = asked.query.get("continue").and_then(|at| at.parse::<usize>().ok());
        if page.is_some() && page == faults.broken_page {
            return status(500, "etcdserver: request timed out");
        }
        if !asked.is("watch", "true") {
            return self.list(&asked);
        }
        let streaming = asked.is("sendInitialEvents", "true");
        if streaming && faults.no_streaming {
            return status(
                422,
                "sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled",
            );
        }
        if faults.no_watches {
            let nothing = Full::new(Bytes::new()).boxed_unsync();
            return Response::builder().body(nothing).expect("a response");
        }
        self.watch(&asked, (streaming, faults.ignorant))
    }

    /// Makes an Event, or changes the series of one.
    fn write(&self, asked: &Asked, name: &str, said: Value) -> Response<Body> {
        let namespace = asked.namespace.as_deref().expect("an Event has a namespace");
        self.state(|state| {
            if asked.method == Method::POST {
                let name = said["metadata"]["name"].as_str().expect("a name");
                let key = format!("{namespace}/{name}");
                if state.events.contains_key(&key) {
                    return status(409, "events already exists");
                }
                state.events.insert(key, said.clone());
                return whole(201, &said);
            }
            let Some(event) = state.events.get_mut(&format!("{namespace}/{name}")) else {
                return status(404, "events not found");
            };
            for (field, value) in said.as_object().expect("an object") {
                assert_eq!(field, "series", "all else of an Event must stay");
                event[field] = value.clone();
            }
            whole(200, event)
        })
    }

    fn list(&self, asked: &Asked) -> Response<Body> {
        let limit =
            asked.query.get("limit").and_then(|limit| limit.parse().ok()).unwrap_or(usize::MAX);
        let start: usize = asked.query.get("continue").map_or(0, |at| at.parse().expect("ours"));
        self.state(|state| {
            let named =
                asked.query.get("fieldSelector").and_then(|s| s.strip_prefix("metadata.name="));
            let wanted = |key: &str| {
                let (namespace, name) = key.split_once('/').unwrap_or(("", key));
                asked.namespace.as_deref().is_none_or(|wanted| wanted == namespace)
                    && named.is_none_or(|wanted| wanted == name)
            };
            let of_resource =
                state.objects.iter().filter(|((r, key), _)| *r == asked.resource && wanted(key));
            let mut items: Vec<Value> =
                of_resource.map(|(_, object)| object.clone()).skip(start).collect();
            let rest = items.len() > limit;
            items.truncate(limit);
            let mut metadata = json!({"resourceVersion": state.revision.to_string()});
            if rest {
                metadata["continue"] = (start + limit).to_string().into();
            }
            // A typed list does not say what its items are.
            for item in &mut items {
                let item = item.as_object_mut().expect("an object");
                item.remove("apiVersion");
                item.remove("kind");
            }
            let list =
                json!({"kind": "List", "apiVersion": "v1", "metadata": metadata, "items": items});
            whole(200, &list)
        })
    }

    fn watch(
        self: &Arc<Self>,
        asked: &Asked,
        (streaming, ignorant): (bool, bool),
    ) -> Response<Body> {
        let resource = asked.resource.clone();
        let from: u64 =
            asked.query.get("resourceVersion").and_then(|at| at.parse().ok()).unwrap_or(0);
        let (send, receive) = mpsc::channel::<String>(16);
        let cluster = Arc::clone(self);
        let mut changed = self.changed.subscribe();
        let (first, mut at, gone) = self.state(|state| {
            if from == 0 {
                let now = state.objects.iter().filter(|((r, _), _)| *r == resource);
                let mut events: Vec<String> =
                    now.map(|(_, object)| event("ADDED", object)).collect();
                if streaming && !ignorant {
                    events.push(end_of_list(state.revision));
                }
                return (events, state.revision, false);
            }
            (Vec::new(), from, from < state.compacted)
        });
        tokio::spawn(async move {
            if gone {
                let object = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 410,
                    "reason": "Expired", "message": "too old resource version", "metadata": {}});
                let _ = send.send(event("ERROR", &object)).await;
                return;
            }
            for event in first {
                if send.send(event).await.is_err() {
                    return;
                }
            }
            loop {
                let (news, now) = cluster.state(|state| {
                    let new = state
                        .log
                        .iter()
                        .filter(|(revision, r, _)| *revision > at && *r == resource);
                    (new.map(|(_, _, event)| event.clone()).collect::<Vec<_>>(), state.revision)
                });
                at = now;
                for event in news {
                    if send.send(event).await.is_err() {
                        return;
                    }
                }
                tokio::select! {
                    changed = changed.changed() => if changed.is_err() { return },
                    () = send.closed() => return,
                }
            }
        });
        let lines = futures_util::stream::unfold(receive, |mut receive| async {
            let event = receive.recv().await?;
            Some((Ok(Frame::data(Bytes::from(format!("{event}\n")))), receive))
        });
        let body = StreamBody::new(lines).boxed_unsync();
        Response::builder()
            .header("content-type", "application/json")
            .body(body)
            .expect("a response")
    }
}

/// A line of a watch. The type comes first, as the real server writes it.
fn event(kind: &str, object: &Value) -> String {
    format!(r#"{{"type":"{kind}","object":{object}}}"#)
}

/// What ends the first part of a streaming list.
fn end_of_list(revision: u64) -> String {
    let annotations = json!({"k8s.io/initial-events-end": "true"});
    let metadata = json!({"resourceVersion": revision.to_string(), "annotations": annotations});
    event("BOOKMARK", &json!({"kind": "Service", "apiVersion": "v1", "metadata": metadata}))
}

fn status(code: u16, message: &str) -> Response<Body> {
    let object = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": "Refused", "code": code});
    whole(code, &object)
}

fn whole(code: u16, object: &Value) -> Response<Body> {
    let body = Full::new(Bytes::from(object.to_string())).boxed_unsync();
    let response = Response::builder().status(code).header("content-type", "application/json");
    response.body(body).expect("a response")
}

/// Percent-encoded text, as far as selectors need it.
fn decoded(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('%') {
        let (code, after) = after.split_at(2);
        let byte = u8::from_str_radix(code, 16).expect("two hexadecimal digits");
        out.extend([before, &char::from(byte).to_string()]);
        rest = after;
    }
    out + rest
}
