//! Listening sockets: where they are bound, and who is at the other end of what they accept.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener as StdListener};
use std::os::unix::net::UnixListener as StdUnixListener;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use super::client_stream::Stream;
use super::unix;
use crate::exchange::Caller;
use crate::platform;

/// Connections that may wait to be accepted; the kernel lowers it to its own limit.
const BACKLOG: i32 = 4096;

/// Bytes of `sun_path` with its closing zero, on Linux (unix(7)); elsewhere it is shorter, and
/// binding fails.
const SUN_PATH: usize = 108;

/// Address of the data listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A TCP port; a loopback address stands for both families.
    Tcp(SocketAddr),
    /// A unix socket.
    Unix(PathBuf),
}

impl Address {
    /// The TCP address, if it is one.
    pub fn tcp(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(address) => Some(*address),
            Self::Unix(_) => None,
        }
    }

    /// The same with the path of a unix socket starting at `base` if it is relative.
    ///
    /// # Errors
    /// The path becomes too long.
    pub fn below(self, base: &Path) -> Result<Self, AddressError> {
        match self {
            Self::Unix(path) => Some(base.join(path))
                .filter(|path| path.as_os_str().len() < SUN_PATH)
                .map_or(Err(AddressError::TooLong), |path| Ok(Self::Unix(path))),
            Self::Tcp(_) => Ok(self),
        }
    }

    /// Whether two listeners would take each other's port: a loopback listener binds both families,
    /// and an unspecified address is all of them.
    pub fn collide(one: SocketAddr, other: SocketAddr) -> bool {
        let (ip, other_ip) = (one.ip().to_canonical(), other.ip().to_canonical());
        let overlap = ip == other_ip
            || ip.is_unspecified()
            || other_ip.is_unspecified()
            || (ip.is_loopback() && other_ip.is_loopback());
        one.port() != 0 && one.port() == other.port() && overlap
    }

    /// The address that callers name in their Host; for a unix socket with the default port, as in
    /// `http://localhost/`.
    pub fn named(&self) -> SocketAddr {
        self.tcp().unwrap_or_else(|| SocketAddr::from((Ipv4Addr::LOCALHOST, 80)))
    }

    /// As it is shown to callers: a URL, or `unix:` and a path.
    pub fn origin(&self) -> String {
        match self {
            Self::Tcp(address) => format!("http://{address}"),
            Self::Unix(_) => self.to_string(),
        }
    }
}

/// Why a text is no address of a listener. Each message continues a sentence that begins with the
/// setting's name.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    /// No address, or no port.
    #[error("must be an IP address and a port")]
    NotAddress,
    /// A unix socket without a name, or with an impossible one.
    #[error("names no file behind `unix:`; write a path such as unix:/run/pleo/api.sock")]
    NoFile,
    /// A path that the system cannot bind.
    #[error("is longer than the {} bytes that a unix socket's path may have; choose a shorter path", SUN_PATH - 1)]
    TooLong,
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        match text.strip_prefix("unix:") {
            None => text.parse().map(Self::Tcp).map_err(|_| AddressError::NotAddress),
            Some(path) if path.is_empty() || path.ends_with('/') || path.contains('\0') => {
                Err(AddressError::NoFile)
            }
            Some(path) => Ok(Self::Unix(path.into())),
        }
    }
}

/// As it is written in `listen.api`.
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
    pub(super) socket_file: Option<unix::SocketFile>,
}

/// A bound socket.
#[derive(Debug)]
pub(super) enum Socket {
    Tcp(StdListener),
    Unix(StdUnixListener),
}

impl Sockets {
    pub(super) fn bind(address: &Address) -> io::Result<Self> {
        Ok(match address {
            Address::Tcp(address) => Self {
                sockets: tcp(*address)?.into_iter().map(Socket::Tcp).collect(),
                socket_file: None,
            },
            Address::Unix(path) => {
                let (socket, file) = unix::bind(path, BACKLOG)?;
                Self { sockets: vec![Socket::Unix(socket)], socket_file: Some(file) }
            }
        })
    }

    /// Sockets that were passed to us. The file of a unix socket belongs to who bound it.
    pub(super) fn adopt(passed: Vec<Socket>) -> io::Result<Self> {
        let (mut tcp, mut sockets) = (Vec::new(), Vec::new());
        for socket in passed {
            match socket {
                Socket::Tcp(socket) => tcp.push(socket),
                Socket::Unix(_) => sockets.push(socket),
            }
        }
        sockets.splice(..0, with_twins(tcp)?.into_iter().map(Socket::Tcp));
        Ok(Self { sockets, socket_file: None })
    }

