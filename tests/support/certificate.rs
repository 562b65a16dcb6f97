//! Certificates of a root of the test's own.

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;

/// A new root in PEM, and the configuration of a server with a certificate of it for this name.
pub fn certificate_for(name: &str) -> (String, ServerConfig) {
    signed(CertificateParams::new(vec![name.to_owned()]).unwrap())
}

/// The same with a certificate that has expired.
pub fn expired_certificate_for(name: &str) -> (String, ServerConfig) {
    let mut leaf = CertificateParams::new(vec![name.to_owned()]).unwrap();
    leaf.not_before = rcgen::date_time_ymd(2020, 1, 1);
    leaf.not_after = rcgen::date_time_ymd(2021, 1, 1);
    signed(leaf)
}

fn signed(leaf: CertificateParams) -> (String, ServerConfig) {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let mut root = CertificateParams::new(Vec::new()).unwrap();
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root_key = KeyPair::generate().unwrap();
    let pem = root.self_signed(&root_key).unwrap().pem();
    let issuer = Issuer::new(root, root_key);
    let key = KeyPair::generate().unwrap();
    let leaf = leaf.signed_by(&key, &issuer).unwrap();
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(key.serialize_der()).into();
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], key);
    (pem, config.unwrap())
}
