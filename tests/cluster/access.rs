//! Who vipd is to the server, and whether what answers is the server at all.

use crate::control_plane::SERVER;
use crate::live::{self, LISTS_ONLY, Live, SOON, VIPD};
use crate::netns::Netns;
use crate::runner::Case;
use crate::support::manifests::svc;
use crate::support::plan::{L1, L2, Node, R1};
use crate::support::world::WORK;
use serde_json::{Value, json};
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

pub const CASES: &[Case] = &[
    ("nobody listens, no API server answers, another CA: what to check is said", wrong_servers),
    ("a client certificate that the server knows serves, another one is refused", certificates),
    ("an exec plugin that works serves; one that does not is said, and waited for", plugins),
    ("through a proxy, with a token file as people write it", proxied),
    (
        "rights to list without rights to watch: what is missing is named, and waited for",
        lists_only,
    ),
];

/// A kubeconfig of this `server`, whose certificate is that of `authority`.
fn kubeconfig(server: &str, authority: &str, user: &Value) -> Value {
    let mut cluster = json!({"server": server});
    if !authority.is_empty() {
        cluster["certificate-authority"] = json!(authority);
    }
    json!({"apiVersion": "v1", "kind": "Config", "current-context": "x",
        "clusters": [{"name": "x", "cluster": cluster}],
        "users": [{"name": "x", "user": user}],
        "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}]})
}

const SERVERS_OWN: &str = "/run/case/certs/apiserver.crt";
const CLIENTS_CA: &str = "/run/case/ca.crt";

fn serves(live: &Live) {
    let w = &live.w;
    w.within(SOON, || {
        w.assert_running();
        live.asked("/healthz").0 == 200
    });
    w.tcp(L2, w.cip(), 80).times(20).only([L1, R1]);
    w.kill();
    w.sh(Node, "nft delete table inet vipd");
}

/// All of the words are in the log, and nothing is on the node.
#[track_caller]
fn says(live: &Live, words: &[&str]) {
    for words in words {
        live.told(words);
    }
    live.w.sleep(300);
    assert!(!live.programs());
    assert_eq!(live.asked("/healthz").0, 503);
    assert_eq!(live.asked("/livez").0, 200, "to start it again would not help");
    live.w.kill();
}

/// An HTTP server that gives everybody this answer.
fn answers(node: &Netns, at: SocketAddr, answer: &'static str) {
    let listener = node.enter(|| TcpListener::bind(at)).expect("a free port");
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            let mut request = [0; 4096];
            if stream.read(&mut request).is_ok_and(|size| size > 0) {
                let _ = stream.write_all(answer.as_bytes());
            }
        }
    });
}

fn wrong_servers() {
    live::with(|live| {
        let node = live.w.netns(Node);
        let token = json!({"token": live::TOKEN});
        let at = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        let page = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 17\r\n\
            Connection: close\r\n\r\n<html>Hi!</html>\n";
        let missing = "HTTP/1.1 404 Not Found\r\nContent-Type: text/html\r\nContent-Length: 22\r\n\
            Connection: close\r\n\r\n<html>Not here</html>\n";
        let empty = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        answers(node, at(6501), page);
        answers(node, at(6502), missing);
        answers(node, at(6503), empty);
        let no_server = "is it a Kubernetes API server?";
        for (server, words) in [
            ("http://127.0.0.1:6500", ["refused", "check the server's address"]),
            ("http://127.0.0.1:6501", [no_server, "--master"]),
            ("http://127.0.0.1:6502", ["404", no_server]),
            ("http://127.0.0.1:6503", [no_server, "--master"]),
            ("https://127.0.0.1:6501", ["does not speak TLS", "check the server's address"]),
        ] {
            live.launch_as(&kubeconfig(server, "", &token));
            says(live, &words);
        }
        live.launch_as(&kubeconfig(SERVER, CLIENTS_CA, &token));
        says(live, &["certificate", "certificate-authority"]);
        live.launch_with(&[("--master", "http://127.0.0.1:6500")]);
        says(live, &["check the server's address"]);
    });
}

fn certificates() {
    live::with(|live| {
        live.w.write(svc().on([L1, R1]));
        let user = |name: &str| {
            json!({"client-certificate": format!("{WORK}/{name}.crt"),
                "client-key": format!("{WORK}/{name}.key")})
        };
        let make = |name: &str, ca: &str| {
            live.w.sh(
                Node,
                &format!(
                    "cd {WORK} && openssl req -newkey rsa:2048 -nodes -keyout {name}.key \
                 -out {name}.csr -subj /CN={VIPD} 2>/dev/null && \
                 openssl x509 -req -in {name}.csr -CA {ca}.crt -CAkey {ca}.key -CAcreateserial \
                 -extfile usage -days 2 -out {name}.crt 2>/dev/null"
                ),
            );
        };
        live.w.sh(
            Node,
            &format!(
                "cd {WORK} && openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=clients \
             -keyout other.key -out other.crt 2>/dev/null"
            ),
        );
        // With an extension it is a certificate of version 3, and no other is taken.
        fs::write(format!("{WORK}/usage"), "extendedKeyUsage=clientAuth\n").expect("an own /run");
        make("known", "ca");
        make("stranger", "other");
        live.launch_as(&kubeconfig(SERVER, SERVERS_OWN, &user("known")));
        serves(live);
        live.launch_as(&kubeconfig(SERVER, SERVERS_OWN, &user("stranger")));
        says(live, &["401", "check the token or the client certificate"]);
        live.launch_as(&kubeconfig(SERVER, SERVERS_OWN, &json!({"token": "of-nobody"})));
        says(live, &["401", "check the token or the client certificate"]);
    });
}

