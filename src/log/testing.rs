//! Records, and a renderer, for tests.

use std::sync::Arc;

use http::{Request, StatusCode};

use super::render::Renderer;
use crate::accounts::{Accounts, Background, Settings};
use crate::clock::Clock;
use crate::exchange::record::{Arrival, Record};
use crate::exchange::recorder::Recorders;
use crate::exchange::{Caller, Client};
use crate::oauth::{self, ClientAuth, SecretSource};
use crate::outbound::{self, Outbound};
use crate::redaction::Redactor;
use crate::store::{AccountName, Sealing, Store};

/// A record of a GET that was answered with 200.
pub(super) fn record(number: u64, target: &str) -> Record {
    let client = Arc::new(Client::new(Caller::Unix { user: None, process: None }));
    let request = Request::get(target).body(()).unwrap();
    let arrival = Arc::new(Arrival::new(number, client, &request));
    let mut record = Record::new(arrival);
    record.status = Some(StatusCode::OK);
    record.is_complete = true;
    record
}

/// The account `default`, which is not connected; a login asks for `vendors:read`.
pub(super) async fn accounts(folder: &std::path::Path) -> Arc<Accounts> {
    let url = |path: &str| format!("http://127.0.0.1:1/{path}").parse().unwrap();
    let settings = oauth::Settings {
        client_id: None,
        client_secret: SecretSource::None,
        scopes: vec!["vendors:read".into()],
        auth: ClientAuth::Basic,
        authorize: url("authorize"),
        token: url("token"),
        introspect: None,
        api: "http://127.0.0.1:1".parse().unwrap(),
    };
    let outbound =
        Outbound::new(&outbound::Settings { plain_only: true, ..Default::default() }).unwrap();
    let client = oauth::Client::new(settings, &outbound).unwrap();
    let second = std::time::Duration::from_secs(1);
    let settings = Settings {
        drain: second,
        hold: second,
        keep_warm: second,
        idle_refresh: second,
        default_account: None,
        ..Settings::default()
    };
    let (store, clock) =
        (Store::open(&folder.join("store"), Sealing::none()).unwrap(), Clock::system());
    let accounts =
        Accounts::open(store, client, settings, clock, Background::Disabled).await.unwrap();
    accounts.find(&AccountName::fallback()).await.unwrap();
    accounts
}

/// Makes entries of the run `3fa9c1`.
pub(super) async fn renderer(folder: &std::path::Path) -> Renderer {
    let recorders = Recorders::new(0x3f_a9c1, true, Arc::default(), Redactor::default());
    Renderer::new(recorders, accounts(folder).await, "sandbox".into(), None, "pleo-proxy".into())
}
