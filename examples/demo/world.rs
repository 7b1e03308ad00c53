//! Namespaces and the processes in them.
//!
//! ```text
//! outside 203.0.113.2 ── 203.0.113.1 node 192.168.0.2 ── client  10.180.0.10
//!                                                     ├─ nginx-1 10.180.0.11
//!                                                     └─ …
//! ```
//! A pod's link carries the node's address as a /32, so that what is masqueraded has just it.

use super::{Result, check_interrupt};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

pub const NODE: &str = "192.168.0.2";
pub const CLIENT: &str = "10.180.0.10";

pub struct World {
    pub id: String,
    /// Manifests, socket and logs.
    pub folder: PathBuf,
    servers: Vec<(String, Child)>,
    vipd: Option<Child>,
}

impl World {
    pub fn build(id: &str) -> Result<Self> {
        let folder = folder(id);
        fs::create_dir_all(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
        let world = Self { id: id.to_owned(), folder, servers: Vec::new(), vipd: None };
        let [node, outside] = ["node", "outside"].map(|place| world.namespace(place));
        ip(None, &[format!("netns add {node}"), format!("netns add {outside}")]).map_err(|e| {
            format!("{e}\nNetwork namespaces need CAP_SYS_ADMIN and CAP_NET_ADMIN: run as root.")
        })?;
        ip(
            Some(&node),
            &[
                "link set lo up".to_owned(),
                format!("link add outside type veth peer name eth0 netns {outside}"),
                "addr add 203.0.113.1/24 dev outside".to_owned(),
                "link set outside up".to_owned(),
                "route add default via 203.0.113.2".to_owned(),
            ],
        )?;
        ip(
            Some(&outside),
            &[
                "link set lo up".to_owned(),
                "addr add 203.0.113.2/24 dev eth0".to_owned(),
                "link set eth0 up".to_owned(),
                "route add default via 203.0.113.1".to_owned(),
            ],
        )?;
        run(world.command("node", "sysctl").args(["-qw", "net.ipv4.ip_forward=1"]))?;
        world.add_pod("client", CLIENT)?;
        Ok(world)
    }

    pub fn add_pod(&self, name: &str, address: &str) -> Result<()> {
        let (node, pod) = (self.namespace("node"), self.namespace(name));
        ip(None, &[format!("netns add {pod}")])?;
        ip(
            Some(&node),
            &[
                format!("link add {name} type veth peer name eth0 netns {pod}"),
                format!("addr add {NODE}/32 dev {name}"),
                format!("link set {name} up"),
                format!("route add {address}/32 dev {name} src {NODE}"),
            ],
        )?;
        ip(
            Some(&pod),
            &[
                "link set lo up".to_owned(),
                format!("addr add {address}/32 dev eth0"),
                "link set eth0 up".to_owned(),
                format!("route add {NODE} dev eth0"),
                format!("route add default via {NODE}"),
            ],
        )
    }

    /// Starts a pod's server and waits until it answers to the node, as a readiness probe does: the
    /// kernel may take its time over bringing a new link up.
    pub fn serve(&mut self, name: &str, address: &str) -> Result<()> {
        let mut child = self
            .own(name)?
            .args(["serve", name, &format!("{address}:80")])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("ip netns exec: {error}"))?;
        let mut line = String::new();
        if let Some(out) = child.stdout.take() {
            // An error leaves the line empty, which is told below.
            let _ = BufReader::new(out).read_line(&mut line);
        }
        self.servers.push((name.to_owned(), child));
        match line.trim() {
            "listening" => {}
            _ => return Err(format!("the server of {name} does not listen")),
        }
        let probe = ["client", &format!("{address}:80"), "until-answered"];
        run(self.own("node")?.args(probe)).map(|_| ())
    }

    /// From when this returns, the kernel refuses connections to the pod.
    pub fn stop_serving(&mut self, name: &str) -> Result<()> {
        let at = self.servers.iter().position(|(server, _)| server == name);
        let (_, mut child) = self.servers.remove(at.ok_or(format!("{name} does not serve"))?);
        signal(&child, Signal::TERM)?;
        child.wait().map(|_| ()).map_err(|error| format!("server of {name}: {error}"))
    }

    pub fn start_vipd(&mut self, manifests: &Path) -> Result<()> {
        let log = self.folder.join("vipd.log");
        let file = |log: &Path| File::create(log).map_err(|e| format!("{}: {e}", log.display()));
        let errors = file(&log)?;
        let out = errors.try_clone().map_err(|error| format!("{}: {error}", log.display()))?;
        let child = self
            .command("node", vipd()?)
            .arg("run")
            .arg("--manifests")
            .arg(manifests)
            .args(["--hostname-override", "node-a"])
            .args(["--service-cluster-ip-range", "10.254.0.0/16"])
            .args(["--cluster-cidr", "10.180.0.0/16"])
            .arg("--admin-socket")
            .arg(self.socket())
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(errors)
            .spawn()
            .map_err(|error| format!("vipd: {error}"))?;
        self.vipd = Some(child);
        Ok(())
    }

