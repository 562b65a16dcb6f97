//! The OAuth client: pure functions in the files below build requests and read responses; this file
//! sends them.

pub mod authorize;
pub mod endpoint;
mod fields;
pub mod introspect;
mod limited_form;
pub mod pkce;
mod response;
pub mod token;

use std::path::PathBuf;
use std::time::Duration;

use http::{HeaderValue, header};
use zeroize::Zeroizing;

use crate::clock::TimeLimit;
use crate::outbound::{self, Names, Outbound};
use crate::platform::limit_unacknowledged_of;
use crate::private_file::{self, PrivateFileError};
use crate::secret::{AccessToken, ApiKey, ClientSecret, RefreshToken};
use crate::timeout::while_running;
use endpoint::{Endpoint, Origin};
use introspect::{Identity, IntrospectError};
pub use limited_form::HeldUp;
use limited_form::LimitedForm;
pub use token::{ClientAuth, Outcome, TokenRequest, Tokens};

/// Time to reach a server, TLS included.
const CONNECT: Duration = Duration::from_secs(5);
/// Time for a whole call; time in which this process does not run is not counted.
pub const CALL: Duration = response::CALL;
/// Addresses of the token endpoint that are tried one after the other, each for [`CONNECT`].
const MAX_TRIES: usize = 3;
/// Largest secret file, in bytes.
const MAX_SECRET: u64 = 16 * 1024;

/// Who we are, and where the servers are.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Client id from Pleo's onboarding.
    pub client_id: Option<String>,
    /// Where the client secret is.
    pub client_secret: SecretSource,
    /// How the client authenticates at the token endpoint.
    pub auth: ClientAuth,
    /// Scopes requested at a login.
    pub scopes: Vec<String>,
    /// Authorize endpoint, opened by a browser.
    pub authorize: Endpoint,
    /// Token endpoint.
    pub token: Endpoint,
    /// Introspection endpoint of the authorization server, if any.
    pub introspect: Option<Endpoint>,
    /// The API.
    pub api: Origin,
}

/// Where the client secret comes from. A file is read at every attempt, so that a corrected one is
/// used without a restart.
#[derive(Clone, Debug)]
pub enum SecretSource {
    /// Nothing is configured.
    None,
    /// From the environment.
    Value(ClientSecret),
    /// A private file.
    File(PathBuf),
}

impl SecretSource {
    /// Reads the secret.
    ///
    /// # Errors
    /// [`CredentialsError`] names the setting.
    pub fn read(&self) -> Result<ClientSecret, CredentialsError> {
        let path = match self {
            Self::None => return Err(CredentialsError::NoSecret),
            Self::Value(secret) => return Ok(secret.clone()),
            Self::File(path) => path,
        };
        let text = private_file::read_text(path, MAX_SECRET)?;
        if text.contains(char::is_control) {
            return Err(CredentialsError::Form(path.clone()));
        }
        Ok(ClientSecret::new(text.as_str()))
    }
}

/// Reads a client id (RFC 6749 appendix A.1).
///
/// # Errors
/// What it must consist of.
pub fn client_id(text: &str) -> Result<String, &'static str> {
    let is_printable = text.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    if is_printable && text.trim() == text {
        Ok(text.to_owned())
    } else {
        Err("must be printable ASCII without spaces around it")
    }
}

/// Reads an API key as a person enters it.
///
/// # Errors
/// What it must consist of.
pub fn api_key(text: &str) -> Result<ApiKey, &'static str> {
    let text = text.trim();
    // It is sent as a user name (RFC 7617), which ends at the first colon.
    let is_key = |byte: u8| byte.is_ascii_graphic() && byte != b':';
    if text.is_empty() || !text.bytes().all(is_key) {
        return Err("must be the key alone, as Pleo shows it, without `Basic` and without a colon");
    }
    Ok(ApiKey::new(text))
}

/// Reads one scope (RFC 6749 section 3.3).
///
/// # Errors
/// What it must consist of.
pub fn scope(text: &str) -> Result<String, &'static str> {
    let is_allowed = |byte| matches!(byte, b'!' | b'#'..=b'[' | b']'..=b'~');
    if !text.is_empty() && text.bytes().all(is_allowed) {
        Ok(text.to_owned())
    } else {
        Err("must hold scopes without spaces, quotes or backslashes, one to an item")
    }
}

/// Id and secret, read for one attempt.
#[derive(Debug)]
pub struct Credentials {
    id: String,
    secret: ClientSecret,
}

/// Tells one version of the secret file from the next, its owner and mode included: inode and
/// change time; empty without a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SecretVersion(Option<(u64, i64, i64)>);

impl Credentials {
    /// The client id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The client secret.
    pub fn secret(&self) -> &ClientSecret {
        &self.secret
    }
}

