//! The way a connection takes: a unix socket, or TLS with a certificate that is verified in full.

use std::future::Future;
use std::future::poll_fn;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_postgres::{AsyncMessage, CancelToken, Client, Config, Connection, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::news::News;
use super::trouble::Trouble;
use crate::outbound::{self, Outbound, OutboundError};

/// Reads and writes a connection until it ends.
pub(super) type Driver = Pin<Box<dyn Future<Output = ()> + Send>>;

/// How a connection is protected.
#[derive(Clone)]
pub(super) enum Tls {
    /// It does not leave the machine: a unix socket.
    Local,
    /// Chain and name of the certificate are verified.
    Verified(MakeRustlsConnect),
}

impl Tls {
    /// With the system's trust roots, and those of a file.
    pub(super) fn new(is_local: bool, ca_file: Option<PathBuf>) -> Result<Self, String> {
        if is_local {
            return Ok(Self::Local);
        }
        let settings = outbound::Settings { ca_file, ..outbound::Settings::default() };
        let outbound = Outbound::new(&settings).map_err(|error| match error {
            OutboundError::CaFile(path, why) => {
                format!("store.ca_file {}: {why}; name a file of PEM certificates", path.display())
            }
            other => other.to_string(),
        })?;
        Ok(Self::Verified(MakeRustlsConnect::new((*outbound.tls).clone())))
    }

    /// Connects; nothing happens on the connection unless its driver runs.
    pub(super) async fn connect(
        &self,
        config: &Config,
        news: &Arc<News>,
    ) -> Result<(Client, Driver), Trouble> {
        Ok(match self {
            Self::Local => {
                let (client, connection) = config.connect(NoTls).await?;
                (client, Box::pin(drive(connection, news.clone())))
            }
            Self::Verified(tls) => {
                let (client, connection) = config.connect(tls.clone()).await?;
                (client, Box::pin(drive(connection, news.clone())))
            }
        })
    }

    /// Asks the server to give up what a connection is waiting for.
    pub(super) async fn cancel(&self, statement: CancelToken) {
        // Where that fails, the server notices the closed connection when it has an answer.
        let _ = match self {
            Self::Local => statement.cancel_query(NoTls).await,
            Self::Verified(tls) => statement.cancel_query(tls.clone()).await,
        };
    }
}

async fn drive<S, T>(mut connection: Connection<S, T>, news: Arc<News>)
where
    S: AsyncRead + AsyncWrite + Unpin,
    T: AsyncRead + AsyncWrite + Unpin,
{
    while let Some(Ok(message)) = poll_fn(|context| connection.poll_message(context)).await {
        if let AsyncMessage::Notification(told) = message {
            news.hear(&told);
        }
    }
}
