//! Sealed records: encrypted and authenticated with AES-256-GCM-SIV, by a key that is not kept
//! beside them.
//!
//! The file is one JSON object `{"version", "key", "generation", "nonce", "sealed"}`. Environment,
//! account, version and generation are authenticated with the content: a record opens under its own
//! name, in its own environment and as its own generation only.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwapOption;
use aws_lc_rs::aead::{Aad, NONCE_LEN, Nonce};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
#[cfg(feature = "postgres")]
use data_encoding::HEXLOWER;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::decode_error::{DecodeError, VERSION};
use super::keys::{Key, KeyError, KeyId, KeyRing, KeySource};
use super::name::AccountName;
use super::record::Record;
use crate::redaction::KnownSecrets;

/// Begins a login that is not sealed, where a sealed one has the name of its key.
#[cfg(feature = "postgres")]
const PLAIN: &[u8] = b"plain   ";
#[cfg(feature = "postgres")]
const KEY_ID_LEN: usize = 8;

const DOES_NOT_OPEN: &str = "its seal does not open: it was changed, or is another account's, generation's or environment's";

/// How records are kept: as they are, or sealed.
#[derive(Debug, Default)]
pub struct Sealing {
    environment: String,
    source: KeySource,
    ring: ArcSwapOption<KeyRing>,
    /// Where keys are made known that are read later.
    known: OnceLock<KnownSecrets>,
}

/// How a record is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Protection {
    /// Whoever reads the file has the tokens.
    Plain,
    /// Sealed with the key of this name.
    Sealed(KeyId),
}

/// The keys that a process holds, for other processes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct KeysHeld {
    /// Names of the keys.
    pub keys: Vec<String>,
    /// The file in which it finds keys that are added.
    pub finds_more_in: Option<PathBuf>,
}

impl KeysHeld {
    /// True if the process can open what is sealed with this key of another process.
    pub fn open(&self, key: &KeyId, others: &Self) -> bool {
        let finds_it = self.finds_more_in.is_some() && self.finds_more_in == others.finds_more_in;
        finds_it || self.keys.iter().any(|held| held == key.as_str())
    }
}

