//! Checks of the database of the store: which of its hosts answer, whether they can be written and
//! keep what is written, and what the role may do. Nothing is written, and no claim is taken.

use tokio::task::JoinHandle;

use super::bounded::NETWORK;
use super::finding::{Check, Finding};
use crate::config::Config;
use crate::diagnostic::{Code, Diagnostic};
use crate::store::{
    Durability, HeldClaim, Host, Kind, OpenError, Server, Tables, examine_database,
};

/// A difference of clocks up to this, in milliseconds, is normal.
const TOLERANCE: u64 = 3000;
/// Seconds that a claim may last: that of a refresh whose intent is written.
const LONGEST_CLAIM: i64 = 50;

/// A database that is being asked.
pub(super) struct Asked {
    asking: JoinHandle<Result<Vec<Host>, OpenError>>,
    program: String,
}

impl Asked {
    /// Begins to ask; none where the records are files.
    pub(super) fn begin(config: &Config, program: &str) -> Option<Self> {
        if config.store.kind != Kind::Postgres {
            return None;
        }
        let (database, environment) = (config.database.clone(), config.environment().as_str());
        let asking =
            tokio::spawn(async move { examine_database(&database, environment, NETWORK).await });
        Some(Self { asking, program: program.to_owned() })
    }

    /// What was found. `own` is the proxy that responds, whose refreshes may take their time.
    pub(super) async fn findings(self, own: Option<&str>) -> Vec<Finding> {
        match self.asking.await {
            Ok(Ok(hosts)) => checks(&hosts, own, &self.program),
            Ok(Err(error)) => vec![Check::Database.problem(Diagnostic::of(Code::Database, error))],
            Err(error) => vec![Check::Database.skip(format!("a bug: {error}"))],
        }
    }
}

fn checks(hosts: &[Host], own: Option<&str>, program: &str) -> Vec<Finding> {
    let used = hosts.iter().find_map(|host| Some((host, host.primary()?)));
    let Some((host, server)) = used else {
        let is_down = hosts.iter().any(|host| host.server.is_err());
        return hosts.iter().map(|host| unusable(host, is_down)).collect();
    };
    let others = hosts.iter().filter(|other| other.name != host.name);
    let mut findings = vec![reached(host, server)];
    findings.extend(others.map(|other| unused(other, &host.name)));
    findings.push(tables(server, program));
    findings.push(role(server, program));
    findings.extend(durability(&server.durability, &server.role));
    findings.push(clock(server.ahead));
    findings.extend(claims(&server.claims, own));
    findings
}

fn reached(host: &Host, server: &Server) -> Finding {
    let (name, version) = (&host.name, &server.version);
    let way = if host.is_local { "a unix socket" } else { "TLS, whose certificate is verified" };
    Check::Database.pass(format!("{name} answers through {way}: PostgreSQL {version}"))
}

/// The first host that can be written is used.
fn unused(host: &Host, used: &str) -> Finding {
    let name = &host.name;
    let finding = match &host.server {
        Ok(_) => Check::Database.pass(format!("it takes no writes, as a standby; {used} is used")),
        Err(why) => {
            let title = format!("it cannot be used: {}", reason(why).0);
            let fix = format!("bring it back, or take it out of the URL; {used} is used meanwhile");
            Check::Database.problem(Diagnostic::warning(Code::Database, title, fix))
        }
    };
    finding.about(name)
}

/// No host can be written; `is_down` if one of them does not answer.
fn unusable(host: &Host, is_down: bool) -> Finding {
    let (title, fix) = match &host.server {
        Ok(server) if server.is_standby => {
            let fix = if is_down {
                "bring its primary back, or promote this one"
            } else {
                "name the primary server in the URL of the database"
            };
            ("it is a standby: it can be read, and nothing be saved".to_owned(), fix.to_owned())
        }
        Ok(server) => (
            "it takes no writes: default_transaction_read_only is on".to_owned(),
            format!(
                "turn it off for this role, as the owner of the database: ALTER ROLE {} SET default_transaction_read_only = off",
                server.role
            ),
        ),
        Err(why) => {
            let (why, fix) = reason(why);
            let default =
                "check that it runs, that this machine may reach it, and its URL (store.url_file)";
            (format!("it cannot be used: {why}"), fix.unwrap_or(default).to_owned())
        }
    };
    Check::Database.problem(Diagnostic::error(Code::Database, title, fix)).about(&host.name)
}

/// What went wrong, and what to do where the text says it.
fn reason(why: &str) -> (&str, Option<&str>) {
    why.split_once("; ").map_or((why, None), |(why, fix)| (why, Some(fix)))
}

