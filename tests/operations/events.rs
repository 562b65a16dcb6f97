//! `GET /api/events`: what the page is told as it happens, without a gap or a double.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use crate::support;

use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use reqwest::Method;
use serde_json::json;
use sha2::Sha256;
use support::{Events, Proxy, Upstream, setup};

fn counted(to: u64) -> Vec<u64> {
    (1..=to).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_is_told_where_it_is_then_the_state_and_each_exchange() {
    let upstream = Upstream::ok();
    let setup = setup(&upstream, "").await;
    let mut events = Events::open(&setup.proxy, "?filter=-path:/v1/hidden", None);
    let hello = events.next().unwrap();
    assert_eq!((hello.name.as_str(), &hello.data["last_seq"]), ("hello", &json!(0)));
    let run = hello.data["run"].as_str().unwrap().to_owned();
    let status = events.next_named("status").data;
    assert_eq!(status["accounts"][0]["account"], "default");
    let mut caller = setup.caller();
    caller.get("/v1/hidden");
    let shown = caller.get("/v1/shown");
    let event = events.next_named("entries");
    assert_eq!(event.id, Some(format!("{run}.2")));
    let entries = event.data.as_array().unwrap();
    assert_eq!((entries.len(), &entries[0]["path"]), (1, &json!("/v1/shown")));
    assert_eq!(entries[0]["id"].as_str(), shown.header("pleo-proxy-request"));
    let (mut rate, mut stats) = (None, None);
    while rate.is_none() || stats.is_none() {
        let event = events.next().unwrap();
        match event.name.as_str() {
            "rate" if event.data["accounts"][0]["last_minute"] == 2 => rate = Some(event.data),
            "stats"
                if event.data["slices"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .any(|it| it["requests"] == 2) =>
            {
                stats = Some(event.data);
            }
            _ => {}
        }
    }
    setup.proxy.force_refresh("default").await;
    let generation = setup.proxy.account("default").await["generation"].clone();
    loop {
        let status = events.next_named("status").data;
        if status["accounts"][0]["generation"] == generation {
            break;
        }
    }
}

/// A session of the page that ends after `left`, as the proxy issues them for twelve hours.
fn session(proxy: &Proxy, left: Duration) -> String {
    let ends = (SystemTime::now().duration_since(UNIX_EPOCH).unwrap() + left).as_millis();
    let said = format!("{ends}.nonce");
    let mut mac = Hmac::<Sha256>::new_from_slice(proxy.key.as_bytes()).unwrap();
    mac.update(format!("pleo-proxy session of the page, version 1\0{said}\0\0").as_bytes());
    format!("{said}.{}", URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_whose_session_ends_is_told_no_more() {
    let upstream = Upstream::ok();
    let setup = setup(&upstream, "").await;
    let session = session(&setup.proxy, Duration::from_secs(2));
    let read = || {
        let request = setup.proxy.http.get(format!("{}/api/events", setup.proxy.admin));
        let cookie = format!("pleo_proxy_session_1={session}");
        request.header("cookie", cookie).header("sec-fetch-site", "same-origin").send()
    };
    let mut events = read().await.unwrap();
    assert_eq!(events.status(), 200);
    assert!(events.chunk().await.unwrap().is_some());
    while events.chunk().await.unwrap().is_some() {}
    assert_eq!(read().await.unwrap().status(), 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_that_come_back_miss_nothing_and_get_nothing_twice() {
    let upstream = Upstream::ok();
    let setup = setup(&upstream, "[inspect]\nrequests = 5000\n").await;
    let (count, proxy) = (2000, &setup.proxy);
    // From the beginning; one stays, the other one leaves after each few events.
    let mut hello = Events::open(proxy, "", None);
    let start = format!("{}.0", hello.next().unwrap().data["run"].as_str().unwrap());
    let faithful = || Events::open(proxy, "", Some(&start)).seqs(count);
    let restless = || {
        let (mut seen, mut last) = (Vec::new(), start.clone());
        while seen.len() < count {
            let mut events = Events::open(proxy, "", Some(&last));
            seen.extend(events.seqs(1));
            last = events.last_id.unwrap();
        }
        seen
    };
    let (first, second) = thread::scope(|scope| {
        let readers = (scope.spawn(faithful), scope.spawn(restless));
        for _ in 0..4 {
            scope.spawn(|| proxy.send_numbered(count / 4));
        }
        (readers.0.join().unwrap(), readers.1.join().unwrap())
    });
    assert_eq!(first, counted(count as u64));
    assert_eq!(second, counted(count as u64));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_leaves_before_anything_happened_misses_nothing_either() {
    let upstream = Upstream::ok();
    let setup = setup(&upstream, "").await;
    setup.proxy.send_numbered(3);
    setup.proxy.wait_for_seq(3).await;
    let mut events = Events::open(&setup.proxy, "", None);
    events.next_named("status");
    let last = events.last_id.take().expect("a position from the start");
    drop(events);
    setup.proxy.send_numbered(4);
    setup.proxy.wait_for_seq(7).await;
    assert_eq!(Events::open(&setup.proxy, "", Some(&last)).seqs(4), [4, 5, 6, 7]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_overwritten_is_told_and_only_that() {
    let upstream = Upstream::ok();
    let setup = setup(&upstream, "[inspect]\nrequests = 10\n").await;
    let mut events = Events::open(&setup.proxy, "?filter=path:/v1/rare", None);
    let run = events.next().unwrap().data["run"].as_str().unwrap().to_owned();
    // A reader whose filter chooses nothing of it gets on all the same.
    for number in 1..=10 {
        setup.proxy.send_numbered(5);
        while events.last_id != Some(format!("{run}.{}", number * 5)) {
            assert!(events.read_chunk().unwrap());
            while let Some(event) = events.buffered() {
                assert_ne!(event.name, "lost");
            }
        }
    }
    let mut late = Events::open(&setup.proxy, "", Some(&format!("{run}.5")));
    assert_eq!(late.next_named("lost").data, json!({"from": 6, "to": 40}));
    assert_eq!(late.seqs(10), (41..=50).collect::<Vec<_>>());
    let mut back = Events::open(&setup.proxy, "?filter=path:/v1/rare", events.last_id.as_deref());
    setup.caller().get("/v1/rare");
    loop {
        let event = back.next().unwrap();
        assert_ne!(event.name, "lost");
        if event.name == "entries" {
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_knows_another_run_starts_from_the_beginning() {
    let upstream = Upstream::ok();
    let setup = setup(&upstream, "").await;
    setup.proxy.send_numbered(3);
    setup.proxy.wait_for_seq(3).await;
    for other in ["?last=000000.77", "?last=000000.1"] {
        assert_eq!(Events::open(&setup.proxy, other, None).seqs(3), [1, 2, 3], "{other}");
    }
    // A position that is none is no position, and one of the future is the present.
    let run = setup.proxy.admin_json("/api/requests").await["run"].as_str().unwrap().to_owned();
    for odd in ["nonsense".to_owned(), format!("{run}.{}", u64::MAX)] {
        let mut events = Events::open(&setup.proxy, "", Some(&odd));
        events.next_named("status");
        let next = setup.proxy.last_seq().await + 1;
        setup.caller().get("/v1/x");
        assert_eq!(events.seqs(1), [next], "{odd}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_comment_comes_when_nothing_happens() {
    let upstream = Upstream::ok();
    let setup = setup(&upstream, "").await;
    let mut events = Events::open(&setup.proxy, "", None);
    let start = Instant::now();
    while events.comments == 0 {
        assert!(start.elapsed() < support::TIMEOUT && events.read_chunk().unwrap());
        while events.buffered().is_some() {}
    }
}

fn resident(proxy: &Proxy) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", proxy.child.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").trim().parse::<u64>().unwrap() * 1024
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_that_stop_reading_block_nobody_and_cost_bounded_memory() {
    let upstream = Upstream::ok();
    let setup = setup(&upstream, "[inspect]\nrequests = 500\n").await;
    let proxy = &setup.proxy;
    proxy.send_numbered(1000);
    let before = resident(proxy);
    let idle: Vec<_> = (0..20).map(|_| Events::open(proxy, "", None)).collect();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| proxy.send_numbered(1500));
        }
    });
    proxy.wait_for_seq(7000).await;
    let grown = resident(proxy).saturating_sub(before);
    assert!(grown < 24 * 1024 * 1024, "{grown} bytes for 20 readers");
    let mut reading = Events::open(proxy, "", None);
    reading.next_named("status");
    setup.caller().get("/v1/x");
    assert_eq!(reading.seqs(1), [7001]);
    drop(idle);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_under_load_still_hears_of_the_state() {
    let upstream = Upstream::ok();
    let setup = setup(&upstream, "").await;
    let proxy = &setup.proxy;
    thread::scope(|scope| {
        let events = scope.spawn(|| {
            let mut events = Events::open(proxy, "", None);
            (0..2).map(|_| events.next_named("rate").data).last()
        });
        while !events.is_finished() {
            proxy.send_numbered(200);
        }
        events.join().unwrap();
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stream_ends_with_the_last_exchanges_when_the_proxy_ends() {
    let upstream = Upstream::ok();
    let setup = setup(&upstream, "").await;
    let mut events = Events::open(&setup.proxy, "", None);
    events.next_named("status");
    let mut silent = Events::open(&setup.proxy, "", None);
    silent.next_named("status");
    setup.proxy.send_numbered(3);
    let ended = setup.proxy.admin(Method::POST, "/api/shutdown", None).await;
    assert!(ended.status().is_success(), "{}", ended.status());
    assert_eq!(events.seqs(3), [1, 2, 3]);
    while let Some(event) = events.next() {
        assert_ne!(event.name, "entries");
    }
    assert!(events.ended_in_order, "the stream broke off");
    while silent.next().is_some() {}
    assert!(silent.ended_in_order, "the stream broke off");
}