/// Why there are no credentials; each names the setting.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// No client id.
    #[error("client.id is not set; put the client id that Pleo gave you into proxy.toml")]
    NoId,
    /// No client secret.
    #[error(
        "no client secret is set; put it into a file of mode 0600 and set client.secret_file, or set PLEO_PROXY_CLIENT_SECRET"
    )]
    NoSecret,
    /// The file cannot be used.
    #[error("client.secret_file: {0}")]
    File(#[from] PrivateFileError),
    /// The file is on a disk that does not answer.
    #[error(
        "client.secret_file cannot be read within {0:?}: the disk it is on does not answer; put it on a local disk"
    )]
    Hangs(Duration),
    /// The file holds more than one line, or control characters.
    #[error("client.secret_file {} must hold the client secret on one line", .0.display())]
    Form(PathBuf),
}

impl CredentialsError {
    /// True if it says nothing about the setting: see [`private_file::is_passing`].
    pub fn is_passing(&self) -> bool {
        match self {
            Self::File(error) => error.is_passing(),
            Self::Hangs(_) => true,
            Self::NoId | Self::NoSecret | Self::Form(_) => false,
        }
    }
}

/// The OAuth client of this process.
#[derive(Debug)]
pub struct Client {
    /// Who we are, and where the servers are.
    pub settings: Settings,
    http: reqwest::Client,
    names: Names,
}

impl Client {
    /// Sets up the transport: HTTP/1.1, no redirects, no retries, and no time limit, which each
    /// call sets itself. Response heads are read leniently, because new tokens may follow.
    ///
    /// # Errors
    /// The TLS library refuses its settings.
    pub fn new(settings: Settings, outbound: &Outbound) -> Result<Self, reqwest::Error> {
        let proxies = outbound.clone();
        let builder = reqwest::Client::builder()
            .tls_backend_preconfigured((*outbound.tls).clone())
            .no_proxy()
            .dns_resolver(outbound.names.clone())
            .proxy(reqwest::Proxy::custom(move |url| {
                // A proxy that cannot be used was reported when the destinations were set.
                let proxy =
                    proxies.proxy_to(url.host_str()?, url.port_or_known_default()?).ok().flatten();
                proxy.map(|proxy| proxy.url().clone())
            }))
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .referer(false)
            .http1_ignore_invalid_headers_in_responses(true)
            .http1_allow_obsolete_multiline_headers_in_responses(true)
            .http1_allow_spaces_after_header_name_in_responses(true)
            .connect_timeout(CONNECT)
            .pool_idle_timeout(Duration::from_secs(20))
            .tcp_keepalive(outbound::KEEPALIVE_TIME)
            .tcp_keepalive_interval(outbound::KEEPALIVE_INTERVAL)
            .user_agent(concat!("pleo-proxy/", env!("CARGO_PKG_VERSION")));
        let http = limit_unacknowledged_of(builder, outbound::UNACKNOWLEDGED).build()?;
        Ok(Self { settings, http, names: outbound.names.clone() })
    }

    /// Reads id and secret for one attempt.
    ///
    /// # Errors
    /// [`CredentialsError`] names the setting.
    pub fn credentials(&self) -> Result<Credentials, CredentialsError> {
        let id = self.settings.client_id.clone().ok_or(CredentialsError::NoId)?;
        Ok(Credentials { id, secret: self.settings.client_secret.read()? })
    }

    /// The version of the secret file, to notice that a refused secret was corrected.
    pub fn secret_version(&self) -> SecretVersion {
        use std::os::unix::fs::MetadataExt as _;
        let SecretSource::File(path) = &self.settings.client_secret else {
            return SecretVersion::default();
        };
        SecretVersion(
            path.metadata().ok().map(|data| (data.ino(), data.ctime(), data.ctime_nsec())),
        )
    }

    /// Opens the connection that the token request will use. Any HTTP response from the token
    /// endpoint's origin counts.
    ///
    /// # Errors
    /// Why the server cannot be reached.
    pub async fn reach(&self) -> Result<(), String> {
        let mut origin = self.settings.token.url().clone();
        origin.set_path("/");
        origin.set_query(None);
        for tries in 1.. {
            let why = match while_running(CONNECT, self.http.head(origin.clone()).send()).await {
                Some(Ok(_)) => break,
                Some(Err(error)) => response::explain(&error),
                None => "it does not answer".into(),
            };
            if !self.has_another(tries) {
                return Err(why);
            }
        }
        Ok(())
    }

    /// True if the token endpoint has another address, which is tried next.
    fn has_another(&self, tries: usize) -> bool {
        let host = self.settings.token.url().host_str().unwrap_or_default();
        tries < MAX_TRIES && self.names.pass_over(host)
    }

