//! The real binary against the sandbox: started on free ports, with its state in a temporary
//! folder, ended by `Drop`.
#![allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    reason = "each binary has this as a module of its own, and uses a part"
)]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod caller;
mod certificate;
pub mod command;
#[cfg(feature = "postgres")]
pub mod database;
pub mod documents;
mod exchanges;
mod exec;
mod http1;
mod login;
mod process;
mod refresh;
pub mod running_exec;
mod setup;
pub mod strace;
pub mod terminal;
mod upstream;

pub use caller::*;
pub use certificate::*;
pub use exchanges::*;
pub use exec::*;
pub use login::*;
pub use process::*;
pub use refresh::*;
pub use setup::*;
pub use upstream::*;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use pleo_proxy::sandbox::{Options, Sandbox};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Longest wait for something that is expected within milliseconds; reached only by a test that
/// fails.
pub const TIMEOUT: Duration = Duration::from_secs(30);

/// A sandbox on free ports that consents by itself.
pub async fn sandbox() -> Sandbox {
    sandbox_with(Options::default()).await
}

/// The same, with options of the test's own.
pub async fn sandbox_with(options: Options) -> Sandbox {
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    Sandbox::start(Options { auth_addr: any, files_addr: any, auto_consent: true, ..options })
        .await
        .unwrap()
}

/// A folder with a configuration and a store.
pub struct Workspace {
    pub folder: TempDir,
}

impl Workspace {
    pub fn new(config: &str) -> Self {
        let workspace = Self { folder: tempfile::tempdir().unwrap() };
        workspace.configure(config);
        workspace
    }

    /// A configuration that leads to the sandbox; `more` is appended (sections of its own).
    pub fn for_sandbox(sandbox: &Sandbox, more: &str) -> Self {
        Self::new(&sandbox_config(sandbox, more))
    }

