//! Asks the kernel whose sockets are (netlink `SOCK_DIAG`, sock_diag(7)).

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
/// Offsets in the kernel's message: the type in the header, then `inet_diag_msg` or the
/// negative error number behind its 16 bytes.
const TYPE: usize = 4;
const ERROR: usize = 16;
const STATE: usize = 17;
const UID: usize = 80;
const INODE: usize = 84;

/// True where the system says whose a socket is.
pub const ARE_KNOWN: bool = true;

/// What the kernel says about a socket.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    /// A user owns it; its inode.
    OwnedBy { user: u32, inode: u32 },
    /// No program holds it any more: TIME_WAIT, or inode 0.
    Orphan,
    /// There is none, or the kernel knows about none (ENOENT means either).
    Nothing,
}

/// The user that owns the socket at `own`, whose other end `other` is ours; none if no program
/// holds it any more.
///
/// # Errors
/// The kernel does not say.
pub fn owner(own: SocketAddr, other: SocketAddr) -> io::Result<Option<u32>> {
    match ask(own, other)? {
        Found::OwnedBy { user, .. } => Ok(Some(user)),
        Found::Orphan => Ok(None),
        // The kernel knows our own end while it is open, and if it was reset our listener.
        Found::Nothing => match ask(other, own)? {
            Found::Nothing => is_known(other).map(|()| None),
            Found::OwnedBy { .. } | Found::Orphan => Ok(None),
        },
    }
}

/// The inode of that socket: what `/proc/PID/fd` calls it. None if no program holds it, or the kernel
/// does not say.
pub fn inode(own: SocketAddr, other: SocketAddr) -> Option<u32> {
    match ask(own, other) {
        Ok(Found::OwnedBy { inode, .. }) => Some(inode),
        Ok(Found::Orphan | Found::Nothing) | Err(_) => None,
    }
}

/// Whether the kernel knows a listener of ours.
///
/// # Errors
/// It does not, and then it knows no socket.
pub fn is_known(listener: SocketAddr) -> io::Result<()> {
    match listening(listener)? {
        Found::Nothing => {
            Err(io::Error::other("it knows of no TCP socket (is the module tcp_diag missing?)"))
        }
        Found::OwnedBy { .. } | Found::Orphan => Ok(()),
    }
}

/// User and inode of the socket that listens at an address.
///
/// # Errors
/// The kernel does not say.
pub fn listener(address: SocketAddr) -> io::Result<Option<(u32, u32)>> {
    Ok(match listening(address)? {
        Found::OwnedBy { user, inode } => Some((user, inode)),
        Found::Orphan | Found::Nothing => None,
    })
}

fn listening(address: SocketAddr) -> io::Result<Found> {
    let nobody = match address.ip().to_canonical() {
        IpAddr::V4(_) => IpAddr::from(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::from(Ipv6Addr::UNSPECIFIED),
    };
    ask(address, SocketAddr::new(nobody, 0))
}

fn ask(own: SocketAddr, other: SocketAddr) -> io::Result<Found> {
    let kind = SocketType::DGRAM;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::NETLINK, kind, flags, Some(SOCK_DIAG))?;
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

fn read(answer: &[u8]) -> io::Result<Found> {
    let senseless = || io::Error::new(io::ErrorKind::InvalidData, "its answer makes no sense");
    let word = |at: usize| Some(u32::from_ne_bytes(answer.get(at..at + 4)?.try_into().ok()?));
    let kind =
        answer.get(TYPE..TYPE + 2).and_then(|kind| kind.try_into().ok()).map(u16::from_ne_bytes);
    match kind.ok_or_else(senseless)? {
        SOCK_DIAG_BY_FAMILY => {
            let (uid, inode) = word(UID).zip(word(INODE)).ok_or_else(senseless)?;
            let is_live =
                answer.get(STATE).is_some_and(|state| *state != TCP_TIME_WAIT) && inode != 0;
            Ok(if is_live { Found::OwnedBy { user: uid, inode } } else { Found::Orphan })
        }
        NLMSG_ERROR => match word(ERROR).map(|error| (error as i32).wrapping_neg()) {
            Some(error) if error == Errno::NOENT.raw_os_error() => Ok(Found::Nothing),
            Some(error) if error > 0 => Err(io::Error::from_raw_os_error(error)),
            _ => Err(senseless()),
        },
        _ => Err(senseless()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A message of the kernel: its type, then an error number or a socket's state, and owner and
    /// inode.
    fn answer(kind: u16, error: i32, owner: (u32, u32)) -> Vec<u8> {
        let mut answer = vec![0; 88];
        answer[4..6].copy_from_slice(&kind.to_ne_bytes());
        answer[16..20].copy_from_slice(&error.to_ne_bytes());
        answer[80..84].copy_from_slice(&owner.0.to_ne_bytes());
        answer[84..88].copy_from_slice(&owner.1.to_ne_bytes());
        answer
    }

    #[test]
    fn a_failed_lookup_is_not_a_socket_that_is_gone() {
        let established = 1 << 8;
        assert_eq!(
            read(&answer(20, established, (7, 1))).unwrap(),
            Found::OwnedBy { user: 7, inode: 1 }
        );
        assert_eq!(read(&answer(20, established, (0, 0))).unwrap(), Found::Orphan);
        assert_eq!(read(&answer(20, 6 << 8, (7, 1))).unwrap(), Found::Orphan);
        assert_eq!(read(&answer(2, -2, (7, 1))).unwrap(), Found::Nothing);
        let refused = read(&answer(2, -1, (7, 1))).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
        for senseless in [
            answer(2, 258, (7, 1)),
            answer(2, 0, (7, 1)),
            answer(3, 0, (7, 1)),
            vec![2; 6],
            Vec::new(),
        ] {
            assert_eq!(
                read(&senseless).unwrap_err().kind(),
                io::ErrorKind::InvalidData,
                "{senseless:?}"
            );
        }
        assert!(read(&answer(20, established, (7, 1))[..86]).is_err());
    }

    proptest! {
        #[test]
        fn no_message_of_the_kernel_panics(answer in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&answer);
        }
    }
}
