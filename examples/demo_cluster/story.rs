//! The walkthrough's chapters, each with what must be seen.

use super::Result;
use super::cage::{ENTER, Kept, PID};
use super::cluster::{ADDRESS, Cluster, NODE, PODS};
use super::shell::Shell;
use super::traffic::TARGET;
use std::path::Path;
use std::time::Instant;

pub const DEPLOYMENT: &str = "nginx-deployment-dev";

const FILES: [(&str, &str); 4] = [
    ("nginx.yaml", include_str!("nginx.yaml")),
    ("nginx-deployment-dev.yaml", include_str!("nginx-deployment-dev.yaml")),
    ("nginx-service.yaml", include_str!("nginx-service.yaml")),
    ("rbac.yaml", include_str!("../kubernetes/rbac.yaml")),
];

pub fn tell(keep: bool) -> Result<Kept> {
    let start = Instant::now();
    heading("Installing Kubernetes: etcd, API server, controller manager, scheduler");
    let mut cluster = Cluster::start()?;
    println!("the API server answers after {:.0} s", start.elapsed().as_secs_f64());
    let told = chapters(&mut cluster, keep);
    if told.is_err() {
        eprintln!("{}", cluster.last_words());
    }
    let shell = told?;
    println!("\nall as it should be, in {:.0} s", start.elapsed().as_secs_f64());
    if !keep {
        return Ok(Kept::No);
    }
    println!("{}", how_to_look(&shell)?);
    Ok(Kept::Yes(Box::new(cluster)))
}

fn chapters(cluster: &mut Cluster, keep: bool) -> Result<Shell> {
    let shell = Shell::on(cluster)?;
    for (name, text) in FILES {
        shell.write(name, text)?;
    }
    nodes(cluster, &shell)?;
    proxy(cluster, &shell)?;
    pods(&shell)?;
    deployments(&shell)?;
    services(&shell)?;
    super::rolling::under_traffic(cluster, &shell)?;
    if !keep {
        deletion(&shell)?;
    }
    Ok(shell)
}

pub fn heading(text: &str) {
    println!("\n## {text}");
}

fn nodes(cluster: &mut Cluster, shell: &Shell) -> Result<()> {
    heading("Nodes");
    cluster.start_kubelet()?;
    println!("a stand-in for the kubelet is {NODE}: each of its pods is a network namespace");
    shell.show(&format!("kubectl wait --for=condition=Ready node/{NODE}"))?;
    let said = shell.show("kubectl get nodes -o wide")?;
    must_say(&said, &[NODE, "Ready", &ADDRESS.to_string()])?;
    // The controllers take their taint from a node that is ready.
    let taints = format!("kubectl get node {NODE} -o jsonpath={{.spec.taints}}");
    shell.until(&taints, str::is_empty)?;
    shell.show_first(22, "kubectl describe nodes")?;
    let lease = shell.show("kubectl -n kube-node-lease get leases")?;
    must_say(&lease, &[NODE])
}

fn proxy(cluster: &mut Cluster, shell: &Shell) -> Result<()> {
    heading("vipd in the place of kube-proxy");
    shell.show("kubectl apply -f rbac.yaml")?;
    shell.show("kubectl -n kube-system create token vipd >vipd.token")?;
    println!(
        "\nA kubeconfig file names the server and that token, and is named in the configuration:"
    );
    let kubeconfig = cluster.kubeconfig_of(&shell.file("vipd.token"));
    shell.write("config.conf", &configuration(&kubeconfig))?;
    shell.show("cat config.conf")?;
    println!("\n$ {} &", cluster.start_vipd(&shell.file("config.conf"))?);
    shell.until("curl -sSf http://127.0.0.1:10256/healthz", |_| true)?;
    let said = shell.show("curl -sS -w '\\n' http://127.0.0.1:10249/proxyMode")?;
    must_say(&said, &["nftables"])?;
    let said = shell.show("vipd get services -A")?;
    must_say(&said, &["10.254.0.1"])
}

/// As `examples/kubernetes` has it; the kernel's parameters and the OOM score are the machine's.
fn configuration(kubeconfig: &Path) -> String {
    format!(
        "apiVersion: kubeproxy.config.k8s.io/v1alpha1\n\
         kind: KubeProxyConfiguration\n\
         clientConnection:\n  kubeconfig: {}\n\
         mode: nftables\n\
         clusterCIDR: {PODS}\n\
         oomScoreAdj: 0\n\
         conntrack:\n  maxPerCore: 0\n  tcpEstablishedTimeout: 0s\n  tcpCloseWaitTimeout: 0s\n",
        kubeconfig.display()
    )
}

fn pods(shell: &Shell) -> Result<()> {
    heading("Pods");
    shell.show("kubectl api-versions | grep -E '^(apps/v1|discovery.k8s.io/v1|v1)$'")?;
    shell.show("cat nginx.yaml")?;
    shell.show("kubectl create -f nginx.yaml")?;
    shell.show("kubectl wait --for=condition=Ready pod/nginx")?;
    let said = shell.show("kubectl get pods -l app=nginx -o wide")?;
    must_say(&said, &["1/1", "Running", "172.17.0.", NODE])?;
    let said = shell.show("kubectl describe pod nginx")?;
    must_say(&said, &["Successfully assigned default/nginx to minion-1"])
}

