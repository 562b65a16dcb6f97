//! Access to the admin listener: the key file, one-time keys in links, and the sessions they are
//! traded for.

use parking_lot::{Mutex, MutexGuard};
use std::io::{self, Write as _};
use std::path::Path;
use std::time::Duration;

use axum::http::HeaderMap;
use axum::http::header::{AUTHORIZATION, COOKIE, ORIGIN};

use super::proof;
use crate::clock::{Clock, Deadline};
use crate::private_file::{self, PrivateFileError};
use crate::redaction::KnownSecrets;
use crate::secret::{self, AdminKey};

/// How the name of a session cookie begins; the port follows. Cookies ignore ports, and the page of
/// one proxy must not sign a person out of the page of another.
const COOKIE_PREFIX: &str = "pleo_proxy_session";
/// How many cookies with such names are looked at.
const MAX_COOKIES: usize = 16;
/// How long the key of a link is valid.
const LINK_LIFETIME: Duration = Duration::from_secs(600);
/// How long a session is valid.
const SESSION_LIFETIME: Duration = Duration::from_secs(12 * 3600);
/// Largest number of unused links; the oldest is dropped.
const MAX_ISSUED: usize = 32;
/// Wrong keys within [`FAILURE_WINDOW`] after which further attempts are refused.
const MAX_FAILURES: u32 = 50;
const FAILURE_WINDOW: Duration = Duration::from_secs(60);

/// Why the admin key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file is not private, or cannot be read.
    #[error(transparent)]
    File(#[from] PrivateFileError),
    /// The file cannot be created.
    #[error("the admin key {} cannot be written: {}", .0.display(), .1)]
    Write(std::path::PathBuf, io::Error),
    /// The file is damaged.
    #[error("the admin key {} is empty or damaged; remove it and start again", .0.display())]
    Damaged(std::path::PathBuf),
    /// The system has no random numbers.
    #[error("the system has no random numbers: {0}")]
    Random(#[from] getrandom::Error),
}

/// Reads the admin key, or creates it.
///
/// # Errors
/// [`KeyError`] says what to do.
pub fn load_or_create(path: &Path) -> Result<AdminKey, KeyError> {
    match read(path) {
        Err(KeyError::File(PrivateFileError::Missing(_))) => {}
        read => return read,
    }
    let key = secret::random()?;
    let fail = |error| KeyError::Write(path.into(), error);
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(fail)?;
    writeln!(file, "{}", key.as_str()).and_then(|()| file.as_file().sync_all()).map_err(fail)?;
    match file.persist_noclobber(path) {
        Ok(_) => Ok(AdminKey::new(key.as_str())),
        // Another process created it first: that one counts.
        Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => read(path),
        Err(error) => Err(fail(error.error)),
    }
}

/// Reads the admin key.
///
/// # Errors
/// [`KeyError`], also if it does not exist yet.
pub fn read(path: &Path) -> Result<AdminKey, KeyError> {
    match private_file::read_text(path, 1024) {
        Ok(text) if text.trim().len() >= 32 => Ok(AdminKey::new(text.trim())),
        Ok(_) | Err(PrivateFileError::Empty(_)) => Err(KeyError::Damaged(path.into())),
        Err(error) => Err(error.into()),
    }
}

/// The admin key, and the links that were issued.
#[derive(Debug)]
pub struct Keys {
    key: AdminKey,
    clock: Clock,
    known: KnownSecrets,
    issued: Mutex<Issued>,
}

#[derive(Debug, Default)]
struct Issued {
    links: Vec<(AdminKey, Deadline)>,
    failures: u32,
    window: Option<Deadline>,
}

/// What a request may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// It has the key or a session.
    Granted,
    /// It has neither.
    Denied,
    /// There were too many wrong keys.
    TooManyAttempts,
}

impl Keys {
    /// No link issued yet. All keys and sessions are added to the secrets that are `known`.
    pub fn new(key: AdminKey, clock: Clock, known: KnownSecrets) -> Self {
        known.learn_lasting(&key);
        Self { key, clock, known, issued: Mutex::default() }
    }

