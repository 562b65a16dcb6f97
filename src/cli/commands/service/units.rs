//! The text of the units: one service, and the sockets that it is passed.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;
use sha2::{Digest as _, Sha256};

use crate::server::{ADMIN_SOCKET, API_SOCKET, Address};

/// The service.
pub(super) const SERVICE: &str = "pleo-proxy.service";
/// The socket of the data listener.
pub(super) const SOCKET: &str = "pleo-proxy.socket";
const ADMIN: &str = "pleo-proxy-admin.socket";
/// All units, in the order in which they are needed.
pub(super) const NAMES: [&str; 3] = [SOCKET, ADMIN, SERVICE];
/// Files beside the configuration that a unit hands over as credentials of the same name.
pub(super) const CREDENTIALS: [&str; 3] = ["client-secret", "store-key", "local-key"];
/// What the first line of a unit says before its checksum.
const MARK: &str = "# Written by `pleo-proxy service install`, checksum ";
const ADVICE: &str = "# Changes belong into a drop-in, which stays: ";

/// Whose service manager it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub(super) enum Manager {
    /// The one of a user.
    User,
    /// The one of the machine.
    System,
}

/// A file of systemd's.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unit {
    pub(super) name: &'static str,
    pub(super) text: String,
}

/// What the units depend on.
#[derive(Debug)]
pub(super) struct Facts {
    pub(super) manager: Manager,
    /// The program and its arguments.
    pub(super) command: Vec<String>,
    pub(super) api: Address,
    pub(super) admin: Option<SocketAddr>,
    /// Name and file of each credential.
    pub(super) credentials: Vec<(&'static str, PathBuf)>,
}

impl Facts {
    /// The units, the service last: it needs the others.
    pub(super) fn units(&self) -> Vec<Unit> {
        let mut units = vec![Unit {
            name: SOCKET,
            text: self.marked(SOCKET, &self.socket("tools", API_SOCKET, &self.api)),
        }];
        if let Some(admin) = self.admin {
            let text = self.socket("logins and commands", ADMIN_SOCKET, &Address::Tcp(admin));
            units.push(Unit { name: ADMIN, text: self.marked(ADMIN, &text) });
        }
        let sockets: Vec<_> = units.iter().map(|unit| unit.name).collect();
        units.push(Unit {
            name: SERVICE,
            text: self.marked(SERVICE, &self.service(&sockets.join(" "))),
        });
        units
    }

    /// The text of a unit with a first line by which a change is noticed, and how to change it.
    fn marked(&self, name: &str, text: &str) -> String {
        let edit = match self.manager {
            Manager::User => "systemctl --user edit",
            Manager::System => "systemctl edit",
        };
        format!("{MARK}{}\n{ADVICE}{edit} {name}\n{text}", checksum(text))
    }

    fn service(&self, sockets: &str) -> String {
        let template = match self.manager {
            Manager::User => include_str!("user.service"),
            Manager::System => include_str!("system.service"),
        };
        let command: Vec<_> = self.command.iter().map(|word| quoted(word)).collect();
        let credentials: String = self
            .credentials
            .iter()
            .map(|(name, file)| format!("LoadCredential={name}:{}\n", escaped(file)))
            .collect();
        template
            .replace("@program@", &command.join(" "))
            .replace("@sockets@", sockets)
            .replace("@credentials@\n", &credentials)
    }

