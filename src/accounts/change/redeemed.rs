//! A login whose code was exchanged: its tokens are nowhere but in this process until they are saved.
//! On a store that replicas share, another one may have the account for a while, or the database may
//! be away; nobody should have to log in again for that.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use tracing::warn;

use super::error::ChangeError;
use super::locked_change::ChangeTicket;
use crate::accounts::account::Account;
use crate::accounts::origin::date_of;
use crate::accounts::services::Services;
use crate::clock::{Deadline, Now};
use crate::store::{AccountName, EndReason, Grant, Locked, Record};

/// How long the tokens of a login are kept: longer than the longest claim of a replica that died
/// (50 s).
const PATIENCE: Duration = Duration::from_secs(70);
/// Pause between two tries to save them.
const PAUSE: Duration = Duration::from_millis(500);

/// What a login brought.
pub(super) struct Redeemed {
    pub(super) grant: Grant,
    pub(super) deadline: Deadline,
    pub(super) subject: Result<String, String>,
    pub(super) company: Option<String>,
    pub(super) replaces: bool,
    /// Right before its code was sent.
    pub(super) sent: Now,
    /// How often it was tried to be saved.
    pub(super) tries: u32,
}

impl Redeemed {
    /// Dates it at the first try, for all of them: after what was known when it was asked for, even if
    /// that was dated by a clock that was ahead.
    pub(super) fn date(&mut self, locked: &Locked, ticket: &ChangeTicket) {
        if self.tries == 0 {
            self.grant.logged_in_at = locked.date(self.sent).max(ticket.after);
        }
        self.tries += 1;
    }

    /// A logout or login on another replica that came after its code was sent counts, as one in this
    /// process does. What this process knew before it was asked for came earlier, whatever its date.
    pub(super) fn ensure_latest(
        &self,
        ticket: &ChangeTicket,
        previous: Option<&Record>,
    ) -> Result<(), ChangeError> {
        let Some(previous) = previous.filter(|it| it.generation != ticket.generation) else {
            return Ok(());
        };
        let own = self.grant.logged_in_at;
        let is_ended_since = previous.ended.as_ref().is_some_and(|ended| {
            let is_wanted = matches!(
                ended.reason,
                EndReason::LoggedOut
                    | EndReason::Disconnected
                    | EndReason::Moved { .. }
                    | EndReason::LeftStore { .. }
            );
            is_wanted && ended.at > own
        });
        let is_login_since = previous.has_credential() && date_of(previous) > Some(own);
        if is_ended_since || is_login_since {
            return Err(ChangeError::Superseded(ticket.account().name.clone()));
        }
        Ok(())
    }

    /// The record of this login that an earlier try has saved, if there is one: its answer was lost,
    /// and another replica may have refreshed it since.
    pub(super) fn saved_as(&self, previous: Option<&Record>) -> Option<Record> {
        let own = &self.grant;
        let is_it = |record: &&Record| {
            let grant = record.grant.as_ref();
            grant.is_some_and(|it| it.logged_in_at == own.logged_in_at && it.issued == own.issued)
        };
        previous.filter(is_it).filter(|_| self.tries > 1).cloned()
    }

    /// A refresh of the account's old tokens, by this process or another one, may have come between
    /// the new tokens and their saving: it ends all others of the company.
    pub(super) async fn ensure_not_overtaken(
        &self,
        services: &Services,
        account: &AccountName,
        previous: Option<&Record>,
    ) -> Result<(), ChangeError> {
        let oauth = &services.oauth;
        let can_ask = self.grant.introspection_trusted && oauth.settings.introspect.is_some();
        let has_tokens = previous.is_some_and(|record| record.grant.is_some());
        if !can_ask || !has_tokens || self.saved_as(previous).is_some() {
            return Ok(());
        }
        // What cannot be asked shows at the first refresh.
        let Ok(credentials) = services.secret_file.credentials().await else { return Ok(()) };
        match oauth.is_active(&self.grant.refresh, &credentials).await {
            Ok(false) => Err(ChangeError::Overtaken(account.clone())),
            Ok(true) | Err(_) => Ok(()),
        }
    }
}

/// For how long a login is tried to be saved.
pub(super) struct Patience<'a> {
    services: &'a Services,
    began: Instant,
    /// Why it was not saved yet, as people were told.
    told: Option<String>,
    is_last: bool,
}

