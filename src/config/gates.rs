//! Feature gates: which there are, and which can be set together.
//!
//! In: what is asked for. Out: why kube-proxy would not start with it.
//! Never: a gate that means nothing upstream.

use std::collections::{BTreeMap, BTreeSet};

/// Gates as `name → on`.
pub type Gates = BTreeMap<String, bool>;

/// Means here what it means upstream.
pub const EXTERNAL_IPS: &str = "AllowServiceExternalIPs";
/// Without it mode ipvs is none.
pub const IPVS: &str = "KubeProxyIPVS";
/// Without it the log's buffers and streams cannot be chosen.
pub const LOGGING: &str = "LoggingAlphaOptions";

const KNOWN: &str = include_str!("gates.txt");

struct Gate<'a> {
    stage: &'a str,
    on: bool,
    locked: bool,
    needs: Vec<&'a str>,
}

/// By name, in the order of names.
fn all() -> impl Iterator<Item = (&'static str, Gate<'static>)> {
    let lines = KNOWN.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| {
        let mut words = line.split(' ');
        let (name, stage, on) = (words.next()?, words.next()?, words.next()? == "on");
        let rest: Vec<_> = words.collect();
        let locked = rest.first() == Some(&"locked");
        let needs = rest.iter().skip_while(|word| **word != "needs").skip(1).copied().collect();
        Some((name, Gate { stage, on, locked, needs }))
    })
}

fn known() -> BTreeMap<&'static str, Gate<'static>> {
    all().collect()
}

/// All that is wrong, a line each.
pub fn faults(given: &Gates) -> Vec<String> {
    // Most set none.
    if given.is_empty() {
        return Vec::new();
    }
    let known = known();
    let mut faults = Vec::new();
    for (name, on) in given {
        match known.get(name.as_str()) {
            None => faults.push(format!(
                "there is no feature gate {name} in Kubernetes 1.37; check its spelling, or leave \
                 it out if it is gone"
            )),
            Some(gate) if gate.locked && gate.on != *on => faults.push(format!(
                "feature gate {name} is locked to {} in Kubernetes 1.37; leave it out",
                gate.on
            )),
            Some(_) => {}
        }
    }
    let on: BTreeSet<&str> = known
        .iter()
        .filter(|(name, gate)| is_on(given, name, gate))
        .map(|(name, _)| *name)
        .collect();
    for (name, gate) in known.iter().filter(|(name, _)| on.contains(*name)) {
        let missing: Vec<&str> =
            gate.needs.iter().copied().filter(|other| !on.contains(other)).collect();
        if !missing.is_empty() {
            faults.push(format!("feature gate {name} needs {} to be on too", missing.join(", ")));
        }
    }
    faults
}

fn is_on(given: &Gates, name: &str, gate: &Gate<'_>) -> bool {
    let all = match gate.stage {
        _ if gate.locked => None,
        "alpha" => given.get("AllAlpha"),
        "beta" => given.get("AllBeta"),
        _ => None,
    };
    given.get(name).or(all).copied().unwrap_or(gate.on)
}

/// Whether a gate is on.
pub fn on(given: &Gates, name: &str) -> bool {
    known().get(name).is_some_and(|gate| is_on(given, name, gate))
}

/// Each gate: its name, its stage in small letters (`ga` where it has passed them all), whether it is on.
pub fn states(given: &Gates) -> impl Iterator<Item = (&'static str, &'static str, bool)> {
    all().map(|(name, gate)| (name, gate.stage, is_on(given, name, &gate)))
}

/// `A=true,B=false`, as `--feature-gates` has them.
pub fn parse(text: &str) -> Result<Gates, String> {
    let mut gates = Gates::new();
    for pair in text.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
        let (name, value) =
            pair.split_once('=').ok_or("expected NAME=true or NAME=false, with commas between")?;
        gates.insert(name.trim().to_owned(), super::value::boolean(value.trim())?);
    }
    Ok(gates)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        faults(&parse(text).unwrap()).join("; ")
    }

    #[test]
    fn gates_of_kube_proxy_can_be_set() {
        assert!(known().len() > 250, "{}", known().len());
        for given in [
            "",
            "AllowServiceExternalIPs=false,KubeProxyIPVS=true",
            "NFTablesProxyMode=true,MultiCIDRServiceAllocator=true",
            "AllAlpha=false, AllBeta=T",
            "WorkloadWithJob=true,GenericWorkload=true",
        ] {
            assert_eq!(refused(given), "", "{given}");
        }
        assert!(on(&Gates::new(), EXTERNAL_IPS) && on(&Gates::new(), IPVS));
        assert!(!on(&parse("AllowServiceExternalIPs=false").unwrap(), EXTERNAL_IPS));
        assert!(!on(&Gates::new(), LOGGING) && on(&parse("AllAlpha=1").unwrap(), LOGGING));
    }

    #[test]
    fn all_of_a_stage_are_set_together() {
        let on = |given: &str, stage: &str| {
            let given = parse(given).unwrap();
            states(&given).filter(|(_, of, on)| *of == stage && *on).count()
        };
        let of = |stage: &str| states(&Gates::new()).filter(|(_, of, _)| *of == stage).count();
        assert_eq!(on("AllAlpha=true", "alpha"), of("alpha"));
        assert_eq!((on("", "alpha"), on("AllAlpha=true", "beta")), (0, on("", "beta")));
        assert_eq!(on("AllBeta=true,CRDObservedGenerationTracking=false", "beta"), of("beta") - 1);
        assert!(states(&Gates::new()).map(|(name, ..)| name).is_sorted());
    }

    #[test]
    fn others_are_refused_by_name() {
        for (given, part) in [
            ("Foo=true", "no feature gate Foo"),
            ("TopologyAwareHints=true", "no feature gate TopologyAwareHints"),
            ("NFTablesProxyMode=false", "locked to true"),
            ("WorkloadWithJob=true", "needs GenericWorkload"),
        ] {
            assert!(refused(given).contains(part), "{given}: {}", refused(given));
        }
        assert!(parse("Foo").is_err() && parse("Foo=maybe").is_err());
    }
}
