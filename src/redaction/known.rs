//! The secrets of this run, as fingerprints: what is kept finds a secret in a text and does not
//! contain it.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::hash::{BuildHasher as _, RandomState};
use std::ops::Range;
use std::sync::Arc;

use parking_lot::RwLock;
use sha2::{Digest as _, Sha256};

use crate::secret::Secret;

/// Shorter secrets are only recognised by the name beside them: they occur in ordinary text.
pub const MIN_LENGTH: usize = 8;
/// Secrets that are remembered, retired ones included. At two for each refresh of a token that
/// lives ten minutes these are 113 days of one account.
const CAPACITY: usize = 32_768;
/// Of them, those that were recognised by their form.
pub(super) const MAX_SEEN: usize = 1024;

/// The secrets of this run. Clones share them.
#[derive(Clone, Default)]
pub struct KnownSecrets(Arc<RwLock<Index>>);

#[derive(Default)]
struct Index {
    /// By a hash of the last eight bytes.
    by_tail: HashMap<u64, Vec<Fingerprint>>,
    /// The oldest first.
    order: VecDeque<Fingerprint>,
    /// Those that are in use, and by how many.
    in_use: HashMap<Fingerprint, u32>,
    /// What each account uses now.
    of_accounts: HashMap<String, Vec<Fingerprint>>,
    /// Random, so that fingerprints of two runs have nothing in common.
    keys: RandomState,
    /// How many were recognised by their form.
    seen: usize,
}

/// Recognises one secret. All but the length are keyed hashes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Fingerprint {
    length: usize,
    head: u64,
    tail: u64,
    digest: [u8; 16],
}

impl KnownSecrets {
    /// Remembers a secret until some thirty thousand newer ones have come.
    pub fn learn(&self, secret: &impl Secret) {
        self.0.write().add(secret.expose());
    }

    /// The same for a text that has the form of a secret. Whoever makes Pleo send many of them must
    /// not replace what is remembered: only the first ones are.
    pub(super) fn learn_seen(&self, secret: &str) {
        let mut index = self.0.write();
        let before = index.order.len();
        if index.seen < MAX_SEEN && index.add(secret).is_some() && index.order.len() > before {
            index.seen += 1;
        }
    }

    /// Remembers a secret that stays in use until the process ends, such as a key from a file.
    pub fn learn_lasting(&self, secret: &impl Secret) {
        let mut index = self.0.write();
        if let Some(fingerprint) = index.add(secret.expose()) {
            index.in_use.entry(fingerprint).or_insert(1);
        }
    }

    /// Remembers the secrets that an account uses from now on; those it used before are retired.
    pub fn learn_current<'a>(
        &self,
        account: &str,
        secrets: impl IntoIterator<Item = &'a dyn Secret>,
    ) {
        let mut index = self.0.write();
        let current: Vec<_> =
            secrets.into_iter().filter_map(|secret| index.add(secret.expose())).collect();
        for fingerprint in &current {
            *index.in_use.entry(*fingerprint).or_default() += 1;
        }
        for retired in index.of_accounts.insert(account.to_owned(), current).unwrap_or_default() {
            index.release(retired);
        }
    }

    /// True if a secret stands in the text as it is.
    pub fn occur_in(&self, text: &str) -> bool {
        let mut any = false;
        self.find(text.as_bytes(), |_| any = true);
        any
    }

    /// Where secrets are in a text.
    pub(super) fn find(&self, text: &[u8], mut found: impl FnMut(Range<usize>)) {
        let index = self.0.read();
        if index.order.is_empty() {
            return;
        }
        let text = folded(text);
        let mut window = 0_u64;
        for (at, byte) in text.iter().enumerate() {
            window = window << 8 | u64::from(*byte);
            if at + 1 < MIN_LENGTH {
                continue;
            }
            let Some(candidates) = index.by_tail.get(&index.keys.hash_one(window)) else {
                continue;
            };
            for candidate in candidates.iter().filter(|candidate| candidate.length <= at + 1) {
                let range = at + 1 - candidate.length..at + 1;
                if index.matches(candidate, &text[range.clone()]) {
                    found(range);
                }
            }
        }
    }
}

impl Index {
    /// None for a secret that is too short to be searched for.
    fn add(&mut self, secret: &str) -> Option<Fingerprint> {
        let secret = folded(secret.as_bytes());
        if secret.len() < MIN_LENGTH {
            return None;
        }
        let fingerprint = self.fingerprint(&secret);
        let alike = self.by_tail.entry(fingerprint.tail).or_default();
        if !alike.contains(&fingerprint) {
            alike.push(fingerprint);
            self.order.push_back(fingerprint);
            self.forget_excess();
        }
        Some(fingerprint)
    }

