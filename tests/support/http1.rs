//! Heads and bodies of HTTP/1.1, read without a library.

use std::io;

pub(super) fn fields(head: &str) -> impl Iterator<Item = (&str, &str)> {
    head.lines()
        .skip(1)
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name, value.trim()))
}

/// Up to the empty line; none if the other side left.
pub(super) fn read_head(wire: &mut impl io::BufRead) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if wire.read_until(b'\n', &mut head).ok()? == 0 {
            return None;
        }
    }
    Some(String::from_utf8_lossy(&head).into_owned())
}

/// The body that a head announces; an error if it breaks off.
pub(super) fn read_body(
    wire: &mut impl io::BufRead,
    head: &str,
    until_end: bool,
) -> io::Result<Vec<u8>> {
    let value = |name: &str| {
        fields(head).find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    };
    let mut body = Vec::new();
    if value("transfer-encoding").is_some() {
        loop {
            let mut line = String::new();
            if wire.read_line(&mut line)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let size = usize::from_str_radix(line.trim().split(';').next().unwrap(), 16)
                .map_err(io::Error::other)?;
            let start = body.len();
            body.resize(start + size, 0);
            wire.read_exact(&mut body[start..])?;
            // The end of the chunk, or the trailer section, which is remembered as part of the body
            // on purpose.
            let mut rest = String::new();
            wire.read_line(&mut rest)?;
            if size == 0 {
                while rest.trim_end() != "" {
                    body.extend_from_slice(rest.as_bytes());
                    rest.clear();
                    wire.read_line(&mut rest)?;
                }
                return Ok(body);
            }
        }
    }
    if let Some(length) = value("content-length") {
        body.resize(length.parse().map_err(io::Error::other)?, 0);
        wire.read_exact(&mut body)?;
    } else if until_end {
        wire.read_to_end(&mut body)?;
    }
    Ok(body)
}