fn plugins() {
    live::with(|live| {
        live.w.write(svc().on([L1, R1]));
        let plugin = |name: &str, script: &str| {
            let path = format!("{WORK}/{name}");
            fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("an own /run");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("an own file");
            let exec = json!({"apiVersion": "client.authentication.k8s.io/v1", "command": path,
                "interactiveMode": "Never"});
            kubeconfig(SERVER, SERVERS_OWN, &json!({"exec": exec}))
        };
        let credential = json!({"apiVersion": "client.authentication.k8s.io/v1",
            "kind": "ExecCredential", "status": {"token": live::TOKEN}});
        live.launch_as(&plugin("works", &format!("echo '{credential}'")));
        serves(live);
        for (name, script, words) in [
            ("fails", "echo secret-of-the-plugin >&2; exit 3", "the exec plugin failed"),
            ("babbles", "echo secret-of-the-plugin", "printed no ExecCredential"),
        ] {
            live.launch_as(&plugin(name, script));
            live.told(words);
            assert!(!live.log().contains("secret-of-the-plugin"), "{}", live.log());
            assert!(!live.programs());
            assert_eq!((live.asked("/healthz").0, live.asked("/livez").0), (503, 200));
            plugin(name, &format!("echo '{credential}'"));
            serves(live);
        }
        live.launch_as(&plugin("hangs", "exec sleep 60"));
        live.told("exec plugin has not ended");
        assert_eq!(live.asked("/livez").0, 200);
        assert!(live.w.terminate().success(), "{}", live.log());
    });
}

/// An HTTP proxy on a node that opens tunnels; how many.
fn proxy(node: &Netns, at: SocketAddr) -> Arc<AtomicUsize> {
    let tunnels = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&tunnels);
    node.spawn(move || {
        let listener = TcpListener::bind(at).expect("the port is free");
        for client in listener.incoming().flatten() {
            let mut head = Vec::new();
            let mut client = client;
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                if client.read_exact(&mut byte).is_err() {
                    break;
                }
                head.push(byte[0]);
            }
            let head = String::from_utf8_lossy(&head);
            let to = head.strip_prefix("CONNECT ").and_then(|rest| rest.split(' ').next());
            let Some(Ok(mut server)) = to.map(TcpStream::connect) else { continue };
            count.fetch_add(1, Ordering::Relaxed);
            let _ = client.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
            let (mut from_client, mut to_server) =
                (client.try_clone().expect("a file"), server.try_clone().expect("a file"));
            thread::spawn(move || std::io::copy(&mut from_client, &mut to_server));
            thread::spawn(move || std::io::copy(&mut server, &mut client));
        }
    });
    tunnels
}

fn proxied() {
    live::with(|live| {
        live.w.write(svc().on([L1, R1]));
        let token = format!("{WORK}/token");
        fs::write(&token, format!("{}\n", live::TOKEN)).expect("an own /run");
        let tunnels = proxy(live.w.netns(Node), "127.0.0.1:3128".parse().expect("an address"));
        let mut through = kubeconfig(SERVER, SERVERS_OWN, &json!({"tokenFile": token}));
        through["clusters"][0]["cluster"]["proxy-url"] = json!("http://127.0.0.1:3128");
        live.launch_as(&through);
        let asked =
            "rest_client_requests_total{code=\"200\",host=\"127.0.0.1:6443\",method=\"GET\"}";
        live.w.within(SOON, || live.metric(asked).is_some_and(|requests| requests >= 4.0));
        serves(live);
        assert!(tunnels.load(Ordering::Relaxed) >= 4, "one for each kind");
    });
}

fn lists_only() {
    live::with(|live| {
        live.w.write(svc().on([L1, R1]));
        live.launch_as(&kubeconfig(SERVER, SERVERS_OWN, &json!({"token": LISTS_ONLY})));
        for resource in ["services", "endpointslices", "nodes"] {
            live.told(&format!("cannot watch resource \"{resource}\""));
        }
        live.told("a ClusterRole must grant");
        assert!(!live.programs());
        let role = |verbs: Value| {
            let path = crate::api::path("ClusterRole", "lists-only");
            let mut rules = live.api.get(&path)["rules"].clone();
            for rule in rules.as_array_mut().expect("rules") {
                rule["verbs"] = verbs.clone();
            }
            live.api.patch(&path, &json!({"rules": rules}));
        };
        role(json!(["list", "watch"]));
        live.w.within(Duration::from_secs(60), || live.asked("/healthz").0 == 200);
        live.w.tcp(L2, live.w.cip(), 80).times(20).only([L1, R1]);
        role(json!(["list"]));
    });
}
