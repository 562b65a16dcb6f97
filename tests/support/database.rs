//! A PostgreSQL server of the tests' own: on a unix socket in a temporary folder, one per test
//! binary, ended with it, and a database for each test. As an unprivileged user: it refuses root.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a part of several test binaries, which use parts of it"
)]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// What keeps the server: it ends it, and removes its folder, when its own input ends, which is
/// when the tests do, in whatever way.
const KEEPER: &str = r#"
"$1"/postgres -D "$2/data" -k "$2" -h '' -c max_connections=200 >"$2/log" 2>&1 &
cat >/dev/null
kill -INT $! && wait $!
rm -rf "$2"
"#;
const POOLER_KEEPER: &str = r#"
"$1" "$2/settings" &
cat >/dev/null
kill -INT $! && wait $!
rm -rf "$2"
"#;
const START: Duration = Duration::from_secs(60);

static SERVER: LazyLock<Option<Server>> = LazyLock::new(Server::start);
static DATABASES: AtomicU32 = AtomicU32::new(0);

/// A server; each test binary has one, and a test may have one that it breaks.
pub struct Server {
    programs: PathBuf,
    folder: PathBuf,
    /// Holds the keeper's input open.
    _keeper: Child,
}

/// A fresh database.
#[derive(Clone, Debug)]
pub struct Database {
    pub name: String,
    /// As `store.url_file` wants it.
    pub url: String,
}

impl Database {
    /// A database of the test's own; none, with a line that says so, where PostgreSQL is not
    /// installed.
    pub fn create() -> Option<Self> {
        let server = SERVER.as_ref()?;
        let name = format!("test_{}", DATABASES.fetch_add(1, Ordering::Relaxed));
        server.psql("postgres", &format!("CREATE DATABASE {name}"));
        let url = format!("postgresql:///{name}?host={}&user=pleo", server.folder.display());
        Some(Self { name, url })
    }

    /// The same for a user of the test's own.
    pub fn url_of(&self, user: &str) -> String {
        self.run(&format!(
            "DO $$ BEGIN CREATE ROLE {user} LOGIN SUPERUSER; \
             EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$"
        ));
        self.url.replace("user=pleo", &format!("user={user}"))
    }

    /// Ends the connections of a user, who cannot connect to this database any more.
    pub fn shut_out(&self, user: &str) {
        self.run(&format!("ALTER ROLE {user} NOLOGIN"));
        let name = &self.name;
        self.run(&format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
             WHERE datname = '{name}' AND usename = '{user}'"
        ));
    }

    /// Lets that user connect again.
    pub fn let_in(&self, user: &str) {
        self.run(&format!("ALTER ROLE {user} LOGIN"));
    }

    /// Runs SQL as the owner and returns what it prints.
    pub fn run(&self, sql: &str) -> String {
        server().psql(&self.name, sql)
    }

    /// Ends all connections, and lets nobody connect.
    pub fn lose(&self) {
        let name = &self.name;
        server().psql("postgres", &format!("ALTER DATABASE {name} ALLOW_CONNECTIONS false"));
        self.end_connections();
    }

    /// Ends all connections.
    pub fn end_connections(&self) {
        let name = &self.name;
        let end = format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
        );
        server().psql("postgres", &end);
    }

    /// Lets connect again.
    pub fn restore(&self) {
        let name = &self.name;
        server().psql("postgres", &format!("ALTER DATABASE {name} ALLOW_CONNECTIONS true"));
    }
}

fn server() -> &'static Server {
    SERVER.as_ref().expect("there is a database, so there is a server")
}

impl Server {
    /// None, with a line that says so, where PostgreSQL is not installed.
    pub fn start() -> Option<Self> {
        let Some(programs) = programs() else {
            println!("SKIPPED: there is no PostgreSQL server; install postgresql");
            return None;
        };
        let folder = folder();
        let mut init = unprivileged(&programs.join("initdb"));
        init.arg("-D").arg(folder.join("data"));
        init.args(["-A", "trust", "-U", "pleo", "-N", "-E", "UTF8", "--locale=C"]);
        succeed(&mut init);
        Some(Self::on(programs, folder))
    }

    /// A standby that follows this one.
    pub fn standby(&self) -> Self {
        let folder = folder();
        let mut copy = unprivileged(&self.programs.join("pg_basebackup"));
        copy.args(["-U", "pleo", "-R", "-c", "fast", "-h"]).arg(&self.folder);
        copy.arg("-D").arg(folder.join("data"));
        succeed(&mut copy);
        Self::on(self.programs.clone(), folder)
    }

