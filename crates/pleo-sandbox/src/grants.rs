//! Codes, tokens and the families they belong to. A family is one authorization: all tokens that
//! descend from one code.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use super::state::random;
use super::subject::Subject;

const CODE_LIFETIME: Duration = Duration::from_secs(60);

/// What a code is issued for.
#[derive(Clone, Debug)]
pub(crate) struct CodeRequest {
    pub(crate) redirect_uri: String,
    pub(crate) challenge: String,
    pub(crate) scope: String,
    pub(crate) subject: Subject,
}

struct Code {
    request: CodeRequest,
    expires: Instant,
    /// Presented once; `family` is set when the exchange succeeds.
    used: bool,
    family: Option<usize>,
}

struct Family {
    subject: Subject,
    scope: String,
    access: Option<String>,
    refresh: Option<String>,
    /// The refresh token that was exchanged for the newest pair, until a token of that pair is
    /// used: until then the client may not have received it.
    unacknowledged: Option<String>,
    revoked: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Access,
    Refresh,
}

struct Token {
    kind: Kind,
    family: usize,
    issued: i64,
    expires: Instant,
    expires_unix: i64,
}

/// Lifetimes of new tokens.
#[derive(Clone, Copy)]
pub(crate) struct Lifetimes {
    pub(crate) access: Duration,
    pub(crate) refresh: Duration,
}

/// Newly issued tokens, for the token response.
pub(crate) struct Pair {
    pub(crate) access: String,
    /// Missing if the old one stays valid.
    pub(crate) refresh: Option<String>,
    pub(crate) scope: String,
    /// Other authorizations that it ended.
    pub(crate) families_superseded: u64,
}

/// Why a token request was refused; the client sees `invalid_grant` for all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    Unknown,
    Expired,
    Reused,
    Revoked,
}

/// A refused token request, and what it revoked.
pub(crate) struct Refused {
    pub(crate) why: Refusal,
    pub(crate) family_revoked: bool,
    /// The newest pair was issued for this very token and has never been used.
    pub(crate) response_was_lost: bool,
}

impl Refused {
    fn alone(why: Refusal) -> Self {
        Self { why, family_revoked: false, response_was_lost: false }
    }
}

/// The status of an access token.
pub(crate) enum TokenStatus {
    Active { subject: Subject, scope: String },
    Superseded,
    Expired,
    Invalid,
}

/// What introspection says about an active token.
pub(crate) struct Description {
    pub(crate) subject: Subject,
    pub(crate) is_refresh: bool,
    pub(crate) issued: i64,
    pub(crate) expires: i64,
}

/// All codes and tokens. They are never removed, so that a used token
/// is distinguished from an unknown one.
#[derive(Default)]
pub(crate) struct Grants {
    codes: HashMap<String, Code>,
    tokens: HashMap<String, Token>,
    families: Vec<Family>,
    reserved: Vec<(Subject, Instant)>,
}

impl Grants {
    /// The first company without a live authorization and without a code that is still to be
    /// exchanged: a further account is meant to be another company.
    pub(crate) fn first_free_company(&self) -> Subject {
        let now = Instant::now();
        let live =
            self.families.iter().filter(|family| !family.revoked).map(|family| family.subject);
        let request =
            self.reserved.iter().filter(|(_, until)| now < *until).map(|(subject, _)| *subject);
        let taken: HashSet<Subject> = live.chain(request).collect();
        Subject::companies().find(|subject| !taken.contains(subject)).unwrap_or_default()
    }

    /// Makes a company count as taken until its code is exchanged or has expired.
    pub(crate) fn reserve(&mut self, subject: Subject) {
        let now = Instant::now();
        self.reserved.retain(|(_, until)| now < *until);
        self.reserved.push((subject, now + CODE_LIFETIME));
    }

    pub(crate) fn issue_code(&mut self, request: CodeRequest) -> String {
        let code = random("code");
        let record =
            Code { request, expires: Instant::now() + CODE_LIFETIME, used: false, family: None };
        self.codes.insert(code.clone(), record);
        code
    }

    /// Uses up the code, even if the exchange fails later. A code that is presented again revokes
    /// the tokens issued for it.
    pub(crate) fn take_code(&mut self, code: &str) -> Result<CodeRequest, Refused> {
        let Some(record) = self.codes.get_mut(code) else {
            return Err(Refused::alone(Refusal::Unknown));
        };
        if record.used {
            let family = record.family;
            let family_revoked = family.is_some_and(|family| self.revoke(family));
            return Err(Refused { family_revoked, ..Refused::alone(Refusal::Reused) });
        }
        record.used = true;
        if Instant::now() >= record.expires {
            return Err(Refused::alone(Refusal::Expired));
        }
        Ok(record.request.clone())
    }

