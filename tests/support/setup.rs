//! A proxy between the sandbox as authorization server and an API of the test's own.

use pleo_proxy::sandbox::Sandbox;

use super::{Caller, Proxy, Upstream, Workspace, sandbox, sandbox_config};

/// A proxy with one connected account `default`, before an upstream that follows a script.
pub struct Setup {
    pub proxy: Proxy,
    pub workspace: Workspace,
    pub sandbox: Sandbox,
}

impl Setup {
    pub fn caller(&self) -> Caller {
        Caller::of(&self.proxy)
    }
}

pub async fn setup(upstream: &Upstream, more: &str) -> Setup {
    setup_with(&upstream.origin, more, &[]).await
}

/// The same before any origin, with further arguments.
pub async fn setup_with(api: &str, more: &str, arguments: &[&str]) -> Setup {
    let sandbox = sandbox().await;
    let workspace = Workspace::new(&config_with_api(&sandbox, api, more));
    let setup = Setup { proxy: workspace.serve_with(arguments), workspace, sandbox };
    setup.proxy.login("default").await;
    setup
}

/// The same without an account.
pub async fn setup_without_account(upstream: &Upstream, more: &str) -> Setup {
    let sandbox = sandbox().await;
    let workspace = Workspace::new(&config_with_api(&sandbox, &upstream.origin, more));
    Setup { proxy: workspace.serve(), workspace, sandbox }
}

/// The authorization server is the sandbox, the API is elsewhere.
pub fn config_with_api(sandbox: &Sandbox, api: &str, more: &str) -> String {
    let own = format!("api = \"{}\"\n", sandbox.api_origin());
    let config = sandbox_config(sandbox, more);
    assert!(config.contains(&own));
    config.replace(&own, &format!("api = \"{api}\"\n"))
}
