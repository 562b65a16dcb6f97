//! The table of refresh outcomes: what the token endpoint did, and what follows.

use http::header::RETRY_AFTER;
use http::{HeaderMap, StatusCode};

use super::*;
use crate::oauth::token::{End, read};
use crate::secret::{AccessToken, RefreshToken};
use crate::store::Issued;

const SENT: Now = Now { wall: 1_800_000_000_000, boot: 5_000_000 };
const NOW: Now = Now { wall: SENT.wall + 500, boot: SENT.boot + 500 };
const PAIR: &str = r#"{"access_token":"a2","refresh_token":"r2","token_type":"bearer","expires_in":600,"scope":"new"}"#;

fn record() -> Record {
    let issued =
        Issued { token_endpoint: "t".into(), client_id: "c".into(), api_origin: "a".into() };
    let grant = Grant {
        access: Some(AccessToken::new("a1")),
        refresh: RefreshToken::new("r1"),
        expires_at: SENT.wall,
        lifetime: 600_000,
        scope: vec!["old".into()],
        issued,
        logged_in_at: 1,
        refreshed_at: 2,
        introspection_trusted: true,
    };
    Record {
        generation: 7,
        grant: Some(grant),
        api_key: None,
        subject: Some("company".into()),
        company: Some("Harbour Coffee".into()),
        subject_unconfirmed: false,
        intent: None,
        ended: None,
    }
}

/// A record whose token was sent ten seconds before this attempt, without an answer.
fn record_with_open_intent() -> Record {
    with_intent(&record(), SENT.wall - 10_000)
}

fn follows(before: &Record, outcome: Outcome) -> Consequence {
    let noted = with_intent(before, SENT.wall);
    let grant = before.grant.as_ref().unwrap();
    consequence(outcome, Sent { grant, before, noted: &noted, at: SENT }, NOW)
}

fn answer(status: u16, body: &str, end: End) -> Outcome {
    read(StatusCode::from_u16(status).unwrap(), &HeaderMap::new(), body.as_bytes(), end)
}

fn whole(status: u16, body: &str) -> Outcome {
    answer(status, body, End::Whole)
}

/// The new pair that a consequence saves.
fn saved(consequence: Consequence) -> Renewal {
    match consequence {
        Consequence::Save(renewal) => *renewal,
        other => panic!("not saved: {other:?}"),
    }
}

fn tokens(renewal: &Renewal) -> (Option<&str>, &str) {
    let grant = renewal.record.grant.as_ref().unwrap();
    (grant.access.as_ref().map(AccessToken::expose), grant.refresh.expose())
}

/// The state that follows while the intent is taken back.
fn taken_back(consequence: Consequence) -> NextState {
    match consequence {
        Consequence::TakeIntentBack(next) => next,
        other => panic!("the intent is not taken back: {other:?}"),
    }
}

