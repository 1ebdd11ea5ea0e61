//! How an [`RpcError`] travels: a CBOR map with small integers as keys, so that any language reads it and later
//! versions add to it.
//!
//! ```text
//! error  = { 0: uint           ; code
//!          , 1: 0 / 1 / 2      ; outcome: not executed, executed, unknown
//!          , 2: tstr           ; message
//!          , ? 3: origin
//!          , ? 4: uint         ; retry after, in microseconds
//!          , ? 5: schema       ; of the method, where a body could not be read
//!          , ? 6: error        ; what a call further on ended with, at most 8 deep
//!          , * uint => any }   ; ignored by who does not know them
//! origin = { 0: tstr           ; address, as "192.0.2.1:7301" or "[2001:db8::1]:7301"
//!          , 1: tstr           ; full name of the method
//!          , * uint => any }
//! schema = { 0: tstr           ; signature, as "(a: i64, b: i64) -> Result<i64, Never>"
//!          , ? 1: uint         ; fingerprint
//!          , * uint => any }
//! ```

use std::fmt;
use std::time::Duration;

use serde::de::{Error, IgnoredAny, MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::error::{Code, Origin, Outcome, RpcError};
use super::schema::Schema;

const CODE: u64 = 0;
const OUTCOME: u64 = 1;
const MESSAGE: u64 = 2;
const ORIGIN: u64 = 3;
const RETRY_AFTER: u64 = 4;
const SCHEMA: u64 = 5;
const CAUSE: u64 = 6;

const ORIGIN_ADDRESS: u64 = 0;
const ORIGIN_METHOD: u64 = 1;

const SCHEMA_SIGNATURE: u64 = 0;
const SCHEMA_FINGERPRINT: u64 = 1;

impl Serialize for RpcError {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let count = 3
            + usize::from(self.origin.is_some())
            + usize::from(self.retry_after.is_some())
            + usize::from(self.schema.is_some())
            + usize::from(self.cause.is_some());
        let mut map = serializer.serialize_map(Some(count))?;
        map.serialize_entry(&CODE, &u16::from(self.code))?;
        map.serialize_entry(&OUTCOME, &(self.outcome as u8))?;
        map.serialize_entry(&MESSAGE, &self.message)?;
        if let Some(origin) = &self.origin {
            map.serialize_entry(&ORIGIN, origin)?;
        }
        if let Some(pause) = self.retry_after {
            map.serialize_entry(&RETRY_AFTER, &u64::try_from(pause.as_micros()).unwrap_or(u64::MAX))?;
        }
        if let Some(schema) = &self.schema {
            map.serialize_entry(&SCHEMA, &**schema)?;
        }
        if let Some(cause) = &self.cause {
            map.serialize_entry(&CAUSE, cause)?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for RpcError {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ErrorVisitor)
    }
}

struct ErrorVisitor;

impl<'de> Visitor<'de> for ErrorVisitor {
    type Value = RpcError;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the map of an RPC error")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RpcError, A::Error> {
        let (mut code, mut outcome) = (None, None);
        let mut error = RpcError::new(Code::Other(0), Outcome::Unknown, "");
        while let Some(key) = map.next_key::<u64>()? {
            match key {
                CODE => code = Some(Code::from(map.next_value::<u16>()?)),
                OUTCOME => outcome = Some(read_outcome(map.next_value()?)),
                MESSAGE => error.message = map.next_value()?,
                ORIGIN => error.origin = Some(map.next_value()?),
                RETRY_AFTER => error.retry_after = Some(Duration::from_micros(map.next_value()?)),
                SCHEMA => error.schema = Some(map.next_value()?),
                CAUSE => error.cause = Some(map.next_value()?),
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        error.limit_causes();
        error.code = code.ok_or_else(|| A::Error::missing_field("code"))?;
        error.outcome = outcome.ok_or_else(|| A::Error::missing_field("outcome"))?;
        Ok(error)
    }
}

/// What is not known to this version may have been executed.
const fn read_outcome(number: u8) -> Outcome {
    match number {
        0 => Outcome::NotExecuted,
        1 => Outcome::Executed,
        _ => Outcome::Unknown,
    }
}

impl Serialize for Origin {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(2))?;
        map.serialize_entry(&ORIGIN_ADDRESS, &self.address.to_string())?;
        map.serialize_entry(&ORIGIN_METHOD, &self.method)?;
        map.end()
    }
}

