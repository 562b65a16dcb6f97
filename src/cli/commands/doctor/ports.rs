//! Checks of the configured addresses: who listens there, without a byte to whoever that is.

use super::finding::{Check, Finding};
use crate::cli::holder::{self, Holder};
use crate::cli::run_file::Instance;
use crate::config::Config;
use crate::diagnostic::{Code, Diagnostic};
use crate::server::Address;

/// It may hold the sockets of a proxy that it has not started yet.
const SERVICE_MANAGER: &str = "systemd";

/// The configured addresses. `running` are the proxies of this user, and `own` those of this store.
pub(super) fn checks(config: &Config, own: &[Instance], running: &[Instance]) -> Vec<Finding> {
    let settings = [
        ("listen.api", Some(config.listen.api.clone())),
        ("listen.admin", config.listen.admin.map(Address::Tcp)),
    ];
    let check = |(setting, address): (&str, Option<Address>)| {
        let finding = match address {
            None => Check::Ports.skip("it is off"),
            Some(address) => judge(setting, &address, own, running),
        };
        finding.about(setting)
    };
    settings.into_iter().map(check).collect()
}

fn judge(setting: &str, address: &Address, own: &[Instance], running: &[Instance]) -> Finding {
    let check = Check::Ports;
    if own.iter().any(|own| is_of(own, address)) {
        return check.pass(format!("{address}, where a proxy of this store listens"));
    }
    if let Some(other) = running.iter().find(|other| is_of(other, address)) {
        return taken_by_proxy(setting, address, other);
    }
    match address {
        Address::Tcp(address) if address.port() == 0 => check.pass("any free port"),
        Address::Tcp(tcp) => match holder::at(*tcp) {
            Ok(None) => check.pass(format!("{address} is free")),
            Ok(Some(Holder::Program { name, .. })) if name == SERVICE_MANAGER => check.pass(
                format!("{address}, which {name} holds: for the proxy, if it has a socket unit"),
            ),
            Ok(Some(holder)) => taken(setting, address, &holder),
            Err(error) => check.skip(format!("{address}: the kernel does not say: {error}")),
        },
        // A socket that a proxy left behind is replaced at the start.
        Address::Unix(_) => check.pass(format!("{address}, which no running proxy of yours uses")),
    }
}

/// True if a proxy listens at this address.
fn is_of(proxy: &Instance, address: &Address) -> bool {
    let listens_at = |origin: &str| match (address, origin.strip_prefix("http://")) {
        (Address::Tcp(wanted), Some(at)) => {
            at.parse().is_ok_and(|at| Address::collide(*wanted, at))
        }
        (Address::Unix(_), None) => *origin == address.origin(),
        _ => false,
    };
    listens_at(&proxy.api) || proxy.admin.as_deref().is_some_and(listens_at)
}

fn taken_by_proxy(setting: &str, address: &Address, other: &Instance) -> Finding {
    let (pid, environment) = (other.process.pid, &other.environment);
    let title = format!(
        "another pleo-proxy (process {pid}, {environment}, store {}) listens at {address}",
        other.store.display()
    );
    let fix = format!("stop it with: kill {pid}; or choose another address for {setting}");
    Check::Ports.problem(Diagnostic::error(Code::PortTakenByProxy, title, fix))
}

fn taken(setting: &str, address: &Address, holder: &Holder) -> Finding {
    let or = format!("choose another address for {setting}");
    let (code, who, fix) = match holder {
        Holder::Program { pid, name } => {
            let code = if name == "pleo-proxy" { Code::PortTakenByProxy } else { Code::PortTaken };
            (code, format!("{name} (process {pid})"), format!("stop it with: kill {pid}; or {or}"))
        }
        Holder::OfUser(user) => {
            let who = format!("a program of user {user}");
            let fix = format!("stop it, unless it is the socket unit of this proxy, or {or}");
            (Code::PortTaken, who, fix)
        }
    };
    let title = format!("{who} listens at {address}, so the proxy cannot");
    Check::Ports.problem(Diagnostic::error(code, title, fix))
}
