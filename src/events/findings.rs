//! What two published states differ in that is worth an Event. PURE: costs what differs.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use super::notice::{About, Notice, Reason};
use crate::model::{Problem, ServiceKey, Severity};
use crate::planner::{Contests, FrontendKey};
use crate::sources::Scope;
use crate::sync::Snapshot;
use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What was seen of a state. The rest of it is let go.
#[derive(Debug, Default)]
pub(super) struct Seen {
    problems: OrdMap<Scope, Arc<[Problem]>>,
    contests: Contests,
    repairs: u64,
}

impl Seen {
    /// What is new; the next look compares with this state.
    pub fn look(&mut self, now: &Snapshot) -> Vec<Notice> {
        let mut notices = rejected(&self.problems, &now.problems);
        let contests = now.plan.claims.contests();
        notices.extend(lost((&self.contests, &contests), now));
        if now.status.repairs > self.repairs {
            notices.push(Notice {
                about: About::Node,
                reason: Reason::ForeignEditRepaired,
                note: "another program changed table inet vipd, or removed a route of vipd's, and \
                       that was written again; `nft monitor` and `ip monitor route` on the node \
                       show what is done"
                    .into(),
            });
        }
        *self = Self { problems: now.problems.clone(), contests, repairs: now.status.repairs };
        notices
    }
}

fn rejected(
    before: &OrdMap<Scope, Arc<[Problem]>>,
    now: &OrdMap<Scope, Arc<[Problem]>>,
) -> Vec<Notice> {
    let mut notices = Vec::new();
    for item in before.diff(now) {
        let (old, new) = match item {
            DiffItem::Add(_, new) => (&[][..], &**new),
            DiffItem::Update { old: (_, old), new: (_, new) } => (&**old, &**new),
            DiffItem::Remove(..) => continue,
        };
        let fresh = new.iter().filter(|problem| !old.contains(problem));
        notices.extend(fresh.filter_map(of_rejected));
    }
    notices
}

fn of_rejected(problem: &Problem) -> Option<Notice> {
    let object = problem.object.as_ref().filter(|_| problem.severity == Severity::Rejected)?;
    let Problem { field, reason, .. } = problem;
    let what = if field.is_empty() { reason.to_string() } else { format!("{field}: {reason}") };
    let note = format!("not served: {what}").into();
    Some(Notice { about: About::object(object), reason: Reason::Rejected, note })
}

