//! The deployment changes while it is used.

use super::Result;
use super::cluster::{Cluster, POD_STOPS_AFTER};
use super::shell::Shell;
use super::story::{DEPLOYMENT, heading, roll_out, settle};
use super::traffic::{self, EVERY, Traffic};
use std::collections::BTreeMap;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long a state is watched.
const WATCH: Duration = Duration::from_secs(2);
/// Those that are under way when a state is reached.
const SLACK: Duration = Duration::from_millis(300);

const OLD: &str = "nginx:1.7.9";
const NEW: &str = "nginx:1.8";

pub fn under_traffic(cluster: &Cluster, shell: &Shell) -> Result<()> {
    heading("Scaling and making changes, under traffic");
    let places = [("a pod", cluster.pod("nginx")?), ("the node", cluster.node.clone())];
    println!(
        "A new connection from a pod and from the node every {} ms, none tried twice; an old pod \
         refuses\n{} ms after its slice calls it terminating.",
        EVERY.as_millis(),
        POD_STOPS_AFTER.as_millis()
    );
    let began = Instant::now();
    let traffic = Traffic::start(&places);

    shell.show(&format!("kubectl scale deployment {DEPLOYMENT} --replicas=4"))?;
    roll_out(shell)?;
    settle(shell, 4)?;
    shell.show(&format!("kubectl get pods -l app={DEPLOYMENT} -o wide"))?;
    shell.show("vipd get endpoints nginx-service")?;
    check(&watch(&traffic), 4, OLD)?;

    println!("\n1.7.9 becomes 1.8 in the file, and there are four now:");
    let edit = "s/replicas: 1/replicas: 4/; s/nginx:1.7.9/nginx:1.8/";
    shell.show(&format!("sed -i '{edit}' nginx-deployment-dev.yaml"))?;
    shell.show("kubectl apply -f nginx-deployment-dev.yaml")?;
    roll_out(shell)?;
    settle(shell, 4)?;
    shell.show(&format!("kubectl describe pods -l app={DEPLOYMENT} | grep Image:"))?;
    check(&watch(&traffic), 4, NEW)?;
    shell.show(&format!("kubectl describe deployments {DEPLOYMENT} | sed -n '/^Events/,$p'"))?;

    shell.show(&format!("kubectl scale deployment {DEPLOYMENT} --replicas=2"))?;
    roll_out(shell)?;
    settle(shell, 2)?;
    check(&watch(&traffic), 2, NEW)?;

    let took = began.elapsed();
    let samples = traffic.stop();
    let told = traffic::none_failed(&samples, took, places.len())
        .map_err(|error| format!("{error}\n{}", when(&samples, began)))?;
    println!("\n{told}");
    Ok(())
}

fn watch(traffic: &Traffic) -> BTreeMap<String, usize> {
    sleep(SLACK);
    let since = Instant::now();
    sleep(WATCH);
    traffic.answers_since(since)
}

/// So many pods answer, all with this image, each its share.
fn check(answers: &BTreeMap<String, usize>, pods: usize, image: &str) -> Result<()> {
    println!("\nanswers of the last {} s:", WATCH.as_secs());
    for (who, count) in answers {
        println!("{count:>6}  {who}");
    }
    let suffix = format!("({image})");
    if let Some(other) = answers.keys().find(|who| !who.ends_with(&suffix)) {
        return Err(format!("{other} answered, and should not have"));
    }
    let all: usize = answers.values().sum();
    let share = all as f64 / pods as f64;
    // Five standard deviations of a fair choice.
    let allowed = 5.0 * (share * (1.0 - 1.0 / pods as f64)).sqrt();
    let fair = answers.values().all(|count| (*count as f64 - share).abs() <= allowed);
    match answers.len() == pods && fair {
        true => Ok(()),
        false => {
            Err(format!("of {pods} pods each should have answered {share:.0} ± {allowed:.0} times"))
        }
    }
}

/// Failures by the time since the traffic began.
fn when(samples: &[traffic::Sample], began: Instant) -> String {
    let failed = samples.iter().filter_map(|sample| Some((sample, sample.outcome.as_ref().err()?)));
    let lines = failed.take(20).map(|(sample, why)| {
        let after = sample.started.saturating_duration_since(began).as_secs_f64();
        format!("  {after:.3} s after the first, from {}: {why}", sample.place)
    });
    lines.collect::<Vec<_>>().join("\n")
}