    fn fingerprint(&self, secret: &[u8]) -> Fingerprint {
        let window =
            |bytes: &[u8]| bytes.iter().fold(0_u64, |window, byte| window << 8 | u64::from(*byte));
        Fingerprint {
            length: secret.len(),
            head: self.keys.hash_one(window(&secret[..MIN_LENGTH])),
            tail: self.keys.hash_one(window(&secret[secret.len() - MIN_LENGTH..])),
            digest: self.digest(secret),
        }
    }

    fn digest(&self, secret: &[u8]) -> [u8; 16] {
        let key = self.keys.hash_one("digest").to_le_bytes();
        let whole = Sha256::new().chain_update(key).chain_update(secret).finalize();
        let mut half = [0; 16];
        half.copy_from_slice(&whole[..16]);
        half
    }

    /// The head first: a text may repeat the end of a secret many times.
    fn matches(&self, known: &Fingerprint, text: &[u8]) -> bool {
        let head = text[..MIN_LENGTH].iter().fold(0_u64, |head, byte| head << 8 | u64::from(*byte));
        self.keys.hash_one(head) == known.head && self.digest(text) == known.digest
    }

    /// Forgets the oldest ones that are not in use.
    fn forget_excess(&mut self) {
        for _ in 0..self.order.len() {
            if self.order.len() <= CAPACITY {
                return;
            }
            let Some(oldest) = self.order.pop_front() else { return };
            if self.in_use.contains_key(&oldest) {
                self.order.push_back(oldest);
            } else if let Some(alike) = self.by_tail.get_mut(&oldest.tail) {
                alike.retain(|other| *other != oldest);
                if alike.is_empty() {
                    self.by_tail.remove(&oldest.tail);
                }
            }
        }
    }

    fn release(&mut self, retired: Fingerprint) {
        let Some(count) = self.in_use.get_mut(&retired) else { return };
        *count -= 1;
        if *count == 0 {
            self.in_use.remove(&retired);
        }
    }
}

/// A form writes a space as `+`, and names of headers and hosts are written in small letters: both
/// are the same here.
fn folded(text: &[u8]) -> Vec<u8> {
    let fold = |byte: &u8| if *byte == b'+' { b' ' } else { byte.to_ascii_lowercase() };
    text.iter().map(fold).collect()
}

impl fmt::Debug for KnownSecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KnownSecrets({})", self.0.read().order.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::{AccessToken, ClientSecret, RefreshToken};

    #[test]
    fn every_place_of_a_secret_is_found_and_nothing_else() {
        let known = KnownSecrets::default();
        known.learn(&AccessToken::new("token-one-of-many"));
        known.learn(&ClientSecret::new("short"));
        let mut places = Vec::new();
        let text = "token-one-of-many, token-one-of-man, token-one-of-manytoken-one-of-many short";
        known.find(text.as_bytes(), |range| places.push(range.start));
        assert_eq!(places, [0, 37, 54]);
        assert_eq!(format!("{known:?}"), "KnownSecrets(1)");
    }

    #[test]
    fn the_oldest_are_forgotten_except_those_in_use() {
        let known = KnownSecrets::default();
        known.learn_lasting(&ClientSecret::new("the client secret"));
        let pair = |number: usize| {
            (
                AccessToken::new(format!("access-{number:08}")),
                RefreshToken::new(format!("refresh-{number:08}")),
            )
        };
        let (access, refresh) = pair(0);
        known.learn_current("idle", [&access as &dyn Secret, &refresh]);
        for number in 1..=CAPACITY {
            let (access, refresh) = pair(number);
            known.learn_current("busy", [&access as &dyn Secret, &refresh]);
        }
        assert!(known.occur_in("the client secret"), "lasting");
        assert!(known.occur_in("access-00000000") && known.occur_in("refresh-00000000"), "in use");
        assert!(known.occur_in(&format!("access-{CAPACITY:08}")), "the newest");
        assert!(known.occur_in(&format!("refresh-{:08}", CAPACITY - 100)), "retired");
        assert!(!known.occur_in("access-00000001"), "memory is bounded");
        assert!(known.0.read().order.len() <= CAPACITY);
        let other = pair(CAPACITY + 1).0;
        known.learn_current("idle", [&other as &dyn Secret]);
        assert_eq!(known.0.read().in_use.len(), 4);
    }
}
