//! Writes the trait, the client and the table of a contract.
//!
//! Names that the user does not see are hygienic (`Span::mixed_site`): an argument may be called `service` or
//! `remote`. All paths begin with `::`.

use proc_macro2::{Ident, Span, TokenStream};
use quote::{ToTokens, format_ident, quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{Type, parse_quote, parse_quote_spanned};

use crate::contract::{Contract, Method};
use crate::options::{Exclusive, MethodOptions};
use crate::text;

/// The code for `contract`.
pub(crate) fn expand(contract: &Contract) -> TokenStream {
    let definition = definition(contract);
    let client = client(contract);
    let services = services(contract);
    quote!(#definition #client #services)
}

/// The trait, with methods that an `async fn` implements.
fn definition(contract: &Contract) -> TokenStream {
    let mut definition = contract.definition.clone();
    definition.colon_token.get_or_insert_default();
    definition.supertraits.push(parse_quote!(::core::marker::Send));
    definition.supertraits.push(parse_quote!(::core::marker::Sync));
    definition.supertraits.push(parse_quote!('static));
    definition.items = contract
        .methods
        .iter()
        .map(|method| {
            let Method { attributes, result, error, .. } = method;
            let mut signature = method.signature.clone();
            if !method.is_async() {
                return parse_quote!(#(#attributes)* #signature;);
            }
            signature.asyncness = None;
            signature.output = parse_quote! {
                -> impl ::core::future::Future<Output = ::core::result::Result<#result, #error>>
                    + ::core::marker::Send
            };
            parse_quote!(#(#attributes)* #signature;)
        })
        .collect();
    definition.into_token_stream()
}

/// The struct whose methods build calls.
fn client(contract: &Contract) -> TokenStream {
    let visibility = &contract.definition.vis;
    let service = &contract.definition.ident;
    let client = client_name(service);
    let struct_docs =
        format!("Calls a [`{service}`] at a peer: each method builds a call, awaiting it sends it.");
    let new_docs = match &contract.name {
        Some(name) => format!("The service at `{name}` below `remote`."),
        None => "The service at `remote`.".to_owned(),
    };
    let mount = contract.name.as_ref().map(|name| quote!(.at(#name)));
    let methods = contract.methods.iter().map(|method| client_method(visibility, method));
    let names = contract.methods.iter().map(|method| {
        let conditions = method.conditions();
        let name = full_name(contract, method);
        quote!(#(#conditions)* #name)
    });
    let schemas = contract.methods.iter().map(|method| method_schema(contract, method));
    let schema_names = contract.methods.iter().map(|method| {
        let (conditions, schema) = (method.conditions(), schema_of(method));
        quote!(#(#conditions)* Self::#schema)
    });
    let (service_name, service_docs) = (service.to_string(), text::docs(contract.definition.attrs.iter()));
    let unused = unused();
    quote_spanned! {Span::mixed_site()=>
        #[doc = #struct_docs]
        #[derive(Clone, Debug)]
        #unused
        #visibility struct #client {
            remote: ::rpc_core::rpc::Remote,
        }

        #unused
        impl #client {
            /// The names of the methods, in the order of the trait.
            #visibility const METHODS: &'static [&'static str] = &[#(#names),*];

            /// What the methods take and answer.
            #visibility const SCHEMA: ::rpc_core::rpc::schema::ServiceSchema =
                ::rpc_core::rpc::schema::ServiceSchema {
                    name: #service_name,
                    docs: #service_docs,
                    methods: &[#(#schema_names),*],
                };

            #(#schemas)*

            #[doc = #new_docs]
            #visibility fn new(remote: ::rpc_core::rpc::Remote) -> Self {
                Self { remote: remote #mount }
            }

            #(#methods)*
        }

        impl ::core::convert::From<::rpc_core::rpc::Remote> for #client {
            fn from(remote: ::rpc_core::rpc::Remote) -> Self {
                Self::new(remote)
            }
        }
    }
}

fn client_method(visibility: &syn::Visibility, method: &Method) -> TokenStream {
    let ident = &method.signature.ident;
    let name = method.name();
    let conditions = method.conditions();
    let mut docs: Vec<_> = method.docs().cloned().collect();
    if docs.is_empty() {
        let call = format!("Calls `{name}`.");
        docs.push(parse_quote!(#[doc = #call]));
    }
    let Method { result, own_error: error, options, .. } = method;
    let names: Vec<_> = method.arguments.iter().map(|argument| &argument.name).collect();
    let kinds = method.arguments.iter().map(|argument| &argument.kind);
    let body = body(&names);
    let schema = schema_of(method);
    let idempotent = options.idempotent.then(|| quote!(.idempotent(true)));
    let timeout =
        options.timeout_ms.map(|timeout| quote!(.timeout(::core::time::Duration::from_millis(#timeout))));
    let lane = options.lane.as_ref().map(|lane| quote!(.lane(::rpc_core::endpoint::Lane::#lane)));
    let compress = options.compress.map(|compress| quote!(.compress(#compress)));
    quote_spanned! {at(ident)=>
        #(#conditions)*
        #(#docs)*
        #visibility fn #ident(&self, #(#names: #kinds),*) -> ::rpc_core::rpc::Call<#result, #error> {
            self.remote.call(#name, &#body).schema(&Self::#schema) #idempotent #timeout #lane #compress
        }
    }
}

/// The hidden constant with what is known about a method.
fn method_schema(contract: &Contract, method: &Method) -> TokenStream {
    let constant = schema_of(method);
    let conditions = method.conditions();
    let name = full_name(contract, method);
    let (signature, docs) = (method.signature_text(), text::docs(method.docs()));
    let MethodOptions { idempotent, version, written, .. } = &method.options;
    let version = version.unwrap_or(0);
    let kinds: Vec<_> = method.arguments.iter().map(|argument| &argument.kind).collect();
    let request = body(&kinds);
    let Method { result, own_error: error, .. } = method;
    let travels = kinds.iter().copied().chain([result, error]).map(travels);
    quote_spanned! {at(&method.signature.ident)=>
        #(#conditions)*
        #[doc(hidden)]
        #[allow(non_upper_case_globals, reason = "named after the method")]
        const #constant: ::rpc_core::rpc::schema::MethodSchema = {
            #(#travels)*
            ::rpc_core::rpc::schema::MethodSchema {
                name: #name,
                signature: ::rpc_core::rpc::schema::Signature::Written(#signature),
                docs: #docs,
                options: &[#(#written),*],
                idempotent: #idempotent,
                version: #version,
                answer_traced: true,
                trace: ::rpc_core::rpc::schema::trace::<#request, #result, #error>,
            }
        };
    }
}

/// A check that stands at the user's type, so that a type that cannot travel is refused there.
fn travels(kind: &Type) -> TokenStream {
    quote_spanned! {kind.span()=> let _ = ::rpc_core::rpc::schema::travels::<#kind>; }
}

/// The name of [`method_schema`]'s constant.
fn schema_of(method: &Method) -> Ident {
    format_ident!("schema_of_{}", method.name(), span = Span::mixed_site())
}

/// The function that makes the table of an implementation.
fn services(contract: &Contract) -> TokenStream {
    let visibility = &contract.definition.vis;
    let service = &contract.definition.ident;
    let function = format_ident!("{}_services", snake_case(&service.to_string()));
    let docs = format!("The methods of an implementation of [`{service}`], to be served by a peer.");
    let entries = contract.methods.iter().map(|method| entry(service, method));
    let mount = contract.name.as_ref().map(
        |name| quote_spanned!(Span::mixed_site()=> let methods = ::rpc_core::rpc::Services::new().nest(#name, methods);),
    );
    let unused = unused();
    quote_spanned! {Span::mixed_site()=>
        #[doc = #docs]
        #unused
        #visibility fn #function(service: ::std::sync::Arc<impl #service>) -> ::rpc_core::rpc::Services {
            let methods = ::rpc_core::rpc::Services::new();
            #(#entries)*
            #mount
            methods
        }
    }
}

fn entry(service: &Ident, method: &Method) -> TokenStream {
    let ident = &method.signature.ident;
    let client = client_name(service);
    let (name, schema) = (method.name(), schema_of(method));
    let conditions = method.conditions();
    let names: Vec<_> = method.arguments.iter().map(|argument| &argument.name).collect();
    let kinds: Vec<_> = method.arguments.iter().map(|argument| &argument.kind).collect();
    let (pattern, kind) = (body(&names), body(&kinds));
    let call = quote_spanned!(at(ident)=> #service::#ident(&*service, ctx, #(#names),*));
    let policy = policy(method).map(|policy| quote!(.with(#name, #policy)));
    let add = if method.is_async() {
        quote_spanned! {at(ident)=>
            methods.typed(#name, #client::#schema, move |ctx, #pattern: #kind| {
                let service = ::std::sync::Arc::clone(&service);
                async move { #call.await }
            })
        }
    } else {
        quote_spanned!(at(ident)=> methods.typed_sync(#name, #client::#schema, move |ctx, #pattern: #kind| #call))
    };
    quote_spanned! {at(ident)=>
        #(#conditions)*
        let methods = {
            let service = ::std::sync::Arc::clone(&service);
            #add #policy
        };
    }
}

/// What requests of the method pass before it runs, if anything.
fn policy(method: &Method) -> Option<TokenStream> {
    let MethodOptions { max_concurrent, max_queue, exclusive, keyed, compress, .. } = &method.options;
    let max_queue =
        max_queue.map_or_else(|| quote!(::rpc_core::rpc::limits::QUEUE_MAX), |max_queue| quote!(#max_queue));
    let limits = max_concurrent.map(|calls| quote!(.limits(#calls, #max_queue)));
    let exclusive = exclusive.as_ref().map(|exclusive| match exclusive {
        Exclusive::Method => quote!(.exclusive(#max_queue)),
        Exclusive::By(key) => {
            let names: Vec<_> = method
                .arguments
                .iter()
                .map(|argument| if argument.name == *key { quote!(key) } else { quote!(_) })
                .collect();
            let kinds: Vec<_> = method.arguments.iter().map(|argument| &argument.kind).collect();
            let (pattern, kind) = (body(&names), body(&kinds));
            quote! {
                .exclusive_by(#max_queue, |#pattern: &#kind| {
                    ::rpc_core::rpc::codec::encode(key).unwrap_or_default()
                })
            }
        }
    });
    let keyed = keyed.then(|| quote!(.keyed()));
    let compress = compress.map(|compress| quote!(.compress(#compress)));
    let options = quote!(#limits #exclusive #keyed #compress);
    (!options.is_empty()).then(|| quote!(::rpc_core::rpc::MethodPolicy::new() #options))
}

/// The rule of bodies, for values, patterns and types alike: none is `()`, one is itself, more are a tuple.
fn body<T: ToTokens>(parts: &[T]) -> TokenStream {
    match parts {
        [one] => quote!(#one),
        parts => quote!((#(#parts),*)),
    }
}

/// The method's name as its callers know it.
fn full_name(contract: &Contract, method: &Method) -> String {
    match &contract.name {
        Some(service) => format!("{service}.{}", method.name()),
        None => method.name(),
    }
}

fn client_name(service: &Ident) -> Ident {
    format_ident!("{service}Client")
}

/// Where an error in the code for `ident` is shown: at the user's token, with names of our own.
fn at(ident: &Ident) -> Span {
    Span::mixed_site().located_at(ident.span())
}

/// Allows what no user can avoid: a program often has only one side of a private service.
fn unused() -> syn::Attribute {
    parse_quote_spanned! {Span::mixed_site()=>
        #[allow(dead_code, reason = "a program may use one side of a service only")]
    }
}

/// `KvStore` as `kv_store`, `KVStore` too.
fn snake_case(name: &str) -> String {
    let letters: Vec<char> = name.chars().collect();
    let mut snake = String::with_capacity(name.len() + 4);
    for (index, letter) in letters.iter().enumerate() {
        let after_small = index > 0 && !letters[index - 1].is_uppercase() && letters[index - 1] != '_';
        let before_small = letters.get(index + 1).is_some_and(|next| next.is_lowercase());
        let begins_word = letter.is_uppercase()
            && (after_small || (before_small && index > 0 && letters[index - 1] != '_'));
        if begins_word {
            snake.push('_');
        }
        snake.extend(letter.to_lowercase());
    }
    snake
}

#[cfg(test)]
mod tests {
    use super::snake_case;

    #[test]
    fn trait_names_become_function_names() {
        for (camel, snake) in [
            ("Calc", "calc"),
            ("KvStore", "kv_store"),
            ("KVStore", "kv_store"),
            ("KV", "kv"),
            ("Kv2Store", "kv2_store"),
            ("Snake_Case", "snake_case"),
        ] {
            assert_eq!(snake_case(camel), snake);
        }
    }
}
