//! The second port: files behind presigned-style URLs, which are signed and need no token.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::from_fn;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::host::loopback_only;
use super::paging::Query;
use super::state::{SandboxState, hex};

const URL_LIFETIME_S: i64 = 24 * 60 * 60;

pub(crate) fn routes(sandbox: &Arc<SandboxState>) -> Router {
    Router::new()
        .route("/receipts/{id}", get(receipt))
        .with_state(Arc::clone(sandbox))
        .layer(from_fn(loopback_only))
}

/// A URL under which anyone can download the file for 24 hours.
pub(crate) fn signed_url(sandbox: &SandboxState, id: &str) -> String {
    let expires = jiff::Timestamp::now().as_second() + URL_LIFETIME_S;
    let signature = sign(sandbox, id, expires);
    format!("{}/receipts/{id}?X-Expires={expires}&X-Signature={signature}", sandbox.files_origin)
}

/// A plain hash instead of an HMAC: the key comes first, every part has a fixed form, and a forged
/// receipt of a fake company is worth nothing.
fn sign(sandbox: &SandboxState, id: &str, expires: i64) -> String {
    hex(&Sha256::digest(format!("{}\n{id}\n{expires}", sandbox.signing_key).as_bytes()))
}

/// The content of a receipt's file.
pub(crate) fn receipt_file(id: &str) -> String {
    format!("%PDF-1.4\n% Receipt {id} of the Pleo sandbox. It has no pages.\n%%EOF\n")
}

async fn receipt(
    State(sandbox): State<Arc<SandboxState>>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    if headers.contains_key(header::AUTHORIZATION) {
        sandbox.live().counters.files_with_authorization += 1;
        return refuse(
            StatusCode::BAD_REQUEST,
            "InvalidArgument",
            "Only one auth mechanism allowed",
        );
    }
    if !is_valid(&sandbox, &id, &Query::read(query.as_deref())) {
        return refuse(
            StatusCode::FORBIDDEN,
            "AccessDenied",
            "Request has expired or its signature is wrong",
        );
    }
    sandbox.live().counters.files_served += 1;
    ([(header::CONTENT_TYPE, "application/pdf")], receipt_file(&id)).into_response()
}

fn is_valid(sandbox: &SandboxState, id: &str, query: &Query) -> bool {
    let expires =
        query.get("X-Expires").and_then(|expires| expires.parse::<i64>().ok()).unwrap_or_default();
    let given = query.get("X-Signature").unwrap_or_default();
    let matches: bool = given.as_bytes().ct_eq(sign(sandbox, id, expires).as_bytes()).into();
    matches && jiff::Timestamp::now().as_second() < expires
}

/// Object stores report errors in XML.
fn refuse(status: StatusCode, code: &str, message: &str) -> Response {
    let body = format!(
        "<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>{message}</Message></Error>\n"
    );
    (status, [(header::CONTENT_TYPE, "application/xml")], body).into_response()
}
