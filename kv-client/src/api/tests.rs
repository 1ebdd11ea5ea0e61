//! The encoding of the contract is fixed: a change of these bytes is a change of [`PROTOCOL`].

use bytes::Bytes;
use rpc_core::rpc::codec;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::*;

fn hex(value: &impl Serialize) -> String {
    codec::encode(value).unwrap().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn survives<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(value: T) {
    assert_eq!(codec::decode::<T>(&codec::encode(&value).unwrap()), Ok(value));
}

fn write(op: WriteOp) -> WriteRequest {
    WriteRequest { cluster: u128::MAX, session: 7, sequence: 3, floor: 2, op }
}

#[test]
fn the_bytes_of_a_write_are_fixed() {
    let put = write(WriteOp::Put { key: "k".into(), value: "v".into() });
    assert_eq!(
        hex(&put),
        "a56163c250ffffffffffffffffffffffffffffffff617307617103616602616fa16170a2616b416b61764176"
    );
    assert_eq!(hex(&WriteReply::Committed { revision: 9, existed: true }), "a16163a26172096178f5");
    assert_eq!(hex(&KvError::NotLeader { leader: None }), "a1616ca1616cf6");
    assert_eq!(hex(&KvError::Unknown), "6175");
}

#[test]
fn every_shape_survives_the_wire() {
    let (key, value) = (Bytes::from_static(b"\xff\x00"), Bytes::from(vec![7; 5_000]));
    survives(write(WriteOp::Delete { key: key.clone() }));
    for expect in [Expect::Absent, Expect::Revision(u64::MAX), Expect::Value(value.clone())] {
        survives(write(WriteOp::Cas { key: key.clone(), expect, value: value.clone() }));
    }
    survives(Resolved::Settled(WriteReply::ConditionFailed { revision: 1, mod_revision: None }));
    survives(Resolved::Settled(WriteReply::RolledBack { revision: 1 }));
    survives(Resolved::Unknowable(Unknowable::ForeignCluster));
    for age in [Age::Linearizable, Age::AtMostMs(5), Age::Unbounded] {
        let value = Some(Versioned { value: value.clone(), mod_revision: 4 });
        survives(GetReply {
            value,
            revision: 5,
            age,
            leader: Some(Hint { id: 1, address: "a:1".to_owned() }),
        });
    }
    survives(KvError::TooLarge { what: Limited::Value, size: 2, max: 1 });
    survives(KvError::ForeignCluster { cluster: 5 });
    survives(ChangeError::Refused(KvError::NoQuorum));
    survives(MemberChange::Lead { id: None });
}

/// Bytes that became an array of numbers would be nearly twice as long.
#[test]
fn byte_strings_travel_as_byte_strings() {
    let value = Bytes::from(vec![200; 10_000]);
    let put = write(WriteOp::Put { key: "k".into(), value: value.clone() });
    assert!(codec::encode(&put).unwrap().len() < 10_100);
    let cas = write(WriteOp::Cas { key: "k".into(), expect: Expect::Value(value.clone()), value });
    assert!(codec::encode(&cas).unwrap().len() < 20_100);
}

#[test]
fn only_unknown_is_not_definite() {
    assert!(!KvError::Unknown.is_definite());
    for error in [KvError::NoQuorum, KvError::Deadline, KvError::SessionExpired, KvError::Draining] {
        assert!(error.is_definite());
    }
}

#[test]
fn keys_and_values_have_limits() {
    assert_eq!(check_key(b""), Err(KvError::EmptyKey));
    assert_eq!(check_key(&[0; KEY_SIZE_MAX]), Ok(()));
    assert!(matches!(
        check_key(&[0; KEY_SIZE_MAX + 1]),
        Err(KvError::TooLarge { what: Limited::Key, size: 4_097, max: 4_096 })
    ));
    assert_eq!(check_value(&vec![0; VALUE_SIZE_MAX]), Ok(()));
    assert!(matches!(
        check_value(&vec![0; VALUE_SIZE_MAX + 1]),
        Err(KvError::TooLarge { what: Limited::Value, size: 1_048_577, max: 1_048_576 })
    ));
}
