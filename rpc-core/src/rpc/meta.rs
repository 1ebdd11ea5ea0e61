//! What travels with a call beside its body: trace, idempotency key, bytes of the application.
//!
//! A message whose form says so begins with one CBOR map with small integers as keys; the body proper follows. A call
//! without metadata carries nothing of it, not even the map.
//!
//! ```text
//! meta  = { ? 0: bstr .size 16              ; trace id
//!         , ? 1: uint                       ; span: the call that carries this, as its caller numbered it
//!         , ? 2: [* uint]                   ; hops: ids of the methods that called on, the first one first
//!         , ? 3: [bstr .size 16, uint]      ; idempotency key: client, sequence
//!         , * (64..) => bstr                ; the application's own
//!         , * uint => any }                 ; ignored by who does not know them
//! ```

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;
use serde::de::{Error, IgnoredAny, MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_bytes::ByteArray;

use super::codec;
use super::path::MethodId;

/// The largest map of metadata, in bytes. A larger one is not sent, and not read: BAD_REQUEST, not executed.
pub const META_SIZE_MAX: usize = 1_024;
/// How often a traced call may be called on. One more is refused where it is made: it runs in a circle.
pub const HOPS_MAX: usize = 32;
/// The first key of the application's own entries.
pub const EXTRA_KEY_MIN: u64 = 64;

const TRACE_ID: u64 = 0;
const SPAN: u64 = 1;
const HOPS: u64 = 2;
const IDEMPOTENCY_KEY: u64 = 3;

/// What travels with a call beside its body.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Meta {
    /// The way of the call from its source.
    pub trace: Option<Trace>,
    /// What makes repeated executions one.
    pub key: Option<IdempotencyKey>,
    /// The application's own entries (a token, a tenant, ..), by keys from [`EXTRA_KEY_MIN`] on; lower keys are not
    /// sent.
    pub extra: BTreeMap<u64, Bytes>,
}

/// The way of a call from its source.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trace {
    /// The same in every call that follows from one at the source.
    pub id: u128,
    /// The call that carries this.
    pub span: u64,
    /// The methods that called on, the first one first.
    pub hops: Vec<MethodId>,
}

/// Names a call for a table of answers that the callee keeps (on a disk, or replicated): two calls with one key are
/// one execution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IdempotencyKey {
    /// Who calls, for longer than one process lives.
    pub client: u128,
    /// Which of its calls.
    pub sequence: u64,
}

impl Meta {
    /// Whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.trace.is_none() && self.key.is_none() && self.extra.is_empty()
    }

    /// Reads the map at the beginning of `message`; how many bytes it takes.
    pub(crate) fn read(message: &[u8]) -> Result<(Self, usize), codec::CodecError> {
        let head = &message[..message.len().min(META_SIZE_MAX)];
        codec::decode_first(head)
    }
}

impl Serialize for Meta {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let extra = || self.extra.iter().filter(|(key, _)| **key >= EXTRA_KEY_MIN);
        let traced = self.trace.as_ref().map_or(0, |trace| 2 + usize::from(!trace.hops.is_empty()));
        let count = traced + usize::from(self.key.is_some()) + extra().count();
        let mut map = serializer.serialize_map(Some(count))?;
        if let Some(trace) = &self.trace {
            map.serialize_entry(&TRACE_ID, &ByteArray::new(trace.id.to_be_bytes()))?;
            map.serialize_entry(&SPAN, &trace.span)?;
            if !trace.hops.is_empty() {
                map.serialize_entry(&HOPS, &trace.hops.iter().map(|hop| hop.0).collect::<Vec<u32>>())?;
            }
        }
        if let Some(key) = &self.key {
            let client = ByteArray::new(key.client.to_be_bytes());
            map.serialize_entry(&IDEMPOTENCY_KEY, &(client, key.sequence))?;
        }
        for (key, value) in extra() {
            map.serialize_entry(key, value)?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Meta {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(MetaVisitor)
    }
}

struct MetaVisitor;

impl<'de> Visitor<'de> for MetaVisitor {
    type Value = Meta;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the map of a call's metadata")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Meta, A::Error> {
        let mut meta = Meta::default();
        let (mut id, mut span, mut hops) = (None, 0, Vec::new());
        while let Some(key) = map.next_key::<u64>()? {
            match key {
                TRACE_ID => id = Some(map.next_value::<ByteArray<16>>()?.into_array()),
                SPAN => span = map.next_value()?,
                HOPS => {
                    let read: Vec<u32> = map.next_value()?;
                    if read.len() > HOPS_MAX {
                        return Err(A::Error::custom(format!("{} hops: more than {HOPS_MAX}", read.len())));
                    }
                    hops = read.into_iter().map(MethodId).collect();
                }
                IDEMPOTENCY_KEY => {
                    let (client, sequence): (ByteArray<16>, u64) = map.next_value()?;
                    let client = u128::from_be_bytes(client.into_array());
                    meta.key = Some(IdempotencyKey { client, sequence });
                }
                key if key >= EXTRA_KEY_MIN => drop(meta.extra.insert(key, map.next_value()?)),
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        meta.trace = id.map(|id| Trace { id: u128::from_be_bytes(id), span, hops });
        Ok(meta)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta() -> Meta {
        Meta {
            trace: Some(Trace { id: 7, span: 9, hops: vec![MethodId::of("calc.add")] }),
            key: Some(IdempotencyKey { client: 1, sequence: 2 }),
            extra: BTreeMap::from([(64, Bytes::from_static(b"token"))]),
        }
    }

    #[test]
    fn the_map_is_followed_by_the_body() {
        let mut message = codec::encode(&meta()).unwrap().to_vec();
        let size = message.len();
        message.extend_from_slice(b"body");
        assert_eq!(Meta::read(&message), Ok((meta(), size)));
    }

    #[test]
    fn what_later_versions_add_is_ignored() {
        let later = ciborium::Value::Map(vec![
            (0.into(), ciborium::Value::Bytes(vec![0; 16])),
            (63.into(), ciborium::Value::Array(vec!["new".into()])),
        ]);
        let (read, _) = Meta::read(&codec::encode(&later).unwrap()).unwrap();
        assert_eq!(read, Meta { trace: Some(Trace::default()), ..Meta::default() });
    }

    #[test]
    fn keys_below_the_applications_own_are_not_sent() {
        let low = Meta { extra: BTreeMap::from([(EXTRA_KEY_MIN - 1, Bytes::from_static(b"low"))]), ..meta() };
        let sent = Meta { extra: BTreeMap::new(), ..meta() };
        assert_eq!(codec::encode(&low), codec::encode(&sent));
    }

    #[test]
    fn a_large_or_broken_map_is_refused() {
        let large = Meta { extra: BTreeMap::from([(64, vec![0; META_SIZE_MAX].into())]), ..Meta::default() };
        assert!(Meta::read(&codec::encode(&large).unwrap()).is_err());
        let hops = vec![MethodId(1); HOPS_MAX + 1];
        let circle = Meta { trace: Some(Trace { hops, ..Trace::default() }), ..Meta::default() };
        assert!(Meta::read(&codec::encode(&circle).unwrap()).is_err());
        assert!(Meta::read(b"").is_err());
    }
}
