//! What a check found, and what follows for the exit code.

use serde::Serialize;
use serde_json::{Value, json};

use crate::cli::exit::Exit;
use crate::diagnostic::{Code, Diagnostic, Severity};

/// The checks, by what they are about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub(super) enum Check {
    /// All settings, and where their values came from.
    Configuration,
    /// Where the client secret comes from, and who else can read it.
    ClientSecret,
    /// Who else can read the configuration file.
    ConfigFile,
    /// The redirect URI, for the environment.
    RedirectUri,
    /// Protections that are loosened.
    Protections,
    /// The folder of the store.
    Store,
    /// Space and write access.
    Disk,
    /// Whether the database of the store answers and can be written.
    Database,
    /// Its tables.
    Tables,
    /// The rights of the role in its URL.
    Role,
    /// Whether it keeps what it says it keeps.
    Durability,
    /// Locks, and who holds them.
    Locks,
    /// The proxy of this store.
    Proxy,
    /// Proxies of other stores, machines and containers.
    OtherProxies,
    /// The configured addresses, and who listens there.
    Ports,
    /// Whether the kernel says whose a connection is.
    Peers,
    /// Open files and connections.
    FileLimit,
    /// Hints for containers.
    Container,
    /// The trust roots.
    TrustRoots,
    /// The outbound proxy.
    OutboundProxy,
    /// Names of the servers.
    Dns,
    /// Connections to the servers.
    Tcp,
    /// TLS handshakes with the servers.
    Tls,
    /// This machine's clock.
    Clock,
    /// An account's record.
    Record,
    /// An account's state.
    Account,
    /// The age of an account's refresh token.
    RefreshToken,
    /// An account's API key.
    ApiKey,
    /// How records are kept on disk.
    Sealing,
    /// Whether the authorization server accepts it.
    Grant,
    /// Who else holds the same grant.
    Owner,
    /// Scopes asked for, granted and used.
    Scopes,
}

/// One line of the report.
#[derive(Clone, Debug)]
pub(super) struct Finding {
    check: Check,
    /// A server, an account or a setting, where the check looks at several.
    about: Option<String>,
    outcome: Outcome,
}

/// How a check ended.
#[derive(Clone, Debug)]
enum Outcome {
    /// All is well, and what that means.
    Pass(String),
    /// It was not made, and why.
    Skip(String),
    /// Something is wrong.
    Problem(Diagnostic),
}

/// How many checks ended in each way.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Counts {
    pass: usize,
    warn: usize,
    fail: usize,
    skip: usize,
}

impl Check {
    /// All is well.
    pub(super) fn pass(self, what: impl Into<String>) -> Finding {
        Finding { check: self, about: None, outcome: Outcome::Pass(what.into()) }
    }

    /// The check was not made.
    pub(super) fn skip(self, why: impl Into<String>) -> Finding {
        Finding { check: self, about: None, outcome: Outcome::Skip(why.into()) }
    }

    /// Something is wrong.
    pub(super) fn problem(self, diagnostic: Diagnostic) -> Finding {
        Finding { check: self, about: None, outcome: Outcome::Problem(diagnostic) }
    }
}

impl Finding {
    /// The same with what it is about.
    pub(super) fn about(self, about: impl Into<String>) -> Self {
        Self { about: Some(about.into()), ..self }
    }

    /// True for a finding of this check.
    pub(super) fn is_of(&self, check: Check) -> bool {
        self.check == check
    }

