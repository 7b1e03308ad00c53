//! What a failed request means, and what an operator should check.
//!
//! In: errors of the client. Out: what to do next, and a line for the log.

use super::access::chain;
use kube::core::response::Status;
use kube::runtime::watcher;

/// What the client writes for the reason where an answer holds none.
const NOT_JSON: &str = "Failed to parse error data";
/// Of an answer that is no object, as much is told.
const FOREIGN: usize = 120;

const ADDRESS: &str = "; check the server's address (`server` in the kubeconfig, or --master), and that it can \
     be reached from this node";
const AUTHORITY: &str =
    "; check certificate-authority in the kubeconfig: it must be that of the server's certificate";
const NO_TLS: &str = "; what listens there does not speak TLS: check the server's address (`server` in the \
     kubeconfig, or --master), whether it is https:// or http://";
const NO_SERVER: &str =
    "; is it a Kubernetes API server? check `server` in the kubeconfig, or --master";

/// What is to be done about a failed request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Remedy {
    /// The same again, later.
    Again,
    /// All anew, with a new client: who we are is not accepted any more, or what was said could not
    /// be read and would be missing.
    Anew,
    /// By another way: this server has no streaming lists.
    List,
    /// Without, if it can be done without: the server does not have the kind, or may not show it.
    Without,
}

/// The server's own word, where it gave one.
fn status(error: &watcher::Error) -> Option<&Status> {
    match error {
        watcher::Error::WatchError(status) => Some(status),
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchFailed(kube::Error::Api(status)) => Some(status),
        _ => None,
    }
}

/// `streaming`: the list was asked for as a stream.
pub(super) fn remedy(error: &watcher::Error, streaming: bool) -> Remedy {
    if matches!(error, watcher::Error::WatchFailed(kube::Error::SerdeError(_))) {
        return Remedy::Anew;
    }
    // The file that says whom to trust may be another one by now.
    if unanswered(error).is_some_and(|error| is_distrust(&cause(error))) {
        return Remedy::Anew;
    }
    match status(error).map(|status| status.code) {
        Some(401) => Remedy::Anew,
        Some(403 | 404) => Remedy::Without,
        // In the answer to a watch that goes on: asked again, it would be the same.
        Some(410) if matches!(error, watcher::Error::WatchStartFailed(_)) => Remedy::Anew,
        Some(400 | 422) if streaming => Remedy::List,
        _ => Remedy::Again,
    }
}

/// Whether the server does not know what the selector asks about.
pub(super) fn is_bad_selector(error: &watcher::Error) -> bool {
    status(error).is_some_and(|status| status.code == 400 && status.message.contains("field label"))
}

/// Whether it is news of a healthy watch: the place where it stood is too old by now.
pub(super) fn is_expired(error: &watcher::Error) -> bool {
    matches!(error, watcher::Error::WatchError(status) if status.code == 410)
}

/// For the log.
pub(super) fn told(error: &watcher::Error) -> String {
    match status(error) {
        Some(status) if status.reason == NOT_JSON => {
            let said: String = status.message.chars().take(FOREIGN).collect();
            format!("the API server answers {}: {said:?}{NO_SERVER}", status.code)
        }
        Some(status) => {
            let advice = match status.code {
                401 => "; check the token or the client certificate",
                403 => "; a ClusterRole must grant list and watch (examples/kubernetes)",
                _ => "",
            };
            let message = match status.message.as_str() {
                "" => status.reason.as_str(),
                message => message,
            };
            format!("the API server answers {}: {message}{advice}", status.code)
        }
        None => unanswered(error).map_or_else(|| chain(error), told_unanswered),
    }
}

/// Where no answer came, or one that cannot be read.
fn unanswered(error: &watcher::Error) -> Option<&kube::Error> {
    match error {
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => Some(error),
        _ => None,
    }
}

/// Without the name that the client has for whatever goes wrong on the way to a server.
fn cause(error: &kube::Error) -> String {
    match error {
        kube::Error::Service(cause) => chain(cause.as_ref()),
        error => chain(error),
    }
}

/// The TLS library is not ours to match on: it writes `invalid peer certificate: …`.
fn is_distrust(text: &str) -> bool {
    text.contains("peer certificate")
}

fn told_unanswered(error: &kube::Error) -> String {
    let text = cause(error);
    let advice = match error {
        kube::Error::SerdeError(_) | kube::Error::FromUtf8(_) => NO_SERVER,
        _ if is_distrust(&text) => AUTHORITY,
        _ if text.contains("corrupt message") => NO_TLS,
        // As the HTTP client calls what goes wrong before a request is sent.
        _ if text.contains("(Connect)") => ADDRESS,
        _ => "",
    };
    format!("{text}{advice}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(code: u16, message: &str) -> watcher::Error {
        let status = Status { code, message: message.into(), ..Status::default() };
        watcher::Error::InitialListFailed(kube::Error::Api(Box::new(status)))
    }

    #[test]
    fn what_is_to_be_done() {
        for (code, streaming, wanted) in [
            (401, false, Remedy::Anew),
            (403, false, Remedy::Without),
            (404, true, Remedy::Without),
            (400, true, Remedy::List),
            (422, true, Remedy::List),
            (422, false, Remedy::Again),
            (500, true, Remedy::Again),
        ] {
            assert_eq!(remedy(&refused(code, ""), streaming), wanted, "{code} {streaming}");
        }
        assert_eq!(remedy(&watcher::Error::NoResourceVersion, true), Remedy::Again);
        let unread = serde_json::from_str::<u8>("x").expect_err("no number");
        let unread = watcher::Error::WatchFailed(kube::Error::SerdeError(unread));
        assert_eq!(remedy(&unread, false), Remedy::Anew);
        for (said, wanted) in [
            ("invalid peer certificate: UnknownIssuer", Remedy::Anew),
            ("Connection refused (os error 111)", Remedy::Again),
        ] {
            let error = watcher::Error::WatchStartFailed(kube::Error::Service(said.into()));
            assert_eq!(remedy(&error, false), wanted, "{said}");
        }
    }

    #[test]
    fn what_the_server_says_is_passed_on() {
        let said = "services is forbidden: User \"x\" cannot list resource \"services\"";
        let text = told(&refused(403, said));
        assert!(text.contains(said) && text.contains("ClusterRole"), "{text}");
        assert!(told(&refused(401, "Unauthorized")).contains("token"));
    }

    #[test]
    fn what_is_no_answer_of_a_server_is_told_in_part() {
        let status = Status::failure(&"<html>".repeat(1000), NOT_JSON).with_code(404);
        let text = told(&watcher::Error::WatchStartFailed(kube::Error::Api(Box::new(status))));
        assert!(text.contains("404") && text.contains("Kubernetes API server?"), "{text}");
        assert!(text.len() < 400, "{text}");
        let unread = serde_json::from_str::<u8>("<html>").expect_err("no number");
        let text = told(&watcher::Error::WatchFailed(kube::Error::SerdeError(unread)));
        assert!(text.contains("Kubernetes API server?"), "{text}");
    }
}
