use std::collections::BTreeMap;
use std::net::SocketAddr;

use bytes::Bytes;
use serde::Deserialize;

use super::*;

fn canonical<T: DeserializeOwned>() -> String {
    Shapes::default().with::<T>().canonical()
}

#[derive(Serialize, Deserialize)]
struct Point {
    x: i64,
    y: Option<f64>,
}

#[test]
fn a_shape_shows_what_travels_and_not_what_it_is_called() {
    #[derive(Deserialize)]
    #[expect(dead_code, reason = "only its shape counts")]
    struct Other {
        x: i64,
        y: Option<f64>,
    }
    #[derive(Deserialize)]
    #[expect(dead_code, reason = "only its shape counts")]
    struct Wider {
        x: i128,
        y: Option<f64>,
    }
    #[derive(Deserialize)]
    #[expect(dead_code, reason = "only its shape counts")]
    struct Wrapped(u64);

    assert_eq!(canonical::<Point>(), "#0{\"x\":i64,\"y\":?f64,};");
    assert_eq!(canonical::<Point>(), canonical::<Other>());
    assert_ne!(canonical::<Point>(), canonical::<Wider>());
    assert_eq!(canonical::<Wrapped>(), "u64;");
    assert_eq!(canonical::<(u8, String, Bytes)>(), "[u8,text,bytes,];");
    assert_eq!(canonical::<BTreeMap<String, Vec<Point>>>(), "{*text:[*#0{\"x\":i64,\"y\":?f64,}]};");
    assert_eq!(canonical::<ciborium::Value>(), "*;");
    assert_eq!(canonical::<()>(), "unit;");
}

#[test]
fn all_variants_are_found_through_each_other() {
    #[derive(Deserialize)]
    #[expect(dead_code, reason = "only its shape counts")]
    enum Outer {
        Inner(Inner),
        Nothing,
        Two(u8, Inner),
        Named { inner: Inner },
    }
    #[derive(Deserialize)]
    #[expect(dead_code, reason = "only its shape counts")]
    enum Inner {
        A,
        B(Point),
        C { c: bool },
    }
    let inner = "#1(\"A\"|\"B\":#2{\"x\":i64,\"y\":?f64,}|\"C\"{\"c\":bool,}|)";
    let expected = format!("#0(\"Inner\":{inner}|\"Nothing\"|\"Two\":[u8,#1,]|\"Named\"{{\"inner\":#1,}}|);");
    assert_eq!(canonical::<Outer>(), expected);
}

#[test]
fn types_inside_themselves_come_to_an_end() {
    #[derive(Deserialize)]
    #[expect(dead_code, reason = "only its shape counts")]
    enum Term {
        Add(Box<Self>, Box<Self>),
        Call { name: String, arguments: Vec<Self> },
        Number(f64),
    }
    #[derive(Deserialize)]
    #[expect(dead_code, reason = "only its shape counts")]
    struct List {
        head: u8,
        tail: Option<Box<Self>>,
    }
    #[derive(Deserialize)]
    #[expect(dead_code, reason = "only its shape counts")]
    struct Endless {
        next: Box<Self>,
    }
    let term = "#0(\"Add\":[#0,#0,]|\"Call\"{\"name\":text,\"arguments\":[*#0],}|\"Number\":f64|);";
    assert_eq!(canonical::<Term>(), term);
    assert_eq!(canonical::<List>(), "#0{\"head\":u8,\"tail\":?#0,};");
    assert_eq!(canonical::<Endless>(), "#0{\"next\":#0,};");
}

#[test]
fn types_of_others_and_types_that_refuse_are_seen_as_far_as_they_ask() {
    #[derive(Deserialize)]
    #[serde(try_from = "String")]
    struct Date;
    impl TryFrom<String> for Date {
        type Error = &'static str;
        fn try_from(_: String) -> Result<Self, Self::Error> {
            Err("no date")
        }
    }
    #[derive(Deserialize)]
    #[expect(dead_code, reason = "only its shape counts")]
    struct Entry {
        id: u64,
        date: Date,
        hidden: u8,
    }
    #[derive(Deserialize)]
    #[expect(dead_code, reason = "only its shape counts")]
    struct Renamed {
        #[serde(alias = "old", alias = "older")]
        current: u8,
        after: bool,
    }
    assert_eq!(canonical::<Entry>(), "#0{\"id\":u64,\"date\":text,\"hidden\":*,};");
    assert!(canonical::<Renamed>().contains(":bool"), "{}", canonical::<Renamed>());
    let address = "[[u8,u8,u8,u8,],u16,]";
    assert!(canonical::<SocketAddr>().contains(address), "{}", canonical::<SocketAddr>());
}

/// Keeps points.
#[crate::service(name = "points")]
trait Points {
    /// Adds one.
    ///
    /// Again, if need be.
    #[rpc(idempotent, timeout = "1s", version = 3)]
    async fn add(&self, ctx: crate::rpc::Ctx, name: String, point: Point) -> Result<Option<Point>, Refused>;

    fn count(&self, ctx: crate::rpc::Ctx) -> Result<u32, crate::rpc::Never>;
}

