//! Both ends of the wire, raw: an upstream that says what no library would say and keeps the bytes
//! it was sent, and a caller that writes what no library would write.

use std::io::{self, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use pleo_proxy::sandbox::Sandbox;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::Value;

use super::{PATIENCE, Place, Proxy, config_toward, sandbox};

/// A request as the upstream got it.
#[derive(Clone, Debug)]
pub struct Received {
    /// Request line and fields, as they came.
    pub head: String,
    /// Empty until the script reads it.
    pub body: Vec<u8>,
    /// Counts connections from 0.
    pub connection: usize,
    /// The proxy's end of that connection.
    pub peer: SocketAddr,
}

impl Received {
    pub fn line(&self) -> &str {
        self.head.lines().next().unwrap()
    }

    pub fn target(&self) -> &str {
        self.line().split(' ').nth(1).unwrap()
    }

    /// All values of a field, in order.
    pub fn all(&self, name: &str) -> Vec<&str> {
        fields(&self.head)
            .filter(|(field, _)| field.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
            .collect()
    }

    /// Names of all fields, in lower case.
    pub fn names(&self) -> Vec<String> {
        fields(&self.head).map(|(name, _)| name.to_ascii_lowercase()).collect()
    }

    /// The one credential it carries.
    pub fn token(&self) -> String {
        let all = self.all("authorization");
        assert_eq!(all.len(), 1, "{}", self.head);
        all[0].to_owned()
    }
}

fn fields(head: &str) -> impl Iterator<Item = (&str, &str)> {
    head.lines()
        .skip(1)
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name, value.trim()))
}

/// What becomes of the connection after an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    Keep,
    Close,
}

trait Wire: Read + Write + Send {}
impl<T: Read + Write + Send> Wire for T {}

/// One request at the upstream, for a script to answer.
pub struct Visit {
    wire: BufReader<Box<dyn Wire>>,
    pub head: String,
    /// Counts requests from 0, over all connections.
    pub number: usize,
    pub connection: usize,
    record: Arc<Record>,
}

impl Visit {
    pub fn say(&mut self, bytes: impl AsRef<[u8]>) {
        // A proxy that has given up is what some tests want.
        let _ = self.try_say(bytes);
    }

    pub fn try_say(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.wire.get_mut().write_all(bytes.as_ref())?;
        self.wire.get_mut().flush()
    }

    /// Reads the whole body and remembers it.
    pub fn body(&mut self) -> io::Result<Vec<u8>> {
        let body = read_body(&mut self.wire, &self.head, false)?;
        self.record.requests.lock().unwrap()[self.number].body.clone_from(&body);
        Ok(body)
    }

    /// Reads so many bytes of whatever comes.
    pub fn some(&mut self, bytes: usize) -> io::Result<()> {
        self.wire.read_exact(&mut vec![0; bytes])
    }

    /// Waits until the proxy has closed the connection.
    pub fn until_closed(&mut self) -> bool {
        let mut buffer = [0; 4096];
        loop {
            match self.wire.read(&mut buffer) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) => return error.kind() != io::ErrorKind::WouldBlock,
            }
        }
    }

    pub fn target(&self) -> &str {
        self.head.split(' ').nth(1).unwrap()
    }

    pub fn token(&self) -> String {
        self.record.requests.lock().unwrap()[self.number].token()
    }

    /// Reads the body and answers 200.
    pub fn fine(&mut self) -> After {
        if self.body().is_err() {
            return After::Close;
        }
        self.say(FINE);
        After::Keep
    }
}

pub const FINE: &str =
    "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 4\r\n\r\nfine";
pub const DENIED: &str =
    "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Bearer\r\nContent-Length: 6\r\n\r\ndenied";

#[derive(Default)]
struct Record {
    requests: Mutex<Vec<Received>>,
    connections: AtomicUsize,
    logins: AtomicUsize,
    /// The proxy's ends of the connections that are open.
    open: Mutex<Vec<SocketAddr>>,
}

type Script = dyn Fn(&mut Visit) -> After + Send + Sync;

/// An API that follows a script. Asked whose a token is, it names a company, another one for each
/// login, and does not count it: without an answer a login would ask again, and wait.
pub struct Upstream {
    pub address: SocketAddr,
    /// `http://` or `https://`, and where it listens.
    pub origin: String,
    record: Arc<Record>,
}

impl Upstream {
    pub fn start(script: impl Fn(&mut Visit) -> After + Send + Sync + 'static) -> Self {
        Self::run(Arc::new(script), None)
    }

