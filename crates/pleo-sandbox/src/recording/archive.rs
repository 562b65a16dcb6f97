//! Reads a recording in the form of HAR 1.2, and says where it is wrong.

use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::Value;
use url::Url;

use super::super::response::Problem;
use super::asked::Asked;

/// Headers of a recorded response that are sent again. The others belong to its connection, or to
/// Pleo's servers.
const KEPT_HEADERS: [HeaderName; 9] = [
    header::CONTENT_TYPE,
    header::CONTENT_DISPOSITION,
    header::CONTENT_LANGUAGE,
    header::ETAG,
    header::LAST_MODIFIED,
    header::LINK,
    header::LOCATION,
    header::RETRY_AFTER,
    header::WWW_AUTHENTICATE,
];

/// Why a recording cannot be used.
#[derive(Debug)]
pub struct RecordingError {
    /// Where: a line and column, or a field such as `log.entries[3].response`.
    place: String,
    problem: String,
}

impl std::fmt::Display for RecordingError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.place, self.problem)
    }
}

impl std::error::Error for RecordingError {}

#[derive(Debug)]
pub(super) struct Exchange {
    pub(super) request: Asked,
    status: StatusCode,
    headers: Vec<(HeaderName, HeaderValue)>,
    /// Or why there is none.
    pub(super) body: Result<Vec<u8>, String>,
}

#[derive(Deserialize)]
struct Har {
    log: Log,
}

#[derive(Deserialize)]
struct Log {
    entries: Vec<HarEntry>,
}

/// The parts are read one by one, so that an error names its place.
#[derive(Deserialize)]
struct HarEntry {
    #[serde(default)]
    request: Value,
    #[serde(default)]
    response: Value,
}

#[derive(Deserialize)]
struct HarRequest {
    method: String,
    url: String,
    #[serde(rename = "postData")]
    post_data: Option<PostData>,
}

#[derive(Deserialize)]
struct PostData {
    text: Option<String>,
}

#[derive(Deserialize)]
struct HarResponse {
    status: u16,
    #[serde(default)]
    headers: Vec<HarHeader>,
    #[serde(default)]
    content: HarContent,
}

#[derive(Deserialize)]
struct HarHeader {
    name: String,
    value: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct HarContent {
    size: i64,
    #[serde(rename = "mimeType")]
    mime_type: String,
    text: Option<String>,
    encoding: Option<String>,
    comment: Option<String>,
}

/// Reads the exchanges; those without a response are left out.
pub(super) fn read(har: &[u8]) -> Result<Vec<Exchange>, RecordingError> {
    let har: Har = serde_json::from_slice(har).map_err(|error| RecordingError {
        place: format!("line {}, column {}", error.line(), error.column()),
        problem: format!("this is no HTTP archive (HAR 1.2): {error}"),
    })?;
    let mut exchanges = Vec::new();
    for (number, entry) in har.log.entries.into_iter().enumerate() {
        let place = |part: &str| format!("log.entries[{number}].{part}");
        let request = parse(entry.request, &place("request"))?;
        let response: HarResponse = parse(entry.response, &place("response"))?;
        if response.status == 0 {
            continue;
        }
        let request = asked(request)
            .map_err(|problem| RecordingError { place: place("request.url"), problem })?;
        exchanges.push(Exchange::new(request, response, &place("response"))?);
    }
    Ok(exchanges)
}

fn parse<T: serde::de::DeserializeOwned>(part: Value, place: &str) -> Result<T, RecordingError> {
    serde_json::from_value(part)
        .map_err(|error| RecordingError { place: place.to_owned(), problem: error.to_string() })
}

fn asked(request: HarRequest) -> Result<Asked, String> {
    let here = Url::parse("http://localhost").map_err(|error| error.to_string())?;
    let url = here.join(&request.url).map_err(|error| format!("{error} ({:?})", request.url))?;
    let body = request.post_data.and_then(|data| data.text);
    let body = body.filter(|body| !body.is_empty()).map(String::into_bytes);
    Ok(Asked::new(request.method, &url, body))
}

impl Exchange {
    fn new(request: Asked, recorded: HarResponse, place: &str) -> Result<Self, RecordingError> {
        let bad = |part: &str, problem: String| RecordingError {
            place: format!("{place}.{part}"),
            problem,
        };
        let status = StatusCode::from_u16(recorded.status)
            .map_err(|_| bad("status", format!("{} is no status", recorded.status)))?;
        let mut headers = Vec::new();
        for (number, HarHeader { name, value }) in recorded.headers.into_iter().enumerate() {
            let Some(kept) =
                KEPT_HEADERS.iter().find(|kept| name.eq_ignore_ascii_case(kept.as_str()))
            else {
                continue;
            };
            let value = HeaderValue::from_str(&value).map_err(|_| {
                bad(&format!("headers[{number}].value"), "no header can have this value".to_owned())
            })?;
            headers.push((kept.clone(), value));
        }
        let content = recorded.content;
        if !headers.iter().any(|(name, _)| *name == header::CONTENT_TYPE)
            && content.mime_type.contains('/')
            && let Ok(kind) = HeaderValue::from_str(&content.mime_type)
        {
            headers.push((header::CONTENT_TYPE, kind));
        }
        let body = match (content.text, content.encoding.as_deref()) {
            (Some(text), Some("base64")) => Ok(STANDARD.decode(text).map_err(|_| {
                bad("content.text", "it is no base64, as its encoding says".to_owned())
            })?),
            (Some(text), None) => Ok(text.into_bytes()),
            (Some(_), Some(encoding)) => {
                return Err(bad(
                    "content.encoding",
                    format!("{encoding:?} is not known; base64 is"),
                ));
            }
            (None, _) if content.size <= 0 => Ok(Vec::new()),
            (None, _) => Err(content.comment.unwrap_or_else(|| "not recorded".to_owned())),
        };
        Ok(Self { request, status, headers, body })
    }

    pub(super) fn response(&self) -> Response {
        let body = match &self.body {
            Ok(body) => body.clone(),
            Err(why) => {
                let message = format!(
                    "the answer to {} was recorded without its body ({why}); record it with \
                     `pleo-proxy capture`, then `pleo-proxy har -o FILE --filter is:captured`",
                    self.request
                );
                return Problem::new(StatusCode::NOT_IMPLEMENTED, "BODY_NOT_RECORDED", message)
                    .into_response();
            }
        };
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = self.status;
        for (name, value) in &self.headers {
            response.headers_mut().append(name.clone(), value.clone());
        }
        response
    }
}
