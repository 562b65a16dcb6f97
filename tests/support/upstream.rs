//! An API whose responses are written byte by byte by a script, and which keeps the requests it
//! received.

use std::io::{self, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::TIMEOUT;
use super::http1::{fields, read_body, read_head};

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

/// What becomes of the connection after an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    Keep,
    Close,
}

trait Wire: Read + Write + Send {}
impl<T: Read + Write + Send> Wire for T {}

/// One request at the upstream, for a script to answer.
pub struct IncomingRequest {
    wire: BufReader<Box<dyn Wire>>,
    pub head: String,
    /// Counts requests from 0, over all connections.
    pub number: usize,
    pub connection: usize,
    record: Arc<Record>,
}

impl IncomingRequest {
    pub fn respond(&mut self, bytes: impl AsRef<[u8]>) {
        // A proxy that has given up is what some tests want.
        let _ = self.try_respond(bytes);
    }

    pub fn try_respond(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
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
    pub fn read_exact(&mut self, bytes: usize) -> io::Result<()> {
        self.wire.read_exact(&mut vec![0; bytes])
    }

    /// Waits until the proxy has closed the connection.
    pub fn wait_until_closed(&mut self) -> bool {
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
    pub fn respond_ok(&mut self) -> After {
        if self.body().is_err() {
            return After::Close;
        }
        self.respond(OK_RESPONSE);
        After::Keep
    }
}

pub const OK_RESPONSE: &str =
    "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 4\r\n\r\nfine";
pub const UNAUTHORIZED_RESPONSE: &str =
    "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Bearer\r\nContent-Length: 6\r\n\r\ndenied";

#[derive(Default)]
struct Record {
    requests: Mutex<Vec<Received>>,
    connections: AtomicUsize,
    logins: AtomicUsize,
    /// The proxy's ends of the connections that are open.
    open: Mutex<Vec<SocketAddr>>,
}

type Script = dyn Fn(&mut IncomingRequest) -> After + Send + Sync;

/// An API that follows a script. Asked whose a token is, it names a company, another one for each
/// login, and does not count it: without an answer a login would ask again, and wait.
pub struct Upstream {
    pub address: SocketAddr,
    /// `http://` or `https://`, and where it listens.
    pub origin: String,
    record: Arc<Record>,
}

impl Upstream {
    pub fn start(script: impl Fn(&mut IncomingRequest) -> After + Send + Sync + 'static) -> Self {
        Self::run(Arc::new(script), None)
    }

    /// Over TLS, with this server's certificate.
    pub fn secure(
        config: ServerConfig,
        script: impl Fn(&mut IncomingRequest) -> After + Send + Sync + 'static,
    ) -> Self {
        Self::run(Arc::new(script), Some(Arc::new(config)))
    }

    /// Answers 200 to whatever comes.
    pub fn ok() -> Self {
        Self::start(IncomingRequest::respond_ok)
    }

    /// Reads each request to its end and says the same to all.
    pub fn responding_with(response: impl AsRef<[u8]>, after: After) -> Self {
        let response = response.as_ref().to_vec();
        Self::start(move |incoming| {
            let _ = incoming.body();
            incoming.respond(&response);
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
                    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
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
    pub fn requests(&self) -> Vec<Received> {
        self.record.requests.lock().unwrap().clone()
    }

    /// Connections with at least one request.
    pub fn connections(&self) -> usize {
        self.record.connections.load(Ordering::SeqCst)
    }

    /// The proxy's ends of the connections that are open, used or not.
    pub fn open_connections(&self) -> Vec<SocketAddr> {
        self.record.open.lock().unwrap().clone()
    }

    /// The last request so far.
    pub fn last(&self) -> Received {
        self.requests().pop().expect("the upstream saw a request")
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
        // What a login asks is no request of a caller: whom the token speaks for, and the name.
        if head.starts_with("GET /v1/introspect ") {
            let _ = wire.get_mut().write_all(identity(record).as_bytes());
            continue;
        }
        if head.starts_with("GET /v1/companies/") {
            let nameless = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n";
            let _ = wire.get_mut().write_all(nameless.as_bytes());
            continue;
        }
        let connection =
            *connection.get_or_insert_with(|| record.connections.fetch_add(1, Ordering::SeqCst));
        let number = {
            let mut requests = record.requests.lock().unwrap();
            requests.push(Received { head: head.clone(), body: Vec::new(), connection, peer });
            requests.len() - 1
        };
        let mut incoming =
            IncomingRequest { wire, head, number, connection, record: record.clone() };
        if script(&mut incoming) == After::Close {
            return;
        }
        wire = incoming.wire;
    }
}