    /// Checks for the key in `Authorization: Bearer`, or for a session cookie from our own page.
    pub fn identify(&self, headers: &HeaderMap, own_origins: &[String]) -> Access {
        let bearer = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        if let Some(key) = bearer
            .and_then(|value| value.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        {
            return if self.key.matches(key.1.trim()) { Access::Granted } else { self.failed() };
        }
        let has_session = is_own_page(headers, own_origins)
            && sessions(headers).take(MAX_COOKIES).any(|session| self.has_session(session));
        if has_session { Access::Granted } else { Access::Denied }
    }

    /// The proof that the listener at `origin` knows the key.
    pub fn prove(&self, origin: &str, challenge: &str) -> Option<String> {
        proof::prove(&self.key, origin, challenge)
    }

    /// A fresh one-time key for a link.
    ///
    /// # Errors
    /// The system has no random numbers.
    pub fn issue_link(&self) -> Result<AdminKey, getrandom::Error> {
        let key = AdminKey::new(secret::random()?.as_str());
        self.known.learn(&key);
        let expires = Deadline::after(self.clock.now(), LINK_LIFETIME);
        push(&mut self.lock().links, (key.clone(), expires));
        Ok(key)
    }

    /// Trades the one-time key of a link for a session, which outlives a restart of the proxy.
    ///
    /// # Errors
    /// The key was used, is too old or was never issued.
    pub fn trade(&self, key: &str) -> Result<AdminKey, Access> {
        let now = self.clock.now();
        let mut issued = self.lock();
        let place = issued
            .links
            .iter()
            .position(|(link, expires)| link.matches(key) && !expires.passed(now));
        let Some(place) = place else {
            drop(issued);
            return Err(self.failed());
        };
        issued.links.remove(place);
        let nonce = secret::random().map_err(|_| Access::Denied)?;
        let ends = Deadline::after(now, SESSION_LIFETIME).wall;
        let session = AdminKey::new(proof::session(&self.key, ends, nonce.as_str()));
        self.known.learn(&session);
        Ok(session)
    }

    fn has_session(&self, session: &str) -> bool {
        let now = self.clock.now();
        // No session ends later than this; after the clock was set back one may seem to.
        let latest = Deadline::after(now, SESSION_LIFETIME).wall;
        let is_valid = proof::session_end(&self.key, session)
            .is_some_and(|end| end > now.wall && end <= latest);
        if is_valid {
            // It may be of an earlier run.
            self.known.learn(&AdminKey::new(session));
        }
        is_valid
    }

    /// Counts a wrong key. 256 bits cannot be guessed; the limit keeps attempts cheap.
    fn failed(&self) -> Access {
        let now = self.clock.now();
        let mut issued = self.lock();
        if issued.window.is_none_or(|window| window.passed(now)) {
            issued.window = Some(Deadline::after(now, FAILURE_WINDOW));
            issued.failures = 0;
        }
        issued.failures += 1;
        if issued.failures > MAX_FAILURES { Access::TooManyAttempts } else { Access::Denied }
    }

    fn lock(&self) -> MutexGuard<'_, Issued> {
        self.issued.lock()
    }
}

fn push(list: &mut Vec<(AdminKey, Deadline)>, item: (AdminKey, Deadline)) {
    if list.len() >= MAX_ISSUED {
        list.remove(0);
    }
    list.push(item);
}

/// The name of the session cookie of the listener at `origin`.
pub fn cookie_name(origin: &str) -> String {
    let port = origin.rsplit(':').next().filter(|port| port.bytes().all(|it| it.is_ascii_digit()));
    format!("{COOKIE_PREFIX}_{}", port.unwrap_or_default())
}

/// The sessions in the cookies of a request, also those of other proxies on this machine.
fn sessions(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let lines = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
    let pairs =
        lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.filter(|(name, _)| name.starts_with(COOKIE_PREFIX)).map(|(_, value)| value)
}

