//! Placeholders for personal data: within one export the same person has the same placeholder, and
//! between two exports there is no link.

use std::fmt;

use data_encoding::HEXLOWER;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::names::Personal;
use crate::secret;

/// Makes the placeholders of one export.
#[derive(Clone)]
pub struct Pseudonyms {
    key: Zeroizing<String>,
}

impl Pseudonyms {
    /// With a fresh key, which is forgotten with the export.
    ///
    /// # Errors
    /// The system has no random numbers.
    pub fn new() -> Result<Self, getrandom::Error> {
        Ok(Self { key: secret::random()? })
    }

    /// The placeholder of a value, whatever its case and the blanks in it.
    pub(super) fn of(&self, what: Personal, value: &str) -> String {
        let value: String =
            value.chars().filter(|c| !c.is_whitespace()).flat_map(char::to_lowercase).collect();
        let digest = Sha256::new()
            .chain_update(self.key.as_bytes())
            .chain_update(what.as_str())
            .chain_update(value)
            .finalize();
        format!("[{} {}]", what.as_str(), HEXLOWER.encode(&digest[..4]))
    }
}

impl fmt::Debug for Pseudonyms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pseudonyms([redacted])")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_person_has_one_placeholder_in_an_export_and_another_in_the_next() {
        let (one, other) = (Pseudonyms::new().unwrap(), Pseudonyms::new().unwrap());
        let mail = one.of(Personal::Email, "Ada@Example.com");
        assert_eq!(mail, one.of(Personal::Email, "ada@example.com "));
        assert_ne!(mail, one.of(Personal::Email, "bob@example.com"));
        assert_ne!(mail, other.of(Personal::Email, "ada@example.com"));
        assert!(mail.starts_with("[email ") && mail.len() == "[email 01234567]".len());
    }
}
