//! What follows from a 401 of the upstream.

use std::sync::Arc;

use tokio::time::{Instant, timeout_at};

use super::account::Account;
use super::api_key;
use super::credential::AfterRejection;
use super::health::Health;
use super::lease;
use super::refresh_reason::{RefreshReason, RefreshReport};
use super::refresher::Refresher;
use super::services::Services;
use super::snapshot::{Refusal, Verdict};

/// What a request does whose token of `generation` was refused, after the store was read again.
pub(super) async fn judge(
    services: &Arc<Services>,
    refresher: &Arc<Refresher>,
    account: &Arc<Account>,
    generation: u64,
    deadline: Instant,
) -> Verdict {
    let snapshot = account.snapshot();
    // That of an account that was made anew is a lower one.
    if snapshot.generation() != generation {
        return Verdict::Again;
    }
    if snapshot.source.after_rejection() == AfterRejection::Check {
        api_key::check_soon(services, account);
        return Verdict::Give;
    }
    if matches!(snapshot.health, Health::Uncertain(_)) {
        account.forget_credential(generation);
    }
    // Counted among the requests that wait, which moves the account up in the queue of refreshes.
    let waiting = lease::wait_in_line(account);
    let ask =
        || timeout_at(deadline, refresher.refresh(account, RefreshReason::Rejected, generation));
    let mut report = ask().await;
    // It may have been one that was under way for an earlier generation, and adopted this one.
    if matches!(report, Ok(RefreshReport::Adopted)) && account.peek().generation() == generation {
        report = ask().await;
    }
    drop(waiting);
    let snapshot = account.snapshot();
    let is_another = snapshot.generation() != generation;
    if is_another && !matches!(snapshot.health, Health::LoginRequired(_)) {
        return Verdict::Again;
    }
    match report {
        Ok(RefreshReport::Limited) => Verdict::Give,
        Ok(_) => Verdict::Refuse(Refusal::of(&snapshot.health, account.now())),
        Err(_) => Verdict::Refuse(lease::timed_out(account)),
    }
}

/// Gets later requests another token, where this one cannot be sent again.
pub(super) fn mend(
    services: &Arc<Services>,
    refresher: &Arc<Refresher>,
    account: &Arc<Account>,
    generation: u64,
) {
    let snapshot = account.snapshot();
    if snapshot.generation() != generation || account.was_just_forced(account.now()) {
        return;
    }
    match snapshot.source.after_rejection() {
        AfterRejection::Refresh => refresher.start(account, RefreshReason::Rejected, generation),
        AfterRejection::Check => api_key::check_soon(services, account),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::sleep;

    use super::super::registry::Registry;
    use super::super::testing::{save_expired, services};
    use super::super::transition;
    use super::*;
    use crate::store::{AccountName, Record};

    /// An account, and the record of its first generation.
    struct Setup {
        services: Arc<Services>,
        refresher: Arc<Refresher>,
        account: Arc<Account>,
        first: Record,
        _folder: tempfile::TempDir,
    }

    impl Setup {
        async fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let (services, _commands) = services(folder.path());
            let registry = Arc::new(Registry::new(services.context.clone()));
            let refresher = Arc::new(Refresher::new(services.clone(), registry.clone()));
            let name = AccountName::fallback();
            save_expired(&services, &name).await;
            let (first, _) = services.store.load(&name).await.unwrap().unwrap();
            let account = registry.get_or_insert(&name);
            Self { services, refresher, account, first, _folder: folder }
        }
    }

    #[tokio::test]
    async fn an_attempt_for_an_earlier_generation_is_no_answer_to_a_401() {
        let Setup { services, refresher, account, first, _folder } = Setup::new().await;
        transition::adopt(first.clone(), &account, &services);
        // Another process refreshes, and this one waits for its lock; then one more does.
        let held = services.store.lock(&account.name, Duration::ZERO).await.unwrap();
        refresher.start(&account, RefreshReason::Margin, 1);
        sleep(Duration::from_millis(20)).await;
        transition::adopt(Record { generation: 2, ..first.clone() }, &account, &services);
        let deadline = Instant::now() + Duration::from_secs(20);
        let judged = judge(&services, &refresher, &account, 2, deadline);
        let elsewhere = async {
            sleep(Duration::from_millis(20)).await;
            let third = Record { generation: 3, ..first.clone() };
            held.save(&third).await.unwrap();
            drop(held);
        };
        let (verdict, ()) = tokio::join!(judged, elsewhere);
        assert!(matches!(verdict, Verdict::Again), "{verdict:?}");
    }

    #[tokio::test]
    async fn the_token_of_an_account_that_was_made_anew_is_tried_at_once() {
        let Setup { services, refresher, account, first, _folder } = Setup::new().await;
        transition::adopt(Record { generation: 2, ..first }, &account, &services);
        // Its generations began again; the request was sent before.
        let deadline = Instant::now() + Duration::from_secs(20);
        let verdict = judge(&services, &refresher, &account, 10, deadline).await;
        assert!(matches!(verdict, Verdict::Again), "{verdict:?}");
        assert_eq!(account.peek().generation(), 2, "it is not refreshed for nothing");
    }
}