/// True for a request of our own page. Cookies ignore ports, so requests of other local pages carry
/// the cookie too.
fn is_own_page(headers: &HeaderMap, own_origins: &[String]) -> bool {
    let is_same_origin = headers.get("sec-fetch-site").is_some_and(|site| site == "same-origin");
    let is_own = headers
        .get(ORIGIN)
        .is_some_and(|origin| own_origins.iter().any(|own| origin == own.as_str()));
    is_same_origin || is_own
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> Keys {
        with_key("k")
    }

    fn with_key(letter: &str) -> Keys {
        Keys::new(AdminKey::new(letter.repeat(43)), Clock::system(), KnownSecrets::default())
    }

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn the_key_is_accepted_only_as_a_bearer() {
        let keys = keys();
        let key = "k".repeat(43);
        assert_eq!(
            keys.identify(&headers(&[("authorization", &format!("Bearer {key}"))]), &[]),
            Access::Granted
        );
        assert_eq!(keys.identify(&headers(&[("authorization", &key)]), &[]), Access::Denied);
        let as_cookie =
            [("cookie", &*format!("{COOKIE_PREFIX}={key}")), ("sec-fetch-site", "same-origin")];
        assert_eq!(keys.identify(&headers(&as_cookie), &[]), Access::Denied);
    }

    #[test]
    fn a_link_works_once_and_its_session_only_from_our_own_page() {
        let keys = keys();
        let link = keys.issue_link().unwrap();
        let session = keys.trade(link.expose()).unwrap();
        assert!(keys.trade(link.expose()).is_err());
        let own = ["http://127.0.0.1:8089".to_owned()];
        let name = cookie_name(&own[0]);
        assert_eq!(name, "pleo_proxy_session_8089");
        let other = cookie_name("http://127.0.0.1:9089");
        let cookie = format!("a=b; {other}=of.another.proxy; {name}={}", session.expose());
        assert_eq!(keys.identify(&headers(&[("cookie", &cookie)]), &own), Access::Denied);
        let same = [("cookie", &*cookie), ("sec-fetch-site", "same-origin")];
        assert_eq!(keys.identify(&headers(&same), &own), Access::Granted);
        let site = [("cookie", &*cookie), ("sec-fetch-site", "same-site")];
        assert_eq!(keys.identify(&headers(&site), &own), Access::Denied);
        let origin = [("cookie", &*cookie), ("origin", "http://127.0.0.1:8089")];
        assert_eq!(keys.identify(&headers(&origin), &own), Access::Granted);
    }

    #[test]
    fn a_session_outlives_a_restart_and_ends_in_time_and_with_the_key() {
        let keys = keys();
        let session = keys.trade(keys.issue_link().unwrap().expose()).unwrap();
        let restarted = with_key("k");
        assert!(restarted.has_session(session.expose()));
        let other = with_key("l");
        assert!(!other.has_session(session.expose()), "another key");
        let now = keys.clock.now().wall;
        let lifetime = i64::try_from(SESSION_LIFETIME.as_millis()).unwrap();
        for (ends, is_valid) in
            [(now - 1, false), (now + 60_000, true), (now + lifetime + 60_000, false)]
        {
            let session = proof::session(&keys.key, ends, "n");
            assert_eq!(keys.has_session(&session), is_valid, "{}", ends - now);
        }
    }

    #[test]
    fn the_key_links_and_sessions_are_known_as_secrets() {
        let keys = keys();
        let link = keys.issue_link().unwrap();
        let session = keys.trade(link.expose()).unwrap();
        for secret in [&keys.key, &link, &session] {
            assert!(keys.known.occur_in(secret.expose()));
        }
        let restarted = with_key("k");
        assert!(!restarted.known.occur_in(session.expose()));
        assert!(restarted.has_session(session.expose()));
        assert!(restarted.known.occur_in(session.expose()), "one of an earlier run");
    }

    #[test]
    fn guessing_is_refused_and_the_right_key_still_works() {
        let keys = keys();
        let wrong = headers(&[("authorization", "Bearer wrong")]);
        let last = (0..=MAX_FAILURES).map(|_| keys.identify(&wrong, &[])).last();
        assert_eq!(last, Some(Access::TooManyAttempts));
        let right = headers(&[("authorization", &*format!("Bearer {}", "k".repeat(43)))]);
        assert_eq!(keys.identify(&right, &[]), Access::Granted);
    }

    #[test]
    fn the_key_file_is_created_once_and_private() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin.key");
        let first = load_or_create(&path).unwrap();
        assert!(load_or_create(&path).unwrap().matches(first.expose()));
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::write(&path, "").unwrap();
        assert!(matches!(load_or_create(&path), Err(KeyError::Damaged(_))));
    }
}
