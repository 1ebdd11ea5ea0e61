//! The token of a write: one word that names it for ever, so that anybody can ask what became of it.

use std::fmt;
use std::str::FromStr;

/// Names one write: (cluster, session, sequence), and until when it can be asked for.
///
/// As text: `kv1-` and 71 characters of base 32 (Crockford's alphabet in lower case) over, big-endian: cluster
/// (16 bytes), session (8), sequence (8), expiry in milliseconds since the Unix epoch (8), CRC32C of all of these (4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Token {
    /// The cluster that the session belongs to.
    pub cluster: u128,
    /// The session.
    pub session: u64,
    /// The number of the write in the session.
    pub sequence: u64,
    /// When the session expires at the earliest, in milliseconds since the Unix epoch by the client's wall clock.
    pub expires_ms: u64,
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = [0; SIZE];
        bytes[..16].copy_from_slice(&self.cluster.to_be_bytes());
        bytes[16..24].copy_from_slice(&self.session.to_be_bytes());
        bytes[24..32].copy_from_slice(&self.sequence.to_be_bytes());
        bytes[32..40].copy_from_slice(&self.expires_ms.to_be_bytes());
        let checksum = crc32c::crc32c(&bytes[..40]);
        bytes[40..].copy_from_slice(&checksum.to_be_bytes());
        f.write_str(PREFIX)?;
        let mut word = 0_u32;
        let mut bits = 0;
        for byte in bytes {
            word = word << 8 | u32::from(byte);
            bits += 8;
            while bits >= 5 {
                bits -= 5;
                write!(f, "{}", char::from(ALPHABET[(word >> bits & 31) as usize]))?;
            }
        }
        // 352 bits are 70 characters and two bits.
        write!(f, "{}", char::from(ALPHABET[(word << (5 - bits) & 31) as usize]))
    }
}

impl FromStr for Token {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let digits = text.strip_prefix(PREFIX).ok_or(TokenError::Prefix)?;
        if digits.len() != LENGTH {
            return Err(TokenError::Length(digits.chars().count()));
        }
        let mut bytes = Vec::with_capacity(SIZE);
        let (mut word, mut bits) = (0_u32, 0);
        for digit in digits.chars() {
            let value = ALPHABET.iter().position(|letter| char::from(*letter) == digit);
            let value = value.ok_or(TokenError::Character(digit))?;
            word = word << 5 | value as u32;
            bits += 5;
            if bits >= 8 {
                bits -= 8;
                bytes.push((word >> bits & 0xff) as u8);
            }
        }
        let field = |from: usize| {
            let field = bytes.get(from..from + 8).and_then(|field| field.try_into().ok());
            field.map(u64::from_be_bytes).ok_or(TokenError::Checksum)
        };
        let token = Self {
            cluster: u128::from(field(0)?) << 64 | u128::from(field(8)?),
            session: field(16)?,
            sequence: field(24)?,
            expires_ms: field(32)?,
        };
        // Also rejects the other spellings that the two spare bits would allow.
        if token.to_string() == text { Ok(token) } else { Err(TokenError::Checksum) }
    }
}

/// Why a text is not a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenError {
    /// It does not begin with `kv1-`.
    Prefix,
    /// So many characters after the prefix, not 71.
    Length(usize),
    /// A character that no token has.
    Character(char),
    /// The checksum does not match: a character was mistyped.
    Checksum,
}

impl fmt::Display for TokenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Prefix => write!(f, "a token begins with `{PREFIX}`"),
            Self::Length(length) => {
                write!(f, "a token has {LENGTH} characters after `{PREFIX}`, this one has {length}")
            }
            Self::Character(character) => write!(f, "a token holds no `{character}`"),
            Self::Checksum => f.write_str("the token's checksum does not match: a character is wrong"),
        }
    }
}

impl std::error::Error for TokenError {}

const PREFIX: &str = "kv1-";
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
/// Bytes of a token.
const SIZE: usize = 44;
/// Characters after the prefix.
const LENGTH: usize = (SIZE * 8).div_ceil(5);

#[cfg(test)]
mod tests {
    use rpc_core::random::SeededRandom;

    use super::*;

    fn sample() -> Token {
        Token { cluster: 0x1234_5678_9abc_def0, session: 812, sequence: 3, expires_ms: 1_795_000_000_000 }
    }

    #[test]
    fn every_token_survives_its_text() {
        let mut random = SeededRandom::new(1);
        for _ in 0..1_000 {
            let token = Token {
                cluster: u128::from(random.next_u64()) << 64 | u128::from(random.next_u64()),
                session: random.next_u64(),
                sequence: random.next_u64(),
                expires_ms: random.next_u64(),
            };
            let text = token.to_string();
            assert_eq!(text.len(), PREFIX.len() + LENGTH);
            assert_eq!(text.parse(), Ok(token));
        }
    }

    #[test]
    fn the_text_form_is_fixed() {
        assert_eq!(
            sample().to_string(),
            "kv1-00000000000004hmasw9nf6yy000000000006b0000000000001g0001m7q5cqg064tkg18"
        );
    }

    #[test]
    fn one_wrong_character_is_noticed() {
        let text = sample().to_string();
        for at in PREFIX.len()..text.len() {
            let mut wrong = text.clone().into_bytes();
            wrong[at] = if wrong[at] == b'7' { b'8' } else { b'7' };
            let wrong = String::from_utf8(wrong).unwrap();
            assert_eq!(wrong.parse::<Token>(), Err(TokenError::Checksum), "{wrong}");
        }
    }

    #[test]
    fn what_is_no_token_is_refused() {
        assert_eq!("".parse::<Token>(), Err(TokenError::Prefix));
        assert_eq!("kv1-".parse::<Token>(), Err(TokenError::Length(0)));
        assert_eq!("kv1-é".parse::<Token>(), Err(TokenError::Length(1)));
        let text = sample().to_string().replacen('0', "u", 1);
        assert_eq!(text.parse::<Token>(), Err(TokenError::Character('u')));
    }
}
