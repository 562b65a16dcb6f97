//! The front channel: the URL a person is sent to, and what comes back (RFC 6749 sections 4.1.1 and
//! 4.1.2).

use url::Url;
use url::form_urlencoded;

use super::endpoint::Endpoint;
use super::pkce;
use crate::secret::{AuthorizationCode, CodeVerifier, LoginState};

/// Longest error text of a server that is shown to a person, in characters.
const SHOWN: usize = 200;

/// What an authorization request is made of.
#[derive(Debug)]
pub struct Request<'a> {
    /// The authorize endpoint.
    pub endpoint: &'a Endpoint,
    /// Our client id.
    pub client_id: &'a str,
    /// Where the answer goes, exactly as registered.
    pub redirect_uri: &'a str,
    /// Scopes to ask for.
    pub scopes: &'a [String],
    /// One-time value that ties the answer to this login.
    pub state: &'a LoginState,
    /// The secret half of PKCE.
    pub verifier: &'a CodeVerifier,
    /// The company or organisation that the account is bound to: a URN. Pleo's page on its OAuth
    /// parameters lists it (pleo.md 1.2); a server that does not know it ignores it (RFC 6749
    /// section 3.1).
    pub subject: Option<&'a str>,
}

impl Request<'_> {
    /// The authorize URL with every parameter; a space is written `%20`.
    pub fn url(&self) -> Url {
        let mut url = self.endpoint.url().clone();
        let scope = self.scopes.join(" ");
        let pairs = [
            ("response_type", "code"),
            ("client_id", self.client_id),
            ("redirect_uri", self.redirect_uri),
            ("scope", &scope),
            ("state", self.state.expose()),
            ("code_challenge", &pkce::challenge(self.verifier)),
            ("code_challenge_method", "S256"),
            ("urn_pleo_params_oauth_subject", self.subject.unwrap_or_default()),
        ];
        let mut query =
            form_urlencoded::Serializer::new(url.query().unwrap_or_default().to_owned());
        query.extend_pairs(pairs.iter().filter(|(_, value)| !value.is_empty()));
        // The serializer writes a space as `+`, and a plus sign as `%2B`.
        url.set_query(Some(&query.finish().replace('+', "%20")));
        url
    }
}

/// What the authorization server sent back, one of two.
#[derive(Debug)]
pub enum Callback {
    /// A code to exchange.
    Code {
        /// The one-time code.
        code: AuthorizationCode,
        /// Ties it to a login.
        state: LoginState,
        /// The issuer (RFC 9207), if the callback names one.
        issuer: Option<String>,
    },
    /// A refusal.
    Error {
        /// The `error` code, and the description where there is one, cut and free of control
        /// characters.
        message: String,
        /// Ties it to a login.
        state: LoginState,
    },
}

