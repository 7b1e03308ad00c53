//! A network namespace per test, with `conntrack` as the witness.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::process::Command;

/// Runs `test` on a thread with a network namespace of its own, which goes with the thread. What
/// the thread starts is in the namespace too. Loud where that is not permitted.
pub fn isolated(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(move || {
        // SAFETY: only the network namespace of this new thread changes; file descriptors, the
        // concern of this function, stay shared.
        let entered =
            unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) };
        match entered {
            Ok(()) => test(),
            Err(error) => {
                let line = format!(
                    "!!!! SKIPPED: no network namespace of its own: {error}; run as root !!!!\n"
                );
                // Not `eprintln!`: of a test that passes, the harness prints nothing.
                let _ = std::io::stderr().write_all(line.as_bytes());
            }
        }
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

pub fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().expect("the tool is installed");
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("tools print UTF-8")
}

/// Makes an entry `protocol client > destination < answerer`, with ` zone=5` at the end or not.
pub fn insert(entry: &str) {
    let words: Vec<_> = entry.split(' ').collect();
    let part = |index: usize| {
        let socket: std::net::SocketAddr = words[index].parse().expect("an address and a port");
        (socket.ip().to_string(), socket.port().to_string())
    };
    let (client, destination, answerer) = (part(1), part(3), part(5));
    let mut arguments = vec!["-I", "-p", words[0], "--timeout", "300"];
    arguments.extend(["-s", &client.0, "--sport", &client.1]);
    arguments.extend(["-d", &destination.0, "--dport", &destination.1]);
    arguments.extend(["--reply-src", &answerer.0, "--reply-port-src", &answerer.1]);
    arguments.extend(["--reply-dst", &client.0, "--reply-port-dst", &client.1]);
    if words[0] == "tcp" {
        arguments.extend(["--state", "ESTABLISHED"]);
    }
    if let Some(zone) = words.get(6).and_then(|word| word.strip_prefix("zone=")) {
        arguments.extend(["-w", zone]);
    }
    run("conntrack", &arguments);
}

/// All entries, as `insert` takes them.
pub fn entries() -> BTreeSet<String> {
    ["ipv4", "ipv6"]
        .iter()
        .flat_map(|family| {
            run("conntrack", &["-L", "-f", family]).lines().map(summary).collect::<Vec<_>>()
        })
        .collect()
}

fn summary(line: &str) -> String {
    let all = |key: &str| -> Vec<&str> {
        line.split_whitespace().filter_map(|word| word.strip_prefix(key)).collect()
    };
    let (sources, destinations) = (all("src="), all("dst="));
    let (source_ports, destination_ports) = (all("sport="), all("dport="));
    let socket = |address: &str, port: &str| {
        if address.contains(':') {
            format!("[{address}]:{port}")
        } else {
            format!("{address}:{port}")
        }
    };
    let zone = all("zone=").first().map_or(String::new(), |zone| format!(" zone={zone}"));
    format!(
        "{} {} > {} < {}{zone}",
        line.split_whitespace().next().unwrap_or(""),
        socket(sources[0], source_ports[0]),
        socket(destinations[0], destination_ports[0]),
        socket(sources[1], source_ports[1]),
    )
}
