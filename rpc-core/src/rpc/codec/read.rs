//! CBOR to values, from a slice. What a claimed length says is checked against what is there before it is believed.

use serde::de::{self, DeserializeSeed, Visitor};

use super::{
    ARRAY, BREAK, BYTES, CodecError, FALSE, INDEFINITE, MAP, NEGATIVE, NULL, TAG, TAG_BIG_NEGATIVE,
    TAG_BIG_POSITIVE, TEXT, TRUE, UNDEFINED, UNSIGNED, float,
};

/// Reads items from the front of a slice.
pub(super) struct Reader<'de> {
    pub(super) rest: &'de [u8],
    /// How much deeper the nesting may go.
    pub(super) depth: usize,
}

/// The first bytes of an item. Lengths and counts are `None` when a break ends the item.
#[derive(Clone, Copy, Debug)]
enum Head {
    Unsigned(u64),
    Negative(u64),
    Bytes(Option<u64>),
    Text(Option<u64>),
    Array(Option<u64>),
    Map(Option<u64>),
    Tag(u64),
    Simple(u8),
    Float(f64),
    Break,
}

impl Head {
    fn unexpected<T>(self, expected: &str) -> Result<T, CodecError> {
        Err(CodecError(format!("expected {expected}, found {self:?}")))
    }
}

/// The size of the head of `body`, if that is one byte string of known length and nothing else.
pub(super) fn byte_string_head(body: &[u8]) -> Option<usize> {
    let mut reader = Reader { rest: body, depth: 0 };
    match reader.head() {
        Ok(Head::Bytes(Some(length))) if length == reader.rest.len() as u64 => {
            Some(body.len() - reader.rest.len())
        }
        _ => None,
    }
}

