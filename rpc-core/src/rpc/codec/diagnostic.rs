//! CBOR for people: diagnostic notation (RFC 8949, section 8), for logs, command lines and tests.

use std::fmt::{self, Write};

use super::DEPTH_MAX;

/// Shown at most, in characters, unless [`Diagnostic::limit`] says otherwise.
pub const SHOWN_MAX: usize = 64 * 1024;
/// Bytes shown of what is not CBOR.
const MALFORMED_SHOWN: usize = 16;

/// Bytes as a sequence of CBOR items in diagnostic notation.
///
/// Whatever the bytes are, this ends, and takes no more memory than its output: what is not CBOR, too deep
/// ([`DEPTH_MAX`]) or too long is shown as a comment (`/ .. /`).
pub fn diagnostic(bytes: &[u8]) -> Diagnostic<'_> {
    Diagnostic { bytes, shown_max: SHOWN_MAX }
}

/// See [`diagnostic`].
#[derive(Clone, Copy, Debug)]
pub struct Diagnostic<'a> {
    bytes: &'a [u8],
    shown_max: usize,
}

impl Diagnostic<'_> {
    /// Shows at most `shown_max` characters, and a comment about the rest.
    #[must_use]
    pub fn limit(mut self, shown_max: usize) -> Self {
        self.shown_max = shown_max;
        self
    }
}

impl fmt::Display for Diagnostic<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut printer = Printer { rest: self.bytes, left: self.shown_max, f };
        let mut separator = "";
        while !printer.rest.is_empty() {
            let printed = printer.text(separator).and_then(|()| printer.item(0));
            match printed {
                Ok(()) => separator = ", ",
                Err(stop) => return printer.explain(&stop),
            }
        }
        Ok(())
    }
}

/// Why the printing ended before the bytes did.
enum Stop {
    Malformed,
    TooDeep,
    Full,
    Format(fmt::Error),
}

struct Printer<'a, 'f, 'g> {
    rest: &'a [u8],
    /// Characters that may still be written.
    left: usize,
    f: &'f mut fmt::Formatter<'g>,
}

/// The first bytes of an item (RFC 8949, section 3): its major type and the number that follows.
struct Head {
    major: u8,
    info: u8,
    /// None for an indefinite length.
    value: Option<u64>,
}

impl<'a> Printer<'a, '_, '_> {
    fn item(&mut self, depth: usize) -> Result<(), Stop> {
        if depth == DEPTH_MAX {
            return Err(Stop::TooDeep);
        }
        let start = self.rest;
        let head = self.head()?;
        match (head.major, head.value) {
            (0, Some(number)) => self.print(number),
            (1, Some(number)) => self.print(-1 - i128::from(number)),
            (2, Some(length)) => self.bytes(length),
            (3, Some(length)) => self.string(length),
            (2 | 3, None) => self.chunks(head.major),
            (4, length) => self.sequence(length, ("[", "]"), depth, false),
            (5, length) => self.sequence(length, ("{", "}"), depth, true),
            (6, Some(tag)) => {
                self.print(format_args!("{tag}("))?;
                self.item(depth + 1)?;
                self.text(")")
            }
            (7, Some(value)) => self.simple(head.info, value, start),
            _ => Err(Stop::Malformed),
        }
    }

    fn head(&mut self) -> Result<Head, Stop> {
        let &[first, ref rest @ ..] = self.rest else { return Err(Stop::Malformed) };
        let (major, info) = (first >> 5, first & 31);
        let size = match info {
            0..24 => 0,
            24..28 => 1 << (info - 24),
            31 => return self.advance(rest, Head { major, info, value: None }),
            _ => return Err(Stop::Malformed),
        };
        let (number, rest) = rest.split_at_checked(size).ok_or(Stop::Malformed)?;
        let value = number.iter().fold(0, |value, byte| value << 8 | u64::from(*byte));
        let value = if size == 0 { u64::from(info) } else { value };
        self.advance(rest, Head { major, info, value: Some(value) })
    }

    fn advance<T>(&mut self, rest: &'a [u8], value: T) -> Result<T, Stop> {
        self.rest = rest;
        Ok(value)
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8], Stop> {
        let length = usize::try_from(length).map_err(|_| Stop::Malformed)?;
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(Stop::Malformed)?;
        self.advance(rest, taken)
    }

    fn bytes(&mut self, length: u64) -> Result<(), Stop> {
        let bytes = self.take(length)?;
        self.text("h'")?;
        for byte in bytes {
            self.print(format_args!("{byte:02x}"))?;
        }
        self.text("'")
    }

