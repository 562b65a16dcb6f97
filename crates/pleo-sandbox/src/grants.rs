//! Codes, tokens and the families they belong to. A family is one authorization: every token
//! descended from one code.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use super::subject::Subject;
use super::world::random;

const CODE_LIFE: Duration = Duration::from_secs(60);

/// What a code was issued for.
#[derive(Clone, Debug)]
pub(crate) struct CodeFor {
    pub(crate) redirect_uri: String,
    pub(crate) challenge: String,
    pub(crate) scope: String,
    pub(crate) subject: Subject,
}

struct Code {
    meant: CodeFor,
    expires: Instant,
    /// Presented once; `family` follows if the exchange succeeded.
    used: bool,
    family: Option<usize>,
}

struct Family {
    subject: Subject,
    scope: String,
    access: Option<String>,
    refresh: Option<String>,
    /// The refresh token that bought the newest pair, until a token of that pair comes back: so
    /// long nobody may have it.
    unheard: Option<String>,
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

/// How long new tokens live.
#[derive(Clone, Copy)]
pub(crate) struct Lives {
    pub(crate) access: Duration,
    pub(crate) refresh: Duration,
}

/// A fresh pair, for the token answer.
pub(crate) struct Pair {
    pub(crate) access: String,
    /// Missing where a refresh left the old one in force.
    pub(crate) refresh: Option<String>,
    pub(crate) scope: String,
}

/// Why an exchange was refused; all of them are `invalid_grant` to the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    Unknown,
    Expired,
    Reused,
    Revoked,
}

/// A refused exchange, and whether it took the family down.
pub(crate) struct Refused {
    pub(crate) why: Refusal,
    pub(crate) family_revoked: bool,
    /// The newest pair was bought with this very token, and nobody has used it.
    pub(crate) was_lost: bool,
}

impl Refused {
    fn alone(why: Refusal) -> Self {
        Self { why, family_revoked: false, was_lost: false }
    }
}

/// A bearer token's standing.
pub(crate) enum Standing {
    Good { subject: Subject, scope: String },
    Superseded,
    Expired,
    Bad,
}

/// What introspection tells of an active token.
pub(crate) struct Description {
    pub(crate) subject: Subject,
    pub(crate) is_refresh: bool,
    pub(crate) issued: i64,
    pub(crate) expires: i64,
}

/// All there is; tokens are never forgotten, so that a replay is told from a guess.
#[derive(Default)]
pub(crate) struct Grants {
    codes: HashMap<String, Code>,
    tokens: HashMap<String, Token>,
    families: Vec<Family>,
    reserved: Vec<(Subject, Instant)>,
}

impl Grants {
    /// The first company that no live authorization speaks for, and that nobody was sent back with
    /// a moment ago: whoever connects a further account means another one.
    pub(crate) fn first_free_company(&self) -> Subject {
        let now = Instant::now();
        let live =
            self.families.iter().filter(|family| !family.revoked).map(|family| family.subject);
        let asked =
            self.reserved.iter().filter(|(_, until)| now < *until).map(|(subject, _)| *subject);
        let taken: HashSet<Subject> = live.chain(asked).collect();
        Subject::companies().find(|subject| !taken.contains(subject)).unwrap_or_default()
    }

    /// Keeps a company from being the next free one until its code was exchanged or has expired.
    pub(crate) fn reserve(&mut self, subject: Subject) {
        let now = Instant::now();
        self.reserved.retain(|(_, until)| now < *until);
        self.reserved.push((subject, now + CODE_LIFE));
    }

    pub(crate) fn issue_code(&mut self, meant: CodeFor) -> String {
        let code = random("code");
        let record = Code { meant, expires: Instant::now() + CODE_LIFE, used: false, family: None };
        self.codes.insert(code.clone(), record);
        code
    }

