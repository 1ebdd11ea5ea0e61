//! From diagnostic notation (RFC 8949, section 8) to CBOR: what people type is what travels.
//!
//! Understood: numbers (also `0x..`), `"texts"`, `h'..'` and `'..'`, `[..]`, `{..: ..}` and their indefinite forms `[_ ..]`
//! and `{_ ..}`, `tag(item)`, `true`, `false`, `null`, `undefined`, `NaN`, `Infinity`, `simple(n)`, comments `/ .. /`. Not
//! understood: numbers beyond 64 bits, `b64'..'`, encoding indicators on single values, chunked strings.

use std::fmt;

use bytes::Bytes;

use super::DEPTH_MAX;

/// Reads one item in diagnostic notation.
///
/// ```
/// use rpc_core::rpc::codec::{diagnostic, from_diagnostic};
///
/// let bytes = from_diagnostic(r#"{"key": h'cafe', "ttl": null, "at": [1, -2.5]}"#)?;
/// assert_eq!(diagnostic(&bytes).to_string(), r#"{"key": h'cafe', "ttl": null, "at": [1, -2.5]}"#);
/// # Ok::<_, rpc_core::rpc::codec::NotationError>(())
/// ```
///
/// # Errors
/// With the place of what is not understood.
pub fn from_diagnostic(text: &str) -> Result<Bytes, NotationError> {
    let mut reader = Reader { text, at: 0, bytes: Vec::new() };
    reader.item(0)?;
    reader.space()?;
    match reader.rest() {
        "" => Ok(reader.bytes.into()),
        _ => Err(reader.error("one item, and nothing after it")),
    }
}

/// Why a text is not understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotationError {
    /// The place, in bytes from the start of the text.
    pub at: usize,
    /// What would be understood there.
    pub expected: &'static str,
}

impl fmt::Display for NotationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at byte {}: expected {}", self.at, self.expected)
    }
}

impl std::error::Error for NotationError {}

struct Reader<'a> {
    text: &'a str,
    at: usize,
    bytes: Vec<u8>,
}

impl<'a> Reader<'a> {
    fn item(&mut self, depth: usize) -> Result<(), NotationError> {
        if depth == DEPTH_MAX {
            return Err(self.error("no deeper nesting"));
        }
        self.space()?;
        if self.eat("[") {
            return self.sequence(4, "]", depth);
        }
        if self.eat("{") {
            return self.sequence(5, "}", depth);
        }
        if self.eat("\"") {
            let text = self.string('"')?;
            self.with_length(3, text.as_bytes());
            return Ok(());
        }
        if self.eat("h'") {
            let bytes = self.hex()?;
            self.with_length(2, &bytes);
            return Ok(());
        }
        if self.eat("'") {
            let text = self.string('\'')?;
            self.with_length(2, text.as_bytes());
            return Ok(());
        }
        let start = self.at;
        let word = self.word();
        match word {
            "false" => self.bytes.push(0xf4),
            "true" => self.bytes.push(0xf5),
            "null" => self.bytes.push(0xf6),
            "undefined" => self.bytes.push(0xf7),
            "NaN" => self.float(f64::NAN),
            "Infinity" | "+Infinity" => self.float(f64::INFINITY),
            "-Infinity" => self.float(f64::NEG_INFINITY),
            "simple" => return self.simple(),
            _ => {
                let number = number(word);
                return self
                    .number(number.ok_or(NotationError { at: start, expected: "a CBOR item" })?, depth);
            }
        }
        Ok(())
    }

    /// The items up to `close`; their number is written before them once it is known.
    fn sequence(&mut self, major: u8, close: &'static str, depth: usize) -> Result<(), NotationError> {
        let indefinite = self.eat("_");
        let before = std::mem::take(&mut self.bytes);
        let mut count = 0;
        self.space()?;
        while !self.eat(close) {
            if count > 0 && !self.eat(",") {
                return Err(self.error("a comma or the closing bracket"));
            }
            self.item(depth + 1)?;
            self.space()?;
            if major == 5 {
                if !self.eat(":") {
                    return Err(self.error("a colon and a value"));
                }
                self.item(depth + 1)?;
                self.space()?;
            }
            count += 1;
        }
        let items = std::mem::replace(&mut self.bytes, before);
        if indefinite {
            self.bytes.push(major << 5 | 31);
        } else {
            self.head(major, count);
        }
        self.bytes.extend_from_slice(&items);
        if indefinite {
            self.bytes.push(0xff);
        }
        Ok(())
    }

    fn number(&mut self, number: Number, depth: usize) -> Result<(), NotationError> {
        match number {
            Number::Unsigned(tag) if self.eat("(") => {
                self.head(6, tag);
                self.item(depth + 1)?;
                self.space()?;
                if !self.eat(")") {
                    return Err(self.error("the closing parenthesis of a tag"));
                }
            }
            Number::Unsigned(number) => self.head(0, number),
            Number::Negative(number) => self.head(1, number),
            Number::Float(number) => self.float(number),
        }
        Ok(())
    }

