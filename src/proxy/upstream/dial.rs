//! Connects to a name, up to the end of the TLS handshake. All addresses of the name are tried
//! within the connect timeout, each a moment after the one before (RFC 8305): so one dead server
//! behind a name costs only a moment, whether it refuses, drops packets or accepts and stays
//! silent.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::socket::{Signals, Socket};
use crate::oauth::endpoint::Origin;
use crate::outbound::{NameError, Names, Outbound, OutboundProxy, TunnelError, tunnel};

/// Time until the next address is tried as well (RFC 8305 section 5, "Connection Attempt Delay").
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);
/// The same once an address has accepted: a handshake takes a few round trips, and it is too early
/// to begin a second one.
const HANDSHAKE_DELAY: Duration = Duration::from_secs(2);

/// Why no address led to a connection.
#[derive(Debug, thiserror::Error)]
// Not transparent: `explain` finds the causes by their types.
pub(super) enum DialError {
    #[error("{0}")]
    Name(#[from] NameError),
    #[error("no connection within {limit:?}")]
    Late { limit: Duration, source: Option<Box<DialError>> },
    #[error("{address}: {source}")]
    Address { address: SocketAddr, source: io::Error },
    #[error("behind the outbound proxy: {source}")]
    Behind { source: io::Error },
    #[error("{0}")]
    Tunnel(#[from] TunnelError),
}

/// A connection that is ready for requests.
pub(super) enum Transport {
    Plain(Socket),
    Tls(Box<TlsStream<Socket>>),
    /// TLS to the API, through an outbound proxy over TLS.
    TlsInTls(Box<TlsStream<TlsStream<Socket>>>),
}

/// Makes connections to one destination.
#[derive(Clone)]
pub(super) struct Dialer(Arc<Destination>);

struct Destination {
    origin: Origin,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    /// The outbound proxy, and the name on its certificate if the connection to it uses TLS.
    proxy: Option<(OutboundProxy, Option<ServerName<'static>>)>,
    connector: TlsConnector,
    names: Names,
    /// Time to connect, TLS included.
    limit: Duration,
    stall_limit: Option<Duration>,
}

impl Dialer {
    /// Prepares connections; looks nothing up yet.
    ///
    /// # Errors
    /// A host is no server name, or the outbound proxy is unusable.
    pub(super) fn new(
        origin: Origin,
        outbound: &Outbound,
        limit: Duration,
        stall_limit: Option<Duration>,
    ) -> Result<Self, String> {
        let connector = TlsConnector::from(outbound.tls.clone());
        let name = |host: &str| {
            ServerName::try_from(host.trim_matches(['[', ']']).to_owned())
                .map_err(|error| format!("{host}: {error}"))
        };
        let tls = origin
            .tls
            .then(|| name(&origin.host).map(|name| (connector.clone(), name)))
            .transpose()?;
        let proxy =
            outbound.proxy_to(&origin.host, origin.port).map_err(|error| error.to_string())?;
        let proxy = proxy.map(|proxy| {
            let name = proxy.is_tls().then(|| name(proxy.host())).transpose()?;
            Ok::<_, String>((proxy, name))
        });
        let proxy = proxy.transpose()?;
        let names = outbound.names.clone();
        Ok(Self(Arc::new(Destination { origin, tls, proxy, connector, names, limit, stall_limit })))
    }

    /// A new connection, and the signals of its socket.
    pub(super) async fn dial(&self) -> Result<(Transport, Arc<Signals>), DialError> {
        let destination = &self.0;
        let deadline = Instant::now() + destination.limit;
        let (host, port) = match &destination.proxy {
            Some((proxy, _)) => (proxy.host(), proxy.port()),
            None => (destination.origin.host.as_str(), destination.origin.port),
        };
        let addresses = match timeout_at(deadline, destination.names.look_up(host)).await {
            Ok(addresses) => addresses?,
            Err(_) => return Err(NameError::Late { host: host.to_owned() }.into()),
        };
        let addresses =
            alternating(&addresses).into_iter().map(|address| (address, port).into()).collect();
        self.race(addresses, deadline).await
    }

    /// The first address that leads to a finished handshake.
    async fn race(
        &self,
        addresses: Vec<SocketAddr>,
        deadline: Instant,
    ) -> Result<(Transport, Arc<Signals>), DialError> {
        let limit = self.0.limit;
        let share = limit / u32::try_from(addresses.len() + 1).unwrap_or(u32::MAX);
        let (stagger, handshake) = (ATTEMPT_DELAY.min(share), HANDSHAKE_DELAY.min(share));
        let has_accepted = Arc::new(AtomicBool::new(false));
        let mut waiting = addresses.into_iter();
        let mut under_way: Vec<IpAddr> = Vec::new();
        let mut attempts = JoinSet::new();
        let mut failure = None;
        let mut next = Instant::now();
        loop {
            if attempts.is_empty() || next <= Instant::now() {
                match waiting.next() {
                    Some(address) => {
                        under_way.push(address.ip());
                        attempts.spawn(self.0.clone().attempt(address, has_accepted.clone()));
                        next = Instant::now() + stagger;
                    }
                    None if attempts.is_empty() => {
                        return Err(failure.unwrap_or(DialError::Late { limit, source: None }));
                    }
                    None => next = deadline,
                }
            }
            tokio::select! {
                Some(ended) = attempts.join_next() => match ended {
                    Ok((address, Ok(transport))) => {
                        under_way.retain(|other| *other != address.ip());
                        // Slower addresses are tried later next time.
                        under_way.into_iter().for_each(|other| self.0.names.doubt(other));
                        self.0.names.trust(address.ip());
                        return Ok(transport);
                    }
                    Ok((address, Err(error))) => {
                        under_way.retain(|other| *other != address.ip());
                        self.0.names.doubt(address.ip());
                        failure = Some(error);
                        next = Instant::now();
                    }
                    Err(_) => next = Instant::now(),
                },
                () = sleep_until(next.min(deadline)) => {
                    if deadline <= Instant::now() {
                        under_way.into_iter().for_each(|other| self.0.names.doubt(other));
                        return Err(DialError::Late { limit, source: failure.map(Box::new) });
                    }
                    if has_accepted.swap(false, Ordering::Relaxed) {
                        next = Instant::now() + handshake;
                    }
                }
            }
        }
    }
}

impl Destination {
    async fn attempt(
        self: Arc<Self>,
        address: SocketAddr,
        has_accepted: Arc<AtomicBool>,
    ) -> (SocketAddr, Result<(Transport, Arc<Signals>), DialError>) {
        let result = async {
            let failed = |source| match &self.proxy {
                Some((proxy, _)) => DialError::Tunnel(TunnelError::broken(proxy, source)),
                None => DialError::Address { address, source },
            };
            let socket = Socket::connect(address, self.stall_limit).await.map_err(failed)?;
            has_accepted.store(true, Ordering::Relaxed);
            let signals = socket.signals();
            Ok((self.secure(socket, failed).await?, signals))
        };
        (address, result.await)
    }

    /// Goes through the outbound proxy, if there is one, and does the TLS handshakes.
    async fn secure(
        &self,
        mut socket: Socket,
        failed: impl Fn(io::Error) -> DialError + Copy,
    ) -> Result<Transport, DialError> {
        let (host, port) = (&self.origin.host, self.origin.port);
        let Some((proxy, name)) = &self.proxy else {
            return match &self.tls {
                None => Ok(Transport::Plain(socket)),
                Some(tls) => {
                    Ok(Transport::Tls(Box::new(handshake(tls, socket).await.map_err(failed)?)))
                }
            };
        };
        let Some(name) = name else {
            tunnel::open(&mut socket, proxy, host, port).await?;
            return match &self.tls {
                None => Ok(Transport::Plain(socket)),
                Some(tls) => {
                    Ok(Transport::Tls(Box::new(handshake(tls, socket).await.map_err(behind)?)))
                }
            };
        };
        let mut outer = self.connector.connect(name.clone(), socket).await.map_err(failed)?;
        tunnel::open(&mut outer, proxy, host, port).await?;
        match &self.tls {
            None => Ok(Transport::Tls(Box::new(outer))),
            Some(tls) => {
                Ok(Transport::TlsInTls(Box::new(handshake(tls, outer).await.map_err(behind)?)))
            }
        }
    }
}

fn behind(source: io::Error) -> DialError {
    DialError::Behind { source }
}

async fn handshake<T: AsyncRead + AsyncWrite + Unpin>(
    (connector, name): &(TlsConnector, ServerName<'static>),
    io: T,
) -> io::Result<TlsStream<T>> {
    connector.connect(name.clone(), io).await
}

/// Alternates the address families, beginning with that of the first address (RFC 8305 section 4).
fn alternating(addresses: &[IpAddr]) -> Vec<IpAddr> {
    let first = addresses.first().is_some_and(IpAddr::is_ipv6);
    let (mut same, mut other): (Vec<_>, Vec<_>) =
        addresses.iter().partition(|address| address.is_ipv6() == first);
    same.reverse();
    other.reverse();
    let turns = std::iter::from_fn(|| {
        std::mem::swap(&mut same, &mut other);
        other.pop().or_else(|| same.pop())
    });
    turns.collect()
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt as _;
    use tokio::net::TcpListener;

    use super::*;
    use crate::outbound;

    fn dialer(tls: bool, limit: Duration) -> Dialer {
        let settings = outbound::Settings { plain_only: true, ..outbound::Settings::default() };
        let origin = Origin { tls, host: "localhost".into(), port: 1 };
        Dialer::new(origin, &Outbound::new(&settings).unwrap(), limit, None).unwrap()
    }

    async fn listener() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    /// An address on which nothing listens.
    async fn refusing() -> SocketAddr {
        listener().await.1
    }

    #[test]
    fn address_families_alternate() {
        let parse = |texts: &[&str]| {
            texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<IpAddr>>()
        };
        let mixed = parse(&["::1", "::2", "::3", "127.0.0.1"]);
        assert_eq!(alternating(&mixed), parse(&["::1", "127.0.0.1", "::2", "::3"]));
        assert_eq!(alternating(&parse(&["127.0.0.1", "::1"])), parse(&["127.0.0.1", "::1"]));
        assert!(alternating(&[]).is_empty());
    }

    #[tokio::test]
    async fn an_address_that_refuses_costs_no_time() {
        let dialer = dialer(false, Duration::from_secs(10));
        let (_open, open) = listener().await;
        let closed = "127.0.0.9:1".parse().unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        let (transport, _) = dialer.race(vec![closed, open], deadline).await.unwrap();
        assert!(matches!(transport, Transport::Plain(_)));
        let error = dialer.race(vec![closed, refusing().await], deadline).await.err().unwrap();
        assert!(matches!(&error, DialError::Address { .. }), "{error}");
    }

    #[tokio::test]
    async fn an_address_that_accepts_and_stays_silent_leaves_time_for_the_next() {
        let dialer = dialer(true, Duration::from_secs(3));
        let (_silent, silent) = listener().await;
        let (answering, other) = listener().await;
        let visited = tokio::spawn(async move {
            let (mut stream, _) = answering.accept().await.unwrap();
            // It received a greeting; its answer does not matter.
            stream.read_u8().await.unwrap()
        });
        let deadline = Instant::now() + Duration::from_secs(3);
        let error = dialer.race(vec![silent, other], deadline).await.err().unwrap();
        assert!(matches!(&error, DialError::Late { .. } | DialError::Address { .. }), "{error}");
        let visited = tokio::time::timeout(Duration::from_secs(10), visited)
            .await
            .expect("the next was tried");
        assert_eq!(visited.unwrap(), 22, "a TLS record of a handshake");
    }

    #[tokio::test]
    async fn a_name_that_is_not_found_is_named_in_the_error() {
        let settings = outbound::Settings { plain_only: true, ..outbound::Settings::default() };
        let origin = Origin { tls: true, host: "nowhere.invalid".into(), port: 443 };
        let limit = Duration::from_secs(10);
        let dialer = Dialer::new(origin, &Outbound::new(&settings).unwrap(), limit, None).unwrap();
        let error = dialer.dial().await.err().unwrap();
        assert!(error.to_string().contains("nowhere.invalid"), "{error}");
    }
}
