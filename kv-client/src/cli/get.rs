//! `get KEY`

use std::ffi::OsString;
use std::str;

use bytes::Bytes;
use clap::{Args, ValueEnum};
use kv_client::api::{Age, GetReply, Versioned};
use serde::Serialize;

use super::context::{Context, Followed};
use super::output::{ErrorObject, base64, print, print_json};
use super::trace_id::{TraceFlag, id_text};
use super::{Exit, Format, input};

/// Print the value of a key
#[derive(Debug, Args)]
pub(crate) struct Get {
    /// 1 to 4096 bytes
    #[arg(allow_hyphen_values = true)]
    key: OsString,
    /// Print exactly the value's bytes, without a newline after them
    #[arg(long)]
    raw: bool,
    /// How fresh the answer must be
    #[arg(long, value_enum, default_value_t = Freshness::Linearizable)]
    consistency: Freshness,
    #[command(flatten)]
    trace: TraceFlag,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Freshness {
    /// Contains every write that was answered before
    Linearizable,
    /// What one node has applied; says how old that may be
    Stale,
}

impl Get {
    pub(crate) async fn run(self, context: &Context) -> Exit {
        let Followed { client, trace } = context.followed(self.trace);
        let key = input::bytes(self.key);
        let reply = match self.consistency {
            Freshness::Linearizable => client.get(key.clone()).await,
            Freshness::Stale => client.get_stale(key.clone()).await,
        };
        let reply = match reply {
            Ok(reply) => reply,
            Err(refusal) => {
                let exit = Exit::of_refusal(&refusal);
                return match context.format {
                    Format::Json => print_json(&ErrorObject::of_refusal(&refusal)).err().unwrap_or(exit),
                    Format::Simple => exit.because(format_args!("not read: {refusal}")),
                };
            }
        };
        let exit = if reply.value.is_some() { Exit::Done } else { Exit::NotFound };
        let printed = match context.format {
            Format::Json => print_json(&GetObject::new(&key, &reply, trace)),
            Format::Simple => tell(&key, &reply, self.raw, context.quiet),
        };
        context.leave().await;
        printed.err().unwrap_or(exit)
    }
}

fn tell(key: &Bytes, reply: &GetReply, raw: bool, quiet: bool) -> Result<(), Exit> {
    if !quiet {
        match reply.age {
            Age::Linearizable => {}
            Age::AtMostMs(ms) => eprintln!("kv-client: stale read, at most {ms} ms old"),
            Age::Unbounded => eprintln!("kv-client: stale read of unbounded age"),
        }
    }
    match &reply.value {
        Some(Versioned { value, .. }) => {
            print(value)?;
            if raw { Ok(()) } else { print(b"\n") }
        }
        None => {
            let key = String::from_utf8_lossy(key);
            Exit::NotFound.because(format_args!("key `{}` not found", key.escape_debug()));
            Ok(())
        }
    }
}

/// The JSON of a read. Bytes that are not UTF-8 are in the field whose name ends in `_b64`.
#[derive(Debug, Serialize)]
pub(crate) struct GetObject<'a> {
    found: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_b64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_b64: Option<String>,
    rev: u64,
    mod_rev: Option<u64>,
    consistency: &'static str,
    /// How old the answer may be; null when it is linearizable, or unbounded.
    age_ms: Option<u64>,
    /// With `--trace`: the id of the trace.
    #[serde(skip_serializing_if = "Option::is_none")]
    trace: Option<String>,
}

impl<'a> GetObject<'a> {
    pub(crate) fn new(key: &'a [u8], reply: &'a GetReply, trace: Option<u128>) -> Self {
        let (key, key_b64) = text_or_base64(key);
        let value = reply.value.as_ref().map(|versioned| text_or_base64(&versioned.value));
        let (value, value_b64) = value.unwrap_or_default();
        Self {
            found: reply.value.is_some(),
            key,
            key_b64,
            value,
            value_b64,
            rev: reply.revision,
            mod_rev: reply.value.as_ref().map(|versioned| versioned.mod_revision),
            consistency: if reply.age == Age::Linearizable { "linearizable" } else { "stale" },
            age_ms: match reply.age {
                Age::AtMostMs(ms) => Some(ms),
                Age::Linearizable | Age::Unbounded => None,
            },
            trace: trace.map(id_text),
        }
    }
}

fn text_or_base64(bytes: &[u8]) -> (Option<&str>, Option<String>) {
    match str::from_utf8(bytes) {
        Ok(text) => (Some(text), None),
        Err(_) => (None, Some(base64(bytes))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(key: &[u8], value: Option<&'static [u8]>, age: Age) -> String {
        let value = value.map(|value| Versioned { value: Bytes::from_static(value), mod_revision: 5 });
        let reply = GetReply { value, revision: 9, age, leader: None };
        serde_json::to_string(&GetObject::new(key, &reply, None)).unwrap()
    }

    #[test]
    fn the_json_of_a_read_is_fixed() {
        assert_eq!(
            json(b"k", Some(b"v"), Age::Linearizable),
            concat!(
                r#"{"found":true,"key":"k","value":"v","rev":9,"mod_rev":5,"#,
                r#""consistency":"linearizable","age_ms":null}"#
            )
        );
        assert_eq!(
            json(b"\xff", Some(b"\xff\xef"), Age::AtMostMs(30)),
            concat!(
                r#"{"found":true,"key_b64":"/w==","value_b64":"/+8=","rev":9,"mod_rev":5,"#,
                r#""consistency":"stale","age_ms":30}"#
            )
        );
        assert_eq!(
            json(b"k", None, Age::Unbounded),
            r#"{"found":false,"key":"k","rev":9,"mod_rev":null,"consistency":"stale","age_ms":null}"#
        );
    }
}
