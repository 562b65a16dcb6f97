//! Which names say that the value beside them is a secret, or a person's.

/// Where a name stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// A header.
    Header,
    /// A parameter of a query or form.
    Parameter,
    /// A key in JSON.
    Json,
    /// Anything else, such as a line of a log.
    Text,
}

/// Always secret. Names are compared in lower case, letters and digits only.
const SECRET: [&str; 30] = [
    "assertion",
    "auth",
    "authorization",
    "bearer",
    "clientassertion",
    "codeverifier",
    "cookie",
    "cookies",
    "credential",
    "credentials",
    // Of a webhook subscription: Pleo sends them to the subscriber as they are.
    "customheaders",
    "cvc",
    "cvv",
    "jwt",
    "otp",
    "passwd",
    "passwords",
    "pin",
    "pleoproxykey",
    "pleoproxysession",
    "proxyauthorization",
    "pwd",
    "samlresponse",
    "secrets",
    "sessionid",
    "setcookie",
    "sid",
    "tokens",
    "xapikey",
    "xauth",
];
/// Secret at the end of a longer name too: `client_secret`, `webhookSecretKey`.
const SECRET_ENDINGS: [&str; 14] = [
    "accesskey",
    "apikey",
    "authtoken",
    "passphrase",
    "password",
    "privatekey",
    "secret",
    "secretkey",
    "secretvalue",
    "securitytoken",
    "sharedkey",
    "signingkey",
    "token",
    "userpass",
];
/// These end like secrets, but say where a list goes on.
const POSITIONS: [&str; 6] =
    ["continuationtoken", "cursortoken", "nexttoken", "pagetoken", "paginationtoken", "synctoken"];
/// Secret as parameters of URLs and forms: codes of logins, one-time keys, and what makes a
/// presigned URL valid (S3, CloudFront, Google, Azure).
const SECRET_PARAMETERS: [&str; 18] = [
    "awsaccesskeyid",
    "code",
    "expires",
    "googleaccessid",
    "key",
    "keypairid",
    "nonce",
    "policy",
    "se",
    "session",
    "sig",
    "signature",
    "state",
    "xamzcredential",
    "xamzsignature",
    "xgoogcredential",
    "xgoogsignature",
    "ticket",
];
/// Ambiguous in JSON: an account of a chart of accounts has a `code`. Secret if the value looks
/// like a key.
const SECRET_IF_OPAQUE: [&str; 6] =
    ["code", "authorizationcode", "key", "nonce", "session", "state"];

/// A name in the form that the lists have.
fn plain(name: &str) -> String {
    name.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect()
}

/// True if the value beside the name is a secret, whatever it is.
pub(super) fn is_secret(name: &str, place: Place) -> bool {
    let name = plain(name);
    let ends = |endings: &[&str]| endings.iter().any(|ending| name.ends_with(ending));
    if ends(&POSITIONS) {
        return false;
    }
    let is_listed = |list: &[&str]| list.contains(&name.as_str());
    match place {
        _ if is_listed(&SECRET) || ends(&SECRET_ENDINGS) => true,
        Place::Header => ends(&["signature", "cookie"]),
        Place::Parameter => is_listed(&SECRET_PARAMETERS),
        Place::Json | Place::Text => false,
    }
}

/// True if the value beside a key of JSON is a secret when it looks like one.
pub(super) fn is_secret_if_opaque(name: &str) -> bool {
    SECRET_IF_OPAQUE.contains(&plain(name).as_str())
}

/// True if the value beside a key says where a list goes on.
pub(super) fn is_position(name: &str) -> bool {
    let name = plain(name);
    name.ends_with("cursor") || POSITIONS.iter().any(|ending| name.ends_with(ending))
}

/// What a value says about a person.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Personal {
    /// A name.
    Name,
    /// An e-mail address.
    Email,
    /// A phone number.
    Phone,
    /// A bank account.
    Iban,
}

