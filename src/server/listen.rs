//! Listening sockets: where they are bound, and who is at the other end of what they accept.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener as StdListener};
use std::os::unix::net::UnixListener as StdUnixListener;
use std::path::PathBuf;

use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use super::unix;
use super::wire::Stream;

/// Connections that may wait to be accepted; the kernel cuts it to its own limit.
const BACKLOG: i32 = 4096;

/// Where the data listener is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A port; a loopback address stands for both families.
    Tcp(SocketAddr),
    /// A unix socket.
    Unix(PathBuf),
}

impl Address {
    /// The address of a port.
    pub fn tcp(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(address) => Some(*address),
            Self::Unix(_) => None,
        }
    }

    /// What callers name in their Host: behind a unix socket the default port, as in `http://localhost/`.
    pub fn named(&self) -> SocketAddr {
        self.tcp().unwrap_or_else(|| SocketAddr::from((Ipv4Addr::LOCALHOST, 80)))
    }

    /// What tools are told: a URL, or `unix:` and a path.
    pub fn origin(&self) -> String {
        match self {
            Self::Tcp(address) => format!("http://{address}"),
            Self::Unix(_) => self.to_string(),
        }
    }
}

/// As `listen.api` has it.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// The bound sockets of the data listener.
#[derive(Debug)]
pub(super) struct Sockets {
    pub(super) sockets: Vec<Socket>,
    /// The file of a unix socket.
    pub(super) name: Option<unix::Name>,
}

/// One of them.
#[derive(Debug)]
pub(super) enum Socket {
    Tcp(StdListener),
    Unix(StdUnixListener),
}

impl Sockets {
    pub(super) fn bind(address: &Address) -> io::Result<Self> {
        Ok(match address {
            Address::Tcp(address) => {
                Self { sockets: tcp(*address)?.into_iter().map(Socket::Tcp).collect(), name: None }
            }
            Address::Unix(path) => {
                let (socket, name) = unix::bind(path, BACKLOG)?;
                Self { sockets: vec![Socket::Unix(socket)], name: Some(name) }
            }
        })
    }

    /// The port that was bound: the system may have chosen it.
    pub(super) fn port(&self) -> Option<SocketAddr> {
        match self.sockets.first()? {
            Socket::Tcp(socket) => socket.local_addr().ok(),
            Socket::Unix(_) => None,
        }
    }
}

impl Socket {
    pub(super) fn try_clone(&self) -> io::Result<Self> {
        match self {
            Self::Tcp(socket) => socket.try_clone().map(Self::Tcp),
            Self::Unix(socket) => socket.try_clone().map(Self::Unix),
        }
    }
}

/// One address, and its twin in the other family if it is loopback: `localhost` must not lead to somebody else.
pub(super) fn tcp(address: SocketAddr) -> io::Result<Vec<StdListener>> {
    let twin: Option<IpAddr> = match address.ip() {
        IpAddr::V4(Ipv4Addr::LOCALHOST) => Some(Ipv6Addr::LOCALHOST.into()),
        IpAddr::V6(Ipv6Addr::LOCALHOST) => Some(Ipv4Addr::LOCALHOST.into()),
        _ => None,
    };
    // With port 0 the kernel's choice for one family may be taken in the other.
    let tries = if address.port() == 0 { 20 } else { 1 };
    let mut last = io::Error::other("no port is free in both families");
    for _ in 0..tries {
        let first = bind_one(address)?;
        let Some(twin) = twin else { return Ok(vec![first]) };
        match bind_one(SocketAddr::new(twin, first.local_addr()?.port())) {
            Ok(second) => return Ok(vec![first, second]),
            Err(error) if is_absent(&error) => return Ok(vec![first]),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn bind_one(address: SocketAddr) -> io::Result<StdListener> {
    let listener = StdListener::bind(address)?;
    listener.set_nonblocking(true)?;
    rustix::net::listen(&listener, BACKLOG)?;
    if address.ip().is_loopback() {
        unpaced(&listener);
    }
    Ok(listener)
}

/// Nothing is congested between two ends on one machine; a system's BBR would pace answers there, by a timer for each.
/// Accepted connections inherit it.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn unpaced(listener: &StdListener) {
    // Reno is in every kernel and allowed to everybody. Without it, answers are only dearer.
    let _ = rustix::net::sockopt::set_tcp_congestion(listener, "reno");
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn unpaced(_: &StdListener) {}

/// A kernel without this family, where nobody can be led astray.
fn is_absent(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let absent = [Errno::ADDRNOTAVAIL, Errno::AFNOSUPPORT, Errno::PROTONOSUPPORT];
    absent.iter().any(|absent| error.raw_os_error() == Some(absent.raw_os_error()))
}

/// What is at the other end of an accepted connection.
#[derive(Clone, Copy, Debug)]
pub(super) enum Caller {
    /// The two ends of a TCP connection.
    Tcp { local: SocketAddr, peer: SocketAddr },
    /// The user and the process that connected to a unix socket; none if the kernel does not say.
    Unix { user: Option<u32>, process: Option<i32> },
}

/// A socket that accepts.
pub(super) trait Accept: Send + Sync + 'static {
    type Stream: Stream;

    fn accept(&self) -> impl Future<Output = io::Result<(Self::Stream, Caller)>> + Send;
}

impl Accept for TcpListener {
    type Stream = TcpStream;

    async fn accept(&self) -> io::Result<(TcpStream, Caller)> {
        let (stream, peer) = self.accept().await?;
        let local = stream.local_addr()?;
        let _ = stream.set_nodelay(true);
        Ok((stream, Caller::Tcp { local, peer }))
    }
}

impl Accept for UnixListener {
    type Stream = UnixStream;

    async fn accept(&self) -> io::Result<(UnixStream, Caller)> {
        let (stream, _) = self.accept().await?;
        // Stamped by the kernel when the caller connected: it cannot be outrun, unlike the look at a TCP socket.
        let stamp = stream.peer_cred().ok();
        let (user, process) = (stamp.map(|stamp| stamp.uid()), stamp.and_then(|stamp| stamp.pid()));
        Ok((stream, Caller::Unix { user, process }))
    }
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use super::*;

    #[test]
    fn answers_to_loopback_are_not_paced() {
        for listener in tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap() {
            listener.set_nonblocking(false).unwrap();
            let _caller = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let accepted = listener.accept().unwrap().0;
            assert_eq!(rustix::net::sockopt::tcp_congestion(&accepted).unwrap(), "reno");
        }
    }
}
