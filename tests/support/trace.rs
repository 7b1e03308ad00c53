//! What the running daemon says must happen to a packet.
//!
//! In: `vipd trace -o json`. Out: `Trace`.
//! Never: types of vipd itself, so that a change of its answer is seen here.

use serde::Deserialize;
use std::net::SocketAddr;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Forward,
    Reject,
    Drop,
    Pass,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Trace {
    pub verdict: Verdict,
    pub endpoints: Vec<Endpoint>,
    /// `None` where it depends on the endpoint.
    pub masquerade: Option<bool>,
    pub steps: Vec<Step>,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Endpoint {
    pub address: SocketAddr,
    pub masquerade: bool,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Step {
    pub what: String,
    pub why: String,
}

impl Trace {
    /// Whether vipd itself opens the connection to the endpoint.
    pub fn is_relayed(&self) -> bool {
        self.steps.iter().any(|step| step.why.starts_with("the relay carries it"))
    }

    /// Reads it and checks what holds for every trace.
    pub fn parse(text: &str) -> Result<Trace, String> {
        let trace: Trace =
            serde_json::from_str(text).map_err(|error| format!("{error} in {text}"))?;
        let told = trace.steps.iter().all(|step| !step.what.is_empty() && !step.why.is_empty());
        let forward = trace.verdict == Verdict::Forward;
        let masquerades = trace.endpoints.iter().map(|one| one.masquerade);
        let agrees = match trace.masquerade {
            Some(all) if forward => masquerades.into_iter().all(|one| one == all),
            _ => true,
        };
        if trace.steps.is_empty() || !told || forward == trace.endpoints.is_empty() || !agrees {
            return Err(format!("contradicts itself: {text}"));
        }
        Ok(trace)
    }
}