    /// Posts to the token endpoint, once. Where no connection can be made, the next address is
    /// tried. After the limit nothing is sent; it is looked at before each try, and again when the
    /// connection is there.
    pub async fn request_tokens(
        &self,
        what: &TokenRequest<'_>,
        credentials: &Credentials,
        limit: Option<&TimeLimit>,
    ) -> Outcome {
        let mut tries = 0;
        loop {
            if limit.is_some_and(TimeLimit::is_over) {
                return Outcome::HeldUp;
            }
            let (request, form) =
                self.authenticated(&self.settings.token, token::form(what), credentials);
            let request = match limit {
                Some(limit) => {
                    let form = LimitedForm::new(form.to_string(), limit.clone());
                    request.body(reqwest::Body::wrap(form))
                }
                None => request.body(form.to_string()),
            };
            let outcome = token::post(request).await;
            tries += 1;
            // Only a request that certainly was not sent is sent again.
            if !matches!(outcome, Outcome::NotSent(_)) || !self.has_another(tries) {
                return outcome;
            }
        }
    }

    /// Asks whether the authorization server still accepts a refresh token (RFC 7662).
    ///
    /// # Errors
    /// There is no endpoint, or it did not answer the question.
    pub async fn is_active(
        &self,
        token: &RefreshToken,
        credentials: &Credentials,
    ) -> Result<bool, IntrospectError> {
        let endpoint = self.settings.introspect.as_ref().ok_or(IntrospectError::Absent)?;
        let form = Zeroizing::new(format!(
            "token={}&token_type_hint=refresh_token",
            url::form_urlencoded::byte_serialize(token.expose().as_bytes()).collect::<String>()
        ));
        let (request, form) = self.authenticated(endpoint, form, credentials);
        let answer = introspect::ask(request.body(form.to_string()), "active").await?;
        introspect::active(&answer.body, answer.end)
    }

    /// Asks the API whose token this is.
    ///
    /// # Errors
    /// The API did not answer the question.
    pub async fn subject(&self, token: &AccessToken) -> Result<String, IntrospectError> {
        let header = token.header().ok_or(IntrospectError::Unsendable)?;
        let answer = introspect::ask(self.api("/v1/introspect", &header), "data").await?;
        introspect::subject(&answer.body, answer.end)
    }

    /// Asks the API what it knows of a credential, given as the value of its header.
    ///
    /// # Errors
    /// The API did not answer the question.
    pub async fn identity(&self, credential: &HeaderValue) -> Result<Identity, IntrospectError> {
        let answer = introspect::ask(self.api("/v1/introspect", credential), "data").await?;
        introspect::identity(&answer.body, answer.end)
    }

    fn api(&self, path: &str, credential: &HeaderValue) -> reqwest::RequestBuilder {
        let request = self.http.get(format!("{}{path}", self.settings.api));
        request.header(header::AUTHORIZATION, credential).header(header::ACCEPT, "application/json")
    }

    /// The name of the company that a subject stands for, to be shown: `GET /v1/companies/{id}`,
    /// which needs `companies:read`. None if the subject is no company, or the API does not say.
    pub async fn company(&self, credential: &HeaderValue, subject: &str) -> Option<String> {
        let id = introspect::company_id(subject)?;
        let request = self.api(&format!("/v1/companies/{id}"), credential);
        let answer = introspect::ask(request, "data").await.ok()?;
        introspect::company_name(&answer.body, answer.end)
    }

