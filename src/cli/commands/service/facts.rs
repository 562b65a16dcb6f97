//! What the units depend on: the program, the configuration that the service will read, and what
//! lies beside it.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::systemctl::command_line;
use super::units::{CREDENTIALS, Facts, Manager, NAMES, escaped};
use crate::cli::context::Context;
use crate::cli::exit::Failure;
use crate::config::{Config, SecretSource};
use crate::private_file::access::Access;
use crate::proxy::peer::PeerCheck;
use crate::server::Address;

/// The configuration of a service of the machine.
const SYSTEM_CONFIG: &str = "/etc/pleo-proxy/proxy.toml";
/// The same of a user's service, as systemd and as a shell writes it.
const USER_CONFIG: (&str, &str) =
    ("%h/.config/pleo-proxy/proxy.toml", "~/.config/pleo-proxy/proxy.toml");
/// The only folder that a service of the machine can write.
const SYSTEM_STATE: &str = "/var/lib/pleo-proxy";
/// What a service of the machine does not see (`ProtectHome=`, `PrivateTmp=`).
const HIDDEN: [&str; 5] = ["/home", "/root", "/run/user", "/tmp", "/var/tmp"];

/// What is to be installed, and what to say about it.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) facts: Facts,
    /// What will not work.
    pub(super) notes: Vec<String>,
    /// What is needed before the first start.
    missing: Vec<String>,
}

impl Plan {
    pub(super) fn new(
        context: &Context,
        manager: Manager,
        program: Option<PathBuf>,
    ) -> Result<Self, Failure> {
        let program = match program {
            Some(program) => std::path::absolute(program).context("the program's path")?,
            None => std::env::current_exe().context("the path of this program")?,
        };
        let default = (manager == Manager::System).then_some(Path::new(SYSTEM_CONFIG));
        let (file, config) = context.service_config(default)?;
        let shown = match (&file, manager) {
            (Some(file), _) => file.display().to_string(),
            (None, Manager::System) => SYSTEM_CONFIG.to_owned(),
            (None, Manager::User) => USER_CONFIG.1.to_owned(),
        };
        if manager == Manager::System {
            refuse_hidden(&program, file.as_deref())?;
        }
        let named = match (&file, manager) {
            (None, Manager::User) => USER_CONFIG.0.to_owned(),
            _ => escaped(Path::new(&shown)),
        };
        let flags = context.service_flags();
        let flags = flags.iter().map(|word| escaped(Path::new(word)));
        let command = [escaped(&program), "--config".to_owned(), named]
            .into_iter()
            .chain(flags)
            .chain(["serve".to_owned()])
            .collect();
        let credentials = credentials(manager, Path::new(&shown), file.is_some(), &config);
        let facts = Facts {
            manager,
            command,
            api: fixed("listen.api", config.listen.api.clone())?,
            admin: config.listen.admin.map(fixed_port).transpose()?,
            credentials,
        };
        let missing = missing(&shown, file.is_some(), &facts);
        let notes = file.map(|file| notes(manager, &file, &config)).unwrap_or_default();
        Ok(Self { facts, notes, missing })
    }

    /// The commands that start what was written.
    pub(super) fn next(&self, is_here: bool) -> Vec<String> {
        let systemctl = command_line(self.facts.manager);
        let sudo = if self.facts.manager == Manager::System { "sudo " } else { "" };
        let has_admin = self.facts.admin.is_some();
        let units = NAMES.into_iter().filter(|name| has_admin || !name.contains("admin"));
        let units = units.collect::<Vec<_>>().join(" ");
        let mut next = self.missing.clone();
        if is_here {
            next.push(format!("{sudo}{systemctl} daemon-reload"));
        }
        next.push(format!("{sudo}{systemctl} enable --now {units}"));
        if self.facts.manager == Manager::User {
            next.push("loginctl enable-linger    # keeps it running after you log out".to_owned());
        }
        next
    }
}

/// Files that systemd hands over, so that the service can read them whoever it runs as. Of a user's
/// service those that are there: what the configuration names is read without systemd.
fn credentials(
    manager: Manager,
    config_file: &Path,
    is_there: bool,
    config: &Config,
) -> Vec<(&'static str, PathBuf)> {
    let folder = config_file.parent().unwrap_or(Path::new("/"));
    let is_sandbox = is_there && config.embedded_sandbox;
    let names_secret = matches!(config.oauth.client_secret, SecretSource::File(_));
    let is_wanted = |name: &str, file: &Path| match name {
        "client-secret" if names_secret => false,
        "client-secret" if manager == Manager::System => !is_sandbox,
        _ => file.exists(),
    };
    let files = CREDENTIALS.map(|name| (name, folder.join(name)));
    files.into_iter().filter(|(name, file)| is_wanted(name, file)).collect()
}