fn tables(server: &Server, program: &str) -> Finding {
    let check = Check::Tables;
    let Tables { applied, wanted, can_make } = server.tables;
    let fix = format!("as the owner of the database run: {program} store sql | psql");
    match applied {
        None if !server.missing_rights.is_empty() => check.skip("the role may not look at them"),
        None if can_make => check.pass("there are none yet; the first start makes them"),
        None => {
            let title = format!("there are none, and role {} may not make them", server.role);
            check.problem(Diagnostic::error(Code::Tables, title, fix))
        }
        Some(applied) if applied < wanted => {
            let title = format!(
                "they are those of an earlier version (step {applied} of {wanted}), which the next start extends if role {} may",
                server.role
            );
            check.problem(Diagnostic::warning(Code::Tables, title, fix))
        }
        Some(applied) if applied > wanted => check.pass(format!(
            "they are those of a later version (step {applied}, here {wanted}), which work here too"
        )),
        Some(applied) => check.pass(format!("they are those of this version (step {applied})")),
    }
}

fn role(server: &Server, program: &str) -> Finding {
    let (check, role) = (Check::Role, &server.role);
    if !server.missing_rights.is_empty() {
        let title = format!("role {role} lacks rights that a proxy needs");
        let rights = server.missing_rights.join("; ");
        let fix = format!("as the owner of the database run: {rights}");
        return check.problem(Diagnostic::error(Code::Role, title, fix));
    }
    if server.is_superuser {
        let title = format!(
            "role {role} is a superuser: whoever gets the URL of the database has all that is on its server"
        );
        let fix = format!(
            "make a role that can do no more than a proxy needs ({program} store sql | psql), and name it in the URL"
        );
        return check.problem(Diagnostic::warning(Code::Role, title, fix));
    }
    check.pass(format!("{role} has the rights that a proxy needs"))
}

fn durability(durability: &Durability, role: &str) -> Vec<Finding> {
    let check = Check::Durability;
    if let Some(refusal) = durability.refusal {
        return vec![check.problem(Diagnostic::of(Code::Durability, refusal))];
    }
    let warnings = durability.warnings.iter().map(|warning| {
        let (title, fix) = reason(warning);
        let fix = fix.unwrap_or_default().replace("ROLE ...", &format!("ROLE {role}"));
        check.problem(Diagnostic::warning(Code::Durability, title, fix))
    });
    let mut findings: Vec<_> = warnings.collect();
    if findings.is_empty() {
        findings.push(check.pass("what is saved outlives a crash of the database"));
    }
    findings
}

fn clock((ahead, error): (i64, u64)) -> Finding {
    let check = Check::Clock;
    let off = ahead.unsigned_abs();
    let finding = if off <= TOLERANCE.saturating_add(error) {
        check.pass("it agrees with this machine's")
    } else {
        let which = if ahead > 0 { "behind" } else { "ahead of" };
        let title =
            format!("this machine's clock is {} s {which} that of the database", off / 1000);
        let fix = "keep both right by NTP (timedatectl set-ntp true). Claims and intents go by the database's alone; \
                   the times that are shown, and when a token of another replica is taken for expired, by this machine's";
        check.problem(Diagnostic::warning(Code::Clock, title, fix))
    };
    finding.about("the database")
}

fn claims(claims: &[HeldClaim], own: Option<&str>) -> Vec<Finding> {
    let held = claims.iter().filter(|claim| Some(claim.holder.as_str()) != own);
    let mut findings: Vec<_> = held.map(held_by).collect();
    if findings.is_empty() {
        findings.push(Check::Locks.pass("no other replica has claimed an account for long"));
    }
    findings
}

