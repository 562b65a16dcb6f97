//! `examples/replicas`: three replicas behind haproxy, which share an account in PostgreSQL.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::time::Duration;

use reqwest::Client;
use tokio::time::sleep;

use crate::support::database::Database;
use crate::support::documents::{example, shown, skipped};
use crate::support::{
    KilledOnDrop, NO_REFRESH_AHEAD, Proxy, Workspace, access_lifetime, sandbox, write_private,
};

const HOST: &str = "pleo.internal";
const STORE_KEY: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
const CALLERS_KEY: &str = "a-key-of-the-callers-that-is-long-enough";

fn haproxy() -> Option<&'static str> {
    ["haproxy", "/usr/sbin/haproxy"]
        .into_iter()
        .find(|program| Command::new(program).arg("-v").stdout(Stdio::null()).status().is_ok())
}

/// Starts haproxy with the example; its address.
fn balance(haproxy: &str, replicas: &[Proxy]) -> (KilledOnDrop, String) {
    let listen = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let mut command = Command::new(haproxy);
    command.arg("-db").arg("-f").arg(example("replicas/haproxy.cfg"));
    command.env("LISTEN", &listen).env("HOST", HOST).stdout(Stdio::null()).stderr(Stdio::null());
    for (name, replica) in ["A", "B", "C"].iter().zip(replicas) {
        let admin = replica.admin.rsplit(':').next().unwrap();
        let api = replica.api.trim_start_matches("http://");
        command.env(name, api).env(format!("{name}_READY"), admin.trim_end_matches('/'));
    }
    (KilledOnDrop(command.spawn().unwrap()), format!("http://{listen}"))
}

async fn status(client: &Client, address: &str, key: Option<&str>) -> u16 {
    let mut request =
        client.get(format!("{address}/v1/companies")).header("host", "pleo.internal:8088");
    if let Some(key) = key {
        request = request.header("pleo-proxy-key", key);
    }
    request.send().await.map_or(0, |response| response.status().as_u16())
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_notice_neither_refreshes_nor_the_end_of_a_replica() {
    let Some(haproxy) = haproxy() else {
        return skipped("examples/replicas", "install haproxy to check it");
    };
    let Some(database) = Database::create() else { return };
    let sandbox = sandbox().await;
    sandbox.set_faults(access_lifetime(2000));
    let more = format!(
        "kind = \"postgres\"\nurl_file = \"database-url\"\nkey_file = \"store-key\"\n\
         {NO_REFRESH_AHEAD}[guard]\nlocal_key_file = \"local-key\"\n\
         allow_hosts = [\"{HOST}:8088\", \"{HOST}:8089\"]\n"
    );
    let workspaces = [(); 3].map(|()| {
        let workspace = Workspace::for_sandbox(&sandbox, &more);
        let files =
            [("local-key", CALLERS_KEY), ("database-url", &database.url), ("store-key", STORE_KEY)];
        files.iter().for_each(|(name, text)| write_private(&workspace.path().join(name), text));
        workspace
    });
    let mut replicas: Vec<_> = workspaces.iter().map(Workspace::serve).collect();
    let (_haproxy, address) = balance(haproxy, &replicas);
    replicas[0].login("default").await;
    let client = Client::builder().no_proxy().build().unwrap();
    let ask = async || status(&client, &address, Some(CALLERS_KEY)).await;
    for at in replicas.iter().map(|replica| &replica.api).chain([&address]) {
        while status(&client, at, Some(CALLERS_KEY)).await != 200 {
            sleep(Duration::from_millis(50)).await;
        }
    }
    assert_eq!(status(&client, &address, None).await, 403, "without the callers' key");
    // Longer than two tokens live, and one replica is killed in between.
    for round in 0..60 {
        if round == 20 {
            drop(replicas.pop());
        }
        assert_eq!(ask().await, 200, "request {round}");
        sleep(Duration::from_millis(80)).await;
    }
    let counters = sandbox.counters();
    assert_eq!((counters.refresh_replays, counters.families_revoked), (0, 0), "{counters:?}");
}

#[test]
fn the_configuration_of_a_replica_is_understood() {
    let text = std::fs::read_to_string(example("replicas/replica.toml")).unwrap();
    let text = text.replace("your-client-id", "b4a7e6d2").replace("example.com", "acme.test");
    let workspace = Workspace::new(&text);
    for (name, text) in [
        ("client-secret", "a-secret-of-this-client"),
        ("local-key", CALLERS_KEY),
        ("database-url", "postgresql://pleo_proxy:p@db.example/pleo"),
        ("store-key", STORE_KEY),
    ] {
        write_private(&workspace.path().join(name), text);
    }
    let mut check = workspace.command(&["config", "check"]);
    let checked = check.env_remove("PLEO_PROXY_CLIENT_SECRET").output().unwrap();
    assert!(checked.status.success(), "{}", shown(&checked));
}

#[test]
fn systemd_understands_the_template_of_several_replicas() {
    let folder = tempfile::tempdir().unwrap();
    let unit = std::fs::read_to_string(example("replicas/pleo-proxy@.service")).unwrap();
    let program = env!("CARGO_BIN_EXE_pleo-proxy");
    let unit = unit.replace("/usr/bin/pleo-proxy", program);
    std::fs::write(folder.path().join("pleo-proxy@.service"), unit).unwrap();
    let mut verify = Command::new("systemd-analyze");
    verify.args(["verify", "./pleo-proxy@.service"]).current_dir(&folder);
    let Ok(verified) = verify.env("XDG_RUNTIME_DIR", folder.path()).output() else {
        return skipped("examples/replicas/pleo-proxy@.service", "install systemd to check it");
    };
    assert!(verified.status.success() && verified.stderr.is_empty(), "{}", shown(&verified));
}