    /// Starts a family with the first tokens for a code.
    pub(crate) fn begin(
        &mut self,
        code: &str,
        request: &CodeRequest,
        lifetimes: Lifetimes,
    ) -> Pair {
        let id = self.families.len();
        let (subject, scope) = (request.subject, request.scope.clone());
        self.families.push(Family {
            subject,
            scope,
            access: None,
            refresh: None,
            unacknowledged: None,
            revoked: false,
        });
        if let Some(record) = self.codes.get_mut(code) {
            record.family = Some(id);
        }
        self.issue(id, lifetimes, false)
    }

    /// Issues new tokens for a refresh token, which ends all earlier tokens of the client for this
    /// subject, those of other authorizations too. A used or expired one revokes its whole family.
    pub(crate) fn refresh(
        &mut self,
        token: &str,
        lifetimes: Lifetimes,
        keep_refresh: bool,
    ) -> Result<Pair, Refused> {
        let Some(record) = self.tokens.get(token).filter(|record| record.kind == Kind::Refresh)
        else {
            return Err(Refused::alone(Refusal::Unknown));
        };
        let (id, expires) = (record.family, record.expires);
        let family = &self.families[id];
        let why = if family.refresh.as_deref() != Some(token) {
            Refusal::Reused
        } else if family.revoked {
            Refusal::Revoked
        } else if Instant::now() >= expires {
            Refusal::Expired
        } else {
            let families_superseded = self.revoke_others(id);
            return Ok(Pair { families_superseded, ..self.issue(id, lifetimes, keep_refresh) });
        };
        let response_was_lost = family.unacknowledged.as_deref() == Some(token);
        let family_revoked = self.revoke(id);
        Err(Refused { why, family_revoked, response_was_lost })
    }

    fn issue(&mut self, id: usize, lifetimes: Lifetimes, keep_refresh: bool) -> Pair {
        let access = self.mint(Kind::Access, id, lifetimes.access);
        let refresh = (!keep_refresh).then(|| self.mint(Kind::Refresh, id, lifetimes.refresh));
        let family = &mut self.families[id];
        family.unacknowledged = refresh.is_some().then(|| family.refresh.take()).flatten();
        family.access = Some(access.clone());
        if refresh.is_some() {
            family.refresh.clone_from(&refresh);
        }
        Pair { access, refresh, scope: family.scope.clone(), families_superseded: 0 }
    }

    fn mint(&mut self, kind: Kind, family: usize, lifetime: Duration) -> String {
        let token = random(if kind == Kind::Access { "at" } else { "rt" });
        let issued = jiff::Timestamp::now().as_second();
        let expires_unix = issued.saturating_add_unsigned(lifetime.as_secs());
        let expires = Instant::now() + lifetime;
        self.tokens.insert(token.clone(), Token { kind, family, issued, expires, expires_unix });
        token
    }

    /// The status of an access token. Using the newest one acknowledges its pair.
    pub(crate) fn status(&mut self, token: &str) -> TokenStatus {
        let Some(record) = self.tokens.get(token).filter(|record| record.kind == Kind::Access)
        else {
            return TokenStatus::Invalid;
        };
        let family = &mut self.families[record.family];
        if family.access.as_deref() == Some(token) {
            family.unacknowledged = None;
        }
        if family.revoked {
            TokenStatus::Invalid
        } else if family.access.as_deref() != Some(token) {
            TokenStatus::Superseded
        } else if Instant::now() >= record.expires {
            TokenStatus::Expired
        } else {
            TokenStatus::Active { subject: family.subject, scope: family.scope.clone() }
        }
    }

    /// `None` for a token that is not active.
    pub(crate) fn describe(&mut self, token: &str) -> Option<Description> {
        let record = self.tokens.get(token)?;
        let family = &mut self.families[record.family];
        let current = if record.kind == Kind::Access { &family.access } else { &family.refresh };
        let is_newest = current.as_deref() == Some(token);
        let active = !family.revoked && is_newest && Instant::now() < record.expires;
        if is_newest {
            family.unacknowledged = None;
        }
        active.then_some(Description {
            subject: family.subject,
            is_refresh: record.kind == Kind::Refresh,
            issued: record.issued,
            expires: record.expires_unix,
        })
    }

    /// The authorization that a refresh token descends from.
    pub(crate) fn family_of(&self, token: &str) -> Option<usize> {
        self.tokens
            .get(token)
            .filter(|record| record.kind == Kind::Refresh)
            .map(|record| record.family)
    }

    /// Whether the family was not revoked before.
    fn revoke(&mut self, id: usize) -> bool {
        !std::mem::replace(&mut self.families[id].revoked, true)
    }

    /// Revokes the other families of the same subject; returns how many were not revoked before.
    fn revoke_others(&mut self, id: usize) -> u64 {
        let subject = self.families[id].subject;
        let others = (0..self.families.len()).filter(|other| *other != id);
        let same: Vec<usize> =
            others.filter(|other| self.families[*other].subject == subject).collect();
        same.into_iter().map(|other| u64::from(self.revoke(other))).sum()
    }

    /// Revokes every family; returns how many were not revoked before.
    pub(crate) fn revoke_all(&mut self) -> u64 {
        (0..self.families.len()).map(|id| u64::from(self.revoke(id))).sum()
    }
}
