//! Whether the database keeps what it says it keeps: a new pair that is lost after a crash logs the
//! customer out.

use tokio_postgres::Row;
use tracing::warn;

use super::connection::Link;
use super::trouble::Trouble;

pub(super) const SETTINGS: &str = "\
SELECT current_setting('fsync'), current_setting('synchronous_commit'),
current_setting('synchronous_standby_names'), (SELECT count(*) > 0 FROM pg_stat_replication)";

/// What a database does with what is committed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Durability {
    /// Why it is refused.
    pub refusal: Option<&'static str>,
    /// What may lose the newest tokens.
    pub warnings: Vec<&'static str>,
}

impl Durability {
    pub(super) fn of(row: &Row) -> Result<Self, Trouble> {
        let (fsync, commit): (&str, &str) = (row.try_get(0)?, row.try_get(1)?);
        let (standbys, has_standby): (&str, bool) = (row.try_get(2)?, row.try_get(3)?);
        let refusal = (fsync == "off").then_some(
            "it runs with fsync = off, so a crash of its machine loses tokens; set fsync = on in postgresql.conf and reload it",
        );
        let mut warnings = Vec::new();
        if commit == "off" {
            warnings.push(
                "the database runs with synchronous_commit = off: a crash of it may lose the newest tokens; run: ALTER ROLE ... SET synchronous_commit = on",
            );
        }
        if has_standby && standbys.is_empty() {
            warnings.push(
                "the database has a standby that is not synchronous: a failover may lose the newest tokens; set synchronous_standby_names in postgresql.conf",
            );
        }
        Ok(Self { refusal, warnings })
    }
}

/// Why the database is refused; warns of what may lose the newest tokens.
pub(super) async fn refusal(link: &Link) -> Result<Option<&'static str>, Trouble> {
    let rows = link.query(SETTINGS, &[]).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    let durability = Durability::of(row)?;
    durability
        .warnings
        .iter()
        .filter(|_| durability.refusal.is_none())
        .for_each(|it| warn!("{it}"));
    Ok(durability.refusal)
}
