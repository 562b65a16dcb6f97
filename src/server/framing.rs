//! Finds where the requests of a connection end, so that hyper gets one request at a time and what
//! follows a body, or is left of one, is never taken for a request. hyper decides what a request
//! is; should the two ever disagree, the connection stalls and is closed by a timeout.

use memchr::memchr;

/// Largest request head, in bytes.
pub(super) const MAX_HEAD: usize = 64 * 1024;
/// Memory of a head that is kept for the next one. Programs with many cookies or a long query send
/// them with each request.
const MAX_RETAINED_HEAD: usize = 8 * 1024;
/// Bytes of empty lines before a request line that do not begin its head (RFC 9112 section 2.2).
const MAX_BLANK: usize = 16;

/// Follows the bytes of one request after another.
#[derive(Debug, Default)]
pub(super) struct Framing {
    state: State,
    /// The head as it arrived.
    head: Vec<u8>,
    /// Where its last line begins.
    line: usize,
    coding: Coding,
    /// The request line holds a `#`, which hyper would cut off silently.
    has_fragment: bool,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum State {
    /// Before the end of the request line.
    #[default]
    Before,
    Fields,
    /// This many bytes of a body remain.
    Length(u64),
    Chunked(Chunk),
    Over,
}

/// How the body is framed, according to the head (RFC 9112 section 6.3).
#[derive(Clone, Copy, Debug, Default)]
enum Coding {
    #[default]
    None,
    Length(u64),
    Chunked,
}

/// Inside the chunked coding (RFC 9112 section 7.1).
#[derive(Debug, PartialEq, Eq)]
enum Chunk {
    Size(u64),
    /// The extensions behind a size, up to the end of the line.
    Extension(u64),
    Data(u64),
    /// The line end behind the data.
    DataEnd,
    /// A trailer line; true = it is empty so far.
    Trailer(bool),
}

impl Framing {
    /// Follows the next bytes and returns how many of them belong to this request.
    pub(super) fn take(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        while at < bytes.len() && self.state != State::Over {
            at += match &mut self.state {
                State::Length(left) => {
                    let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len() - at);
                    *left -= taken as u64;
                    if *left == 0 {
                        self.state = State::Over;
                    }
                    taken
                }
                State::Chunked(chunk) => {
                    let (taken, next) = chunk.step(&bytes[at..]);
                    self.state = next.map_or(State::Over, State::Chunked);
                    taken
                }
                _ => self.take_line(&bytes[at..]),
            };
        }
        at
    }

    /// Takes a line of the head, or the part of it that has arrived.
    fn take_line(&mut self, bytes: &[u8]) -> usize {
        let end = memchr(b'\n', bytes);
        let taken = end.map_or(bytes.len(), |end| end + 1);
        self.head.extend_from_slice(&bytes[..taken]);
        if end.is_some() {
            self.end_line();
        }
        taken
    }

    fn end_line(&mut self) {
        let line = &self.head[self.line..self.head.len() - 1];
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let is_empty = line.is_empty();
        match self.state {
            State::Before if is_empty => {}
            State::Before => {
                self.has_fragment = memchr(b'#', line).is_some();
                self.state = State::Fields;
            }
            _ if is_empty => {
                self.state = match self.coding {
                    Coding::None | Coding::Length(0) => State::Over,
                    Coding::Length(length) => State::Length(length),
                    Coding::Chunked => State::Chunked(Chunk::Size(0)),
                }
            }
            _ => self.coding = self.coding.with(line),
        }
        self.line = self.head.len();
    }

    /// True once the last byte of the request was taken.
    pub(super) fn is_over(&self) -> bool {
        self.state == State::Over
    }

    /// Bytes of the body that have not arrived yet; `u64::MAX` if unknown.
    pub(super) fn remaining(&self) -> u64 {
        match self.state {
            State::Over => 0,
            State::Length(left) => left,
            _ => u64::MAX,
        }
    }

    /// True if the request line holds a fragment.
    pub(super) fn has_fragment(&self) -> bool {
        self.has_fragment
    }

    /// True if the head has begun: with the request line, or with more empty lines than anybody
    /// sends by mistake.
    pub(super) fn has_begun(&self) -> bool {
        self.head.len() > MAX_BLANK || self.head.iter().any(|byte| !matches!(byte, b'\r' | b'\n'))
    }

    /// The head as far as it has arrived.
    pub(super) fn head(&self) -> &[u8] {
        &self.head
    }

    /// Starts over with the next request.
    pub(super) fn next(&mut self) {
        let mut head = std::mem::take(&mut self.head);
        head.clear();
        head.shrink_to(MAX_RETAINED_HEAD);
        *self = Self { head, ..Self::default() };
    }
}

impl Coding {
    /// The chunked coding overrides a length.
    fn with(self, line: &[u8]) -> Self {
        // The first letter rules out most fields.
        let (b't' | b'T' | b'c' | b'C') = line[0] else { return self };
        let Some(colon) = memchr(b':', line) else { return self };
        let name = &line[..colon];
        if name.eq_ignore_ascii_case(b"transfer-encoding") {
            return Self::Chunked;
        }
        if matches!(self, Self::Chunked) || !name.eq_ignore_ascii_case(b"content-length") {
            return self;
        }
        let value = std::str::from_utf8(line[colon + 1..].trim_ascii()).unwrap_or_default();
        value.parse().map_or(self, Self::Length)
    }
}