    /// Why vipd does not do what it should, if it ended.
    pub fn vipd_ended(&mut self) -> Option<String> {
        let status = self.vipd.as_mut()?.try_wait().ok().flatten()?;
        let log = fs::read_to_string(self.folder.join("vipd.log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let last = lines[lines.len().saturating_sub(10)..].join("\n  ");
        Some(format!("vipd ended ({status}); the last it said:\n  {last}"))
    }

    pub fn vipd_pid(&self) -> Option<u32> {
        self.vipd.as_ref().map(Child::id)
    }

    /// SIGTERM, then the exit status.
    pub fn stop_vipd(&mut self) -> Result<()> {
        let Some(mut child) = self.vipd.take() else { return Ok(()) };
        signal(&child, Signal::TERM)?;
        let end = Instant::now() + Duration::from_secs(5);
        while Instant::now() < end {
            match child.try_wait().map_err(|error| format!("vipd: {error}"))? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => return Err(format!("vipd ended with {status} on SIGTERM")),
                None => thread::sleep(Duration::from_millis(10)),
            }
        }
        Err("vipd did not end within 5 s of SIGTERM".to_owned())
    }

    /// What `vipd ARGUMENTS…` prints on the node.
    pub fn ask_vipd(&self, arguments: &[&str]) -> Result<String> {
        run(self.command("node", vipd()?).args(arguments))
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.join("admin.sock")
    }

    pub fn namespace(&self, place: &str) -> String {
        format!("{}-{place}", self.id)
    }

    /// A command inside a place.
    pub fn command(&self, place: &str, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace(place)]).arg(program);
        // Ctrl-C goes to the terminal's whole group, but here the demo alone answers it.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        command
    }

    /// This program inside a place.
    pub fn own(&self, place: &str) -> Result<Command> {
        let own = std::env::current_exe().map_err(|e| format!("this program's path: {e}"))?;
        Ok(self.command(place, own))
    }
}

/// Ends what runs in the namespaces of `id`, and removes them and its folder.
pub fn remove(id: &str) -> Result<()> {
    let digits = id.strip_prefix("vdemo").unwrap_or_default();
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(format!("{id}: not the name of a demo (vdemo and digits)"));
    }
    let list = output(Command::new("ip").args(["netns", "list"]))?;
    let start = format!("{id}-");
    let names: Vec<&str> = list
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| name.starts_with(&start))
        .collect();
    for (kill, patience) in [(Signal::TERM, 100), (Signal::KILL, 20)] {
        for _ in 0..patience {
            let pids: Vec<Pid> = names.iter().flat_map(|name| pids_in(name)).collect();
            if pids.is_empty() {
                break;
            }
            for pid in pids {
                // It may have ended meanwhile.
                let _ = kill_process(pid, kill);
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
    for name in names {
        output(Command::new("ip").args(["netns", "del", name]))?;
    }
    match fs::remove_dir_all(folder(id)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(format!("{}: {error}", folder(id).display()))
        }
        _ => Ok(()),
    }
}

/// Processes in a namespace; one that has ended and waits for its parent is not there any more.
fn pids_in(namespace: &str) -> Vec<Pid> {
    let text = output(Command::new("ip").args(["netns", "pids", namespace])).unwrap_or_default();
    let pids = text.lines().filter_map(|line| line.trim().parse().ok()).filter_map(Pid::from_raw);
    pids.collect()
}

fn folder(id: &str) -> PathBuf {
    std::env::temp_dir().join(id)
}

/// The binary under test: `VIPD_BIN`, or the one that was built with this program.
fn vipd() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("VIPD_BIN") {
        return Ok(path.into());
    }
    let own = std::env::current_exe().map_err(|error| format!("this program's path: {error}"))?;
    let beside = own.parent().and_then(Path::parent).map(|folder| folder.join("vipd"));
    match beside {
        Some(path) if path.exists() => Ok(path),
        _ => Err("vipd is not built: cargo build --release --bin vipd, or set VIPD_BIN".to_owned()),
    }
}

fn signal(child: &Child, kind: Signal) -> Result<()> {
    let pid = Pid::from_child(child);
    kill_process(pid, kind).map_err(|error| format!("signal to {pid:?}: {error}"))
}

/// Lines for `ip -batch`, in one namespace.
fn ip(namespace: Option<&str>, lines: &[String]) -> Result<()> {
    check_interrupt()?;
    let mut command = Command::new("ip");
    if let Some(name) = namespace {
        command.args(["-n", name]);
    }
    let mut child = command
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("ip: {error} (apt-get install iproute2)"))?;
    if let Some(mut input) = child.stdin.take() {
        // If `ip` ended early, its own words say why.
        let _ = input.write_all((lines.join("\n") + "\n").as_bytes());
    }
    let output = child.wait_with_output().map_err(|error| format!("ip: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("ip: {}", String::from_utf8_lossy(&output.stderr).trim())),
    }
}

/// Runs a command to its end, unless Ctrl-C was pressed; returns what it printed.
pub fn run(command: &mut Command) -> Result<String> {
    check_interrupt()?;
    output(command)
}

fn output(command: &mut Command) -> Result<String> {
    let name = format!("{command:?}").replace('"', "");
    let output =
        command.stdin(Stdio::null()).output().map_err(|error| format!("{name}: {error}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{name}: {}: {}", output.status, said.trim()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
