//! A caller of the data listener that writes and reads raw bytes: it can send what no HTTP library
//! would send.

use std::io::{self, BufReader, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};

use serde_json::Value;

use super::http1::{fields, read_body, read_head};
use super::{Proxy, TIMEOUT};

/// An answer as the caller got it.
#[derive(Debug)]
pub struct RawResponse {
    pub head: String,
    pub status: u16,
    pub body: Vec<u8>,
    /// False if the connection broke before the announced end.
    pub complete: bool,
}

impl RawResponse {
    pub fn all(&self, name: &str) -> Vec<&str> {
        fields(&self.head)
            .filter(|(field, _)| field.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
            .collect()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.all(name).first().copied()
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Status and code of an answer of the proxy itself, whose form is checked.
    pub fn problem(&self) -> (u16, String) {
        let body: Value = serde_json::from_slice(&self.body)
            .unwrap_or_else(|_| panic!("{} {}", self.head, self.text()));
        assert_eq!(self.header("content-type"), Some("application/problem+json"));
        assert_eq!(body["code"].as_str(), self.header("pleo-proxy-error"), "{body}");
        assert_eq!(body["status"].as_u64(), Some(u64::from(self.status)), "{body}");
        for field in ["type", "title", "detail", "fix"] {
            assert!(body[field].as_str().is_some_and(|text| !text.is_empty()), "{field}: {body}");
        }
        assert_ne!(self.status, 401);
        assert!(self.header("www-authenticate").is_none());
        (self.status, body["code"].as_str().unwrap().to_owned())
    }

    /// One field of such an answer.
    pub fn problem_field(&self, field: &str) -> String {
        let body: Value = serde_json::from_slice(&self.body).unwrap();
        body[field].as_str().unwrap().to_owned()
    }
}

/// A connection to the data listener.
pub struct Caller {
    wire: BufReader<TcpStream>,
    host: String,
}

impl Caller {
    pub fn of(proxy: &Proxy) -> Self {
        Self::to(proxy.address())
    }

    pub fn to(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { wire: BufReader::new(stream), host: address.to_string() }
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).unwrap();
    }

    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.wire.get_mut().write_all(bytes.as_ref())
    }

    /// Sends a head of this method and target, with Host and these further lines.
    pub fn send_head(&mut self, method: &str, target: &str, lines: &[&str]) {
        let lines: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
        let head = format!("{method} {target} HTTP/1.1\r\nHost: {}\r\n{lines}\r\n", self.host);
        self.send(head);
    }

    /// One whole exchange; a body gets its length.
    pub fn request(
        &mut self,
        method: &str,
        target: &str,
        lines: &[&str],
        body: &[u8],
    ) -> RawResponse {
        let length = format!("Content-Length: {}", body.len());
        let mut lines = lines.to_vec();
        if !body.is_empty() {
            lines.push(&length);
        }
        self.send_head(method, target, &lines);
        self.send(body);
        self.read_response_to(method)
    }

    pub fn get(&mut self, target: &str) -> RawResponse {
        self.request("GET", target, &[], b"")
    }

    /// The head of an answer; its body is left on the wire.
    pub fn read_head(&mut self) -> RawResponse {
        let head = read_head(&mut self.wire).expect("an answer");
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        RawResponse { head, status, body: Vec::new(), complete: false }
    }

    pub fn read_response(&mut self) -> RawResponse {
        self.read_response_to("GET")
    }

    pub fn read_response_to(&mut self, method: &str) -> RawResponse {
        let mut response = self.read_head();
        if method == "HEAD" || matches!(response.status, 100..=199 | 204 | 304) {
            response.complete = true;
            return response;
        }
        let body = read_body(&mut self.wire, &response.head, true);
        response.complete = body.is_ok();
        response.body = body.unwrap_or_default();
        response
    }

    /// Exactly so many bytes of a body.
    pub fn read_exact(&mut self, bytes: usize) -> Vec<u8> {
        let mut some = vec![0; bytes];
        self.wire.read_exact(&mut some).unwrap();
        some
    }

    /// Reads up to and including these bytes.
    pub fn read_until(&mut self, end: &str) -> String {
        let mut got = Vec::new();
        while !got.ends_with(end.as_bytes()) {
            let mut byte = [0];
            self.wire.read_exact(&mut byte).unwrap();
            got.push(byte[0]);
        }
        String::from_utf8(got).unwrap()
    }

    /// True once the proxy has closed this connection and left nothing on it.
    pub fn is_closed(&mut self) -> bool {
        let mut rest = Vec::new();
        let end = self.wire.read_to_end(&mut rest);
        let broke = end.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
        !broke && rest.is_empty()
    }

    /// Everything up to the end of the connection.
    pub fn read_rest(&mut self) -> String {
        let mut rest = Vec::new();
        let _ = self.wire.read_to_end(&mut rest);
        String::from_utf8_lossy(&rest).into_owned()
    }

    pub fn disconnect(self) {
        let _ = self.wire.get_ref().shutdown(Shutdown::Both);
    }
}

/// The response is the proxy's own, with this status and code.
pub fn assert_problem(response: &RawResponse, status: u16, code: &str) {
    assert_eq!(response.problem(), (status, code.to_owned()), "{}", response.text());
}
