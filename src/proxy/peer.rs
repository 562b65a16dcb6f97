//! The same-user check: whose program is at the other end of a loopback connection.
//!
//! The kernel is asked for the socket with exactly the caller's four-tuple (netlink `SOCK_DIAG`), once a connection. A
//! closed or dying socket answers with inode 0 and user 0: that is unknown, never root. On systems other than Linux
//! nothing is checked, and the start says so.

use std::io;
use std::net::SocketAddr;

/// Whose programs may call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Allowed {
    /// Those of these users.
    Users(Vec<u32>),
    /// Anybody's.
    All,
}

/// What is known about the caller of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// One of those who may call.
    Welcome,
    /// This user, who may not.
    Foreign(u32),
    /// The socket is gone or cannot be asked about: turned away as well.
    Unknown,
}

/// True where the check works.
pub const IS_SUPPORTED: bool = cfg!(target_os = "linux");

impl Allowed {
    /// The user that this process runs as.
    pub fn same_user() -> Self {
        Self::Users(vec![rustix::process::geteuid().as_raw()])
    }

    /// Judges the caller at `peer` who is connected to `local`.
    ///
    /// # Errors
    /// The kernel did not answer; such a caller is turned away.
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
}

#[cfg(target_os = "linux")]
mod diag {
    use std::io;
    use std::net::{IpAddr, SocketAddr};

    use rustix::net::netlink::{SOCK_DIAG, SocketAddrNetlink};
    use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

    /// `nlmsghdr` (16 bytes) and `inet_diag_req_v2` (56 bytes), linux/netlink.h and linux/inet_diag.h.
    const REQUEST: usize = 72;
    const SOCK_DIAG_BY_FAMILY: u16 = 20;
    const NLM_F_REQUEST: u16 = 1;
    const TCP: u8 = 6;
    const AF_INET: u8 = 2;
    const AF_INET6: u8 = 10;
    const TCP_TIME_WAIT: u8 = 6;
    /// Places in the answer: the header's type, then `inet_diag_msg` behind its 16 bytes.
    const TYPE: usize = 4;
    const STATE: usize = 17;
    const UID: usize = 80;
    const INODE: usize = 84;

    /// The user that owns the socket at `own` whose other end is `other`.
    pub(super) fn owner(own: SocketAddr, other: SocketAddr) -> io::Result<Option<u32>> {
        let kind = SocketType::DGRAM;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::NETLINK, kind, flags, Some(SOCK_DIAG))?;
        let kernel = SocketAddrNetlink::new(0, 0);
        rustix::net::sendto(&socket, &request(own, other), SendFlags::empty(), &kernel)?;
        let mut answer = [0_u8; 512];
        // The kernel answers within the send.
        let (read, _) = rustix::net::recv(&socket, &mut answer, RecvFlags::empty())?;
        Ok(read_owner(answer.get(..read).unwrap_or_default()))
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

    /// None for anything but a live socket: an error, a short answer, TIME_WAIT, inode 0.
    pub(super) fn read_owner(answer: &[u8]) -> Option<u32> {
        let word = |at: usize| Some(u32::from_ne_bytes(answer.get(at..at + 4)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(answer.get(TYPE..TYPE + 2)?.try_into().ok()?);
        let is_live = kind == SOCK_DIAG_BY_FAMILY && *answer.get(STATE)? != TCP_TIME_WAIT && word(INODE)? != 0;
        is_live.then(|| word(UID))?
    }
}

#[cfg(not(target_os = "linux"))]
mod diag {
    use std::io;
    use std::net::SocketAddr;

    pub(super) fn owner(_: SocketAddr, _: SocketAddr) -> io::Result<Option<u32>> {
        Ok(None)
    }
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use proptest::prelude::*;

    use super::*;

    fn pair(address: &str) -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind(address).unwrap();
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
    fn a_caller_who_is_gone_is_unknown_also_to_root() {
        let (client, accepted) = pair("127.0.0.1:0");
        drop(client);
        assert_eq!(judge(&Allowed::Users(vec![0]), &accepted), Peer::Unknown);
        let (client, accepted) = pair("127.0.0.1:0");
        let other = SocketAddr::new(client.local_addr().unwrap().ip(), 1);
        assert_eq!(Allowed::same_user().judge(accepted.local_addr().unwrap(), other).unwrap(), Peer::Unknown);
    }

    proptest! {
        #[test]
        fn no_answer_of_the_kernel_panics(answer in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = diag::read_owner(&answer);
        }
    }
}