    /// Over TLS, with this server's certificate.
    pub fn secure(
        config: ServerConfig,
        script: impl Fn(&mut Visit) -> After + Send + Sync + 'static,
    ) -> Self {
        Self::run(Arc::new(script), Some(Arc::new(config)))
    }

    /// Answers 200 to whatever comes.
    pub fn fine() -> Self {
        Self::start(Visit::fine)
    }

    /// Reads each request to its end and says the same to all.
    pub fn saying(answer: impl AsRef<[u8]>, after: After) -> Self {
        let answer = answer.as_ref().to_vec();
        Self::start(move |visit| {
            let _ = visit.body();
            visit.say(&answer);
            after
        })
    }

    fn run(script: Arc<Script>, tls: Option<Arc<ServerConfig>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let record = Arc::new(Record::default());
        let scheme = if tls.is_some() { "https" } else { "http" };
        let shared = record.clone();
        std::thread::spawn(move || {
            while let Ok((stream, peer)) = listener.accept() {
                shared.open.lock().unwrap().push(peer);
                let (script, record, tls) = (script.clone(), shared.clone(), tls.clone());
                std::thread::spawn(move || {
                    stream.set_read_timeout(Some(PATIENCE)).unwrap();
                    stream.set_nodelay(true).unwrap();
                    let wire: Box<dyn Wire> = match tls {
                        Some(tls) => {
                            Box::new(StreamOwned::new(ServerConnection::new(tls).unwrap(), stream))
                        }
                        None => Box::new(stream),
                    };
                    converse(BufReader::new(wire), peer, &*script, &record);
                    record.open.lock().unwrap().retain(|open| *open != peer);
                });
            }
        });
        Self { address, origin: format!("{scheme}://{address}"), record }
    }

    /// All requests so far.
    pub fn seen(&self) -> Vec<Received> {
        self.record.requests.lock().unwrap().clone()
    }

    /// Connections with at least one request.
    pub fn connections(&self) -> usize {
        self.record.connections.load(Ordering::SeqCst)
    }

    /// The proxy's ends of the connections that are open, used or not.
    pub fn open(&self) -> Vec<SocketAddr> {
        self.record.open.lock().unwrap().clone()
    }

    /// The last request so far.
    pub fn last(&self) -> Received {
        self.seen().pop().expect("the upstream saw a request")
    }
}

fn identity(record: &Record) -> String {
    let number = record.logins.fetch_add(1, Ordering::SeqCst);
    let body = format!("{{\"data\":{{\"subjectURN\":\"urn:pleo:company:{number}\"}}}}");
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn converse(
    mut wire: BufReader<Box<dyn Wire>>,
    peer: SocketAddr,
    script: &Script,
    record: &Arc<Record>,
) {
    let mut connection = None;
    while let Some(head) = read_head(&mut wire) {
        if head.starts_with("GET /v1/introspect ") {
            let _ = wire.get_mut().write_all(identity(record).as_bytes());
            continue;
        }
        let connection =
            *connection.get_or_insert_with(|| record.connections.fetch_add(1, Ordering::SeqCst));
        let number = {
            let mut requests = record.requests.lock().unwrap();
            requests.push(Received { head: head.clone(), body: Vec::new(), connection, peer });
            requests.len() - 1
        };
        let mut visit = Visit { wire, head, number, connection, record: record.clone() };
        if script(&mut visit) == After::Close {
            return;
        }
        wire = visit.wire;
    }
}

/// Up to the empty line; none if the other side left.
fn read_head(wire: &mut impl io::BufRead) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if wire.read_until(b'\n', &mut head).ok()? == 0 {
            return None;
        }
    }
    Some(String::from_utf8_lossy(&head).into_owned())
}

/// The body that a head announces; an error if it breaks off.
fn read_body(wire: &mut impl io::BufRead, head: &str, until_end: bool) -> io::Result<Vec<u8>> {
    let value = |name: &str| {
        fields(head).find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    };
    let mut body = Vec::new();
    if value("transfer-encoding").is_some() {
        loop {
            let mut line = String::new();
            if wire.read_line(&mut line)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let size = usize::from_str_radix(line.trim().split(';').next().unwrap(), 16)
                .map_err(io::Error::other)?;
            let start = body.len();
            body.resize(start + size, 0);
            wire.read_exact(&mut body[start..])?;
            // The end of the chunk, or the trailer section, which is remembered as part of the body
            // on purpose.
            let mut rest = String::new();
            wire.read_line(&mut rest)?;
            if size == 0 {
                while rest.trim_end() != "" {
                    body.extend_from_slice(rest.as_bytes());
                    rest.clear();
                    wire.read_line(&mut rest)?;
                }
                return Ok(body);
            }
        }
    }
    if let Some(length) = value("content-length") {
        body.resize(length.parse().map_err(io::Error::other)?, 0);
        wire.read_exact(&mut body)?;
    } else if until_end {
        wire.read_to_end(&mut body)?;
    }
    Ok(body)
}