    pub fn configure(&self, config: &str) {
        write_private(&self.path().join("proxy.toml"), config);
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The program with the flag by which it finds this configuration from anywhere.
    pub fn program(&self) -> String {
        format!("pleo-proxy --config {}", self.path().join("proxy.toml").display())
    }

    /// The environment's state folder.
    pub fn state(&self) -> PathBuf {
        self.path().join("state/sandbox")
    }

    pub fn record(&self, account: &str) -> PathBuf {
        self.state().join(format!("{account}.json"))
    }

    /// What the store holds for an account.
    pub fn stored_json(&self, account: &str) -> Value {
        serde_json::from_slice(&fs::read(self.record(account)).unwrap()).unwrap()
    }

    /// A command of the binary in this folder, with nothing of the caller's environment but the
    /// path.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pleo-proxy"));
        command.current_dir(self.path()).env_clear().env("HOME", self.path()).args(arguments);
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("PLEO_PROXY_CLIENT_SECRET", "sandbox-secret");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs a command to its end.
    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs a command with text on stdin.
    pub fn run_with(&self, arguments: &[&str], input: &str) -> Output {
        let mut child = self.command(arguments).stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    }

    /// Starts the proxy and waits for its ready line.
    pub fn serve(&self) -> Proxy {
        self.serve_with(&[])
    }

    pub fn serve_with(&self, arguments: &[&str]) -> Proxy {
        let mut all = vec!["--json"];
        if !arguments.contains(&"--log") {
            all.extend(["--log", "debug"]);
        }
        all.extend_from_slice(arguments);
        Proxy::launch(self.command(&all), &self.state())
    }
}

/// The endpoints of a sandbox, free ports, and a store in the folder `state`.
pub fn sandbox_config(sandbox: &Sandbox, more: &str) -> String {
    format!(
        "environment = \"sandbox\"\n[listen]\napi = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"\n\
         [client]\nid = \"sandbox-client\"\nscopes = [\"companies:read\"]\n\
         [endpoints]\nauthorize = \"{}\"\ntoken = \"{}\"\nintrospect = \"{}\"\napi = \"{}\"\n[store]\npath = \"state\"\n{more}",
        sandbox.authorize_url(),
        sandbox.token_url(),
        sandbox.introspect_url(),
        sandbox.api_origin(),
    )
}

pub fn write_private(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

/// A running proxy.
pub struct Proxy {
    pub child: Child,
    /// `http://127.0.0.1:PORT` of the data listener.
    pub api: String,
    /// The same of the admin listener; empty if it is off.
    pub admin: String,
    pub key: String,
    pub http: reqwest::Client,
    log: Arc<Mutex<String>>,
    /// Reads the log to its end; None where the test has the other end itself.
    reader: Option<JoinHandle<()>>,
}

impl Proxy {
    /// Runs a command that serves and prints the ready line.
    pub fn launch(mut command: Command, state: &Path) -> Self {
        let mut child = command.spawn().unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let (stdout, sink) = (child.stdout.take().unwrap(), log.clone());
        let reader = child.stderr.take().map(|mut stderr| {
            std::thread::spawn(move || {
                let mut buffer = [0; 4096];
                while let Ok(read @ 1..) = stderr.read(&mut buffer) {
                    sink.lock().unwrap().push_str(&String::from_utf8_lossy(&buffer[..read]));
                }
            })
        });
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line).unwrap();
        let ready: Value = serde_json::from_str(&line).unwrap_or_else(|_| {
            let _ = child.wait();
            std::thread::sleep(Duration::from_millis(50));
            panic!("not ready: {}", log.lock().unwrap())
        });
        assert_eq!((&ready["version"], &ready["event"]), (&json!(1), &json!("ready")));
        let key = fs::read_to_string(state.join("admin.key")).unwrap().trim().to_owned();
        let (api, admin) =
            (text(&ready["api"]), ready["admin"].as_str().unwrap_or_default().to_owned());
        Self { child, api, admin, key, http: client(), log, reader }
    }

    /// What it wrote to stderr so far.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Waits until it has written this to stderr: its log is written by a thread of its own, and an
    /// answer may come first.
    pub fn wait_for_log(&self, words: &str) {
        let start = Instant::now();
        while !self.log().contains(words) {
            assert!(start.elapsed() < TIMEOUT, "never {words:?} in\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// The data listener's address.
    pub fn address(&self) -> SocketAddr {
        self.api.strip_prefix("http://").unwrap().parse().unwrap()
    }

    pub fn admin_address(&self) -> SocketAddr {
        self.admin.strip_prefix("http://").unwrap().parse().unwrap()
    }

    pub async fn get(&self, path: &str) -> reqwest::Response {
        self.http.get(format!("{}{path}", self.api)).send().await.unwrap()
    }

    /// A call of the admin listener with its key.
    pub async fn admin(
        &self,
        method: reqwest::Method,
        path: &str,
        body: Option<Value>,
    ) -> reqwest::Response {
        let request =
            self.http.request(method, format!("{}{path}", self.admin)).bearer_auth(&self.key);
        let request = match body {
            Some(body) => request.json(&body),
            None => request,
        };
        // An archive of a thousand requests takes a debug build seconds, and more on a busy machine.
        request.timeout(6 * TIMEOUT).send().await.unwrap()
    }

    pub async fn status(&self) -> Value {
        self.admin(reqwest::Method::GET, "/api/status", None).await.json().await.unwrap()
    }

    /// One account's part of the status.
    pub async fn account(&self, name: &str) -> Value {
        let status = self.status().await;
        let accounts = status["accounts"].as_array().unwrap().clone();
        accounts.into_iter().find(|account| account["account"] == name).unwrap_or(Value::Null)
    }

    /// Refreshes now, however long the token is still valid; the response of the admin listener.
    pub async fn force_refresh(&self, account: &str) -> Value {
        let path = format!("/api/accounts/{account}/refresh?force=true");
        self.admin(reqwest::Method::POST, &path, None).await.json().await.unwrap()
    }

    /// Connects an account through the whole code flow, as a browser would.
    pub async fn login(&self, account: &str) {
        let authorize_url = begin_login(self, account).await;
        // Its own client: building one for each of a hundred logins takes seconds.
        let response = self.http.get(authorize_url).send().await.unwrap();
        let callback = response.headers()["location"].to_str().unwrap().to_owned();
        let page = self.http.get(callback).send().await.unwrap();
        assert_eq!(page.status(), 200, "{}", page.text().await.unwrap());
    }

    /// Waits until an account's status is as wanted.
    pub async fn wait_for_account(&self, account: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let start = Instant::now();
        loop {
            let now = self.account(account).await;
            if wanted(&now) {
                return now;
            }
            assert!(start.elapsed() < TIMEOUT, "still {now}\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The samples of `/metrics`, by name and labels.
    pub async fn metrics(&self) -> BTreeMap<String, f64> {
        let text = self.admin(reqwest::Method::GET, "/metrics", None).await.text().await.unwrap();
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        let sample = |line: &str| {
            let (name, value) = line.rsplit_once(' ')?;
            Some((name.to_owned(), value.parse().ok()?))
        };
        samples.filter_map(sample).collect()
    }

    /// Waits until a sample of `/metrics` is as it should be.
    pub async fn wait_for_metric(&self, name: &str, wanted: impl Fn(f64) -> bool) {
        let start = Instant::now();
        while !self.metrics().await.get(name).is_some_and(|value| wanted(*value)) {
            let now = self.metrics().await;
            assert!(start.elapsed() < TIMEOUT, "{name}: {now:#?}\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill")
            .arg(format!("-{name}"))
            .arg(self.child.id().to_string())
            .status()
            .unwrap();
        assert!(sent.success());
    }

    /// SIGTERM, and its exit.
    pub fn terminate(mut self) -> (ExitStatus, String) {
        self.signal("TERM");
        let status = self.child.wait().unwrap();
        if let Some(reader) = self.reader.take() {
            reader.join().unwrap();
        }
        (status, self.log())
    }

    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A client that follows nothing, trusts nothing and has no outbound proxy.
pub fn client() -> reqwest::Client {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let builder = reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .timeout(TIMEOUT);
    builder.build().unwrap()
}

/// Sends bytes as they are and reads until the server closes or is silent for `wait`.
pub fn raw(address: SocketAddr, bytes: &[u8], wait: Duration) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(bytes).unwrap();
    stream.set_read_timeout(Some(wait)).unwrap();
    let mut response = Vec::new();
    let mut buffer = [0; 16 * 1024];
    while let Ok(read @ 1..) = stream.read(&mut buffer) {
        response.extend_from_slice(&buffer[..read]);
    }
    String::from_utf8_lossy(&response).into_owned()
}

pub fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value} is not a text")).to_owned()
}

/// The code of an answer of the proxy itself; the header and the body agree, and it is never a 401.
pub async fn problem(response: reqwest::Response) -> (u16, String) {
    let status = response.status().as_u16();
    let header =
        response.headers().get("pleo-proxy-error").map(|code| code.to_str().unwrap().to_owned());
    let body: Value = serde_json::from_str(&response.text().await.unwrap()).unwrap_or_default();
    assert_eq!(body["code"].as_str(), header.as_deref(), "{status} {body}");
    assert_ne!(status, 401);
    assert!(body["fix"].as_str().is_some_and(|fix| !fix.is_empty()), "{body}");
    (status, header.unwrap())
}

/// Waits until other threads or processes have made this true.
pub fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < TIMEOUT, "never: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