fn held_by(HeldClaim { account, holder, left, .. }: &HeldClaim) -> Finding {
    let title = format!(
        "{holder} has held the claim on account {account} for more than a second, so no other replica can refresh it; it \
         ends by itself in {left} s"
    );
    let fix = if *left <= LONGEST_CLAIM {
        "wait for it; if that process stands still, end it".to_owned()
    } else {
        format!(
            "no proxy claims for so long: the clock of the database was set back, or somebody wrote it. If {holder} does \
             not run, end the claim: UPDATE pleo_proxy.account SET claim_until = clock_timestamp() WHERE account = '{account}'"
        )
    };
    Check::Locks.problem(Diagnostic::warning(Code::LockHeld, title, fix)).about(account)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server() -> Server {
        Server {
            version: "15.3".into(),
            is_standby: false,
            is_read_only: false,
            role: "pleo_proxy".into(),
            is_superuser: false,
            ahead: (900, 5),
            durability: Durability::default(),
            tables: Tables { applied: Some(2), wanted: 2, can_make: false },
            missing_rights: Vec::new(),
            claims: Vec::new(),
        }
    }

    fn host(name: &str, server: Result<Server, String>) -> Host {
        Host { name: name.into(), is_local: false, server }
    }

    fn said(hosts: &[Host]) -> Vec<String> {
        checks(hosts, Some("process 7 on here"), "pleo-proxy").iter().map(Finding::text).collect()
    }

    #[test]
    fn a_good_set_up_raises_no_alarm_also_with_standbys_and_another_version_beside_it() {
        let standby = Server { is_standby: true, is_read_only: true, ..server() };
        let later = Tables { applied: Some(3), ..server().tables };
        let own = HeldClaim::new("acme", "process 7 on here", 18);
        let primary = Server { tables: later, claims: vec![own], ..server() };
        let said = said(&[host("db1", Ok(standby)), host("db2", Ok(primary))]);
        assert!(said.iter().all(|line| line.starts_with("pass")), "{said:#?}");
        assert!(said[0].contains("db2 answers through TLS"), "{said:#?}");
        assert!(said[1].starts_with("pass  database db1: it takes no writes"), "{said:#?}");
    }

    #[test]
    fn hosts_of_which_none_can_be_written_are_named_with_the_reason() {
        let standby = Server { is_standby: true, is_read_only: true, ..server() };
        let read_only = Server { is_read_only: true, ..server() };
        let refused = "the database refuses: no; give it";
        let hosts = [
            host("a", Ok(standby)),
            host("b", Ok(read_only)),
            host("c", Err(refused.into())),
            host("d", Err("gone".into())),
        ];
        let said = said(&hosts);
        for (line, parts) in said.iter().zip([
            ["a: it is a standby", "bring its primary back"],
            ["b: it takes no writes", "ALTER ROLE pleo_proxy SET"],
            ["c: it cannot be used: the database refuses: no", "fix: give it"],
            ["d: it cannot be used: gone", "store.url_file"],
        ]) {
            assert!(line.starts_with("fail"), "{line}");
            assert!(parts.iter().all(|part| line.contains(part)), "{line}");
        }
        assert_eq!(said.len(), 4);
        let alone =
            checks(&hosts[..1], None, "pleo-proxy").first().map(Finding::text).unwrap_or_default();
        assert!(alone.contains("name the primary server"), "{alone}");
    }

    #[test]
    fn what_is_wrong_with_a_database_is_said_with_what_mends_it() {
        let none = Tables { applied: None, ..server().tables };
        let early = Tables { applied: Some(1), ..server().tables };
        let weak = Durability { refusal: None, warnings: vec!["weak; ALTER ROLE ... SET x = on"] };
        let unsafe_one = Durability { refusal: Some("it runs; set fsync = on"), warnings: vec![] };
        let claim = |left| vec![HeldClaim::new("acme", "process 9 on there", left)];
        for (server, parts) in [
            (
                Server { tables: none, ..server() },
                ["fail  tables: there are none", "store sql | psql"],
            ),
            (
                Server { tables: early, ..server() },
                ["warn  tables: they are those of an earlier", "psql"],
            ),
            (
                Server { is_superuser: true, ..server() },
                ["warn  role: role pleo_proxy is a sup", "store sql"],
            ),
            (
                Server { missing_rights: vec!["GRANT x".into()], ..server() },
                ["fail  role: role pleo_proxy lacks", "run: GRANT x"],
            ),
            (
                Server { durability: weak, ..server() },
                ["warn  durability: weak", "ROLE pleo_proxy SET"],
            ),
            (
                Server { durability: unsafe_one, ..server() },
                ["fail  durability: it runs", "fsync = on"],
            ),
            (
                Server { ahead: (-9000, 5), ..server() },
                ["warn  clock the database", "9 s ahead of"],
            ),
            (Server { ahead: (9000, 5), ..server() }, ["warn  clock the database", "9 s behind"]),
            (
                Server { claims: claim(18), ..server() },
                ["warn  locks acme: process 9 on there", "wait"],
            ),
            (
                Server { claims: claim(900), ..server() },
                ["warn  locks acme", "UPDATE pleo_proxy.account"],
            ),
        ] {
            let said = said(&[host("db", Ok(server))]);
            let found = said.iter().find(|line| line.starts_with(parts[0]));
            assert!(found.is_some_and(|line| line.contains(parts[1])), "{parts:?}: {said:#?}");
        }
        let gone = said(&[host("a", Err("gone".into())), host("b", Ok(server()))]);
        assert!(gone[1].starts_with("warn  database a: it cannot be used"), "{gone:#?}");
    }
}
