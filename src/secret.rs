//! Secrets as types that cannot be printed.
//!
//! Each kind of secret is its own newtype: `Debug` is redacted, there is no `Display` and no
//! `Serialize`, the memory is overwritten on drop. [`expose`](AccessToken::expose) is the only way
//! out, and `tests/rules/architecture.rs` lists the files that may call it.

use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use data_encoding::HEXLOWER;
use http::HeaderValue;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

/// Any of the secrets below, for the code that treats all of them alike.
pub trait Secret {
    /// The secret itself, for the one place where it must leave its type.
    fn expose(&self) -> &str;
}

macro_rules! secret {
    ($($(#[$doc:meta])* $name:ident;)+) => {$(
        $(#[$doc])*
        #[derive(Clone)]
        pub struct $name(Zeroizing<String>);

        impl $name {
            /// Takes ownership of the secret.
            pub fn new(value: impl Into<String>) -> Self {
                Self(Zeroizing::new(value.into()))
            }

            /// The secret itself, for the one place where it must leave its type.
            pub fn expose(&self) -> &str {
                &self.0
            }

            /// Equality in constant time for values of one length.
            pub fn matches(&self, other: &str) -> bool {
                self.0.as_bytes().ct_eq(other.as_bytes()).into()
            }
        }

        impl Secret for $name {
            fn expose(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($name), "([redacted])"))
            }
        }
    )+};
}

secret! {
    /// Single-use token that is exchanged for the next pair (RFC 6749 section 6).
    RefreshToken;
    /// Authenticates the client at the token endpoint (RFC 6749 section 2.3.1).
    ClientSecret;
    /// Authorization code (RFC 6749 section 4.1.2).
    AuthorizationCode;
    /// PKCE code verifier (RFC 7636 section 4.1).
    CodeVerifier;
    /// The one-time `state` of a login (RFC 6749 section 10.12).
    LoginState;
    /// Key that callers of the data listener must send when `local_key_file` is set.
    LocalKey;
    /// Key of the admin listener's API.
    AdminKey;
    /// A static key for Pleo's API, which its customers use in place of a login.
    ApiKey;
    /// Key that seals the records of the store: base64 of 32 bytes, or several of them in lines.
    StoreKey;
    /// URL of the database that keeps the accounts, with its password; or that password.
    DatabaseSecret;
    /// Key with which Pleo signs what it sends to a webhook (`whsec_...`).
    WebhookSecret;
}

const BEARER: &str = "Bearer ";

/// Bearer token for the API (RFC 6750). It is in memory once, in the form of its header; clones and
/// headers share it.
#[derive(Clone)]
pub struct AccessToken(SharedText);

#[derive(Clone)]
struct SharedText(Arc<Zeroizing<String>>);

impl AsRef<[u8]> for SharedText {
    fn as_ref(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl AccessToken {
    /// Takes the secret over.
    pub fn new(value: impl Into<String>) -> Self {
        let value = Zeroizing::new(value.into());
        Self(SharedText(Arc::new(Zeroizing::new([BEARER, value.as_str()].concat()))))
    }

    /// The secret itself, for the one place where it must leave its type.
    pub fn expose(&self) -> &str {
        &self.0.0[BEARER.len()..]
    }

    /// Value of the `Authorization` header, marked sensitive; none if the token cannot be in a
    /// header.
    pub fn header(&self) -> Option<HeaderValue> {
        let mut header = HeaderValue::from_maybe_shared(Bytes::from_owner(self.0.clone())).ok()?;
        header.set_sensitive(true);
        Some(header)
    }
}

impl Secret for AccessToken {
    fn expose(&self) -> &str {
        AccessToken::expose(self)
    }
}

impl fmt::Debug for AccessToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AccessToken([redacted])")
    }
}

impl ApiKey {
    /// Value of the `Authorization` header, marked sensitive: `Basic base64("KEY:")`, as Pleo wants
    /// its API keys. None if the key cannot be in a header.
    pub fn header(&self) -> Option<HeaderValue> {
        let pair = Zeroizing::new(format!("{}:", self.expose()));
        let text = Zeroizing::new(format!("Basic {}", STANDARD.encode(pair.as_bytes())));
        let mut header = HeaderValue::from_str(&text).ok()?;
        header.set_sensitive(true);
        Some(header)
    }

    /// True if both are one key.
    pub fn is(&self, other: &Self) -> bool {
        self.matches(other.expose())
    }

    /// Enough to recognise it by: its last four characters, of a key that is long enough.
    pub fn masked(&self) -> String {
        let key = self.expose();
        let tail =
            key.len().checked_sub(4).filter(|_| key.len() >= 16).and_then(|at| key.get(at..));
        format!("****{}", tail.unwrap_or_default())
    }
}

impl ClientSecret {
    /// True if it begins or ends with a space: allowed (RFC 6749 appendix A.2), but usually a
    /// mistake.
    pub fn has_outer_space(&self) -> bool {
        self.0.trim() != self.0.as_str()
    }
}

impl RefreshToken {
    /// A short hash, 48 of 256 bits, that tells two tokens apart in the intent and in logs without
    /// revealing them.
    pub fn fingerprint(&self) -> String {
        let digest = Sha256::digest(self.0.as_bytes());
        HEXLOWER.encode(&digest[..6])
    }
}

/// A fresh random secret of 256 bits, base64url without padding: 43 characters of `[A-Za-z0-9-_]`.
///
/// # Errors
/// The operating system gives no randomness.
pub fn random() -> Result<Zeroizing<String>, getrandom::Error> {
    let mut bytes = Zeroizing::new([0_u8; 32]);
    getrandom::fill(bytes.as_mut())?;
    Ok(Zeroizing::new(URL_SAFE_NO_PAD.encode(bytes.as_ref())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_never_shows_the_secret() {
        let shown =
            format!("{:?} {:?}", AccessToken::new("canary-a"), Some(RefreshToken::new("canary-r")));
        assert!(!shown.contains("canary"), "{shown}");
        assert!(shown.contains("[redacted]"));
    }

    #[test]
    fn random_is_43_unreserved_characters_and_never_the_same() {
        let (a, b) = (random().unwrap(), random().unwrap());
        assert_eq!(a.len(), 43);
        assert!(a.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)));
        assert_ne!(a, b);
    }

    #[test]
    fn an_access_token_and_its_header_share_one_copy() {
        let token = AccessToken::new("abc");
        let header = token.header().unwrap();
        assert!(header.is_sensitive());
        assert_eq!((token.expose(), header.to_str().unwrap()), ("abc", "Bearer abc"));
        assert_eq!(token.expose().as_ptr(), header.as_bytes()[BEARER.len()..].as_ptr());
        assert_eq!(AccessToken::new("a\nb").header(), None);
    }

    #[test]
    fn an_api_key_is_sent_as_user_name_and_shown_by_its_end() {
        let key = ApiKey::new("key");
        let header = key.header().unwrap();
        assert_eq!(header, "Basic a2V5Og==");
        assert!(header.is_sensitive());
        assert_eq!(key.masked(), "****");
        assert_eq!(ApiKey::new("plp_0123456789abcd").masked(), "****abcd");
    }

    #[test]
    fn matches_compares_the_whole_value() {
        let key = LocalKey::new("abc");
        assert!(key.matches("abc"));
        assert!(!key.matches("abd") && !key.matches("ab") && !key.matches("abcd"));
    }
}
