//! The manifests that the demo edits, in a folder of its own.

use super::Result;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// As the EndpointSlice controller sees a pod.
#[derive(Clone, Copy)]
pub enum State {
    Ready,
    Terminating,
}

pub struct Manifests {
    pub folder: PathBuf,
}

impl Manifests {
    /// Copies `examples/nginx`.
    pub fn copy_to(folder: PathBuf) -> Result<Self> {
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/nginx");
        let fail = |path: &Path, error: std::io::Error| format!("{}: {error}", path.display());
        fs::create_dir_all(&folder).map_err(|error| fail(&folder, error))?;
        for entry in fs::read_dir(&from).map_err(|error| fail(&from, error))? {
            let entry = entry.map_err(|error| fail(&from, error))?;
            let to = folder.join(entry.file_name());
            fs::copy(entry.path(), &to).map_err(|error| fail(&to, error))?;
        }
        Ok(Self { folder })
    }

    /// Replaces the service's endpoints, as an editor saves: a new file, renamed over the old.
    pub fn endpoints(&self, pods: &[(&str, &str, State)]) -> Result<()> {
        let to = self.folder.join("nginx-endpoints.yaml");
        if !to.exists() {
            return Err(format!("{} is gone", to.display()));
        }
        let new = self.folder.join(".nginx-endpoints.new");
        fs::write(&new, slice(pods))
            .and_then(|()| fs::rename(&new, &to))
            .map_err(|error| format!("{}: {error}", to.display()))
    }
}

fn slice(pods: &[(&str, &str, State)]) -> String {
    let mut text = "\
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: nginx-service-demo1
  namespace: default
  labels:
    kubernetes.io/service-name: nginx-service
    endpointslice.kubernetes.io/managed-by: endpointslice-controller.k8s.io
addressType: IPv4
ports:
  - name: \"\"
    port: 80
    protocol: TCP
"
    .to_owned();
    text.push_str(if pods.is_empty() { "endpoints: []\n" } else { "endpoints:\n" });
    for (name, address, state) in pods {
        let conditions = match state {
            State::Ready => "ready: true, serving: true, terminating: false",
            State::Terminating => "ready: false, serving: true, terminating: true",
        };
        write!(
            text,
            "  - addresses: [{address}]\n    nodeName: node-a\n    \
             targetRef: {{kind: Pod, namespace: default, name: {name}}}\n    \
             conditions: {{{conditions}}}\n"
        )
        .expect("a String takes all");
    }
    text
}
