//! What of a head is for one connection only (RFC 9110 7.6.1), and what a request must have. PURE.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use super::answers::Malformed;
use hyper::header::{
    CONNECTION, CONTENT_LENGTH, HOST, HeaderMap, HeaderName, HeaderValue, TE, TRANSFER_ENCODING,
    UPGRADE,
};
use hyper::{Method, Request, Response, StatusCode, Version};
use std::net::IpAddr;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// What a client wants of its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    Answer,
    /// Another protocol on it from then on, if the endpoint agrees.
    Upgrade,
}

/// Makes a client's request one to an endpoint.
pub(super) fn request<B>(request: &mut Request<B>, client: IpAddr) -> Result<Wish, Malformed> {
    let (method, version) = (request.method().clone(), request.version());
    let headers = request.headers_mut();
    if method == Method::CONNECT {
        return Err(Malformed::Connect);
    }
    check(headers, version)?;
    let is_upgrade = version == Version::HTTP_11 && asks_for_upgrade(headers);
    let upgrade = headers.remove(UPGRADE).filter(|_| is_upgrade);
    let trailers = has_token(headers, &TE, "trailers");
    remove_named(headers);
    for name in [TE, HTTP2_SETTINGS] {
        headers.remove(name);
    }
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
        if version == Version::HTTP_11 {
            headers.append(CONNECTION, HeaderValue::from_static("te"));
        }
    }
    add_client(headers, client);
    let Some(upgrade) = upgrade else { return Ok(Wish::Answer) };
    headers.insert(UPGRADE, upgrade);
    headers.append(CONNECTION, HeaderValue::from_static("upgrade"));
    Ok(Wish::Upgrade)
}

/// Makes an endpoint's answer one to a client that speaks this version.
pub(super) fn response<B>(response: &mut Response<B>, version: Version) {
    let status = response.status();
    let headers = response.headers_mut();
    if ends_in_two_ways(headers) {
        headers.remove(CONTENT_LENGTH);
    }
    let tells = [StatusCode::SWITCHING_PROTOCOLS, StatusCode::UPGRADE_REQUIRED].contains(&status);
    let upgrade = headers.remove(UPGRADE).filter(|_| tells && version != Version::HTTP_2);
    remove_named(headers);
    if let Some(upgrade) = upgrade {
        headers.insert(UPGRADE, upgrade);
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    }
    // That of a client which speaks 1.0 hyper makes of it.
    *response.version_mut() =
        if version == Version::HTTP_2 { Version::HTTP_2 } else { Version::HTTP_11 };
}

/// Has both a length and an encoding, which overrides it (RFC 9112 6.3).
pub(super) fn ends_in_two_ways(headers: &HeaderMap) -> bool {
    headers.contains_key(TRANSFER_ENCODING) && headers.contains_key(CONTENT_LENGTH)
}

/// What two readers could understand in two ways. hyper refuses the rest: lengths that contradict each
/// other or are no numbers, a last encoding that is not `chunked`, one over HTTP/1.0. Where a request
/// has both a length and `chunked`, it drops the length, and the connection after that (RFC 9112 6.3).
fn check(headers: &HeaderMap, version: Version) -> Result<(), Malformed> {
    let hosts = headers.get_all(HOST).iter().count();
    if hosts > 1 || (hosts == 0 && version == Version::HTTP_11) {
        return Err(Malformed::Host);
    }
    let mut encodings = headers.get_all(TRANSFER_ENCODING).iter();
    let is_chunked = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"chunked");
    match (encodings.next(), encodings.next()) {
        (None, _) => Ok(()),
        (Some(only), None) if is_chunked(only) => Ok(()),
        _ => Err(Malformed::Encoding),
    }
}

/// HTTP/2 is none that a connection is changed to in passing: all its requests would be one endpoint's.
fn asks_for_upgrade(headers: &HeaderMap) -> bool {
    has_token(headers, &CONNECTION, "upgrade")
        && headers.contains_key(UPGRADE)
        && !has_token(headers, &UPGRADE, "h2c")
}

fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    tokens(headers, name).any(|one| one.eq_ignore_ascii_case(token))
}

