//! From the arguments to a request, and back to a command line.

use std::io::Read as _;
use std::path::Path;

use bytes::Bytes;
use clap::Args;
use http::header::{ACCEPT, CONTENT_TYPE, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Method};

use super::target::Target;
use crate::cli::data_client::ToolRequest;
use crate::cli::exit::Failure;
use crate::cli::file_advice;
use crate::cli::shell::quoted;
use crate::redaction::{KnownSecrets, Redactor};
use crate::store::AccountName;

const ACCOUNT: HeaderName = HeaderName::from_static("pleo-account");
/// What belongs to the connection, and is set by the client itself.
const OWN: [&str; 8] = [
    "connection",
    "content-length",
    "expect",
    "host",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

// No documentation comment: clap would use it as the help text of the command.
#[derive(Debug, Default, Args)]
pub(super) struct CallArguments {
    /// [default: GET, or POST with --data]
    #[arg(short = 'X', long, value_name = "METHOD")]
    method: Option<String>,
    /// The body: a text, @FILE, or @- for stdin; application/json unless --header says otherwise
    #[arg(short, long, value_name = "TEXT")]
    data: Option<String>,
    /// A header; may be repeated
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE")]
    headers: Vec<String>,
    /// Account [default: as for any request that names none]
    #[arg(long, value_name = "NAME")]
    account: Option<AccountName>,
}

impl CallArguments {
    /// Takes the method that stands before the path, as in `api GET /v1/companies`.
    ///
    /// # Errors
    /// It is none, or there is another one.
    pub(super) fn set_method(&mut self, text: String) -> Result<(), Failure> {
        if !text.bytes().all(|byte| byte.is_ascii_alphabetic()) {
            return Err(Failure::usage(format!(
                "{text:?} is no method; write one path, and before it at most a method, such as: api PUT /v1/vendors/ID"
            )));
        }
        match self.method.replace(text) {
            None => Ok(()),
            Some(other) => Err(Failure::usage(format!(
                "the method is named twice; leave out --method {other}, or the word before the path"
            ))),
        }
    }

    /// The request that the arguments ask for.
    ///
    /// # Errors
    /// An argument makes no sense, or the file of the body cannot be read.
    pub(super) fn request(&self, target: &Target) -> Result<ToolRequest, Failure> {
        let method = match &self.method {
            Some(method) => self::method(method)?,
            None if self.data.is_some() => Method::POST,
            None => Method::GET,
        };
        let headers = self.request_headers()?;
        let body = self.data.as_deref().map(body).transpose()?;
        Ok(ToolRequest { method, target: target.uri(), headers, body })
    }

    /// The usual headers; those that are given replace them.
    fn request_headers(&self) -> Result<HeaderMap, Failure> {
        let own = HeaderValue::from_static(concat!("pleo-proxy/", env!("CARGO_PKG_VERSION")));
        let mut headers =
            HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static("*/*")), (USER_AGENT, own)]);
        if self.data.is_some() {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        let mut given = HeaderMap::new();
        for text in &self.headers {
            let (name, value) = header(text)?;
            given.append(name, value);
        }
        headers.extend(given);
        if let Some(account) = &self.account {
            headers.insert(ACCOUNT, HeaderValue::try_from(account.as_str())?);
        }
        Ok(headers)
    }
}

fn method(text: &str) -> Result<Method, Failure> {
    let method = Method::from_bytes(text.to_ascii_uppercase().as_bytes());
    method.map_err(|_| Failure::usage(format!("--method {text:?} is none; write for example PUT")))
}

fn header(text: &str) -> Result<(HeaderName, HeaderValue), Failure> {
    let (name, value) = text.split_once(':').unwrap_or((text, ""));
    // The value may be a secret, so it is not shown.
    let invalid = |why: &str| Failure::usage(format!("--header {:?}: {why}", name.trim()));
    if !text.contains(':') {
        return Err(invalid("write it as NAME: VALUE"));
    }
    let name = name.trim().parse::<HeaderName>().map_err(|_| invalid("this is no name"))?;
    if OWN.contains(&name.as_str()) {
        return Err(invalid("it belongs to the connection, and is set by this command"));
    }
    let value = value
        .trim()
        .parse()
        .map_err(|_| invalid("its value has characters that no header may have"))?;
    Ok((name, value))
}

fn body(data: &str) -> Result<Bytes, Failure> {
    let Some(file) = data.strip_prefix('@') else { return Ok(data.to_owned().into()) };
    let mut read = Vec::new();
    let outcome = match file {
        "-" => std::io::stdin().read_to_end(&mut read).map(|_| read),
        file => std::fs::read(file),
    };
    let outcome = outcome.map_err(|error| {
        let why = file_advice::unreadable(Path::new(file), &error, ", or @- for stdin");
        Failure::usage(format!("--data: {why}"))
    })?;
    Ok(outcome.into())
}