    fn string(&mut self, length: u64) -> Result<(), Stop> {
        let start = self.rest;
        let Ok(text) = std::str::from_utf8(self.take(length)?) else {
            self.rest = start;
            return Err(Stop::Malformed);
        };
        self.text("\"")?;
        for c in text.chars() {
            match c {
                '"' | '\\' => self.print(format_args!("\\{c}"))?,
                '\n' => self.text("\\n")?,
                c if c.is_control() => self.print(format_args!("\\u{:04x}", u32::from(c)))?,
                c => self.print(c)?,
            }
        }
        self.text("\"")
    }

    /// A string of indefinite length: strings of the same kind until the break.
    fn chunks(&mut self, major: u8) -> Result<(), Stop> {
        self.text("(_")?;
        let mut separator = " ";
        while !self.ends()? {
            self.text(separator)?;
            separator = ", ";
            let head = self.head()?;
            match head.value {
                Some(length) if head.major == major && major == 2 => self.bytes(length)?,
                Some(length) if head.major == major => self.string(length)?,
                _ => return Err(Stop::Malformed),
            }
        }
        self.text(")")
    }

    fn sequence(
        &mut self,
        length: Option<u64>,
        (open, close): (&str, &str),
        depth: usize,
        pairs: bool,
    ) -> Result<(), Stop> {
        self.text(open)?;
        let mut separator = if length.is_none() { "_ " } else { "" };
        let mut left = length;
        loop {
            match &mut left {
                Some(0) => break,
                Some(left) => *left -= 1,
                None if self.ends()? => {
                    self.text(separator.trim_end_matches([' ', ',']))?;
                    break;
                }
                None => {}
            }
            self.text(separator)?;
            separator = ", ";
            self.item(depth + 1)?;
            if pairs {
                self.text(": ")?;
                self.item(depth + 1)?;
            }
        }
        self.text(close)
    }

    /// Whether the break follows; it is then taken.
    fn ends(&mut self) -> Result<bool, Stop> {
        match self.rest {
            [0xff, rest @ ..] => self.advance(rest, true),
            [] => Err(Stop::Malformed),
            _ => Ok(false),
        }
    }

    fn simple(&mut self, info: u8, value: u64, start: &[u8]) -> Result<(), Stop> {
        match (info, value) {
            (20, _) => self.text("false"),
            (21, _) => self.text("true"),
            (22, _) => self.text("null"),
            (23, _) => self.text("undefined"),
            (25..28, _) => match super::decode::<f64>(&start[..start.len() - self.rest.len()]) {
                Ok(number) if number.is_nan() => self.text("NaN"),
                Ok(f64::INFINITY) => self.text("Infinity"),
                Ok(f64::NEG_INFINITY) => self.text("-Infinity"),
                Ok(number) => self.print(format_args!("{number:?}")),
                Err(_) => Err(Stop::Malformed),
            },
            (24, 0..32) => Err(Stop::Malformed),
            _ => self.print(format_args!("simple({value})")),
        }
    }

    fn text(&mut self, text: &str) -> Result<(), Stop> {
        self.print(text)
    }

    fn print(&mut self, part: impl fmt::Display) -> Result<(), Stop> {
        let mut bounded = Bounded { left: &mut self.left, full: false, f: self.f };
        let written = write!(bounded, "{part}");
        if bounded.full {
            return Err(Stop::Full);
        }
        written.map_err(Stop::Format)
    }

    fn explain(self, stop: &Stop) -> fmt::Result {
        let count = self.rest.len();
        match stop {
            Stop::Full => write!(self.f, " / and more, {count} bytes from here /"),
            Stop::TooDeep => write!(self.f, " / nested deeper than {DEPTH_MAX}: {count} bytes /"),
            Stop::Malformed => {
                write!(self.f, " / not CBOR, {count} bytes: ")?;
                for byte in self.rest.iter().take(MALFORMED_SHOWN) {
                    write!(self.f, "{byte:02x}")?;
                }
                self.f.write_str(if count > MALFORMED_SHOWN { ".. /" } else { " /" })
            }
            Stop::Format(error) => Err(*error),
        }
    }
}

/// Writes until its room is used up.
struct Bounded<'a, 'f> {
    left: &'a mut usize,
    full: bool,
    f: &'a mut fmt::Formatter<'f>,
}

impl Write for Bounded<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let Some(left) = self.left.checked_sub(text.len()) else {
            self.full = true;
            return Err(fmt::Error);
        };
        *self.left = left;
        self.f.write_str(text)
    }
}