impl<'de> Deserialize<'de> for Origin {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(OriginVisitor)
    }
}

struct OriginVisitor;

impl<'de> Visitor<'de> for OriginVisitor {
    type Value = Origin;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the map of an error's origin")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Origin, A::Error> {
        let (mut address, mut method) = (None, None);
        while let Some(key) = map.next_key::<u64>()? {
            match key {
                ORIGIN_ADDRESS => {
                    address = Some(map.next_value::<String>()?.parse().map_err(A::Error::custom)?);
                }
                ORIGIN_METHOD => method = Some(map.next_value()?),
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(Origin {
            address: address.ok_or_else(|| A::Error::missing_field("address"))?,
            method: method.ok_or_else(|| A::Error::missing_field("method"))?,
        })
    }
}

impl Serialize for Schema {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(1 + usize::from(self.fingerprint.is_some())))?;
        map.serialize_entry(&SCHEMA_SIGNATURE, &self.signature)?;
        if let Some(fingerprint) = &self.fingerprint {
            map.serialize_entry(&SCHEMA_FINGERPRINT, fingerprint)?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Schema {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(SchemaVisitor)
    }
}

struct SchemaVisitor;

impl<'de> Visitor<'de> for SchemaVisitor {
    type Value = Schema;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the map of a method's schema")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Schema, A::Error> {
        let mut schema = Schema { fingerprint: None, signature: String::new() };
        while let Some(key) = map.next_key::<u64>()? {
            match key {
                SCHEMA_SIGNATURE => schema.signature = map.next_value()?,
                SCHEMA_FINGERPRINT => schema.fingerprint = Some(map.next_value()?),
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(schema)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rpc::codec;

    fn error() -> RpcError {
        let address = "[2001:db8::1]:7301".parse().unwrap();
        RpcError {
            code: Code::ServerBusy,
            outcome: Outcome::NotExecuted,
            message: "8 calls run".to_owned(),
            origin: Some(Box::new(Origin { address, method: "calc.add".to_owned() })),
            retry_after: Some(Duration::from_millis(20)),
            schema: Some(Box::new(Schema { fingerprint: Some(7), signature: "()".to_owned() })),
            cause: Some(Box::new(RpcError::new(Code::Locked, Outcome::Unknown, ""))),
        }
    }

    #[test]
    fn an_error_has_the_bytes_that_the_protocol_names() {
        let bytes = codec::encode(&error()).unwrap();
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let expected = concat!(
            "a7",                         // map of 7
            "0006",                       // code: SERVER_BUSY
            "0100",                       // outcome: not executed
            "026b382063616c6c732072756e", // message
            "03a2",                       // origin
            "0072",
            "5b323030313a6462383a3a315d3a37333031", // its address
            "0168",
            "63616c632e616464", // its method
            "04194e20",         // retry after 20,000 microseconds
            "05a2",             // the method's schema
            "00622829",         // its signature
            "0107",             // its fingerprint
            "06a3000f01020260"  // the cause
        );
        assert_eq!(hex, expected);
        assert_eq!(codec::decode::<RpcError>(&bytes), Ok(error()));
    }

    #[test]
    fn what_later_versions_add_is_ignored() {
        let later = ciborium::Value::Map(vec![
            (0.into(), 900.into()),
            (1.into(), 7.into()),
            (2.into(), "new".into()),
            (77.into(), "added".into()),
        ]);
        let read: RpcError = codec::decode(&codec::encode(&later).unwrap()).unwrap();
        assert_eq!((read.code, read.outcome), (Code::Other(900), Outcome::Unknown));
    }
}
