//! Text that is pasted into a shell.

/// Replaces the commands in a text by ones that read the same configuration as this command.
pub(super) fn with_flags(text: &str, program: &str) -> String {
    text.replace("pleo-proxy login", &format!("{program} login"))
}

/// One argument, quoted for a shell.
pub(super) fn quoted(word: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./:=@%+,".contains(&byte);
    if !word.is_empty() && word.bytes().all(is_plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}
