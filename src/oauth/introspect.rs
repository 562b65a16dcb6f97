//! Two questions about a token: does the authorization server still accept it (RFC 7662), and whose is it (the API's
//! `GET /v1/introspect`).

use serde_json::Value;

use super::authorize::printable;
use super::token::LARGEST_ANSWER;

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
pub enum IntrospectError {
    /// Nothing is there to ask.
    #[error("no introspection endpoint is set")]
    Absent,
    /// Network, status or form of the answer.
    #[error("{0}")]
    Failed(String),
}

/// Sends a prepared question and returns its JSON.
pub(super) async fn ask(request: reqwest::RequestBuilder) -> Result<Value, IntrospectError> {
    let fail = |error: reqwest::Error| IntrospectError::Failed(super::token::innermost(&error.without_url()));
    let mut response = request.send().await.map_err(fail)?;
    if !response.status().is_success() {
        return Err(IntrospectError::Failed(format!("it answered {}", response.status())));
    }
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(fail)? {
        if body.len() + chunk.len() > LARGEST_ANSWER {
            return Err(IntrospectError::Failed("its answer was too long".into()));
        }
        body.extend_from_slice(&chunk);
    }
    serde_json::from_slice(&body).map_err(|_| IntrospectError::Failed("it answered in no known form".into()))
}

/// `active` (RFC 7662 section 2.2).
///
/// # Errors
/// It is not there, or neither true nor false.
pub fn active(json: &Value) -> Result<bool, IntrospectError> {
    json.get("active").and_then(Value::as_bool).ok_or_else(|| IntrospectError::Failed("it did not say `active`".into()))
}

/// The subject URN, such as `urn:pleo:company:<uuid>` (pleo.md 1.7).
///
/// # Errors
/// It is not there.
pub fn subject(json: &Value) -> Result<String, IntrospectError> {
    let subject = json.pointer("/data/subjectURN").and_then(Value::as_str).map(|subject| printable(subject, 200));
    subject
        .filter(|subject| !subject.is_empty())
        .ok_or_else(|| IntrospectError::Failed("it named no subjectURN".into()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn reads_what_is_there_and_nothing_else() {
        assert!(active(&json!({"active": true})).unwrap());
        assert!(!active(&json!({"active": false})).unwrap());
        assert!(active(&json!({"active": "true"})).is_err() && active(&json!([])).is_err());
        assert_eq!(subject(&json!({"data": {"subjectURN": "urn:pleo:company:1"}})).unwrap(), "urn:pleo:company:1");
        assert!(subject(&json!({"data": {"subjectURN": "\u{200e}"}})).is_err());
        assert!(subject(&json!({"data": {}})).is_err() && subject(&json!(null)).is_err());
    }
}