/// The names under which a record opens: its own, or on its way to another one both.
#[derive(Clone, Copy, Debug)]
pub(super) enum Names<'a> {
    One(&'a str),
    Both(&'a str, &'a str),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Envelope {
    version: u32,
    key: String,
    generation: u64,
    /// While it is renamed: the old name and the new one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    names: Option<(String, String)>,
    nonce: String,
    sealed: String,
}

/// What tells a sealed record from a plain one, whatever its version.
#[derive(Deserialize)]
struct Head {
    version: u32,
    sealed: Option<IgnoredAny>,
}

impl Sealing {
    /// Records are kept as they are.
    pub fn none() -> Self {
        Self::default()
    }

    /// Records of this environment are sealed with the first key of the source, if it has one.
    ///
    /// # Errors
    /// The keys cannot be read.
    pub fn new(environment: &str, source: KeySource) -> Result<Self, KeyError> {
        let ring = ArcSwapOption::from(source.read()?.map(Arc::new));
        Ok(Self { environment: environment.into(), source, ring, known: OnceLock::new() })
    }

    /// Name of the key that seals; none if records are kept as they are.
    pub fn key(&self) -> Option<KeyId> {
        self.ring.load().as_ref().map(|ring| ring.first().id.clone())
    }

    /// The keys that this process holds.
    pub(super) fn held(&self) -> KeysHeld {
        let ring = self.ring.load();
        let keys = ring.iter().flat_map(|ring| ring.all()).map(|key| key.id.to_string());
        // One file may be named in several ways.
        let file = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let finds_more_in = self.source.changing_file().map(file);
        KeysHeld { keys: keys.collect(), finds_more_in }
    }

    /// Makes all keys known as secrets, also those that are read later.
    pub(super) fn make_known(&self, known: &KnownSecrets) {
        let known = self.known.get_or_init(|| known.clone());
        if let Some(ring) = self.ring.load().as_ref() {
            ring.all().for_each(|key| known.learn_lasting(&key.secret));
        }
    }

    /// The bytes on disk.
    pub(super) fn encode(
        &self,
        names: Names<'_>,
        record: &Record,
    ) -> io::Result<Zeroizing<Vec<u8>>> {
        // A key that was taken out of its file must seal nothing more: nobody keeps it. If the file
        // cannot be read, nothing is known of that.
        let _ = self.read_again();
        let ring = self.ring.load();
        match ring.as_ref() {
            None => Ok(record.encode()),
            Some(ring) => self.seal(names, record, ring.first()),
        }
    }

    fn seal(&self, names: Names<'_>, record: &Record, key: &Key) -> io::Result<Zeroizing<Vec<u8>>> {
        let mut nonce = [0; NONCE_LEN];
        getrandom::fill(&mut nonce).map_err(|error| io::Error::other(error.to_string()))?;
        let mut content = record.encode_content();
        let bound = self.bound_to(names, record.generation);
        let unique = Nonce::assume_unique_for_key(nonce);
        // The tag comes behind only then: a vector that grows leaves its content behind.
        let tag = key
            .cipher
            .seal_in_place_separate_tag(unique, Aad::from(bound), &mut content)
            .expect("a record is shorter than the longest message of the cipher");
        content.extend_from_slice(tag.as_ref());
        let names = match names {
            Names::One(_) => None,
            Names::Both(from, to) => Some((from.to_owned(), to.to_owned())),
        };
        let envelope = Envelope {
            version: VERSION,
            key: key.id.to_string(),
            generation: record.generation,
            names,
            nonce: STANDARD.encode(nonce),
            sealed: STANDARD.encode(&*content),
        };
        Ok(Zeroizing::new(envelope.encode()))
    }

    /// Seals what is needed to finish a login, as records are.
    #[cfg(feature = "postgres")]
    pub(super) fn seal_login(
        &self,
        account: &AccountName,
        id: &[u8],
        content: &[u8],
    ) -> io::Result<Vec<u8>> {
        let _ = self.read_again();
        let ring = self.ring.load();
        let Some(ring) = ring.as_ref() else { return Ok([PLAIN, content].concat()) };
        let key = ring.first();
        let mut nonce = [0; NONCE_LEN];
        getrandom::fill(&mut nonce).map_err(|error| io::Error::other(error.to_string()))?;
        let mut content = Zeroizing::new(content.to_vec());
        let (unique, bound) =
            (Nonce::assume_unique_for_key(nonce), self.bound_to_login(account, id));
        let tag = key
            .cipher
            .seal_in_place_separate_tag(unique, Aad::from(bound), &mut content)
            .expect("a login is shorter than the longest message of the cipher");
        Ok([key.id.as_str().as_bytes(), &nonce, &content, tag.as_ref()].concat())
    }

    /// Opens it; none if it is not what this account's login of this id was.
    #[cfg(feature = "postgres")]
    pub(super) fn open_login(
        &self,
        account: &AccountName,
        id: &[u8],
        sealed: &[u8],
    ) -> Option<Zeroizing<Vec<u8>>> {
        let mut bytes = Zeroizing::new(sealed.to_vec());
        if let Some(content) = bytes.strip_prefix(PLAIN) {
            return Some(Zeroizing::new(content.to_vec()));
        }
        let (name, rest) = bytes.split_at_mut_checked(KEY_ID_LEN)?;
        let key = KeyId::new(std::str::from_utf8(name).ok()?);
        let (nonce, content) = rest.split_at_mut_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let ring = self.ring_with(&key).ok()?;
        let bound = self.bound_to_login(account, id);
        let opened =
            ring.find(&key)?.cipher.open_in_place(nonce, Aad::from(bound), content).ok()?;
        Some(Zeroizing::new(opened.to_vec()))
    }

    #[cfg(feature = "postgres")]
    fn bound_to_login(&self, account: &AccountName, id: &[u8]) -> Vec<u8> {
        let (environment, id) = (&self.environment, HEXLOWER.encode(id));
        format!("pleo-proxy login\n{environment}\n{account}\n{id}").into_bytes()
    }

    /// Reads the bytes on disk.
    pub(super) fn decode(
        &self,
        account: &AccountName,
        bytes: &[u8],
    ) -> Result<(Record, Protection), DecodeError> {
        let Some(envelope) = Envelope::decode(bytes)? else {
            return Ok((Record::decode(bytes)?, Protection::Plain));
        };
        let id = KeyId::new(&*envelope.key);
        Ok((self.open(account, envelope, &id)?, Protection::Sealed(id)))
    }

    fn open(
        &self,
        account: &AccountName,
        envelope: Envelope,
        id: &KeyId,
    ) -> Result<Record, DecodeError> {
        let ring = self.ring_with(id)?;
        let key = ring.find(id).ok_or_else(|| DecodeError::NoKey(id.clone()))?;
        let names = match &envelope.names {
            None => Names::One(account.as_str()),
            Some((from, to)) if [from, to].iter().any(|name| **name == *account.as_str()) => {
                Names::Both(from, to)
            }
            Some(_) => return Err(DecodeError::Corrupt(DOES_NOT_OPEN)),
        };
        let bound = self.bound_to(names, envelope.generation);
        let not_ours = |_| DecodeError::Corrupt(DOES_NOT_OPEN);
        let nonce = STANDARD.decode(envelope.nonce).map_err(|_| not_ours(()))?;
        let nonce = Nonce::try_assume_unique_for_key(&nonce).map_err(|_| not_ours(()))?;
        let sealed = STANDARD.decode(envelope.sealed).map_err(|_| not_ours(()))?;
        let mut sealed = Zeroizing::new(sealed);
        let content = key.cipher.open_in_place(nonce, Aad::from(bound), &mut sealed);
        Record::decode_content(content.map_err(|_| not_ours(()))?)
    }

    /// The keys, if this one is among them. A file is read again for one that is not: keys are
    /// changed while proxies run.
    fn ring_with(&self, id: &KeyId) -> Result<Arc<KeyRing>, DecodeError> {
        let with_it = || self.ring.load_full().filter(|ring| ring.find(id).is_some());
        if let Some(ring) = with_it() {
            return Ok(ring);
        }
        self.read_again().map_err(|error| DecodeError::KeysUnreadable {
            id: id.clone(),
            why: error.to_string(),
            is_passing: error.is_passing(),
        })?;
        with_it().ok_or_else(|| DecodeError::NoKey(id.clone()))
    }

    /// Reads a file of keys again. If that fails, the keys stay as they are: the file may be being
    /// written.
    fn read_again(&self) -> Result<(), KeyError> {
        if self.source.changing_file().is_none() {
            return Ok(());
        }
        let Some(mut ring) = self.source.read()? else { return Ok(()) };
        if let Some(before) = self.ring.load().as_ref() {
            ring = ring.joined_with(before);
            if ring.is_same(before) {
                return Ok(());
            }
        }
        self.ring.store(Some(Arc::new(ring)));
        if let Some(known) = self.known.get() {
            self.make_known(known);
        }
        Ok(())
    }

    /// What is authenticated with the content. No part can contain a line break.
    fn bound_to(&self, names: Names<'_>, generation: u64) -> Vec<u8> {
        let names = match names {
            Names::One(name) => name.to_owned(),
            Names::Both(from, to) => format!("{from}>{to}"),
        };
        let environment = &self.environment;
        format!("pleo-proxy record\n{VERSION}\n{environment}\n{names}\n{generation}").into_bytes()
    }
}

/// How these bytes are kept, which needs no key.
pub(super) fn protection(bytes: &[u8]) -> Result<Protection, DecodeError> {
    Ok(match Envelope::decode(bytes)? {
        None => Protection::Plain,
        Some(envelope) => Protection::Sealed(KeyId::new(envelope.key)),
    })
}

impl Envelope {
    fn encode(&self) -> Vec<u8> {
        let mut bytes =
            serde_json::to_vec(self).expect("numbers and strings always have a JSON form");
        bytes.push(b'\n');
        bytes
    }

    /// `None` for a record that is not sealed.
    fn decode(bytes: &[u8]) -> Result<Option<Self>, DecodeError> {
        let Ok(Head { version, sealed: Some(_) }) = serde_json::from_slice(bytes) else {
            return Ok(None);
        };
        if version != VERSION {
            return Err(DecodeError::Version(version));
        }
        let envelope: Self =
            serde_json::from_slice(bytes).map_err(|_| DecodeError::Corrupt("unknown fields"))?;
        // There is one form of each record, so that a changed one is never taken for it.
        if envelope.encode() != bytes {
            return Err(DecodeError::Corrupt("not as it was written"));
        }
        Ok(Some(envelope))
    }
}

#[cfg(test)]
mod tests {
    use super::super::keys::fresh_key;
    use super::super::record::EndReason;
    use super::*;
    use crate::secret::StoreKey;

    fn record(generation: u64) -> Record {
        let reason = EndReason::Sentence { text: "canary".into() };
        Record::tombstone(generation, 5, reason)
    }

    fn key() -> (StoreKey, KeyId) {
        fresh_key().unwrap()
    }

    fn sealing(environment: &str, keys: &[&StoreKey]) -> Sealing {
        let keys: Vec<_> = keys.iter().map(|key| key.expose()).collect();
        let source = KeySource::Value(StoreKey::new(keys.join("\n")));
        Sealing::new(environment, source).unwrap()
    }

    fn name(text: &str) -> AccountName {
        text.parse().unwrap()
    }

    fn seal(sealing: &Sealing, generation: u64) -> Vec<u8> {
        sealing.encode(Names::One("acme"), &record(generation)).unwrap().to_vec()
    }

    fn refused(sealing: &Sealing, account: &str, bytes: &[u8]) -> DecodeError {
        sealing.decode(&name(account), bytes).unwrap_err()
    }

    #[test]
    fn a_sealed_record_opens_to_what_was_sealed_and_shows_nothing_of_it() {
        let (key, id) = key();
        let sealing = sealing("sandbox", &[&key]);
        let bytes = seal(&sealing, 7);
        assert_eq!(sealing.decode(&name("acme"), &bytes).unwrap().0.encode(), record(7).encode());
        let text = String::from_utf8(bytes.clone()).unwrap();
        assert!(!text.contains("canary") && !text.contains(key.expose()), "{text}");
        assert_eq!(protection(&bytes).unwrap(), Protection::Sealed(id.clone()));
        assert_eq!(sealing.key(), Some(id));
        assert_ne!(seal(&sealing, 7), bytes, "each time with a nonce of its own");
    }

    #[test]
    fn every_changed_byte_is_noticed() {
        let (key, _) = key();
        let sealing = sealing("sandbox", &[&key]);
        let bytes = sealing.encode(Names::Both("acme", "beta"), &record(7)).unwrap();
        for at in 0..bytes.len() {
            for other in (0..=u8::MAX).filter(|other| *other != bytes[at]) {
                let mut changed = bytes.to_vec();
                changed[at] = other;
                assert!(sealing.decode(&name("acme"), &changed).is_err(), "byte {at} as {other}");
            }
            assert!(sealing.decode(&name("acme"), &bytes[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn a_record_opens_under_its_own_name_generation_and_environment_only() {
        let (key, _) = key();
        let (ours, other) = (sealing("staging", &[&key]), sealing("production", &[&key]));
        let bytes = seal(&ours, 7);
        let corrupt = DecodeError::Corrupt(DOES_NOT_OPEN);
        assert_eq!(refused(&ours, "beta", &bytes), corrupt);
        assert_eq!(refused(&other, "acme", &bytes), corrupt);
        let older = String::from_utf8(seal(&ours, 6)).unwrap();
        let renumbered = older.replace("\"generation\":6", "\"generation\":8");
        assert_ne!(renumbered, older);
        assert_eq!(refused(&ours, "acme", renumbered.as_bytes()), corrupt);
        let moving = ours.encode(Names::Both("acme", "beta"), &record(7)).unwrap();
        assert!(["acme", "beta"].iter().all(|it| ours.decode(&name(it), &moving).is_ok()));
        assert_eq!(refused(&ours, "gamma", &moving), corrupt);
        let moving = String::from_utf8(moving.to_vec()).unwrap();
        let renamed = moving.replace("[\"acme\",\"beta\"]", "[\"acme\",\"gamma\"]");
        assert_ne!(renamed, moving);
        assert_eq!(refused(&ours, "acme", renamed.as_bytes()), corrupt);
    }

    #[test]
    fn every_key_opens_the_first_one_seals_and_a_key_that_is_not_there_is_named() {
        let ((old, old_id), (new, new_id)) = (key(), key());
        let (before, after) = (sealing("sandbox", &[&old]), sealing("sandbox", &[&new, &old]));
        let bytes = seal(&before, 7);
        assert_eq!(after.decode(&name("acme"), &bytes).unwrap().0.generation, 7);
        assert_eq!(protection(&seal(&after, 7)).unwrap(), Protection::Sealed(new_id.clone()));
        let refused = refused(&sealing("sandbox", &[&new]), "acme", &bytes);
        assert_eq!(refused, DecodeError::NoKey(old_id.clone()));
        let none = Sealing::none().decode(&name("acme"), &bytes).unwrap_err();
        assert_eq!(none, DecodeError::NoKey(old_id));
        assert_eq!(after.decode(&name("acme"), &record(3).encode()).unwrap().0.generation, 3);
    }

    #[test]
    fn a_key_that_is_added_to_the_file_is_found_when_it_is_needed_and_known_as_a_secret() {
        let ((old, _), (new, new_id)) = (key(), key());
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store-key");
        let write = |text: &str| crate::private_file::replace(&path, text.as_bytes()).unwrap();
        write(old.expose());
        let running = Sealing::new("sandbox", KeySource::File(path.clone())).unwrap();
        let known = KnownSecrets::default();
        running.make_known(&known);
        assert!(known.occur_in(old.expose()) && !known.occur_in(new.expose()));
        write(&format!("{}\n{}\n", new.expose(), old.expose()));
        let bytes = seal(&sealing("sandbox", &[&new]), 7);
        assert_eq!(running.decode(&name("acme"), &bytes).unwrap().0.generation, 7);
        assert_eq!(running.key(), Some(new_id), "and seals from here on");
        assert!(known.occur_in(new.expose()));
    }

    #[test]
    fn a_save_seals_with_the_first_key_that_the_file_has_by_then_and_old_keys_still_open() {
        let ((old, old_id), (new, new_id)) = (key(), key());
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store-key");
        let write = |text: &str| crate::private_file::replace(&path, text.as_bytes()).unwrap();
        let (old_first, new_first) = (
            format!("{}\n{}\n", old.expose(), new.expose()),
            format!("{}\n{}\n", new.expose(), old.expose()),
        );
        for (before, between) in
            [(&*old_first, &*new_first), (old.expose(), &new_first), (old.expose(), "# half")]
        {
            write(before);
            let running = Sealing::new("sandbox", KeySource::File(path.clone())).unwrap();
            let sealed_with = |bytes: &[u8]| protection(bytes).unwrap();
            let sealed_before = seal(&running, 7);
            assert_eq!(sealed_with(&sealed_before), Protection::Sealed(old_id.clone()));
            write(between);
            assert!(running.decode(&name("acme"), &seal(&running, 8)).is_ok(), "{between}");
            write(new.expose());
            assert_eq!(sealed_with(&seal(&running, 9)), Protection::Sealed(new_id.clone()));
            assert!(running.decode(&name("acme"), &sealed_before).is_ok(), "{between}");
            write("# nothing");
            assert_eq!(sealed_with(&seal(&running, 10)), Protection::Sealed(new_id.clone()));
        }
    }

    #[test]
    fn only_the_same_file_of_keys_is_read_again() {
        let ((old, _), (_, new_id)) = (key(), key());
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for name in ["one", "two"] {
            crate::private_file::replace(&path(name), old.expose().as_bytes()).unwrap();
        }
        let held = |source| Sealing::new("sandbox", source).unwrap().held();
        let one = held(KeySource::File(path("one")));
        assert!(one.open(&new_id, &held(KeySource::File(folder.path().join("./one")))));
        for others in [
            held(KeySource::File(path("two"))),
            held(KeySource::Credential(path("one"))),
            held(KeySource::Value(old.clone())),
        ] {
            assert!(!one.open(&new_id, &others) && !others.open(&new_id, &one), "{others:?}");
            assert!(!others.open(&new_id, &others.clone()) || others.finds_more_in.is_some());
        }
    }
}