impl<'de> Reader<'de> {
    fn take(&mut self, count: u64) -> Result<&'de [u8], CodecError> {
        let taken = usize::try_from(count).ok().and_then(|count| self.rest.split_at_checked(count));
        let (front, rest) = taken.ok_or_else(truncated)?;
        self.rest = rest;
        Ok(front)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], CodecError> {
        let (front, rest) = self.rest.split_first_chunk().ok_or_else(truncated)?;
        self.rest = rest;
        Ok(*front)
    }

    fn head(&mut self) -> Result<Head, CodecError> {
        let [first] = self.array()?;
        let (major, info) = (first >> 5, first & 0x1f);
        let value = match info {
            0..=23 => Some(u64::from(info)),
            24 => Some(u64::from(self.array::<1>()?[0])),
            25 => Some(u64::from(u16::from_be_bytes(self.array()?))),
            26 => Some(u64::from(u32::from_be_bytes(self.array()?))),
            27 => Some(u64::from_be_bytes(self.array()?)),
            INDEFINITE => None,
            _ => return Err(CodecError(format!("byte {first:#04x} begins no item"))),
        };
        Ok(match (major, value) {
            (UNSIGNED, Some(value)) => Head::Unsigned(value),
            (NEGATIVE, Some(value)) => Head::Negative(value),
            (BYTES, length) => Head::Bytes(length),
            (TEXT, length) => Head::Text(length),
            (ARRAY, count) => Head::Array(count),
            (MAP, count) => Head::Map(count),
            (TAG, Some(tag)) => Head::Tag(tag),
            (UNSIGNED | NEGATIVE | TAG, None) => {
                return Err(CodecError(format!("byte {first:#04x} begins no item")));
            }
            (_, None) => Head::Break,
            (_, Some(value)) => match info {
                25 => Head::Float(float::from_half(value as u16)),
                26 => Head::Float(f64::from(f32::from_bits(value as u32))),
                27 => Head::Float(f64::from_bits(value)),
                _ => Head::Simple(value as u8),
            },
        })
    }

    /// The head of the next item, without what tags say about it.
    fn untagged(&mut self) -> Result<Head, CodecError> {
        loop {
            match self.head()? {
                Head::Tag(_) => {}
                head => return Ok(head),
            }
        }
    }

    /// Reads a number with its sign: `!magnitude` if negative.
    fn integer(&mut self) -> Result<(bool, u128), CodecError> {
        loop {
            return match self.head()? {
                Head::Unsigned(value) => Ok((false, value.into())),
                Head::Negative(value) => Ok((true, value.into())),
                Head::Tag(tag @ (TAG_BIG_POSITIVE | TAG_BIG_NEGATIVE)) => match self.head()? {
                    Head::Bytes(Some(length @ 0..=16)) => {
                        let value = self.take(length)?;
                        let big = value.iter().fold(0, |big, byte| big << 8 | u128::from(*byte));
                        Ok((tag == TAG_BIG_NEGATIVE, big))
                    }
                    head => head.unexpected("an integer of at most 128 bits"),
                },
                Head::Tag(_) => continue,
                head => head.unexpected("an integer"),
            };
        }
    }

    fn visit_integer<V: Visitor<'de>>(&mut self, visitor: V) -> Result<V::Value, CodecError> {
        match self.integer()? {
            (false, value) => match u64::try_from(value) {
                Ok(value) => visitor.visit_u64(value),
                Err(_) => visitor.visit_u128(value),
            },
            (true, value) => match (i64::try_from(value), i128::try_from(value)) {
                (Ok(value), _) => visitor.visit_i64(!value),
                (_, Ok(value)) => visitor.visit_i128(!value),
                _ => Err(CodecError("integer below -2^127".to_owned())),
            },
        }
    }

    /// The pieces of a string of unknown length, joined.
    fn pieces(&mut self, text: bool) -> Result<Vec<u8>, CodecError> {
        let mut joined = Vec::new();
        loop {
            match self.head()? {
                Head::Break => return Ok(joined),
                Head::Text(Some(length)) if text => {
                    joined.extend_from_slice(utf8(self.take(length)?)?.as_bytes())
                }
                Head::Bytes(Some(length)) if !text => joined.extend_from_slice(self.take(length)?),
                head => return head.unexpected("a piece of the string"),
            }
        }
    }

    fn visit_text<V: Visitor<'de>>(
        &mut self,
        length: Option<u64>,
        visitor: V,
    ) -> Result<V::Value, CodecError> {
        match length {
            Some(length) => visitor.visit_borrowed_str(utf8(self.take(length)?)?),
            None => visitor.visit_str(utf8(&self.pieces(true)?)?),
        }
    }

    fn visit_bytes<V: Visitor<'de>>(
        &mut self,
        length: Option<u64>,
        visitor: V,
    ) -> Result<V::Value, CodecError> {
        match length {
            Some(length) => visitor.visit_byte_buf(self.take(length)?.to_vec()),
            None => visitor.visit_byte_buf(self.pieces(false)?),
        }
    }

    /// Reads what is one level deeper.
    fn nested<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T, CodecError>) -> Result<T, CodecError> {
        self.depth = self.depth.checked_sub(1).ok_or_else(|| CodecError("nested too deeply".to_owned()))?;
        let result = read(self);
        self.depth += 1;
        result
    }

    /// Lets `read` read the elements of an array or a map; all of them must be read.
    fn elements<T>(
        &mut self,
        count: Option<u64>,
        read: impl FnOnce(&mut Elements<'_, 'de>) -> Result<T, CodecError>,
    ) -> Result<T, CodecError> {
        self.nested(|reader| {
            let mut elements = Elements { reader, left: count, ended: false };
            let result = read(&mut elements)?;
            if elements.more()? {
                return Err(CodecError("more elements than expected".to_owned()));
            }
            Ok(result)
        })
    }

    /// Steps over one item.
    fn skip(&mut self) -> Result<(), CodecError> {
        match self.untagged()? {
            Head::Bytes(Some(length)) | Head::Text(Some(length)) => self.take(length).map(drop),
            Head::Bytes(None) => self.pieces(false).map(drop),
            Head::Text(None) => self.pieces(true).map(drop),
            Head::Array(count) => self.elements(count, |elements| {
                while elements.more()? {
                    elements.reader.skip()?;
                }
                Ok(())
            }),
            Head::Map(count) => self.elements(count, |elements| {
                while elements.more()? {
                    elements.reader.skip()?;
                    elements.reader.skip()?;
                }
                Ok(())
            }),
            head @ Head::Break => head.unexpected("an item"),
            _ => Ok(()),
        }
    }
}

