//! A named network namespace and a way into it.
//!
//! In: closures and commands. Out: what they return.
//! Never: the calling thread itself moves.

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::thread;

/// What a command said; its errors only where it failed.
#[derive(Debug)]
pub struct Said {
    pub code: i32,
    pub out: String,
}

/// Removed together with the mount namespace of the case.
#[derive(Clone)]
pub struct Netns {
    name: String,
    file: Arc<File>,
}

impl Netns {
    /// Makes it, with its loopback up.
    pub fn add(name: &str) -> Netns {
        let said = run(Command::new("ip").args(["netns", "add", name]), "");
        assert!(said.code == 0, "ip netns add {name}: {}", said.out);
        let file = File::open(format!("/run/netns/{name}")).expect("ip netns add makes this file");
        Netns { name: name.to_owned(), file: Arc::new(file) }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `work` in a thread of its own inside the namespace and waits for it. Sockets made
    /// there stay in the namespace wherever they are used.
    #[track_caller]
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let done = thread::scope(|scope| {
            scope
                .spawn(|| {
                    self.move_here();
                    work()
                })
                .join()
        });
        done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Like `enter`, without waiting.
    pub fn spawn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> thread::JoinHandle<T> {
        let here = self.clone();
        thread::spawn(move || {
            here.move_here();
            work()
        })
    }

    fn move_here(&self) {
        move_into_link_name_space(self.file.as_fd(), Some(LinkNameSpaceType::Network))
            .expect("the namespace belongs to this process");
    }

    /// A shell command inside; its output and exit code.
    pub fn try_sh(&self, command: &str) -> Said {
        self.enter(|| run(Command::new("sh").args(["-c", command]), ""))
    }

    /// A shell command inside that must succeed.
    #[track_caller]
    pub fn sh(&self, command: &str) -> String {
        let said = self.try_sh(command);
        assert!(
            said.code == 0,
            "{}: `{command}` ended with {}: {}",
            self.name,
            said.code,
            said.out
        );
        said.out
    }

    /// `ip -batch` inside: one process for many lines.
    #[track_caller]
    pub fn ip(&self, lines: &[String]) {
        let text = lines.join("\n") + "\n";
        let said = run(Command::new("ip").args(["-n", &self.name, "-batch", "-"]), &text);
        assert!(said.code == 0, "ip in {}: {}", self.name, said.out);
    }

    /// `nft -f -` inside.
    #[track_caller]
    pub fn nft(&self, script: &str) {
        let said = self.enter(|| run(Command::new("nft").args(["-f", "-"]), script));
        assert!(said.code == 0, "nft in {}: {}\n{script}", self.name, said.out);
    }
}

fn run(command: &mut Command, input: &str) -> Said {
    let started = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .and_then(|mut child| {
            let mut stdin = child.stdin.take().expect("piped above");
            stdin.write_all(input.as_bytes()).ok();
            drop(stdin);
            child.wait_with_output()
        });
    match started {
        Ok(output) => Said { code: output.status.code().unwrap_or(-1), out: text_of(&output) },
        Err(error) => {
            panic!("{:?} cannot be started ({error}); is it installed?", command.get_program())
        }
    }
}

fn text_of(output: &Output) -> String {
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        text.push_str(&String::from_utf8_lossy(&output.stderr));
    }
    text
}
