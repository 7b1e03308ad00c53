//! Objects that are not served as they were written.

use crate::model::{ObjectRef, Problem, ServiceKey};
use crate::planner;
use crate::sync::Snapshot;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ProblemView {
    /// `rejected`, `shadowed` or `warning`
    pub severity: String,
    /// `Kind namespace/name`, where the object could be told.
    pub object: Option<String>,
    /// Of the object, where its kind has one.
    pub namespace: Option<String>,
    /// File and document, or `cluster`.
    pub source: String,
    pub field: String,
    pub reason: String,
}

impl From<&Problem> for ProblemView {
    fn from(problem: &Problem) -> Self {
        Self {
            severity: problem.severity.name().to_owned(),
            object: problem.object.as_ref().map(ToString::to_string),
            namespace: problem.object.as_ref().and_then(namespace),
            source: problem.origin.to_string(),
            field: problem.field.to_string(),
            reason: problem.reason.to_string(),
        }
    }
}

fn namespace(object: &ObjectRef) -> Option<String> {
    object.key.split_once('/').map(|(namespace, _)| namespace.to_owned())
}

/// All problems, the worst first; of one severity in the order of their objects.
pub fn problem_views(snapshot: &Snapshot) -> Vec<ProblemView> {
    sorted(all(snapshot))
}

/// The problems of one Service, of its slices and of the Endpoints object of its name.
pub fn problems_of(snapshot: &Snapshot, key: &ServiceKey) -> Vec<ProblemView> {
    let mut problems = all(snapshot);
    problems.retain(|problem| problem.object.as_ref().is_some_and(|o| o.concerns(key)));
    sorted(problems)
}

/// What the sources say, and what follows from the plan.
fn all(snapshot: &Snapshot) -> Vec<Problem> {
    let mut problems = planner::problems(&snapshot.plan, &snapshot.known);
    problems.extend(snapshot.problems.values().flat_map(|said| said.iter().cloned()));
    problems
}

fn sorted(mut problems: Vec<Problem>) -> Vec<ProblemView> {
    problems.sort_by(|a, b| {
        (a.severity, &a.object, &a.origin, &a.field, &a.reason)
            .cmp(&(b.severity, &b.object, &b.origin, &b.field, &b.reason))
    });
    problems.iter().map(ProblemView::from).collect()
}
