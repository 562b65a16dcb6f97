//! Whether Pleo would refuse a request, with what the accounts know.

use std::sync::Arc;

use http::Method;

use crate::accounts::{Account, Accounts, DefaultAccount, UnknownAccount};
use crate::explain::{self, CredentialKind, Explanation, Facts, Request, SubjectKind};
use crate::problem::Problem;
use crate::proxy::route::Route;
use crate::store::AccountName;

/// A request that somebody thinks of.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// Its method, in any case of letters.
    pub method: &'a str,
    /// Path and query, also with `/@NAME` in front; or a whole address.
    pub target: &'a str,
    /// The account; none: the one that a request gets which names none.
    pub account: Option<&'a str>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum WhyError {
    /// Not a request at all.
    #[error("{0}")]
    Invalid(String),
    /// There is no such account.
    #[error("{0}")]
    Unknown(UnknownAccount),
    /// Several accounts are connected and none is named.
    #[error("several accounts are connected ({0}); name one")]
    Required(String),
}

/// What is to be expected of a request.
///
/// # Errors
/// [`WhyError`]: the request cannot be read, or it is not clear which account it is for.
pub async fn expectation(
    accounts: &Accounts,
    question: Question<'_>,
    environment: &str,
) -> Result<Explanation, WhyError> {
    let method = method(question.method)?;
    let (path, query) =
        question.target.split_once('?').map_or((question.target, None), |it| (it.0, Some(it.1)));
    // A whole address is explained as it is: the host may be the mistake.
    if path.contains("://") {
        let account = account(accounts, named(accounts, question.account)?.as_ref()).await?;
        let request = Request::new(&method, path, query);
        return Ok(with_facts(accounts, account, environment, |facts| {
            explain::before(&request, facts)
        }));
    }
    let route = route(accounts, &method, question)?;
    let account = account(accounts, route.account.as_ref()).await?;
    let request = Request::new(&method, route.target.path(), route.target.query());
    Ok(with_facts(accounts, account, environment, |facts| explain::before(&request, facts)))
}

fn method(text: &str) -> Result<Method, WhyError> {
    let method = Method::from_bytes(text.to_ascii_uppercase().as_bytes());
    method.map_err(|_| WhyError::Invalid("this is not a method; write for example GET".into()))
}

fn unknown(accounts: &Accounts, name: &str) -> WhyError {
    WhyError::Unknown(UnknownAccount::beside(
        name,
        accounts.all().iter().map(|it| it.name.as_str()),
    ))
}

fn named(accounts: &Accounts, account: Option<&str>) -> Result<Option<AccountName>, WhyError> {
    let parsed = account.map(|name| name.parse().map_err(|_| unknown(accounts, name)));
    parsed.transpose()
}

fn route(accounts: &Accounts, method: &Method, question: Question<'_>) -> Result<Route, WhyError> {
    let invalid = |why: String| WhyError::Invalid(format!("this is not a path: {why}"));
    if !question.target.starts_with('/') {
        return Err(invalid("it does not begin with /; write for example /v1/vendors".into()));
    }
    let request = http::Request::builder().method(method).uri(question.target).body(());
    let request = request.map_err(|error| invalid(error.to_string()))?;
    let refused = |problem: Problem| WhyError::Invalid(problem.detail().to_owned());
    let route = Route::of(&request.into_parts().0).map_err(refused)?;
    let account = named(accounts, question.account)?;
    if account.is_some() && route.account.is_some() && account != route.account {
        return Err(WhyError::Invalid("the path names another account; name it once".into()));
    }
    Ok(Route { account: account.or(route.account), ..route })
}

/// The account that a request goes to; none if none is connected.
async fn account(
    accounts: &Accounts,
    named: Option<&AccountName>,
) -> Result<Option<Arc<Account>>, WhyError> {
    if let Some(name) = named {
        let found = accounts.find(name).await;
        return found.map(Some).ok_or_else(|| unknown(accounts, name.as_str()));
    }
    match &*accounts.default_account() {
        DefaultAccount::One(account) => Ok(Some(account.clone())),
        DefaultAccount::None => Ok(None),
        DefaultAccount::Ambiguous(names) => {
            let names: Vec<_> = names.iter().map(AccountName::as_str).collect();
            Err(WhyError::Required(names.join(", ")))
        }
    }
}

fn with_facts<T>(
    accounts: &Accounts,
    account: Option<Arc<Account>>,
    environment: &str,
    explain: impl FnOnce(&Facts<'_>) -> T,
) -> T {
    let asked = accounts.oauth().settings.scopes.as_slice();
    let environment = Some(environment);
    match account {
        Some(account) => {
            let snapshot = account.snapshot();
            explain(&Facts { environment, ..snapshot.facts(&account.name, asked) })
        }
        None => {
            let default = accounts.settings().default_account.clone();
            let name = default.unwrap_or_else(AccountName::fallback);
            explain(&Facts {
                account: name.as_str(),
                granted: None,
                asked,
                credential: CredentialKind::None,
                subject: SubjectKind::Unknown,
                environment,
            })
        }
    }
}
