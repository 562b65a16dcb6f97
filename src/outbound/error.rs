//! Why the way to the outside could not be set up.

use std::path::PathBuf;

/// Why TLS or the outbound proxy could not be set up.
#[derive(Clone, Debug, thiserror::Error)]
pub enum OutboundError {
    /// The extra roots cannot be read.
    #[error("endpoints.ca_file {} cannot be used: {}", .0.display(), .1)]
    CaFile(PathBuf, String),
    /// The system's own roots cannot be read.
    #[error(
        "the system's certificate store cannot be used: {0}; install the package ca-certificates or set SSL_CERT_FILE"
    )]
    Roots(rustls::Error),
    /// The platform's verifier or protocol versions are unusable.
    #[error("TLS cannot be set up: {0}")]
    Tls(rustls::Error),
    /// The value of a proxy variable cannot be used.
    #[error("the variable {named_by} {problem}; correct it, unset it, or set upstream.proxy")]
    Proxy {
        /// The variable.
        named_by: &'static str,
        /// What is wrong with it.
        problem: &'static str,
    },
}