/// A command line of this command that can be run again for another target.
pub(super) struct Command {
    program: String,
    /// The flags behind the target, quoted for a shell.
    flags: String,
}

impl Command {
    pub(super) fn new(program: &str, call: &CallArguments, json: bool) -> Self {
        let mut flags = String::from(" --all");
        let mut add = |flag: &str, value: &str| flags += &format!(" {flag} {}", quoted(value));
        if let Some(method) = &call.method {
            add("-X", method);
        }
        if let Some(data) = &call.data {
            add("-d", data);
        }
        // The line is printed, and may end up in a log: a secret is to be filled in again.
        let redactor = Redactor::new(KnownSecrets::default());
        for header in &call.headers {
            let (name, value) = header.split_once(':').unwrap_or((header, ""));
            add("-H", &format!("{name}: {}", redactor.header(name.trim(), value.trim())));
        }
        if let Some(account) = &call.account {
            add("--account", account.as_str());
        }
        if json {
            flags += " --json";
        }
        Self { program: program.to_owned(), flags }
    }

    /// The line for this target.
    pub(super) fn line(&self, target: &Target) -> String {
        format!("{} api {}{}", self.program, quoted(&target.to_string()), self.flags)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_makes_a_post_of_json_unless_something_else_is_asked_for() {
        let target = Target::read("/v1/vendors").unwrap();
        let get = CallArguments::default().request(&target).unwrap();
        assert_eq!((get.method, get.body), (Method::GET, None));
        assert!(!get.headers.contains_key(CONTENT_TYPE));
        let with_body = CallArguments { data: Some("{}".into()), ..CallArguments::default() };
        let post = with_body.request(&target).unwrap();
        assert_eq!(
            (&post.method, &post.headers[CONTENT_TYPE]),
            (&Method::POST, &"application/json".parse().unwrap())
        );
        let put = CallArguments {
            method: Some("put".into()),
            headers: vec!["content-type: text/csv".into(), "x-a: 1".into(), "x-a: 2".into()],
            account: Some("acme".parse().unwrap()),
            ..with_body
        };
        let put = put.request(&target).unwrap();
        let all = |name: &str| {
            put.headers.get_all(name).iter().map(|it| it.to_str().unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(put.method, Method::PUT);
        assert_eq!((all("content-type"), all("x-a")), (vec!["text/csv"], vec!["1", "2"]));
        assert_eq!(all("pleo-account"), ["acme"]);
    }

    #[test]
    fn a_method_before_the_path_is_taken_once() {
        let target = Target::read("/v1/vendors").unwrap();
        let mut call = CallArguments::default();
        call.set_method("delete".into()).unwrap();
        assert_eq!(call.request(&target).unwrap().method, Method::DELETE);
        let twice = call.set_method("GET".into()).unwrap_err().error.to_string();
        assert!(twice.contains("--method delete"), "{twice}");
        let path = CallArguments::default().set_method("/v1/a".into()).unwrap_err();
        assert!(path.error.to_string().contains("one path"), "{}", path.error);
    }

    #[test]
    fn arguments_that_make_no_sense_are_refused_without_their_values() {
        let target = Target::read("/").unwrap();
        for (header, hint) in [
            ("no colon", "NAME: VALUE"),
            ("a b: hush", "no name"),
            ("Host: hush", "belongs to the connection"),
            ("x: hush\u{7f}", "no header may have"),
        ] {
            let wrong = CallArguments { headers: vec![header.into()], ..CallArguments::default() };
            let refused = wrong.request(&target).unwrap_err().error.to_string();
            assert!(refused.contains(hint) && !refused.contains("hush"), "{refused}");
        }
        let missing =
            CallArguments { data: Some("@/does/not/exist".into()), ..CallArguments::default() };
        assert!(
            missing.request(&target).unwrap_err().error.to_string().contains("/does/not/exist")
        );
    }

    #[test]
    fn the_command_line_can_be_pasted_and_holds_no_secret() {
        let call = CallArguments {
            data: Some("{\"a\": \"it's\"}".into()),
            headers: vec!["X-Api-Key: hush-hush-hush".into(), "accept-language: da".into()],
            account: Some("acme".parse().unwrap()),
            ..CallArguments::default()
        };
        let target = Target::read("/v1/x?limit=5&after=AB=").unwrap();
        let line = Command::new("pleo-proxy --config 'my file'", &call, true).line(&target);
        assert!(!line.contains("hush"), "{line}");
        for part in [
            "pleo-proxy --config 'my file' api '/v1/x?limit=5&after=AB=' --all -d '{\"a\": \"it'\\''s\"}'",
            " -H 'accept-language: da' --account acme --json",
        ] {
            assert!(line.contains(part), "{part} is not in {line}");
        }
    }
}