impl Personal {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Name => "person",
            Self::Email => "email",
            Self::Phone => "phone",
            Self::Iban => "iban",
        }
    }
}

const PERSON_NAMES: [&str; 11] = [
    "accountholdername",
    "cardholdername",
    "displayname",
    "employeename",
    "familyname",
    "firstname",
    "fullname",
    "givenname",
    "lastname",
    "middlename",
    "username",
];
/// Objects whose `name` is a person's.
const PERSONS: [&str; 14] = [
    "accountholder",
    "approver",
    "author",
    "cardholder",
    "contact",
    "createdby",
    "employee",
    "employees",
    "member",
    "members",
    "owner",
    "person",
    "user",
    "users",
];

/// What the value beside a key of JSON says about a person; `within` are the keys of the objects
/// around it, the innermost last.
pub(super) fn personal(name: &str, within: &[String]) -> Option<Personal> {
    let name = plain(name);
    let ends = |ending: &str| name.ends_with(ending);
    if ends("email") || ends("emailaddress") {
        return Some(Personal::Email);
    }
    if ["phone", "phonenumber", "mobile", "mobilenumber", "msisdn"].iter().any(|it| ends(it)) {
        return Some(Personal::Phone);
    }
    if ends("iban") {
        return Some(Personal::Iban);
    }
    let is_person = || within.iter().rev().find(|key| !key.is_empty() && *key != "data");
    let is_name = PERSON_NAMES.contains(&name.as_str())
        || name == "name" && is_person().is_some_and(|it| PERSONS.contains(&plain(it).as_str()));
    is_name.then_some(Personal::Name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_secrets_are_recognised_in_every_spelling() {
        for name in [
            "Authorization",
            "access_token",
            "accessToken",
            "refresh-token",
            "client_secret",
            "X-Api-Key",
            "X-Amz-Security-Token",
            "password",
            "oldPassword",
            "secretKey",
            "customHeaders",
            "credentials",
            "code_verifier",
            "id_token",
            "endpointAuth[token]",
        ] {
            for place in [Place::Header, Place::Parameter, Place::Json, Place::Text] {
                assert!(is_secret(name, place), "{name} {place:?}");
            }
        }
        for name in ["code", "X-Amz-Signature", "sig", "Key-Pair-Id", "state", "Expires"] {
            assert!(is_secret(name, Place::Parameter), "{name}");
            assert!(!is_secret(name, Place::Json), "{name}");
        }
        assert!(is_secret("webhook-signature", Place::Header));
    }

    #[test]
    fn names_of_ordinary_data_are_not() {
        for name in [
            "id",
            "name",
            "nextPageToken",
            "cursor",
            "token_type",
            "expires_in",
            "companyId",
            "hasSecrets2",
            "codes",
            "amount",
            "secretary",
            "tokenExpiry",
            "passwordless",
            "X-Request-Id",
        ] {
            for place in [Place::Header, Place::Parameter, Place::Json, Place::Text] {
                assert!(!is_secret(name, place), "{name} {place:?}");
            }
        }
    }

    #[test]
    fn a_name_is_a_persons_in_an_object_about_a_person() {
        let within = |keys: &[&str]| keys.iter().map(|key| (*key).to_owned()).collect::<Vec<_>>();
        assert_eq!(personal("name", &within(&["data", "employee"])), Some(Personal::Name));
        assert_eq!(personal("name", &within(&["users", ""])), Some(Personal::Name));
        assert_eq!(personal("name", &within(&["vendor"])), None);
        assert_eq!(personal("firstName", &[]), Some(Personal::Name));
        assert_eq!(personal("contact_email", &[]), Some(Personal::Email));
        assert_eq!(personal("IBAN", &[]), Some(Personal::Iban));
        assert_eq!(personal("phoneNumber", &[]), Some(Personal::Phone));
        assert_eq!(personal("companyName", &[]), None);
    }
}