    /// Takes the code whatever comes of the exchange; presented again it revokes the tokens it had
    /// bought.
    pub(crate) fn take_code(&mut self, code: &str) -> Result<CodeFor, Refused> {
        let Some(record) = self.codes.get_mut(code) else {
            return Err(Refused::alone(Refusal::Unknown));
        };
        if record.used {
            let family = record.family;
            let family_revoked = family.is_some_and(|family| self.revoke(family));
            return Err(Refused { family_revoked, ..Refused::alone(Refusal::Reused) });
        }
        record.used = true;
        match Instant::now() < record.expires {
            true => Ok(record.meant.clone()),
            false => Err(Refused::alone(Refusal::Expired)),
        }
    }

    /// Begins a family with the tokens for a code that was taken.
    pub(crate) fn begin(&mut self, code: &str, meant: &CodeFor, lives: Lives) -> Pair {
        let id = self.families.len();
        let (subject, scope) = (meant.subject, meant.scope.clone());
        self.families.push(Family {
            subject,
            scope,
            access: None,
            refresh: None,
            unheard: None,
            revoked: false,
        });
        if let Some(record) = self.codes.get_mut(code) {
            record.family = Some(id);
        }
        self.issue(id, lives, false)
    }

    /// Rotates. A superseded or expired token takes its whole family down.
    pub(crate) fn refresh(
        &mut self,
        token: &str,
        lives: Lives,
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
            return Ok(self.issue(id, lives, keep_refresh));
        };
        let was_lost = family.unheard.as_deref() == Some(token);
        let family_revoked = self.revoke(id);
        Err(Refused { why, family_revoked, was_lost })
    }

    fn issue(&mut self, id: usize, lives: Lives, keep_refresh: bool) -> Pair {
        let access = self.mint(Kind::Access, id, lives.access);
        let refresh = (!keep_refresh).then(|| self.mint(Kind::Refresh, id, lives.refresh));
        let family = &mut self.families[id];
        family.unheard = refresh.is_some().then(|| family.refresh.take()).flatten();
        family.access = Some(access.clone());
        if refresh.is_some() {
            family.refresh.clone_from(&refresh);
        }
        Pair { access, refresh, scope: family.scope.clone() }
    }

    fn mint(&mut self, kind: Kind, family: usize, life: Duration) -> String {
        let token = random(if kind == Kind::Access { "at" } else { "rt" });
        let issued = jiff::Timestamp::now().as_second();
        let expires_unix = issued.saturating_add_unsigned(life.as_secs());
        let expires = Instant::now() + life;
        self.tokens.insert(token.clone(), Token { kind, family, issued, expires, expires_unix });
        token
    }

    /// Whether the bearer of this access token may pass.
    pub(crate) fn standing(&mut self, token: &str) -> Standing {
        let Some(record) = self.tokens.get(token).filter(|record| record.kind == Kind::Access)
        else {
            return Standing::Bad;
        };
        let family = &mut self.families[record.family];
        if family.access.as_deref() == Some(token) {
            family.unheard = None;
        }
        if family.revoked {
            Standing::Bad
        } else if family.access.as_deref() != Some(token) {
            Standing::Superseded
        } else if Instant::now() >= record.expires {
            Standing::Expired
        } else {
            Standing::Good { subject: family.subject, scope: family.scope.clone() }
        }
    }

    /// `None` for whatever is not in force now.
    pub(crate) fn describe(&mut self, token: &str) -> Option<Description> {
        let record = self.tokens.get(token)?;
        let family = &mut self.families[record.family];
        let current = if record.kind == Kind::Access { &family.access } else { &family.refresh };
        let is_newest = current.as_deref() == Some(token);
        let active = !family.revoked && is_newest && Instant::now() < record.expires;
        if is_newest {
            family.unheard = None;
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

    /// Says whether there was anything to revoke.
    fn revoke(&mut self, id: usize) -> bool {
        !std::mem::replace(&mut self.families[id].revoked, true)
    }

    /// How many families this ended.
    pub(crate) fn revoke_all(&mut self) -> u64 {
        (0..self.families.len()).map(|id| u64::from(self.revoke(id))).sum()
    }
}
