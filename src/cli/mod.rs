//! The commands: arguments in, text out, one file per command.
//!
//! In: arguments, environment. Out: text on stdout, problems on stderr, an exit code.
//! Never: a decision about traffic; a panic because the reader of a pipe went away.

mod age;
mod answers;
mod cleanup;
mod completions;
mod config;
mod describe;
mod error;
mod get;
mod metrics;
mod offline;
mod output;
mod plan;
mod run;
mod table;
mod trace;

pub use error::Error;

use clap::{Parser, Subcommand};
use std::env;
use std::ffi::OsString;
use std::process::ExitCode;

/// A Kubernetes service proxy for one node
#[derive(Debug, Parser)]
#[command(name = "vipd", version, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve until told to stop
    #[command(args_override_self = true)]
    Run(Box<crate::config::RunFlags>),
    /// List services, endpoints or what is not served as written
    Get(Box<get::Flags>),
    /// Show one object and what this node does with it
    Describe(Box<describe::Flags>),
    /// Say what must happen to a packet, and why
    Trace(Box<trace::Flags>),
    /// Print everything that this node does
    Plan(Box<plan::Flags>),
    /// Print what a running daemon counts, as Prometheus reads it
    Metrics(metrics::Flags),
    /// Print the configuration that `run` with the same flags would have, and who says so
    #[command(args_override_self = true)]
    Config(Box<config::Flags>),
    /// Remove everything of vipd's from the kernel
    Cleanup,
    /// Print a completion script for a shell
    Completions(completions::Flags),
    /// Print the version
    Version,
}

/// kube-proxy has no commands: its flags alone mean `run`. It reads `_` in their names as `-`.
fn with_command(arguments: impl Iterator<Item = OsString>) -> Vec<OsString> {
    const OF_VIPD: [&str; 4] = ["-h", "--help", "-V", "--version"];
    let mut arguments: Vec<OsString> = arguments.collect();
    if let Some(first) = arguments.get(1).and_then(|first| first.to_str())
        && first.starts_with('-')
        && !OF_VIPD.contains(&first)
    {
        arguments.insert(1, "run".into());
    }
    let flags = arguments.iter_mut().skip(1).take_while(|argument| *argument != "--");
    for argument in flags {
        if let Some(text) = argument.to_str()
            && text.starts_with("--")
        {
            let (name, value) = text.split_at(text.find('=').unwrap_or(text.len()));
            *argument = format!("{}{value}", name.replace('_', "-")).into();
        }
    }
    arguments
}

fn version() -> Result<(), Error> {
    output::print(&format!("vipd {}\n", env!("CARGO_PKG_VERSION")))
}

/// Runs one command; 0: done, 1: not found or failed, 2: cannot be done as asked.
pub fn main() -> ExitCode {
    let result = match Cli::parse_from(with_command(env::args_os())).command {
        Command::Run(flags) => run::run(*flags),
        Command::Get(flags) => get::run(*flags),
        Command::Describe(flags) => describe::run(*flags),
        Command::Trace(flags) => trace::run(*flags),
        Command::Plan(flags) => plan::run(*flags),
        Command::Metrics(flags) => metrics::run(&flags),
        Command::Config(flags) => config::run(*flags),
        Command::Cleanup => cleanup::run(),
        Command::Completions(flags) => completions::run(&flags),
        Command::Version => version(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::note(&format!("vipd: {error}"));
            error.exit_code()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        line.split_whitespace().map(OsString::from).collect()
    }

    #[test]
    fn flags_alone_mean_run() {
        for (given, wanted) in [
            ("vipd --config /c", "vipd run --config /c"),
            ("vipd -v=2 --config=/c", "vipd run -v=2 --config=/c"),
            ("vipd --cleanup", "vipd run --cleanup"),
            ("vipd run --config /c", "vipd run --config /c"),
            ("vipd get services", "vipd get services"),
            ("vipd --help", "vipd --help"),
            ("vipd --version", "vipd --version"),
            ("vipd --version=raw", "vipd run --version=raw"),
            ("vipd --cluster_cidr=a_b --v 2", "vipd run --cluster-cidr=a_b --v 2"),
            ("vipd config --log_format text", "vipd config --log-format text"),
            ("vipd", "vipd"),
        ] {
            assert_eq!(with_command(words(given).into_iter()), words(wanted), "{given}");
        }
    }

    /// The DaemonSet that kubeadm makes, and what distributions write.
    #[test]
    fn command_lines_of_kube_proxy_are_read() {
        for line in [
            "vipd --config=/var/lib/kube-proxy/config.conf --hostname-override=node-a",
            "vipd --kubeconfig=/k --cluster-cidr=10.1.0.0/16 --proxy-mode=iptables -v=2 \
             --conntrack-max-per-core=0 --conntrack-tcp-timeout-established=24h0m0s \
             --iptables-min-sync-period=1s --iptables-sync-period=30s --oom-score-adj=-998 \
             --healthz-bind-address=0.0.0.0:10256 --metrics-bind-address=127.0.0.1:10249 \
             --masquerade-all=true --nodeport-addresses=primary --feature-gates=AllAlpha=true,AllBeta=false \
             --profiling=false --bind-address=0.0.0.0 --logging-format=text --v=4",
            "vipd --nodeport-addresses= --hostname-override= --proxy-mode= --bind-address= --config= \
             --healthz-bind-address= --metrics-bind-address= --detect-local-mode= --feature-gates= \
             --pod-bridge-interface= --pod-interface-name-prefix= --master= --kubeconfig=/k",
            "vipd --config=/c --config-sync-period=15m --write-config-to=/w --init-only --cleanup=false \
             --kube-api-burst=10 --kube-api-qps=5.5 --kube-api-content-type=application/json \
             --bind-address-hard-fail --show-hidden-metrics-for-version=1.36 --healthz-port=1 \
             --metrics-port 0 --ipvs-sync-period=30s --ipvs-min-sync-period=1s --ipvs-scheduler=rr \
             --ipvs-exclude-cidrs=10.0.0.0/8 --ipvs-strict-arp --ipvs-tcp-timeout=1s \
             --ipvs-tcpfin-timeout=1s --ipvs-udp-timeout=1s --iptables-masquerade-bit=14 \
             --iptables-localhost-nodeports=false --pod-bridge-interface=cni0 --conntrack-min=1 \
             --conntrack-tcp-be-liberal --conntrack-udp-timeout=1s --conntrack-udp-timeout-stream=1s \
             --conntrack-tcp-timeout-close-wait=1h --log-flush-frequency=5s --vmodule=a=2 \
             --log-json-split-stream=false --log-text-split-stream=false --log-json-info-buffer-size=0 \
             --log-text-info-buffer-size=0 --version=false -v 3",
        ] {
            if let Err(error) = Cli::try_parse_from(with_command(words(line).into_iter())) {
                panic!("{line}: {error}");
            }
        }
    }
}