/// An answer as the caller got it.
#[derive(Debug)]
pub struct Answer {
    pub head: String,
    pub status: u16,
    pub body: Vec<u8>,
    /// False if the connection broke before the announced end.
    pub complete: bool,
}

impl Answer {
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
    pub fn told(&self, field: &str) -> String {
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
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
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
    pub fn begin(&mut self, method: &str, target: &str, lines: &[&str]) {
        let lines: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
        let head = format!("{method} {target} HTTP/1.1\r\nHost: {}\r\n{lines}\r\n", self.host);
        self.send(head);
    }

    /// One whole exchange; a body gets its length.
    pub fn ask(&mut self, method: &str, target: &str, lines: &[&str], body: &[u8]) -> Answer {
        let length = format!("Content-Length: {}", body.len());
        let mut lines = lines.to_vec();
        if !body.is_empty() {
            lines.push(&length);
        }
        self.begin(method, target, &lines);
        self.send(body);
        self.answer_to(method)
    }

    pub fn get(&mut self, target: &str) -> Answer {
        self.ask("GET", target, &[], b"")
    }

    /// The head of an answer; its body is left on the wire.
    pub fn head(&mut self) -> Answer {
        let head = read_head(&mut self.wire).expect("an answer");
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Answer { head, status, body: Vec::new(), complete: false }
    }

    pub fn answer(&mut self) -> Answer {
        self.answer_to("GET")
    }

    pub fn answer_to(&mut self, method: &str) -> Answer {
        let mut answer = self.head();
        if method == "HEAD" || matches!(answer.status, 100..=199 | 204 | 304) {
            answer.complete = true;
            return answer;
        }
        let body = read_body(&mut self.wire, &answer.head, true);
        answer.complete = body.is_ok();
        answer.body = body.unwrap_or_default();
        answer
    }

    /// Exactly so many bytes of a body.
    pub fn some(&mut self, bytes: usize) -> Vec<u8> {
        let mut some = vec![0; bytes];
        self.wire.read_exact(&mut some).unwrap();
        some
    }

    /// Reads up to and including these bytes.
    pub fn until(&mut self, end: &str) -> String {
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
    pub fn rest(&mut self) -> String {
        let mut rest = Vec::new();
        let _ = self.wire.read_to_end(&mut rest);
        String::from_utf8_lossy(&rest).into_owned()
    }

    pub fn vanish(self) {
        let _ = self.wire.get_ref().shutdown(Shutdown::Both);
    }
}

/// A proxy with one connected account `default`, before an upstream that follows a script.
pub struct Stage {
    pub proxy: Proxy,
    pub place: Place,
    pub sandbox: Sandbox,
}

impl Stage {
    pub fn caller(&self) -> Caller {
        Caller::of(&self.proxy)
    }
}

pub async fn stage(upstream: &Upstream, more: &str) -> Stage {
    stage_at(&upstream.origin, more, &[]).await
}

/// The same before any origin, with further arguments.
pub async fn stage_at(api: &str, more: &str, arguments: &[&str]) -> Stage {
    let sandbox = sandbox().await;
    let place = Place::new(&config_before(&sandbox, api, more));
    let stage = Stage { proxy: place.serve_with(arguments), place, sandbox };
    stage.proxy.login("default").await;
    stage
}

/// The same without an account.
pub async fn unconnected(upstream: &Upstream, more: &str) -> Stage {
    let sandbox = sandbox().await;
    let place = Place::new(&config_before(&sandbox, &upstream.origin, more));
    Stage { proxy: place.serve(), place, sandbox }
}

/// The authorization server is the sandbox, the API is elsewhere.
pub fn config_before(sandbox: &Sandbox, api: &str, more: &str) -> String {
    let own = format!("api = \"{}\"\n", sandbox.api_origin());
    let config = config_toward(sandbox, more);
    assert!(config.contains(&own));
    config.replace(&own, &format!("api = \"{api}\"\n"))
}

/// Waits for something that other threads bring about.
pub fn eventually(what: &str, is_so: impl Fn() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < PATIENCE, "never: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
