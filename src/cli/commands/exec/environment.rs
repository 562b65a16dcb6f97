//! The environment of the program: where the proxy is, and nothing that is the proxy's own.

use std::env::{var_os, vars_os};
use std::ffi::{OsStr, OsString};
use std::process::Command;

use crate::cli::exit::Failure;
use crate::config::{
    ACCOUNT_VARIABLE, BASE_URL_VARIABLE, CREDENTIALS_FOLDER, EXEC_VARIABLE, KEY_VARIABLE,
    VARIABLE_PREFIX,
};
use crate::secret::LocalKey;
use crate::store::AccountName;

/// Variables that send requests of many tools through a proxy, to loopback too.
const OUTBOUND_PROXIES: [&str; 4] = ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"];
const NO_PROXY: [&str; 2] = ["no_proxy", "NO_PROXY"];
const LOOPBACK: &str = "127.0.0.1";

/// Refuses to run below another `exec`: it would be another account's, or not read-only any more,
/// without anybody noticing.
pub(super) fn refuse_nesting() -> Result<(), Failure> {
    let Some(outer) = var_os(EXEC_VARIABLE) else { return Ok(()) };
    Err(Failure::usage(format!(
        "this runs below another pleo-proxy exec already (process {}); run the program itself, which finds the proxy in \
         {BASE_URL_VARIABLE}, or unset {EXEC_VARIABLE}",
        outer.display()
    )))
}

/// Sets and removes what is to be different from our own environment. All of our own variables go:
/// some hold secrets, and none is meant for the program; commands of ours learn whose they are.
pub(super) fn prepare(
    command: &mut Command,
    base_url: &str,
    account: &AccountName,
    key: Option<&LocalKey>,
) {
    for (name, _) in vars_os().filter(|(name, _)| is_own(name)) {
        command.env_remove(name);
    }
    command.env(BASE_URL_VARIABLE, base_url).env(ACCOUNT_VARIABLE, account.as_str());
    command.env(EXEC_VARIABLE, std::process::id().to_string());
    if let Some(key) = key {
        command.env(KEY_VARIABLE, key.expose());
    }
    if OUTBOUND_PROXIES.iter().any(|name| var_os(name).is_some_and(|value| !value.is_empty())) {
        let listed = NO_PROXY.iter().find_map(var_os).unwrap_or_default();
        let direct = with_loopback(&listed);
        command.envs(NO_PROXY.map(|name| (name, &direct)));
    }
}

fn is_own(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(VARIABLE_PREFIX.as_bytes()) || name == CREDENTIALS_FOLDER
}

/// The same list, and the address of the listener.
fn with_loopback(listed: &OsStr) -> OsString {
    let is_there = listed
        .to_str()
        .is_some_and(|listed| listed.split(',').any(|it| matches!(it.trim(), "*" | LOOPBACK)));
    let mut all = listed.to_owned();
    if !is_there {
        if !all.is_empty() {
            all.push(",");
        }
        all.push(LOOPBACK);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_added_to_the_hosts_that_no_outbound_proxy_is_asked_for() {
        for (listed, expected) in [
            ("", "127.0.0.1"),
            ("pleo.io", "pleo.io,127.0.0.1"),
            ("a, 127.0.0.1", "a, 127.0.0.1"),
            ("*", "*"),
        ] {
            assert_eq!(with_loopback(OsStr::new(listed)), expected);
        }
    }

    #[test]
    fn all_of_our_own_variables_are_taken_out() {
        for own in [
            "PLEO_PROXY_CLIENT_SECRET",
            "PLEO_PROXY_STORE_KEY",
            "PLEO_PROXY_STORE_URL",
            "PLEO_PROXY_NEW",
            "CREDENTIALS_DIRECTORY",
        ] {
            assert!(is_own(OsStr::new(own)), "{own}");
        }
        assert!(!is_own(OsStr::new("PLEO_BASE_URL")) && !is_own(OsStr::new("HOME")));
    }
}
