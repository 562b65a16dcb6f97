//! Hooks: commands of the operator's that run when an account needs a login, when it has recovered,
//! and when its refresh token is about to expire. Only a process that serves runs them.
//!
//! A task looks at the accounts whenever one of them has changed, and once an hour; `edges` says
//! what is new. The commands run apart from everything else: nothing waits for them, at most one
//! runs for an account at a time, and `run` bounds what each may take.

mod edges;
mod queue;
mod run;
mod settings;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::accounts::{Account, Accounts, Health, LoginReason, key_warning};
use crate::redaction::Redactor;
use crate::store::AccountName;
use crate::supervise::supervise;
use edges::{Memory, Occurrence};
use queue::Queue;
use run::Runner;

pub use run::{Surroundings, VARIABLES};
pub use settings::{HookCommand, HookCommandError, Settings};

/// Between two looks at the accounts.
const MIN_PAUSE: Duration = Duration::from_secs(1);
/// How often ages are looked at while nothing changes.
const MAX_PAUSE: Duration = Duration::from_secs(3600);
/// Commands that run at a time, of all accounts.
const MAX_RUNNING: usize = 8;

/// The running hooks.
#[derive(Debug)]
pub struct Hooks {
    ending: CancellationToken,
    task: JoinHandle<()>,
    commands: TaskTracker,
}

impl Hooks {
    /// Watches the accounts from here on; none if no hook is set.
    pub fn start(
        settings: &Settings,
        accounts: &Arc<Accounts>,
        surroundings: Surroundings,
    ) -> Option<Self> {
        if settings.is_empty() {
            return None;
        }
        let redactor = Redactor::new(accounts.known_secrets().clone());
        let watcher = Arc::new(Watcher {
            settings: settings.clone(),
            accounts: accounts.clone(),
            runner: Arc::new(Runner::new(surroundings, redactor)),
            commands: TaskTracker::new(),
            memory: Mutex::default(),
        });
        let commands = watcher.commands.clone();
        let (supervisor, ending) = (accounts.supervisor().clone(), CancellationToken::new());
        let closing = ending.clone();
        let task = tokio::spawn(async move {
            supervise("hooks", &supervisor, &closing, || watcher.clone().run()).await;
        });
        Some(Self { ending, task, commands })
    }

    /// Ends the commands that run, and starts no more.
    pub async fn close(self) {
        self.ending.cancel();
        let _ = self.task.await;
        // Dropped by the task, they end when the runtime comes to them.
        self.commands.close();
        self.commands.wait().await;
    }
}

struct Watcher {
    settings: Settings,
    accounts: Arc<Accounts>,
    runner: Arc<Runner>,
    commands: TaskTracker,
    /// What was told of each account. It outlives a task that panics.
    memory: Mutex<HashMap<AccountName, Memory>>,
}

impl Watcher {
    async fn run(self: Arc<Self>) {
        let mut changes = self.accounts.watch();
        let mut hourly = interval(MAX_PAUSE);
        hourly.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut queue, mut running) = (Queue::default(), JoinSet::new());
        let mut next_look = Instant::now();
        loop {
            let changed = async {
                sleep_until(next_look).await;
                changes.changed().await
            };
            tokio::select! {
                Some(ended) = running.join_next_with_id() => {
                    queue.ended(ended.map_or_else(|error| error.id(), |(id, ())| id));
                }
                _ = hourly.tick() => self.look(&mut queue),
                changed = changed => {
                    if changed.is_err() {
                        return;
                    }
                    next_look = Instant::now() + MIN_PAUSE;
                    self.look(&mut queue);
                }
            }
            while running.len() < MAX_RUNNING
                && let Some(occurrence) = queue.next()
            {
                let account = occurrence.account.clone();
                let command = self.commands.track_future(self.command(occurrence));
                let started = running.spawn(command);
                queue.started(started.id(), account);
            }
        }
    }

    /// Queues what is new.
    fn look(&self, queue: &mut Queue) {
        let accounts = self.accounts.all();
        let mut memory = self.memory.lock();
        memory.retain(|name, _| accounts.binary_search_by(|it| it.name.cmp(name)).is_ok());
        for account in accounts {
            let told = memory.entry(account.name.clone()).or_default();
            self.events(&account, told).for_each(|occurrence| queue.add(occurrence));
        }
    }

    /// What is new of an account, and has a hook.
    fn events(
        &self,
        account: &Account,
        told: &mut Memory,
    ) -> impl Iterator<Item = Occurrence> + use<'_> {
        let (health, now) = (&account.snapshot().health, account.now().wall);
        let mut news = told.news(&account.name, health, account.refreshed_at(), now);
        let warning = key_warning(account);
        let replace = warning.is_some().then(|| LoginReason::KeyRefused.command(&account.name));
        news.extend(told.key_news(warning));
        let name = account.name.clone();
        let login = match health {
            Health::LoginRequired(reason) => Some(reason.command(&name)),
            _ => replace,
        };
        news.into_iter().filter(|(event, _)| self.settings.of(*event).is_some()).map(
            move |(event, reason)| Occurrence {
                account: name.clone(),
                event,
                reason,
                login: login.clone(),
            },
        )
    }

    fn command(&self, occurrence: Occurrence) -> impl Future<Output = ()> + Send + use<> {
        let hook = self.settings.of(occurrence.event).cloned();
        let runner = self.runner.clone();
        async move {
            if let Some(hook) = hook {
                runner.run(&hook, &occurrence).await;
            }
        }
    }
}
