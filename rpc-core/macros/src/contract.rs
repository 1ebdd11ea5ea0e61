//! Reads a service trait into a form that can only hold what can travel.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use proc_macro2::{Ident, TokenStream, TokenTree};
use quote::ToTokens;
use syn::ext::IdentExt;
use syn::{
    Attribute, Error, FnArg, GenericArgument, Item, ItemTrait, Pat, PatType, PathArguments, Receiver, Result,
    ReturnType, Signature, TraitItem, TraitItemFn, Type,
};

use crate::options::{Exclusive, MethodOptions, ServiceOptions};
use crate::text;

/// The longest tuple that serde reads and writes.
const ARGUMENTS_MAX: usize = 16;

/// A trait whose methods can all be called from another process.
pub(crate) struct Contract {
    /// The path at which the methods live, if the user gave one.
    pub(crate) name: Option<String>,
    /// The trait as it was written, without its items.
    pub(crate) definition: ItemTrait,
    /// The methods in the order of the trait; at least one.
    pub(crate) methods: Vec<Method>,
}

/// One method of a service.
pub(crate) struct Method {
    /// The attributes that stay with the trait's method: all but `#[rpc]`.
    pub(crate) attributes: Vec<Attribute>,
    pub(crate) signature: Signature,
    pub(crate) arguments: Vec<Argument>,
    pub(crate) result: Type,
    /// The error that the method answers.
    pub(crate) error: Type,
    /// The error that the caller has a type for: `E` where the method answers a `CallError<E>`.
    pub(crate) own_error: Type,
    pub(crate) options: MethodOptions,
}

/// One argument that travels.
pub(crate) struct Argument {
    pub(crate) name: Ident,
    pub(crate) kind: Type,
}

impl Contract {
    /// Reads `item`; the error holds everything that is wrong with it.
    pub(crate) fn read(options: ServiceOptions, item: Item) -> Result<Self> {
        let Item::Trait(mut definition) = item else {
            return Err(Error::new_spanned(
                item,
                "a service is a trait: its methods are what peers may call",
            ));
        };
        let mut faults = Faults::default();
        if !definition.generics.params.is_empty() || definition.generics.where_clause.is_some() {
            faults.at(
                &definition.generics,
                "a service has no generics: a peer calls its methods by name alone",
            );
        }
        if let Some(token) = &definition.unsafety {
            faults.at(token, "a service is a safe trait: its caller is another process");
        }
        if definition.items.is_empty() {
            faults.at(&definition.ident, "a service has at least one method");
        }
        let mut methods = Vec::with_capacity(definition.items.len());
        for item in std::mem::take(&mut definition.items) {
            match item {
                TraitItem::Fn(function) => methods.extend(faults.keep(Method::read(function))),
                other => faults.at(&other, "a service has methods only"),
            }
        }
        check_names(&methods, options.name.as_deref(), &mut faults);
        faults.none().map(|()| Self { name: options.name, definition, methods })
    }
}

impl Method {
    /// Arguments and answer: `(a: i64, b: i64) -> Result<i64, Never>`.
    pub(crate) fn signature_text(&self) -> String {
        let arguments =
            self.arguments.iter().map(|argument| format!("{}: {}", argument.name, text::of(&argument.kind)));
        let arguments: Vec<_> = arguments.collect();
        format!("({}) -> Result<{}, {}>", arguments.join(", "), text::of(&self.result), text::of(&self.error))
    }