    fn word(&self) -> &'static str {
        match &self.outcome {
            Outcome::Pass(_) => "pass",
            Outcome::Skip(_) => "skip",
            Outcome::Problem(problem) => match problem.severity {
                Severity::Error => "fail",
                Severity::Warning => "warn",
            },
        }
    }

    /// The exit code of a command that found nothing worse.
    fn exit(&self) -> Exit {
        match &self.outcome {
            Outcome::Pass(_) | Outcome::Skip(_) => Exit::Fine,
            Outcome::Problem(problem) => match problem.severity {
                Severity::Warning => Exit::Degraded,
                Severity::Error => exit_of(problem.code),
            },
        }
    }

    /// As it is printed: a line, and below it what to do.
    pub(super) fn text(&self) -> String {
        let (word, check): (_, &str) = (self.word(), self.check.into());
        let about = self.about.as_ref().map(|about| format!(" {about}")).unwrap_or_default();
        let head = format!("{word}  {check}{about}: ");
        match &self.outcome {
            Outcome::Pass(what) | Outcome::Skip(what) => head + what,
            Outcome::Problem(problem) => {
                let place = problem.place.as_ref();
                let place = place.map(|it| format!(" ({}:{}:{})", it.file, it.line, it.column));
                let fix = if problem.fix.is_empty() { "" } else { "\n      fix: " };
                format!("{head}{}{}{fix}{}", problem.title, place.unwrap_or_default(), problem.fix)
            }
        }
    }

    /// As `--json` prints it.
    pub(super) fn json(&self) -> Value {
        let check: &str = self.check.into();
        let mut json = json!({"check": check, "about": self.about, "outcome": self.word()});
        match &self.outcome {
            Outcome::Pass(what) | Outcome::Skip(what) => json["title"] = what.as_str().into(),
            Outcome::Problem(problem) => {
                let place = problem.place.as_ref().map(
                    |place| json!({"file": place.file, "line": place.line, "column": place.column}),
                );
                json["code"] = problem.code.as_str().into();
                json["title"] = problem.title.as_str().into();
                json["fix"] = problem.fix.as_str().into();
                json["place"] = place.into();
            }
        }
        json
    }
}

impl Counts {
    /// Counts findings.
    pub(super) fn of(findings: &[Finding]) -> Self {
        let mut counts = Self::default();
        for finding in findings {
            match finding.word() {
                "pass" => counts.pass += 1,
                "warn" => counts.warn += 1,
                "fail" => counts.fail += 1,
                _ => counts.skip += 1,
            }
        }
        counts
    }

    /// As the last line of the report.
    pub(super) fn text(self) -> String {
        let Self { pass, warn, fail, skip } = self;
        format!("{pass} passed, {warn} warned, {fail} failed, {skip} skipped")
    }
}

/// The exit code of a failed check.
fn exit_of(code: Code) -> Exit {
    match code {
        Code::Syntax
        | Code::UnknownName
        | Code::InvalidValue
        | Code::Conflict
        | Code::Missing
        | Code::Placeholder
        | Code::ClientSecret
        | Code::File
        | Code::RedirectUri
        | Code::StoreFolder
        | Code::Outbound => Exit::Usage,
        Code::LoginRequired | Code::GrantInactive => Exit::LoginRequired,
        _ => Exit::Failed,
    }
}

/// The exit code of the command: that of the finding to be mended first. A wrong configuration
/// causes much else, and a login is of no use before the rest works.
pub(super) fn worst(findings: &[Finding]) -> Exit {
    let order = [Exit::Usage, Exit::Failed, Exit::LoginRequired, Exit::Degraded];
    let found: Vec<Exit> = findings.iter().map(Finding::exit).collect();
    order.into_iter().find(|exit| found.contains(exit)).unwrap_or(Exit::Fine)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(code: Code) -> Finding {
        Check::Proxy.problem(Diagnostic::error(code, "t", "f"))
    }

    #[test]
    fn the_exit_code_is_that_of_what_to_mend_first() {
        let warning = || Check::Clock.problem(Diagnostic::warning(Code::Clock, "t", "f"));
        let fine = || vec![Check::Dns.pass("a"), Check::Tls.skip("b")];
        assert_eq!(worst(&fine()), Exit::Fine);
        let mut found = fine();
        for (next, exit) in [
            (warning(), Exit::Degraded),
            (error(Code::LoginRequired), Exit::LoginRequired),
            (error(Code::PortTaken), Exit::Failed),
            (error(Code::Placeholder), Exit::Usage),
        ] {
            found.insert(0, next);
            assert_eq!(worst(&found), exit);
        }
        assert_eq!(Counts::of(&found).text(), "1 passed, 1 warned, 3 failed, 1 skipped");
    }

    #[test]
    fn a_problem_is_printed_with_its_fix_and_without_an_empty_one() {
        let finding = error(Code::PortTaken).about("listen.api");
        assert_eq!(finding.text(), "fail  proxy listen.api: t\n      fix: f");
        let finding = Check::Proxy.problem(Diagnostic::error(Code::Hangs, "t", ""));
        assert_eq!(finding.text(), "fail  proxy: t");
        assert_eq!(
            finding.json(),
            json!({"check": "proxy", "about": null, "outcome": "fail", "code": "hangs", "title": "t", "fix": "", "place": null})
        );
    }
}
