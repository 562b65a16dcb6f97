//! The proxy and its sandbox in one go: starts both, makes a plain request, refreshes, makes
//! another, ends.
//!
//! Run it with `cargo run --example quickstart`. Nothing leaves this machine.
//!
//! It is the real program in a process of its own: this example starts itself again, and hands the
//! arguments to the command line of the library.

use std::error::Error;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use serde_json::Value;

/// Free ports, so that it runs beside anything; a store of its own, so that the commands below find
/// this proxy.
const CONFIG: &str = r#"
environment = "sandbox"
[listen]
api = "127.0.0.1:0"
admin = "127.0.0.1:0"
[store]
path = "state"
"#;

fn main() -> Result<ExitCode, Box<dyn Error>> {
    match std::env::args_os().len() {
        1 => tour().map(|()| ExitCode::SUCCESS),
        _ => Ok(pleo_proxy::cli::run(std::env::args_os())),
    }
}

fn tour() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    std::fs::write(folder.path().join("proxy.toml"), CONFIG)?;

    let mut proxy = pleo_proxy(folder.path(), &["serve", "--json", "--log", "warn"])?
        .stdout(Stdio::piped())
        .spawn()?;
    let mut line = String::new();
    BufReader::new(proxy.stdout.take().ok_or("no stdout")?).read_line(&mut line)?;
    let ready: Value = serde_json::from_str(&line)?;
    let api = ready["api"].as_str().ok_or("the proxy is not ready")?;

    println!("\nGET {api}/v1/companies, without any credential:\n{}", get(api, "/v1/companies")?);
    run(folder.path(), &["refresh", "--force"])?;
    println!("GET {api}/v1/introspect, with the next token:\n{}", get(api, "/v1/introspect")?);
    run(folder.path(), &["status"])?;
    run(folder.path(), &["stop"])?;
    match proxy.wait()?.success() {
        true => Ok(()),
        false => Err("the proxy ended with an error".into()),
    }
}

/// A command of `pleo-proxy` in that folder.
fn pleo_proxy(folder: &Path, arguments: &[&str]) -> std::io::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.current_dir(folder).args(arguments);
    Ok(command)
}

fn run(folder: &Path, arguments: &[&str]) -> Result<(), Box<dyn Error>> {
    println!("$ pleo-proxy {}", arguments.join(" "));
    let ended = pleo_proxy(folder, arguments)?.status()?;
    println!();
    match ended.success() {
        true => Ok(()),
        false => Err(format!("pleo-proxy {} failed", arguments.join(" ")).into()),
    }
}

/// The simplest client there is: what it sends is all that a tool has to send.
fn get(origin: &str, path: &str) -> Result<String, Box<dyn Error>> {
    let address = origin.strip_prefix("http://").ok_or("not an http address")?;
    let mut stream = TcpStream::connect(address)?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("no answer")?;
    match head.lines().next() {
        Some("HTTP/1.1 200 OK") => Ok(body.to_owned() + "\n"),
        _ => Err(head.into()),
    }
}
