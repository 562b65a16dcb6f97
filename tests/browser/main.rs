//! A real browser and the pages it may be led to: nothing that a page of somebody else sends
//! reaches Pleo, changes anything or can be read; the page that is allowed, and our own, work.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

#[path = "../support/mod.rs"]
mod support;

use std::io::Read as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use pleo_proxy::sandbox::Sandbox;
use reqwest::Method;
use serde_json::{Value, json};
use support::upstream::{After, Received, Upstream, Visit, config_before};
use support::{Place, Proxy, client, sandbox, text};
use tempfile::TempDir;
use tokio::sync::Mutex as Turn;

const ATTACK: &str = include_str!("attack.js");
/// A browser on a busy machine.
const PATIENCE: Duration = Duration::from_secs(150);
/// In a host's place: the page is a file of the person's own.
const FILE: &str = "file";
/// What no page may read.
const DATA: &str = "the-data-of-the-company";
/// One browser at a time: each is a dozen processes.
static TURN: Turn<()> = Turn::const_new(());
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

/// A headless Chromium with a profile of its own, ended with all its processes when dropped.
struct Browser {
    child: Child,
    _profile: TempDir,
}

/// The program, if there is one; says so if not.
fn program(test: &str) -> Option<&'static str> {
    let names = ["chromium", "chromium-browser", "google-chrome"];
    let is_there = |name: &&str| {
        Command::new(name).arg("--version").output().is_ok_and(|output| output.status.success())
    };
    let found = names.into_iter().find(is_there);
    if found.is_none() {
        eprintln!("SKIPPED {test}: it needs Chromium (apt-get install chromium)");
    }
    found
}

impl Browser {
    fn open(program: &str, arguments: &[&str], url: &str) -> Self {
        let profile = tempfile::tempdir().unwrap();
        let mut command = Command::new(program);
        command.args([
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
        ]);
        command.args([
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
        ]);
        command.args([
            "--disable-dev-shm-usage",
            "--disable-popup-blocking",
            "--no-default-browser-check",
        ]);
        // The attacked windows open before the page, whose timers are not to sleep for that.
        command.args(["--disable-background-timer-throttling", "--disable-renderer-backgrounding"]);
        command.arg("--disable-backgrounding-occluded-windows");
        // The browser's own defences are not ours to rely on.
        command.arg("--disable-features=LocalNetworkAccessChecks,HttpsUpgrades,HttpsFirstBalancedModeAutoEnable");
        command.arg("--host-resolver-rules=MAP evil.test 127.0.0.1,MAP rebind.test 127.0.0.1");
        command
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .args(arguments)
            .arg(url);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).process_group(0);
        Self { child: command.spawn().unwrap(), _profile: profile }
    }

    /// What it prints until it ends.
    fn output(mut self) -> String {
        let mut stdout = self.child.stdout.take().unwrap();
        let reader = std::thread::spawn(move || {
            let mut said = String::new();
            let _ = stdout.read_to_string(&mut said);
            said
        });
        within("the browser ends", || self.child.try_wait().unwrap().is_some());
        reader.join().unwrap()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Its group is its own: all of its processes and none of ours.
        let _ = Command::new("kill")
            .args(["-KILL", "--", &format!("-{}", self.child.id())])
            .stderr(Stdio::null())
            .status();
        let _ = self.child.wait();
    }
}

