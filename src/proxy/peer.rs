//! The same-user check: whose program is at the other end of a loopback connection.
//!
//! The kernel is asked for the socket with exactly the caller's four-tuple (netlink `SOCK_DIAG`),
//! once a connection. A closed or closing socket is reported with inode 0 and user 0: that means
//! unknown, never root. If the kernel cannot say whose a connection is (no netlink, no `tcp_diag`,
//! a sandbox), the caller is refused as well, but told why. On systems other than Linux nothing is
//! checked, and the start says so.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tracing::warn;

use crate::platform::sockets;
use crate::problem::{Code, Problem};

/// The users whose programs may call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Allowed {
    /// These users.
    Users(Vec<u32>),
    /// Every user.
    All,
}

/// The setting `guard.peer_check`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerCheck {
    /// The user that this process runs as.
    SameUser,
    /// Every user.
    Off,
    /// These users, and the one that this process runs as.
    Users(Vec<u32>),
}

/// A text that is no such setting.
#[derive(Debug, thiserror::Error)]
#[error("must be same-user, off or a list of user ids")]
pub struct PeerCheckError;

impl PeerCheck {
    /// The users that it allows.
    pub fn allowed(&self) -> Allowed {
        match self {
            Self::SameUser => Allowed::same_user(),
            Self::Off => Allowed::All,
            Self::Users(users) => Allowed::users(users),
        }
    }
}

impl FromStr for PeerCheck {
    type Err = PeerCheckError;

    fn from_str(text: &str) -> Result<Self, PeerCheckError> {
        match text {
            "same-user" => Ok(Self::SameUser),
            "off" => Ok(Self::Off),
            ids => ids
                .split(',')
                .map(str::parse)
                .collect::<Result<_, _>>()
                .map(Self::Users)
                .map_err(|_| PeerCheckError),
        }
    }
}

impl fmt::Display for PeerCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SameUser => f.write_str("same-user"),
            Self::Off => f.write_str("off"),
            Self::Users(users) => {
                f.write_str(&users.iter().map(u32::to_string).collect::<Vec<_>>().join(","))
            }
        }
    }
}

/// What is known about the caller of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// An allowed user.
    Allowed,
    /// This user, who is not allowed.
    OtherUser(u32),
    /// The kernel does not know: closed without a response.
    Unknown,
}

/// True on systems where the check works.
pub const IS_SUPPORTED: bool = sockets::ARE_KNOWN;

impl Allowed {
    /// The user that this process runs as.
    pub fn same_user() -> Self {
        Self::Users(vec![rustix::process::geteuid().as_raw()])
    }

    /// These users, and the one that this process runs as. It cannot be excluded: the commands that
    /// query and stop this process pass the same check.
    pub fn users(listed: &[u32]) -> Self {
        let own = rustix::process::geteuid().as_raw();
        Self::Users(
            [own].into_iter().chain(listed.iter().copied().filter(|user| *user != own)).collect(),
        )
    }

    /// Looks up the caller at `peer` that is connected to `local`.
    ///
    /// # Errors
    /// The kernel does not say; such a caller is refused.
    pub fn judge(&self, local: SocketAddr, peer: SocketAddr) -> io::Result<Peer> {
        if *self == Self::All || !IS_SUPPORTED {
            return Ok(Peer::Allowed);
        }
        Ok(self.judge_user(sockets::owner(peer, local)?))
    }

    /// Checks the user of a program, none if unknown.
    pub fn judge_user(&self, user: Option<u32>) -> Peer {
        match (self, user) {
            (Self::All, _) => Peer::Allowed,
            (Self::Users(users), Some(user)) if users.contains(&user) => Peer::Allowed,
            (Self::Users(_), Some(user)) => Peer::OtherUser(user),
            (Self::Users(_), None) => Peer::Unknown,
        }
    }

    /// The problem for a caller that is not allowed.
    pub fn refusal(&self, user: u32) -> Problem {
        let known = if let Self::Users(users) = self { users.as_slice() } else { &[] };
        let all: Vec<_> = known.iter().chain([&user]).map(u32::to_string).collect();
        let fix = format!(
            "Call as the user that runs the proxy, or let user {user} in: guard.peer_check = [{}] (or \"off\").",
            all.join(", ")
        );
        Problem::new(Code::ForbiddenPeer, format!("this proxy does not serve user {user}"), fix)
            .closing()
    }
}

/// The users whose programs may call a process, and whether the kernel has ever failed to say whose
/// a connection is.
#[derive(Clone, Debug)]
pub struct Peers {
    /// The users.
    pub allowed: Allowed,
    lookup_failed: Arc<OnceLock<String>>,
}

