//! Fills each part's own settings: the only place that knows both the configuration and the parts.

use std::path::PathBuf;

use url::Url;

use super::{Config, Environment, OutboundProxy, PeerCheck};
use crate::oauth::endpoint::{Endpoint, EndpointError};
use crate::outbound::{self, ProxyChoice};
use crate::private_file::{self, PrivateFileError};
use crate::proxy::peer::{Allowed, Peers};
use crate::proxy::{guard, upstream};
use crate::secret::LocalKey;
use crate::{oauth, server, tokens};

impl Config {
    /// Settings of the OAuth client.
    ///
    /// # Errors
    /// An endpoint is not fit for secrets; loading has checked that already.
    pub fn oauth(&self) -> Result<oauth::Settings, EndpointError> {
        let endpoints = &self.endpoints;
        Ok(oauth::Settings {
            client_id: self.client.id.clone(),
            client_secret: self.client.secret.clone(),
            auth: self.client.auth,
            scopes: self.client.scopes.clone(),
            authorize: Endpoint::new(endpoints.authorize.clone())?,
            token: Endpoint::new(endpoints.token.clone())?,
            introspect: endpoints.introspect.clone().map(Endpoint::new).transpose()?,
            api: Endpoint::new(endpoints.api.clone())?.origin(),
        })
    }

    /// Settings of everything that leaves the machine.
    pub fn outbound(&self) -> outbound::Settings {
        let endpoints = &self.endpoints;
        let all =
            [Some(&endpoints.authorize), Some(&endpoints.token), endpoints.introspect.as_ref(), Some(&endpoints.api)];
        let called =
            [Some(&endpoints.token), endpoints.introspect.as_ref(), Some(&endpoints.api)].into_iter().flatten();
        let place = |url: &Url| Some((url.host_str()?.to_owned(), url.port_or_known_default()?));
        let variable = |name| self.upstream.variables.get(name).unwrap_or_default().to_owned();
        outbound::Settings {
            ca_file: endpoints.ca_file.clone(),
            plain_only: all.into_iter().flatten().all(|url| url.scheme() == "http"),
            proxy: match &self.upstream.proxy {
                OutboundProxy::Off => ProxyChoice::Off,
                OutboundProxy::Url(url) => ProxyChoice::Url(url.clone()),
                OutboundProxy::Env => ProxyChoice::Variables {
                    https: variable("HTTPS_PROXY"),
                    all: variable("ALL_PROXY"),
                    no: variable("NO_PROXY"),
                },
            },
            destinations: called.filter_map(place).collect(),
            key_exchange: self.upstream.tls_key_exchange,
        }
    }

    /// Settings of custody.
    pub fn tokens(&self) -> tokens::Settings {
        tokens::Settings {
            drain: self.tokens.drain,
            hold: self.tokens.hold,
            keep_warm: self.tokens.keep_warm,
            keep_alive: self.tokens.keep_alive,
            // Checked when it was read.
            default_account: self.default_account.as_deref().and_then(|name| name.parse().ok()),
        }
    }

    /// Settings of the guard, the local key read from its file.
    ///
    /// # Errors
    /// The key's file is not private or cannot be read.
    pub fn guard(&self) -> Result<guard::Settings, PrivateFileError> {
        let local_key = self
            .guard
            .local_key_file
            .as_deref()
            .map(|path| Ok(LocalKey::new(private_file::read_text(path, super::SECRET_LIMIT)?.trim())));
        Ok(guard::Settings {
            allow_hosts: self.guard.allow_hosts.clone(),
            allow_origins: self.guard.allow_origins.clone(),
            local_key: local_key.transpose()?,
            read_only: self.guard.read_only,
            allow_disconnect: self.guard.allow_disconnect,
        })
    }

    /// Settings of the way to the API.
    pub fn upstream(&self) -> upstream::Settings {
        upstream::Settings {
            connect_timeout: self.upstream.connect_timeout,
            response_timeout: self.upstream.response_timeout,
            idle_timeout: self.upstream.idle_timeout,
            replay_limit: self.upstream.replay_limit,
        }
    }

    /// Settings of the server.
    pub fn server(&self) -> server::Settings {
        server::Settings {
            api: self.listen.api.clone(),
            admin: self.listen.admin,
            max_connections: self.listen.max_connections,
            peers: Peers::new(match &self.guard.peer_check {
                PeerCheck::SameUser => Allowed::same_user(),
                PeerCheck::Off => Allowed::All,
                PeerCheck::Users(users) => Allowed::users(users),
            }),
            idle_timeout: self.upstream.idle_timeout,
        }
    }

    /// The environment's state folder: records, `admin.key` and `run/`. None if no home is known (sandbox only).
    pub fn state_folder(&self) -> Option<PathBuf> {
        self.state_folder_of(self.environment)
    }

    /// The same for another environment: its proxies are told apart by it.
    pub fn state_folder_of(&self, environment: Environment) -> Option<PathBuf> {
        self.store.state_root.as_ref().map(|root| root.join(environment.as_str()))
    }
}