#[test]
fn fresh_is_saved_first_whatever_else_is_odd() {
    for (odd, body, end) in [
        ("nothing", PAIR.to_owned(), End::Whole),
        ("a byte order mark", format!("\u{feff}{PAIR}"), End::Whole),
        ("bytes behind the object", format!("{PAIR}<html>"), End::Whole),
        ("another field out of range", PAIR.replace("600", "600,\"x\":1e999"), End::Whole),
        ("a missing last chunk or close_notify", PAIR.to_owned(), End::BrokenOff),
        ("a wrong Content-Length", PAIR[..PAIR.len() - 1].to_owned(), End::BrokenOff),
        (
            "form encoding",
            "access_token=a2&refresh_token=r2&expires_in=600&scope=new".into(),
            End::Whole,
        ),
        ("no token_type", PAIR.replace(r#""token_type":"bearer","#, ""), End::Whole),
    ] {
        let renewal = saved(follows(&record(), answer(200, &body, end)));
        assert_eq!(tokens(&renewal), (Some("a2"), "r2"), "{odd}");
        assert_eq!(renewal.next_state(0, NOW), NextState::Connected, "{odd}");
    }
}

#[test]
fn fresh_makes_the_next_generation_and_keeps_what_the_answer_leaves_out() {
    let renewal = saved(follows(&record_with_open_intent(), whole(200, PAIR)));
    let grant = renewal.record.grant.as_ref().unwrap();
    assert_eq!((renewal.record.generation, renewal.record.intent.clone()), (8, None));
    assert_eq!(
        renewal.deadline,
        Deadline::after(SENT, Duration::from_secs(600)),
        "from the sending"
    );
    assert_eq!((grant.expires_at, grant.lifetime), (renewal.deadline.wall, 600_000));
    assert_eq!(
        (&grant.scope[..], grant.logged_in_at, grant.refreshed_at),
        (&["new".to_owned()][..], 1, SENT.wall)
    );
    assert_eq!(renewal.record.subject.as_deref(), Some("company"));
    assert!(grant.introspection_trusted);

    let renewal = saved(follows(&record(), whole(200, r#"{"access_token":"a2"}"#)));
    assert_eq!(tokens(&renewal), (Some("a2"), "r1"), "the old refresh token stays");
    assert_eq!(renewal.record.grant.unwrap().scope, ["old"]);
}

#[test]
fn fresh_without_a_usable_access_token_is_refreshed_once_more_and_then_misconfigured() {
    let renewal = saved(follows(&record(), whole(200, &PAIR.replace("bearer", "mac"))));
    assert_eq!(tokens(&renewal), (None, "r2"));
    assert_eq!(
        renewal.next_state(1, NOW),
        NextState::Retrying(RetryReason::UnusableToken, RetryTime::AtOnce)
    );
    assert_eq!(
        renewal.next_state(2, NOW),
        NextState::Misconfigured(RetryReason::UnusableTokenAgain)
    );
}

#[test]
fn fresh_with_an_unreadable_refresh_token_leaves_the_intent_open() {
    let renewal =
        saved(follows(&record(), whole(200, r#"{"access_token":"a2","refresh_token":7}"#)));
    assert_eq!(tokens(&renewal), (Some("a2"), "r1"));
    assert_eq!(renewal.record.open_intent().unwrap().generation, 8);
}

#[test]
fn fresh_that_is_late_or_unconfirmed_does_not_serve_yet() {
    let renewal = saved(follows(&record(), whole(200, &PAIR.replace("600", "0.4"))));
    let late = NextState::Retrying(RetryReason::ExpiredOnArrival, BACKOFF);
    assert_eq!(renewal.next_state(0, NOW), late);
    let unconfirmed = Record { subject_unconfirmed: true, ..record() };
    let renewal = saved(follows(&unconfirmed, whole(200, PAIR)));
    let ask = NextState::Retrying(RetryReason::SubjectUnconfirmed, RetryTime::AtOnce);
    assert_eq!(renewal.next_state(0, NOW), ask);
}

#[test]
fn not_sent_takes_the_intent_back_and_retries_on_demand() {
    for why in ["no such host", "connection refused", "bad certificate"] {
        let reason = RetryReason::Unreachable(why.into());
        let time = RetryTime::OnDemand { began: SENT.boot };
        let next = taken_back(follows(&record(), Outcome::NotSent(why.into())));
        assert_eq!(next, NextState::Retrying(reason.clone(), time));
        let next = taken_back(follows(&record_with_open_intent(), Outcome::NotSent(why.into())));
        assert_eq!(next, NextState::Uncertain(reason, time), "an older intent stays open");
    }
}

#[test]
fn held_up_takes_the_intent_back_and_is_tried_again_at_once() {
    let next = taken_back(follows(&record(), Outcome::HeldUp));
    assert_eq!(next, NextState::Retrying(RetryReason::HeldUp, RetryTime::AtOnce));
}

#[test]
fn come_back_later_obeys_retry_after() {
    let retry_time = |next| match next {
        NextState::Retrying(RetryReason::NotNow(_), time) => time,
        other => panic!("{other:?}"),
    };
    for (status, body) in [
        (429, ""),
        (503, "<html>"),
        (403, "<html>"),
        (404, ""),
        (408, ""),
        (400, r#"{"error":"too_many_requests"}"#),
        (200, r#"{"error":"temporarily_unavailable"}"#),
        (200, r#"{"error":"slow_down"}"#),
    ] {
        let next = taken_back(follows(&record(), whole(status, body)));
        assert_eq!(retry_time(next), BACKOFF, "{status} {body}");
    }
    for (header, seconds) in [("7", 7), ("86400", 300)] {
        let headers = HeaderMap::from_iter([(RETRY_AFTER, header.parse().unwrap())]);
        let outcome = read(StatusCode::TOO_MANY_REQUESTS, &headers, b"", End::Whole);
        let asked_for = Some(Duration::from_secs(seconds));
        let next = taken_back(follows(&record(), outcome));
        assert_eq!(retry_time(next), RetryTime::Backoff { asked_for });
    }
    let next = taken_back(follows(&record_with_open_intent(), whole(429, "")));
    assert!(matches!(next, NextState::Uncertain(RetryReason::NotNow(_), _)), "{next:?}");
}

#[test]
fn ambiguous_leaves_the_intent_open() {
    let timeout = Outcome::Ambiguous { why: "it did not answer in time".into(), answered: false };
    let reset = Outcome::Ambiguous { why: "the connection broke".into(), answered: false };
    for (outcome, expected) in [
        (timeout, false),
        (reset, false),
        (whole(500, ""), true),
        (whole(502, "<html>"), true),
        (whole(504, ""), true),
        (answer(500, "", End::BrokenOff), true),
        (answer(200, r#"{"access_to"#, End::BrokenOff), false),
        (whole(200, r#"{"access_to"#), true),
        (whole(200, "<html>"), true),
        (whole(302, ""), true),
    ] {
        let shown = format!("{outcome:?}");
        let Consequence::KeepIntent { answered, next } = follows(&record(), outcome) else {
            panic!("{shown}");
        };
        assert_eq!(answered, expected, "{shown}");
        let NextState::Uncertain(RetryReason::OutcomeUnknown(_), time) = next else {
            panic!("{shown}");
        };
        assert_eq!(time, BACKOFF, "{shown}");
    }
}

#[test]
fn an_open_intent_is_resolved_before_its_token_is_sent_again() {
    let record = record_with_open_intent();
    let intent = record.open_intent().unwrap();
    let first_sent = intent.first_sent_at;
    let (young, old) = (RESEND_AGE - Duration::from_secs(1), RESEND_AGE);
    let failed = Introspection::Failed("refused".into());
    let asked_again =
        NextState::Uncertain(RetryReason::IntrospectionFailed("refused".into()), BACKOFF);
    let in_a_second =
        NextState::Uncertain(RetryReason::NoAnswerYet, RetryTime::After(Duration::from_secs(1)));
    let lost = EndReason::Interrupted { sent_at: first_sent };
    for (introspection, answered, age, expected) in [
        (Introspection::Active, false, old, Resend::Send),
        (Introspection::Active, true, young, Resend::Send),
        (Introspection::Active, false, young, Resend::Wait(in_a_second.clone())),
        (Introspection::Untrusted, false, old, Resend::Send),
        (Introspection::Untrusted, true, young, Resend::Send),
        (Introspection::Untrusted, false, young, Resend::Wait(in_a_second)),
        (Introspection::Inactive, false, young, Resend::End(lost.clone())),
        (Introspection::Inactive, true, old, Resend::End(lost)),
        (failed.clone(), true, old, Resend::Wait(asked_again.clone())),
        (failed, false, young, Resend::Wait(asked_again)),
    ] {
        let shown = format!("{introspection:?}, {answered}, {age:?}");
        assert_eq!(resend(intent, introspection, here(answered, age), NOW), expected, "{shown}");
    }
    let ahead = Intent { first_sent_at: NOW.wall + 7_200_000, ..intent.clone() };
    let end = resend(&ahead, Introspection::Inactive, here(true, old), NOW);
    assert_eq!(end, Resend::End(EndReason::Interrupted { sent_at: NOW.wall }), "a clock was ahead");
}

fn here(answered: bool, age: Duration) -> Sending {
    Sending { answered, age, is_elsewhere: false }
}

#[test]
fn what_another_replica_sent_is_sent_again_late_unless_introspection_or_a_person_says_so() {
    let record = record_with_open_intent();
    let intent = record.intent.as_ref().unwrap();
    let elsewhere =
        |seconds| Sending { is_elsewhere: true, ..here(false, Duration::from_secs(seconds)) };
    let resend = |introspection, sending| resend(intent, introspection, sending, NOW);
    let time = RetryTime::After(Duration::from_secs(10));
    let wait = Resend::Wait(NextState::Uncertain(RetryReason::SentElsewhere, time));
    assert_eq!(resend(Introspection::Untrusted, elsewhere(890)), wait);
    assert_eq!(resend(Introspection::Untrusted, elsewhere(900)), Resend::Send);
    assert_eq!(resend(Introspection::Active, elsewhere(10)), Resend::Send);
    assert!(matches!(resend(Introspection::Inactive, elsewhere(0)), Resend::End(_)));
    let unsent = Sending { answered: true, ..elsewhere(0) };
    assert_eq!(resend(Introspection::Untrusted, unsent), Resend::Send);
    let asked = here(false, Duration::from_secs(10));
    assert_eq!(resend(Introspection::Untrusted, asked), Resend::Send);
}

#[test]
fn resends_are_counted_and_keep_the_first_date() {
    let first = record_with_open_intent();
    let again = with_intent(&first, SENT.wall);
    let (first, again) = (first.intent.unwrap(), again.intent.unwrap());
    assert_eq!((first.resends, again.resends), (0, 1));
    assert_eq!((again.first_sent_at, again.sent_at), (first.sent_at, SENT.wall));
    assert_eq!(again.token, RefreshToken::new("r1").fingerprint());
}

#[test]
fn dead_ends_the_grant_unless_the_store_holds_another_pair() {
    for code in ["invalid_grant", "invalid_refresh_token"] {
        let refused = || whole(400, &format!(r#"{{"error":"{code}"}}"#));
        let reason = |consequence| match consequence {
            Consequence::EndUnlessReplaced(reason) => reason,
            other => panic!("{other:?}"),
        };
        let expected = EndReason::Refused { code: code.into() };
        assert_eq!(reason(follows(&record(), refused())), expected);
        let expected = EndReason::Interrupted { sent_at: SENT.wall - 10_000 };
        let interrupted = reason(follows(&record_with_open_intent(), refused()));
        assert_eq!(interrupted, expected, "the lost answer had the new pair");
    }
    let sent = record();
    let other = |generation, token: &str| {
        let refresh = RefreshToken::new(token);
        let grant = sent.grant.clone().map(|grant| Grant { refresh, ..grant });
        Record { generation, grant, ..sent.clone() }
    };
    assert!(is_replaced(&sent, &other(8, "r2")) && is_replaced(&sent, &other(7, "r2")));
    assert!(!is_replaced(&sent, &other(8, "r1")), "the same token");
    assert!(!is_replaced(&sent, &other(6, "r0")), "a backup that was put back");
    assert!(!is_replaced(&sent, &Record { generation: 8, grant: None, ..sent.clone() }));
    let tombstone = ended(&sent, EndReason::LoggedOut, NOW.wall);
    let Ended { at, reason } = tombstone.ended.unwrap();
    assert_eq!((tombstone.generation, at, reason), (8, NOW.wall, EndReason::LoggedOut));
    assert!(tombstone.grant.is_none() && tombstone.intent.is_none());
    assert_eq!(tombstone.subject.as_deref(), Some("company"), "it stays bound");
}

#[test]
fn what_is_saved_late_replaces_an_earlier_record_of_its_own_login_alone() {
    let sent = record_with_open_intent();
    let pair = saved(follows(&record(), whole(200, PAIR))).record;
    let tombstone = ended(&sent, EndReason::Refused { code: "invalid_grant".into() }, NOW.wall);
    let login = |generation, logged_in_at, token: &str| {
        let refresh = RefreshToken::new(token);
        let grant = sent.grant.clone().map(|grant| Grant { refresh, logged_in_at, ..grant });
        Record { generation, grant, ..record() }
    };
    let lost = ended(&sent, EndReason::Interrupted { sent_at: SENT.wall }, NOW.wall);
    let gone = |generation| Record::tombstone(generation, 1, EndReason::LoggedOut);
    let at_seven = |token| login(7, 1, token);
    for (stored, keeps_pair, keeps_tombstone, why) in [
        (sent.clone(), Some(8), Some(8), "the record that it came from"),
        (at_seven("r0"), Some(8), Some(8), "the same login"),
        (login(7, 9, "r1"), Some(8), Some(8), "the same token"),
        (login(1, 9, "new"), None, None, "removed and logged in anew, by a clock ahead"),
        (login(1, -9, "new"), None, None, "the same, by a clock behind"),
        (gone(2), None, None, "removed, logged in anew and logged out"),
        (login(8, 1, "r2"), None, None, "a later pair"),
        (gone(8), None, None, "a logout"),
        (lost, Some(9), None, "the end that another replica wrote for this intent"),
    ] {
        let over = |record| over_stored(record, &sent, &stored).map(|record| record.generation);
        assert_eq!((over(&pair), over(&tombstone)), (keeps_pair, keeps_tombstone), "{why}");
    }
}

#[test]
fn misconfigured_keeps_the_tokens_and_names_the_setting() {
    for (status, code, setting) in [
        (401, "invalid_client", "client.id"),
        (400, "unauthorized_client", "client"),
        (400, "unsupported_grant_type", "endpoints.token"),
        (400, "invalid_scope", "client.scopes"),
    ] {
        let outcome = whole(status, &format!(r#"{{"error":"{code}"}}"#));
        let next = taken_back(follows(&record(), outcome));
        let NextState::Misconfigured(RetryReason::ClientRefused(why)) = next else {
            panic!("{code}: {next:?}");
        };
        assert!(why.contains(code) && why.contains(setting), "{why}");
    }
}

#[test]
fn a_record_alone_tells_the_state_of_an_account_without_trouble() {
    let here = |record: &Record| state_of(record, |_| true);
    assert_eq!(here(&record()), NextState::Connected);
    let uncertain = NextState::Uncertain(RetryReason::IntentOpen, RetryTime::AtOnce);
    assert_eq!(here(&record_with_open_intent()), uncertain);
    let unconfirmed = NextState::Retrying(RetryReason::SubjectUnconfirmed, RetryTime::AtOnce);
    assert_eq!(here(&Record { subject_unconfirmed: true, ..record() }), unconfirmed);
    let login = |record: &Record, reason| {
        assert_eq!(here(record), NextState::LoginRequired(reason));
    };
    login(&Record { grant: None, ..record() }, LoginReason::LoggedOut);
    let reason = EndReason::Disconnected;
    login(&ended(&record(), reason.clone(), NOW.wall), LoginReason::Ended(reason));
    let issued = record().grant.unwrap().issued;
    let elsewhere = NextState::LoginRequired(LoginReason::IssuedElsewhere(issued));
    assert_eq!(state_of(&record(), |_| false), elsewhere);
}

#[test]
fn what_is_tried_again_stays_uncertain_while_an_intent_is_open() {
    let reason = RetryReason::OutOfResources("no files".into());
    let time = RetryTime::Resources;
    let next = retry(&record(), reason.clone(), time);
    assert_eq!(next, NextState::Retrying(reason.clone(), time));
    let next = retry(&record_with_open_intent(), reason.clone(), time);
    assert_eq!(next, NextState::Uncertain(reason, time));
}