    fn simple(&mut self) -> Result<(), NotationError> {
        let error = self.error("`simple(n)` with n below 20, or from 32 to 255");
        if !self.eat("(") {
            return Err(error);
        }
        let number = self.word().parse::<u8>().ok().filter(|number| !(20..32).contains(number));
        let number = number.filter(|_| self.eat(")")).ok_or(error)?;
        self.head(7, u64::from(number));
        Ok(())
    }

    fn float(&mut self, number: f64) {
        self.bytes.extend_from_slice(&super::encode(&number).unwrap_or_default());
    }

    fn hex(&mut self) -> Result<Vec<u8>, NotationError> {
        let (digits, _) =
            self.rest().split_once('\'').ok_or_else(|| self.error("the closing quote of a byte string"))?;
        let nibbles: Option<Vec<u8>> = digits
            .chars()
            .filter(|c| !c.is_ascii_whitespace())
            .map(|c| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok()))
            .collect();
        let nibbles = nibbles
            .filter(|nibbles| nibbles.len() % 2 == 0)
            .ok_or_else(|| self.error("pairs of hexadecimal digits"))?;
        self.at += digits.len() + 1;
        Ok(nibbles.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect())
    }

    /// The text up to `quote`, which is taken too.
    fn string(&mut self, quote: char) -> Result<String, NotationError> {
        let mut text = String::new();
        loop {
            match self.char() {
                Some(c) if c == quote => return Ok(text),
                Some('\\') => text.push(self.escape()?),
                Some(c) => text.push(c),
                None => return Err(self.error("the closing quote of a text")),
            }
        }
    }

    fn escape(&mut self) -> Result<char, NotationError> {
        let error = self.error("an escape as in JSON");
        Ok(match self.char().ok_or_else(|| error.clone())? {
            'n' => '\n',
            't' => '\t',
            'r' => '\r',
            'b' => '\u{8}',
            'f' => '\u{c}',
            'u' => {
                let high = self.code_unit().ok_or_else(|| error.clone())?;
                let low =
                    if (0xd800..0xdc00).contains(&high) && self.eat("\\u") { self.code_unit() } else { None };
                let units = [high, low.unwrap_or(0)];
                let units = if low.is_some() { &units[..] } else { &units[..1] };
                char::decode_utf16(units.iter().copied()).next().and_then(Result::ok).ok_or(error)?
            }
            c @ ('"' | '\'' | '\\' | '/') => c,
            _ => return Err(error),
        })
    }

    fn code_unit(&mut self) -> Option<u16> {
        let digits = self.rest().get(..4)?;
        self.at += 4;
        u16::from_str_radix(digits, 16).ok()
    }

    fn word(&mut self) -> &'a str {
        let rest = self.rest();
        let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.');
        let word = &rest[..rest.find(|c| !is_part(c)).unwrap_or(rest.len())];
        self.at += word.len();
        word
    }

    /// Skips blanks and comments.
    fn space(&mut self) -> Result<(), NotationError> {
        loop {
            self.at = self.text.len() - self.rest().trim_start().len();
            if !self.eat("/") {
                return Ok(());
            }
            let comment = self.rest().find('/').ok_or_else(|| self.error("the end of the comment"))?;
            self.at += comment + 1;
        }
    }

    fn eat(&mut self, token: &str) -> bool {
        let eaten = self.rest().starts_with(token);
        if eaten {
            self.at += token.len();
        }
        eaten
    }

    fn char(&mut self) -> Option<char> {
        let c = self.rest().chars().next()?;
        self.at += c.len_utf8();
        Some(c)
    }

    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or("")
    }

    fn with_length(&mut self, major: u8, bytes: &[u8]) {
        self.head(major, bytes.len() as u64);
        self.bytes.extend_from_slice(bytes);
    }

    /// The shortest head of an item (RFC 8949, section 4.2.1).
    fn head(&mut self, major: u8, value: u64) {
        let bytes = value.to_be_bytes();
        let (info, size) = match value {
            0..24 => (value as u8, 0),
            24..=0xff => (24, 1),
            0x100..=0xffff => (25, 2),
            0x1_0000..=0xffff_ffff => (26, 4),
            _ => (27, 8),
        };
        self.bytes.push(major << 5 | info);
        self.bytes.extend_from_slice(&bytes[8 - size..]);
    }

    fn error(&self, expected: &'static str) -> NotationError {
        NotationError { at: self.at, expected }
    }
}

enum Number {
    Unsigned(u64),
    /// The number -1 - n.
    Negative(u64),
    Float(f64),
}

fn number(word: &str) -> Option<Number> {
    let (negative, digits) = word.strip_prefix('-').map_or((false, word), |digits| (true, digits));
    if !digits.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let magnitude = match digits.strip_prefix("0x") {
        Some(hex) => Some(u128::from_str_radix(hex, 16).ok()?),
        None if digits.contains(['.', 'e', 'E']) => None,
        None => Some(digits.parse::<u128>().ok()?),
    };
    Some(match magnitude {
        Some(magnitude) if !negative || magnitude == 0 => Number::Unsigned(magnitude.try_into().ok()?),
        Some(magnitude) => Number::Negative((magnitude - 1).try_into().ok()?),
        None => Number::Float(word.parse().ok()?),
    })
}

#[cfg(test)]
mod tests;