impl Peers {
    /// Allows these users.
    pub fn new(allowed: Allowed) -> Self {
        Self { allowed, lookup_failed: Arc::default() }
    }

    /// Asks the kernel about a listener of our own, which it must know: so that a kernel that
    /// cannot answer is reported at the start.
    pub fn probe(&self, listener: SocketAddr) {
        if self.allowed != Allowed::All
            && IS_SUPPORTED
            && let Err(error) = sockets::is_known(listener)
        {
            self.lookup_failed(&error);
        }
    }

    /// The problem for a caller whose user the kernel does not say. Logged once.
    pub fn lookup_failed(&self, error: &io::Error) -> Problem {
        if is_shortage(error) {
            let detail = format!("the owner of this connection cannot be looked up: {error}");
            let fix = "Try again; if it persists, raise the limit of open files.";
            return Problem::new(Code::Overloaded, detail, fix)
                .retry_after(Duration::from_secs(1))
                .closing();
        }
        let detail = format!("the kernel does not say whose connection this is: {error}");
        let is_first = self.lookup_failed.set(detail.clone()).is_ok();
        if is_first {
            warn!("{detail}; callers are refused. {FIX}");
        }
        Problem::new(Code::ForbiddenPeer, detail, FIX).closing()
    }

    /// A note for `status` if callers were refused because the kernel did not say whose they are.
    pub fn note(&self) -> Option<String> {
        self.lookup_failed.get().map(|detail| format!("callers were refused: {detail}. {FIX}"))
    }
}

const FIX: &str = "Let the system answer (netlink SOCK_DIAG, module tcp_diag), or listen on a unix socket, or set \
                        guard.peer_check = \"off\" together with guard.local_key_file.";

/// True if the lookup failed for lack of something that may be available a moment later.
fn is_shortage(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let shortages = [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::NOBUFS];
    shortages.iter().any(|shortage| error.raw_os_error() == Some(shortage.raw_os_error()))
}

/// True if the kernel is sure that no program holds the socket at `peer` any more: it was closed,
/// or its program ended. A caller that only shut its sending half is still there. False where the
/// kernel cannot know: for other machines, and on systems other than Linux.
pub fn is_gone(local: SocketAddr, peer: SocketAddr) -> bool {
    IS_SUPPORTED
        && peer.ip().to_canonical().is_loopback()
        && matches!(sockets::owner(peer, local), Ok(None))
}

/// The inode of the socket at `peer`, whose other end `local` is ours: what `/proc/PID/fd` calls
/// it. None if no program holds it, or the kernel does not say.
pub fn socket_inode(peer: SocketAddr, local: SocketAddr) -> Option<u32> {
    sockets::inode(peer, local)
}

/// Whether the kernel says whose a connection to a listener of ours is.
///
/// # Errors
/// It does not, and why.
pub fn is_known(listener: SocketAddr) -> io::Result<()> {
    sockets::is_known(listener)
}

/// A socket that listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listener {
    /// The user that owns it.
    pub user: u32,
    /// Its inode: what `/proc/PID/fd` calls it.
    pub inode: u32,
}