/// Why a callback is not one.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum CallbackError {
    /// A parameter came twice (RFC 6749 section 3.1).
    #[error("the parameter {0} came more than once")]
    Repeated(&'static str),
    /// It holds what no server sends (RFC 6749 appendix A: visible ASCII and space).
    #[error("the parameter {0} holds characters that it cannot have")]
    Malformed(&'static str),
    /// Neither code nor error, or no state.
    #[error("the parameter {0} is missing")]
    Missing(&'static str),
    /// Not an address that was redirected to, as it lacks a parameter or all of them.
    #[error(
        "this is not the address that the browser was sent to: it has no {0}; paste the whole address that the browser shows after the login, which has ?code=... and &state=..."
    )]
    NotRedirected(&'static str),
}

impl Callback {
    /// Reads the query of a callback, without the question mark.
    ///
    /// # Errors
    /// [`CallbackError`]; the login goes on.
    pub fn from_query(query: &str) -> Result<Self, CallbackError> {
        let state = LoginState::new(required(query, "state")?);
        if let Some(error) = single(query, "error")? {
            let description = single(query, "error_description")?;
            return Ok(Self::Error { message: refusal(&error, description.as_deref()), state });
        }
        let code = AuthorizationCode::new(required(query, "code")?);
        Ok(Self::Code { code, state, issuer: single(query, "iss")? })
    }

    /// Reads the whole address that the browser was sent to, as pasted by a person.
    ///
    /// # Errors
    /// [`CallbackError`]; the login goes on.
    pub fn from_address(address: &str) -> Result<Self, CallbackError> {
        let address = address.trim().trim_matches(['"', '\'', '<', '>']);
        let address = address.split('#').next().unwrap_or_default();
        let (_, query) = address.split_once('?').ok_or(CallbackError::NotRedirected("query"))?;
        Self::from_query(query).map_err(|error| match error {
            CallbackError::Missing(name) => CallbackError::NotRedirected(name),
            other => other,
        })
    }

    /// What ties the answer to a login.
    pub fn state(&self) -> &LoginState {
        match self {
            Self::Code { state, .. } | Self::Error { state, .. } => state,
        }
    }
}

/// True if an `iss` (RFC 9207) names the server of this authorize endpoint, that is, has the same
/// origin. Issuers often have a path, which is not in the settings.
pub fn issuer_matches(issuer: &str, authorize: &Endpoint) -> bool {
    Endpoint::parse(issuer).is_ok_and(|issuer| issuer.origin() == authorize.origin())
}

fn required(query: &str, name: &'static str) -> Result<String, CallbackError> {
    let value = single(query, name)?
        .filter(|value| !value.is_empty())
        .ok_or(CallbackError::Missing(name))?;
    if !value.bytes().all(|byte| (0x20..=0x7e).contains(&byte)) {
        return Err(CallbackError::Malformed(name));
    }
    Ok(value)
}

fn single(query: &str, name: &'static str) -> Result<Option<String>, CallbackError> {
    let mut values = form_urlencoded::parse(query.as_bytes()).filter(|(key, _)| key == name);
    let value = values.next().map(|(_, value)| value.into_owned());
    match values.next() {
        Some(_) => Err(CallbackError::Repeated(name)),
        None => Ok(value),
    }
}

fn refusal(error: &str, description: Option<&str>) -> String {
    let text = match description.filter(|text| !text.is_empty()) {
        Some(description) => format!("{error}: {description}"),
        None => error.to_owned(),
    };
    printable(&text, SHOWN)
}

/// At most `limit` characters, everything that could move a cursor or reorder text left out.
pub(super) fn printable(text: &str, limit: usize) -> String {
    let reorders = |c: char| matches!(c, '\u{200e}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    text.chars().filter(|c| !c.is_control() && !reorders(*c)).take(limit).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request_url(scopes: &[String]) -> Url {
        let endpoint = Endpoint::parse("https://auth.example/oauth/authorize?tenant=a").unwrap();
        Request {
            endpoint: &endpoint,
            client_id: "id:with space+and%",
            redirect_uri: "http://127.0.0.1:8089/callback",
            scopes,
            state: &LoginState::new("st"),
            verifier: &CodeVerifier::new("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"),
            subject: None,
        }
        .url()
    }

    #[test]
    fn url_has_every_parameter_and_percent_20() {
        let url = request_url(&["a:read".into(), "b:write".into()]);
        let text = url.as_str();
        assert!(text.contains("tenant=a&response_type=code"), "{text}");
        assert!(text.contains("scope=a%3Aread%20b%3Awrite"), "{text}");
        assert!(text.contains("client_id=id%3Awith%20space%2Band%25"), "{text}");
        assert!(
            text.contains("code_challenge=E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"),
            "{text}"
        );
        assert!(text.contains("code_challenge_method=S256") && text.contains("state=st"), "{text}");
        assert!(!text.contains("dBjft"), "the verifier stays here");
    }

    #[test]
    fn callback_reads_codes_and_refusals() {
        let Ok(Callback::Code { code, state, issuer }) =
            Callback::from_query("code=a%2Bb&state=s&iss=https%3A%2F%2Fx")
        else {
            panic!("a code")
        };
        assert_eq!(
            (code.expose(), state.expose(), issuer.as_deref()),
            ("a+b", "s", Some("https://x"))
        );
        let Ok(Callback::Error { message, .. }) = Callback::from_address(
            "https://h/cb?error=access_denied&error_description=a%0d%0ab&state=s#frag",
        ) else {
            panic!("a refusal")
        };
        assert_eq!(message, "access_denied: ab");
    }

    #[test]
    fn callback_refuses_the_odd() {
        for (query, expected) in [
            ("code=a&code=b&state=s", CallbackError::Repeated("code")),
            ("code=a&state=s&state=s", CallbackError::Repeated("state")),
            ("code=&state=s", CallbackError::Missing("code")),
            ("code=a%00&state=s", CallbackError::Malformed("code")),
            ("code=a", CallbackError::Missing("state")),
            ("", CallbackError::Missing("state")),
        ] {
            assert_eq!(Callback::from_query(query).unwrap_err(), expected, "{query}");
        }
        assert_eq!(
            Callback::from_address("hello").unwrap_err(),
            CallbackError::NotRedirected("query")
        );
        assert_eq!(
            Callback::from_address("http://127.0.0.1/callback?a=b").unwrap_err(),
            CallbackError::NotRedirected("state")
        );
    }

    #[test]
    fn issuer_is_compared_by_origin() {
        let authorize = Endpoint::parse("https://auth.example/oauth/authorize").unwrap();
        assert!(issuer_matches("https://auth.example", &authorize));
        assert!(issuer_matches("https://auth.example/realms/a", &authorize));
        assert!(!issuer_matches("https://auth.example.evil", &authorize));
        assert!(
            !issuer_matches("http://auth.example", &authorize)
                && !issuer_matches("pleo", &authorize)
        );
    }

    proptest::proptest! {
        #[test]
        fn callback_never_panics(query in ".*") {
            let _ = Callback::from_query(&query);
            let _ = Callback::from_address(&query);
        }
    }
}
