//! Shapes as CDDL (RFC 8610), for those who write a peer in another language.
//!
//! Structs and enums become rules of their own, named after their types in kebab case; two types with one name get a
//! number. A place of which nothing is known is `any`: the user replaces it in the text.

use std::fmt::Write as _;

use super::shape::{Body, Content, Definition, Field, Shape, Shapes};
use super::{MethodSchema, ServiceSchema};

/// The rules of `service`: per method `NAME.request`, `NAME.result` and `NAME.error`, then the types they use.
pub(super) fn service(service: &ServiceSchema) -> String {
    let mut text = format!("; {}\n", service.name);
    comment(&mut text, service.docs);
    let methods: Vec<_> = service.methods.iter().map(|method| (method.name.to_owned(), *method)).collect();
    text + &rules(&methods)
}

/// The rules of `methods`, each with its full name.
pub(crate) fn rules(methods: &[(String, MethodSchema)]) -> String {
    let mut shapes = Shapes::default();
    for (_, method) in methods {
        shapes = (method.trace)(shapes);
    }
    let names = names(&shapes.definitions);
    let writer = Writer { definitions: &shapes.definitions, names: &names };
    let mut text = String::new();
    for ((name, method), roots) in methods.iter().zip(shapes.roots.chunks(3)) {
        let _ = write!(text, "\n; {name}{}\n", method.signature);
        comment(&mut text, method.docs);
        for (part, root) in ["request", "result", "error"].iter().zip(roots) {
            if !writer.is_never(root) {
                let _ = writeln!(text, "{}.{part} = {}", identifier(name), writer.shape(root));
            }
        }
    }
    for (definition, name) in shapes.definitions.iter().zip(&names) {
        if let Some(body) = writer.body(&definition.body) {
            let _ = write!(text, "\n{name} = {body}\n");
        }
    }
    let used: Vec<_> = NUMBERS.iter().filter(|(name, _)| mentions(&text, name)).collect();
    if !used.is_empty() {
        text.push('\n');
    }
    for (name, range) in used {
        let _ = writeln!(text, "{name} = {range}");
    }
    text
}

fn comment(text: &mut String, docs: &str) {
    for line in docs.lines() {
        let _ = writeln!(text, "; {line}");
    }
}

/// The ranges of Rust's integers.
const NUMBERS: [(&str, &str); 10] = [
    ("u8", "0..255"),
    ("u16", "0..65535"),
    ("u32", "0..4294967295"),
    ("u64", "uint"),
    ("u128", "uint / biguint ; below 2^128"),
    ("i8", "-128..127"),
    ("i16", "-32768..32767"),
    ("i32", "-2147483648..2147483647"),
    ("i64", "-9223372036854775808..9223372036854775807"),
    ("i128", "integer ; from -2^127, below 2^127"),
];

/// Whether `word` stands in `text` as a whole.
fn mentions(text: &str, word: &str) -> bool {
    let is_part = |c: char| c.is_ascii_alphanumeric() || "-._$@".contains(c);
    text.lines()
        .filter(|line| !line.starts_with(';'))
        .any(|line| line.split(|c| !is_part(c)).any(|part| part == word))
}

/// A rule name for each definition, all different and none of them taken by CDDL.
fn names(definitions: &[Definition]) -> Vec<String> {
    let mut names: Vec<String> = Vec::with_capacity(definitions.len());
    for definition in definitions {
        let base = kebab_case(definition.name);
        let is_number = |name: &str| NUMBERS.iter().any(|(number, _)| *number == name);
        let taken =
            |name: &String| names.contains(name) || RESERVED.contains(&name.as_str()) || is_number(name);
        let numbered = (2usize..).map(|number| format!("{base}-{number}"));
        let name = std::iter::once(base.clone()).chain(numbered).find(|name| !taken(name));
        names.push(name.unwrap_or(base));
    }
    names
}

/// The prelude of CDDL (RFC 8610, appendix D), as far as a kebab-case type name may hit it.
const RESERVED: [&str; 40] = [
    "any",
    "uint",
    "nint",
    "int",
    "bstr",
    "bytes",
    "tstr",
    "text",
    "tdate",
    "time",
    "number",
    "biguint",
    "bignint",
    "bigint",
    "integer",
    "unsigned",
    "decfrac",
    "bigfloat",
    "eb64url",
    "eb64legacy",
    "eb16",
    "encoded-cbor",
    "uri",
    "b64url",
    "b64legacy",
    "regexp",
    "mime-message",
    "cbor-any",
    "float16",
    "float32",
    "float64",
    "float16-32",
    "float32-64",
    "float",
    "false",
    "true",
    "bool",
    "nil",
    "null",
    "undefined",
];