    fn read(function: TraitItemFn) -> Result<Self> {
        let TraitItemFn { attrs: mut attributes, sig: signature, default, .. } = function;
        let mut faults = Faults::default();
        let options = faults.keep(MethodOptions::take(&mut attributes));
        check_head(&signature, &mut faults);
        if let Some(body) = default {
            faults.at(&body, "a service method has no body here: it runs where the trait is implemented");
        }

        let mut inputs = signature.inputs.iter();
        let receiver = inputs.next();
        if !matches!(receiver, Some(FnArg::Receiver(receiver)) if is_shared(receiver)) {
            let found: &dyn ToTokens = receiver.map_or(&signature.ident, |receiver| receiver);
            faults.at(found, "a service method takes `&self` first: many calls run at once");
        }
        let ctx = inputs.next();
        if !matches!(ctx, Some(FnArg::Typed(ctx)) if ends_with(&ctx.ty, "Ctx")) {
            let found: &dyn ToTokens = ctx.map_or(&signature.ident, |ctx| ctx);
            faults.at(found, "a service method takes `ctx: Ctx` after `&self`");
        }
        let arguments: Vec<_> = inputs.filter_map(|input| faults.keep(Argument::read(input))).collect();
        if let Some(excess) = arguments.get(ARGUMENTS_MAX) {
            faults.at(&excess.name, "a service method takes up to 16 arguments: put them into a struct");
        }
        let answer = faults.keep(answer_types(&signature));

        faults.none()?;
        let (Some(options), Some((result, error))) = (options, answer) else {
            unreachable!("what is missing was counted as a fault");
        };
        if let Some(Exclusive::By(key)) = &options.exclusive
            && !arguments.iter().any(|argument| argument.name == *key)
        {
            return Err(Error::new_spanned(key, "exclusive access is by an argument of the method"));
        }
        let own_error = inner_error(&error).unwrap_or_else(|| error.clone());
        Ok(Self { attributes, signature, arguments, result, error, own_error, options })
    }

    /// Whether the method is an `async fn`; a plain `fn` runs on the peer's own task.
    pub(crate) fn is_async(&self) -> bool {
        self.signature.asyncness.is_some()
    }

    /// The name on the wire.
    pub(crate) fn name(&self) -> String {
        self.signature.ident.unraw().to_string()
    }

    /// The attributes that the client's method and the table's entry share with the trait's method.
    pub(crate) fn conditions(&self) -> impl Iterator<Item = &Attribute> {
        self.attributes.iter().filter(|attribute| attribute.path().is_ident("cfg"))
    }

    /// The documentation.
    pub(crate) fn docs(&self) -> impl Iterator<Item = &Attribute> {
        self.attributes.iter().filter(|attribute| attribute.path().is_ident("doc"))
    }
}

/// Refuses two methods of one name, and two whose names have one id on the wire.
fn check_names(methods: &[Method], service: Option<&str>, faults: &mut Faults) {
    let full_name = |method: &Method| match service {
        Some(service) => format!("{service}.{}", method.name()),
        None => method.name(),
    };
    let mut seen: BTreeMap<u32, (&Method, String)> = BTreeMap::new();
    for method in methods {
        // Methods under conditions may stand for each other: the compiler sees which of them are there.
        if method.conditions().next().is_some() {
            continue;
        }
        let name = full_name(method);
        match seen.entry(method_id(&name)) {
            Entry::Vacant(entry) => drop(entry.insert((method, name))),
            Entry::Occupied(entry) if entry.get().1 == name => {
                faults.at(&method.signature.ident, "this service has a method of this name already");
            }
            Entry::Occupied(entry) => {
                let other = &entry.get().1;
                let sentence = format!("`{name}` has the same id on the wire as `{other}`: rename one");
                faults.at(&method.signature.ident, &sentence);
            }
        }
    }
}

/// The id of a method on the wire, as `rpc_core::rpc::MethodId::of` computes it: FNV-1a, the two highest bits cleared.
pub(crate) fn method_id(name: &str) -> u32 {
    let hash =
        name.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    hash & 0x3fff_ffff
}

/// Checks what stands before the arguments, and between them and the answer.
fn check_head(signature: &Signature, faults: &mut Faults) {
    if let Some(token) = &signature.constness {
        faults.at(token, "a service method cannot be const");
    }
    if let Some(token) = &signature.unsafety {
        faults.at(token, "a service method is safe: its caller is another process");
    }
    if let Some(token) = &signature.abi {
        faults.at(token, "a service method has no ABI of its own");
    }
    if !signature.generics.params.is_empty() {
        faults.at(&signature.generics, "a service method has no generics: the types of its body are fixed");
    }
    if let Some(clause) = &signature.generics.where_clause {
        faults.at(clause, "a service method has no where clause: the types of its body are fixed");
    }
    if signature.ident == "new" {
        faults.at(&signature.ident, "`new` makes the client: give this method another name");
    }
}

