//! The second port: files behind presigned-style URLs, which carry their own proof and no token.

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
use super::world::{World, hex};

const LIFE_S: i64 = 24 * 60 * 60;

pub(crate) fn routes(world: &Arc<World>) -> Router {
    Router::new()
        .route("/receipts/{id}", get(receipt))
        .with_state(Arc::clone(world))
        .layer(from_fn(loopback_only))
}

/// A URL that opens the file for 24 hours, to everybody who has it.
pub(crate) fn signed_url(world: &World, id: &str) -> String {
    let expires = jiff::Timestamp::now().as_second() + LIFE_S;
    let signature = sign(world, id, expires);
    format!("{}/receipts/{id}?X-Expires={expires}&X-Signature={signature}", world.files_origin)
}

/// The key leads and all parts have a fixed form, and nobody gains by forging a receipt of a fake
/// company.
fn sign(world: &World, id: &str, expires: i64) -> String {
    hex(&Sha256::digest(format!("{}\n{id}\n{expires}", world.signing_key).as_bytes()))
}

/// What is stored for a receipt.
pub(crate) fn receipt_file(id: &str) -> String {
    format!("%PDF-1.4\n% Receipt {id} of the Pleo sandbox. It has no pages.\n%%EOF\n")
}

async fn receipt(
    State(world): State<Arc<World>>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    if headers.contains_key(header::AUTHORIZATION) {
        world.state().counters.files_with_authorization += 1;
        return refuse(
            StatusCode::BAD_REQUEST,
            "InvalidArgument",
            "Only one auth mechanism allowed",
        );
    }
    if !opens(&world, &id, &Query::read(query.as_deref())) {
        return refuse(
            StatusCode::FORBIDDEN,
            "AccessDenied",
            "Request has expired or its signature is wrong",
        );
    }
    world.state().counters.files_served += 1;
    ([(header::CONTENT_TYPE, "application/pdf")], receipt_file(&id)).into_response()
}

fn opens(world: &World, id: &str, query: &Query) -> bool {
    let expires =
        query.get("X-Expires").and_then(|expires| expires.parse::<i64>().ok()).unwrap_or_default();
    let given = query.get("X-Signature").unwrap_or_default();
    let fits: bool = given.as_bytes().ct_eq(sign(world, id, expires).as_bytes()).into();
    fits && jiff::Timestamp::now().as_second() < expires
}

/// Object stores answer in XML.
fn refuse(status: StatusCode, code: &str, message: &str) -> Response {
    let body = format!(
        "<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>{message}</Message></Error>\n"
    );
    (status, [(header::CONTENT_TYPE, "application/xml")], body).into_response()
}
