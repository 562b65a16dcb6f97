//! What to do about a file that a command was given and cannot use.

use std::io;
use std::io::ErrorKind;
use std::path::Path;

/// The system's reason, without the name of a temporary file beside the one that is meant.
fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" at path ").next().unwrap_or(&text).to_owned()
}

/// Why a file cannot be read, and the next step; `otherwise` is another way to give its content.
pub(super) fn unreadable(file: &Path, error: &io::Error, otherwise: &str) -> String {
    let shown = file.display();
    let step = match error.kind() {
        ErrorKind::NotFound => "name a file that exists",
        ErrorKind::PermissionDenied => "make it readable for your user",
        ErrorKind::IsADirectory => "name a file in it",
        _ => "name another file",
    };
    format!("{shown} cannot be read: {}; {step}{otherwise}", reason(error))
}

/// Why a file cannot be written, and the next step.
pub(super) fn unwritable(file: &Path, error: &io::Error) -> String {
    let shown = file.display();
    let folder = file.parent().filter(|it| !it.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let step = match error.kind() {
        ErrorKind::NotFound => format!("create its folder first: mkdir -p {}", folder.display()),
        ErrorKind::PermissionDenied => "choose a folder that you may write to".to_owned(),
        ErrorKind::IsADirectory => "name a file in it".to_owned(),
        ErrorKind::StorageFull => "make room, or choose another folder".to_owned(),
        _ => "choose another place".to_owned(),
    };
    format!("{shown} cannot be written: {}; {step}", reason(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_failure_has_a_next_step() {
        let file = Path::new("/no/such/place/x.har");
        let missing = io::Error::from(ErrorKind::NotFound);
        let written = unwritable(file, &missing);
        assert!(
            written.ends_with("; create its folder first: mkdir -p /no/such/place"),
            "{written}"
        );
        let read = unreadable(file, &missing, ", or - for stdin");
        assert!(read.ends_with("; name a file that exists, or - for stdin"), "{read}");
        let temporary = tempfile::NamedTempFile::new_in("/no/such/place").unwrap_err();
        assert_eq!(unwritable(file, &temporary).matches("/no/such/place").count(), 2);
        let here = unwritable(Path::new("x"), &io::Error::from(ErrorKind::PermissionDenied));
        assert!(here.ends_with("; choose a folder that you may write to"), "{here}");
    }
}
