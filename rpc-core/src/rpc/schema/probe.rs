//! Finds the shape of a type by watching what its `Deserialize` asks for.
//!
//! A [`Probe`] is a deserializer that notes each request (a number, a struct with these fields, ..) and answers with a
//! sample: 1, `"1"`, one element, each variant of an enum in turn. Traced again and again until nothing new shows.
//! Works for every type that can be read, without a derive of our own. What it cannot see:
//!
//! - types that take anything: [`Shape::Any`] (CBOR values; untagged, internally and adjacently tagged enums);
//! - a type that refuses the sample (a text that must be a date, say) is seen as what it asked for, but what follows it in
//!   the same struct stays [`Shape::Any`]: serde gives no way to go on. Types that stand alone are not affected;
//! - `#[serde(default)]`, `skip_serializing_if` and aliases of fields: they change what may be left out, not the shape.

use serde::de::value::StrDeserializer;
use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, Error as _, MapAccess, SeqAccess,
    VariantAccess, Visitor,
};

use super::shape::{Body, Content, Definition, Field, Shape, Shapes, Variant};

/// Passes over one type at most; each but the last finds something new, so only huge types get here.
const PASSES_MAX: usize = 4_096;
/// The deepest nesting that is traced.
const DEPTH_MAX: usize = 64;
/// Values made for one type at most.
const STEPS_MAX: usize = 1 << 20;

impl Shapes {
    /// Adds the shape of `T` to the roots.
    #[must_use]
    pub fn with<T: DeserializeOwned>(mut self) -> Self {
        let root = shape_of::<T>(&mut self.definitions);
        self.roots.push(root);
        self
    }
}

/// The shape of `T`; structs and enums are added to `definitions`, or found there.
fn shape_of<T: DeserializeOwned>(definitions: &mut Vec<Definition>) -> Shape {
    let mut root = Shape::Any;
    let mut tracer = Tracer::new(definitions);
    for _ in 0..PASSES_MAX {
        let before = tracer.news;
        let mut seen = Shape::Any;
        // Only what it asked for counts, not whether it could be made.
        let _ = T::deserialize(Probe { tracer: &mut tracer, seen: &mut seen });
        merge(&mut root, seen);
        if tracer.news == before {
            break;
        }
    }
    root
}

/// Takes what `seen` knows and `known` does not.
fn merge(known: &mut Shape, seen: Shape) {
    match (known, seen) {
        (known @ Shape::Any, seen) => *known = seen,
        (Shape::Optional(known), Shape::Optional(seen)) | (Shape::List(known), Shape::List(seen)) => {
            merge(known, *seen);
        }
        (Shape::Map(key, value), Shape::Map(seen_key, seen_value)) => {
            merge(key, *seen_key);
            merge(value, *seen_value);
        }
        (Shape::Tuple(known), Shape::Tuple(seen)) => {
            for (known, seen) in known.iter_mut().zip(seen) {
                merge(known, seen);
            }
        }
        _ => {}
    }
}

/// What was found so far, over all passes.
struct Tracer<'a> {
    definitions: &'a mut Vec<Definition>,
    /// Per definition and variant: how far its tracing is. Empty for structs.
    progress: Vec<Vec<Progress>>,
    /// The definitions that are being traced, outermost first.
    stack: Vec<usize>,
    depth: usize,
    steps: usize,
    /// Definition and place of names that a struct refused as another name of a field it has.
    aliases: Vec<(usize, usize)>,
    /// How often something new was found.
    news: usize,
}

#[derive(Clone, Copy, Default)]
struct Progress {
    /// Being traced further up the stack.
    open: bool,
    /// When it could be made for the first time, counted in news.
    made: Option<usize>,
    /// A pass through it found nothing new.
    settled: bool,
}

impl<'a> Tracer<'a> {
    fn new(definitions: &'a mut Vec<Definition>) -> Self {
        // What an earlier type brought is known; it is traced again only so that this type can be made.
        let progress = definitions
            .iter()
            .map(|definition| match &definition.body {
                Body::Enum(variants) => vec![Progress::default(); variants.len()],
                Body::Struct(_) => Vec::new(),
            })
            .collect();
        Self { definitions, progress, stack: Vec::new(), depth: 0, steps: 0, aliases: Vec::new(), news: 0 }
    }

