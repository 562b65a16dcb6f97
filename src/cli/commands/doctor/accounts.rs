//! The accounts as the running proxy and the store know them.

use std::collections::BTreeSet;
use std::path::Path;

use tokio::time::timeout;

use super::account::Account;
use super::bounded::{FILES, PROXY};
use super::finding::{Check, Finding};
use super::proxies::Running;
use crate::admin::protocol::{AccountReport, AccountStatus, Report, ReportQuery};
use crate::cli::exit::Failure;
use crate::cli::open_store;
use crate::cli::state::State;
use crate::cli::wiring;
use crate::clock::Clock;
use crate::config::Config;
use crate::diagnostic::{Code, Diagnostic};
use crate::operate::{self, Operator};
use crate::redaction::KnownSecrets;
use crate::store::{AccountName, Protection, Record, RecordError, Store};
use crate::usage::{self, Usage};

/// All accounts of a store.
pub(super) struct Known {
    pub(super) accounts: Vec<Account>,
    /// Where their records are; none if they exist only in a process that does not run.
    pub(super) store: Option<Store>,
    /// Their secrets, to be taken out of what leaves.
    pub(super) secrets: KnownSecrets,
    /// Why something is missing.
    pub(super) findings: Vec<Finding>,
}

impl Known {
    /// Nothing is known, for a reason.
    pub(super) fn nothing(finding: Option<Finding>) -> Self {
        Self {
            accounts: Vec::new(),
            store: None,
            secrets: KnownSecrets::default(),
            findings: finding.into_iter().collect(),
        }
    }

    /// Reads the store and asks the running proxy, each for at most so long. Changes nothing.
    pub(super) async fn gather(config: &Config, state: &State, running: &Running) -> Self {
        if running.instance().is_none() && state.is_temporary {
            let why = "the accounts of the embedded sandbox exist only while the proxy runs";
            return Self::nothing(Some(Check::Account.skip(why)));
        }
        match timeout(FILES, read(config, state, running)).await {
            Ok(Ok(known)) => known,
            // Why that is so is for the checks of the database to say.
            unread if wiring::database(config).is_some() => {
                let why = match unread {
                    Ok(Err(failure)) => format!("{:#}", failure.error),
                    _ => "the database does not answer".to_owned(),
                };
                let why = why.split("; ").next().unwrap_or_default();
                let why = format!("the records cannot be read: {why}");
                Self::nothing(Some(Check::Record.skip(why)))
            }
            Ok(Err(failure)) => {
                let problem = Diagnostic::of(Code::StoreFolder, format!("{:#}", failure.error));
                Self::nothing(Some(Check::Store.problem(problem)))
            }
            Err(_) => {
                let title =
                    "the store could not be read in time: the disk it is on does not answer";
                let problem = Diagnostic::error(
                    Code::Hangs,
                    title,
                    "put the store on a local disk (store.path)",
                );
                Self::nothing(Some(Check::Store.problem(problem)))
            }
        }
    }
}

async fn read(config: &Config, state: &State, running: &Running) -> Result<Known, Failure> {
    let records = running.instance().map_or(&state.records, |instance| &instance.store);
    let store = wiring::store_to_inspect(config, records).await?;
    let operator = open_store::inspect_at(config, records).await?;
    let statuses: Vec<AccountStatus> = match running.responding() {
        Some((_, status)) => status.accounts.clone(),
        None => operator.status().into_iter().map(Into::into).collect(),
    };
    let usage = records.join(usage::FILE_NAME);
    let (reports, unread) = match asked_reports(running).await {
        Some(reports) => (reports, None),
        None => stored_reports(&operator, &usage),
    };
    let mut accounts = Vec::new();
    for name in names(&statuses, &store).await? {
        accounts.push(Account {
            status: statuses.iter().find(|status| status.account == name).cloned(),
            report: reports.iter().find(|report| report.account == name).cloned(),
            is_running: running.responding().is_some(),
            record: record(&store, &name).await,
            protection: protection(&store, &name).await,
            has_store_key: store.key().is_some(),
            name,
        });
    }
    let secrets = operator.accounts().known_secrets().clone();
    let findings = unread.into_iter().collect();
    Ok(Known { accounts, store: Some(store), secrets, findings })
}

/// Those that the proxy knows, and those that have a record.
async fn names(statuses: &[AccountStatus], store: &Store) -> Result<BTreeSet<String>, Failure> {
    let stored = store.list().await?.iter().map(ToString::to_string).collect::<Vec<_>>();
    Ok(statuses.iter().map(|status| status.account.clone()).chain(stored).collect())
}

async fn record(store: &Store, name: &str) -> Option<Result<Record, RecordError>> {
    let name: AccountName = name.parse().ok()?;
    store.load(&name).await.map(|found| found.map(|(record, _)| record)).transpose()
}

async fn protection(store: &Store, name: &str) -> Option<Protection> {
    store.protection(&name.parse().ok()?).await.ok().flatten()
}

/// What the counters of the store say, or why they cannot be read.
fn stored_reports(operator: &Operator, file: &Path) -> (Vec<AccountReport>, Option<Finding>) {
    match Usage::load(file, Clock::system().now().wall) {
        Ok(usage) => (operate::reports(operator.accounts(), &usage, None), None),
        Err(error) => (Vec::new(), Some(Check::Scopes.skip(error.to_string()))),
    }
}

/// What the running proxy counted, the latest requests included.
async fn asked_reports(running: &Running) -> Option<Vec<AccountReport>> {
    let (client, _) = running.responding()?;
    let target = ReportQuery::default().target();
    let report = timeout(PROXY, client.get::<Report>(&target)).await.ok()?.ok()?;
    Some(report.accounts)
}