fn deployments(shell: &Shell) -> Result<()> {
    heading("Deployments");
    shell.show("cat nginx-deployment-dev.yaml")?;
    shell.show("kubectl create -f nginx-deployment-dev.yaml")?;
    roll_out(shell)?;
    shell.show("kubectl get deployments")?;
    let said = shell.show(&format!("kubectl describe deployments -l app={DEPLOYMENT}"))?;
    must_say(&said, &["1 available", "Scaled up replica set"])?;
    let said = shell.show("kubectl get pods")?;
    must_say(&said, &[DEPLOYMENT])?;

    println!("\n`kubectl run` makes a pod today; a deployment without a file is made so:");
    let image = "--image=nginx:1.8 --port=80";
    shell.show(&format!("kubectl create deployment sample {image} --replicas=2"))?;
    shell.show("kubectl rollout status deployment/sample | tail -n 1")?;
    let said = shell.show("kubectl describe pods -l app=sample | grep -E '^(Name|Node|IP):'")?;
    must_say(&said, &["sample-", &format!("{NODE}/{ADDRESS}")])?;
    shell.show("kubectl delete deployment sample").map(|_| ())
}

pub fn roll_out(shell: &Shell) -> Result<()> {
    shell.show(&format!("kubectl rollout status deployment/{DEPLOYMENT} | tail -n 1")).map(|_| ())
}

/// Until the node has just so many endpoints for the service.
pub fn settle(shell: &Shell, pods: usize) -> Result<()> {
    let names = format!("kubectl get pods -l app={DEPLOYMENT} -o name");
    shell.until(&names, |said| said.lines().count() == pods)?;
    let look = "vipd get endpoints nginx-service -o json";
    shell.until(look, |said| said.matches("172.17.0.").count() == pods).map(|_| ())
}

fn services(shell: &Shell) -> Result<()> {
    heading("Services");
    println!("The service first, as the walkthrough advises.");
    shell.show(&format!("kubectl delete deployment {DEPLOYMENT}"))?;
    shell.show("cat nginx-service.yaml")?;
    shell.show("kubectl create -f nginx-service.yaml")?;
    let said = shell.show("kubectl get service")?;
    must_say(&said, &["10.254.0.1", "10.254.56.190"])?;
    settle(shell, 0)?;
    println!("\nNo pod yet: it refuses, at once.");
    shell.show_failing(&format!("curl -sS http://{TARGET}"))?;

    shell.show("kubectl create -f nginx-deployment-dev.yaml")?;
    roll_out(shell)?;
    settle(shell, 1)?;
    let said = shell.show("kubectl describe service nginx-service")?;
    must_say(&said, &["8000/TCP", "172.17.0."])?;
    shell.show("kubectl get endpointslices -l kubernetes.io/service-name=nginx-service")?;

    println!("\nThe same, as vipd on this node sees it:");
    shell.show("vipd get services")?;
    shell.show("vipd describe service default/nginx-service")?;
    let client = shell.until("kubectl get pod nginx -o jsonpath={.status.podIP}", |_| true)?;
    let said = shell.show(&format!("vipd trace {client} {TARGET}/tcp"))?;
    must_say(&said, &["172.17.0."])?;

    println!("\nFrom a pod, which keeps its address, and from the node:");
    let said = shell.show(&format!("ip netns exec nginx curl -sS http://{TARGET}"))?;
    must_say(&said, &["Welcome to nginx!", &format!("you are {client}.")])?;
    let said = shell.show(&format!("curl -sS http://{TARGET}"))?;
    must_say(&said, &["Welcome to nginx!", &format!("you are {ADDRESS}.")])
}

fn deletion(shell: &Shell) -> Result<()> {
    heading("Deleting");
    shell.show(&format!("kubectl delete deployment {DEPLOYMENT}"))?;
    settle(shell, 0)?;
    shell.show_failing(&format!("curl -sS http://{TARGET}"))?;
    shell.show("kubectl delete service nginx-service")?;
    shell.until("vipd get services", |said| !said.contains("nginx-service"))?;
    println!("\nNobody has that address now: what is sent there is dropped.");
    let said = shell.show(&format!("vipd trace {ADDRESS} {TARGET}/tcp"))?;
    must_say(&said, &["drop"])?;
    shell.show_failing(&format!("curl -sS --max-time 1 http://{TARGET}"))?;
    shell.show("kubectl delete pod nginx")?;
    let said = shell.show("kubectl get pods")?;
    must_say(&said, &["No resources found"])?;
    shell.show("kubectl get events --field-selector reason=Killing")?;
    let said = shell.show("vipd get services -A")?;
    match said.contains("nginx-service") {
        true => Err("the service is still there".to_owned()),
        false => Ok(()),
    }
}

pub fn must_say(said: &str, words: &[&str]) -> Result<()> {
    match words.iter().find(|word| !said.contains(**word)) {
        Some(missing) => Err(format!("it does not say {missing:?}")),
        None => Ok(()),
    }
}

fn how_to_look(shell: &Shell) -> Result<String> {
    let script = shell.enter_by_hand()?;
    Ok(format!(
        "left running, with pods of {PODS}:\n  \
         enter    {ENTER} bash {}\n  \
         then     kubectl get pods -o wide; vipd get endpoints; nft list table inet vipd\n  \
         ask      curl http://{TARGET}; ip netns exec nginx curl http://{TARGET}\n  \
         logs     {}, seen from there\n  \
         remove   kill -KILL {PID}",
        script.display(),
        script.with_file_name("*.log").display()
    ))
}
