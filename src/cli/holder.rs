//! Who listens at an address, as the kernel says, without a byte to whoever that is.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::log::programs;
use crate::proxy::peer;

/// The program that holds a port.
pub(super) enum Holder {
    Program { pid: u32, name: String },
    OfUser(u32),
}

/// Who listens at an address; at 127.0.0.1 and [::1] in either family, because the proxy binds both.
pub(super) fn at(address: SocketAddr) -> std::io::Result<Option<Holder>> {
    let both: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    let ip = address.ip();
    let addresses =
        if both.contains(&ip) || ip.is_unspecified() { both.to_vec() } else { vec![ip] };
    for ip in addresses {
        if let Some(listener) = peer::listener(SocketAddr::new(ip, address.port()))? {
            return Ok(Some(match programs::holder(listener.inode) {
                Some(program) => Holder::Program { pid: program.pid, name: program.name },
                None => Holder::OfUser(listener.user),
            }));
        }
    }
    Ok(None)
}

/// The process of a `pleo-proxy login` that listens there for its browser.
pub(super) fn login_at(address: SocketAddr) -> Option<u32> {
    match at(address) {
        Ok(Some(Holder::Program { pid, name })) if name == "pleo-proxy" => {
            let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
            command.split(|byte| *byte == 0).any(|word| word == b"login").then_some(pid)
        }
        _ => None,
    }
}

/// What to do about a login that listens somewhere.
pub(super) fn waiting_login(pid: u32) -> String {
    format!(
        "a `pleo-proxy login` (process {pid}) waits there for its browser; finish that login, or cancel it with: kill {pid}"
    )
}
