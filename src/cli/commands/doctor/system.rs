//! Checks of this machine: open files, the peer check, containers.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;

use rustix::fs::{StatVfsMountFlags, statvfs};
use rustix::process::{Resource, getrlimit};

use super::finding::{Check, Finding};
use crate::config::Config;
use crate::diagnostic::{Code, Diagnostic};
use crate::proxy::peer::{self, IS_SUPPORTED, PeerCheck};
use crate::server;

/// Fewer connections than this are too few for tools that work in parallel.
const FEW_CONNECTIONS: usize = 100;
/// Files that tell of a container: docker's, podman's.
const MARKS: [&str; 2] = ["/.dockerenv", "/run/.containerenv"];
/// Words in `/proc/1/cgroup` that do.
const CGROUPS: [&str; 4] = ["docker", "kubepods", "containerd", "lxc"];

/// All checks of this machine. Reads files.
pub(super) fn checks(config: &Config) -> Vec<Finding> {
    vec![peer_check(config), file_limit(config), container(config)]
}

/// Asks the kernel about a listener of our own, as the start does.
fn peer_check(config: &Config) -> Finding {
    let check = Check::Peers;
    if config.callers.peer_check == PeerCheck::Off {
        return check.skip("guard.peer_check is off");
    }
    if !IS_SUPPORTED {
        return check.skip("guard.peer_check does not work on this system");
    }
    let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)) else {
        return check.skip("no port is free for a test");
    };
    match listener.local_addr().and_then(peer::is_known) {
        Ok(()) => check.pass("the kernel says whose a connection is"),
        Err(error) => {
            let title = format!(
                "the kernel does not say whose a connection is: {error}; callers are refused"
            );
            check.problem(Diagnostic::error(Code::PeerCheck, title, PEER_FIX))
        }
    }
}

const PEER_FIX: &str = "let the system answer (netlink SOCK_DIAG, module tcp_diag), or listen on a unix socket: \
                        listen.api = \"unix:run/api.sock\"";

/// The program raises the soft limit to the hard one when it starts, and so has this process.
fn file_limit(config: &Config) -> Finding {
    let check = Check::FileLimit;
    let Some(limit) = getrlimit(Resource::Nofile).maximum else {
        return check.pass("any number of files may be open");
    };
    let possible = server::possible_connections(usize::try_from(limit).unwrap_or(usize::MAX));
    let wanted = config.listen.max_connections;
    let fix = "raise the limit (ulimit -Hn, LimitNOFILE in a unit)";
    let problem = |title: String, fix: String| {
        check.problem(Diagnostic::warning(Code::FileLimit, title, fix))
    };
    if wanted > possible {
        return problem(
            format!("listen.max_connections = {wanted}, and {limit} open files allow {possible}"),
            format!("{fix}, or lower listen.max_connections"),
        );
    }
    if wanted == 0 && possible < FEW_CONNECTIONS {
        let title = format!("{limit} open files allow {possible} connections at a time");
        return problem(title, fix.to_owned());
    }
    check.pass(format!("{limit} open files allow {possible} connections"))
}

fn container(config: &Config) -> Finding {
    let check = Check::Container;
    if !is_container() {
        return check.skip("this is no container");
    }
    let mut hints = Vec::new();
    if let Some(api) = config.listen.api.tcp().filter(|api| api.ip().is_loopback()) {
        hints.push(format!(
            "listen.api is on loopback, so only programs in this container or pod reach it; for others write \
             \"0.0.0.0:{}\" and set guard.local_key_file",
            api.port()
        ));
    }
    let is_read_only =
        statvfs("/").is_ok_and(|stat| stat.f_flag.contains(StatVfsMountFlags::RDONLY));
    if is_read_only && config.store.path.is_none() {
        hints.push("the root is read-only: mount a volume and name it in store.path".to_owned());
    }
    if config.state_root.is_none() {
        hints.push("this user has no HOME: set store.path".to_owned());
    }
    let hints = if hints.is_empty() { "nothing to note".to_owned() } else { hints.join("; ") };
    check.pass(format!("this is a container: {hints}"))
}

fn is_container() -> bool {
    let groups = fs::read_to_string("/proc/1/cgroup").unwrap_or_default();
    MARKS.iter().any(|mark| Path::new(mark).exists())
        || CGROUPS.iter().any(|group| groups.contains(group))
}