/// What has to be written before the first start.
fn missing(config_file: &str, is_there: bool, facts: &Facts) -> Vec<String> {
    let mut missing = Vec::new();
    let is_system = facts.manager == Manager::System;
    if !is_there {
        let secret = if is_system { " --no-secret" } else { "" };
        missing.push(format!(
            "pleo-proxy init --config {config_file}{secret}    # writes the configuration"
        ));
    }
    if !is_there && is_system {
        missing.push(format!("chmod 644 {config_file}    # it holds no secret"));
    }
    for (name, file) in facts.credentials.iter().filter(|(_, file)| !file.exists()) {
        let file = file.display();
        missing.push(format!(
            "(umask 077; cat > {file})    # paste the {name}, then Enter and Ctrl-D"
        ));
    }
    match facts.manager {
        Manager::User => missing,
        Manager::System if missing.is_empty() => missing,
        Manager::System => ["sudo mkdir -p /etc/pleo-proxy".to_owned()]
            .into_iter()
            .chain(missing.iter().map(|command| as_root(command)))
            .collect(),
    }
}

fn as_root(command: &str) -> String {
    match command.split_once("    # ") {
        Some((run, why)) if run.starts_with('(') => format!("sudo sh -c '{run}'    # {why}"),
        Some((run, why)) => format!("sudo {run}    # {why}"),
        None => format!("sudo {command}"),
    }
}

/// What will not work in a service of the machine, whose user is not its callers'.
fn notes(manager: Manager, file: &Path, config: &Config) -> Vec<String> {
    let mut notes = Vec::new();
    if manager == Manager::User {
        return notes;
    }
    if fs::metadata(file).is_ok_and(|metadata| !Access::of(&metadata).is_world_readable()) {
        let file = file.display();
        notes.push(format!(
            "{file} cannot be read by the service's own user; it holds no secret: sudo chmod 644 {file}"
        ));
    }
    if config.callers.peer_check == PeerCheck::SameUser {
        notes.push(
            "guard.peer_check is same-user, and the service has a user of its own: it refuses all callers; list the \
             users that may call, as in guard.peer_check = [1000]"
                .to_owned(),
        );
    }
    if matches!(config.oauth.client_secret, SecretSource::File(_)) {
        notes.push(
            "client.secret_file must be readable for the service's own user; leave it out, and put the secret into a \
             file client-secret beside the configuration: systemd hands it over"
                .to_owned(),
        );
    }
    let store = config.store.path.as_deref();
    if let Some(path) = store.filter(|path| !path.starts_with(SYSTEM_STATE)) {
        let path = path.display();
        notes.push(format!("store.path = {path} cannot be written by the service; leave it out"));
    }
    notes
}

fn refuse_hidden(program: &Path, config: Option<&Path>) -> Result<(), Failure> {
    let is_hidden = |path: &Path| HIDDEN.iter().any(|hidden| path.starts_with(hidden));
    if is_hidden(program) {
        return Err(Failure::usage(format!(
            "a service of the machine sees no home folder and no /tmp, where {0} is; copy it, then install with that \
             one: sudo install -m 755 {0} /usr/local/bin/pleo-proxy",
            program.display()
        )));
    }
    match config.filter(|config| is_hidden(config)) {
        Some(config) => Err(Failure::usage(format!(
            "a service of the machine sees no home folder and no /tmp, where {} is; put it at {SYSTEM_CONFIG}",
            config.display()
        ))),
        None => Ok(()),
    }
}

/// systemd binds before the program starts, so a free port cannot be asked for.
fn fixed(setting: &str, address: Address) -> Result<Address, Failure> {
    match address.tcp().is_some_and(|address| address.port() == 0) {
        true => Err(Failure::usage(format!(
            "{setting} takes any free port; a service needs a fixed one, such as 127.0.0.1:8088"
        ))),
        false => Ok(address),
    }
}

fn fixed_port(address: SocketAddr) -> Result<SocketAddr, Failure> {
    fixed("listen.admin", Address::Tcp(address)).map(|_| address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_for_root_keep_their_redirection() {
        let shell = "(umask 077; cat > /etc/x)    # paste it";
        assert_eq!(as_root(shell), "sudo sh -c '(umask 077; cat > /etc/x)'    # paste it");
        assert_eq!(as_root("pleo-proxy init    # it"), "sudo pleo-proxy init    # it");
    }

    #[test]
    fn what_a_service_of_the_machine_cannot_see_is_refused() {
        let fine = Path::new("/usr/bin/pleo-proxy");
        assert!(refuse_hidden(fine, Some(Path::new(SYSTEM_CONFIG))).is_ok());
        assert!(refuse_hidden(Path::new("/home/ada/pleo-proxy"), None).is_err());
        assert!(refuse_hidden(fine, Some(Path::new("/root/proxy.toml"))).is_err());
    }

    #[test]
    fn a_free_port_cannot_be_held_by_systemd() {
        assert!(fixed("listen.api", "127.0.0.1:0".parse().unwrap()).is_err());
        assert!(fixed("listen.api", "127.0.0.1:8088".parse().unwrap()).is_ok());
        assert!(fixed("listen.api", "unix:/run/x".parse().unwrap()).is_ok());
    }
}
