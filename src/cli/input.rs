//! What a person types or pipes in: lines, and secrets, which are not shown.

use std::io::{BufRead as _, IsTerminal as _, Read as _, Write as _, stderr, stdin};

use anyhow::{Context as _, anyhow, bail};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use tokio::sync::oneshot;
use zeroize::Zeroizing;

use super::signals::Signals;
use crate::private_file::text;

/// Longest input that is read from stdin, in bytes: a pasted address, a token, a secret.
const MAX_INPUT: u64 = 64 * 1024;

/// One line from stdin. It is read on its own thread, so that waiting for it does not keep the
/// process from ending.
pub(super) async fn line() -> anyhow::Result<Zeroizing<Vec<u8>>> {
    let (sender, line) = oneshot::channel();
    std::thread::Builder::new().name("input".into()).spawn(move || {
        let mut line = Zeroizing::new(Vec::new());
        let read = stdin().lock().take(MAX_INPUT).read_until(b'\n', &mut line);
        // Nobody waits any more if the command was cancelled.
        let _ = sender.send(read.map(|_| line));
    })?;
    line.await.context("stdin")?.context("stdin")
}

/// All that is piped in.
pub(super) fn all(what: &str) -> anyhow::Result<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(Vec::new());
    stdin().take(MAX_INPUT).read_to_end(&mut bytes).with_context(|| format!("{what} on stdin"))?;
    Ok(bytes)
}

/// Pasted or piped input as text.
pub(super) fn as_text(bytes: &[u8], what: &str) -> anyhow::Result<Zeroizing<String>> {
    let text = text::decode(bytes).map_err(|error| anyhow!("the {what} on stdin {error}"))?;
    match text.trim() {
        "" => bail!("there is no {what} on stdin; run the command again"),
        text => Ok(Zeroizing::new(text.to_owned())),
    }
}

/// A person at a terminal who answers questions.
pub(super) struct Person {
    signals: Signals,
}

impl Person {
    /// None if stdin or stderr is no terminal.
    ///
    /// # Errors
    /// Signals cannot be received.
    pub(super) fn present() -> std::io::Result<Option<Self>> {
        let is_present = stdin().is_terminal() && stderr().is_terminal();
        is_present.then(|| Ok(Self { signals: Signals::new()? })).transpose()
    }

    /// The answer to a question, without spaces around it.
    ///
    /// # Errors
    /// Ctrl-C or the end of the input.
    pub(super) async fn answer(&mut self, question: &str) -> anyhow::Result<String> {
        Ok(self.ask(question).await?.to_string())
    }

    /// The same, not shown while it is typed.
    ///
    /// # Errors
    /// Ctrl-C or the end of the input; the terminal shows again what is typed.
    pub(super) async fn hidden(&mut self, question: &str) -> anyhow::Result<Zeroizing<String>> {
        let _unseen = Unseen::begin()?;
        self.ask(question).await
    }

    async fn ask(&mut self, question: &str) -> anyhow::Result<Zeroizing<String>> {
        let mut terminal = stderr();
        let _ = write!(terminal, "{question}").and_then(|()| terminal.flush());
        let line = tokio::select! {
            line = line() => line?,
            () = self.signals.next() => bail!("cancelled; nothing was written"),
        };
        if line.is_empty() {
            bail!("the input ended; nothing was written");
        }
        let text = text::decode(&line).map_err(|error| anyhow!("the answer {error}"))?;
        Ok(Zeroizing::new(text.trim().to_owned()))
    }
}

/// While it exists, the terminal does not show what is typed.
struct Unseen(Termios);

impl Unseen {
    fn begin() -> anyhow::Result<Self> {
        let before = tcgetattr(stdin()).context("the terminal")?;
        let mut quiet = before.clone();
        quiet.local_modes.remove(LocalModes::ECHO);
        tcsetattr(stdin(), OptionalActions::Flush, &quiet).context("the terminal")?;
        Ok(Self(before))
    }
}

impl Drop for Unseen {
    fn drop(&mut self) {
        let _ = tcsetattr(stdin(), OptionalActions::Now, &self.0);
        // The line break that was typed was not shown either.
        let _ = writeln!(stderr());
    }
}
