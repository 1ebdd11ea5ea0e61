//! Values to CBOR: the bytes that ciborium writes, straight into a vector.

use serde::ser::{self, Serialize};

use super::{
    ARRAY, BYTES, CodecError, MAP, NEGATIVE, SIMPLE, TAG, TAG_BIG_NEGATIVE, TAG_BIG_POSITIVE, TEXT, UNSIGNED,
    float,
};

/// Appends to a vector.
pub(super) struct Writer<'a>(pub(super) &'a mut Vec<u8>);

/// Room that most bodies do not outgrow, in bytes.
const SMALL: usize = 96;
/// The longest head of an item.
const HEAD_SIZE_MAX: usize = 9;

const fn head_size(value: u64) -> usize {
    match value {
        0..=23 => 1,
        24..=0xff => 2,
        0x100..=0xffff => 3,
        0x1_0000..=0xffff_ffff => 5,
        _ => HEAD_SIZE_MAX,
    }
}

/// The elements of an array or a map.
pub(super) struct Elements<'a, 'b> {
    writer: &'b mut Writer<'a>,
    /// Their number was not known at the start, so a break follows them.
    indefinite: bool,
}

impl Writer<'_> {
    #[inline]
    fn make_room(&mut self, size: usize) {
        if self.0.capacity() == 0 {
            *self.0 = Vec::with_capacity(size.max(SMALL));
        } else {
            self.0.reserve(size);
        }
    }

    fn head(&mut self, major: u8, value: u64) {
        self.make_room(HEAD_SIZE_MAX);
        self.put_head(major, value);
    }

    #[inline]
    fn put_head(&mut self, major: u8, value: u64) {
        let major = major << 5;
        match value {
            0..=23 => self.0.push(major | value as u8),
            24..=0xff => self.0.extend_from_slice(&[major | 24, value as u8]),
            0x100..=0xffff => self.sized(major | 25, (value as u16).to_be_bytes()),
            0x1_0000..=0xffff_ffff => self.sized(major | 26, (value as u32).to_be_bytes()),
            _ => self.sized(major | 27, value.to_be_bytes()),
        }
    }

    fn sized<const N: usize>(&mut self, first: u8, value: [u8; N]) {
        self.0.push(first);
        self.0.extend_from_slice(&value);
    }

    /// A string: `major` says of what.
    fn string(&mut self, major: u8, bytes: &[u8]) {
        let size = head_size(bytes.len() as u64) + bytes.len();
        if self.0.capacity() == 0 {
            // A body that is one string needs no other memory, and what is full is shared without being moved.
            *self.0 = Vec::with_capacity(size);
        } else {
            self.0.reserve(size);
        }
        self.put_head(major, bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    /// An integer that needs more than 64 bits.
    fn big(&mut self, tag: u64, value: u128) {
        let bytes = value.to_be_bytes();
        self.head(TAG, tag);
        self.string(BYTES, &bytes[value.leading_zeros() as usize / 8..]);
    }

    fn variant(&mut self, name: &str) {
        self.head(MAP, 1);
        self.string(TEXT, name.as_bytes());
    }
}

impl<'a, 'b> Elements<'a, 'b> {
    fn start(writer: &'b mut Writer<'a>, major: u8, count: Option<usize>) -> Self {
        match count {
            Some(count) => writer.head(major, count as u64),
            None => writer.0.push(major << 5 | super::INDEFINITE),
        }
        Self { writer, indefinite: count.is_none() }
    }

    fn element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), CodecError> {
        value.serialize(&mut *self.writer)
    }

    fn finish(self) {
        if self.indefinite {
            self.writer.0.push(super::BREAK);
        }
    }
}

macro_rules! integers {
    ($($name:ident: $from:ty => $target:ident as $to:ty),*) => {
        $(fn $name(self, value: $from) -> Result<(), CodecError> {
            self.$target(<$to>::from(value))
        })*
    };
}

impl<'a, 'b> ser::Serializer for &'b mut Writer<'a> {
    type Ok = ();
    type Error = CodecError;
    type SerializeSeq = Elements<'a, 'b>;
    type SerializeTuple = Elements<'a, 'b>;
    type SerializeTupleStruct = Elements<'a, 'b>;
    type SerializeTupleVariant = Elements<'a, 'b>;
    type SerializeMap = Elements<'a, 'b>;
    type SerializeStruct = Elements<'a, 'b>;
    type SerializeStructVariant = Elements<'a, 'b>;

    fn is_human_readable(&self) -> bool {
        false
    }

    fn serialize_bool(self, value: bool) -> Result<(), CodecError> {
        self.0.push(SIMPLE << 5 | if value { super::TRUE } else { super::FALSE });
        Ok(())
    }

    integers!(
        serialize_i8: i8 => serialize_i64 as i64,
        serialize_i16: i16 => serialize_i64 as i64,
        serialize_i32: i32 => serialize_i64 as i64,
        serialize_u8: u8 => serialize_u64 as u64,
        serialize_u16: u16 => serialize_u64 as u64,
        serialize_u32: u32 => serialize_u64 as u64,
        serialize_f32: f32 => serialize_f64 as f64
    );

    fn serialize_u64(self, value: u64) -> Result<(), CodecError> {
        self.head(UNSIGNED, value);
        Ok(())
    }