    fn find_struct(&mut self, name: &'static str, fields: &'static [&'static str]) -> usize {
        let found = self.definitions.iter().position(|other| {
            other.name == name
                && matches!(&other.body, Body::Struct(known) if known.iter().map(|field| field.name).eq(fields.iter().copied()))
        });
        found.unwrap_or_else(|| {
            let body = Body::Struct(unknown_fields(fields));
            self.define(Definition { name, body }, Vec::new())
        })
    }

    fn find_enum(&mut self, name: &'static str, names: &'static [&'static str]) -> usize {
        let found = self.definitions.iter().position(|other| {
            other.name == name
                && matches!(&other.body, Body::Enum(known) if known.iter().map(|variant| variant.name).eq(names.iter().copied()))
        });
        found.unwrap_or_else(|| {
            let variants = names.iter().map(|name| Variant { name, content: Content::Unknown }).collect();
            let progress = vec![Progress::default(); names.len()];
            self.define(Definition { name, body: Body::Enum(variants) }, progress)
        })
    }

    fn define(&mut self, definition: Definition, progress: Vec<Progress>) -> usize {
        self.news += 1;
        self.definitions.push(definition);
        self.progress.push(progress);
        self.definitions.len() - 1
    }

    /// Whether the innermost struct or enum is inside itself: then nothing optional is followed any more.
    fn recurses(&self) -> bool {
        self.stack.split_last().is_some_and(|(last, outer)| outer.contains(last))
    }

    /// The variant to make next: one that may show something new. Within itself the enum takes the one that was
    /// made first, because that one does not contain the enum again.
    fn choose(&self, definition: usize) -> usize {
        let Some(variants) = self.progress.get(definition) else { return 0 };
        let fresh = variants.iter().position(|variant| !variant.settled && !variant.open);
        let made =
            variants.iter().enumerate().filter_map(|(index, variant)| Some((variant.made?, index))).min();
        let made = made.map(|(_, index)| index);
        let within_itself = self.stack.contains(&definition);
        if within_itself { made.or(fresh) } else { fresh.or(made) }.unwrap_or(0)
    }

    fn variant(&mut self, definition: usize, variant: usize) -> Option<(&mut Content, &mut Progress)> {
        let Body::Enum(variants) = &mut self.definitions.get_mut(definition)?.body else { return None };
        Some((&mut variants.get_mut(variant)?.content, self.progress.get_mut(definition)?.get_mut(variant)?))
    }
}

fn unknown_fields(names: &'static [&'static str]) -> Vec<Field> {
    names.iter().map(|name| Field { name, shape: Shape::Any }).collect()
}

/// Why a pass ended early.
#[derive(Debug)]
struct Refused(String);

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refused {}

impl serde::de::Error for Refused {
    fn custom<T: std::fmt::Display>(message: T) -> Self {
        Self(message.to_string())
    }
}

/// A deserializer of nothing: notes in `seen` what is asked for, and answers with a sample.
struct Probe<'t, 'a> {
    tracer: &'t mut Tracer<'a>,
    seen: &'t mut Shape,
}

impl Probe<'_, '_> {
    fn scalar<T>(self, name: &'static str, sample: Result<T, Refused>) -> Result<T, Refused> {
        *self.seen = Shape::Scalar(name);
        sample
    }
}

macro_rules! scalars {
    ($($method:ident, $visit:ident, $name:literal, $sample:expr;)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
            self.scalar($name, visitor.$visit($sample))
        })*
    };
}

impl<'de> Deserializer<'de> for Probe<'_, '_> {
    type Error = Refused;