/// `KvError` as `kv-error`; what CDDL does not know in a name is left out.
fn kebab_case(name: &str) -> String {
    let mut kebab = String::with_capacity(name.len() + 4);
    let mut after_small = false;
    for c in name.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '_') {
        if c.is_ascii_uppercase() && after_small {
            kebab.push('-');
        }
        after_small = c.is_ascii_lowercase() || c.is_ascii_digit();
        kebab.push(if c == '_' { '-' } else { c.to_ascii_lowercase() });
    }
    identifier(&kebab)
}

/// `name` with what cannot stand in a name replaced.
fn identifier(name: &str) -> String {
    let mut id: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() || "-._".contains(c) { c } else { '-' }).collect();
    if !id.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') {
        id.insert(0, '_');
    }
    id
}

struct Writer<'a> {
    definitions: &'a [Definition],
    names: &'a [String],
}

impl Writer<'_> {
    /// Whether no value can travel here: an enum without variants.
    fn is_never(&self, shape: &Shape) -> bool {
        let Shape::Named(index) = shape else { return false };
        matches!(self.definitions.get(*index), Some(Definition { body: Body::Enum(variants), .. }) if variants.is_empty())
    }

    fn shape(&self, shape: &Shape) -> String {
        match shape {
            Shape::Any => "any".to_owned(),
            Shape::Scalar(name) => match *name {
                "unit" => "null",
                "text" => "tstr",
                "bytes" => "bstr",
                "char" => "tstr .size (1..4)",
                "f32" => "float16-32",
                "f64" => "float",
                other => other,
            }
            .to_owned(),
            Shape::Optional(inner) => format!("{} / null", self.shape(inner)),
            Shape::List(element) => format!("[* {}]", self.grouped(element)),
            Shape::Map(key, value) => format!("{{* {} => {}}}", self.grouped(key), self.grouped(value)),
            Shape::Tuple(elements) => {
                let elements: Vec<_> = elements.iter().map(|element| self.grouped(element)).collect();
                format!("[{}]", elements.join(", "))
            }
            Shape::Named(index) => self.names.get(*index).cloned().unwrap_or_else(|| "any".to_owned()),
        }
    }

    /// A shape that stands beside others.
    fn grouped(&self, shape: &Shape) -> String {
        let text = self.shape(shape);
        if matches!(shape, Shape::Optional(_)) { format!("({text})") } else { text }
    }

    /// The right side of a rule; none for a type without values.
    fn body(&self, body: &Body) -> Option<String> {
        match body {
            Body::Struct(fields) => Some(self.fields(fields, "")),
            Body::Enum(variants) => {
                let choices = variants.iter().map(|variant| {
                    let name = quoted(variant.name);
                    match &variant.content {
                        Content::Unit => name,
                        Content::Unknown => format!("{name} / {{ {name} => any }}"),
                        Content::Value(shape) => format!("{{ {name} => {} }}", self.grouped(shape)),
                        Content::Struct(fields) => format!("{{ {name} => {} }}", self.fields(fields, "  ")),
                    }
                });
                let choices: Vec<_> = choices.collect();
                (!choices.is_empty()).then(|| choices.join("\n  / "))
            }
        }
    }

    fn fields(&self, fields: &[Field], indent: &str) -> String {
        if fields.is_empty() {
            return "{}".to_owned();
        }
        let mut text = "{\n".to_owned();
        for field in fields {
            // serde's derive reads a field that is left out as `None`.
            let optional = if matches!(field.shape, Shape::Optional(_)) { "? " } else { "" };
            let _ = writeln!(
                text,
                "{indent}  {optional}{} => {},",
                quoted(field.name),
                self.grouped(&field.shape)
            );
        }
        text + indent + "}"
    }
}

/// A text in the notation of CDDL.
fn quoted(text: &str) -> String {
    let mut quoted = "\"".to_owned();
    for c in text.chars() {
        if matches!(c, '"' | '\\') {
            quoted.push('\\');
        }
        quoted.push(c);
    }
    quoted + "\""
}
