//! Two questions about a token: does the authorization server still accept it (RFC 7662), and whose
//! is it (the API's `GET /v1/introspect`).

use serde_json::Value;

use super::authorize::printable;
use super::fields::Fields;
use super::response::{self, End, Response, SendError};

/// Longest name of a company that is shown, in characters.
const MAX_NAME: usize = 100;

/// Scopes that are kept, at most.
const MAX_SCOPES: usize = 100;

/// Why a question was not answered.
#[derive(Debug, thiserror::Error)]
pub enum IntrospectError {
    /// There is no endpoint to ask.
    #[error("no introspection endpoint is set")]
    Absent,
    /// The credential cannot be in a header.
    #[error("the credential cannot be sent")]
    Unsendable,
    /// The response's status is not a success.
    #[error("it answered {0}")]
    Status(http::StatusCode),
    /// The network failed, or the response cannot be read.
    #[error("{0}")]
    Failed(String),
}

impl IntrospectError {
    /// True if the token that the question was asked with is not accepted.
    pub fn is_unauthorized(&self) -> bool {
        matches!(self, Self::Status(http::StatusCode::UNAUTHORIZED))
    }
}

/// Sends a prepared question whose response has the member `wanted`.
pub(super) async fn ask(
    request: reqwest::RequestBuilder,
    wanted: &str,
) -> Result<Response, IntrospectError> {
    let fail = |why: String| Err(IntrospectError::Failed(why));
    match response::send(request, &[wanted]).await {
        Ok(response) if response.status.is_success() => Ok(response),
        Ok(response) => Err(IntrospectError::Status(response.status)),
        Err(SendError::TimedOut) => fail("it did not answer in time".into()),
        Err(SendError::Failed(error)) => fail(response::explain(&error)),
    }
}

fn fields(body: &[u8], end: End, wanted: &str) -> Result<Fields, IntrospectError> {
    Fields::read(body, end == End::Whole, &[wanted])
        .ok_or_else(|| IntrospectError::Failed("it answered in no known form".into()))
}

/// `active` (RFC 7662 section 2.2). `false` ends a login, so it counts only in a complete object.
///
/// # Errors
/// It is missing, neither true nor false, or false in an incomplete response.
pub fn active(body: &[u8], end: End) -> Result<bool, IntrospectError> {
    let fields = fields(body, end, "active")?;
    match fields.get("active").and_then(Value::as_bool) {
        Some(false) if !fields.whole => Err(IntrospectError::Failed("its answer broke off".into())),
        Some(active) => Ok(active),
        None => Err(IntrospectError::Failed("it did not say `active`".into())),
    }
}

/// What the API says of a credential (pleo.md 1.7).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// The subject URN, such as `urn:pleo:company:<uuid>`, if it is named.
    pub subject: Option<String>,
    /// The scopes; none if they are not named.
    pub scope: Option<Vec<String>>,
}

/// Reads what the API says of a credential.
///
/// # Errors
/// It is in no known form.
pub fn identity(body: &[u8], end: End) -> Result<Identity, IntrospectError> {
    let fields = fields(body, end, "data")?;
    let text = |name: &str| fields.get("data").and_then(|data| data.get(name)?.as_str());
    let subject = text("subjectURN").map(|subject| printable(subject, 200));
    let scope = text("scope").map(|scope| {
        let words = scope.split([' ', '+']).filter(|word| !word.is_empty());
        words.take(MAX_SCOPES).map(|word| printable(word, 100)).collect()
    });
    Ok(Identity { subject: subject.filter(|subject| !subject.is_empty()), scope })
}

/// The subject that it names.
///
/// # Errors
/// It is missing.
pub fn subject(body: &[u8], end: End) -> Result<String, IntrospectError> {
    let named = identity(body, end)?.subject;
    named.ok_or_else(|| IntrospectError::Failed("it named no subjectURN".into()))
}