    fn serialize_i64(self, value: i64) -> Result<(), CodecError> {
        match u64::try_from(value) {
            Ok(value) => self.head(UNSIGNED, value),
            Err(_) => self.head(NEGATIVE, !value as u64),
        }
        Ok(())
    }

    fn serialize_u128(self, value: u128) -> Result<(), CodecError> {
        match u64::try_from(value) {
            Ok(value) => self.head(UNSIGNED, value),
            Err(_) => self.big(TAG_BIG_POSITIVE, value),
        }
        Ok(())
    }

    fn serialize_i128(self, value: i128) -> Result<(), CodecError> {
        if let Ok(value) = u128::try_from(value) {
            return self.serialize_u128(value);
        }
        match u64::try_from(!value) {
            Ok(value) => self.head(NEGATIVE, value),
            Err(_) => self.big(TAG_BIG_NEGATIVE, !value as u128),
        }
        Ok(())
    }

    fn serialize_f64(self, value: f64) -> Result<(), CodecError> {
        let short = value as f32;
        if let Some(half) = float::to_half(value) {
            self.sized(SIMPLE << 5 | 25, half.to_be_bytes());
        } else if f64::from(short).to_bits() == value.to_bits() {
            self.sized(SIMPLE << 5 | 26, short.to_be_bytes());
        } else {
            self.sized(SIMPLE << 5 | 27, value.to_be_bytes());
        }
        Ok(())
    }

    fn serialize_char(self, value: char) -> Result<(), CodecError> {
        self.serialize_str(value.encode_utf8(&mut [0; 4]))
    }

    fn serialize_str(self, value: &str) -> Result<(), CodecError> {
        self.string(TEXT, value.as_bytes());
        Ok(())
    }

    fn serialize_bytes(self, value: &[u8]) -> Result<(), CodecError> {
        self.string(BYTES, value);
        Ok(())
    }

    fn serialize_none(self) -> Result<(), CodecError> {
        self.0.push(SIMPLE << 5 | super::NULL);
        Ok(())
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), CodecError> {
        value.serialize(self)
    }

    fn serialize_unit(self) -> Result<(), CodecError> {
        self.serialize_none()
    }

    fn serialize_unit_struct(self, _: &'static str) -> Result<(), CodecError> {
        self.serialize_none()
    }

    fn serialize_unit_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
    ) -> Result<(), CodecError> {
        self.serialize_str(variant)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        value: &T,
    ) -> Result<(), CodecError> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<(), CodecError> {
        self.variant(variant);
        value.serialize(self)
    }

    fn serialize_seq(self, count: Option<usize>) -> Result<Elements<'a, 'b>, CodecError> {
        Ok(Elements::start(self, ARRAY, count))
    }

    fn serialize_tuple(self, count: usize) -> Result<Elements<'a, 'b>, CodecError> {
        Ok(Elements::start(self, ARRAY, Some(count)))
    }

    fn serialize_tuple_struct(self, _: &'static str, count: usize) -> Result<Elements<'a, 'b>, CodecError> {
        Ok(Elements::start(self, ARRAY, Some(count)))
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        count: usize,
    ) -> Result<Elements<'a, 'b>, CodecError> {
        self.variant(variant);
        Ok(Elements::start(self, ARRAY, Some(count)))
    }

    fn serialize_map(self, count: Option<usize>) -> Result<Elements<'a, 'b>, CodecError> {
        Ok(Elements::start(self, MAP, count))
    }

    fn serialize_struct(self, _: &'static str, count: usize) -> Result<Elements<'a, 'b>, CodecError> {
        Ok(Elements::start(self, MAP, Some(count)))
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        count: usize,
    ) -> Result<Elements<'a, 'b>, CodecError> {
        self.variant(variant);
        Ok(Elements::start(self, MAP, Some(count)))
    }
}

macro_rules! elements {
    ($($kind:ident: $element:ident),*) => {
        $(impl ser::$kind for Elements<'_, '_> {
            type Ok = ();
            type Error = CodecError;

            fn $element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), CodecError> {
                self.element(value)
            }

            fn end(self) -> Result<(), CodecError> {
                self.finish();
                Ok(())
            }
        })*
    };
}

elements!(
    SerializeSeq: serialize_element,
    SerializeTuple: serialize_element,
    SerializeTupleStruct: serialize_field,
    SerializeTupleVariant: serialize_field
);

macro_rules! fields {
    ($($kind:ident),*) => {
        $(impl ser::$kind for Elements<'_, '_> {
            type Ok = ();
            type Error = CodecError;

            fn serialize_field<T: Serialize + ?Sized>(
                &mut self,
                name: &'static str,
                value: &T,
            ) -> Result<(), CodecError> {
                self.writer.string(TEXT, name.as_bytes());
                self.element(value)
            }

            fn end(self) -> Result<(), CodecError> {
                self.finish();
                Ok(())
            }
        })*
    };
}

fields!(SerializeStruct, SerializeStructVariant);

impl ser::SerializeMap for Elements<'_, '_> {
    type Ok = ();
    type Error = CodecError;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), CodecError> {
        self.element(key)
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), CodecError> {
        self.element(value)
    }

    fn end(self) -> Result<(), CodecError> {
        self.finish();
        Ok(())
    }
}