/// A Service that loses several frontends to another one is one notice.
fn lost((before, after): (&Contests, &Contests), now: &Snapshot) -> Vec<Notice> {
    let mut pairs: BTreeMap<(&ServiceKey, &ServiceKey), (&FrontendKey, usize)> = BTreeMap::new();
    for (at, loser) in after.lost_since(before) {
        let Some(holder) = now.plan.claims.holder(at) else { continue };
        pairs.entry((loser, holder)).or_insert((at, 0)).1 += 1;
    }
    let notice = |((loser, holder), (at, count)): (_, (&FrontendKey, usize))| {
        let more = match count {
            1 => String::new(),
            count => format!(" (and {} more)", count - 1),
        };
        let note = format!(
            "{at}{more} is held by Service {holder}, which comes first by age, then by name; give one \
             of them another address or port"
        );
        Notice {
            about: About::service(loser),
            reason: Reason::FrontendHeldByOther,
            note: note.into(),
        }
    };
    pairs.into_iter().map(notice).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{
        Annotations, AppProtocol, ClusterIps, Created, Kind, ObjectRef, Origin, Protocol, Service,
        ServicePort, ServiceType, Shown, TargetPort, TrafficPolicy,
    };
    use crate::planner::{Planner, Policy};
    use crate::sync::SyncStatus;

    fn problem(severity: Severity, key: &str, reason: &str) -> Problem {
        Problem {
            severity,
            origin: Origin::Cluster,
            object: Some(ObjectRef::new(Kind::Service, key)),
            field: "spec.clusterIP".into(),
            reason: reason.into(),
        }
    }

    fn snapshot() -> Snapshot {
        let plan = crate::planner::Plan::empty();
        let (known, problems) = (OrdMap::new(), OrdMap::new());
        Snapshot { known, plan, problems, status: SyncStatus::default() }
    }

    fn said(seen: &mut Seen, now: &Snapshot) -> Vec<(Reason, String)> {
        let notices = seen.look(now).into_iter();
        notices.map(|notice| (notice.reason, notice.note.into())).collect()
    }

    #[test]
    fn a_rejection_is_said_once_and_again_for_another_reason() {
        let (mut seen, mut now) = (Seen::default(), snapshot());
        let scope = Scope::Object(ObjectRef::new(Kind::Service, "prod/web"));
        let mut rejected = |reasons: &[(Severity, &str)]| {
            let problems: Vec<Problem> =
                reasons.iter().map(|(severity, why)| problem(*severity, "prod/web", why)).collect();
            now.problems.insert(scope.clone(), problems.into());
            said(&mut seen, &now).into_iter().map(|(_, note)| note).collect::<Vec<_>>()
        };
        let text = |reason: &str| format!("not served: spec.clusterIP: {reason}");
        assert_eq!(rejected(&[(Severity::Rejected, "no IP")]), [text("no IP")]);
        assert_eq!(rejected(&[(Severity::Rejected, "no IP")]), [""; 0]);
        assert_eq!(rejected(&[(Severity::Rejected, "twice")]), [text("twice")]);
        assert_eq!(rejected(&[(Severity::Warning, "odd")]), [""; 0]);
        now.problems.clear();
        assert_eq!(said(&mut seen, &now), []);
    }

    #[test]
    fn a_repair_is_about_the_node() {
        let (mut seen, mut now) = (Seen::default(), snapshot());
        assert_eq!(seen.look(&now), []);
        now.status.repairs = 2;
        let notices = seen.look(&now);
        assert_eq!(notices.len(), 1);
        assert_eq!(
            (&notices[0].about, notices[0].reason),
            (&About::Node, Reason::ForeignEditRepaired)
        );
        assert_eq!(seen.look(&now), []);
    }

    /// All claim one address, at two ports.
    fn service(name: &str, created: i64) -> (ServiceKey, Arc<crate::model::Known>) {
        let key = ServiceKey::new("prod", name);
        let port = |port: u16| ServicePort {
            name: port.to_string().as_str().into(),
            protocol: Protocol::Tcp,
            port,
            node_port: None,
            app_protocol: AppProtocol::default(),
            target_port: TargetPort::Unset,
        };
        let service = Service {
            key: key.clone(),
            created: Created::new(Some(created)),
            service_type: ServiceType::ClusterIp,
            cluster_ips: ClusterIps { v4: Some([10, 254, 0, 1].into()), v6: None },
            ports: [port(80), port(81)].into(),
            uncommon: None,
            internal_policy: TrafficPolicy::Cluster,
            external_policy: TrafficPolicy::Cluster,
            affinity: None,
            publish_not_ready_addresses: false,
            annotations: Annotations::default(),
            shown: Shown::default(),
        };
        let service = Some(Arc::new(service));
        (key, Arc::new(crate::model::Known { service, ..Default::default() }))
    }

    #[test]
    fn who_loses_is_told_once_whatever_comes_after() {
        let mut planner = Planner::new(Policy::default(), "node-a".into());
        let (mut seen, mut now, mut known) = (Seen::default(), snapshot(), OrdMap::new());
        let mut after = |change: Option<(ServiceKey, Arc<crate::model::Known>)>,
                         gone: Option<&str>| {
            let gone = gone.map(|name| ServiceKey::new("prod", name));
            let changed: Vec<ServiceKey> =
                change.iter().map(|(key, _)| key.clone()).chain(gone.clone()).collect();
            known.extend(change);
            gone.iter().for_each(|key| drop(known.remove(key)));
            planner.replan(changed, &known);
            now.plan = planner.plan().clone();
            said(&mut seen, &now).into_iter().map(|(_, note)| note).collect::<Vec<_>>()
        };
        assert_eq!(after(Some(service("old", 1)), None), [""; 0]);
        let told = after(Some(service("young", 3)), None);
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].starts_with("10.254.0.1:80/TCP (and 1 more) is held by Service prod/old"));
        // The middle one loses, and nothing is new about the youngest.
        let told = after(Some(service("middle", 2)), None);
        assert_eq!(told.len(), 1, "{told:?}");
        assert_eq!(after(None, Some("old")), [""; 0], "who held it is another, who lost is not");
        assert_eq!(after(None, Some("middle")), [""; 0]);
        assert_eq!(after(Some(service("old", 1)), None).len(), 1, "it has lost anew");
    }
}
