//! Accounts for tests, whose token endpoint does not exist.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::account::{AccountContext, SchedulerCommand};
use super::refresher::Refresher;
use super::registry::Registry;
use super::scheduler::Scheduler;
use super::services::Services;
use super::settings::{Background, Settings};
use super::sync::StoreSync;
use crate::clock::Clock;
use crate::oauth::endpoint::{Endpoint, Origin};
use crate::oauth::{self, ClientAuth, SecretSource};
use crate::outbound::{self, Outbound};
use crate::secret::{ClientSecret, RefreshToken};
use crate::store::{AccountName, Grant, Record, Sealing, Store};

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

fn client(api: &str) -> oauth::Client {
    let settings = oauth::Settings {
        client_id: Some("client".into()),
        client_secret: SecretSource::Value(ClientSecret::new("secret")),
        auth: ClientAuth::Basic,
        scopes: Vec::new(),
        authorize: Endpoint::parse(NOWHERE).unwrap(),
        token: Endpoint::parse(NOWHERE).unwrap(),
        introspect: None,
        api: Origin::parse(api).unwrap(),
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
    services_with(folder, NOWHERE)
}

/// With a store that replicas could share.
pub(super) fn shared_services() -> (Arc<Services>, Commands) {
    services_on(Store::Memory(Default::default()), NOWHERE)
}

fn services_with(folder: &Path, api: &str) -> (Arc<Services>, Commands) {
    services_on(Store::open(&folder.join("store"), Sealing::none()).unwrap(), api)
}

pub(super) fn services_on(store: Store, api: &str) -> (Arc<Services>, Commands) {
    services_at(Clock::system(), store, api)
}

pub(super) fn services_at(clock: Clock, store: Store, api: &str) -> (Arc<Services>, Commands) {
    let (context, commands) = context(clock);
    (Arc::new(Services::new(store, client(api), context, Background::Disabled)), commands)
}

pub(super) fn scheduler(folder: &Path) -> (Arc<Scheduler>, Commands) {
    scheduler_with(folder, NOWHERE)
}

pub(super) fn scheduler_with(folder: &Path, api: &str) -> (Arc<Scheduler>, Commands) {
    let (services, commands) = services_with(folder, api);
    let registry = Arc::new(Registry::new(services.context.clone()));
    let refresher = Arc::new(Refresher::new(services.clone(), registry.clone()));
    let sync = StoreSync::new(services.clone(), registry.clone(), refresher.clone());
    (Arc::new(Scheduler::new(services, registry, refresher, Arc::new(sync))), commands)
}

/// An API whose answers have these statuses, one after the other, and no more.
pub(super) fn api_answering(statuses: &'static [u16]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let origin = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for status in statuses {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.read(&mut [0; 4096]).unwrap();
            let head = format!("HTTP/1.1 {status} x\r\nconnection: close\r\ncontent-length: 11");
            stream.write_all(format!("{head}\r\n\r\n{{\"data\":{{}}}}").as_bytes()).unwrap();
        }
    });
    origin
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
        api_key: None,
        subject: None,
        company: None,
        subject_unconfirmed: false,
        intent: None,
        ended: None,
    };
    let locked = services.store.lock(name, Duration::ZERO).await.unwrap();
    locked.save(&record).await.unwrap();
}
