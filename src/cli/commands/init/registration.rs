//! What Pleo has to know about the client, as a text to send.

use url::Url;

/// What is registered at Pleo.
pub(super) struct Registration<'a> {
    pub(super) environment: &'a str,
    pub(super) redirect_uri: &'a Url,
    pub(super) scopes: &'a [String],
}

impl Registration<'_> {
    /// Where a login begins, and where the accounts are shown: beside the redirect URI.
    fn beside(&self, path: &str) -> String {
        let mut url = self.redirect_uri.clone();
        url.set_query(None);
        url.set_path(path);
        url.to_string()
    }

    /// The text for an e-mail or for the registration form.
    pub(super) fn text(&self) -> String {
        let Self { environment, redirect_uri, scopes } = self;
        let (begin, settings) = (self.beside("/connect"), self.beside("/"));
        let scopes = scopes.join(" ");
        format!(
            "Please register this OAuth client at Pleo:\n\n\
             Environment:    {environment}\n\
             Redirect URI:   {redirect_uri}\n\
             Initiation URI: {begin}\n\
             Settings URI:   {settings}\n\
             Scopes:         {scopes}\n\
             Grant types:    authorization code with PKCE (S256), refresh token"
        )
    }
}