    /// A request without its body, and the form that is to be that.
    fn authenticated(
        &self,
        endpoint: &Endpoint,
        mut form: Zeroizing<String>,
        credentials: &Credentials,
    ) -> (reqwest::RequestBuilder, Zeroizing<String>) {
        let basic = token::authenticate(
            self.settings.auth,
            &credentials.id,
            &credentials.secret,
            &mut form,
        );
        let mut request = self
            .http
            .post(endpoint.url().clone())
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(header::ACCEPT, "application/json");
        if let Some(basic) = basic {
            request = request.header(header::AUTHORIZATION, basic);
        }
        (request, form)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::net::{IpAddr, TcpListener};
    use std::sync::LazyLock;

    use super::*;
    use crate::clock::{Clock, Now};
    use crate::secret::RefreshToken;

    fn client(names: Names, port: u16) -> Client {
        let at = |path: &str| Endpoint::parse(&format!("https://token.test:{port}{path}")).unwrap();
        let settings = Settings {
            client_id: Some("id".into()),
            client_secret: SecretSource::Value(ClientSecret::new("secret")),
            auth: ClientAuth::Basic,
            scopes: Vec::new(),
            authorize: at("/authorize"),
            token: at("/token"),
            introspect: None,
            api: at("/").origin(),
        };
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let outbound = outbound::Settings { plain_only: true, ..outbound::Settings::default() };
        let mut outbound = Outbound::new(&outbound).unwrap();
        outbound.names = names;
        Client::new(settings, &outbound).unwrap()
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn the_next_address_is_tried_if_one_does_not_answer() {
        fn two(_: &str) -> Result<Vec<IpAddr>, outbound::NameError> {
            Ok(vec![[127, 0, 0, 2].into(), [127, 0, 0, 1].into()])
        }
        let good = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = good.local_addr().unwrap().port();
        let bad = TcpListener::bind(("127.0.0.2", port)).unwrap();
        let visits = |listener: TcpListener| {
            let (sender, receiver) = std::sync::mpsc::channel();
            std::thread::spawn(move || {
                listener.incoming().map_while(|stream| sender.send(stream).ok()).count()
            });
            receiver
        };
        let (bad, good) = (visits(bad), visits(good));
        // Both accept and send nothing; what counts is that each was tried.
        let closing = std::thread::spawn(move || {
            let wait = Duration::from_secs(10);
            (bad.recv_timeout(wait).is_ok(), good.recv_timeout(wait).is_ok())
        });
        let client = client(Names::by(two), port);
        let credentials = client.credentials().unwrap();
        let token = RefreshToken::new("refresh");
        let outcome =
            client.request_tokens(&TokenRequest::Refresh(&token), &credentials, None).await;
        assert!(matches!(outcome, Outcome::NotSent(_)), "{outcome:?}");
        assert_eq!(closing.join().unwrap(), (true, true));
    }

    /// What arrived at a token endpoint whose name takes until the end of the time to look up.
    async fn sent_after(ends_before: Ends) -> (Outcome, String) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let arrived = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut arrived = String::new();
            stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            while !arrived.contains("refresh_token=") {
                let mut part = [0; 4096];
                match stream.read(&mut part).unwrap() {
                    0 => break,
                    read => arrived.push_str(std::str::from_utf8(&part[..read]).unwrap()),
                }
            }
            arrived
        });
        let mut client = client(Names::by(slow_name), port);
        client.settings.token = Endpoint::parse(&format!("http://localhost:{port}/token")).unwrap();
        let credentials = client.credentials().unwrap();
        let token = RefreshToken::new("refresh");
        let end = CLOCK.boot() + if ends_before == Ends::Sending { 1000 } else { 10_000 };
        let limit = TimeLimit::at(CLOCK.clone(), end);
        let outcome =
            client.request_tokens(&TokenRequest::Refresh(&token), &credentials, Some(&limit)).await;
        drop(client);
        (outcome, arrived.join().unwrap())
    }

    #[derive(PartialEq)]
    enum Ends {
        Sending,
        Later,
    }

    static CLOCK: LazyLock<Clock> =
        LazyLock::new(|| Clock::manual(Now { wall: 1_800_000_000_000, boot: 1_000_000 }));

    #[expect(clippy::unnecessary_wraps, reason = "as `Names` wants it")]
    fn slow_name(_: &str) -> Result<Vec<IpAddr>, outbound::NameError> {
        let now = CLOCK.now();
        CLOCK.set(Now { boot: now.boot + 5000, ..now });
        Ok(vec![[127, 0, 0, 1].into()])
    }

    #[tokio::test]
    async fn a_token_whose_time_ends_while_it_connects_does_not_leave() {
        let (outcome, arrived) = sent_after(Ends::Later).await;
        assert!(matches!(outcome, Outcome::Ambiguous { .. }), "{outcome:?}");
        assert!(arrived.contains("refresh_token=refresh"), "{arrived}");
        assert!(arrived.to_lowercase().contains("content-length: 46"), "{arrived}");
        let (outcome, arrived) = sent_after(Ends::Sending).await;
        assert!(matches!(outcome, Outcome::HeldUp), "{outcome:?}");
        assert!(!arrived.contains("refresh_token"), "{arrived}");
    }

    #[tokio::test]
    async fn no_address_is_tried_after_the_time_to_send() {
        fn two(_: &str) -> Result<Vec<IpAddr>, outbound::NameError> {
            LATE.set(Now { boot: LATE.boot() + 5000, ..LATE.now() });
            Ok(vec![[127, 0, 0, 2].into(), [127, 0, 0, 1].into()])
        }
        static LATE: LazyLock<Clock> = LazyLock::new(|| Clock::manual(Now { wall: 0, boot: 0 }));
        let port = {
            let unused = TcpListener::bind("127.0.0.1:0").unwrap();
            unused.local_addr().unwrap().port()
        };
        let client = client(Names::by(two), port);
        let credentials = client.credentials().unwrap();
        let token = RefreshToken::new("refresh");
        let limit = TimeLimit::at(LATE.clone(), 1000);
        let outcome =
            client.request_tokens(&TokenRequest::Refresh(&token), &credentials, Some(&limit)).await;
        assert!(matches!(outcome, Outcome::HeldUp), "{outcome:?}");
        assert_eq!(LATE.boot(), 5000, "looked up once");
    }
}