fn tokens<'h>(headers: &'h HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'h str> {
    let lines = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(str::trim)
}

/// Connection, and what it names: but not what says where a message ends and whom it is for, which is
/// everybody's. How a body is sent on this connection hyper says anew.
fn remove_named(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> =
        tokens(headers, &CONNECTION).filter_map(|name| name.parse().ok()).collect();
    let kept = [HOST, CONTENT_LENGTH, TRANSFER_ENCODING, TE];
    for name in named.into_iter().filter(|name| !kept.contains(name)) {
        headers.remove(name);
    }
    for name in [CONNECTION, KEEP_ALIVE, PROXY_CONNECTION] {
        headers.remove(name);
    }
}

/// As the last one, in one line: readers differ in which of several lines they take.
fn add_client(headers: &mut HeaderMap, client: IpAddr) {
    let client = client.to_canonical().to_string();
    let mut line = Vec::new();
    for given in headers.get_all(FORWARDED_FOR) {
        line.extend_from_slice(given.as_bytes());
        line.extend_from_slice(b", ");
    }
    line.extend_from_slice(client.as_bytes());
    let line = HeaderValue::from_bytes(&line);
    headers.insert(FORWARDED_FOR, line.expect("lines of a header make one line of a header"));
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    /// `name: value` lines.
    fn parsed(version: Version, lines: &str) -> Request<()> {
        let mut request = Request::builder().version(version);
        for line in lines.lines() {
            let (name, value) = line.trim().split_once(": ").unwrap();
            request = request.header(name, value);
        }
        request.body(()).unwrap()
    }

    fn lines(headers: &HeaderMap) -> Vec<String> {
        let line = |(name, value): (&HeaderName, &HeaderValue)| {
            format!("{name}: {}", value.to_str().unwrap())
        };
        let mut lines: Vec<String> = headers.iter().map(line).collect();
        lines.sort();
        lines
    }

    fn passed(version: Version, text: &str) -> (Result<Wish, Malformed>, Vec<String>) {
        let mut head = parsed(version, text);
        let wish = request(&mut head, IpAddr::from([10, 0, 0, 1]));
        (wish, lines(head.headers()))
    }

    #[test]
    fn what_is_for_one_connection_goes_no_further() {
        let text = "Host: a\nConnection: close, X-Own\nX-Own: 1\nKeep-Alive: timeout=5\n\
                    Proxy-Connection: keep-alive\nTE: gzip\nUpgrade: websocket\nCookie: c";
        let (wish, lines) = passed(Version::HTTP_11, text);
        assert_eq!(wish, Ok(Wish::Answer), "Connection does not name Upgrade");
        assert_eq!(lines, ["cookie: c", "host: a", "x-forwarded-for: 10.0.0.1"]);
    }

    #[test]
    fn what_says_where_a_message_ends_stays_whoever_names_it() {
        let text = "Host: a\nConnection: host, content-length, transfer-encoding\n\
                    Transfer-Encoding: chunked";
        let (_, lines) = passed(Version::HTTP_11, text);
        assert_eq!(lines, ["host: a", "transfer-encoding: chunked", "x-forwarded-for: 10.0.0.1"]);
    }

    #[test]
    fn trailers_are_asked_for_on() {
        let (_, lines) = passed(Version::HTTP_11, "Host: a\nConnection: TE\nTE: trailers, deflate");
        let expected = ["connection: te", "host: a", "te: trailers", "x-forwarded-for: 10.0.0.1"];
        assert_eq!(lines, expected);
        let (_, lines) = passed(Version::HTTP_2, "te: trailers");
        assert_eq!(lines, ["te: trailers", "x-forwarded-for: 10.0.0.1"]);
    }

    #[test]
    fn the_client_is_the_last_of_those_it_is_forwarded_for() {
        let text = "Host: a\nX-Forwarded-For: 1.1.1.1\nX-Forwarded-For: 2.2.2.2, 3.3.3.3";
        let (_, lines) = passed(Version::HTTP_11, text);
        assert_eq!(lines[1], "x-forwarded-for: 1.1.1.1, 2.2.2.2, 3.3.3.3, 10.0.0.1");
        // One that would have it removed has it removed, and is told of.
        let text = "Host: a\nConnection: x-forwarded-for\nX-Forwarded-For: 1.1.1.1";
        assert_eq!(passed(Version::HTTP_11, text).1[1], "x-forwarded-for: 10.0.0.1");
    }

    #[rstest]
    #[case::websocket("Connection: keep-alive, Upgrade\nUpgrade: websocket", Wish::Upgrade)]
    #[case::no_connection("Upgrade: websocket", Wish::Answer)]
    #[case::to_what("Connection: upgrade", Wish::Answer)]
    #[case::http2(
        "Connection: Upgrade, HTTP2-Settings\nUpgrade: h2c\nHTTP2-Settings: x",
        Wish::Answer
    )]
    fn upgrades(#[case] text: &str, #[case] expected: Wish) {
        let (wish, lines) = passed(Version::HTTP_11, &format!("Host: a\n{text}"));
        assert_eq!(wish, Ok(expected));
        let asked = lines.contains(&"connection: upgrade".to_owned())
            && lines.contains(&"upgrade: websocket".to_owned());
        assert_eq!(asked, expected == Wish::Upgrade, "{lines:?}");
        assert!(!lines.iter().any(|line| line.contains("h2c") || line.contains("http2")));
    }

    #[rstest]
    #[case::none(Version::HTTP_11, "A: b", Malformed::Host)]
    #[case::two(Version::HTTP_11, "Host: a\nHost: a", Malformed::Host)]
    #[case::two_of_old(Version::HTTP_10, "Host: a\nHost: b", Malformed::Host)]
    #[case::coded(
        Version::HTTP_11,
        "Host: a\nTransfer-Encoding: gzip, chunked",
        Malformed::Encoding
    )]
    #[case::twice(
        Version::HTTP_11,
        "Host: a\nTransfer-Encoding: chunked\nTransfer-Encoding: chunked",
        Malformed::Encoding
    )]
    fn malformed(#[case] version: Version, #[case] text: &str, #[case] expected: Malformed) {
        assert_eq!(passed(version, text).0, Err(expected));
    }

    #[test]
    fn http_1_0_needs_no_host() {
        assert_eq!(passed(Version::HTTP_10, "A: b").0, Ok(Wish::Answer));
    }

    #[test]
    fn a_tunnel_to_anywhere_is_not_for_this_proxy() {
        let mut connect =
            Request::builder().method("CONNECT").header("host", "a").body(()).unwrap();
        assert_eq!(request(&mut connect, IpAddr::from([10, 0, 0, 1])), Err(Malformed::Connect));
    }

    #[test]
    fn an_answer_has_a_length_or_chunks() {
        let mut head = Response::builder()
            .header("Content-Length", "5")
            .header("Transfer-Encoding", "chunked")
            .body(())
            .unwrap();
        response(&mut head, Version::HTTP_11);
        assert_eq!(lines(head.headers()), ["transfer-encoding: chunked"]);
        let mut head = Response::builder().header("Content-Length", "5").body(()).unwrap();
        response(&mut head, Version::HTTP_11);
        assert_eq!(lines(head.headers()), ["content-length: 5"]);
    }

    #[rstest]
    #[case::switched(101, true)]
    #[case::required(426, true)]
    #[case::offered(200, false)]
    fn answers(#[case] status: u16, #[case] tells: bool) {
        let mut head = Response::builder()
            .status(status)
            .version(Version::HTTP_10)
            .header("Connection", "upgrade, X-Own")
            .header("Upgrade", "websocket")
            .header("X-Own", "1")
            .header("Keep-Alive", "timeout=5")
            .header("Transfer-Encoding", "chunked")
            .body(())
            .unwrap();
        response(&mut head, Version::HTTP_11);
        assert_eq!(head.version(), Version::HTTP_11);
        let expected: &[&str] = if tells {
            &["connection: upgrade", "transfer-encoding: chunked", "upgrade: websocket"]
        } else {
            &["transfer-encoding: chunked"]
        };
        assert_eq!(lines(head.headers()), expected);
    }
}
