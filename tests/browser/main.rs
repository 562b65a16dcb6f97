//! A real browser and the pages it may be led to: nothing that a page of somebody else sends
//! reaches Pleo, changes anything or can be read; the page that is allowed, and our own, work.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod attack_scene;
mod chromium;
#[path = "../support/mod.rs"]
mod support;

use std::sync::{Arc, Mutex};

use attack_scene::{
    DATA, FILE, Plan, Scene, begin, careless, grant, is_pending, pages, report, say,
};
use chromium::{Browser, TURN, program, within};
use serde_json::Value;
use support::{Received, Upstream, Workspace, client, config_with_api, sandbox, text};

const ATTACK: &str = include_str!("attack.js");

/// Ways of the attack page that reach a server that does not defend itself.
const WAYS: [&str; 22] = [
    "fetch",
    "fetch-credentials",
    "fetch-no-cors",
    "fetch-header",
    "image",
    "script",
    "style",
    "iframe",
    "object",
    "event-source",
    "web-socket",
    "post-text",
    "post-no-cors",
    "post-json",
    "delete",
    "beacon",
    "ping",
    "form",
    "form-text",
    "form-multipart",
    "top-get",
    "top-form",
];

/// The same from a frame whose origin is `null`.
const FRAMED: [&str; 9] = [
    "null-fetch",
    "null-fetch-no-cors",
    "null-image",
    "null-script",
    "null-web-socket",
    "null-post-no-cors",
    "null-post-json",
    "null-form",
    "null-form-text",
];

