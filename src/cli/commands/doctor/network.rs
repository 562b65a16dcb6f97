//! Checks of the way to each server, step by step: its name, a connection, the outbound proxy, the
//! TLS handshake. The connection is made as the proxy makes it, and asks for nothing but `HEAD /`.

use std::error::Error;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime};

use axum::body::Body;
use http::header::{DATE, HOST, USER_AGENT};
use http::{Method, Request};
use hyper::client::conn::http1::handshake;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsConnector;

use super::bounded::NETWORK;
use super::clock::Reading;
use super::finding::{Check, Finding};
use crate::config::Config;
use crate::diagnostic::{Code, Diagnostic};
use crate::oauth::endpoint::Origin;
use crate::outbound::{NameError, Outbound, OutboundProxy, TunnelError, explanation, tunnel};

/// Time for one address of a name.
const CONNECT: Duration = Duration::from_millis(1500);
/// Addresses of a name that are tried.
const MAX_ADDRESSES: usize = 4;

/// A server, and the settings that lead to it.
#[derive(Clone, Debug)]
struct Server {
    origin: Origin,
    settings: String,
}

/// The way to one server.
struct Way {
    server: Server,
    outbound: Outbound,
    deadline: Instant,
    findings: Vec<Finding>,
}

/// What the servers told.
#[derive(Default)]
pub(super) struct Told {
    pub(super) findings: Vec<Finding>,
    pub(super) readings: Vec<Reading>,
}

/// Checks the way to every server, to all at the same time.
pub(super) async fn checks(config: Config, outbound: Outbound) -> Told {
    let deadline = Instant::now() + NETWORK;
    let servers = servers(&config);
    let mut under_way = JoinSet::new();
    for (number, server) in servers.into_iter().enumerate() {
        let way = Way { server, outbound: outbound.clone(), deadline, findings: Vec::new() };
        under_way.spawn(async move { (number, way.check().await) });
    }
    let mut ended: Vec<_> = under_way.join_all().await;
    ended.sort_by_key(|(number, _)| *number);
    let mut told = Told::default();
    if ended.iter().all(|(_, (findings, _))| !findings.iter().any(about_proxy)) {
        told.findings.push(Check::OutboundProxy.pass(unused(&config)));
    }
    for (_, (findings, reading)) in ended {
        told.findings.extend(findings);
        told.readings.extend(reading);
    }
    told
}

fn about_proxy(finding: &Finding) -> bool {
    finding.is_of(Check::OutboundProxy)
}

/// That no proxy leads to the servers, though variables may name one.
fn unused(config: &Config) -> String {
    let variables = config.outbound.variables.shown();
    let set: Vec<_> = variables.map(|(name, _)| name.to_owned()).collect();
    if set.is_empty() {
        "none is used".to_owned()
    } else {
        format!("none is used for these servers ({} set)", set.join(", "))
    }
}

/// Each server once, in the order of the settings.
fn servers(config: &Config) -> Vec<Server> {
    let oauth = &config.oauth;
    let named = [
        ("endpoints.authorize", Some(oauth.authorize.origin())),
        ("endpoints.token", Some(oauth.token.origin())),
        ("endpoints.introspect", oauth.introspect.as_ref().map(|endpoint| endpoint.origin())),
        ("endpoints.api", Some(oauth.api.clone())),
    ];
    let mut servers: Vec<Server> = Vec::new();
    for (setting, origin) in named {
        let Some(origin) = origin else { continue };
        match servers.iter_mut().find(|server| server.origin == origin) {
            Some(server) => server.settings += &format!(", {setting}"),
            None => servers.push(Server { origin, settings: setting.to_owned() }),
        }
    }
    servers
}

impl Way {
    async fn check(mut self) -> (Vec<Finding>, Option<Reading>) {
        let (host, port) = (self.server.origin.host.clone(), self.server.origin.port);
        let reading = match self.outbound.proxy_to(&host, port) {
            Err(error) => {
                let problem = Diagnostic::of(Code::Outbound, error);
                self.note(Check::OutboundProxy.problem(problem));
                None
            }
            Ok(None) => match self.connect(&host, port, None).await {
                Some(stream) => self.secure(stream).await,
                None => None,
            },
            Ok(Some(proxy)) => self.through(&proxy).await,
        };
        (self.findings, reading)
    }

    fn note(&mut self, finding: Finding) {
        self.findings.push(finding.about(self.server.origin.to_string()));
    }