impl Argument {
    fn read(input: &FnArg) -> Result<Self> {
        let FnArg::Typed(PatType { attrs, pat, ty, .. }) = input else {
            return Err(Error::new_spanned(input, "`self` comes first"));
        };
        if let Some(attribute) = attrs.first() {
            return Err(Error::new_spanned(attribute, "an argument has no attributes: all of them travel"));
        }
        let name = match &**pat {
            Pat::Ident(name)
                if name.by_ref.is_none() && name.mutability.is_none() && name.subpat.is_none() =>
            {
                name.ident.clone()
            }
            pattern => {
                return Err(Error::new_spanned(pattern, "an argument has a plain name, not a pattern"));
            }
        };
        match &**ty {
            kind if borrows(kind.to_token_stream()) => {
                Err(Error::new_spanned(ty, "an argument travels: take it by value"))
            }
            Type::ImplTrait(_) => Err(Error::new_spanned(ty, "an argument travels: name its type")),
            kind => Ok(Self { name, kind: kind.clone() }),
        }
    }
}

/// Whether a type contains a reference or a lifetime.
fn borrows(kind: TokenStream) -> bool {
    kind.into_iter().any(|token| match token {
        TokenTree::Punct(punct) => matches!(punct.as_char(), '&' | '\''),
        TokenTree::Group(group) => borrows(group.stream()),
        _ => false,
    })
}

/// `&self`, and nothing else that is called self.
fn is_shared(receiver: &Receiver) -> bool {
    matches!(&receiver.reference, Some((_, None)))
        && receiver.mutability.is_none()
        && receiver.colon_token.is_none()
}

/// Whether `kind` is a path that ends in `name`.
fn ends_with(kind: &Type, name: &str) -> bool {
    matches!(kind, Type::Path(path) if path.path.segments.last().is_some_and(|last| last.ident == name))
}

/// `T` and `E` of the method's `Result<T, E>`.
fn answer_types(signature: &Signature) -> Result<(Type, Type)> {
    const EXPECTED: &str =
        "a service method answers `Result<T, E>`; where nothing can fail, `E` is `rpc_core::rpc::Never`";
    let ReturnType::Type(_, answer) = &signature.output else {
        return Err(Error::new_spanned(&signature.ident, EXPECTED));
    };
    let unexpected = || Error::new_spanned(answer, EXPECTED);
    let Type::Path(path) = &**answer else { return Err(unexpected()) };
    let last = path.path.segments.last().filter(|last| last.ident == "Result").ok_or_else(unexpected)?;
    let PathArguments::AngleBracketed(types) = &last.arguments else { return Err(unexpected()) };
    let mut types = types.args.iter();
    match (types.next(), types.next(), types.next()) {
        (Some(GenericArgument::Type(result)), Some(GenericArgument::Type(error)), None) => {
            match [result, error].into_iter().find(|kind| borrows(kind.to_token_stream())) {
                Some(kind) => Err(Error::new_spanned(kind, "an answer travels: give it by value")),
                None => Ok((result.clone(), error.clone())),
            }
        }
        _ => Err(unexpected()),
    }
}

/// `E` of `CallError<E>`.
fn inner_error(error: &Type) -> Option<Type> {
    let Type::Path(path) = error else { return None };
    let last = path.path.segments.last().filter(|last| last.ident == "CallError")?;
    let PathArguments::AngleBracketed(types) = &last.arguments else { return None };
    match types.args.first() {
        Some(GenericArgument::Type(inner)) if types.args.len() == 1 => Some(inner.clone()),
        _ => None,
    }
}

/// Everything found wrong so far: the user sees all of it at once.
#[derive(Default)]
struct Faults {
    first: Option<Error>,
}

impl Faults {
    fn at(&mut self, tokens: impl ToTokens, sentence: &str) {
        self.add(Error::new_spanned(tokens, sentence));
    }

    /// The value, or nothing and its error counted.
    fn keep<T>(&mut self, result: Result<T>) -> Option<T> {
        result.map_err(|error| self.add(error)).ok()
    }

    fn add(&mut self, error: Error) {
        match &mut self.first {
            Some(first) => first.combine(error),
            None => self.first = Some(error),
        }
    }

    fn none(self) -> Result<()> {
        self.first.map_or(Ok(()), Err)
    }
}