/// The id in the subject of a company, as it may stand in a path.
pub(super) fn company_id(subject: &str) -> Option<&str> {
    let is_id = |id: &&str| {
        (1..=64).contains(&id.len())
            && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    subject.strip_prefix("urn:pleo:company:").filter(is_id)
}

/// The name in the API's description of a company.
pub(super) fn company_name(body: &[u8], end: End) -> Option<String> {
    let fields = fields(body, end, "data").ok()?;
    let name = printable(fields.get("data")?.get("name")?.as_str()?, MAX_NAME);
    Some(name.trim().to_owned()).filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_company_is_named_as_the_api_names_it_and_asked_for_by_its_id_only() {
        let name = |body: &str| company_name(body.as_bytes(), End::Whole);
        let body = r#"{"data": {"id": "1", "name": " Harbour\u0007 Coffee "}}"#;
        assert_eq!(name(body).as_deref(), Some("Harbour Coffee"));
        assert_eq!(
            name(&format!(r#"{{"data": {{"name": "{}"}}}}"#, "x".repeat(900))).unwrap().len(),
            MAX_NAME
        );
        for none in
            [r#"{"data": {}}"#, r#"{"data": {"name": " "}}"#, r#"{"data": {"name": 5}}"#, "null"]
        {
            assert_eq!(name(none), None, "{none}");
        }
        assert_eq!(company_id("urn:pleo:company:c0a1-2"), Some("c0a1-2"));
        for other in
            ["urn:pleo:organisation:1", "urn:pleo:company:", "urn:pleo:company:../x", "c0a1"]
        {
            assert_eq!(company_id(other), None, "{other}");
        }
    }

    #[test]
    fn reads_what_is_there_and_nothing_else() {
        let active = |body: &str| active(body.as_bytes(), End::Whole);
        let subject = |body: &str| subject(body.as_bytes(), End::Whole);
        assert!(active(r#"{"active": true}"#).unwrap());
        assert!(!active(r#"{"active": false}"#).unwrap());
        assert!(active(r#"{"active": "true"}"#).is_err() && active("[]").is_err());
        assert_eq!(
            subject(r#"{"data": {"subjectURN": "urn:pleo:company:1"}}"#).unwrap(),
            "urn:pleo:company:1"
        );
        assert!(subject("{\"data\": {\"subjectURN\": \"\u{200e}\"}}").is_err());
        let whole = r#"{"data": {"authMethod": "API_KEY", "scope": "a:read+b:read  c:read"}}"#;
        let Identity { subject: none, scope } = identity(whole.as_bytes(), End::Whole).unwrap();
        assert_eq!(
            (none, scope.unwrap()),
            (None, vec!["a:read".into(), "b:read".into(), "c:read".into()])
        );
        assert!(subject(r#"{"data": {}}"#).is_err() && subject("null").is_err());
    }

    #[test]
    fn a_damaged_answer_never_says_inactive_and_loses_nothing_that_is_clear() {
        assert!(active(b"\xef\xbb\xbf{\"active\":true,\"scope\":\"\xff\"}", End::Whole).unwrap());
        assert!(!active(b"\xef\xbb\xbf{\"active\":false}\0", End::BrokenOff).unwrap());
        assert!(active(r#"{"active":true,"sco"#.as_bytes(), End::BrokenOff).unwrap());
        for odd in [
            r#"{"active":false"#,
            r#"{"active":false,"exp":"#,
            r#"{"active":fals"#,
            r#"{"active":false,junk}"#,
        ] {
            assert!(active(odd.as_bytes(), End::BrokenOff).is_err(), "{odd}");
        }
        for odd in
            ["", "{}", "{", "active=false", "<p>{\"inactive\":1}", r#"{"x":{"active":false}}"#]
        {
            assert!(active(odd.as_bytes(), End::Whole).is_err(), "{odd}");
        }
        let cut = r#"{"data":{"subjectURN":"urn:pleo:company:1","name":"x"#.as_bytes();
        assert_eq!(subject(cut, End::BrokenOff).unwrap(), "urn:pleo:company:1");
        assert!(
            subject(&cut[..35], End::BrokenOff).is_err(),
            "a part of a subject is another subject"
        );
    }
}
