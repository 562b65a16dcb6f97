//! A tunnel through an outbound proxy: `CONNECT` (RFC 9110 section 9.3.6).

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::route::OutboundProxy;

/// Longest response to a `CONNECT` that is read, in bytes.
const MAX_RESPONSE: usize = 16 * 1024;

/// Why an outbound proxy gives no tunnel; each names the setting or variable that the proxy comes
/// from.
#[derive(Debug, thiserror::Error)]
pub enum TunnelError {
    /// 407.
    #[error("the outbound proxy of {named_by} wants another user or password")]
    Credentials {
        /// The setting or variable.
        named_by: &'static str,
    },
    /// Another status.
    #[error("the outbound proxy of {named_by} does not lead to {to}: it answered {status}")]
    Refused {
        /// The setting or variable.
        named_by: &'static str,
        /// The destination.
        to: String,
        /// The status of its response.
        status: u16,
    },
    /// It does not speak HTTP.
    #[error("the outbound proxy of {named_by} does not answer as an HTTP proxy does")]
    NotHttp {
        /// The setting or variable.
        named_by: &'static str,
    },
    /// It cannot be reached, or went away.
    #[error("the outbound proxy of {named_by} cannot be reached")]
    Broken {
        /// The setting or variable.
        named_by: &'static str,
        /// What happened.
        source: io::Error,
    },
}

impl TunnelError {
    /// The proxy cannot be reached.
    pub fn broken(proxy: &OutboundProxy, source: io::Error) -> Self {
        Self::Broken { named_by: proxy.named_by, source }
    }
}

/// Requests a tunnel to `host` and `port` from the proxy at the other end of `io`. Nothing after
/// the response is read.
///
/// # Errors
/// [`TunnelError`].
pub async fn open<T: AsyncRead + AsyncWrite + Unpin>(
    io: &mut T,
    proxy: &OutboundProxy,
    host: &str,
    port: u16,
) -> Result<(), TunnelError> {
    let broken = |error| TunnelError::broken(proxy, error);
    let mut head =
        format!("CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n").into_bytes();
    if let Some(authorization) = proxy.authorization() {
        head.extend_from_slice(b"Proxy-Authorization: ");
        head.extend_from_slice(authorization.as_bytes());
        head.extend_from_slice(b"\r\n");
    }
    head.extend_from_slice(b"\r\n");
    io.write_all(&head).await.map_err(broken)?;
    io.flush().await.map_err(broken)?;
    let mut response = Vec::new();
    while !response.ends_with(b"\r\n\r\n") && !response.ends_with(b"\n\n") {
        if response.len() >= MAX_RESPONSE {
            return Err(TunnelError::NotHttp { named_by: proxy.named_by });
        }
        match io.read_u8().await {
            Ok(byte) => response.push(byte),
            Err(error) if response.is_empty() => return Err(broken(error)),
            Err(_) => break,
        }
    }
    match status(&response) {
        Some(200..=299) => Ok(()),
        Some(407) => Err(TunnelError::Credentials { named_by: proxy.named_by }),
        Some(status) => Err(TunnelError::Refused {
            named_by: proxy.named_by,
            to: format!("{host}:{port}"),
            status,
        }),
        None => Err(TunnelError::NotHttp { named_by: proxy.named_by }),
    }
}

/// The status of `HTTP/1.x NNN ...`.
fn status(response: &[u8]) -> Option<u16> {
    let rest = response.strip_prefix(b"HTTP/1.")?.get(1..)?.strip_prefix(b" ")?;
    let digits = rest.get(..3).filter(|digits| digits.iter().all(u8::is_ascii_digit))?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::super::{Outbound, ProxyChoice, Settings, proxy_url};
    use super::*;

    fn proxy(url: &str) -> OutboundProxy {
        let settings = Settings {
            proxy: ProxyChoice::Url(proxy_url(url).unwrap()),
            plain_only: true,
            ..Settings::default()
        };
        Outbound::new(&settings).unwrap().proxy_to("external.pleo.io", 443).unwrap().unwrap()
    }

    async fn open_with(answer: &[u8]) -> (Result<(), TunnelError>, String, Vec<u8>) {
        let (mut ours, mut theirs) = tokio::io::duplex(64 * 1024);
        theirs.write_all(answer).await.unwrap();
        let result =
            open(&mut ours, &proxy("http://user:word@proxy.example:3128"), "external.pleo.io", 443)
                .await;
        let mut rest = Vec::new();
        theirs.shutdown().await.unwrap();
        let mut sent = vec![0; 4096];
        let length = theirs.read(&mut sent).await.unwrap();
        ours.read_to_end(&mut rest).await.unwrap();
        (result, String::from_utf8_lossy(&sent[..length]).into_owned(), rest)
    }

    #[tokio::test]
    async fn a_tunnel_is_requested_with_the_password_and_nothing_after_the_response_is_read() {
        let (result, sent, rest) =
            open_with(b"HTTP/1.1 200 Connection established\r\nProxy-Agent: corp\r\n\r\nnext")
                .await;
        result.unwrap();
        assert_eq!(rest, b"next");
        let wanted = "CONNECT external.pleo.io:443 HTTP/1.1\r\nHost: external.pleo.io:443\r\n\
                      Proxy-Authorization: Basic dXNlcjp3b3Jk\r\n\r\n";
        assert_eq!(sent, wanted);
    }

    #[tokio::test]
    async fn each_refusal_names_the_setting() {
        for (answer, wanted) in [
            (
                "HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n",
                "user or password",
            ),
            ("HTTP/1.0 403 Forbidden\r\n\r\n", "answered 403"),
            ("220 smtp.example ESMTP\r\n\r\n", "as an HTTP proxy"),
            ("HTTP/1.1 2\r\n\r\n", "as an HTTP proxy"),
        ] {
            let error = open_with(answer.as_bytes()).await.0.unwrap_err().to_string();
            assert!(
                error.contains(wanted) && error.contains("upstream.proxy"),
                "{answer}: {error}"
            );
        }
        let endless = vec![b'x'; MAX_RESPONSE + 1];
        assert!(matches!(open_with(&endless).await.0, Err(TunnelError::NotHttp { .. })));
    }
}
