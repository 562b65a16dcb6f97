//! `service`: the units, where they are written, and what systemd says of them.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use crate::support;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use support::command::{FAILED, NOT_RUNNING, SUCCESS, USAGE, code, json_output, stderr, stdout};
use support::{Workspace, text, write_private};

const PROGRAM: [&str; 2] = ["--program", "/usr/bin/pleo-proxy"];
const NAMES: [&str; 3] = ["pleo-proxy.socket", "pleo-proxy-admin.socket", "pleo-proxy.service"];
/// What `systemd-analyze security` may find at most, of ten.
const MOST_EXPOSURE: f64 = 2.0;

fn configured() -> Workspace {
    Workspace::new("environment = \"production\"\n[client]\nid = \"harbour\"\n")
}

/// A `service` command with its units below `root` in the workspace.
fn service(workspace: &Workspace, arguments: &[&str]) -> std::process::Output {
    workspace.run(&[&["service"], arguments, &["--root", "root"]].concat())
}

fn unit(workspace: &Workspace, manager: &str, name: &str) -> String {
    let file = workspace.path().join("root/etc/systemd").join(manager).join(name);
    fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

#[test]
fn units_are_written_once_and_updated_but_a_change_is_kept() {
    let workspace = configured();
    let install = |more: &[&str]| service(&workspace, &[&["install", "--json"], more].concat());
    let first = install(&[]);
    assert_eq!(code(&first), SUCCESS, "{}", stderr(&first));
    assert_eq!(json_output(&first)["outcome"], "installed");
    let next = json_output(&first)["next"].to_string();
    assert!(next.contains("systemctl --user enable --now pleo-proxy.socket"), "{next}");
    assert!(stderr(&first).contains("loginctl enable-linger"), "{}", stderr(&first));
    let folder = workspace.path().join("root/etc/systemd/user");
    for name in NAMES {
        let mode = fs::metadata(folder.join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o644, "{name}");
    }
    assert_eq!(json_output(&install(&[]))["outcome"], "unchanged");
    // Another configuration is no change by hand.
    let moved = install(&["--set", "listen.api=127.0.0.1:9088"]);
    assert_eq!(json_output(&moved)["outcome"], "installed", "{}", stderr(&moved));
    assert!(unit(&workspace, "user", NAMES[0]).contains("ListenStream=127.0.0.1:9088\n"));
    let file = folder.join(NAMES[2]);
    let changed = unit(&workspace, "user", NAMES[2]).replace("RestartSec=2", "RestartSec=9");
    fs::write(&file, &changed).unwrap();
    for refused in [install(&[]), service(&workspace, &["uninstall", "--json"])] {
        assert_eq!(code(&refused), FAILED);
        assert!(stderr(&refused).contains("--force"), "{}", stderr(&refused));
        assert!(unit(&workspace, "user", NAMES[0]).contains(":9088"), "nothing was written");
        assert_eq!(fs::read_to_string(&file).unwrap(), changed);
    }
    assert_eq!(code(&install(&["--force"])), SUCCESS);
    assert!(unit(&workspace, "user", NAMES[2]).contains("RestartSec=2\n"));
}

#[test]
fn what_was_written_is_removed_and_nothing_else() {
    let workspace = configured();
    assert_eq!(code(&service(&workspace, &["install"])), SUCCESS);
    let folder = workspace.path().join("root/etc/systemd/user");
    fs::write(folder.join("other.service"), "[Unit]\n").unwrap();
    let status = service(&workspace, &["status"]);
    assert_eq!(code(&status), NOT_RUNNING);
    assert!(stdout(&status).contains("pleo-proxy.service: installed"), "{}", stdout(&status));
    let removed = service(&workspace, &["uninstall", "--json"]);
    assert_eq!(json_output(&removed)["units"].as_array().unwrap().len(), 3);
    let left: Vec<_> = fs::read_dir(&folder).unwrap().map(|it| it.unwrap().file_name()).collect();
    assert_eq!(left, ["other.service"]);
    assert_eq!(json_output(&service(&workspace, &["uninstall", "--json"]))["outcome"], "unchanged");
}

#[test]
fn flags_and_credentials_reach_the_service_and_variables_do_not() {
    let workspace = configured();
    write_private(&workspace.path().join("client-secret"), "hush");
    let mut command =
        workspace.command(&["service", "print", "--set", "guard.read_only=true", NAMES[2]]);
    let printed = command.env("PLEO_PROXY_LISTEN_ADMIN", "off").output().unwrap();
    let text = stdout(&printed);
    assert_eq!(code(&printed), SUCCESS, "{}", stderr(&printed));
    let folder = workspace.path().canonicalize().unwrap();
    let config = format!("--config {}", folder.join("proxy.toml").display());
    for part in [&config, " --set guard.read_only=true serve\n", NAMES[1]] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
    let credential = folder.join("client-secret");
    assert!(text.contains(&format!("LoadCredential=client-secret:{}\n", credential.display())));
    assert!(!text.contains("hush"));
    let sandbox = Workspace::new("environment = \"sandbox\"\n");
    let printed = stdout(&sandbox.run(&["service", "print"]));
    assert!(!printed.contains("LoadCredential"), "{printed}");
    assert!(NAMES.iter().all(|name| printed.contains(&format!("/{name}\n"))), "{printed}");
}

#[test]
fn what_cannot_work_as_a_service_is_said_beforehand() {
    let workspace = configured();
    let at_home = ["install", "--system", "--program", "/home/somebody/pleo-proxy"];
    let hidden = service(&workspace, &at_home);
    assert_eq!(code(&hidden), USAGE);
    assert!(stderr(&hidden).contains("sudo install -m 755"), "{}", stderr(&hidden));
    let port = workspace.run(&["service", "print", "--set", "listen.api=127.0.0.1:0"]);
    assert_eq!(code(&port), USAGE);
    assert!(stderr(&port).contains("fixed one"), "{}", stderr(&port));
    let unknown = workspace.run(&["service", "print", "pleo.service"]);
    assert_eq!(code(&unknown), USAGE);
    assert!(stderr(&unknown).contains(NAMES[2]), "{}", stderr(&unknown));
    if Path::new("/run/systemd/system").is_dir() {
        return eprintln!("SKIPPED: this machine runs systemd");
    }
    for command in ["install", "uninstall", "status"] {
        let refused = workspace.run(&["service", command, "--json"]);
        assert_eq!(code(&refused), FAILED, "{command}");
        assert!(text(&json_output(&refused)["why"]).contains("/run/systemd/system"), "{command}");
    }
    assert!(!workspace.path().join(".config").exists());
}

/// `systemd-analyze`, if it is here.
fn analyze(arguments: &[&str], folder: &Path) -> Option<std::process::Output> {
    let mut command = Command::new("systemd-analyze");
    // It wants a runtime folder to be there, and starts nothing.
    command.args(arguments).current_dir(folder).env("XDG_RUNTIME_DIR", folder);
    let output = command.output().ok();
    if output.is_none() {
        eprintln!(
            "SKIPPED: units are not verified: there is no systemd-analyze (Debian package systemd)"
        );
    }
    output
}

#[test]
fn systemd_understands_the_units_and_finds_little_exposed() {
    let workspace = configured();
    for manager in ["--user", "--system"] {
        let installed = service(&workspace, &[&["install", manager][..], &PROGRAM].concat());
        assert_eq!(code(&installed), SUCCESS, "{}", stderr(&installed));
    }
    for manager in ["user", "system"] {
        let folder = workspace.path().join("root/etc/systemd").join(manager);
        // It looks whether the program is there.
        for name in NAMES {
            let here = unit(&workspace, manager, name)
                .replace("/usr/bin/pleo-proxy", env!("CARGO_BIN_EXE_pleo-proxy"));
            fs::write(folder.join(name), here).unwrap();
        }
        let manager = format!("--{manager}");
        let units = NAMES.map(|name| format!("./{name}"));
        let units: Vec<_> = units.iter().map(String::as_str).collect();
        let arguments = [&["verify", "--man=no", &manager][..], &units].concat();
        let Some(verified) = analyze(&arguments, &folder) else { return };
        let said = format!("{}{}", stdout(&verified), stderr(&verified));
        let complaints: Vec<_> = said.lines().filter(|line| line.contains("pleo-proxy")).collect();
        assert!(verified.status.success() && complaints.is_empty(), "{said}");
    }
    let folder = workspace.path().join("root/etc/systemd/system");
    let arguments = ["security", "--offline=true", "--no-pager", "./pleo-proxy.service"];
    let rated = stdout(&analyze(&arguments, &folder).unwrap());
    let Some((_, rest)) = rated.split_once("Overall exposure level for pleo-proxy.service: ")
    else {
        return eprintln!(
            "SKIPPED: this systemd-analyze rates no files (it needs systemd 250): {rated}"
        );
    };
    let exposure: f64 = rest.split(' ').next().unwrap().parse().unwrap();
    assert!(exposure <= MOST_EXPOSURE, "{rated}");
}

#[test]
fn the_service_gives_the_process_time_to_save() {
    let workspace = configured();
    for manager in ["--user", "--system"] {
        let printed =
            workspace.run(&[&["service", "print", manager, NAMES[2]][..], &PROGRAM].concat());
        let unit = stdout(&printed);
        let value = |key: &str| {
            let mut lines = unit.lines();
            lines.find_map(|line| line.strip_prefix(key)?.strip_prefix('=')).unwrap().to_owned()
        };
        // Requests, a token request to its own deadline, and its save.
        assert!(value("TimeoutStopSec").parse::<u32>().unwrap() >= 45, "{unit}");
        assert_eq!((value("KillSignal"), value("Type")), ("SIGTERM".into(), "notify".into()));
        assert_eq!(value("WatchdogSignal"), "SIGTERM", "a login is not lost to the watchdog");
        assert_eq!(value("RestartPreventExitStatus"), USAGE.to_string());
    }
}
