//! What documents and examples are run with.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use pleo_proxy::sandbox::{SECOND_COMPANY_ID, Sandbox};

use super::{Proxy, Workspace, sandbox};

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

pub fn example(name: &str) -> PathBuf {
    root().join("examples").join(name)
}

/// The scopes that the requests in the documents need.
const SCOPES: &str = "client.scopes=[\"companies:read\", \"users:read\", \"export-jobs:read\", \
                      \"export-jobs:write\", \"export-items:read\", \"vendors:read\", \"vendors:write\"]";

/// Two accounts, `default` and `acme`, of two companies.
pub struct TwoAccounts {
    pub workspace: Workspace,
    pub proxy: Proxy,
    pub sandbox: Sandbox,
}

impl TwoAccounts {
    pub async fn new() -> Self {
        let sandbox = sandbox().await;
        let workspace = Workspace::for_sandbox(&sandbox, "");
        let proxy = workspace.serve_with(&["--set", SCOPES]);
        proxy.login("default").await;
        sandbox.set_next_subject(Some(format!("urn:pleo:company:{SECOND_COMPANY_ID}")));
        proxy.login("acme").await;
        Self { workspace, proxy, sandbox }
    }

    /// A text with the addresses of this proxy and sandbox.
    pub fn here(&self, code: &str) -> String {
        let bare = |origin: &str| origin.strip_prefix("http://").unwrap().to_owned();
        let addresses = [
            ("8088", bare(&self.proxy.api)),
            ("8089", bare(&self.proxy.admin)),
            ("8090", bare(&self.sandbox.api_origin())),
        ];
        addresses.iter().fold(code.to_owned(), |code, (port, here)| {
            code.replace(&format!("127.0.0.1:{port}"), here)
        })
    }

    /// A command in the folder of the proxy, with `pleo-proxy` on the path.
    pub fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let binary = Path::new(env!("CARGO_BIN_EXE_pleo-proxy")).parent().unwrap();
        let mut paths = vec![binary.to_owned()];
        paths.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap()));
        let mut command = Command::new(program);
        command
            .args(arguments)
            .current_dir(self.workspace.path())
            .env("PATH", std::env::join_paths(paths).unwrap());
        command
            .env("PLEO_PROXY_CLIENT_SECRET", "sandbox-secret")
            .env("PLEO_BASE_URL", &self.proxy.api);
        command.stdin(Stdio::null());
        command
    }

    pub fn shell(&self, code: &str) -> Output {
        let at_socket =
            || self.workspace.serve_with(&["--set", "listen.api=\"unix:run/api.sock\""]);
        let _second = code.contains("--unix-socket").then(at_socket);
        // A refusal must be an error, and its body must be seen.
        let script = format!(
            "curl() {{ command curl --fail-with-body -sS \"$@\" && echo; }}\n{}",
            self.here(code)
        );
        self.command("sh", &["-eu", "-c", &script]).output().unwrap()
    }
}

pub fn shown(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// Past the capturing of the test runner: a skipped check is to be seen.
pub fn skipped(what: &str, how: &str) {
    let _ = std::io::stderr().write_all(format!("\nSKIPPED: {what}; {how}\n").as_bytes());
}

pub fn is_there(program: &str) -> bool {
    Command::new(program)
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|s| s.success())
}

/// A program that `.ci/run` has put into `target/tools`, or one of this machine.
pub fn tool(name: &str) -> Option<PathBuf> {
    let folders = ["target/tools/node_modules/.bin", "target/tools/python/bin"];
    let own = folders.iter().map(|folder| root().join(folder).join(name));
    own.into_iter().find(|path| path.exists()).or_else(|| is_there(name).then(|| name.into()))
}
