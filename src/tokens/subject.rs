//! The right company: a grant of an account that is bound to a company serves nobody until the API
//! has said that it is that company's, and one company is not connected under two names.

use std::sync::Arc;
use std::time::Duration;

use tracing::{info, warn};

use super::Accounts;
use super::account::Account;
use super::refresh::{Attempt, Hands, Report};
use super::snapshot::{Health, Trouble};
use crate::clock::{Deadline, Now};
use crate::secret::AccessToken;
use crate::store::{AccountName, EndReason, Issued, Record};

/// How old an unconfirmed pair must be to be refreshed because the API refuses its access token: a
/// younger one would have its next refresh refused the same way.
const RENEWED_AT: Duration = Duration::from_secs(60);

/// How an account is whose grant is not known to be its company's.
pub(super) fn unconfirmed(now: Now) -> Health {
    let why = "whose login this is has not been confirmed yet";
    Health::Retrying(Trouble::until(why, Deadline::after(now, Duration::ZERO)))
}

impl Attempt {
    /// The access token of a grant that waits for its confirmation, while it lives; once it is
    /// expired, a refresh brings the next one.
    pub(super) fn to_be_confirmed(&self, record: &Record) -> Option<AccessToken> {
        let grant = record.grant.as_ref().filter(|_| record.subject_unconfirmed)?;
        let is_alive = grant.expires_at > self.accounts.clock().now().wall;
        grant.access.clone().filter(|_| is_alive)
    }

    /// Asks the API whose the grant is: its company's serves from here on, any other ends. A token
    /// that was ended before its time asks for a refresh, and what is in hand comes back for it.
    pub(super) async fn confirm(
        &self,
        hands: Hands,
        access: &AccessToken,
    ) -> Result<Report, Hands> {
        Ok(match (self.accounts.oauth().subject(access).await, &hands.record.subject) {
            (Ok(subject), Some(bound)) if subject != *bound => {
                let bound = bound.clone();
                self.end(hands, EndReason::OtherCompany { subject, bound }).await
            }
            (Ok(subject), _) => self.confirmed(hands, subject).await,
            (Err(error), _) if error.is_unauthorized() && self.is_renewable() => return Err(hands),
            (Err(error), _) => {
                let why = format!("whose login this is cannot be confirmed: {error}");
                self.later(&hands.record, why, None)
            }
        })
    }

    fn is_renewable(&self) -> bool {
        let now = self.accounts.clock().now();
        self.account.age().is_some_and(|age| age.until(RENEWED_AT, now).is_zero())
    }

    async fn confirmed(&self, hands: Hands, subject: String) -> Report {
        let record = Record { subject: Some(subject), subject_unconfirmed: false, ..hands.record };
        match self.accounts.store().save(&hands.locked, &record).await {
            Ok(version) => self.account.memory().version = version,
            Err(error) => return self.unwritable(error.to_string()),
        }
        self.account.remember_good(true);
        let health = self.accounts.health_of(&record);
        self.account.publish(record, health, None);
        info!(account = %self.account.name, "the login is the account's own");
        Report::Adopted
    }
}

impl Accounts {
    /// Whom an account is bound to, if it is.
    pub fn bound_subject(&self, account: &AccountName) -> Option<String> {
        self.get(account)?.memory().record.as_ref()?.subject.clone()
    }

    /// Where grants of this process are issued.
    pub fn issued(&self) -> Issued {
        let settings = &self.oauth.settings;
        Issued {
            token_endpoint: settings.token.url().to_string(),
            client_id: settings.client_id.clone().unwrap_or_default(),
            api_origin: settings.api.to_string(),
        }
    }

    /// The other account that holds a grant of this company. Each refresh of one would end the
    /// other's tokens.
    pub(super) fn other_holder(&self, account: &AccountName, subject: &str) -> Option<AccountName> {
        let issued = self.issued();
        let holds = |other: &Arc<Account>| {
            let memory = other.memory();
            let record =
                memory.record.as_ref().filter(|record| record.subject.as_deref() == Some(subject));
            record
                .and_then(|record| record.grant.as_ref())
                .is_some_and(|grant| grant.issued == issued)
        };
        self.all()
            .iter()
            .find(|other| other.name != *account && holds(other))
            .map(|other| other.name.clone())
    }

    /// Finds out whose grant an account holds if nobody knows yet; what fails is tried again after
    /// the next refresh.
    pub(super) fn learn_subject(self: &Arc<Self>, account: &Arc<Account>) {
        if account.memory().record.as_ref().is_none_or(|record| record.subject.is_some()) {
            return;
        }
        let (accounts, account) = (self.clone(), account.clone());
        let learning = async move { accounts.unless_closing(accounts.ask_subject(&account)).await };
        self.tasks.spawn_on(learning, &self.control);
    }

    async fn ask_subject(&self, account: &Account) -> Option<()> {
        let known = account.memory().record.clone()?;
        let subject = self.oauth.subject(known.grant?.access.as_ref()?).await.ok()?;
        let _turn = account.turn.clone().lock_owned().await;
        let locked = self.store.lock(&account.name, super::LOCK_PATIENCE).await.ok()?;
        let (record, _) = self.store.load(&account.name).await.ok()??;
        if record.generation != known.generation || record.subject.is_some() {
            return None;
        }
        if let Some(other) = self.other_holder(&account.name, &subject) {
            warn!(account = %account.name, %other, "both accounts hold {subject}, and each refresh of one ends the other's tokens; log one of them out");
        }
        let record = Record { subject: Some(subject), ..record };
        let version = self.store.save(&locked, &record).await.ok()?;
        let mut memory = account.memory();
        (memory.version, memory.record) = (version, Some(record));
        Some(())
    }
}