    /// The TCP address that was bound: the system may have chosen the port.
    pub(super) fn port(&self) -> Option<SocketAddr> {
        self.sockets.first()?.tcp_address()
    }
}

impl Socket {
    pub(super) fn try_clone(&self) -> io::Result<Self> {
        match self {
            Self::Tcp(socket) => socket.try_clone().map(Self::Tcp),
            Self::Unix(socket) => socket.try_clone().map(Self::Unix),
        }
    }

    /// Where it listens, if that is a port.
    pub(super) fn tcp_address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(socket) => socket.local_addr().ok(),
            Self::Unix(_) => None,
        }
    }

    /// Where it listens.
    pub(super) fn address(&self) -> Address {
        match self {
            Self::Tcp(socket) => {
                Address::Tcp(socket.local_addr().unwrap_or(SocketAddr::from(([0; 4], 0))))
            }
            Self::Unix(socket) => {
                let address = socket.local_addr().ok();
                let path = address.as_ref().and_then(|address| address.as_pathname());
                Address::Unix(path.unwrap_or(Path::new("(unnamed)")).into())
            }
        }
    }

    /// Makes one that was bound elsewhere like one of ours.
    ///
    /// # Errors
    /// It cannot be listened on.
    pub(super) fn prepare(&self) -> io::Result<()> {
        match self {
            Self::Tcp(socket) => prepare(socket),
            Self::Unix(socket) => {
                socket.set_nonblocking(true)?;
                Ok(rustix::net::listen(socket, BACKLOG)?)
            }
        }
    }
}

/// Binds an address, and the other family's if it is loopback: `localhost` must not lead to another
/// program.
pub(super) fn tcp(address: SocketAddr) -> io::Result<Vec<StdListener>> {
    // With port 0 the kernel's choice for one family may be taken in the other.
    let tries = if address.port() == 0 { 20 } else { 1 };
    let mut last = io::Error::other("no port is free in both families");
    for _ in 0..tries {
        let first = bind_one(address)?;
        match bind_twin(first.local_addr()?) {
            Ok(second) => return Ok([first].into_iter().chain(second).collect()),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// The same listeners, and the twins that they lack.
pub(super) fn with_twins(mut listeners: Vec<StdListener>) -> io::Result<Vec<StdListener>> {
    let bound: Vec<_> = listeners.iter().map(StdListener::local_addr).collect::<Result<_, _>>()?;
    for address in &bound {
        if !bound.iter().any(|other| Some(*other) == twin(*address)) {
            listeners.extend(bind_twin(*address)?);
        }
    }
    Ok(listeners)
}

/// The same port of the other family, if the address is loopback.
fn twin(address: SocketAddr) -> Option<SocketAddr> {
    let ip: IpAddr = match address.ip() {
        IpAddr::V4(Ipv4Addr::LOCALHOST) => Ipv6Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::LOCALHOST) => Ipv4Addr::LOCALHOST.into(),
        _ => return None,
    };
    Some(SocketAddr::new(ip, address.port()))
}

fn bind_twin(address: SocketAddr) -> io::Result<Option<StdListener>> {
    match twin(address).map(bind_one).transpose() {
        Err(error) if is_absent(&error) => Ok(None),
        bound => bound,
    }
}

fn bind_one(address: SocketAddr) -> io::Result<StdListener> {
    let listener = StdListener::bind(address)?;
    prepare(&listener)?;
    Ok(listener)
}

fn prepare(listener: &StdListener) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    rustix::net::listen(listener, BACKLOG)?;
    if listener.local_addr()?.ip().is_loopback() {
        platform::disable_pacing(listener);
    }
    Ok(())
}

/// True if the kernel does not have this family: then no other program can listen there either.
fn is_absent(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let absent = [Errno::ADDRNOTAVAIL, Errno::AFNOSUPPORT, Errno::PROTONOSUPPORT];
    absent.iter().any(|absent| error.raw_os_error() == Some(absent.raw_os_error()))
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
        // Recorded by the kernel when the caller connected: unlike the lookup of a TCP socket it
        // cannot come too late.
        let peer = stream.peer_cred().ok();
        let (user, process) = (peer.map(|peer| peer.uid()), peer.and_then(|peer| peer.pid()));
        Ok((stream, Caller::Unix { user, process }))
    }
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use super::*;

    #[test]
    fn responses_to_loopback_are_not_paced() {
        for listener in tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap() {
            listener.set_nonblocking(false).unwrap();
            let _caller = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let accepted = listener.accept().unwrap().0;
            assert_eq!(rustix::net::sockopt::tcp_congestion(&accepted).unwrap(), "reno");
        }
    }
}
