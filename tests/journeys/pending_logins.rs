//! Several logins at once: how many may be pending, how long, and which one wins.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use crate::support;

use std::time::Duration;

use super::login::token_fault;
use pleo_proxy::accounts::{self, Accounts, Background};
use pleo_proxy::clock::{Clock, Now};
use pleo_proxy::login::{LoginError, Logins};
use pleo_proxy::oauth::authorize::Callback;
use pleo_proxy::oauth::{self, ClientAuth, SecretSource};
use pleo_proxy::outbound::{self, Outbound};
use pleo_proxy::sandbox::{Faults, Sandbox, TokenFaultKind};
use pleo_proxy::secret::ClientSecret;
use pleo_proxy::store::{AccountName, Sealing, Store};
use reqwest::Method;
use serde_json::Value;
use support::{Workspace, begin_login, client, consent, sandbox, visit};

#[tokio::test(flavor = "multi_thread")]
async fn five_logins_of_an_account_may_be_pending_and_a_sixth_ends_the_oldest() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    let proxy = workspace.serve();
    let mut begun = Vec::new();
    for _ in 0..6 {
        begun.push(begin_login(&proxy, "default").await);
    }
    let page = client().get(format!("{}/connect", proxy.admin)).send().await.unwrap();
    assert_eq!(page.status(), 302, "a seventh");
    for (pushed_out, url) in [(true, &begun[0]), (true, &begun[1]), (false, &begun[2])] {
        let status = visit(consent(url).await).await.0;
        assert_eq!(status, if pushed_out { 400 } else { 200 }, "{url}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn logout_cancels_the_logins_that_are_under_way() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    let proxy = workspace.serve();
    proxy.login("default").await;
    proxy.login("other").await;
    let back = consent(&begin_login(&proxy, "default").await).await;
    let others = consent(&begin_login(&proxy, "other").await).await;
    let posts = sandbox.counters().token_posts;
    assert_eq!(proxy.admin(Method::POST, "/api/accounts/default/logout", None).await.status(), 200);
    assert_eq!(visit(back).await.0, 400);
    assert_eq!(sandbox.counters().token_posts, posts);
    assert_eq!(proxy.account("default").await["state"], "login_required");
    assert_eq!(workspace.stored_json("default")["record"]["grant"], Value::Null);
    assert_eq!(visit(others).await.0, 200, "another account's login goes on");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_logout_during_the_exchange_wins() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    let proxy = workspace.serve();
    proxy.login("default").await;
    sandbox.set_faults(Faults { token_latency_after_ms: 500, ..Faults::default() });
    let back = consent(&begin_login(&proxy, "default").await).await;
    let browser = tokio::spawn(visit(back));
    while sandbox.counters().token_posts < 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(proxy.admin(Method::POST, "/api/accounts/default/logout", None).await.status(), 200);
    let (status, page) = browser.await.unwrap();
    assert_eq!(status, 400, "{page}");
    assert_eq!(proxy.account("default").await["state"], "login_required");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_later_login_does_not_replace_an_earlier_one() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    let proxy = workspace.serve();
    let (first, second) =
        (begin_login(&proxy, "default").await, begin_login(&proxy, "default").await);
    sandbox.set_faults(Faults { token_latency_after_ms: 700, ..Faults::default() });
    let browser = tokio::spawn(visit(consent(&first).await));
    while sandbox.counters().token_posts < 1 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    sandbox.set_faults(Faults {
        token_answer: Some(token_fault(TokenFaultKind::Error)),
        ..Faults::default()
    });
    assert_eq!(visit(consent(&second).await).await.0, 400);
    let (status, page) = browser.await.unwrap();
    assert_eq!(status, 200, "{page}");
    assert_eq!(proxy.account("default").await["state"], "connected");
}

/// Logins on a clock that the test moves.
async fn accounts(
    sandbox: &Sandbox,
    folder: &std::path::Path,
    clock: &Clock,
) -> std::sync::Arc<Accounts> {
    let settings = oauth::Settings {
        client_id: Some("sandbox-client".into()),
        client_secret: SecretSource::Value(ClientSecret::new("sandbox-secret")),
        auth: ClientAuth::Basic,
        scopes: vec!["companies:read".into()],
        authorize: oauth::endpoint::Endpoint::parse(&sandbox.authorize_url()).unwrap(),
        token: oauth::endpoint::Endpoint::parse(&sandbox.token_url()).unwrap(),
        introspect: None,
        api: oauth::endpoint::Origin::parse(&sandbox.api_origin()).unwrap(),
    };
    let outbound =
        Outbound::new(&outbound::Settings { plain_only: true, ..outbound::Settings::default() })
            .unwrap();
    let account_settings = accounts::Settings {
        drain: Duration::from_secs(2),
        hold: Duration::from_secs(15),
        keep_warm: Duration::from_secs(600),
        idle_refresh: Duration::from_secs(604_800),
        default_account: None,
        ..accounts::Settings::default()
    };
    let store = Store::open(&folder.join("records"), Sealing::none()).unwrap();
    let client = oauth::Client::new(settings, &outbound).unwrap();
    let opened =
        Accounts::open(store, client, account_settings, clock.clone(), Background::Disabled);
    opened.await.unwrap()
}

async fn logins(
    sandbox: &Sandbox,
    folder: &std::path::Path,
    clock: &Clock,
) -> std::sync::Arc<Logins> {
    Logins::new(accounts(sandbox, folder, clock).await)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_login_handles_is_known_as_secret() {
    let sandbox = sandbox().await;
    let folder = tempfile::tempdir().unwrap();
    let clock = Clock::manual(Now { wall: 1_800_000_000_000, boot: 1_000_000 });
    let accounts = accounts(&sandbox, folder.path(), &clock).await;
    let logins = Logins::new(accounts.clone());
    let name = AccountName::fallback();
    let begun = logins.begin(&name, "http://127.0.0.1:9/callback", false).await.unwrap();
    let back = consent(&begun.url).await;
    logins.finish(Callback::from_address(back.as_str()).unwrap()).await.unwrap();

    let mut secrets: Vec<String> = back
        .query_pairs()
        .filter(|(name, _)| name != "iss")
        .map(|(_, value)| value.into())
        .collect();
    assert_eq!(secrets.len(), 2, "code and state");
    secrets.push("sandbox-secret".into());
    let (record, _) = accounts.store().load(&name).await.unwrap().unwrap();
    let grant = record.grant.unwrap();
    secrets.extend([grant.access.unwrap().expose().into(), grant.refresh.expose().into()]);
    for secret in secrets {
        assert!(accounts.known_secrets().occur_in(&secret), "{secret}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_lasts_ten_minutes() {
    let sandbox = sandbox().await;
    let folder = tempfile::tempdir().unwrap();
    let start = Now { wall: 1_800_000_000_000, boot: 1_000_000 };
    let clock = Clock::manual(start);
    let logins = logins(&sandbox, folder.path(), &clock).await;
    let (name, uri) = (AccountName::fallback(), "http://127.0.0.1:9/callback");
    let mut begun = Vec::new();
    for _ in 0..2 {
        begun.push(logins.begin(&name, uri, false).await.unwrap().url);
    }
    let after =
        |ms: u64| Now { wall: start.wall.saturating_add_unsigned(ms), boot: start.boot + ms };

    clock.set(after(599_999));
    let back = consent(&begun[0]).await;
    logins.finish(Callback::from_address(back.as_str()).unwrap()).await.unwrap();
    clock.set(after(600_000));
    let late = consent(&begun[1]).await;
    let refused = logins.finish(Callback::from_address(late.as_str()).unwrap()).await;
    assert!(matches!(refused, Err(LoginError::UnknownState)), "{refused:?}");
    assert_eq!(sandbox.counters().token_posts, 1);
    logins.begin(&name, uri, false).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sixth_login_of_an_account_ends_the_oldest_and_touches_no_other_account() {
    let sandbox = sandbox().await;
    let folder = tempfile::tempdir().unwrap();
    let clock = Clock::manual(Now { wall: 1_800_000_000_000, boot: 1_000_000 });
    let logins = logins(&sandbox, folder.path(), &clock).await;
    let (name, uri) = (AccountName::fallback(), "http://127.0.0.1:9/callback");
    let other = logins.begin(&"acme".parse().unwrap(), uri, false).await.unwrap();
    let mut begun = Vec::new();
    for _ in 0..6 {
        begun.push(logins.begin(&name, uri, false).await.unwrap());
    }

    assert_eq!(logins.outcome(&begun[0].id).await, None, "the oldest is gone");
    for login in begun[1..].iter().chain([&other]) {
        assert_eq!(logins.outcome(&login.id).await, Some(None), "it is pending still");
    }
    let back = consent(&begun[0].url).await;
    let refused = logins.finish(Callback::from_address(back.as_str()).unwrap()).await;
    assert!(matches!(refused, Err(LoginError::UnknownState)), "{refused:?}");

    assert!(
        logins.abandon(&begun[5].id).await && !logins.abandon(&begun[5].id).await,
        "given back once"
    );
    logins.begin(&name, uri, false).await.unwrap();
    assert_eq!(
        logins.outcome(&begun[1].id).await,
        Some(None),
        "a login that was given back makes room"
    );
    let back = consent(&begun[1].url).await;
    logins.finish(Callback::from_address(back.as_str()).unwrap()).await.unwrap();
    assert_eq!(logins.outcome(&begun[1].id).await, Some(Some(Ok(()))));
    assert!(!logins.abandon(&begun[1].id).await, "what has ended is not given back");
}

#[tokio::test(flavor = "multi_thread")]
async fn pending_logins_of_many_names_stay_bounded() {
    let sandbox = sandbox().await;
    let folder = tempfile::tempdir().unwrap();
    let clock = Clock::manual(Now { wall: 1_800_000_000_000, boot: 1_000_000 });
    let logins = logins(&sandbox, folder.path(), &clock).await;
    let mut begun = Vec::new();
    for number in 0..150 {
        let name = format!("a{number}").parse().unwrap();
        begun.push(logins.begin(&name, "http://127.0.0.1:9/callback", false).await.unwrap().id);
    }
    let mut pending = 0;
    for id in &begun {
        pending += usize::from(logins.outcome(id).await == Some(None));
    }
    assert_eq!((pending, logins.outcome(&begun[149]).await), (100, Some(None)));
}