    fn socket(&self, purpose: &str, name: &str, address: &Address) -> String {
        let listen: String =
            places(address).iter().map(|place| format!("ListenStream={place}\n")).collect();
        let mode = match (address, self.manager) {
            (Address::Tcp(_), _) => "",
            (Address::Unix(_), Manager::User) => "SocketMode=0600\nDirectoryMode=0700\n",
            // The callers are other users; guard.peer_check decides which of them is served.
            (Address::Unix(_), Manager::System) => "SocketMode=0666\nDirectoryMode=0755\n",
        };
        format!(
            "[Unit]\nDescription=Socket of pleo-proxy for {purpose}\n\n[Socket]\n{listen}\
             FileDescriptorName={name}\nService={SERVICE}\nBacklog=4096\n{mode}\n\
             [Install]\nWantedBy=sockets.target\n"
        )
    }
}

/// Where systemd listens for an address: a loopback address is both families, where there are two.
fn places(address: &Address) -> Vec<String> {
    match address {
        Address::Unix(path) => vec![escaped(path)],
        Address::Tcp(address) if address.ip().is_loopback() => {
            let v4 = SocketAddr::from((Ipv4Addr::LOCALHOST, address.port()));
            let first = if address.is_ipv4() { *address } else { v4 };
            let has_v6 = TcpListener::bind("[::1]:0").is_ok();
            let second = has_v6.then(|| format!("[::1]:{}", address.port()));
            [first.to_string()].into_iter().chain(second).collect()
        }
        Address::Tcp(address) => vec![address.to_string()],
    }
}

/// A word of a command as systemd reads it (systemd.service(5)).
fn quoted(word: &str) -> String {
    let plain = |character: char| character.is_alphanumeric() || "%/._-=:,@+".contains(character);
    // `%h` and its like are meant; they come from us and not from paths, which are escaped.
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    let escape = |character: char| match character {
        '"' => "\\\"".to_owned(),
        '\\' => "\\\\".to_owned(),
        '$' => "$$".to_owned(),
        character => character.to_string(),
    };
    format!("\"{}\"", word.chars().map(escape).collect::<String>())
}

/// A path in which no `%` means something.
pub(super) fn escaped(path: &Path) -> String {
    path.display().to_string().replace('%', "%%")
}

/// True if a text is as it was written, by this version or another.
pub(super) fn is_as_written(text: &str) -> bool {
    let rest = text.strip_prefix(MARK).and_then(|rest| rest.split_once('\n'));
    rest.is_some_and(|(sum, rest)| {
        rest.split_once('\n').is_some_and(|(_, text)| checksum(text) == sum)
    })
}

/// Short: against mistakes, not against forgery.
fn checksum(text: &str) -> String {
    let mut sum = HEXLOWER.encode(&Sha256::digest(text));
    sum.truncate(16);
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(manager: Manager) -> Facts {
        Facts {
            manager,
            command: vec!["/usr/bin/pleo-proxy".into(), "serve".into()],
            api: "127.0.0.1:8088".parse().unwrap(),
            admin: Some("127.0.0.1:8089".parse().unwrap()),
            credentials: vec![("client-secret", "/etc/pleo 100%/secret".into())],
        }
    }

    #[test]
    fn a_service_names_its_sockets_and_its_credentials() {
        for manager in [Manager::User, Manager::System] {
            let units = facts(manager).units();
            let names: Vec<_> = units.iter().map(|unit| unit.name).collect();
            assert_eq!(names, NAMES);
            let service = &units[2].text;
            for line in [
                "ExecStart=/usr/bin/pleo-proxy serve",
                "Sockets=pleo-proxy.socket pleo-proxy-admin.socket",
                "LoadCredential=client-secret:/etc/pleo 100%%/secret",
            ] {
                assert!(service.lines().any(|it| it == line), "{line} is not in:\n{service}");
            }
            assert!(!service.contains("@program@") && !service.contains("@credentials@"));
            assert!(units[0].text.contains("ListenStream=127.0.0.1:8088\n"));
            assert!(units[1].text.contains("FileDescriptorName=admin\n"));
        }
    }

    #[test]
    fn without_an_admin_listener_there_is_no_socket_for_it() {
        let units = Facts { admin: None, ..facts(Manager::User) }.units();
        assert_eq!(units.len(), 2);
        assert!(!units[1].text.contains("pleo-proxy-admin"));
    }

    #[test]
    fn a_unix_socket_is_its_owners_unless_all_callers_are_other_users() {
        let unix = |manager| {
            let api = "unix:/run/pleo/api.sock".parse().unwrap();
            Facts { api, ..facts(manager) }.units().swap_remove(0).text
        };
        assert!(unix(Manager::User).contains("ListenStream=/run/pleo/api.sock\n"));
        assert!(unix(Manager::User).contains("SocketMode=0600\n"));
        assert!(unix(Manager::System).contains("SocketMode=0666\n"));
    }

    #[test]
    fn words_reach_the_program_as_they_are() {
        assert_eq!(quoted("%h/.config/pleo-proxy/proxy.toml"), "%h/.config/pleo-proxy/proxy.toml");
        assert_eq!(quoted("guard.peer_check=[1000]"), "\"guard.peer_check=[1000]\"");
        assert_eq!(quoted("a \"b\" $c \\"), r#""a \"b\" $$c \\""#);
        assert_eq!(quoted(""), "\"\"");
    }

    #[test]
    fn every_unit_says_how_that_unit_of_that_manager_is_changed() {
        for (manager, edit) in
            [(Manager::User, "systemctl --user edit"), (Manager::System, "systemctl edit")]
        {
            for Unit { name, text } in facts(manager).units() {
                let advice = text.lines().nth(1).unwrap();
                assert!(advice.ends_with(&format!(": {edit} {name}")), "{advice}");
            }
        }
    }

    #[test]
    fn a_change_is_noticed_and_another_version_is_not_one() {
        let text = facts(Manager::User).marked(SERVICE, "[Unit]\n");
        assert!(is_as_written(&text));
        assert!(!is_as_written(&text.replace("[Unit]", "[Unit]\nAfter=x")));
        assert!(!is_as_written("[Unit]\n"));
    }
}
