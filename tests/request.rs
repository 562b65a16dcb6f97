//! The first journey: a plain request reaches Pleo with a fresh token, byte for byte.

mod support;

use support::{Place, sandbox};

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_request_gets_a_token() {
    let sandbox = sandbox().await;
    let place = Place::toward(&sandbox, "");
    let proxy = place.serve();
    proxy.login("default").await;
    let answer = proxy.get("/v1/companies").await;
    assert_eq!(answer.status(), 200);
    assert_eq!(proxy.terminate().0.code(), Some(0));
}