/// The socket that connections to this address would reach, if a program listens there. Nothing is
/// sent.
///
/// # Errors
/// The kernel does not say.
pub fn listener(address: SocketAddr) -> io::Result<Option<Listener>> {
    Ok(sockets::listener(address)?.map(|(user, inode)| Listener { user, inode }))
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    fn pair(address: &str) -> (TcpStream, TcpStream) {
        pair_of(&TcpListener::bind(address).unwrap())
    }

    fn pair_of(listener: &TcpListener) -> (TcpStream, TcpStream) {
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (client, listener.accept().unwrap().0)
    }

    fn judge(allowed: &Allowed, accepted: &TcpStream) -> Peer {
        allowed.judge(accepted.local_addr().unwrap(), accepted.peer_addr().unwrap()).unwrap()
    }

    #[test]
    fn own_connections_are_allowed_in_both_families() {
        let (_client, accepted) = pair("127.0.0.1:0");
        assert_eq!(judge(&Allowed::same_user(), &accepted), Peer::Allowed);
        assert_eq!(judge(&Allowed::All, &accepted), Peer::Allowed);
        if TcpListener::bind("[::1]:0").is_ok() {
            let (_client, accepted) = pair("[::1]:0");
            assert_eq!(judge(&Allowed::same_user(), &accepted), Peer::Allowed);
        }
    }

    #[test]
    fn another_users_connection_is_reported_with_the_user() {
        let (_client, accepted) = pair("127.0.0.1:0");
        let me = rustix::process::geteuid().as_raw();
        assert_eq!(judge(&Allowed::Users(vec![me + 1]), &accepted), Peer::OtherUser(me));
    }

    #[test]
    fn the_owner_is_always_allowed_and_a_refusal_lists_all_users() {
        let me = rustix::process::geteuid().as_raw();
        let allowed = Allowed::users(&[me + 1]);
        assert_eq!(allowed, Allowed::users(&[me + 1, me]));
        assert_eq!(
            (allowed.judge_user(Some(me)), allowed.judge_user(Some(me + 1))),
            (Peer::Allowed, Peer::Allowed)
        );
        let fix = allowed.refusal(me + 2).fix().to_owned();
        assert!(
            fix.contains(&format!("guard.peer_check = [{me}, {}, {}]", me + 1, me + 2)),
            "{fix}"
        );
        let fix = Allowed::same_user().refusal(me + 2).fix().to_owned();
        assert!(fix.contains(&format!("guard.peer_check = [{me}, {}]", me + 2)), "{fix}");
    }

    #[test]
    fn a_caller_that_is_gone_is_unknown_even_if_root_is_allowed() {
        let (client, accepted) = pair("127.0.0.1:0");
        drop(client);
        assert_eq!(judge(&Allowed::Users(vec![0]), &accepted), Peer::Unknown);
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(address) else { continue };
            let (client, accepted) = pair_of(&listener);
            let other = SocketAddr::new(client.local_addr().unwrap().ip(), 1);
            assert_eq!(
                Allowed::same_user().judge(accepted.local_addr().unwrap(), other).unwrap(),
                Peer::Unknown
            );
        }
    }

    #[test]
    fn a_kernel_that_does_not_know_our_listener_fails_the_lookup() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (_client, accepted) = pair_of(&listener);
        let local = listener.local_addr().unwrap();
        let peers = Peers::new(Allowed::same_user());
        peers.probe(local);
        assert_eq!(peers.note(), None);
        drop(listener);
        let nobody = SocketAddr::new(local.ip(), 1);
        assert!(Allowed::same_user().judge(local, nobody).is_err(), "as where tcp_diag is missing");
        assert_eq!(judge(&Allowed::same_user(), &accepted), Peer::Allowed);
        peers.probe(local);
        let note = peers.note().unwrap();
        assert!(note.contains("tcp_diag") && note.contains("guard.peer_check"), "{note}");
    }

    #[test]
    fn a_server_that_is_gone_is_unknown_to_its_client() {
        let (client, accepted) = pair("127.0.0.1:0");
        let (own, server) = (client.local_addr().unwrap(), client.peer_addr().unwrap());
        assert_eq!(Allowed::same_user().judge(own, server).unwrap(), Peer::Allowed);
        drop(accepted);
        assert_eq!(Allowed::same_user().judge(own, server).unwrap(), Peer::Unknown);
    }

    #[test]
    fn a_failed_lookup_names_the_setting_and_a_shortage_does_not() {
        let peers = Peers::new(Allowed::same_user());
        let shortage = peers.lookup_failed(&io::Error::from_raw_os_error(24));
        assert_eq!((shortage.code, peers.note()), (Code::Overloaded, None));
        let problem = peers.lookup_failed(&io::Error::from_raw_os_error(93));
        assert_eq!(problem.code, Code::ForbiddenPeer);
        assert!(problem.fix().contains("guard.peer_check = \"off\""), "{}", problem.fix());
        assert!(peers.clone().note().unwrap().contains("the kernel does not say"));
    }

    #[test]
    fn a_caller_that_shut_one_half_is_there_and_one_that_closed_is_gone() {
        let (client, accepted) = pair("127.0.0.1:0");
        let is_caller_gone =
            || is_gone(accepted.local_addr().unwrap(), accepted.peer_addr().unwrap());
        client.shutdown(std::net::Shutdown::Write).unwrap();
        assert!(!is_caller_gone());
        drop(client);
        assert!(is_caller_gone());
        assert!(
            !is_gone("192.0.2.1:1".parse().unwrap(), "192.0.2.2:2".parse().unwrap()),
            "on another machine"
        );
    }

    #[test]
    fn a_listener_is_found_without_a_connection_and_a_free_address_is_nobodys() {
        let listening = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listening.local_addr().unwrap();
        let user = rustix::process::geteuid().as_raw();
        assert_eq!(listener(address).unwrap().map(|listener| listener.user), Some(user));
        let everywhere = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
        let port = everywhere.local_addr().unwrap().port();
        assert!(listener(SocketAddr::from(([127, 0, 0, 1], port))).unwrap().is_some());
        let beside = SocketAddr::from(([127, 0, 0, 7], address.port()));
        assert_eq!(listener(beside).unwrap(), None);
    }
}