impl<'a> Patience<'a> {
    pub(super) fn begin(services: &'a Services) -> Self {
        Self { services, began: Instant::now(), told: None, is_last: false }
    }

    /// True, after a pause, if another try may succeed. One more follows when the process ends.
    pub(super) async fn is_worth(&mut self, error: &ChangeError, account: &Account) -> bool {
        let is_over = self.is_last || self.began.elapsed() >= PATIENCE;
        if is_over || !self.services.store.is_shared() || !error.is_passing() {
            return false;
        }
        let why = error.to_string();
        if self.told.as_ref() != Some(&why) {
            let left = PATIENCE.saturating_sub(self.began.elapsed()).as_secs();
            warn!(account = %account.name, "the tokens of the login are not saved yet, and are tried to be saved for {left} s more: {why}");
            self.told = Some(why);
        }
        self.is_last = self.services.unless_closing(sleep(PAUSE)).await.is_none();
        true
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::{Changes, Login};
    use super::*;
    use crate::accounts::origin::after;
    use crate::accounts::refresher::Refresher;
    use crate::accounts::registry::Registry;
    use crate::accounts::testing;
    use crate::oauth::Tokens;
    use crate::secret::{AccessToken, RefreshToken};

    fn changes(services: &Arc<Services>) -> Changes {
        let registry = Arc::new(Registry::new(services.context.clone()));
        let refresher = Arc::new(Refresher::new(services.clone(), registry.clone()));
        Changes::new(services.clone(), registry, refresher)
    }

    fn login(services: &Services) -> Login {
        let tokens = Tokens {
            access: Some(AccessToken::new("access")),
            refresh: Some(RefreshToken::new("refresh")),
            refresh_unreadable: false,
            lifetime: Duration::from_secs(600),
            scope: None,
            oddities: Vec::new(),
        };
        Login {
            tokens,
            sent: services.now(),
            subject: Ok("company".into()),
            company: None,
            introspection_trusted: true,
            replaces: false,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_login_outlasts_the_claim_of_a_replica_that_died() {
        let (services, _commands) = testing::shared_services();
        let (changes, name) = (changes(&services), AccountName::fallback());
        let claim = services.store.lock(&name, Duration::ZERO).await.unwrap();
        let install = changes.install(changes.begin(&name), login(&services));
        let dead = async {
            sleep(Duration::from_secs(50)).await;
            drop(claim);
        };
        let (saved, ()) = tokio::join!(install, dead);
        saved.unwrap();
        let (record, _) = services.store.load(&name).await.unwrap().unwrap();
        assert!(record.grant.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_login_is_given_up_in_the_end_and_at_once_where_it_is_not_its_companys() {
        let (services, _commands) = testing::shared_services();
        let (changes, name) = (changes(&services), AccountName::fallback());
        changes.install(changes.begin(&name), login(&services)).await.unwrap();
        let others = Login { subject: Ok("another".into()), ..login(&services) };
        let began = Instant::now();
        let refused = changes.install(changes.begin(&name), others).await;
        assert!(matches!(refused, Err(ChangeError::OtherSubject { .. })), "{refused:?}");
        assert_eq!(began.elapsed(), Duration::ZERO);
        let _claim = services.store.lock(&name, Duration::ZERO).await.unwrap();
        let given_up = changes.install(changes.begin(&name), login(&services)).await;
        assert!(matches!(given_up, Err(ChangeError::Lock(_))), "{given_up:?}");
        assert!(began.elapsed() >= PATIENCE);
    }

    #[tokio::test]
    async fn a_logout_or_login_elsewhere_after_the_code_was_sent_ends_the_login() {
        let (services, _commands) = testing::shared_services();
        let changes = changes(&services);
        let name = AccountName::fallback();
        changes.install(changes.begin(&name), login(&services)).await.unwrap();
        let mut ticket = changes.begin(&name);
        assert!(
            ticket.after > login(&services).sent.wall - 60_000,
            "after the login that is there"
        );
        let grant = new_grant(&services);
        let at = grant.logged_in_at;
        let (company, subject) = (None, Ok("company".into()));
        let deadline = Deadline::after(services.now(), Duration::ZERO);
        let sent = services.now();
        let mut redeemed =
            Redeemed { grant, deadline, sent, subject, company, replaces: false, tries: 1 };
        let ended = |generation, at, reason| Record::tombstone(generation, at, reason);
        let login = |generation, at| {
            let grant = Grant { logged_in_at: at, ..new_grant(&services) };
            Record { generation, ..super::super::record_of(grant, None) }
        };
        let refused = || EndReason::Refused { code: "invalid_grant".into() };
        let moved = || EndReason::Moved { to: "other".into() };
        for (previous, is_latest) in [
            (ended(2, at + 1, EndReason::LoggedOut), false),
            (ended(2, at + 1, moved()), false),
            (ended(2, at - 1, EndReason::LoggedOut), true),
            // Of the tokens before: it is no reason against new ones.
            (ended(2, at + 1, refused()), true),
            // It was there when the login was asked for: its date is wrong.
            (ended(1, at + 1, EndReason::LoggedOut), true),
            (login(2, at + 1), false),
            (login(2, at - 1), true),
            (login(1, at + 1), true),
        ] {
            let latest = redeemed.ensure_latest(&ticket, Some(&previous));
            assert_eq!(latest.is_ok(), is_latest, "{previous:?}");
        }
        redeemed.ensure_latest(&ticket, None).unwrap();
        let locked = services.store.lock(&name, Duration::ZERO).await.unwrap();
        redeemed.tries = 0;
        ticket.after = after(Some(&ended(1, at + 900_000, EndReason::LoggedOut)));
        redeemed.date(&locked, &ticket);
        assert_eq!(redeemed.grant.logged_in_at, at + 900_001, "it is the later one");
        (redeemed.tries, redeemed.grant.logged_in_at) = (1, at);
        // The answer of an earlier try was lost.
        assert!(redeemed.saved_as(Some(&login(2, at))).is_none(), "there was none");
        redeemed.tries = 2;
        assert!(redeemed.saved_as(Some(&login(2, at))).is_some());
        assert!(redeemed.saved_as(Some(&login(2, at - 1))).is_none());
    }

    #[cfg(feature = "postgres")]
    #[tokio::test]
    async fn of_two_logins_the_later_one_stays_where_the_clocks_of_replicas_disagree() {
        use crate::accounts::sync::StoreSync;
        use crate::clock::{Clock, Now};
        use crate::secret::DatabaseSecret;
        use crate::store::{Database, PostgresStore, Sealing, Store, UrlSource, postgres_server};
        let Some(database) = postgres_server::Database::create() else { return };
        let url = UrlSource::Value(DatabaseSecret::new(database.url.as_str()));
        let settings = Database { url, allow_plain: true, ..Database::default() };
        let replica = async |clock| {
            let store = PostgresStore::open(&settings, "sandbox", Sealing::none()).await;
            let store = Store::Postgres(Arc::new(store.unwrap()));
            testing::services_at(clock, store, "http://127.0.0.1:9").0
        };
        let now = Clock::system().now();
        let ahead = Clock::manual(Now { wall: now.wall + 300_000, ..now });
        let (ahead, right) = (replica(ahead).await, replica(Clock::system()).await);
        let name = AccountName::fallback();
        let changes_ahead = changes(&ahead);
        changes_ahead.install(changes_ahead.begin(&name), login(&ahead)).await.unwrap();
        changes_ahead.install(changes_ahead.begin(&name), login(&ahead)).await.unwrap();
        let known = changes_ahead.registry.get_or_insert(&name);
        assert_eq!(known.peek().generation(), 2);
        // The other one logs it out, removes it and logs in anew, while this one is stopped.
        let changes_right = changes(&right);
        let sync = |changes: &Changes, services: &Arc<Services>| {
            let (registry, refresher) = (changes.registry.clone(), changes.refresher.clone());
            StoreSync::new(services.clone(), registry, refresher)
        };
        let account = changes_right.registry.get_or_insert(&name);
        assert!(sync(&changes_right, &right).reload(&account).await);
        changes_right.logout(&account, EndReason::LoggedOut).await.unwrap();
        changes_right.remove(&account).await.unwrap();
        let anew = changes(&right);
        anew.install(anew.begin(&name), login(&right)).await.unwrap();
        assert!(sync(&changes_ahead, &ahead).reload(&known).await);
        let (stored, _) = right.store.load(&name).await.unwrap().unwrap();
        assert_eq!((stored.generation, known.peek().generation()), (1, 1), "the new login is used");
    }

    fn new_grant(services: &Services) -> Grant {
        let login = login(services);
        let deadline = Deadline::after(login.sent, login.tokens.lifetime);
        let refresh = RefreshToken::new("refresh");
        super::super::grant_of(services, login.tokens, refresh, deadline, login.sent, true)
    }
}
