//! Is a proxy running for this store, and can it be asked?

use std::fmt::Display;
use std::net::SocketAddr;

use anyhow::anyhow;
use axum::body::{Body, to_bytes};
use http::Request;
use http::header::HOST;
use hyper::client::conn::http1::handshake;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::admin_client::{AdminClient, MAX_HEALTH, PROOF_TIME};
use super::exit::{Exit, Failure};
use super::run_file::{self, Instance, Standing};
use super::state::State;
use crate::admin::key;
use crate::admin::protocol::Health;
use crate::proxy::peer::{Allowed, Peer};

/// What was found of a store's proxy.
pub(super) enum Found {
    /// It runs and answers.
    Running(AdminClient),
    /// It runs, and its configuration turns the admin listener off.
    AdminOff(Instance),
    /// Its process runs and cannot be talked to.
    Silent(Instance, anyhow::Error),
    /// No process of it runs here.
    Nothing,
}

/// Looks for the proxy that serves these records (any of the state folder if they are in a
/// temporary one).
pub(super) async fn find(state: &State) -> anyhow::Result<Found> {
    let mut found = Found::Nothing;
    for instance in run_file::alive(&state.folder) {
        if state.wanted().is_some_and(|records| records != instance.store) {
            continue;
        }
        let Some(origin) = instance.admin.clone() else {
            found = Found::AdminOff(instance);
            continue;
        };
        let client =
            AdminClient::new(instance, origin, key::read(&state.folder.join("admin.key"))?);
        match client.connect().await {
            Ok(_) => return Ok(Found::Running(client)),
            // It may have ended this moment.
            Err(_) if client.instance.process.standing() == Standing::Dead => {}
            Err(why) => found = Found::Silent(client.instance, why),
        }
    }
    Ok(found)
}

/// The proxy that runs for this store; none if none runs, or if its admin listener is off: then the
/// command works on the store, under the same locks.
pub(super) async fn running(state: &State) -> Result<Option<AdminClient>, Failure> {
    match find(state).await? {
        Found::Running(client) => Ok(Some(client)),
        Found::AdminOff(_) | Found::Nothing => Ok(None),
        Found::Silent(instance, why) => Err(silent(&instance, &why)),
    }
}

/// The proxy that runs for this store, for a command that is about nothing else. `none` says that
/// none runs.
pub(super) async fn required(state: &State, none: &str) -> Result<AdminClient, Failure> {
    match find(state).await? {
        Found::Running(client) => Ok(client),
        Found::Silent(instance, why) => Err(silent(&instance, &why)),
        Found::AdminOff(Instance { process, .. }) => {
            let pid = process.pid;
            let off = format!(
                "the admin listener of process {pid} is off (listen.admin), so it cannot be asked"
            );
            Err(anyhow!("{off}; end it with: kill {pid}").into())
        }
        Found::Nothing => {
            let elsewhere = run_file::elsewhere(&state.folder).into_iter().next();
            let note = elsewhere.map(|other| {
                format!(" here; process {} of {} may be", other.process.pid, other.process.host)
            });
            Err(Failure::new(Exit::NotRunning, format!("{none}{}", note.unwrap_or_default())))
        }
    }
}

/// A proxy that runs and does not let itself be talked to.
fn silent(instance: &Instance, why: &anyhow::Error) -> Failure {
    let pid = instance.process.pid;
    anyhow!("pleo-proxy (process {pid}) runs and cannot be asked: {why:#}; {}", way_out(pid)).into()
}

/// What to do about a process that does not answer.
pub(super) fn way_out(pid: impl Display) -> String {
    format!("if it hangs, end it with: kill {pid}")
}

/// Says who answers as a pleo-proxy at the configured address although no run file here names it:
/// one of another store, or of another user. Nothing secret is sent there.
pub(super) async fn somebody_at(address: Option<SocketAddr>) -> Option<String> {
    let address = address.filter(|address| address.port() != 0)?;
    let asked = async {
        let stream = TcpStream::connect(address).await.ok()?;
        let (local, peer) = (stream.local_addr().ok()?, stream.peer_addr().ok()?);
        let (mut connection, driver) = handshake(TokioIo::new(stream)).await.ok()?;
        tokio::spawn(driver);
        let host = format!("localhost:{}", address.port());
        let request = Request::get("/health").header(HOST, host).body(Body::empty()).ok()?;
        let answer = connection.send_request(request).await.ok()?;
        let health = to_bytes(Body::new(answer.into_body()), MAX_HEALTH).await.ok()?;
        let is_ours = serde_json::from_slice::<Health>(&health)
            .is_ok_and(|health| health == Health::of("ok"));
        let owner = Allowed::Users(Vec::new()).judge(local, peer).ok();
        is_ours.then_some(owner)
    };
    let whose = match timeout(PROOF_TIME, asked).await.ok()?? {
        Some(Peer::Foreign(user)) => format!(" of user {user}"),
        _ => String::new(),
    };
    Some(format!("a pleo-proxy{whose} answers at http://{address}, and is none of this store"))
}
