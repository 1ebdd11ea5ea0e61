//! What the user may say in `#[service(..)]` and `#[rpc(..)]`.

use proc_macro2::{Ident, Span};
use syn::meta::ParseNestedMeta;
use syn::parse::{Parse, ParseStream};
use syn::punctuated::Punctuated;
use syn::spanned::Spanned;
use syn::{Attribute, Error, LitBool, LitInt, LitStr, Meta, Result, Token};

use crate::text;

/// The arguments of `#[service(..)]`.
#[derive(Default)]
pub(crate) struct ServiceOptions {
    /// The path at which the methods live; none: at the root of what they are mounted to.
    pub(crate) name: Option<String>,
}

impl Parse for ServiceOptions {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        if input.is_empty() {
            return Ok(Self::default());
        }
        let option: Ident = input.parse()?;
        if option != "name" {
            return Err(Error::new(option.span(), "`#[service]` takes `name = \"..\"` or nothing"));
        }
        input.parse::<Token![=]>()?;
        let name: LitStr = input.parse()?;
        input.parse::<Option<Token![,]>>()?;
        if !input.is_empty() {
            return Err(input.error("`#[service]` takes one `name`"));
        }
        if name.value().split('.').any(str::is_empty) {
            return Err(Error::new(name.span(), "a service name is one or more words joined by dots"));
        }
        Ok(Self { name: Some(name.value()) })
    }
}

/// What `#[rpc(..)]` says about a method.
#[derive(Default)]
pub(crate) struct MethodOptions {
    /// Whether a repeated execution changes nothing.
    pub(crate) idempotent: bool,
    /// How long a call may take, in milliseconds; none: the default of calls.
    pub(crate) timeout_ms: Option<u64>,
    /// The variant of `Lane`; none: the default of calls.
    pub(crate) lane: Option<Ident>,
    /// The version of the method's meaning; none: 0.
    pub(crate) version: Option<u32>,
    /// Calls that run at once; none: no limit.
    pub(crate) max_concurrent: Option<u32>,
    /// Calls that wait for a place.
    pub(crate) max_queue: Option<u32>,
    /// Whether one call runs at a time.
    pub(crate) exclusive: Option<Exclusive>,
    /// Whether the method keeps a table of idempotency keys.
    pub(crate) keyed: bool,
    /// Whether requests and answers are compressed; none: as the peer does.
    pub(crate) compress: Option<bool>,
    /// Each option as it was written, for the method's description.
    pub(crate) written: Vec<String>,
}

/// How far exclusive access reaches.
pub(crate) enum Exclusive {
    Method,
    /// Calls with the same value of this argument.
    By(Ident),
}

impl MethodOptions {
    /// Takes the `#[rpc(..)]` attributes out of `attributes` and reads them.
    pub(crate) fn take(attributes: &mut Vec<Attribute>) -> Result<Self> {
        let mut options = Self::default();
        for attribute in attributes.extract_if(.., |attribute| attribute.path().is_ident("rpc")) {
            attribute.parse_nested_meta(|option| options.read(&option))?;
            let written = attribute.parse_args_with(Punctuated::<Meta, Token![,]>::parse_terminated)?;
            options.written.extend(written.iter().map(text::of));
            if options.max_queue.is_some() && options.max_concurrent.is_none() && options.exclusive.is_none()
            {
                let sentence =
                    "a queue is before `max_concurrent = ..` or `exclusive`, in the same `#[rpc(..)]`";
                return Err(Error::new(attribute.span(), sentence));
            }
            if options.max_concurrent.is_some() && options.exclusive.is_some() {
                return Err(Error::new(
                    attribute.span(),
                    "`exclusive` is one call at a time: no `max_concurrent`",
                ));
            }
        }
        Ok(options)
    }

    fn read(&mut self, option: &ParseNestedMeta<'_>) -> Result<()> {
        let given_before = if option.path.is_ident("idempotent") {
            std::mem::replace(&mut self.idempotent, true)
        } else if option.path.is_ident("timeout") {
            let timeout: LitStr = option.value()?.parse()?;
            self.timeout_ms.replace(milliseconds(&timeout)?).is_some()
        } else if option.path.is_ident("lane") {
            let lane: Ident = option.value()?.parse()?;
            self.lane.replace(variant(&lane)?).is_some()
        } else if option.path.is_ident("version") {
            let version: LitInt = option.value()?.parse()?;
            self.version.replace(version.base10_parse()?).is_some()
        } else if option.path.is_ident("max_concurrent") {
            self.max_concurrent.replace(positive(option)?).is_some()
        } else if option.path.is_ident("max_queue") {
            let queue: LitInt = option.value()?.parse()?;
            self.max_queue.replace(queue.base10_parse()?).is_some()
        } else if option.path.is_ident("exclusive") {
            let by = option.input.peek(Token![=]).then(|| option.value()?.parse().map(Exclusive::By));
            self.exclusive.replace(by.transpose()?.unwrap_or(Exclusive::Method)).is_some()
        } else if option.path.is_ident("keyed") {
            std::mem::replace(&mut self.keyed, true)
        } else if option.path.is_ident("compress") {
            let compress: LitBool = option.value()?.parse()?;
            self.compress.replace(compress.value).is_some()
        } else {
            return Err(option.error(
                "a method is `idempotent`, `exclusive` or `keyed`, or has a `timeout = \"..\"`, a `lane = ..`, a \
                 `version = ..`, a `max_concurrent = ..`, a `max_queue = ..` or a `compress = ..`",
            ));
        };
        if given_before {
            return Err(Error::new(option.path.span(), "this option is given twice"));
        }
        Ok(())
    }
}

fn positive(option: &ParseNestedMeta<'_>) -> Result<u32> {
    let number: LitInt = option.value()?.parse()?;
    match number.base10_parse()? {
        0 => Err(Error::new(number.span(), "at least one call runs at a time")),
        number => Ok(number),
    }
}

/// Reads `300ms`, `5s`, `2m`.
fn milliseconds(text: &LitStr) -> Result<u64> {
    let value = text.value();
    let digits = value.len() - value.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = value.split_at(digits);
    let factor = match unit {
        "ms" => Some(1),
        "s" => Some(1_000),
        "m" => Some(60_000),
        _ => None,
    };
    factor
        .zip(number.parse::<u64>().ok())
        .and_then(|(factor, number)| number.checked_mul(factor))
        .filter(|&milliseconds| milliseconds > 0)
        .ok_or_else(|| Error::new(text.span(), "a timeout is a positive number and `ms`, `s` or `m`"))
}

fn variant(lane: &Ident) -> Result<Ident> {
    let variant = match lane.to_string().as_str() {
        "control" => "Control",
        "normal" => "Normal",
        "bulk" => "Bulk",
        _ => return Err(Error::new(lane.span(), "a lane is `control`, `normal` or `bulk`")),
    };
    Ok(Ident::new(variant, Span::call_site()))
}
