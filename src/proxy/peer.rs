//! The same-user check: whose program is at the other end of a loopback connection.
//!
//! The kernel is asked for the socket with exactly the caller's four-tuple (netlink `SOCK_DIAG`),
//! once a connection. A closed or dying socket answers with inode 0 and user 0: that is unknown,
//! never root. A kernel that cannot say whose a connection is (no netlink, no `tcp_diag`, a sandbox
//! around it) is not the same as a caller who is gone: the caller is refused too, but told why. On
//! systems other than Linux nothing is checked, and the start says so.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tracing::warn;

use super::reply::{Code, Problem};

/// Whose programs may call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Allowed {
    /// Those of these users.
    Users(Vec<u32>),
    /// Anybody's.
    All,
}

/// Whose programs may call, as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerCheck {
    /// Those of the user that this process runs as.
    SameUser,
    /// Anybody's.
    Off,
    /// Those of these users, and our own.
    Users(Vec<u32>),
}

/// A word or a list that says nothing about who may call.
#[derive(Debug, thiserror::Error)]
#[error("must be same-user, off or a list of user ids")]
pub struct PeerCheckError;

impl PeerCheck {
    /// Who that is.
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
    /// One of those who may call.
    Welcome,
    /// This user, who may not.
    Foreign(u32),
    /// The socket is gone: turned away as well.
    Unknown,
}

/// True where the check works.
pub const IS_SUPPORTED: bool = cfg!(target_os = "linux");

impl Allowed {
    /// The user that this process runs as.
    pub fn same_user() -> Self {
        Self::Users(vec![rustix::process::geteuid().as_raw()])
    }

    /// These users, and the one that this process runs as: its owner can never be locked out, since
    /// the commands that ask it and end it come over the same check.
    pub fn users(listed: &[u32]) -> Self {
        let own = rustix::process::geteuid().as_raw();
        Self::Users(
            [own].into_iter().chain(listed.iter().copied().filter(|user| *user != own)).collect(),
        )
    }

    /// Judges the caller at `peer` who is connected to `local`.
    ///
    /// # Errors
    /// The kernel does not say; such a caller is turned away.
    pub fn judge(&self, local: SocketAddr, peer: SocketAddr) -> io::Result<Peer> {
        if *self == Self::All || !IS_SUPPORTED {
            return Ok(Peer::Welcome);
        }
        Ok(self.judge_user(diag::owner(peer, local)?))
    }

    /// Judges a program of `user`, none if the kernel does not say whose it is.
    pub fn judge_user(&self, user: Option<u32>) -> Peer {
        match (self, user) {
            (Self::All, _) => Peer::Welcome,
            (Self::Users(users), Some(user)) if users.contains(&user) => Peer::Welcome,
            (Self::Users(_), Some(user)) => Peer::Foreign(user),
            (Self::Users(_), None) => Peer::Unknown,
        }
    }

    /// What a program of a user who may not call is told.
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

/// Whose programs may call a process, and whether the kernel has ever failed to say whose they are.
#[derive(Clone, Debug)]
pub struct Peers {
    /// Whose.
    pub allowed: Allowed,
    unsaid: Arc<OnceLock<String>>,
}

impl Peers {
    /// Lets these in.
    pub fn new(allowed: Allowed) -> Self {
        Self { allowed, unsaid: Arc::default() }
    }

    /// Asks the kernel about a listener of our own, which it must know, so that a kernel that
    /// cannot answer is told at the start.
    pub fn probe(&self, listener: SocketAddr) {
        if self.allowed != Allowed::All
            && IS_SUPPORTED
            && let Err(error) = diag::is_known(listener)
        {
            self.unsaid(&error);
        }
    }

    /// What a caller is told of whom the kernel does not say who it is. Told once in the log.
    pub fn unsaid(&self, error: &io::Error) -> Problem {
        if is_shortage(error) {
            let detail = format!("it cannot be looked up whose connection this is: {error}");
            let fix = "Try again; if it stays, raise the limit of open files.";
            return Problem::new(Code::Overloaded, detail, fix)
                .retry_after(Duration::from_secs(1))
                .closing();
        }
        let detail = format!("the kernel does not say whose connection this is: {error}");
        let is_first = self.unsaid.set(detail.clone()).is_ok();
        if is_first {
            warn!("{detail}; callers are refused. {WAYS_OUT}");
        }
        Problem::new(Code::ForbiddenPeer, detail, WAYS_OUT).closing()
    }

