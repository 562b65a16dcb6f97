//! Running proxies, as their run files name them: `run/<pid>.json` in the environment's state folder.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::admin::key;
use crate::outbound::{Outbound, Settings};

/// Time for the admin listener of a running proxy to say that it is up.
const UP: Duration = Duration::from_secs(2);
/// Time for a call: a refresh that waits for its lock, drains and posts.
const CALL: Duration = Duration::from_secs(90);

/// What a run file says.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Instance {
    pub(super) pid: u32,
    pub(super) api: String,
    pub(super) admin: Option<String>,
    /// The folder of the records.
    pub(super) store: PathBuf,
}

/// The run file of this process, removed when dropped.
#[derive(Debug)]
pub(super) struct RunFile(PathBuf);

impl RunFile {
    /// Tells commands where this process listens.
    pub(super) fn write(state: &Path, instance: &Instance) -> io::Result<Self> {
        let folder = state.join("run");
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
        let mut file = tempfile::NamedTempFile::new_in(&folder)?;
        file.write_all(&serde_json::to_vec(instance)?)?;
        let path = folder.join(format!("{}.json", instance.pid));
        file.persist(&path).map_err(|error| error.error)?;
        Ok(Self(path))
    }
}

impl Drop for RunFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// All run files of live processes in a state folder, newest first; those of dead ones are removed.
pub(super) fn all(state: &Path) -> Vec<Instance> {
    let Ok(entries) = fs::read_dir(state.join("run")) else { return Vec::new() };
    let mut found = Vec::new();
    for entry in entries.flatten() {
        let Some(instance) =
            fs::read(entry.path()).ok().and_then(|bytes| serde_json::from_slice::<Instance>(&bytes).ok())
        else {
            continue;
        };
        match is_alive(instance.pid) {
            true => found.push((entry.metadata().and_then(|metadata| metadata.modified()).ok(), instance)),
            false => drop(fs::remove_file(entry.path())),
        }
    }
    found.sort_by(|(a, _), (b, _)| b.cmp(a));
    found.into_iter().map(|(_, instance)| instance).collect()
}

fn is_alive(pid: u32) -> bool {
    let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
    // Another user's process answers EPERM: it is alive, and not ours.
    pid.is_some_and(|pid| rustix::process::test_kill_process(pid).is_ok())
}

/// A running proxy's admin listener, and the key to it.
pub(super) struct Running {
    pub(super) instance: Instance,
    origin: String,
    http: reqwest::Client,
    key: crate::secret::AdminKey,
}

/// An answer of the admin listener.
pub(super) struct Answer {
    pub(super) ok: bool,
    pub(super) json: Value,
}

impl Answer {
    /// Why it is not what was asked for.
    pub(super) fn detail(&self) -> &str {
        self.json["detail"].as_str().or(self.json["account"]["why"].as_str()).unwrap_or("it gave no reason")
    }

    pub(super) fn code(&self) -> &str {
        self.json["code"].as_str().unwrap_or_default()
    }
}

impl Running {
    /// The proxy that serves these records (any of the state folder if they are in a temporary one), if it is up.
    pub(super) async fn find(state: &Path, records: Option<&Path>) -> anyhow::Result<Option<Self>> {
        for instance in all(state) {
            let Some(origin) = instance.admin.clone() else { continue };
            if records.is_some_and(|records| records != instance.store) {
                continue;
            }
            let http = client()?;
            let up = http.get(format!("{origin}/health")).timeout(UP).send().await;
            if up.is_ok_and(|answer| answer.status().is_success()) {
                let key = key::read(&state.join("admin.key"))?;
                return Ok(Some(Self { instance, origin, http, key }));
            }
        }
        Ok(None)
    }

    pub(super) async fn get(&self, path: &str) -> anyhow::Result<Answer> {
        self.send(self.http.get(format!("{}{path}", self.origin))).await
    }

    pub(super) async fn post(&self, path: &str, body: Option<&Value>) -> anyhow::Result<Answer> {
        let request = self.http.post(format!("{}{path}", self.origin));
        self.send(match body {
            Some(body) => request.json(body),
            None => request,
        })
        .await
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> anyhow::Result<Answer> {
        let answer = request.bearer_auth(self.key.expose()).send().await.map_err(reqwest::Error::without_url)?;
        let ok = answer.status().is_success();
        Ok(Answer { ok, json: answer.json().await.unwrap_or_default() })
    }
}

/// A client for loopback only: no outbound proxy, no redirects, no trust roots.
pub(super) fn client() -> anyhow::Result<reqwest::Client> {
    let outbound = Outbound::new(&Settings { plain_only: true, ..Settings::default() })?;
    let client = reqwest::Client::builder()
        .tls_backend_preconfigured((*outbound.tls).clone())
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .timeout(CALL);
    Ok(client.build()?)
}
