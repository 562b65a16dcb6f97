//! The further trust roots of `endpoints.ca_file`. In a bundle, one certificate that cannot be used
//! does not invalidate the others.

use std::path::Path;

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use tracing::warn;

/// How a PEM block begins, up to its label.
const BEGIN: &str = "-----BEGIN ";
/// Labels of OpenSSL for a certificate, beside `CERTIFICATE` (RFC 7468 section 5.1); behind a
/// trusted one stand its uses.
const OTHER_LABELS: [&str; 2] = ["TRUSTED CERTIFICATE", "X509 CERTIFICATE"];

/// The certificates of a file that can be used; what cannot is named in a warning.
///
/// # Errors
/// The file cannot be read, or holds none that can be used.
pub(super) fn read(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let bytes = std::fs::read(path).map_err(|error| error.to_string())?;
    let (good, bad) = certificates(&String::from_utf8_lossy(&bytes));
    if good.is_empty() {
        return Err(match bad.first() {
            Some((line, why)) => {
                format!("none of its certificates can be used; line {line}: {why}")
            }
            None => "it holds no PEM certificate".into(),
        });
    }
    for (line, why) in bad {
        warn!(
            "endpoints.ca_file {}: the certificate in line {line} is left out: {why}",
            path.display()
        );
    }
    Ok(good)
}

/// What can be used, and where and why the rest cannot.
fn certificates(text: &str) -> (Vec<CertificateDer<'static>>, Vec<(usize, String)>) {
    let (mut good, mut bad) = (Vec::new(), Vec::new());
    let starts: Vec<usize> = text.match_indices(BEGIN).map(|(start, _)| start).collect();
    for (number, &start) in starts.iter().enumerate() {
        let end = starts.get(number + 1).copied().unwrap_or(text.len());
        match certificate(&text[start..end]) {
            Some(Ok(certificate)) if good.contains(&certificate) => {}
            Some(Ok(certificate)) => good.push(certificate),
            Some(Err(why)) => bad.push((text[..start].matches('\n').count() + 1, why)),
            None => {}
        }
    }
    (good, bad)
}

/// The certificate in a block; none if it holds something else, such as a key.
fn certificate(block: &str) -> Option<Result<CertificateDer<'static>, String>> {
    let label = block.strip_prefix(BEGIN)?.split("-----").next()?;
    let own = if OTHER_LABELS.contains(&label) {
        block.replace(&format!("{label}-----"), "CERTIFICATE-----")
    } else if label == "CERTIFICATE" {
        block.to_owned()
    } else {
        return None;
    };
    let parsed = CertificateDer::from_pem_slice(own.as_bytes()).map_err(|error| error.to_string());
    Some(parsed.and_then(|certificate| {
        let certificate = first_element(&certificate);
        let usable = RootCertStore::empty().add(certificate.clone());
        usable.map(|()| certificate).map_err(|error| error.to_string())
    }))
}

/// The certificate itself, without what OpenSSL puts behind it (X.690 section 8.1.3: a length of
/// its own).
fn first_element(der: &[u8]) -> CertificateDer<'static> {
    let length = match der {
        [_, short @ 0..=0x7f, ..] => Some(2 + usize::from(*short)),
        [_, 0x81, one, ..] => Some(3 + usize::from(*one)),
        [_, 0x82, one, two, ..] => Some(4 + usize::from(u16::from_be_bytes([*one, *two]))),
        _ => None,
    };
    let whole = length.and_then(|length| der.get(..length)).unwrap_or(der);
    CertificateDer::from(whole.to_vec())
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
    use rustls::pki_types::CertificateDer;

    use super::*;

    fn authority() -> String {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().pem()
    }

    fn counted(text: &str) -> (usize, Vec<usize>) {
        let (good, bad) = certificates(text);
        (good.len(), bad.into_iter().map(|(line, _)| line).collect())
    }

    #[test]
    fn bundles_are_read_as_companies_hand_them_out() {
        let (one, other) = (authority(), authority());
        assert_eq!(counted(&format!("{one}{other}")), (2, vec![]));
        assert_eq!(counted(&format!("\u{feff}{one}")), (1, vec![]), "a byte order mark");
        assert_eq!(
            counted(&format!("# corp\r\nSubject: x\r\n{}", one.replace('\n', "\r\n"))),
            (1, vec![])
        );
        assert_eq!(counted(&format!("{one}{one}")), (1, vec![]), "twice the same");
        assert_eq!(counted(one.trim()), (1, vec![]), "no line break at the end");
        let key = KeyPair::generate().unwrap().serialize_pem();
        assert_eq!(counted(&format!("{key}{one}")), (1, vec![]), "a key is no certificate");
    }

    #[test]
    fn a_bad_certificate_is_named_by_its_line_and_costs_no_good_one() {
        let good = authority();
        let lines = good.lines().count();
        let not_base64 = "-----BEGIN CERTIFICATE-----\n!!!!\n-----END CERTIFICATE-----\n";
        let not_x509 = "-----BEGIN CERTIFICATE-----\nMAMCAQU=\n-----END CERTIFICATE-----\n";
        let cut_off = "-----BEGIN CERTIFICATE-----\nMAMC\n";
        for bad in [not_base64, not_x509, cut_off] {
            assert_eq!(counted(&format!("{bad}{good}")), (1, vec![1]), "{bad}");
            assert_eq!(counted(&format!("{good}{bad}")), (1, vec![lines + 1]), "{bad}");
        }
    }

    #[test]
    fn a_trusted_certificate_is_the_certificate_without_its_uses() {
        let plain = authority();
        let der = CertificateDer::from_pem_slice(plain.as_bytes()).unwrap();
        let uses = [der.as_ref(), &[0x30, 0x03, 0x0c, 0x01, b'x']].concat();
        let block = pem("TRUSTED CERTIFICATE", &uses);
        let (good, bad) = certificates(&format!("{block}{}", pem("X509 CERTIFICATE", &der)));
        assert_eq!((good, bad.len()), (vec![der], 0));
    }

    fn pem(label: &str, der: &[u8]) -> String {
        use base64::Engine as _;
        let text = base64::engine::general_purpose::STANDARD.encode(der);
        format!("-----BEGIN {label}-----\n{text}\n-----END {label}-----\n")
    }

    #[test]
    fn a_file_without_a_usable_certificate_says_what_is_wrong_with_it() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(read(file.path()).unwrap_err().contains("no PEM certificate"));
        std::fs::write(
            file.path(),
            "\n-----BEGIN CERTIFICATE-----\nMAMCAQU=\n-----END CERTIFICATE-----\n",
        )
        .unwrap();
        assert!(read(file.path()).unwrap_err().contains("line 2"), "{:?}", read(file.path()));
        assert!(read(std::path::Path::new("/nowhere/ca.pem")).is_err());
    }
}