    /// For `status`: that callers were refused because the kernel did not say who they are.
    pub fn note(&self) -> Option<String> {
        self.unsaid.get().map(|detail| format!("callers were refused: {detail}. {WAYS_OUT}"))
    }
}

const WAYS_OUT: &str = "Let the system answer (netlink SOCK_DIAG, module tcp_diag), or listen on a unix socket, or set \
                        guard.peer_check = \"off\" together with guard.local_key_file.";

/// True if the question could not be put for want of something that may be there the next moment.
fn is_shortage(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let shortages = [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::NOBUFS];
    shortages.iter().any(|shortage| error.raw_os_error() == Some(shortage.raw_os_error()))
}

/// True if the kernel is sure that nobody holds the socket at `peer` any more: its program closed
/// it, or ended. One that shut only its sending half is still there. False where the kernel cannot
/// know: off this machine, or off Linux.
pub fn has_left(local: SocketAddr, peer: SocketAddr) -> bool {
    IS_SUPPORTED
        && peer.ip().to_canonical().is_loopback()
        && matches!(diag::owner(peer, local), Ok(None))
}

#[cfg(target_os = "linux")]
mod diag {
    use std::io;
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

    use rustix::io::Errno;
    use rustix::net::netlink::{SOCK_DIAG, SocketAddrNetlink};
    use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

    /// `nlmsghdr` (16 bytes) and `inet_diag_req_v2` (56 bytes), linux/netlink.h and
    /// linux/inet_diag.h.
    const REQUEST: usize = 72;
    const SOCK_DIAG_BY_FAMILY: u16 = 20;
    const NLM_F_REQUEST: u16 = 1;
    const NLMSG_ERROR: u16 = 2;
    const TCP: u8 = 6;
    const AF_INET: u8 = 2;
    const AF_INET6: u8 = 10;
    const TCP_TIME_WAIT: u8 = 6;
    /// Places in the answer: the header's type, then `inet_diag_msg` or the negative error number
    /// behind its 16 bytes.
    const TYPE: usize = 4;
    const ERROR: usize = 16;
    const STATE: usize = 17;
    const UID: usize = 80;
    const INODE: usize = 84;

    /// What the kernel says of a socket.
    #[derive(Debug, PartialEq, Eq)]
    pub(super) enum Found {
        /// A user's.
        Of(u32),
        /// Nobody holds it any more: TIME_WAIT, or inode 0.
        Orphan,
        /// There is none, or nothing is known of any (ENOENT stands for both).
        Nothing,
    }

    /// The user that owns the socket at `own` whose other end is `other`, an end of ours.
    pub(super) fn owner(own: SocketAddr, other: SocketAddr) -> io::Result<Option<u32>> {
        match ask(own, other)? {
            Found::Of(user) => Ok(Some(user)),
            Found::Orphan => Ok(None),
            // Our own end is known as long as it is open, and if it was reset the listener that it
            // came to.
            Found::Nothing => match ask(other, own)? {
                Found::Nothing => is_known(other).map(|()| None),
                Found::Of(_) | Found::Orphan => Ok(None),
            },
        }
    }

