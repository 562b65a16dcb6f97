//! Explains why a server could not be reached, and the one thing to do about it, for both HTTP
//! clients.

use std::error::Error;
use std::io;

use rustls::CertificateError;

use super::names::NameError;
use super::tunnel::TunnelError;

/// Longest text of a library or server that is shown, in characters.
const MAX_TEXT: usize = 200;

/// What went wrong, and what to do next. Neither holds a secret or a byte that the other side sent.
pub fn explain(error: &(dyn Error + 'static)) -> (String, &'static str) {
    let chain = causes(error);
    if let Some(tunnel) = chain.iter().find_map(|cause| cause.downcast_ref::<TunnelError>()) {
        return through_proxy(tunnel);
    }
    // reqwest's tunnels have no error type, only text.
    if let Some(tunnel) =
        chain.iter().map(ToString::to_string).find(|text| text.starts_with("tunnel error: "))
    {
        let fix = if tunnel.contains("authorization required") {
            "Write the proxy's user and password into upstream.proxy or the variable that names it."
        } else {
            "Check upstream.proxy, or the variable HTTPS_PROXY or ALL_PROXY."
        };
        let tunnel = tunnel.trim_start_matches("tunnel error: ");
        return (format!("the outbound proxy does not lead on: {tunnel}"), fix);
    }
    chain.iter().find_map(|cause| known(*cause)).unwrap_or_else(|| {
        let last = chain.last().map(ToString::to_string).unwrap_or_default();
        (
            printable(&last),
            "Check the network, upstream.proxy and endpoints.ca_file, then try again.",
        )
    })
}

fn through_proxy(error: &TunnelError) -> (String, &'static str) {
    match error {
        TunnelError::Credentials { .. } => (
            error.to_string(),
            "Write the proxy's user and password into the URL there, percent-encoded.",
        ),
        TunnelError::Refused { .. } => (
            error.to_string(),
            "Ask whoever runs that proxy to let it through, or name another proxy there.",
        ),
        TunnelError::NotHttp { .. } => {
            (error.to_string(), "Name the host and port of an HTTP proxy there, or none.")
        }
        TunnelError::Broken { source, .. } => {
            let (what, fix) = explain(source);
            let is_certificate = causes(source).iter().any(|cause| cause.is::<rustls::Error>());
            let fix = if is_certificate {
                fix
            } else {
                "Check the host and port of the proxy there, and the network."
            };
            (format!("{error}: {what}"), fix)
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

fn known(cause: &(dyn Error + 'static)) -> Option<(String, &'static str)> {
    if let Some(name) = cause.downcast_ref::<NameError>() {
        let fix = "Check the network and the name server (a VPN that is off?), and the host names in [endpoints].";
        return Some((printable(&name.to_string()), fix));
    }
    if let Some(tls) = cause.downcast_ref::<rustls::Error>() {
        return Some(tls_failure(tls));
    }
    let io = cause.downcast_ref::<io::Error>()?;
    // The wrapped cause is more specific.
    if io.get_ref().is_some_and(|inner| inner.is::<rustls::Error>() || inner.is::<NameError>()) {
        return None;
    }
    let (what, fix) = match io.kind() {
        io::ErrorKind::ConnectionRefused => (
            "the connection was refused",
            "Check host and port in [endpoints]; a firewall may refuse it too.",
        ),
        io::ErrorKind::TimedOut => (
            "there was no answer in time",
            "Check the network: a firewall or VPN may swallow the packets.",
        ),
        io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable => {
            ("there is no way to that network", "Check that this machine is online, and its VPN.")
        }
        io::ErrorKind::UnexpectedEof
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::BrokenPipe => ("the connection was closed at once", TLS_FIX),
        _ => return None,
    };
    Some((what.into(), fix))
}

const TLS_FIX: &str = "Try again; if a device on the network cuts TLS off, set upstream.tls_key_exchange = \"classic\".";

fn tls_failure(error: &rustls::Error) -> (String, &'static str) {
    let rustls::Error::InvalidCertificate(certificate) = error else {
        return (format!("TLS failed: {}", printable(&error.to_string())), TLS_FIX);
    };
    let (what, fix) = match certificate {
        CertificateError::UnknownIssuer => (
            "its certificate is signed by an authority that this machine does not trust",
            "If the network inspects TLS, name its root certificate in endpoints.ca_file.",
        ),
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            ("its certificate is not valid yet", "Check this machine's clock: it may be behind.")
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => (
            "its certificate has expired",
            "Check this machine's clock: it may be ahead. Else the server must renew it.",
        ),
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => (
            "its certificate is for another name",
            "Check the host names in [endpoints]; a device in between may answer in its place.",
        ),
        _ => {
            return (
                format!("its certificate is refused: {}", printable(&error.to_string())),
                CA_FIX,
            );
        }
    };
    (what.into(), fix)
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
