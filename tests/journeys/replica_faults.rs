//! What becomes of a refresh if its replica or its way to the database fails, at each moment from
//! before the claim to after the save: one test for each fault, with a row for each moment.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use std::time::Instant;

use pleo_proxy::sandbox::Faults;
use tokio::task::JoinHandle;
use tokio::time::{Duration, sleep};

use super::replicas::{Two, refresh, signal, two, until_posted, until_status};
use crate::support::{NO_REFRESH_AHEAD, Proxy, TIMEOUT, slow_token_response, token_posts};

/// Keeps the statements of the first replica waiting that are named in `hold`, as a slow database.
const HOLD: &str = "\
CREATE TABLE hold (statement text);
CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE own text := CASE
    WHEN NEW.generation IS DISTINCT FROM OLD.generation THEN 'save'
    WHEN NEW.intent_id IS NOT NULL AND NEW.intent_id IS DISTINCT FROM OLD.intent_id THEN 'intent'
    WHEN NEW.claim_id IS NULL THEN 'release'
    WHEN NEW.claim_id IS DISTINCT FROM OLD.claim_id THEN 'claim' END;
BEGIN
    WHILE session_user LIKE 'first%' AND EXISTS (SELECT FROM hold WHERE statement = own) LOOP
        PERFORM pg_sleep(0.01);
    END LOOP;
    RETURN NEW;
END $$;
CREATE TRIGGER hold BEFORE UPDATE ON pleo_proxy.account FOR EACH ROW EXECUTE FUNCTION hold();";

/// How long a request to the API or the token endpoint takes that keeps a refresh at its moment.
const SLOW: u64 = 1500;

/// A holder sends its token within this time after it asked for its intent, or not at all.
const SEND_WITHIN: Duration = Duration::from_secs(5);

/// Where in its refresh the first replica is when the fault comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moment {
    BeforeClaim,
    BeforeIntent,
    /// The intent is saved, and nothing is sent.
    BeforePost,
    /// The server has redeemed the token, and its answer is not there.
    InPost,
    BeforeSave,
    /// The pair is saved, and the claim is not given back.
    AfterSave,
}

use Moment::{AfterSave, BeforeClaim, BeforeIntent, BeforePost, BeforeSave, InPost};

/// What the second replica does while the first one is gone.
#[derive(Clone, Copy, Debug)]
enum Meanwhile {
    /// Redeems the token that the first one has not sent.
    Refreshes,
    /// Serves with the pair that the first one saved.
    Serves,
    /// Sends nothing: the pair is with the first one, or lost.
    WantsLogin,
}

use Meanwhile::{Refreshes, Serves, WantsLogin};

/// A refresh of the first replica that stands at its moment.
struct Standing {
    refreshing: JoinHandle<Option<u16>>,
    before: u64,
    _slow: Option<JoinHandle<()>>,
}

async fn replicas() -> Option<Two> {
    let two = two(NO_REFRESH_AHEAD, Faults::default()).await?;
    two.database.run(HOLD);
    Some(two)
}

/// Brings the first replica to its moment.
async fn stand_at(two: &Two, moment: Moment) -> Standing {
    two.sandbox.set_faults(Faults::default());
    until_status(&two.first, 200).await;
    two.end_claim();
    let before = two.sandbox.counters();
    let mut slow = None;
    let statement = match moment {
        BeforeClaim => "claim",
        BeforeIntent => "intent",
        BeforeSave => "save",
        AfterSave => "release",
        BeforePost => {
            // A request on its way keeps the token request waiting.
            two.sandbox.set_faults(Faults { latency_ms: SLOW, ..Faults::default() });
            let request = two.first.http.get(format!("{}/v1/companies", two.first.api)).send();
            slow = Some(tokio::spawn(async { drop(request.await) }));
            sleep(Duration::from_millis(100)).await;
            "none"
        }
        InPost => {
            two.sandbox.set_faults(slow_token_response(SLOW));
            "none"
        }
    };
    two.database.run(&format!("INSERT INTO hold VALUES ('{statement}')"));
    let refreshing = refresh(&two.first);
    match moment {
        BeforePost => {
            until(two, "SELECT count(*) FROM pleo_proxy.account WHERE intent_id IS NOT NULL").await
        }
        InPost => until_posted(two, 1, &before).await,
        _ => {
            let held = "SELECT count(*) FROM pg_stat_activity \
                WHERE datname = current_database() AND wait_event = 'PgSleep'";
            until(two, held).await;
        }
    }
    let posted = token_posts(&two.sandbox, &before);
    let is_sent = matches!(moment, InPost | BeforeSave | AfterSave);
    assert_eq!(posted, u64::from(is_sent), "{moment:?}\n{}", two.first.log());
    Standing { refreshing, before: before.token_posts, _slow: slow }
}

/// Waits until a count is one.
async fn until(two: &Two, count: &str) {
    let start = Instant::now();
    while two.database.run(count).trim() != "1" {
        assert!(start.elapsed() < TIMEOUT, "{count}\n{}", two.first.log());
        sleep(Duration::from_millis(10)).await;
    }
}

/// Nothing is held up any more.
fn go_on(two: &Two) {
    two.database.run("DELETE FROM hold");
}

