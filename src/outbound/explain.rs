//! Explains why a server could not be reached, and the one thing to do about it, for both HTTP
//! clients.

use std::error::Error;
use std::io;

use rustls::CertificateError;

use super::names::NameError;
use super::tunnel::TunnelError;

/// Longest text of a library or server that is shown, in characters.
const MAX_TEXT: usize = 200;

/// Why a server could not be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum Cause {
    /// Its name has no address.
    NameNotFound,
    /// It refuses connections.
    ConnectionRefused,
    /// Nothing answers.
    NoAnswer,
    /// There is no way to its network.
    NoRoute,
    /// The connection was closed in the handshake.
    ClosedAtOnce,
    /// Its certificate comes from an authority that is not trusted.
    UnknownIssuer,
    /// Its certificate is not valid yet.
    CertificateNotYetValid,
    /// Its certificate has expired.
    CertificateExpired,
    /// Its certificate is for another name.
    WrongName,
    /// Its certificate is refused for another reason.
    CertificateRefused,
    /// The TLS handshake failed.
    TlsFailed,
    /// The outbound proxy wants another user or password.
    ProxyCredentials,
    /// The outbound proxy does not lead there.
    ProxyRefused,
    /// The outbound proxy cannot be reached.
    ProxyUnreachable,
    /// Anything else.
    Unreachable,
}

/// Why a server could not be reached, and what to do next. Holds no secret and no byte that the
/// other side sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// The kind of failure.
    pub cause: Cause,
    /// What went wrong.
    pub what: String,
    /// What to do.
    pub fix: &'static str,
}

impl Explanation {
    fn new(cause: Cause, what: impl Into<String>, fix: &'static str) -> Self {
        Self { cause, what: what.into(), fix }
    }
}

