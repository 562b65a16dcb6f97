//! An exchange as a command line that sends the request again, through the proxy: it runs as it
//! is, and holds no secret.

use std::fmt::Write as _;

use super::Detail;
use super::entry::{Capture, Entry};
use crate::redaction::{MASK, Redactor};

/// Stands for a secret that was in the query.
const FILL_IN: &str = "FILL_IN";
/// Headers that curl or the proxy write themselves, or that hold a credential.
const OWN_HEADERS: [&str; 18] = [
    "accept-encoding",
    "authorization",
    "connection",
    "content-length",
    "cookie",
    "expect",
    "host",
    "keep-alive",
    "pleo-account",
    "pleo-proxy-key",
    "pleo-proxy-request",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "traceparent",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Where the data listener of the proxy is.
#[derive(Clone, Debug)]
pub struct Target {
    /// Its origin, such as `http://127.0.0.1:8088`, or `unix:` and the path of its socket.
    pub origin: String,
    /// True if callers must send the local key.
    pub needs_key: bool,
}

impl Target {
    /// The command line, ending with a line break; comments before it say what must be filled in.
    /// None for a request that could not be read.
    pub fn command(&self, detail: &Detail, redactor: &Redactor) -> Option<String> {
        let (entry, capture) = (&detail.entry, detail.capture.as_ref());
        let method = redactor.text(entry.method.as_deref()?);
        let mut notes = String::new();
        if method.contains(MASK) {
            note(&mut notes, "the method held a secret, which was taken out");
        }
        let mut command = String::from("curl");
        if let Some(socket) = self.origin.strip_prefix("unix:") {
            add(&mut command, &["--unix-socket", socket]);
        }
        match &*method {
            "GET" => {}
            "HEAD" => add(&mut command, &["--head"]),
            method => add(&mut command, &["-X", method]),
        }
        if self.needs_key {
            // Not the key: the line ends up in logs and in the shell's history.
            command.push_str(" -H \"Pleo-Proxy-Key: $PLEO_PROXY_KEY\"");
        }
        headers(&mut command, capture, redactor);
        body(&mut command, &mut notes, entry, capture, redactor);
        let url = self.url(entry, detail.query.as_deref(), redactor, &mut notes);
        // Without `-g` curl takes brackets and braces for a pattern of URLs.
        let is_pattern = url.contains(['[', ']', '{', '}']);
        add(&mut command, if is_pattern { &["-g"] } else { &[] });
        add(&mut command, &[&url]);
        Some(format!("{notes}{command}\n"))
    }

    fn url(
        &self,
        entry: &Entry,
        query: Option<&str>,
        redactor: &Redactor,
        notes: &mut String,
    ) -> String {
        let origin =
            if self.origin.starts_with("unix:") { "http://localhost" } else { &self.origin };
        let account = entry.account.as_ref().map(|name| format!("/@{name}")).unwrap_or_default();
        let path = redactor.text(&entry.path);
        if path.contains(MASK) {
            note(notes, "the path held a secret, which was taken out");
        }
        let Some(query) = query else { return format!("{origin}{account}{path}") };
        let query = redactor.query(query);
        if query.contains(MASK) {
            note(notes, "secrets were taken out of the query: fill them in");
        }
        format!("{origin}{account}{path}?{}", query.replace(MASK, FILL_IN))
    }
}

fn headers(command: &mut String, capture: Option<&Capture>, redactor: &Redactor) {
    let Some(capture) = capture else { return };
    for (name, value) in &capture.request.headers {
        let is_own = OWN_HEADERS.iter().any(|own| name.eq_ignore_ascii_case(own));
        let value = redactor.header(name, value);
        // A masked value says nothing, and an empty one would remove the header.
        let line = format!("{}: {value}", redactor.text(name));
        if !is_own && !value.is_empty() && !line.contains(MASK) {
            add(command, &["-H", &line]);
        }
    }
}

fn body(
    command: &mut String,
    notes: &mut String,
    entry: &Entry,
    capture: Option<&Capture>,
    redactor: &Redactor,
) {
    let kept = capture.and_then(|capture| capture.request.body.as_deref());
    match kept.filter(|body| !body.is_empty()) {
        Some(body) => {
            let body = redactor.text(body);
            if body.contains(MASK) {
                note(notes, "secrets were taken out of the body: fill them in");
            }
            add(command, &["--data-raw", &body]);
        }
        None if entry.bytes_in > 0 => {
            note(notes, &format!("the body of {} bytes was not kept", entry.bytes_in));
        }
        None => {}
    }
}

fn note(notes: &mut String, text: &str) {
    // Writing to a String does not fail.
    let _ = writeln!(notes, "# {text}");
}

fn add(command: &mut String, words: &[&str]) {
    for word in words {
        command.push(' ');
        command.push_str(&quoted(word));
    }
}

/// One argument, quoted for a shell.
pub fn quoted(word: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./:=@%+,".contains(&byte);
    if !word.is_empty() && word.bytes().all(is_plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::super::entry::Part;
    use super::*;
    use crate::redaction::KnownSecrets;
    use crate::secret::AccessToken;

    fn target(needs_key: bool) -> Target {
        Target { origin: "http://127.0.0.1:8088".into(), needs_key }
    }

    fn entry(method: &str, path: &str) -> Entry {
        let account = Some("acme".into());
        Entry { method: Some(method.into()), path: path.into(), account, ..Entry::default() }
    }

    fn detail(entry: &Entry, capture: Option<&Capture>) -> Detail {
        let query = Some("company_id=17&status=a%20b&token=hush").filter(|_| entry.bytes_in > 0);
        let query = query.map(str::to_owned);
        Detail { entry: entry.clone(), query, capture: capture.cloned() }
    }

    fn redactor() -> Redactor {
        Redactor::new(KnownSecrets::default())
    }

    /// The arguments that a shell gives to curl.
    fn arguments(line: &str) -> Vec<String> {
        let script = format!("curl() {{ printf '%s\\0' \"$@\"; }}\n{line}");
        let output = Command::new("sh")
            .args(["-c", &script])
            .env("PLEO_PROXY_KEY", "key $x")
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
        text.split_terminator('\0').map(str::to_owned).collect()
    }

    #[test]
    fn a_read_is_one_short_line() {
        let line =
            target(false).command(&detail(&entry("GET", "/v1/companies"), None), &redactor());
        assert_eq!(line.unwrap(), "curl http://127.0.0.1:8088/@acme/v1/companies\n");
        let unix = Target { origin: "unix:/run/a b/api.sock".into(), needs_key: false };
        let head = unix.command(&detail(&entry("HEAD", "/v1/x"), None), &redactor()).unwrap();
        assert_eq!(
            head,
            "curl --unix-socket '/run/a b/api.sock' --head http://localhost/@acme/v1/x\n"
        );
        assert_eq!(target(false).command(&detail(&Entry::default(), None), &redactor()), None);
    }

    #[test]
    fn a_shell_gives_every_argument_as_it_was_whatever_is_in_it() {
        let awkward = "it's \"$HOME\" `id` \\ $(id); & | > < # ! * ? ~ {a,b} [c]\n@file";
        let capture = Capture {
            request: Part {
                headers: vec![
                    ("Content-Type".into(), "application/json".into()),
                    ("X-Awkward".into(), "a'b\"$(id)`id`".into()),
                    ("Host".into(), "127.0.0.1:8088".into()),
                    ("Cookie".into(), "a=b".into()),
                ],
                body: Some(awkward.into()),
                body_note: None,
            },
            response: Part::default(),
        };
        let line = target(true)
            .command(&detail(&entry("POST", "/v1/{a}'$(id)"), Some(&capture)), &redactor());
        let expected = [
            "-X",
            "POST",
            "-H",
            "Pleo-Proxy-Key: key $x",
            "-H",
            "Content-Type: application/json",
            "-H",
            "X-Awkward: a'b\"$(id)`id`",
            "--data-raw",
            awkward,
            "-g",
            "http://127.0.0.1:8088/@acme/v1/{a}'$(id)",
        ];
        assert_eq!(arguments(&line.unwrap()), expected);
    }

    #[test]
    fn what_is_not_kept_is_said_and_no_secret_is_shown() {
        let known = KnownSecrets::default();
        known.learn(&AccessToken::new("sbx-access-of-long-ago"));
        let body = Some("{\"a\":\"sbx-access-of-long-ago\"}".into());
        let headers = vec![("X-Note".into(), "sbx-access-of-long-ago".into())];
        let request = Part { headers, body, body_note: None };
        let capture = Capture { request, response: Part::default() };
        let sent = Entry { bytes_in: 5, ..entry("PUT", "/v1/x/sbx-access-of-long-ago") };
        let redactor = Redactor::new(known);
        let line = target(false).command(&detail(&sent, Some(&capture)), &redactor).unwrap();
        let expected = "# secrets were taken out of the body: fill them in\n\
            # the path held a secret, which was taken out\n\
            # secrets were taken out of the query: fill them in\n\
            curl -X PUT --data-raw '{\"a\":\"[redacted]\"}' -g \
            'http://127.0.0.1:8088/@acme/v1/x/[redacted]?company_id=17&status=a%20b&token=FILL_IN'\n";
        assert_eq!(line, expected);
        let line = target(false).command(&detail(&sent, None), &redactor).unwrap();
        assert!(line.starts_with("# the body of 5 bytes was not kept\n"), "{line}");
    }
}