/// So much time passes that the claim of the first replica has ended, and that an answer which did
/// not come by now will not come.
fn time_passes(two: &Two) {
    two.end_claim();
    two.database.run(
        "UPDATE pleo_proxy.account SET intent_at = clock_timestamp() - interval '50 seconds' \
         WHERE intent_id IS NOT NULL",
    );
}

/// The second replica, while the first one is gone and its time passes.
async fn meanwhile(two: &Two, does: Meanwhile) {
    time_passes(two);
    match does {
        Serves => until_status(&two.second, 200).await,
        Refreshes => {
            let start = Instant::now();
            while two.second.force_refresh("default").await["outcome"] != "refreshed" {
                assert!(start.elapsed() < TIMEOUT, "{}", two.second.log());
                sleep(Duration::from_millis(100)).await;
            }
        }
        WantsLogin => until_login_required(&two.second).await,
    }
}

/// Token requests in all, once both are there again, nothing holds them up, and the account serves
/// or wants a login, as expected; it is connected after it.
async fn posts(two: &Two, moment: Moment, standing: Standing, serves: bool) -> u64 {
    standing.refreshing.await.unwrap();
    two.sandbox.set_faults(Faults::default());
    for proxy in [&two.first, &two.second] {
        if serves {
            until_status(proxy, 200).await;
        } else {
            until_login_required(proxy).await;
        }
    }
    let posts = two.sandbox.counters().token_posts - standing.before;
    two.assert_unharmed();
    two.end_claim();
    if serves {
        assert_eq!(two.second.force_refresh("default").await["outcome"], "refreshed", "{moment:?}");
    } else {
        two.second.login("default").await;
    }
    until_status(&two.first, 200).await;
    two.assert_unharmed();
    posts
}

async fn until_login_required(proxy: &Proxy) {
    let start = Instant::now();
    loop {
        let response = proxy.get("/v1/companies").await;
        let code = response.headers().get("pleo-proxy-error");
        if code.is_some_and(|code| code == "login_required") {
            return;
        }
        assert!(start.elapsed() < TIMEOUT, "{}", proxy.log());
        proxy.force_refresh("default").await;
        sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_is_killed() {
    let Some(mut two) = replicas().await else { return };
    for (moment, does, serves) in [
        (BeforeClaim, Refreshes, true),
        (BeforeIntent, Refreshes, true),
        (BeforePost, Refreshes, true),
        (InPost, WantsLogin, false),
        // The database has the statement, and ends it.
        (BeforeSave, Serves, true),
        (AfterSave, Serves, true),
    ] {
        let standing = stand_at(&two, moment).await;
        signal(&two.first, "KILL");
        two.first.child.wait().unwrap();
        go_on(&two);
        meanwhile(&two, does).await;
        two.first = two.workspaces[0].serve();
        assert_eq!(posts(&two, moment, standing, serves).await, 1, "{moment:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_stands_still_for_longer_than_its_claim() {
    let Some(two) = replicas().await else { return };
    for (moment, does) in [
        (BeforeClaim, Refreshes),
        (BeforeIntent, Refreshes),
        (BeforePost, Refreshes),
        // The first one has the pair when it goes on.
        (InPost, WantsLogin),
        (BeforeSave, Serves),
        (AfterSave, Serves),
    ] {
        let standing = stand_at(&two, moment).await;
        signal(&two.first, "STOP");
        go_on(&two);
        if matches!(moment, BeforeIntent | BeforePost) {
            // In truth its claim lasts longer, and nothing can hurry the clock by which it may send.
            sleep(SEND_WITHIN).await;
        }
        meanwhile(&two, does).await;
        signal(&two.first, "CONT");
        assert_eq!(posts(&two, moment, standing, true).await, 1, "{moment:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_cannot_reach_the_database_for_longer_than_its_claim() {
    let Some(two) = replicas().await else { return };
    for (moment, does) in [
        (BeforeClaim, Refreshes),
        (BeforeIntent, Refreshes),
        // It sends its token within a few seconds, and has the pair.
        (BeforePost, WantsLogin),
        (InPost, WantsLogin),
        (BeforeSave, WantsLogin),
        (AfterSave, Serves),
    ] {
        let standing = stand_at(&two, moment).await;
        two.shut_out_first();
        go_on(&two);
        if moment == BeforePost {
            let start = Instant::now();
            while two.sandbox.counters().token_posts == standing.before {
                assert!(start.elapsed() < TIMEOUT, "{}", two.first.log());
                sleep(Duration::from_millis(10)).await;
            }
        }
        meanwhile(&two, does).await;
        two.let_in_first();
        assert_eq!(posts(&two, moment, standing, true).await, 1, "{moment:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_that_the_database_ends_and_a_database_that_is_away() {
    let Some(two) = replicas().await else { return };
    for moment in [BeforeClaim, BeforeIntent, BeforePost, InPost, BeforeSave, AfterSave] {
        for is_away in [false, true] {
            let standing = stand_at(&two, moment).await;
            if is_away {
                two.database.lose();
                sleep(Duration::from_millis(300)).await;
                two.database.restore();
            } else {
                two.database.end_connections();
            }
            go_on(&two);
            let posts = posts(&two, moment, standing, true).await;
            // Before the intent is saved, it may be given up or begun anew.
            let least = u64::from(!matches!(moment, BeforeClaim | BeforeIntent));
            assert!((least..=1).contains(&posts), "{moment:?}, away: {is_away}, {posts} requests");
        }
    }
}
