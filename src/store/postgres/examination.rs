//! A look at the database for a person: which of its hosts answer, what they are, and what the role
//! may do. It reads and changes nothing, and takes no claim.

use std::time::Duration;

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::types::Type;

use super::address::{self, Address};
use super::connection::Link;
use super::durability::{Durability, SETTINGS};
use super::migrations::{self, STEPS};
use super::news::News;
use super::tls::Tls;
use super::trouble::Trouble;
use crate::clock::Clock;
use crate::store::database::Database;
use crate::store::error::OpenError;

const SERVER: &str = "\
SELECT current_setting('server_version'), pg_is_in_recovery(),
current_setting('transaction_read_only') = 'on', current_user::text,
(SELECT rolsuper FROM pg_roles WHERE rolname = current_user),
has_database_privilege(current_database(), 'CREATE')";

const TIME: &str = "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint";

/// The rights of `$1` (objects) and `$2` (privileges) that are missing, as their numbers. The schema
/// itself has the empty name; what does not exist is not asked for.
const MISSING: &str = "\
WITH schema AS (SELECT oid FROM pg_namespace WHERE nspname = 'pleo_proxy')
SELECT wanted.number FROM schema, unnest($1, $2) WITH ORDINALITY AS wanted(object, privilege, number)
LEFT JOIN pg_class it ON it.relname = wanted.object
AND it.relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = 'pleo_proxy')
WHERE NOT CASE WHEN wanted.object = '' THEN has_schema_privilege(schema.oid, wanted.privilege)
WHEN it.oid IS NULL THEN true
WHEN it.relkind = 'S' THEN has_sequence_privilege(it.oid, wanted.privilege)
ELSE has_table_privilege(it.oid, wanted.privilege) END";

const CLAIMS: &str = "\
SELECT account, coalesce(claim_id, ''), coalesce(claim_by, ''),
extract(epoch FROM claim_until - clock_timestamp())::bigint
FROM pleo_proxy.account WHERE environment = $1 AND claim_until > clock_timestamp() ORDER BY account";

/// A claim that is still there after this time is worth mentioning: most refreshes take a fraction of
/// it.
const PATIENCE: Duration = Duration::from_millis(1200);

/// Hosts that are asked at the same time.
const MAX_HOSTS: usize = 16;

/// A host that the URL names.
#[derive(Clone, Debug)]
pub struct Host {
    /// As the URL names it.
    pub name: String,
    /// It is reached through a unix socket, and else by TLS.
    pub is_local: bool,
    /// What it is, or why it could not be asked.
    pub server: Result<Server, String>,
}

impl Host {
    /// The server, if it can be written.
    pub fn primary(&self) -> Option<&Server> {
        self.server.as_ref().ok().filter(|server| !server.is_standby && !server.is_read_only)
    }
}

/// A server that answers.
#[derive(Clone, Debug)]
pub struct Server {
    /// The version of PostgreSQL.
    pub version: String,
    /// It repeats what a primary does.
    pub is_standby: bool,
    /// Nothing can be written, though it may be a primary.
    pub is_read_only: bool,
    /// Whom it takes this program for.
    pub role: String,
    /// That is a superuser.
    pub is_superuser: bool,
    /// Milliseconds that its clock is ahead of this machine's, and the error of that.
    pub ahead: (i64, u64),
    /// What it does with what is committed.
    pub durability: Durability,
    /// The tables.
    pub tables: Tables,
    /// Statements that give the role the rights that it lacks, for the owner of the database.
    pub missing_rights: Vec<String>,
    /// Claims that were held all the while.
    pub claims: Vec<HeldClaim>,
}

/// The tables of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tables {
    /// The number of the last step that was done; none: there are no tables, or nobody may look.
    pub applied: Option<i32>,
    /// That of this program.
    pub wanted: i32,
    /// The role may make them.
    pub can_make: bool,
}

/// A claim on an account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldClaim {
    /// The account.
    pub account: String,
    /// Process and machine.
    pub holder: String,
    /// Seconds until it ends by itself.
    pub left: i64,
    id: String,
}

impl HeldClaim {
    /// On this account, by this holder, for so many seconds more.
    pub fn new(account: &str, holder: &str, left: i64) -> Self {
        let (account, holder) = (account.to_owned(), holder.to_owned());
        Self { account, holder, left, id: String::new() }
    }
}

/// Asks all hosts of the URL at the same time, each for at most so long.
///
/// # Errors
/// The URL cannot be used.
pub async fn examine(
    database: &Database,
    environment: &str,
    limit: Duration,
) -> Result<Vec<Host>, OpenError> {
    let address = address::read(&database.url).and_then(|url| Address::parse(&url));
    let address = address.map_err(|error| OpenError::Url(error.to_string()))?;
    let hosts = address.each_host().into_iter().map(|(name, address)| async move {
        let is_local = address.is_local;
        let tls = Tls::new(is_local, database.ca_file.clone()).map_err(OpenError::Url)?;
        let link = Link::new(address, tls, News::default());
        let looked = timeout(limit, look(&link, environment)).await;
        let late = || Trouble::Unreachable(format!("it did not answer within {limit:?}"));
        let server = looked.unwrap_or_else(|_| Err(late())).map_err(|trouble| trouble.to_string());
        Ok(Host { name, is_local, server })
    });
    stream::iter(hosts).buffered(MAX_HOSTS).try_collect().await
}