/// What went wrong, and what to do next.
pub fn explain(error: &(dyn Error + 'static)) -> (String, &'static str) {
    let Explanation { what, fix, .. } = explanation(error);
    (what, fix)
}

/// What went wrong, of which kind it is, and what to do next.
pub fn explanation(error: &(dyn Error + 'static)) -> Explanation {
    let chain = causes(error);
    if let Some(tunnel) = chain.iter().find_map(|cause| cause.downcast_ref::<TunnelError>()) {
        return through_proxy(tunnel);
    }
    // reqwest's tunnels have no error type, only text.
    if let Some(tunnel) =
        chain.iter().map(ToString::to_string).find(|text| text.starts_with("tunnel error: "))
    {
        let (cause, fix) = if tunnel.contains("authorization required") {
            let fix = "Write the proxy's user and password into upstream.proxy or the variable that names it.";
            (Cause::ProxyCredentials, fix)
        } else {
            let fix = "Check upstream.proxy, or the variable HTTPS_PROXY or ALL_PROXY.";
            (Cause::ProxyRefused, fix)
        };
        let tunnel = tunnel.trim_start_matches("tunnel error: ");
        let what = format!("the outbound proxy does not lead on: {tunnel}");
        return Explanation::new(cause, what, fix);
    }
    chain.iter().find_map(|cause| known(*cause)).unwrap_or_else(|| {
        let last = chain.last().map(ToString::to_string).unwrap_or_default();
        let fix = "Check the network, upstream.proxy and endpoints.ca_file, then try again.";
        Explanation::new(Cause::Unreachable, printable(&last), fix)
    })
}

fn through_proxy(error: &TunnelError) -> Explanation {
    let explained = |cause, fix| Explanation::new(cause, error.to_string(), fix);
    match error {
        TunnelError::Credentials { .. } => explained(
            Cause::ProxyCredentials,
            "Write the proxy's user and password into the URL there, percent-encoded.",
        ),
        TunnelError::Refused { .. } => explained(
            Cause::ProxyRefused,
            "Ask whoever runs that proxy to let it through, or name another proxy there.",
        ),
        TunnelError::NotHttp { .. } => explained(
            Cause::ProxyUnreachable,
            "Name the host and port of an HTTP proxy there, or none.",
        ),
        TunnelError::Broken { source, .. } => {
            let Explanation { what, fix, .. } = explanation(source);
            let is_certificate = causes(source).iter().any(|cause| cause.is::<rustls::Error>());
            let fix = if is_certificate {
                fix
            } else {
                "Check the host and port of the proxy there, and the network."
            };
            Explanation::new(Cause::ProxyUnreachable, format!("{error}: {what}"), fix)
        }
    }
}

/// The chain of causes, outermost first. An error that an I/O error wraps is included, which its
/// own `source` skips.
fn causes<'a>(error: &'a (dyn Error + 'static)) -> Vec<&'a (dyn Error + 'static)> {
    let mut chain = Vec::new();
    let mut next = Some(error);
    while let Some(cause) = next {
        chain.push(cause);
        let wrapped = cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = wrapped.map(|inner| inner as &(dyn Error + 'static)).or_else(|| cause.source());
    }
    chain
}

fn known(cause: &(dyn Error + 'static)) -> Option<Explanation> {
    if let Some(name) = cause.downcast_ref::<NameError>() {
        let fix = "Check the network and the name server (a VPN that is off?), and the host names in [endpoints].";
        return Some(Explanation::new(Cause::NameNotFound, printable(&name.to_string()), fix));
    }
    if let Some(tls) = cause.downcast_ref::<rustls::Error>() {
        return Some(tls_failure(tls));
    }
    let io = cause.downcast_ref::<io::Error>()?;
    // The wrapped cause is more specific.
    if io.get_ref().is_some_and(|inner| inner.is::<rustls::Error>() || inner.is::<NameError>()) {
        return None;
    }
    let (cause, what, fix) = match io.kind() {
        io::ErrorKind::ConnectionRefused => (
            Cause::ConnectionRefused,
            "the connection was refused",
            "Check host and port in [endpoints]; a firewall may refuse it too.",
        ),
        io::ErrorKind::TimedOut => (
            Cause::NoAnswer,
            "there was no answer in time",
            "Check the network: a firewall or VPN may swallow the packets.",
        ),
        io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable => (
            Cause::NoRoute,
            "there is no way to that network",
            "Check that this machine is online, and its VPN.",
        ),
        io::ErrorKind::UnexpectedEof
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::BrokenPipe => {
            (Cause::ClosedAtOnce, "the connection was closed at once", TLS_FIX)
        }
        _ => return None,
    };
    Some(Explanation::new(cause, what, fix))
}

const TLS_FIX: &str = "Try again; if a device on the network cuts TLS off, set upstream.tls_key_exchange = \"classic\".";

fn tls_failure(error: &rustls::Error) -> Explanation {
    let rustls::Error::InvalidCertificate(certificate) = error else {
        let what = format!("TLS failed: {}", printable(&error.to_string()));
        return Explanation::new(Cause::TlsFailed, what, TLS_FIX);
    };
    let (cause, what, fix) = match certificate {
        CertificateError::UnknownIssuer => (
            Cause::UnknownIssuer,
            "its certificate is signed by an authority that this machine does not trust",
            "If the network inspects TLS, name its root certificate in endpoints.ca_file.",
        ),
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => (
            Cause::CertificateNotYetValid,
            "its certificate is not valid yet",
            "Check this machine's clock: it may be behind.",
        ),
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => (
            Cause::CertificateExpired,
            "its certificate has expired",
            "Check this machine's clock: it may be ahead. Else the server must renew it.",
        ),
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => (
            Cause::WrongName,
            "its certificate is for another name",
            "Check the host names in [endpoints]; a device in between may answer in its place.",
        ),
        _ => {
            let what = format!("its certificate is refused: {}", printable(&error.to_string()));
            return Explanation::new(Cause::CertificateRefused, what, CA_FIX);
        }
    };
    Explanation::new(cause, what, fix)
}

const CA_FIX: &str = "If the network inspects TLS, check the certificate in endpoints.ca_file.";

fn printable(text: &str) -> String {
    text.chars()
        .map(|character| if character.is_control() { ' ' } else { character })
        .take(MAX_TEXT)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("client error (Connect)")]
    struct Outer(#[source] Box<dyn Error + Send + Sync>);

    fn explained(error: impl Into<Box<dyn Error + Send + Sync>>) -> (String, &'static str) {
        explain(&Outer(error.into()))
    }

    fn certificate(error: CertificateError) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidData, rustls::Error::InvalidCertificate(error))
    }

    #[test]
    fn each_cause_has_its_own_fix() {
        let name = || NameError::NotFound { host: "api.example".into(), why: "unknown".into() };
        let tunnel = || TunnelError::Credentials { named_by: "HTTPS_PROXY" };
        let broken = |source| TunnelError::Broken { named_by: "HTTPS_PROXY", source };
        for ((what, fix), words, next) in [
            (explained(name()), "api.example", "name server"),
            (explained(io::Error::other(name())), "api.example", "name server"),
            (
                explained(io::Error::from(io::ErrorKind::ConnectionRefused)),
                "refused",
                "[endpoints]",
            ),
            (explained(io::Error::from(io::ErrorKind::TimedOut)), "in time", "network"),
            (explained(io::Error::from(io::ErrorKind::UnexpectedEof)), "closed", "classic"),
            (
                explained(certificate(CertificateError::UnknownIssuer)),
                "does not trust",
                "endpoints.ca_file",
            ),
            (explained(certificate(CertificateError::NotValidYet)), "not valid yet", "clock"),
            (explained(certificate(CertificateError::Expired)), "expired", "clock"),
            (
                explained(certificate(CertificateError::NotValidForName)),
                "another name",
                "[endpoints]",
            ),
            (
                explained(certificate(CertificateError::BadSignature)),
                "certificate is refused",
                "ca_file",
            ),
            (explained(tunnel()), "HTTPS_PROXY", "password"),
            (explained(broken(io::ErrorKind::ConnectionRefused.into())), "HTTPS_PROXY", "proxy"),
            (
                explained(broken(certificate(CertificateError::UnknownIssuer))),
                "does not trust",
                "ca_file",
            ),
            (explained("tunnel error: proxy authorization required"), "outbound proxy", "password"),
            (explained("odd\nthing"), "odd thing", "network"),
        ] {
            assert!(what.contains(words) && fix.contains(next), "{what} | {fix}");
        }
    }
}