    scalars! {
        deserialize_bool, visit_bool, "bool", true;
        deserialize_i8, visit_i8, "i8", 1;
        deserialize_i16, visit_i16, "i16", 1;
        deserialize_i32, visit_i32, "i32", 1;
        deserialize_i64, visit_i64, "i64", 1;
        deserialize_i128, visit_i128, "i128", 1;
        deserialize_u8, visit_u8, "u8", 1;
        deserialize_u16, visit_u16, "u16", 1;
        deserialize_u32, visit_u32, "u32", 1;
        deserialize_u64, visit_u64, "u64", 1;
        deserialize_u128, visit_u128, "u128", 1;
        deserialize_f32, visit_f32, "f32", 1.0;
        deserialize_f64, visit_f64, "f64", 1.0;
        deserialize_char, visit_char, "char", '1';
        deserialize_str, visit_str, "text", "1";
        deserialize_string, visit_str, "text", "1";
        deserialize_identifier, visit_str, "text", "1";
        deserialize_bytes, visit_bytes, "bytes", b"1";
        deserialize_byte_buf, visit_bytes, "bytes", b"1";
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        self.scalar("unit", visitor.visit_unit())
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Refused> {
        self.deserialize_unit(visitor)
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        visitor.visit_unit()
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        visitor.visit_unit()
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Refused> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        let mut inner = Shape::Any;
        let value = if self.tracer.recurses() {
            visitor.visit_none()
        } else {
            visitor.visit_some(Probe { tracer: &mut *self.tracer, seen: &mut inner })
        };
        *self.seen = Shape::Optional(Box::new(inner));
        value
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        let length = usize::from(!self.tracer.recurses());
        let mut elements = Elements::new(self.tracer, length);
        let value = visitor.visit_seq(&mut elements);
        let element = elements.seen.pop().unwrap_or(Shape::Any);
        *self.seen = Shape::List(Box::new(element));
        value
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, length: usize, visitor: V) -> Result<V::Value, Refused> {
        let mut elements = Elements::new(self.tracer, length);
        let value = visitor.visit_seq(&mut elements);
        elements.seen.resize(length, Shape::Any);
        *self.seen = Shape::Tuple(elements.seen);
        value
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        length: usize,
        visitor: V,
    ) -> Result<V::Value, Refused> {
        self.deserialize_tuple(length, visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        let mut entries = Entries {
            open: !self.tracer.recurses(),
            tracer: self.tracer,
            key: Shape::Any,
            value: Shape::Any,
        };
        let value = visitor.visit_map(&mut entries);
        *self.seen = Shape::Map(Box::new(entries.key), Box::new(entries.value));
        value
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        names: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Refused> {
        let definition = self.tracer.find_struct(name, names);
        *self.seen = Shape::Named(definition);
        self.tracer.stack.push(definition);
        let mut fields = Fields::new(self.tracer, Some(definition), names);
        let value = visitor.visit_map(&mut fields);
        let (seen, refused) = (fields.seen, fields.offered);
        self.tracer.stack.pop();
        if let (Err(_), Some(alias)) = (&value, refused) {
            self.tracer.aliases.push((definition, alias));
            self.tracer.news += 1;
        }
        if let Some(Definition { body: Body::Struct(known), .. }) =
            self.tracer.definitions.get_mut(definition)
        {
            merge_fields(known, seen);
        }
        value
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        names: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Refused> {
        let definition = self.tracer.find_enum(name, names);
        *self.seen = Shape::Named(definition);
        let chosen = self.tracer.choose(definition);
        let name =
            *names.get(chosen).ok_or_else(|| Refused::custom("an enum without variants has no value"))?;
        let before = self.tracer.news;
        let within_itself = self.tracer.stack.contains(&definition);
        let was_open = self
            .tracer
            .variant(definition, chosen)
            .is_some_and(|(_, progress)| std::mem::replace(&mut progress.open, true));
        self.tracer.stack.push(definition);
        let mut content = Content::Unknown;
        let variant = Chosen { tracer: &mut *self.tracer, name, content: &mut content };
        let value = visitor.visit_enum(variant);
        self.tracer.stack.pop();

        let mut news = self.tracer.news;
        if let Some((known, progress)) = self.tracer.variant(definition, chosen) {
            if *known == Content::Unknown && content != Content::Unknown {
                news += 1;
            }
            merge_content(known, content);
            progress.open = was_open;
            if value.is_ok() {
                progress.made.get_or_insert(before);
            }
            // That one variant is done is news too: the next pass makes another. Within itself nothing optional was
            // followed: such a visit does not count.
            if news == before && !progress.settled && !within_itself {
                progress.settled = true;
                news += 1;
            }
        }
        self.tracer.news = news;
        value
    }

    /// As ciborium says of itself: types with two forms show the compact one.
    fn is_human_readable(&self) -> bool {
        false
    }
}

fn merge_fields(known: &mut [Field], seen: Vec<Shape>) {
    for (field, shape) in known.iter_mut().zip(seen) {
        merge(&mut field.shape, shape);
    }
}

fn merge_content(known: &mut Content, seen: Content) {
    match (known, seen) {
        (known @ Content::Unknown, seen) => *known = seen,
        (Content::Value(known), Content::Value(seen)) => merge(known, seen),
        (Content::Struct(known), Content::Struct(seen)) => {
            merge_fields(known, seen.into_iter().map(|field| field.shape).collect());
        }
        _ => {}
    }
}

/// Reads one value with `seed`, one level deeper.
fn descend<'de, S: DeserializeSeed<'de>>(
    tracer: &mut Tracer<'_>,
    seen: &mut Shape,
    seed: S,
) -> Result<S::Value, Refused> {
    if tracer.depth == DEPTH_MAX || tracer.steps == STEPS_MAX {
        return Err(Refused::custom("too deep or too large to be traced"));
    }
    tracer.depth += 1;
    tracer.steps += 1;
    let value = seed.deserialize(Probe { tracer, seen });
    tracer.depth -= 1;
    value
}

/// The elements of an array.
struct Elements<'t, 'a> {
    tracer: &'t mut Tracer<'a>,
    length: usize,
    seen: Vec<Shape>,
}

impl<'t, 'a> Elements<'t, 'a> {
    fn new(tracer: &'t mut Tracer<'a>, length: usize) -> Self {
        Self { tracer, length, seen: Vec::new() }
    }
}

impl<'de> SeqAccess<'de> for &mut Elements<'_, '_> {
    type Error = Refused;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Refused> {
        if self.seen.len() == self.length {
            return Ok(None);
        }
        let mut seen = Shape::Any;
        let value = descend(self.tracer, &mut seen, seed);
        self.seen.push(seen);
        value.map(Some)
    }
}

/// One entry of a map, or none.
struct Entries<'t, 'a> {
    tracer: &'t mut Tracer<'a>,
    open: bool,
    key: Shape,
    value: Shape,
}

impl<'de> MapAccess<'de> for &mut Entries<'_, '_> {
    type Error = Refused;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Refused> {
        if !std::mem::take(&mut self.open) {
            return Ok(None);
        }
        descend(self.tracer, &mut self.key, seed).map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Refused> {
        descend(self.tracer, &mut self.value, seed)
    }
}

/// The fields of a struct, by name.
struct Fields<'t, 'a> {
    tracer: &'t mut Tracer<'a>,
    /// The struct; none for a variant of an enum.
    definition: Option<usize>,
    names: &'static [&'static str],
    seen: Vec<Shape>,
    next: usize,
    /// The name that was given and whose value was not asked for (yet).
    offered: Option<usize>,
}

impl<'t, 'a> Fields<'t, 'a> {
    fn new(tracer: &'t mut Tracer<'a>, definition: Option<usize>, names: &'static [&'static str]) -> Self {
        Self { tracer, definition, names, seen: vec![Shape::Any; names.len()], next: 0, offered: None }
    }

    fn is_alias(&self, index: usize) -> bool {
        self.definition.is_some_and(|definition| self.tracer.aliases.contains(&(definition, index)))
    }
}

impl<'de> MapAccess<'de> for &mut Fields<'_, '_> {
    type Error = Refused;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Refused> {
        let Some(index) = (self.next..self.names.len()).find(|&index| !self.is_alias(index)) else {
            return Ok(None);
        };
        self.next = index + 1;
        self.offered = Some(index);
        seed.deserialize(StrDeserializer::new(self.names[index])).map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Refused> {
        let index = self.offered.take().ok_or_else(|| Refused::custom("a value without a key"))?;
        descend(self.tracer, &mut self.seen[index], seed)
    }
}

/// The variant of an enum that is made in this pass.
struct Chosen<'t, 'a> {
    tracer: &'t mut Tracer<'a>,
    name: &'static str,
    content: &'t mut Content,
}

impl<'de> EnumAccess<'de> for Chosen<'_, '_> {
    type Error = Refused;
    type Variant = Self;

    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Self), Refused> {
        let variant = seed.deserialize(StrDeserializer::<Refused>::new(self.name))?;
        Ok((variant, self))
    }
}

impl<'de> VariantAccess<'de> for Chosen<'_, '_> {
    type Error = Refused;

    fn unit_variant(self) -> Result<(), Refused> {
        *self.content = Content::Unit;
        Ok(())
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, Refused> {
        let mut seen = Shape::Any;
        let value = descend(self.tracer, &mut seen, seed);
        *self.content = Content::Value(seen);
        value
    }

    fn tuple_variant<V: Visitor<'de>>(self, length: usize, visitor: V) -> Result<V::Value, Refused> {
        let mut seen = Shape::Any;
        let value = Probe { tracer: self.tracer, seen: &mut seen }.deserialize_tuple(length, visitor);
        *self.content = Content::Value(seen);
        value
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        names: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Refused> {
        let mut fields = Fields::new(self.tracer, None, names);
        let value = visitor.visit_map(&mut fields);
        let seen = fields.seen;
        let mut content = unknown_fields(names);
        merge_fields(&mut content, seen);
        *self.content = Content::Struct(content);
        value
    }
}