    fn on(programs: PathBuf, folder: PathBuf) -> Self {
        let mut keeper = unprivileged(Path::new("/bin/sh"));
        keeper.args(["-c", KEEPER, "keeper"]).arg(&programs).arg(&folder).current_dir("/");
        keeper.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let server = Self { programs, folder, _keeper: keeper.spawn().unwrap() };
        server.wait();
        server
    }

    /// The folder of its socket.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Ends it at once, as if its machine were gone.
    pub fn kill(&self) {
        let pid = std::fs::read_to_string(self.folder.join("data/postmaster.pid")).unwrap();
        succeed(Command::new("kill").args(["-QUIT", pid.lines().next().unwrap()]));
    }

    fn wait(&self) {
        let began = Instant::now();
        while !self.ask("postgres", "SELECT 1").status.success() {
            let log = std::fs::read_to_string(self.folder.join("log")).unwrap_or_default();
            assert!(began.elapsed() < START, "PostgreSQL does not start:\n{log}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Runs SQL as the owner and returns what it prints.
    pub fn psql(&self, database: &str, sql: &str) -> String {
        let done = self.ask(database, sql);
        assert!(done.status.success(), "{sql}\n{}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).unwrap()
    }

    fn ask(&self, database: &str, sql: &str) -> std::process::Output {
        let mut psql = Command::new(self.programs.join("psql"));
        psql.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-U", "pleo", "-d", database]);
        psql.arg("-h").arg(&self.folder).args(["-c", sql]).output().unwrap()
    }
}

/// A folder that the server's user may write.
fn folder() -> PathBuf {
    let folder = tempfile::Builder::new().prefix("pleo-pg-").tempdir().unwrap().keep();
    if rustix::process::getuid().is_root() {
        succeed(Command::new("chown").arg("nobody").arg(&folder));
    }
    folder
}

/// A program as a user that it does not refuse.
fn unprivileged(program: &Path) -> Command {
    if !rustix::process::getuid().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "nobody", "--clear-groups", "--"]).arg(program);
    command
}

fn succeed(command: &mut Command) {
    let done = command.current_dir("/").output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

/// A PgBouncer that pools by transaction, before a database of the tests' server.
pub struct Pooler {
    /// As `store.url_file` wants it.
    pub url: String,
    _keeper: Child,
}

impl Pooler {
    /// None, with a line that says so, where it is not installed.
    pub fn start(database: &Database) -> Option<Self> {
        let Some(program) = ["/usr/sbin/pgbouncer", "/usr/bin/pgbouncer"]
            .into_iter()
            .find(|program| Path::new(program).exists())
        else {
            println!("SKIPPED: there is no PgBouncer; install pgbouncer");
            return None;
        };
        let (folder, name) = (folder(), &database.name);
        let (here, there) = (folder.display(), server().folder.display());
        let settings = format!(
            "[databases]\n{name} = host={there} dbname={name} user=pleo\n\
             [pgbouncer]\nauth_type = any\npool_mode = transaction\ndefault_pool_size = 2\n\
             unix_socket_dir = {here}\nlisten_port = 5432\nlogfile = {here}/log\n"
        );
        std::fs::write(folder.join("settings"), settings).unwrap();
        let mut keeper = unprivileged(Path::new("/bin/sh"));
        keeper.args(["-c", POOLER_KEEPER, "keeper", program]).arg(&folder).current_dir("/");
        keeper.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let url = format!("postgresql:///{name}?host={here}&user=pleo");
        let pooler = Self { url, _keeper: keeper.spawn().unwrap() };
        let began = Instant::now();
        while !folder.join(".s.PGSQL.5432").exists() {
            let log = std::fs::read_to_string(folder.join("log")).unwrap_or_default();
            assert!(began.elapsed() < START, "PgBouncer does not start:\n{log}");
            std::thread::sleep(Duration::from_millis(20));
        }
        Some(pooler)
    }
}

/// The folder of the server's programs: Debian's, or one that is searched for programs.
fn programs() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let debian = versions.map(|version| version.path().join("bin"));
    let searched = std::env::var_os("PATH").unwrap_or_default();
    let searched: Vec<_> = std::env::split_paths(&searched).collect();
    let all = debian.chain(searched);
    all.filter(|folder| folder.join("initdb").exists() && folder.join("psql").exists()).max()
}