    /// Whether the kernel knows of a listener of ours: if not, it knows of no socket.
    pub(super) fn is_known(listener: SocketAddr) -> io::Result<()> {
        let nobody = match listener.ip().to_canonical() {
            IpAddr::V4(_) => IpAddr::from(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(_) => IpAddr::from(Ipv6Addr::UNSPECIFIED),
        };
        match ask(listener, SocketAddr::new(nobody, 0))? {
            Found::Nothing => {
                Err(io::Error::other("it knows of no TCP socket (is the module tcp_diag missing?)"))
            }
            Found::Of(_) | Found::Orphan => Ok(()),
        }
    }

    fn ask(own: SocketAddr, other: SocketAddr) -> io::Result<Found> {
        let kind = SocketType::DGRAM;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket =
            rustix::net::socket_with(AddressFamily::NETLINK, kind, flags, Some(SOCK_DIAG))?;
        let kernel = SocketAddrNetlink::new(0, 0);
        rustix::net::sendto(&socket, &request(own, other), SendFlags::empty(), &kernel)?;
        let mut answer = [0_u8; 512];
        // The kernel answers within the send.
        let (read, _) = rustix::net::recv(&socket, &mut answer, RecvFlags::empty())?;
        self::read(answer.get(..read).unwrap_or_default())
    }

    fn request(own: SocketAddr, other: SocketAddr) -> [u8; REQUEST] {
        let mut request = [0_u8; REQUEST];
        let (own_ip, other_ip) = (own.ip().to_canonical(), other.ip().to_canonical());
        request[..4].copy_from_slice(&(REQUEST as u32).to_ne_bytes());
        request[4..6].copy_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
        request[6..8].copy_from_slice(&NLM_F_REQUEST.to_ne_bytes());
        request[16] = if own_ip.is_ipv4() { AF_INET } else { AF_INET6 };
        request[17] = TCP;
        // Any state, any interface, any cookie.
        request[20..24].fill(0xff);
        request[24..26].copy_from_slice(&own.port().to_be_bytes());
        request[26..28].copy_from_slice(&other.port().to_be_bytes());
        write_ip(&mut request[28..44], own_ip);
        write_ip(&mut request[44..60], other_ip);
        request[64..72].fill(0xff);
        request
    }

    fn write_ip(place: &mut [u8], ip: IpAddr) {
        match ip {
            IpAddr::V4(ip) => place[..4].copy_from_slice(&ip.octets()),
            IpAddr::V6(ip) => place.copy_from_slice(&ip.octets()),
        }
    }

    pub(super) fn read(answer: &[u8]) -> io::Result<Found> {
        let senseless = || io::Error::new(io::ErrorKind::InvalidData, "its answer makes no sense");
        let word = |at: usize| Some(u32::from_ne_bytes(answer.get(at..at + 4)?.try_into().ok()?));
        let kind = answer
            .get(TYPE..TYPE + 2)
            .and_then(|kind| kind.try_into().ok())
            .map(u16::from_ne_bytes);
        match kind.ok_or_else(senseless)? {
            SOCK_DIAG_BY_FAMILY => {
                let (uid, inode) = word(UID).zip(word(INODE)).ok_or_else(senseless)?;
                let is_live =
                    answer.get(STATE).is_some_and(|state| *state != TCP_TIME_WAIT) && inode != 0;
                Ok(if is_live { Found::Of(uid) } else { Found::Orphan })
            }
            NLMSG_ERROR => match word(ERROR).map(|error| (error as i32).wrapping_neg()) {
                Some(error) if error == Errno::NOENT.raw_os_error() => Ok(Found::Nothing),
                Some(error) if error > 0 => Err(io::Error::from_raw_os_error(error)),
                _ => Err(senseless()),
            },
            _ => Err(senseless()),
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod diag {
    use std::io;
    use std::net::SocketAddr;

    pub(super) fn owner(_: SocketAddr, _: SocketAddr) -> io::Result<Option<u32>> {
        Ok(None)
    }

    pub(super) fn is_known(_: SocketAddr) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use proptest::prelude::*;

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
    fn own_connections_are_welcome_on_both_families() {
        let (_client, accepted) = pair("127.0.0.1:0");
        assert_eq!(judge(&Allowed::same_user(), &accepted), Peer::Welcome);
        assert_eq!(judge(&Allowed::All, &accepted), Peer::Welcome);
        if TcpListener::bind("[::1]:0").is_ok() {
            let (_client, accepted) = pair("[::1]:0");
            assert_eq!(judge(&Allowed::same_user(), &accepted), Peer::Welcome);
        }
    }

    #[test]
    fn somebody_elses_are_named() {
        let (_client, accepted) = pair("127.0.0.1:0");
        let me = rustix::process::geteuid().as_raw();
        assert_eq!(judge(&Allowed::Users(vec![me + 1]), &accepted), Peer::Foreign(me));
    }

    #[test]
    fn the_owner_is_let_in_whoever_is_listed_and_a_refusal_lists_everybody() {
        let me = rustix::process::geteuid().as_raw();
        let allowed = Allowed::users(&[me + 1]);
        assert_eq!(allowed, Allowed::users(&[me + 1, me]));
        assert_eq!(
            (allowed.judge_user(Some(me)), allowed.judge_user(Some(me + 1))),
            (Peer::Welcome, Peer::Welcome)
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
    fn a_caller_who_is_gone_is_unknown_also_to_root() {
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

    /// An answer of the kernel: its type, then an error number or a socket's state, and the owner
    /// and inode.
    fn answer(kind: u16, error: i32, owner: (u32, u32)) -> Vec<u8> {
        let mut answer = vec![0; 88];
        answer[4..6].copy_from_slice(&kind.to_ne_bytes());
        answer[16..20].copy_from_slice(&error.to_ne_bytes());
        answer[80..84].copy_from_slice(&owner.0.to_ne_bytes());
        answer[84..88].copy_from_slice(&owner.1.to_ne_bytes());
        answer
    }

    #[test]
    fn a_kernel_that_cannot_say_is_told_from_a_socket_that_is_gone() {
        let established = 1 << 8;
        assert_eq!(diag::read(&answer(20, established, (7, 1))).unwrap(), diag::Found::Of(7));
        assert_eq!(diag::read(&answer(20, established, (0, 0))).unwrap(), diag::Found::Orphan);
        assert_eq!(diag::read(&answer(20, 6 << 8, (7, 1))).unwrap(), diag::Found::Orphan);
        assert_eq!(diag::read(&answer(2, -2, (7, 1))).unwrap(), diag::Found::Nothing);
        let refused = diag::read(&answer(2, -1, (7, 1))).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
        for senseless in [
            answer(2, 258, (7, 1)),
            answer(2, 0, (7, 1)),
            answer(3, 0, (7, 1)),
            vec![2; 6],
            Vec::new(),
        ] {
            assert_eq!(
                diag::read(&senseless).unwrap_err().kind(),
                io::ErrorKind::InvalidData,
                "{senseless:?}"
            );
        }
        assert!(diag::read(&answer(20, established, (7, 1))[..86]).is_err());
    }

    #[test]
    fn a_kernel_that_knows_not_even_our_own_listener_cannot_say() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (_client, accepted) = pair_of(&listener);
        let local = listener.local_addr().unwrap();
        let peers = Peers::new(Allowed::same_user());
        peers.probe(local);
        assert_eq!(peers.note(), None);
        drop(listener);
        let nobody = SocketAddr::new(local.ip(), 1);
        assert!(Allowed::same_user().judge(local, nobody).is_err(), "as where tcp_diag is missing");
        assert_eq!(judge(&Allowed::same_user(), &accepted), Peer::Welcome);
        peers.probe(local);
        let note = peers.note().unwrap();
        assert!(note.contains("tcp_diag") && note.contains("guard.peer_check"), "{note}");
    }

    #[test]
    fn a_server_that_is_gone_is_unknown_to_its_client_who_has_no_listener() {
        let (client, accepted) = pair("127.0.0.1:0");
        let (own, server) = (client.local_addr().unwrap(), client.peer_addr().unwrap());
        assert_eq!(Allowed::same_user().judge(own, server).unwrap(), Peer::Welcome);
        drop(accepted);
        assert_eq!(Allowed::same_user().judge(own, server).unwrap(), Peer::Unknown);
    }

    #[test]
    fn what_the_kernel_does_not_say_is_told_with_the_setting_and_a_shortage_is_not_blamed_on_it() {
        let peers = Peers::new(Allowed::same_user());
        let shortage = peers.unsaid(&io::Error::from_raw_os_error(24));
        assert_eq!((shortage.code, peers.note()), (Code::Overloaded, None));
        let problem = peers.unsaid(&io::Error::from_raw_os_error(93));
        assert_eq!(problem.code, Code::ForbiddenPeer);
        assert!(problem.fix().contains("guard.peer_check = \"off\""), "{}", problem.fix());
        assert!(peers.clone().note().unwrap().contains("the kernel does not say"));
    }

    #[test]
    fn who_shut_one_half_is_there_and_who_closed_has_left() {
        let (client, accepted) = pair("127.0.0.1:0");
        let left = || has_left(accepted.local_addr().unwrap(), accepted.peer_addr().unwrap());
        client.shutdown(std::net::Shutdown::Write).unwrap();
        assert!(!left());
        drop(client);
        assert!(left());
        assert!(
            !has_left("192.0.2.1:1".parse().unwrap(), "192.0.2.2:2".parse().unwrap()),
            "another machine's"
        );
    }

    proptest! {
        #[test]
        fn no_answer_of_the_kernel_panics(answer in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = diag::read(&answer);
        }
    }
}
