//! Commands as a reader types them, on the node.
//!
//! In: a line. Out: the line and what it printed.
//! Never: a command that waits for ever; a file in anybody's home.

use super::Result;
use super::cluster::Cluster;
use super::control_plane;
use super::netns::Netns;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Seconds for one command.
const PATIENCE: &str = "60";
/// Until what has been asked for is to be seen.
const SOON: Duration = Duration::from_secs(30);

pub struct Shell {
    node: Netns,
    /// Where the manifests are.
    folder: PathBuf,
    kubeconfig: PathBuf,
    path: String,
}

impl Shell {
    pub fn on(cluster: &Cluster) -> Result<Self> {
        let folder = cluster.folder.join("walkthrough");
        let fail = |error: std::io::Error| format!("{}: {error}", folder.display());
        std::fs::create_dir_all(&folder).map_err(fail)?;
        // A folder for `vipd` alone, whatever stands beside the binary under test.
        let bin = cluster.folder.join("bin");
        std::fs::create_dir_all(&bin).map_err(fail)?;
        symlink(&cluster.vipd_binary, bin.join("vipd")).map_err(fail)?;
        let before = std::env::var("PATH").unwrap_or_default();
        // The built kubectl stands behind an installed one.
        let peers = control_plane::part("kubectl");
        let peers = peers.parent().map(|path| path.display().to_string()).unwrap_or_default();
        let path = format!("{}:{before}:{peers}", bin.display());
        Ok(Self { node: cluster.node.clone(), folder, kubeconfig: cluster.kubeconfig(), path })
    }

    /// A script that goes on where this ends, for a reader who enters the namespaces.
    pub fn enter_by_hand(&self) -> Result<PathBuf> {
        let path = self.folder.with_file_name("enter");
        let text = format!(
            "cd {}\nexec ip netns exec {} env HOME=$PWD KUBECONFIG={} PATH='{}' bash --norc\n",
            self.folder.display(),
            self.node.name(),
            self.kubeconfig.display(),
            self.path
        );
        std::fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(path)
    }

    pub fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.folder.join(name);
        std::fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Its output, errors among it, and whether it succeeded.
    fn run(&self, line: &str) -> Result<(String, bool)> {
        let mut command = Command::new("timeout");
        command
            .args([PATIENCE, "sh", "-c", &format!("exec 2>&1; {line}")])
            .current_dir(&self.folder)
            .env("HOME", &self.folder)
            .env("KUBECONFIG", &self.kubeconfig)
            .env("PATH", &self.path)
            .stdin(Stdio::null());
        let output = self.node.enter(|| command.output());
        let output =
            output.map_err(|error| format!("timeout: {error} (apt-get install coreutils)"))?;
        Ok((String::from_utf8_lossy(&output.stdout).into_owned(), output.status.success()))
    }

    /// Prints the command and all that it says; it must succeed.
    pub fn show(&self, line: &str) -> Result<String> {
        self.show_first(usize::MAX, line)
    }

    /// The same, but so many lines of it.
    pub fn show_first(&self, lines: usize, line: &str) -> Result<String> {
        println!("\n$ {line}");
        let (said, well) = self.run(line)?;
        for line in said.lines().take(lines) {
            println!("{}", line.trim_end());
        }
        if said.lines().count() > lines {
            println!("...");
        }
        if well { Ok(said) } else { Err(format!("`{line}` failed")) }
    }

    /// Prints the command and what it says; it must fail.
    pub fn show_failing(&self, line: &str) -> Result<String> {
        println!("\n$ {line}");
        let (said, well) = self.run(line)?;
        print!("{said}");
        if well { Err(format!("`{line}` succeeded, and should not have")) } else { Ok(said) }
    }

    /// Prints nothing; what it says once that is as wanted.
    pub fn until(&self, line: &str, is: impl Fn(&str) -> bool) -> Result<String> {
        let end = Instant::now() + SOON;
        loop {
            let (said, well) = self.run(line)?;
            if well && is(&said) {
                return Ok(said);
            }
            if Instant::now() > end {
                return Err(format!("`{line}` does not say what it should:\n{said}"));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}