fn within(what: &str, is_so: impl FnMut() -> bool) {
    let (start, mut is_so) = (Instant::now(), is_so);
    while !is_so() {
        assert!(start.elapsed() < PATIENCE, "never: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn say(visit: &mut Visit, status: &str, fields: &str, body: &str) -> After {
    let length = body.len();
    visit.say(format!(
        "HTTP/1.1 {status}\r\nContent-Length: {length}\r\n{fields}Connection: close\r\n\r\n{body}"
    ));
    After::Close
}

/// Tells everybody everything, as an API that is careless about CORS.
fn careless() -> Upstream {
    Upstream::start(|visit| {
        let _ = visit.body();
        let fields = "Content-Type: text/plain\r\nAccess-Control-Allow-Origin: *\r\nAccess-Control-Allow-Methods: *\r\n\
                      Access-Control-Allow-Headers: *\r\nAccess-Control-Allow-Private-Network: true\r\n";
        say(visit, "200 OK", fields, DATA)
    })
}

/// What the server of pages serves.
#[derive(Default)]
struct Plan {
    page: String,
    script: String,
    /// A session of the admin page, which the browser gets: cookies ignore ports.
    cookie: String,
    then: String,
}

/// The server of pages. `/begin/1` leads to `/begin/2` on localhost, that to the page; both set the
/// cookie.
fn pages(plan: Arc<Mutex<Plan>>) -> Upstream {
    Upstream::start(move |visit| {
        let _ = visit.body();
        let plan = plan.lock().unwrap();
        let target = visit.target().to_owned();
        let cookie = format!(
            "Set-Cookie: {}; HttpOnly; SameSite=Strict; Path=/\r\nCache-Control: no-store\r\n",
            plan.cookie
        );
        let port = visit
            .head
            .to_ascii_lowercase()
            .split_once("\r\nhost:")
            .unwrap()
            .1
            .lines()
            .next()
            .unwrap()
            .rsplit(':')
            .next()
            .unwrap()
            .to_owned();
        match target.as_str() {
            "/begin/1" => say(
                visit,
                "302 Found",
                &format!("{cookie}Location: http://localhost:{port}/begin/2\r\n"),
                "",
            ),
            "/begin/2" => {
                say(visit, "302 Found", &format!("{cookie}Location: {}\r\n", plan.then), "")
            }
            "/page" => say(visit, "200 OK", "Content-Type: text/html\r\n", &plan.page),
            "/attack.js" => say(visit, "200 OK", "Content-Type: text/javascript\r\n", &plan.script),
            _ => say(visit, "200 OK", "Content-Type: text/plain\r\n", "noted"),
        }
    })
}

/// What a page reported; none until it has.
fn report(pages: &Upstream) -> Option<Value> {
    let sent = pages.seen().into_iter().find(|request| request.target() == "/report")?;
    serde_json::from_slice(&sent.body).ok()
}

/// Everything between the browser and Pleo.
struct Scene {
    api: Upstream,
    /// As careless, and without a proxy before it: what reaches it would have reached Pleo.
    control: Upstream,
    pages: Upstream,
    plan: Arc<Mutex<Plan>>,
    proxy: Proxy,
    _place: Place,
    _sandbox: Sandbox,
}

impl Scene {
    async fn set() -> Self {
        let (sandbox, api, plan) =
            (sandbox().await, careless(), Arc::new(Mutex::new(Plan::default())));
        let pages = pages(plan.clone());
        let config = config_before(&sandbox, &api.origin, "");
        let place = Place::new(&config);
        let proxy = place.serve();
        proxy.login("default").await;
        proxy.terminate();
        // From here on the consent page is one that counts who is led to it and lets nobody pass.
        place.configure(
            &config.replace(&sandbox.authorize_url(), &format!("{}/authorize", pages.origin)),
        );
        let proxy = place.serve();
        plan.lock().unwrap().cookie = session(&proxy).await;
        Self { api, control: careless(), pages, plan, proxy, _place: place, _sandbox: sandbox }
    }

    /// What a page does to whom.
    fn targets(&self) -> Value {
        let port = |address: std::net::SocketAddr| address.port();
        let hosts = ["127.0.0.1", "localhost", "[::1]", "0.0.0.0", "rebind.test"];
        let (data, admin) = (port(self.proxy.address()), port(self.proxy.admin_address()));
        let all = |hosts: &[&str], port: u16, paths: &[&str]| -> Vec<String> {
            hosts
                .iter()
                .flat_map(|host| {
                    paths.iter().map(move |path| format!("http://{host}:{port}{path}"))
                })
                .collect()
        };
        let changes =
            ["/api/accounts/default/logout", "/api/shutdown", "/api/accounts/victim/login"];
        let looks = ["/api/status", "/connect?account=victim"];
        let control = format!("{}/control", self.control.origin);
        let with_control =
            |lists: [Vec<String>; 2]| [lists.concat(), vec![control.clone()]].concat();
        let some = &hosts[..1];
        json!({
            "get": with_control([all(&hosts, data, &["/v1/companies"]), all(&hosts, admin, &looks)]),
            "post": with_control([all(&hosts, data, &["/v1/companies"]), all(&hosts, admin, &changes)]),
            "topGet": with_control([all(&hosts, data, &["/v1/companies"]), all(&hosts, admin, &["/api/status"])]),
            "topForm": with_control([all(&hosts, data, &["/v1/companies"]), all(some, admin, &changes)]),
            "framed": {
                "get": with_control([all(some, data, &["/v1/companies"]), all(some, admin, &looks)]),
                "post": with_control([all(some, data, &["/v1/companies"]), all(some, admin, &changes)]),
            },
        })
    }

    /// Opens a page of this host and waits for its report.
    fn play(&self, program: &str, host: &str, script: &str) -> Value {
        let page = "<!doctype html><body><script src=/attack.js></script>".to_owned();
        let port = self.pages.address.port();
        {
            let mut plan = self.plan.lock().unwrap();
            (plan.page, plan.script, plan.then) =
                (page, script.into(), format!("http://{host}:{port}/page"));
        }
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("page.html");
        let source =
            format!("<!doctype html><body><script src=http://127.0.0.1:{port}/attack.js></script>");
        std::fs::write(&file, source).unwrap();
        let begin = match host {
            FILE => format!("file://{}", file.display()),
            _ => format!("http://127.0.0.1:{port}/begin/1"),
        };
        let browser = Browser::open(program, &[], &begin);
        within("the page reports", || report(&self.pages).is_some());
        drop(browser);
        report(&self.pages).unwrap()
    }

    /// How often the proxy refused for this reason.
    async fn refused(&self, code: &str) -> u64 {
        let metrics = self.proxy.admin(Method::GET, "/metrics", None).await.text().await.unwrap();
        let begin = format!("pleo_proxy_refused_requests_total{{code=\"{code}\"}} ");
        metrics
            .lines()
            .find_map(|line| line.strip_prefix(&begin))
            .map_or(0, |count| count.parse().unwrap())
    }
}

/// A session cookie of the admin page.
async fn session(proxy: &Proxy) -> String {
    let link = link(proxy).await;
    let key = link.split_once("#key=").unwrap().1;
    let request =
        client().post(format!("{}/api/session", proxy.admin)).header("origin", &proxy.admin);
    let answer = request.json(&json!({"key": key})).send().await.unwrap();
    let cookie = answer.headers()["set-cookie"].to_str().unwrap();
    cookie.split(';').next().unwrap().to_owned()
}

async fn link(proxy: &Proxy) -> String {
    let link: Value = proxy.admin(Method::POST, "/api/session", None).await.json().await.unwrap();
    text(&link["url"])
}

/// What would show a change of the account, without what the clock changes.
async fn grant(proxy: &Proxy) -> Value {
    let account = proxy.account("default").await;
    json!([
        account["state"],
        account["generation"],
        account["logged_in_at"],
        account["last_login"],
        account["last_login_error"]
    ])
}

/// Begins a login and returns its id.
async fn begin(proxy: &Proxy, account: &str) -> String {
    let begun = proxy.admin(Method::POST, &format!("/api/accounts/{account}/login"), None).await;
    assert_eq!(begun.status(), 200);
    text(&begun.json::<Value>().await.unwrap()["id"])
}

async fn is_pending(proxy: &Proxy, login: &str) -> bool {
    let state = proxy.admin(Method::GET, &format!("/api/logins/{login}"), None).await;
    state.status() == 200 && state.json::<Value>().await.unwrap()["state"] == "pending"
}

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
            scene.control.seen().iter().any(|request| request.target() == mark)
        });
    }
    let carries = |request: &Received| {
        request.head.contains("pleo_proxy_session=") && request.target() != "/favicon.ico"
    };
    let has_cookie = scene.control.seen().iter().any(carries);
    assert_eq!(
        has_cookie, is_same_site,
        "the browser has our cookie and sends it along where it may"
    );

    assert!(scene.api.seen().is_empty(), "Pleo was reached: {:#?}", scene.api.seen());
    let tried = report["tried"].as_array().unwrap().len();
    assert!(tried > 300, "the page tried {tried} times only");
    assert!(
        scene.refused("forbidden_origin").await >= 60,
        "the attacks did not arrive at the proxy"
    );
    assert!(scene.refused("forbidden_host").await >= 30, "the attacks did not arrive at the proxy");
    let led = scene
        .pages
        .seen()
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
    Upstream::start(move |visit| match visit.target() {
        "/drawing" => say(visit, "200 OK", "Content-Type: image/svg+xml\r\n", &drawing),
        "/favicon.ico" => say(visit, "404 Not Found", "", ""),
        _ => say(visit, "200 OK", "Content-Type: text/html\r\n", &page),
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_the_upstream_is_shown_and_its_scripts_do_not_run() {
    let Some(program) = program("a page of the upstream") else { return };
    let _turn = TURN.lock().await;
    let (sandbox, home) = (sandbox().await, careless());
    // Where the admin listener is, is known only when it is there.
    let place = Place::new(&config_before(&sandbox, &home.origin, ""));
    let admin = place.serve();
    let upstream = scripted(&home.origin, &admin.admin);
    let before = Place::new(&config_before(&sandbox, &upstream.origin, ""));
    let proxy = before.serve();
    proxy.login("default").await;
    admin.login("default").await;
    let grant_before = grant(&admin).await;
    let dump = ["--virtual-time-budget=4000", "--dump-dom"];
    for path in ["/page", "/drawing"] {
        let calls = || home.seen().iter().filter(|request| request.target() == "/ran").count();
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
    let place = Place::toward(&sandbox, "");
    let proxy = place.serve();
    let ours = client().get(&proxy.admin).send().await.unwrap();
    let field = |name: &str| format!("{name}: {}\r\n", ours.headers()[name].to_str().unwrap());
    let fields =
        [field("content-security-policy"), field("x-frame-options"), field("content-type")]
            .concat();
    let html = ours.text().await.unwrap();
    // Under an address of the page's own, which may look into its frames: so that it is seen what
    // they show.
    let pages = Upstream::start(move |visit| {
        let _ = visit.body();
        match visit.target() {
            "/as-it-is" => say(visit, "200 OK", &fields, &html),
            "/bare" => say(visit, "200 OK", "Content-Type: text/html\r\n", &html),
            "/page" => {
                let page = format!("<!doctype html><body><script>{FRAMES}</script>");
                say(visit, "200 OK", "Content-Type: text/html\r\n", &page)
            }
            _ => say(visit, "200 OK", "", ""),
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
    within("the person is at the consent page", || scene.pages.seen().iter().any(authorize));
    let all = scene.pages.seen();
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
    assert!(scene.api.seen().is_empty());
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
        let place = Place::new(&config_before(&sandbox, &api.origin, &allowed));
        let proxy = place.serve();
        proxy.login("default").await;
        plan.lock().unwrap().cookie = "unrelated=1".into();
        let script = format!("const API = '{}';\n{FRIEND}", proxy.api);
        let scene = Scene {
            api,
            control: careless(),
            pages,
            plan,
            proxy,
            _place: place,
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
            .seen()
            .iter()
            .map(|seen| seen.line().split(' ').next().unwrap().into())
            .collect();
        assert_eq!(methods, if may_read { vec!["GET", "POST", "DELETE"] } else { Vec::new() });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn our_own_page_shows_the_accounts_to_whom_has_a_link_that_works_once() {
    let Some(program) = program("our own page") else { return };
    let _turn = TURN.lock().await;
    let sandbox = sandbox().await;
    let place = Place::toward(&sandbox, "");
    let proxy = place.serve();
    proxy.login("acme").await;
    let company = text(&proxy.account("acme").await["subject"]);
    let link = link(&proxy).await;
    let dump = ["--virtual-time-budget=4000", "--dump-dom"];
    let dom = Browser::open(program, &dump, &link).output();
    assert!(dom.contains("<td>acme</td><td class=\"connected\">connected</td>"), "{dom}");
    assert!(dom.contains(&format!("<td>{company}</td>")), "{dom}");
    assert!(
        !dom.contains(&proxy.key) && !dom.contains(link.split_once("#key=").unwrap().1),
        "{dom}"
    );
    // A second browser with the same link, and one without.
    for (address, problem) in [(&link, true), (&proxy.admin, false)] {
        let dom = Browser::open(program, &dump, address).output();
        assert!(dom.contains("pleo-proxy is up") && !dom.contains("<td>acme"), "{dom}");
        assert_eq!(dom.contains("role=\"status\">This link was used already"), problem, "{dom}");
    }
}
