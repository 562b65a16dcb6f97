//! Checks of one account, from what is stored and what the running proxy says of it.

use super::finding::{Check, Finding};
use crate::admin::protocol::{AccountReport, AccountStatus, State as AccountState, beside_name};
use crate::cli::shell::with_flags;
use crate::clock::rfc3339;
use crate::diagnostic::{Code, Diagnostic};
use crate::store::{Protection, Record, RecordError};

/// Seconds of a day.
const DAY: u64 = 86_400;
/// Days after which Pleo lets an unused refresh token expire (pleo.md 1.5).
const EXPIRES_AFTER: u64 = 60;
/// Days after which it is time to do something.
const OLD_AFTER: u64 = 50;
/// Milliseconds that a record may be dated in the future by clocks that differ a little.
const AHEAD: i64 = 300_000;

/// What is known of one account.
pub(super) struct Account {
    pub(super) name: String,
    /// As the running proxy says it, else as the store has it.
    pub(super) status: Option<AccountStatus>,
    /// As it is stored; none if there is none.
    pub(super) record: Option<Result<Record, RecordError>>,
    pub(super) report: Option<AccountReport>,
    /// How it is kept.
    pub(super) protection: Option<Protection>,
    /// Records are to be sealed.
    pub(super) has_store_key: bool,
    /// True if the status is of a running proxy.
    pub(super) is_running: bool,
}

impl Account {
    /// The checks that ask nobody. `now` is in UNIX milliseconds, `program` the command line that
    /// reads the same configuration.
    pub(super) fn checks(&self, now: i64, program: &str) -> Vec<Finding> {
        let findings = [
            self.readable(),
            self.state(program),
            self.dated_in_the_future(now),
            self.age(program),
            self.api_key(program),
            self.sealing(program),
            self.older_record(),
        ];
        let findings = findings.into_iter().flatten().chain(self.scopes(program));
        findings.map(|finding| finding.about(&*self.name)).collect()
    }

    /// The record, if it can be read and holds a grant.
    pub(super) fn granted(&self) -> Option<&Record> {
        let record = self.record.as_ref()?.as_ref().ok()?;
        record.grant.is_some().then_some(record)
    }

    fn readable(&self) -> Option<Finding> {
        let problem = match self.record.as_ref()? {
            Err(error) if !error.is_passing() => Diagnostic::of(Code::Record, error),
            Err(error) => return Some(Check::Record.skip(error.to_string())),
            Ok(record) => {
                let generation = record.generation;
                return Some(
                    Check::Record.pass(format!("it can be read, generation {generation}")),
                );
            }
        };
        Some(Check::Record.problem(problem))
    }

    fn state(&self, program: &str) -> Option<Finding> {
        let (check, status) = (Check::Account, self.status.as_ref()?);
        let why = status.why.clone().unwrap_or_default();
        let why = with_flags(&why, program);
        match &status.state {
            AccountState::Connected => {
                let who = status.company.as_ref().or(status.subject.as_ref());
                let who = who.map(|who| format!(" as {who}")).unwrap_or_default();
                Some(check.pass(format!("connected{who}")))
            }
            AccountState::LoginRequired => {
                let fixes = ["; run: ", "; replace the key"];
                let at = fixes.into_iter().filter_map(|fix| why.find(fix)).min();
                let (title, fix) = why.split_at(at.unwrap_or(why.len()));
                let (title, fix) = (beside_name(title, &self.name), fix.trim_start_matches("; "));
                Some(check.problem(Diagnostic::error(Code::LoginRequired, title, fix)))
            }
            // The check of the record says it.
            AccountState::Other(state)
                if state == "store_error" && matches!(self.record, Some(Err(_))) =>
            {
                None
            }
            AccountState::Other(state) => {
                let title = format!("{state}: {why}");
                let fix = format!(
                    "see `{program} status`; the proxy goes on by itself once the reason is gone"
                );
                Some(check.problem(Diagnostic::warning(Code::AccountState, title, fix)))
            }
        }
    }

    fn dated_in_the_future(&self, now: i64) -> Option<Finding> {
        let dated = self.granted()?.grant.as_ref()?.refreshed_at;
        if dated <= now.saturating_add(AHEAD) {
            return None;
        }
        let title =
            format!("its tokens are dated {}, in the future: a clock was wrong", rfc3339(dated));
        let fix = "set the clock of this machine; the next refresh dates the record anew";
        Some(Check::Clock.problem(Diagnostic::warning(Code::Clock, title, fix)))
    }

    fn age(&self, program: &str) -> Option<Finding> {
        let check = Check::RefreshToken;
        let days = self.status.as_ref()?.refresh_token_age? / DAY;
        if days < OLD_AFTER {
            return Some(check.pass(format!("{days} days old, of {EXPIRES_AFTER}")));
        }
        let title = if days < EXPIRES_AFTER {
            format!("it is {days} days old, and Pleo lets it expire after {EXPIRES_AFTER}")
        } else {
            format!("it is {days} days old: Pleo has probably let it expire")
        };
        let fix =
            format!("run: {program} refresh {}; a proxy that runs does it by itself", self.name);
        Some(check.problem(Diagnostic::warning(Code::GrantAge, title, fix)))
    }