    /// Notes why a step failed.
    fn failed(&mut self, check: Check, error: &(dyn Error + 'static)) {
        let why = explanation(error);
        let title = format!("{} ({})", why.what, self.server.settings);
        let problem = Diagnostic::error(Code::Unreachable(why.cause), title, why.fix);
        self.note(check.problem(problem));
    }

    /// A connection to the server itself, or to the outbound proxy before it.
    async fn connect(
        &mut self,
        host: &str,
        port: u16,
        proxy: Option<&OutboundProxy>,
    ) -> Option<TcpStream> {
        let found = timeout_at(self.deadline, self.outbound.names.look_up(host)).await;
        let addresses = match found {
            Ok(Ok(addresses)) => addresses,
            Ok(Err(error)) => return self.no_name(proxy, error),
            Err(_) => return self.no_name(proxy, NameError::Late { host: host.to_owned() }),
        };
        if proxy.is_none() {
            self.note(Check::Dns.pass(named(host, &addresses)));
        }
        match first_connection(&addresses, port, self.deadline).await {
            Ok(stream) => {
                if proxy.is_none() {
                    self.note(Check::Tcp.pass(format!("port {port} accepts connections")));
                }
                Some(stream)
            }
            Err(error) => {
                match proxy {
                    Some(proxy) => {
                        self.failed(Check::OutboundProxy, &TunnelError::broken(proxy, error));
                    }
                    None => self.failed(Check::Tcp, &error),
                }
                None
            }
        }
    }

    fn no_name<T>(&mut self, proxy: Option<&OutboundProxy>, error: NameError) -> Option<T> {
        match proxy {
            Some(proxy) => {
                let error = TunnelError::broken(proxy, io::Error::other(error));
                self.failed(Check::OutboundProxy, &error);
            }
            None => self.failed(Check::Dns, &error),
        }
        None
    }

    /// Through the outbound proxy, which looks up the server's name itself.
    async fn through(&mut self, proxy: &OutboundProxy) -> Option<Reading> {
        let stream = self.connect(proxy.host(), proxy.port(), Some(proxy)).await?;
        if !proxy.is_tls() {
            return self.tunnel(stream, proxy).await;
        }
        match self.handshake(stream, proxy.host().to_owned()).await {
            Ok(stream) => self.tunnel(stream, proxy).await,
            Err(error) => {
                self.failed(Check::OutboundProxy, &TunnelError::broken(proxy, error));
                None
            }
        }
    }

    async fn tunnel<T: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
        &mut self,
        mut stream: T,
        proxy: &OutboundProxy,
    ) -> Option<Reading> {
        let origin = self.server.origin.clone();
        let opened = tunnel::open(&mut stream, proxy, &origin.host, origin.port);
        let opened = timeout_at(self.deadline, opened).await;
        let late = || TunnelError::broken(proxy, io::ErrorKind::TimedOut.into());
        if let Err(error) = opened.unwrap_or_else(|_| Err(late())) {
            self.failed(Check::OutboundProxy, &error);
            return None;
        }
        let what = format!("the one of {} leads there", proxy.named_by);
        self.note(Check::OutboundProxy.pass(what));
        self.secure(stream).await
    }

    /// The TLS handshake, if there is one, and the server's time.
    async fn secure<T: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
        &mut self,
        stream: T,
    ) -> Option<Reading> {
        if !self.server.origin.tls {
            self.note(Check::Tls.skip("http, which is for this machine only"));
            return self.read_clock(stream).await;
        }
        match self.handshake(stream, self.server.origin.host.clone()).await {
            Ok(stream) => {
                self.note(Check::Tls.pass("its certificate is valid and trusted"));
                self.read_clock(stream).await
            }
            Err(error) => {
                self.failed(Check::Tls, &error);
                None
            }
        }
    }

    async fn handshake<T: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: T,
        host: String,
    ) -> io::Result<tokio_rustls::client::TlsStream<T>> {
        let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned());
        let name = name.map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let connector = TlsConnector::from(self.outbound.tls.clone());
        let late = || Err(io::ErrorKind::TimedOut.into());
        let done = timeout_at(self.deadline, connector.connect(name, stream)).await;
        done.unwrap_or_else(|_| late())
    }

    /// The server's clock, if it answers in time and says what it is.
    async fn read_clock<T: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
        &self,
        stream: T,
    ) -> Option<Reading> {
        let asked = async {
            let (mut connection, driver) = handshake(TokioIo::new(stream)).await.ok()?;
            let driver = tokio::spawn(driver);
            let agent = concat!("pleo-proxy/", env!("CARGO_PKG_VERSION"));
            let request = Request::builder()
                .method(Method::HEAD)
                .uri("/")
                .header(HOST, self.server.origin.authority())
                .header(USER_AGENT, agent)
                .body(Body::empty())
                .ok()?;
            let before = SystemTime::now();
            let response = connection.send_request(request).await.ok()?;
            driver.abort();
            let date = response.headers().get(DATE)?.to_str().ok()?;
            let theirs = httpdate::parse_http_date(date).ok()?;
            Some(Reading::new(self.server.origin.to_string(), theirs, before))
        };
        timeout_at(self.deadline, asked).await.ok()?
    }
}

fn named(host: &str, addresses: &[IpAddr]) -> String {
    let is_literal = host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
    let shown: Vec<_> = addresses.iter().take(MAX_ADDRESSES).map(ToString::to_string).collect();
    if is_literal {
        "an address, which needs no look-up".to_owned()
    } else {
        format!("{host} is {}", shown.join(", "))
    }
}

/// The first of a few addresses that accepts, one after the other.
async fn first_connection(
    addresses: &[IpAddr],
    port: u16,
    deadline: Instant,
) -> io::Result<TcpStream> {
    let mut failure = io::Error::from(io::ErrorKind::TimedOut);
    for ip in addresses.iter().take(MAX_ADDRESSES) {
        let connecting = timeout(CONNECT, TcpStream::connect(SocketAddr::new(*ip, port)));
        match timeout_at(deadline, connecting).await {
            Ok(Ok(Ok(stream))) => return Ok(stream),
            Ok(Ok(Err(error))) => failure = error,
            Ok(Err(_)) | Err(_) => failure = io::ErrorKind::TimedOut.into(),
        }
    }
    Err(failure)
}