macro_rules! integers {
    ($($name:ident)*) => {
        $(fn $name<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, CodecError> {
            self.visit_integer(visitor)
        })*
    };
}

impl<'de> de::Deserializer<'de> for &mut Reader<'de> {
    type Error = CodecError;

    fn is_human_readable(&self) -> bool {
        false
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, CodecError> {
        let before = self.rest;
        match self.head()? {
            Head::Unsigned(value) => visitor.visit_u64(value),
            Head::Negative(_) | Head::Tag(TAG_BIG_POSITIVE | TAG_BIG_NEGATIVE) => {
                self.rest = before;
                self.visit_integer(visitor)
            }
            Head::Bytes(length) => self.visit_bytes(length, visitor),
            Head::Text(length) => self.visit_text(length, visitor),
            Head::Array(count) => self.elements(count, |elements| visitor.visit_seq(elements)),
            Head::Map(count) => self.elements(count, |elements| visitor.visit_map(elements)),
            Head::Float(value) => visitor.visit_f64(value),
            Head::Simple(FALSE) => visitor.visit_bool(false),
            Head::Simple(TRUE) => visitor.visit_bool(true),
            Head::Simple(NULL | UNDEFINED) => visitor.visit_none(),
            head => head.unexpected("an item without tag"),
        }
    }

    integers!(
        deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_i128
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 deserialize_u128
    );

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, CodecError> {
        match self.untagged()? {
            Head::Simple(FALSE) => visitor.visit_bool(false),
            Head::Simple(TRUE) => visitor.visit_bool(true),
            head => head.unexpected("a bool"),
        }
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, CodecError> {
        self.deserialize_f64(visitor)
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, CodecError> {
        match self.untagged()? {
            Head::Float(value) => visitor.visit_f64(value),
            head => head.unexpected("a float"),
        }
    }

    fn deserialize_char<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, CodecError> {
        self.deserialize_str(visitor)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, CodecError> {
        match self.untagged()? {
            Head::Text(length) => self.visit_text(length, visitor),
            head => head.unexpected("a text"),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, CodecError> {
        self.deserialize_str(visitor)
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, CodecError> {
        match self.untagged()? {
            Head::Bytes(Some(length)) => visitor.visit_borrowed_bytes(self.take(length)?),
            Head::Bytes(None) => self.visit_bytes(None, visitor),
            Head::Array(count) => self.elements(count, |elements| visitor.visit_seq(elements)),
            head => head.unexpected("a byte string"),
        }
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, CodecError> {
        match self.untagged()? {
            Head::Bytes(length) => self.visit_bytes(length, visitor),
            Head::Array(count) => self.elements(count, |elements| visitor.visit_seq(elements)),
            head => head.unexpected("a byte string"),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, CodecError> {
        let before = self.rest;
        match self.head()? {
            Head::Simple(NULL | UNDEFINED) => visitor.visit_none(),
            _ => {
                self.rest = before;
                visitor.visit_some(self)
            }
        }
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, CodecError> {
        match self.untagged()? {
            Head::Simple(NULL | UNDEFINED) => visitor.visit_unit(),
            head => head.unexpected("null"),
        }
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, CodecError> {
        self.deserialize_unit(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, CodecError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, CodecError> {
        match self.untagged()? {
            Head::Array(count) => self.elements(count, |elements| visitor.visit_seq(elements)),
            Head::Bytes(Some(length)) => {
                let bytes = self.take(length)?.iter().copied();
                visitor.visit_seq(de::value::SeqDeserializer::new(bytes))
            }
            head => head.unexpected("an array"),
        }
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, CodecError> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: usize,
        visitor: V,
    ) -> Result<V::Value, CodecError> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, CodecError> {
        match self.untagged()? {
            Head::Map(count) => self.elements(count, |elements| visitor.visit_map(elements)),
            head => head.unexpected("a map"),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, CodecError> {
        self.deserialize_map(visitor)
    }

    /// A variant without content is its name, any other a map of one: its name, its content.
    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, CodecError> {
        let mut before = self.rest;
        let head = loop {
            match self.head()? {
                Head::Tag(_) => before = self.rest,
                head => break head,
            }
        };
        match head {
            Head::Map(Some(1)) => self.nested(|reader| visitor.visit_enum(Variant { reader, content: true })),
            Head::Text(_) => {
                self.rest = before;
                visitor.visit_enum(Variant { reader: self, content: false })
            }
            head => head.unexpected("a variant"),
        }
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, CodecError> {
        match self.untagged()? {
            Head::Text(length) => self.visit_text(length, visitor),
            Head::Bytes(Some(length)) => visitor.visit_borrowed_bytes(self.take(length)?),
            head => head.unexpected("a name"),
        }
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, CodecError> {
        self.skip()?;
        visitor.visit_unit()
    }
}

/// The elements of an array or a map that are still to be read.
struct Elements<'a, 'de> {
    reader: &'a mut Reader<'de>,
    /// How many; `None`: until a break.
    left: Option<u64>,
    /// The break was read.
    ended: bool,
}

impl Elements<'_, '_> {
    /// Whether another one follows; it must be read then.
    fn more(&mut self) -> Result<bool, CodecError> {
        match &mut self.left {
            Some(0) => return Ok(false),
            Some(left) => *left -= 1,
            None if self.ended => return Ok(false),
            None if self.reader.rest.first() == Some(&BREAK) => {
                self.reader.array::<1>()?;
                self.ended = true;
                return Ok(false);
            }
            None => {}
        }
        Ok(true)
    }

    /// Each element is a byte at least, so no claim leads to a larger allocation than the body's own size allows.
    fn hint(&self) -> Option<usize> {
        let left = self.left.and_then(|left| usize::try_from(left).ok())?;
        Some(left.min(self.reader.rest.len()))
    }
}

impl<'de> de::SeqAccess<'de> for &mut Elements<'_, 'de> {
    type Error = CodecError;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, CodecError> {
        if !self.more()? {
            return Ok(None);
        }
        seed.deserialize(&mut *self.reader).map(Some)
    }

    fn size_hint(&self) -> Option<usize> {
        self.hint()
    }
}

impl<'de> de::MapAccess<'de> for &mut Elements<'_, 'de> {
    type Error = CodecError;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, CodecError> {
        if !self.more()? {
            return Ok(None);
        }
        seed.deserialize(&mut *self.reader).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, CodecError> {
        seed.deserialize(&mut *self.reader)
    }

    fn size_hint(&self) -> Option<usize> {
        self.hint()
    }
}

/// A variant of an enum.
struct Variant<'a, 'de> {
    reader: &'a mut Reader<'de>,
    content: bool,
}

impl Variant<'_, '_> {
    fn expect_content(&self) -> Result<(), CodecError> {
        if self.content { Ok(()) } else { Err(CodecError("variant without its content".to_owned())) }
    }
}

impl<'de> de::EnumAccess<'de> for Variant<'_, 'de> {
    type Error = CodecError;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), CodecError> {
        Ok((seed.deserialize(&mut *self.reader)?, self))
    }
}

impl<'de> de::VariantAccess<'de> for Variant<'_, 'de> {
    type Error = CodecError;

    fn unit_variant(self) -> Result<(), CodecError> {
        if self.content {
            return <() as de::Deserialize>::deserialize(self.reader);
        }
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, CodecError> {
        self.expect_content()?;
        seed.deserialize(self.reader)
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, CodecError> {
        self.expect_content()?;
        de::Deserializer::deserialize_seq(self.reader, visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, CodecError> {
        self.expect_content()?;
        de::Deserializer::deserialize_map(self.reader, visitor)
    }
}

fn truncated() -> CodecError {
    CodecError("truncated".to_owned())
}

fn utf8(bytes: &[u8]) -> Result<&str, CodecError> {
    std::str::from_utf8(bytes).map_err(|error| CodecError(error.to_string()))
}
