//! Requests and answers of HTTP. EDGE.
//!
//! In: a connection. Out: a byte for each request, over connections that stay open.
//! Never: a header more than must be: what is compared is what proxies do with a request.

use crate::Outcome;
use h2::client::SendRequest;
use hyper::body::Bytes;
use hyper::{Request, Response};
use std::io;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.1, a request at a time.
    One,
    /// HTTP/2 with prior knowledge.
    Two,
}

impl Version {
    pub const ALL: [Version; 2] = [Version::One, Version::Two];

    /// Of the Service, and where HAProxy is led to on its node.
    pub fn ports(self) -> (u16, u16) {
        match self {
            Version::One => (81, 8001),
            Version::Two => (82, 8002),
        }
    }

    /// Where endpoints listen.
    pub fn endpoint_port(self) -> u16 {
        match self {
            Version::One => 8081,
            Version::Two => 8082,
        }
    }

    /// Of the Service's port.
    pub fn app_protocol(self) -> &'static str {
        match self {
            Version::One => "http",
            Version::Two => "kubernetes.io/h2c",
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Version::One => "HTTP/1.1",
            Version::Two => "HTTP/2",
        }
    }
}

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n";
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx";
const END_OF_HEAD: &[u8] = b"\r\n\r\n";

/// Answers until the client closes.
pub async fn serve(stream: TcpStream, version: Version) -> io::Result<()> {
    match version {
        Version::One => serve_one(stream).await,
        Version::Two => serve_two(stream).await.map_err(io::Error::other),
    }
}

async fn serve_one(mut stream: TcpStream) -> io::Result<()> {
    let mut held = Vec::new();
    loop {
        if stream.read_buf(&mut held).await? == 0 {
            return Ok(());
        }
        while let Some(end) = end_of_head(&held) {
            held.drain(..end);
            stream.write_all(ANSWER).await?;
        }
    }
}

async fn serve_two(stream: TcpStream) -> Result<(), h2::Error> {
    let mut connection = h2::server::handshake(stream).await?;
    while let Some(request) = connection.accept().await {
        let (_, mut respond) = request?;
        respond
            .send_response(Response::new(()), false)?
            .send_data(Bytes::from_static(b"x"), true)?;
    }
    Ok(())
}

fn end_of_head(bytes: &[u8]) -> Option<usize> {
    let at = bytes.windows(END_OF_HEAD.len()).position(|window| window == END_OF_HEAD)?;
    Some(at + END_OF_HEAD.len())
}

/// A connection of HTTP/1.1 to a proxy.
pub struct One {
    stream: TcpStream,
    held: Vec<u8>,
}

impl One {
    pub async fn open(to: std::net::SocketAddr) -> Outcome<Self> {
        let stream = TcpStream::connect(to).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, held: Vec::new() })
    }

    /// One there and back.
    pub async fn request(&mut self) -> Outcome<()> {
        self.stream.write_all(REQUEST).await?;
        loop {
            if self.stream.read_buf(&mut self.held).await? == 0 {
                return Err("the proxy has closed".into());
            }
            // The body is a byte.
            if end_of_head(&self.held).is_some_and(|end| self.held.len() > end) {
                if !self.held.starts_with(b"HTTP/1.1 200 ") {
                    return Err(String::from_utf8_lossy(&self.held).into_owned().into());
                }
                self.held.clear();
                return Ok(());
            }
        }
    }
}

/// A connection of HTTP/2 to a proxy; clones of it share the connection.
#[derive(Clone)]
pub struct Two(SendRequest<Bytes>);

impl Two {
    pub async fn open(to: std::net::SocketAddr) -> Outcome<Self> {
        let stream = TcpStream::connect(to).await?;
        stream.set_nodelay(true)?;
        let (requests, connection) = h2::client::handshake(stream).await?;
        tokio::spawn(connection);
        Ok(Self(requests))
    }

    pub async fn request(&mut self) -> Outcome<()> {
        let request = Request::get("http://bench/").body(())?;
        let mut ready = self.0.clone().ready().await?;
        let (answer, _) = ready.send_request(request, true)?;
        let answer = answer.await?;
        if answer.status() != 200 {
            return Err(format!("answered {}", answer.status()).into());
        }
        let mut body = answer.into_body();
        while let Some(data) = body.data().await {
            body.flow_control().release_capacity(data?.len())?;
        }
        Ok(())
    }
}