#[derive(Serialize, Deserialize)]
enum Refused {
    Full,
    #[serde(rename = "too \"far\"")]
    TooFar {
        max: u8,
    },
}

#[test]
fn a_service_has_a_schema() {
    let [add, count] = PointsClient::SCHEMA.methods else { panic!("two methods") };
    assert_eq!(PointsClient::SCHEMA.docs, "Keeps points.");
    assert_eq!(add.name, "points.add");
    assert_eq!(add.signature.to_string(), "(name: String, point: Point) -> Result<Option<Point>, Refused>");
    assert_eq!(add.docs, "Adds one.\n\nAgain, if need be.");
    assert_eq!(add.options, ["idempotent", "timeout = \"1s\"", "version = 3"]);
    assert_eq!(count.signature.to_string(), "() -> Result<u32, crate::rpc::Never>");
    let older = MethodSchema { version: 2, ..*add };
    assert_ne!(add.fingerprint(), older.fingerprint());
    // Fixed, because both sides must compute the same from the same types, in every version of this crate.
    assert_eq!(format!("{:016x}", count.fingerprint()), "c730e63c040c2884");
}

#[test]
fn a_closure_shows_its_types() {
    let schema = MethodSchema::of_closure::<(i64, Vec<String>), Point, Refused>(true);
    assert_eq!(schema.signature.to_string(), "(i64, Vec<String>) -> Result<Point, Refused>");
    let schema = MethodSchema::of_closure::<u8, (), ()>(true);
    assert_eq!(schema.signature.to_string(), "(u8) -> Result<(), ()>");
    assert_eq!(schema.summary().fingerprint, None);
}

#[test]
fn a_service_reads_as_cddl() {
    let expected = r#"; Points
; Keeps points.

; points.add(name: String, point: Point) -> Result<Option<Point>, Refused>
; Adds one.
; 
; Again, if need be.
points.add.request = [tstr, point]
points.add.result = point / null
points.add.error = refused

; points.count() -> Result<u32, crate::rpc::Never>
points.count.request = null
points.count.result = u32

point = {
  "x" => i64,
  ? "y" => (float / null),
}

refused = "Full"
  / { "too \"far\"" => {
    "max" => u8,
  } }

u8 = 0..255
u32 = 0..4294967295
i64 = -9223372036854775808..9223372036854775807
"#;
    assert_eq!(PointsClient::SCHEMA.cddl(), expected);
}

/// Handles, and what else a service can hold.
#[crate::service]
trait Rich {
    async fn watch(&self, ctx: crate::rpc::Ctx, events: crate::rpc::Sink<Point>) -> Result<(), Refused>;
    async fn list(
        &self,
        ctx: crate::rpc::Ctx,
        key: Bytes,
    ) -> Result<crate::rpc::Source<Bytes>, crate::rpc::Never>;
    async fn pass(&self, ctx: crate::rpc::Ctx, to: crate::rpc::ServiceRef) -> Result<(), crate::rpc::Never>;
    async fn map(
        &self,
        ctx: crate::rpc::Ctx,
        table: BTreeMap<SocketAddr, Option<(char, f32, i128)>>,
        r#type: std::time::Duration,
    ) -> Result<Result<u8, Point>, Refused>;
}

#[test]
fn every_rule_that_cddl_text_uses_is_defined() {
    let reflection = crate::rpc::describe::ReflectionClient::SCHEMA;
    for schema in [PointsClient::SCHEMA, RichClient::SCHEMA, reflection] {
        let text = schema.cddl();
        let rules = rules_of(&text);
        let unescaped = text.replace("\\\"", "");
        for line in unescaped.lines().filter(|line| !line.starts_with(';')) {
            for name in words(line.split(" ; ").next().unwrap_or(line)) {
                let known = rules.contains(&name) || PRELUDE.contains(&name) || name.starts_with('.');
                assert!(known, "`{name}` is not defined in\n{text}");
            }
        }
        for (open, close) in [('[', ']'), ('{', '}'), ('(', ')')] {
            assert_eq!(text.matches(open).count(), text.matches(close).count(), "{text}");
        }
    }
}

/// What RFC 8610 defines, appendix D, as far as it is used here.
const PRELUDE: [&str; 12] = [
    "any",
    "uint",
    "integer",
    "biguint",
    "tstr",
    "bstr",
    "bool",
    "null",
    "float",
    "float16-32",
    "true",
    "false",
];

/// The names on the left of `=`; none stands there twice.
fn rules_of(text: &str) -> Vec<&str> {
    let lines = text.lines().filter(|line| !line.starts_with([';', ' ']));
    let mut names: Vec<_> = lines.filter_map(|line| line.split_once(" = ")).map(|(name, _)| name).collect();
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count, "{text}");
    names
}

/// The names in a line, without what stands in quotes, and without numbers.
fn words(line: &str) -> impl Iterator<Item = &str> {
    let outside = line.split('"').step_by(2);
    outside
        .flat_map(|part| part.split(|c: char| !(c.is_ascii_alphanumeric() || "-._".contains(c))))
        .filter(|word| word.starts_with(|c: char| c.is_ascii_alphabetic()))
}
