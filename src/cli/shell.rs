//! Text that a person pastes into a shell.

/// Commands that a text names, so that they read the configuration that this one reads.
pub(super) fn with_flags(text: &str, program: &str) -> String {
    text.replace("pleo-proxy login", &format!("{program} login"))
}

/// A word of a shell's command line.
pub(super) fn quoted(word: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./:=@%+,".contains(&byte);
    if !word.is_empty() && word.bytes().all(is_plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}