/// Plays the attack from a page of this host and looks at the harm.
async fn attack_from(host: &str, is_same_site: bool) {
    let Some(program) = program("the attack of a page") else { return };
    let _turn = TURN.lock().await;
    let scene = Scene::set().await;
    let oldest = begin(&scene.proxy, "victim").await;
    let before = grant(&scene.proxy).await;
    let script = format!("const PLAN = {};\n{ATTACK}", scene.targets());
    let report = scene.play(program, host, &script);

    let reads: Vec<&str> =
        report["reads"].as_array().unwrap().iter().map(|read| read.as_str().unwrap()).collect();
    let control = format!("{}/control", scene.control.origin);
    let (of_control, leaked): (Vec<&str>, Vec<&str>) =
        reads.into_iter().partition(|read| read.starts_with(&control));
    assert!(leaked.is_empty(), "the page read {leaked:#?}");
    assert!(
        of_control.iter().any(|read| read.contains(DATA)),
        "the page reads what is not defended: {of_control:?}"
    );
    for way in WAYS.into_iter().chain(FRAMED) {
        let mark = format!("/control?by={way}");
        within(&format!("{way} reaches what is not defended"), || {
            scene.control.requests().iter().any(|request| request.target() == mark)
        });
    }
    let carries = |request: &Received| {
        request.head.contains("pleo_proxy_session_") && request.target() != "/favicon.ico"
    };
    let has_cookie = scene.control.requests().iter().any(carries);
    assert_eq!(
        has_cookie, is_same_site,
        "the browser has our cookie and sends it along where it may"
    );

    assert!(scene.api.requests().is_empty(), "Pleo was reached: {:#?}", scene.api.requests());
    let tried = report["tried"].as_array().unwrap().len();
    assert!(tried > 300, "the page tried {tried} times only");
    assert!(
        scene.refused("forbidden_origin").await >= 60,
        "the attacks did not arrive at the proxy"
    );
    assert!(scene.refused("forbidden_host").await >= 30, "the attacks did not arrive at the proxy");
    let led = scene
        .pages
        .requests()
        .into_iter()
        .filter(|request| request.target().starts_with("/authorize"))
        .count();
    assert_eq!(led, 0, "a login was begun");
    assert_eq!(grant(&scene.proxy).await, before);
    // The oldest of five pending logins makes room for a sixth: no part of a page began one.
    for _ in 0..4 {
        begin(&scene.proxy, "victim").await;
    }
    assert!(is_pending(&scene.proxy, &oldest).await, "a login was begun");
    assert_eq!(
        scene.proxy.get("/v1/companies").await.text().await.unwrap(),
        DATA,
        "it is up, and serves"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_another_site_reaches_reads_and_changes_nothing() {
    attack_from("evil.test", false).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes a minute in Chromium: tests/heavy/browser.sh"]
async fn a_page_of_another_port_of_localhost_reaches_reads_and_changes_nothing() {
    attack_from("localhost", false).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes a minute in Chromium: tests/heavy/browser.sh"]
async fn a_page_of_another_port_with_our_own_cookie_reaches_reads_and_changes_nothing() {
    attack_from("127.0.0.1", true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_from_a_file_reaches_reads_and_changes_nothing() {
    attack_from(FILE, false).await;
}

/// A page and a drawing that say what they may do: change themselves, call home, call the admin
/// listener.
fn scripted(home: &str, admin: &str) -> Upstream {
    let act = format!(
        "document.querySelector('#said').textContent = 'it ' + 'ran'; fetch('{home}/ran', {{mode: 'no-cors'}}); \
         fetch('{admin}/api/accounts/default/logout', {{method: 'POST', mode: 'no-cors'}});"
    );
    let page = format!(
        "<!doctype html><p id=said>as it came</p><script>{act}</script><img src=none: onerror=\"{act}\">\
         <meta http-equiv=refresh content=\"0;url=javascript:{act}\"><img src={home}/ran>"
    );
    let drawing = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"9\" height=\"9\"><text id=\"said\">as it came</text>\
         <script>{act}</script></svg>"
    );
    Upstream::start(move |incoming| match incoming.target() {
        "/drawing" => say(incoming, "200 OK", "Content-Type: image/svg+xml\r\n", &drawing),
        "/favicon.ico" => say(incoming, "404 Not Found", "", ""),
        _ => say(incoming, "200 OK", "Content-Type: text/html\r\n", &page),
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_the_upstream_is_shown_and_its_scripts_do_not_run() {
    let Some(program) = program("a page of the upstream") else { return };
    let _turn = TURN.lock().await;
    let (sandbox, home) = (sandbox().await, careless());
    // Where the admin listener is, is known only when it is there.
    let workspace = Workspace::new(&config_with_api(&sandbox, &home.origin, ""));
    let admin = workspace.serve();
    let upstream = scripted(&home.origin, &admin.admin);
    let before = Workspace::new(&config_with_api(&sandbox, &upstream.origin, ""));
    let proxy = before.serve();
    proxy.login("default").await;
    admin.login("default").await;
    let grant_before = grant(&admin).await;
    let dump = ["--virtual-time-budget=4000", "--dump-dom"];
    for path in ["/page", "/drawing"] {
        let calls = || home.requests().iter().filter(|request| request.target() == "/ran").count();
        let at_rest = calls();
        let dom = Browser::open(program, &dump, &format!("{}{path}", proxy.api)).output();
        assert!(dom.contains(">as it came<"), "{path}: {dom}");
        assert_eq!(calls(), at_rest, "{path}: it called home");
        let control = Browser::open(program, &dump, &format!("{}{path}", upstream.origin)).output();
        assert!(
            control.contains(">it ran<"),
            "{path}: scripts run where nothing stops them: {control}"
        );
        assert!(calls() > at_rest, "{path}: it calls home where nothing stops it");
    }
    assert_eq!(grant(&admin).await, grant_before);
}

/// Frames of our page: as it is, and without what protects it.
const FRAMES: &str = "const framed = src => new Promise(done => {
  const frame = Object.assign(document.createElement('iframe'), {src});
  frame.onload = () => {
    try { done(frame.contentDocument.body.innerText); } catch { done(null); }
  };
  document.body.append(frame);
});
const run = async () => {
  const said = [await framed('/as-it-is'), await framed('/bare')];
  await fetch('/report', {method: 'POST', body: JSON.stringify({said})});
};
run();";

#[tokio::test(flavor = "multi_thread")]
async fn our_own_page_is_shown_in_no_frame() {
    let Some(program) = program("our own page in a frame") else { return };
    let _turn = TURN.lock().await;
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    let proxy = workspace.serve();
    let ours = client().get(&proxy.admin).send().await.unwrap();
    let field = |name: &str| format!("{name}: {}\r\n", ours.headers()[name].to_str().unwrap());
    let fields =
        [field("content-security-policy"), field("x-frame-options"), field("content-type")]
            .concat();
    let html = ours.text().await.unwrap();
    // Under an address of the page's own, which may look into its frames: so that it is seen what
    // they show.
    let pages = Upstream::start(move |incoming| {
        let _ = incoming.body();
        match incoming.target() {
            "/as-it-is" => say(incoming, "200 OK", &fields, &html),
            "/bare" => say(incoming, "200 OK", "Content-Type: text/html\r\n", &html),
            "/page" => {
                let page = format!("<!doctype html><body><script>{FRAMES}</script>");
                say(incoming, "200 OK", "Content-Type: text/html\r\n", &page)
            }
            _ => say(incoming, "200 OK", "", ""),
        }
    });
    let browser = Browser::open(program, &[], &format!("{}/page", pages.origin));
    within("the page reports", || report(&pages).is_some());
    drop(browser);
    let said = report(&pages).unwrap()["said"].clone();
    assert!(
        said[1].as_str().unwrap().contains("pleo-proxy is up"),
        "a page without protection is shown: {said}"
    );
    assert_eq!(said[0], Value::Null, "{said}");
}

/// Leads the window to a login, and reports once it is there.
const LEAD: &str = "const opened = window.open(CONNECT);
const look = setInterval(() => {
  try { void opened.location.href; } catch { clearInterval(look); fetch('/report', {method: 'POST', body: '{}'}); }
}, 20);";

#[tokio::test(flavor = "multi_thread")]
async fn a_page_may_lead_a_person_to_a_login_and_that_changes_nothing_by_itself() {
    let Some(program) = program("a page that leads to a login") else { return };
    let _turn = TURN.lock().await;
    let scene = Scene::set().await;
    let oldest = begin(&scene.proxy, "default").await;
    let before = grant(&scene.proxy).await;
    let script =
        format!("const CONNECT = '{}/connect?account=default';\n{LEAD}", scene.proxy.admin);
    scene.play(program, "evil.test", &script);
    let authorize = |request: &Received| request.target().starts_with("/authorize?");
    within("the person is at the consent page", || scene.pages.requests().iter().any(authorize));
    let all = scene.pages.requests();
    let led: Vec<_> = all.into_iter().filter(authorize).collect();
    assert_eq!(led.len(), 1);
    assert!(
        led[0].all("referer").is_empty(),
        "the consent page learns nothing of the page: {}",
        led[0].head
    );
    assert_eq!(grant(&scene.proxy).await, before);
    // The oldest of five pending logins makes room for a sixth: the page began one.
    for _ in 0..3 {
        begin(&scene.proxy, "default").await;
    }
    assert!(is_pending(&scene.proxy, &oldest).await, "one login at most was begun");
    begin(&scene.proxy, "default").await;
    assert!(!is_pending(&scene.proxy, &oldest).await, "one login was begun");
    assert!(scene.api.requests().is_empty());
}

/// What a page of the person's own asks.
const FRIEND: &str = "const ask = async options => {
  try {
    const answer = await fetch(API + '/v1/companies', options);
    return `${answer.status} ${await answer.text()}`;
  } catch (error) { return `nothing: ${error}`; }
};
const run = async () => {
  const json = {'content-type': 'application/json', 'pleo-proxy-account': 'default'};
  const said = [await ask(), await ask({method: 'POST', headers: json, body: '{}'}), await ask({method: 'DELETE'})];
  await fetch('/report', {method: 'POST', body: JSON.stringify({said})});
};
run();";

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_is_allowed_reads_what_it_asks_for() {
    let Some(program) = program("the page that is allowed") else { return };
    let _turn = TURN.lock().await;
    for (host, may_read) in [("localhost", true), ("127.0.0.1", false)] {
        let (sandbox, api, plan) =
            (sandbox().await, careless(), Arc::new(Mutex::new(Plan::default())));
        let pages = pages(plan.clone());
        let allowed =
            format!("[guard]\nallow_origins = [\"http://localhost:{}\"]\n", pages.address.port());
        let workspace = Workspace::new(&config_with_api(&sandbox, &api.origin, &allowed));
        let proxy = workspace.serve();
        proxy.login("default").await;
        plan.lock().unwrap().cookie = "unrelated=1".into();
        let script = format!("const API = '{}';\n{FRIEND}", proxy.api);
        let scene = Scene {
            api,
            control: careless(),
            pages,
            plan,
            proxy,
            _place: workspace,
            _sandbox: sandbox,
        };
        let report = scene.play(program, host, &script);
        let said: Vec<String> = report["said"].as_array().unwrap().iter().map(text).collect();
        match may_read {
            true => assert_eq!(said, [(); 3].map(|()| format!("200 {DATA}"))),
            false => assert!(said.iter().all(|said| said.starts_with("nothing")), "{said:?}"),
        }
        let methods: Vec<String> = scene
            .api
            .requests()
            .iter()
            .map(|seen| seen.line().split(' ').next().unwrap().into())
            .collect();
        assert_eq!(methods, if may_read { vec!["GET", "POST", "DELETE"] } else { Vec::new() });
    }
}