impl Chunk {
    /// Takes what it can and returns the next state; none = the body is over.
    fn step(&mut self, bytes: &[u8]) -> (usize, Option<Self>) {
        let byte = bytes[0];
        match *self {
            Self::Data(left) => {
                let taken = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
                let left = left - taken as u64;
                (taken, Some(if left == 0 { Self::DataEnd } else { Self::Data(left) }))
            }
            Self::Size(size) | Self::Extension(size) if byte == b'\n' => {
                (1, Some(if size == 0 { Self::Trailer(true) } else { Self::Data(size) }))
            }
            Self::Size(size) => match char::from(byte).to_digit(16) {
                Some(digit) => {
                    (1, Some(Self::Size(size.saturating_mul(16).saturating_add(digit.into()))))
                }
                None => (1, Some(Self::Extension(size))),
            },
            Self::Extension(size) => {
                (memchr(b'\n', bytes).unwrap_or(bytes.len()), Some(Self::Extension(size)))
            }
            Self::DataEnd => (1, Some(if byte == b'\n' { Self::Size(0) } else { Self::DataEnd })),
            Self::Trailer(is_empty) => match byte {
                b'\n' if is_empty => (1, None),
                b'\n' => (1, Some(Self::Trailer(true))),
                _ => (1, Some(Self::Trailer(is_empty && byte == b'\r'))),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The requests in `bytes`, which arrive in pieces of `size`; the last one may be incomplete.
    fn requests(bytes: &[u8], size: usize) -> Vec<(String, bool)> {
        let (mut framing, mut all, mut one) = (Framing::default(), Vec::new(), Vec::new());
        for piece in bytes.chunks(size) {
            let mut piece = piece;
            while !piece.is_empty() {
                let (taken, rest) = piece.split_at(framing.take(piece));
                one.extend_from_slice(taken);
                piece = rest;
                if framing.is_over() {
                    all.push((
                        String::from_utf8(std::mem::take(&mut one)).unwrap(),
                        framing.has_fragment(),
                    ));
                    framing.next();
                }
            }
        }
        if !one.is_empty() {
            all.push((String::from_utf8(one).unwrap(), framing.has_fragment()));
        }
        all
    }

    const WHOLE: [&str; 9] = [
        "GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        "\r\n\r\nGET /#a HTTP/1.1\r\nX: #\r\n\r\n",
        "GET / HTTP/1.1\nHost: #\n\n",
        "POST / HTTP/1.1\r\nContent-Length: 23\r\n\r\nGET /# HTTP/1.1\r\nX:\r\n\r\n",
        "POST / HTTP/1.1\r\ncontent-LENGTH:\t0\r\n\r\n",
        "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nContent-Length: 3\r\ntransfer-encoding: chunked\r\n\r\n4;a=#\r\n\r\n\r\n\r\n0\r\n\r\n",
        "POST /# HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n0A \r\n0123456789\r\n1\r\n\n\r\n000;b\r\nTrailer: #\r\n\r\n",
        "PUT / HTTP/1.1\r\nContent-Length-X: 5\r\nCookie: a\r\nTe: trailers\r\n\r\n",
    ];

    #[test]
    fn a_request_ends_where_its_framing_says() {
        for text in WHOLE {
            for size in [1, 2, 3, 7, 1000] {
                let fragment =
                    text.lines().any(|line| line.starts_with(['G', 'P']) && line.contains("/#"))
                        && !text.starts_with("POST / ");
                assert_eq!(
                    requests(text.as_bytes(), size),
                    [(text.to_owned(), fragment)],
                    "{text:?} {size}"
                );
            }
        }
        let mut framing = Framing::default();
        framing.take(b"PUT / HTTP/1.1\r\nContent-Length: 10\r\n\r\nabc");
        assert_eq!((framing.remaining(), framing.is_over()), (7, false));
        framing.next();
        assert_eq!((framing.head(), framing.is_over()), (&b""[..], false));
    }

    #[test]
    fn a_few_empty_lines_do_not_begin_a_head() {
        let mut framing = Framing::default();
        framing.take(b"\r\n\r");
        assert!(!framing.has_begun());
        framing.take(b"\n");
        framing.take(b"\r\nG");
        assert!(framing.has_begun());
        let mut blank = Framing::default();
        blank.take(&b"\r\n".repeat(MAX_BLANK / 2));
        assert!(!blank.has_begun());
        blank.take(b"\r");
        assert!(blank.has_begun());
    }

    #[test]
    fn the_memory_of_usual_heads_is_reused() {
        let mut framing = Framing::default();
        framing.take(format!("GET / HTTP/1.1\r\nCookie: {}\r\n\r\n", "a".repeat(6000)).as_bytes());
        let length = framing.head.len();
        framing.next();
        assert!(framing.head.capacity() >= length);
    }

    #[test]
    fn a_long_head_is_not_kept() {
        let mut framing = Framing::default();
        framing.take(format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "a".repeat(60_000)).as_bytes());
        assert!(framing.is_over());
        framing.next();
        assert!(framing.head.capacity() <= MAX_RETAINED_HEAD);
    }

    proptest! {
        #[test]
        fn pipelined_requests_are_separated(
            order in prop::collection::vec(0..WHOLE.len(), 1..6),
            size in 1_usize..40,
        ) {
            let text: String = order.iter().map(|at| WHOLE[*at]).collect();
            let alone: Vec<_> = order.iter().flat_map(|at| requests(WHOLE[*at].as_bytes(), 1000)).collect();
            prop_assert_eq!(requests(text.as_bytes(), size), alone);
        }

        #[test]
        fn all_bytes_are_taken_until_the_request_is_over(bytes in prop::collection::vec(any::<u8>(), 0..300), size in 1_usize..50) {
            let mut framing = Framing::default();
            for piece in bytes.chunks(size) {
                let taken = framing.take(piece);
                prop_assert!(taken == piece.len() || framing.is_over());
            }
        }
    }
}
