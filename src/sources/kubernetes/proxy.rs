//! The proxy before the API server, where there is one.
//!
//! In: the kubeconfig's `proxy-url`, HTTPS_PROXY and its like. Out: its URL.
//! Never: a proxy for a server on this machine, or for one that NO_PROXY names.

use hyper::Uri;
use hyper_util::client::proxy::matcher::Matcher;
use std::net::IpAddr;

/// What the environment says, as Go's `ProxyFromEnvironment` reads it, and so client-go: the name in
/// capitals stands before the other.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Environment {
    http: String,
    https: String,
    no: String,
}

impl Environment {
    pub fn of_this_process() -> Self {
        let read = |[upper, lower]: [&str; 2]| {
            let of = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
            of(upper).or_else(|| of(lower)).unwrap_or_default()
        };
        Self {
            http: read(["HTTP_PROXY", "http_proxy"]),
            https: read(["HTTPS_PROXY", "https_proxy"]),
            no: read(["NO_PROXY", "no_proxy"]),
        }
    }

    /// The proxy for this server. One that is no URL is none.
    pub fn proxy_for(&self, server: &Uri) -> Option<Uri> {
        let proxy = if server.scheme_str() == Some("https") { &self.https } else { &self.http };
        let nowhere = self.no.split(',').any(|entry| entry.trim() == "*");
        if proxy.is_empty() || nowhere || is_here(server) {
            return None;
        }
        let matcher = Matcher::builder().all(proxy.as_str()).no(self.no.as_str()).build();
        matcher.intercept(server)?;
        url(proxy)
    }
}

/// A proxy without a scheme speaks HTTP.
pub(super) fn url(proxy: &str) -> Option<Uri> {
    let with_scheme = match proxy.contains("://") {
        true => proxy.to_owned(),
        false => format!("http://{proxy}"),
    };
    with_scheme.parse().ok()
}

fn is_here(server: &Uri) -> bool {
    let host = server.host().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case::https("https://10.0.0.1:6443", "", Some("http://proxy:3128/"))]
    #[case::http("http://10.0.0.1:8080", "", None)]
    #[case::the_host("https://api.example:6443", "api.example", None)]
    #[case::its_domain("https://api.example:6443", "x, .example", None)]
    #[case::its_network("https://10.0.0.1:6443", "192.168.0.0/16,10.0.0.0/8", None)]
    #[case::another_network("https://10.0.0.1:6443", "192.168.0.0/16", Some("http://proxy:3128/"))]
    #[case::all_of_them("https://10.0.0.1:6443", "*", None)]
    #[case::this_machine("https://127.0.0.1:6443", "", None)]
    #[case::this_machine_by_name("https://localhost:6443", "", None)]
    #[case::this_machine_in_ipv6("https://[::1]:6443", "", None)]
    #[case::in_ipv6("https://[fd00::1]:6443", "", Some("http://proxy:3128/"))]
    fn servers(#[case] server: &str, #[case] no: &str, #[case] expected: Option<&str>) {
        let given =
            Environment { https: "proxy:3128".into(), no: no.into(), ..Environment::default() };
        let proxy = given.proxy_for(&server.parse().unwrap());
        assert_eq!(proxy.map(|url| url.to_string()).as_deref(), expected);
    }
}