async fn look(link: &Link, environment: &str) -> Result<Server, Trouble> {
    let rows = link.query(SERVER, &[]).await?;
    let row = one(&rows)?;
    let role: String = row.try_get(3)?;
    let can_make = row.try_get(5)?;
    let settings = link.query(SETTINGS, &[]).await?;
    Ok(Server {
        version: row.try_get(0)?,
        is_standby: row.try_get(1)?,
        is_read_only: row.try_get(2)?,
        is_superuser: row.try_get::<_, Option<bool>>(4)?.unwrap_or_default(),
        ahead: ahead(link).await?,
        durability: Durability::of(one(&settings)?)?,
        tables: tables(link, can_make).await?,
        missing_rights: missing_rights(link, &role).await?,
        claims: held_claims(link, environment).await?,
        role,
    })
}

fn one(rows: &[tokio_postgres::Row]) -> Result<&tokio_postgres::Row, Trouble> {
    rows.first().ok_or_else(|| Trouble::Unreachable("it answered nothing".into()))
}

/// How far its clock is ahead of ours, as of the middle of the question.
async fn ahead(link: &Link) -> Result<(i64, u64), Trouble> {
    let (clock, began) = (Clock::system(), Instant::now());
    let ours = clock.now().wall;
    let rows = link.query(TIME, &[]).await?;
    let half = u64::try_from(began.elapsed().as_millis() / 2).unwrap_or(u64::MAX);
    let theirs: i64 = one(&rows)?.try_get(0)?;
    Ok((theirs.saturating_sub(ours).saturating_sub_unsigned(half), half))
}

async fn tables(link: &Link, can_make: bool) -> Result<Tables, Trouble> {
    let applied = unless_forbidden(migrations::applied(link).await)?.flatten();
    let wanted = i32::try_from(STEPS.len()).unwrap_or(i32::MAX);
    Ok(Tables { applied, wanted, can_make })
}

/// None where the role may not look: the check of its rights says so.
fn unless_forbidden<T>(done: Result<T, Trouble>) -> Result<Option<T>, Trouble> {
    match done {
        Ok(done) => Ok(Some(done)),
        Err(trouble) if trouble.is_forbidden() => Ok(None),
        Err(trouble) => Err(trouble),
    }
}

async fn missing_rights(link: &Link, role: &str) -> Result<Vec<String>, Trouble> {
    let wanted: Vec<_> = migrations::grants().collect();
    let each = wanted.iter().flat_map(|grant| {
        grant.privileges.split(", ").map(move |privilege| (grant, grant.object(), privilege))
    });
    let each: Vec<_> = each.collect();
    let objects: Vec<_> = each.iter().map(|(_, object, _)| *object).collect();
    let privileges: Vec<_> = each.iter().map(|(_, _, privilege)| *privilege).collect();
    let parameters = [(&objects as _, Type::TEXT_ARRAY), (&privileges as _, Type::TEXT_ARRAY)];
    let rows = link.query(MISSING, &parameters).await?;
    let mut statements = Vec::new();
    for row in rows {
        let number = usize::try_from(row.try_get::<_, i64>(0)?).unwrap_or_default();
        let Some((grant, ..)) = number.checked_sub(1).and_then(|at| each.get(at)) else { continue };
        let statement = grant.to(role);
        if !statements.contains(&statement) {
            statements.push(statement);
        }
    }
    Ok(statements)
}

/// The claims that stay for a while: whoever refreshes now is done soon.
async fn held_claims(link: &Link, environment: &str) -> Result<Vec<HeldClaim>, Trouble> {
    let before = claims(link, environment).await?;
    if before.is_empty() {
        return Ok(before);
    }
    sleep(PATIENCE).await;
    let mut after = claims(link, environment).await?;
    after.retain(|claim| before.iter().any(|it| it.id == claim.id && it.account == claim.account));
    Ok(after)
}

async fn claims(link: &Link, environment: &str) -> Result<Vec<HeldClaim>, Trouble> {
    let rows = match link.query(CLAIMS, &[(&environment as _, Type::TEXT)]).await {
        Err(trouble) if trouble.is_without_tables() || trouble.is_forbidden() => Vec::new(),
        rows => rows?,
    };
    let claim = |row: &tokio_postgres::Row| -> Result<HeldClaim, Trouble> {
        let (account, id) = (row.try_get(0)?, row.try_get(1)?);
        Ok(HeldClaim { account, id, holder: row.try_get(2)?, left: row.try_get(3)? })
    };
    rows.iter().map(claim).collect()
}
