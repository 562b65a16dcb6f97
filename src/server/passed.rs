//! Listening sockets that a service manager holds and passes to each process (sd_listen_fds(3)):
//! callers that connect while the program restarts wait for the next process, and none is refused.

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};

use listenfd::ListenFd;

use super::listen::{Address, Socket};

/// The name of sockets of the data listener (`FileDescriptorName=`).
pub const API: &str = "api";
/// The name of sockets of the admin listener.
pub const ADMIN: &str = "admin";

/// The sockets that were passed to this process; empty if it was started in another way.
#[derive(Debug, Default)]
pub struct Passed {
    pub(super) api: Vec<Socket>,
    pub(super) admin: Vec<StdListener>,
}

/// Why the sockets that were passed cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PassedError {
    /// Not a stream socket, or none that can be listened on.
    #[error(
        "the service manager's socket number {number} cannot be used: {source}; pass stream sockets (ListenStream=) only"
    )]
    Unusable {
        /// From 1.
        number: usize,
        /// The system's reason.
        source: io::Error,
    },
    /// The admin listener has ports only.
    #[error(
        "the service manager's socket for the admin listener is a unix socket; pass a port for it (ListenStream=127.0.0.1:8089)"
    )]
    UnixAdmin,
    /// Without names it is not clear what they are for.
    #[error(
        "the service manager passes sockets with more than two ports and without the names {API} and {ADMIN}; set FileDescriptorName={API} or {ADMIN} in each socket unit"
    )]
    Unnamed,
}

impl Passed {
    /// Takes the sockets that were passed to this process. They are told apart by their `names`
    /// (`LISTEN_FDNAMES`); sockets without ours are the data listener's, then the admin listener's,
    /// where those of one port belong together. Call it before there are other threads: it changes
    /// variables of the environment.
    ///
    /// # Errors
    /// [`PassedError`]: something that was passed cannot be listened on, or for an unknown purpose.
    pub fn take(names: Option<&str>) -> Result<Self, PassedError> {
        let mut passed = ListenFd::from_env();
        let sockets: Result<Vec<_>, _> = (0..passed.len())
            .map(|index| {
                let unusable = |source| PassedError::Unusable { number: index + 1, source };
                take(&mut passed, index).map_err(unusable)
            })
            .collect();
        let names = names.map(|names| names.split(':').collect()).unwrap_or_default();
        Self::sort(sockets?, names)
    }

    fn sort(sockets: Vec<Socket>, names: Vec<&str>) -> Result<Self, PassedError> {
        let mut sorted = Self::default();
        let mut unnamed = Vec::new();
        for (index, socket) in sockets.into_iter().enumerate() {
            match names.get(index) {
                Some(&API) => sorted.api.push(socket),
                Some(&ADMIN) => sorted.admin.push(for_admin(socket)?),
                _ => unnamed.push(socket),
            }
        }
        let mut ports: Vec<Option<u16>> = Vec::new();
        for socket in unnamed {
            let port = socket.tcp_address().map(|address| address.port());
            if ports.is_empty() || port.is_none() || ports.last() != Some(&port) {
                ports.push(port);
            }
            match ports.len() {
                1 if sorted.admin.is_empty() || sorted.api.is_empty() => sorted.api.push(socket),
                2 => sorted.admin.push(for_admin(socket)?),
                _ => return Err(PassedError::Unnamed),
            }
        }
        Ok(sorted)
    }

    /// The address of the data listener, if it was passed.
    pub fn api(&self) -> Option<Address> {
        self.api.first().map(Socket::address)
    }

    /// The address of the admin listener, if it was passed.
    pub fn admin(&self) -> Option<SocketAddr> {
        self.admin.first().and_then(|socket| socket.local_addr().ok())
    }
}

fn take(passed: &mut ListenFd, index: usize) -> io::Result<Socket> {
    let socket = match passed.take_unix_listener(index) {
        Ok(Some(socket)) => Socket::Unix(socket),
        Ok(None) | Err(_) => match passed.take_tcp_listener(index)? {
            Some(socket) => Socket::Tcp(socket),
            None => return Err(io::ErrorKind::NotFound.into()),
        },
    };
    socket.prepare()?;
    Ok(socket)
}

fn for_admin(socket: Socket) -> Result<StdListener, PassedError> {
    match socket {
        Socket::Tcp(socket) => Ok(socket),
        Socket::Unix(_) => Err(PassedError::UnixAdmin),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener as StdUnixListener;

    use super::*;

    fn tcp(address: SocketAddr) -> Socket {
        Socket::Tcp(StdListener::bind(address).unwrap())
    }

    fn free() -> SocketAddr {
        "127.0.0.1:0".parse().unwrap()
    }

    fn unix() -> (tempfile::TempDir, Socket) {
        let folder = tempfile::tempdir().unwrap();
        let socket = StdUnixListener::bind(folder.path().join("api.sock")).unwrap();
        (folder, Socket::Unix(socket))
    }

    #[test]
    fn sockets_are_told_apart_by_their_names_else_by_their_order() {
        let (first, second) = (tcp(free()), tcp(free()));
        let addresses = [first.tcp_address(), second.tcp_address()];
        let sorted = Passed::sort(vec![first, second], vec![ADMIN, API]).unwrap();
        assert_eq!(sorted.admin(), addresses[0]);
        assert_eq!(sorted.api().unwrap().tcp(), addresses[1]);
        let (folder, first) = unix();
        let second = tcp(free());
        let admin = second.tcp_address();
        let sorted = Passed::sort(vec![first, second], vec!["unknown", "unknown"]).unwrap();
        assert_eq!(sorted.api(), Some(Address::Unix(folder.path().join("api.sock"))));
        assert_eq!(sorted.admin(), admin);
        let alone = Passed::sort(vec![tcp(free())], vec!["pleo-proxy.socket"]).unwrap();
        assert!(alone.api().is_some() && alone.admin().is_none());
        let rest = Passed::sort(vec![tcp(free()), tcp(free())], vec![ADMIN]).unwrap();
        assert!(rest.api().is_some() && rest.admin.len() == 1);
    }

    #[test]
    fn both_families_of_a_port_belong_together() {
        let first = tcp(free());
        let twin =
            SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, first.tcp_address().unwrap().port()));
        let Ok(twin) = StdListener::bind(twin) else { return };
        let sockets = vec![first, Socket::Tcp(twin), tcp(free())];
        let sorted = Passed::sort(sockets, Vec::new()).unwrap();
        assert_eq!((sorted.api.len(), sorted.admin.len()), (2, 1));
    }

    #[test]
    fn sockets_for_an_unknown_purpose_are_refused() {
        let three = vec![tcp(free()), tcp(free()), tcp(free())];
        assert!(matches!(Passed::sort(three, Vec::new()), Err(PassedError::Unnamed)));
        let (_folder, socket) = unix();
        let refused = Passed::sort(vec![socket], vec![ADMIN]);
        assert!(matches!(refused, Err(PassedError::UnixAdmin)));
        let named = vec![tcp(free()), tcp(free()), tcp(free())];
        let refused = Passed::sort(named, vec![API, ADMIN, "third"]);
        assert!(matches!(refused, Err(PassedError::Unnamed)));
    }
}
