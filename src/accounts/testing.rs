//! Accounts for tests, whose token endpoint does not exist.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::account::{AccountContext, SchedulerCommand};
use super::refresher::Refresher;
use super::registry::Registry;
use super::scheduler::Scheduler;
use super::services::Services;
use super::settings::Settings;
use super::sync::StoreSync;
use crate::clock::Clock;
use crate::oauth::endpoint::{Endpoint, Origin};
use crate::oauth::{self, ClientAuth, SecretSource};
use crate::outbound::{self, Outbound};
use crate::secret::{ClientSecret, RefreshToken};
use crate::store::{AccountName, Grant, Record, Store};

const NOWHERE: &str = "http://127.0.0.1:9";

type Commands = mpsc::UnboundedReceiver<SchedulerCommand>;

pub(super) fn settings() -> Settings {
    Settings {
        drain: Duration::from_secs(2),
        hold: Duration::from_secs(15),
        keep_warm: Duration::from_secs(600),
        idle_refresh: Duration::from_secs(604_800),
        default_account: None,
        ..Settings::default()
    }
}

fn client() -> oauth::Client {
    let settings = oauth::Settings {
        client_id: Some("client".into()),
        client_secret: SecretSource::Value(ClientSecret::new("secret")),
        auth: ClientAuth::Basic,
        scopes: Vec::new(),
        authorize: Endpoint::parse(NOWHERE).unwrap(),
        token: Endpoint::parse(NOWHERE).unwrap(),
        introspect: None,
        api: Origin::parse(NOWHERE).unwrap(),
    };
    let outbound = outbound::Settings { plain_only: true, ..outbound::Settings::default() };
    oauth::Client::new(settings, &Outbound::new(&outbound).unwrap()).unwrap()
}

pub(super) fn context(clock: Clock) -> (Arc<AccountContext>, Commands) {
    let (commands, received) = mpsc::unbounded_channel();
    let context = AccountContext::new(settings(), clock, commands);
    (Arc::new(context), received)
}

pub(super) fn services(folder: &Path) -> (Arc<Services>, Commands) {
    let (context, commands) = context(Clock::system());
    let store = Store::open(&folder.join("store")).unwrap();
    (Arc::new(Services::new(store, client(), context)), commands)
}

pub(super) fn scheduler(folder: &Path) -> (Arc<Scheduler>, Commands) {
    let (services, commands) = services(folder);
    let registry = Arc::new(Registry::new(services.context.clone()));
    let refresher = Arc::new(Refresher::new(services.clone(), registry.clone()));
    let sync = StoreSync::new(services.clone(), registry.clone(), refresher.clone());
    (Arc::new(Scheduler::new(services, registry, refresher, Arc::new(sync))), commands)
}

/// A record whose token has expired, on disk.
pub(super) async fn save_expired(services: &Services, name: &AccountName) {
    let now = services.now().wall;
    let grant = Grant {
        access: None,
        refresh: RefreshToken::new("refresh"),
        expires_at: now,
        lifetime: 600_000,
        scope: Vec::new(),
        issued: services.issued(),
        logged_in_at: now,
        refreshed_at: now,
        introspection_trusted: false,
    };
    let record = Record {
        generation: 1,
        grant: Some(grant),
        subject: None,
        company: None,
        subject_unconfirmed: false,
        intent: None,
        ended: None,
    };
    let locked = services.store.lock(name, Duration::ZERO).await.unwrap();
    services.store.save(&locked, &record).await.unwrap();
}
