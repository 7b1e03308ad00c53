//! Who vipd is to the server, and whether what answers is the server at all.

use crate::control_plane::SERVER;
use crate::live::{self, LISTS_ONLY, Live, SOON, VIPD};
use crate::netns::Netns;
use crate::runner::Case;
use crate::support::manifests::svc;
use crate::support::plan::{L1, L2, Node, R1, Who};
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
    ("a client certificate that is renewed in place is shown from the next request on", renewed),
    ("a server without a scheme is asked by TLS where an authority is named", without_a_scheme),
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
    serves_only(live, [L1, R1]);
}

fn serves_only<const N: usize>(live: &Live, pods: [Who; N]) {
    let w = &live.w;
    w.tcp(L2, w.cip(), 80).times(20).only(pods);
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
        says(live, &["check the server's address", "there is no token", "asked anonymously"]);
    });
}

/// Makes the certificate `name` of this user, by this authority.
fn certify(live: &Live, name: &str, (user, ca): (&str, &str)) {
    // With an extension it is a certificate of version 3, and no other is taken.
    fs::write(format!("{WORK}/usage"), "extendedKeyUsage=clientAuth\n").expect("an own /run");
    live.w.sh(
        Node,
        &format!(
            "cd {WORK} && openssl req -newkey rsa:2048 -nodes -keyout {name}.key \
             -out {name}.csr -subj /CN={user} 2>/dev/null && \
             openssl x509 -req -in {name}.csr -CA {ca}.crt -CAkey {ca}.key -CAcreateserial \
             -extfile usage -days 2 -out {name}.crt 2>/dev/null"
        ),
    );
}

/// The user of a kubeconfig who has the certificate `name`.
fn certified(name: &str) -> Value {
    json!({"client-certificate": format!("{WORK}/{name}.crt"),
        "client-key": format!("{WORK}/{name}.key")})
}

fn certificates() {
    live::with(|live| {
        live.w.write(svc().on([L1, R1]));
        live.w.sh(
            Node,
            &format!(
                "cd {WORK} && openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=clients \
             -keyout other.key -out other.crt 2>/dev/null"
            ),
        );
        certify(live, "known", (VIPD, "ca"));
        certify(live, "stranger", (VIPD, "other"));
        live.launch_as(&kubeconfig(SERVER, SERVERS_OWN, &certified("known")));
        serves(live);
        live.launch_as(&kubeconfig(SERVER, SERVERS_OWN, &certified("stranger")));
        says(live, &["401", "check the token or the client certificate"]);
        live.launch_as(&kubeconfig(SERVER, SERVERS_OWN, &json!({"token": "of-nobody"})));
        says(live, &["401", "check the token or the client certificate"]);
    });
}

/// The server tells by whom it was asked: the second certificate is that of somebody without rights, and
/// an Event of an undone edit is a request that does not wait for a watch to end.
fn renewed() {
    live::with(|live| {
        let w = &live.w;
        w.write(svc().on([L1, R1]));
        certify(live, "own", (VIPD, "ca"));
        certify(live, "nobody", ("nobody", "ca"));
        certify(live, "again", (VIPD, "ca"));
        let put = |from: &str| {
            for kind in ["key", "crt"] {
                w.sh(Node, &format!("cd {WORK} && cp {from}.{kind} new && mv new shown.{kind}"));
            }
        };
        put("own");
        live.launch_as(&kubeconfig(SERVER, SERVERS_OWN, &certified("shown")));
        w.within(SOON, || live.asked("/healthz").0 == 200);
        let sent = || live.metric("vipd_events_sent_total").unwrap_or_default();
        w.within(SOON, || sent() >= 1.0);
        put("nobody");
        w.sh(Node, "nft flush chain inet vipd refuse");
        live.told("User \"nobody\" cannot create resource \"events\"");
        assert!(!live.log().contains("answers 401"), "{}", live.log());
        put("again");
        w.write(svc().on([R1]));
        w.within(Duration::from_secs(90), || {
            w.tcp(L2, w.cip(), 80).times(4).untraced().replies().servers().len() == 1
        });
        serves_only(live, [R1]);
    });
}

fn without_a_scheme() {
    live::with(|live| {
        live.w.write(svc().on([L1, R1]));
        let (_, host) = SERVER.split_once("://").expect("a URL");
        live.launch_as(&kubeconfig(host, SERVERS_OWN, &json!({"token": live::TOKEN})));
        serves(live);
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
