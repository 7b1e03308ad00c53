//! What a failed request means, and what an operator should check.
//!
//! In: errors of the client. Out: what to do next, and a line for the log.

use super::access::chain;
use kube::core::response::Status;
use kube::runtime::watcher;

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
        None => match error {
            watcher::Error::InitialListFailed(error)
            | watcher::Error::WatchStartFailed(error)
            | watcher::Error::WatchFailed(error) => chain(error),
            other => chain(other),
        },
    }
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
    }

    #[test]
    fn what_the_server_says_is_passed_on() {
        let said = "services is forbidden: User \"x\" cannot list resource \"services\"";
        let text = told(&refused(403, said));
        assert!(text.contains(said) && text.contains("ClusterRole"), "{text}");
        assert!(told(&refused(401, "Unauthorized")).contains("token"));
    }
}