    fn api_key(&self, program: &str) -> Option<Finding> {
        let (check, status) = (Check::ApiKey, self.status.as_ref()?);
        let key = status.api_key.as_ref()?;
        let Some(warning) = &status.warning else {
            let until =
                key.expires_on.as_ref().map_or("nobody said when it expires".to_owned(), |last| {
                    format!("valid until {last}")
                });
            return Some(check.pass(format!("{}, {until}", key.masked)));
        };
        let title = warning.split(';').next().unwrap_or_default();
        let fix = format!(
            "make a new one in Pleo (Settings, API Keys), then run: {program} login {} --api-key",
            self.name
        );
        Some(check.problem(Diagnostic::warning(Code::KeyAge, title, fix)))
    }

    /// A key that seals must seal everything; an API key lives long enough to be worth sealing.
    fn sealing(&self, program: &str) -> Option<Finding> {
        let check = Check::Sealing;
        let record =
            self.record.as_ref()?.as_ref().ok().filter(|record| record.has_credential())?;
        match self.protection.as_ref()? {
            Protection::Sealed(key) => Some(check.pass(format!("sealed with key {key}"))),
            Protection::Plain if self.has_store_key => {
                let title = "it is plain, although there is a key to seal it";
                let fix = format!("run: {program} store seal");
                Some(check.problem(Diagnostic::warning(Code::Unsealed, title, fix)))
            }
            Protection::Plain if record.api_key.is_some() => {
                let title = "its API key is kept as it is: whoever gets the disk has it";
                let fix = format!(
                    "make a key: {program} store key, name its file in store.key_file, then run: {program} store seal"
                );
                Some(check.problem(Diagnostic::warning(Code::Unsealed, title, fix)))
            }
            Protection::Plain => None,
        }
    }

    /// The process never has a newer record than the store, unless somebody put an old one back.
    fn older_record(&self) -> Option<Finding> {
        let (status, record) = (self.status.as_ref()?, self.granted()?);
        if !self.is_running || status.generation <= record.generation || status.state == unsaved() {
            return None;
        }
        let title = format!(
            "the store has generation {}, and the running proxy {}: somebody put an older record back, whose tokens \
             have been used",
            record.generation, status.generation
        );
        let fix = "never restore the store from a backup; log in again if the proxy asks for it";
        Some(Check::Owner.problem(Diagnostic::error(Code::SecondOwner, title, fix)))
    }

    /// An API key has the scopes that it was made with; no setting asks for them.
    fn scopes_of_key(&self, needed: &[String], granted: &[String], login: &str) -> Vec<Finding> {
        let check = Check::Scopes;
        if needed.is_empty() {
            return vec![check.pass(format!("of its API key: {}", granted.join(" ")))];
        }
        let scopes = needed.join(" ");
        let title = format!("operations in use need {scopes}, which its API key does not have");
        let fix = format!("make a key with {scopes} in Pleo, then run: {login} --api-key");
        vec![check.problem(Diagnostic::warning(Code::ScopesNeeded, title, fix))]
    }

    fn scopes(&self, program: &str) -> Vec<Finding> {
        let Some(report) = self.report.as_ref().filter(|report| !report.granted.is_empty()) else {
            return Vec::new();
        };
        let lacking = |wanted: &[String]| -> Vec<String> {
            wanted.iter().filter(|scope| !report.granted.contains(scope)).cloned().collect()
        };
        let (refused, needed) = (lacking(&report.asked), lacking(&report.smallest_scopes));
        let login = format!("{program} login {}", self.name);
        if self.status.as_ref().is_some_and(|status| status.api_key.is_some()) {
            return self.scopes_of_key(&needed, &report.granted, &login);
        }
        let mut findings = Vec::new();
        if !needed.is_empty() {
            let (scopes, login) = (needed.join(" "), &login);
            let title = format!("operations in use need {scopes}, which its login does not have");
            let fix =
                format!("add it to client.scopes once Pleo has agreed to it, then run: {login}");
            let problem = Diagnostic::warning(Code::ScopesNeeded, title, fix);
            findings.push(Check::Scopes.problem(problem));
        }
        if !refused.is_empty() {
            let scopes = refused.join(" ");
            let title = format!("client.scopes asks for {scopes}, which its login does not have");
            let fix = format!(
                "run: {login}; if it stays so, remove it, or ask Pleo to add it to the client"
            );
            let problem = Diagnostic::warning(Code::ScopesNotGranted, title, fix);
            findings.push(Check::Scopes.problem(problem));
        }
        if findings.is_empty() {
            let (granted, used) = (report.granted.join(" "), report.used.len());
            findings.push(Check::Scopes.pass(format!("granted: {granted}; {used} in use")));
        }
        findings
    }
}

/// The state of an account whose newest tokens are in memory only.
fn unsaved() -> AccountState {
    AccountState::Other("unsaved".to_owned())
}

/// Accounts that hold the same company: each refresh of one ends the tokens of the other.
pub(super) fn shared_companies(accounts: &[Account], program: &str) -> Vec<Finding> {
    let held: Vec<(&str, &str)> = accounts
        .iter()
        .filter_map(|account| Some((&*account.name, account.granted()?.subject.as_deref()?)))
        .collect();
    let mut findings = Vec::new();
    for (number, (name, subject)) in held.iter().enumerate() {
        if let Some((first, _)) = held[..number].iter().find(|(_, other)| other == subject) {
            let title = format!(
                "accounts {first} and {name} both hold {subject}: each refresh of one ends the tokens of the other"
            );
            let fix = format!("keep one of them: {program} logout {name}");
            let problem = Diagnostic::error(Code::SecondOwner, title, fix);
            findings.push(Check::Owner.problem(problem).about(*name));
        }
    }
    if findings.is_empty() && !held.is_empty() {
        findings.push(Check::Owner.pass("no two accounts of this store hold the same company"));
    }
    findings
}
