//! What a serde type looks like on the wire, without the names that do not travel.

use std::fmt::Write as _;

/// The shapes of several types, which share their definitions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shapes {
    /// One per type that was traced, in order.
    pub roots: Vec<Shape>,
    /// What [`Shape::Named`] stands for.
    pub definitions: Vec<Definition>,
}

/// What travels in one place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Not known: the type takes anything (a CBOR value, an untagged enum), or refused every sample before this place.
    Any,
    /// A number, a text, bytes, null: by its Rust name, `unit` for null, `bytes` for a byte string.
    Scalar(&'static str),
    /// A value or null.
    Optional(Box<Self>),
    /// An array of any length.
    List(Box<Self>),
    /// A map with any keys.
    Map(Box<Self>, Box<Self>),
    /// An array of a fixed length.
    Tuple(Vec<Self>),
    /// A struct or an enum: the index of its definition.
    Named(usize),
}

/// A struct or an enum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Definition {
    /// The type's name. It does not travel, and two types may share it.
    pub name: &'static str,
    /// What it consists of.
    pub body: Body,
}

/// What a definition consists of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// A map from names of fields.
    Struct(Vec<Field>),
    /// One of several variants, by name.
    Enum(Vec<Variant>),
}

/// A field with its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// The key.
    pub name: &'static str,
    /// The value.
    pub shape: Shape,
}

/// One variant of an enum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variant {
    /// The name that travels.
    pub name: &'static str,
    /// What travels with it.
    pub content: Content,
}

/// What travels with a variant's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// Not known: the variant could not be made.
    Unknown,
    /// Nothing: the variant is its name.
    Unit,
    /// One value, or an array of several ([`Shape::Tuple`]).
    Value(Shape),
    /// The map of its fields.
    Struct(Vec<Field>),
}

impl Shapes {
    /// Adds a root of which nothing is known.
    #[must_use]
    pub fn with_any(mut self) -> Self {
        self.roots.push(Shape::Any);
        self
    }

    /// The shapes as one text: equal for equal shapes, whatever their types are called.
    pub fn canonical(&self) -> String {
        let mut canonical = Canonical { shapes: self, text: String::new(), numbers: Vec::new() };
        for root in &self.roots {
            canonical.shape(root);
            canonical.text.push(';');
        }
        canonical.text
    }
}

/// Writes definitions where they are first used, numbered in that order.
struct Canonical<'a> {
    shapes: &'a Shapes,
    text: String,
    /// The definitions written so far.
    numbers: Vec<usize>,
}

impl Canonical<'_> {
    fn shape(&mut self, shape: &Shape) {
        match shape {
            Shape::Any => self.text.push('*'),
            Shape::Scalar(name) => self.text.push_str(name),
            Shape::Optional(inner) => {
                self.text.push('?');
                self.shape(inner);
            }
            Shape::List(element) => {
                self.text.push_str("[*");
                self.shape(element);
                self.text.push(']');
            }
            Shape::Map(key, value) => {
                self.text.push_str("{*");
                self.shape(key);
                self.text.push(':');
                self.shape(value);
                self.text.push('}');
            }
            Shape::Tuple(elements) => {
                self.text.push('[');
                for element in elements {
                    self.shape(element);
                    self.text.push(',');
                }
                self.text.push(']');
            }
            Shape::Named(index) => self.named(*index),
        }
    }

    fn named(&mut self, index: usize) {
        let known = self.numbers.iter().position(|&other| other == index);
        let number = known.unwrap_or(self.numbers.len());
        // Writing to a string cannot fail.
        let _ = write!(self.text, "#{number}");
        let Some(definition) = self.shapes.definitions.get(index).filter(|_| known.is_none()) else { return };
        self.numbers.push(index);
        match &definition.body {
            Body::Struct(fields) => self.fields(fields),
            Body::Enum(variants) => {
                self.text.push('(');
                for variant in variants {
                    // Names are quoted as Rust would, so that no name can pass for punctuation.
                    let _ = write!(self.text, "{:?}", variant.name);
                    match &variant.content {
                        Content::Unknown => self.text.push('!'),
                        Content::Unit => {}
                        Content::Value(shape) => {
                            self.text.push(':');
                            self.shape(shape);
                        }
                        Content::Struct(fields) => self.fields(fields),
                    }
                    self.text.push('|');
                }
                self.text.push(')');
            }
        }
    }

    fn fields(&mut self, fields: &[Field]) {
        self.text.push('{');
        for field in fields {
            let _ = write!(self.text, "{:?}:", field.name);
            self.shape(&field.shape);
            self.text.push(',');
        }
        self.text.push('}');
    }
}
