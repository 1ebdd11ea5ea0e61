//! The attribute macro of rpc-core: a trait becomes a typed client and a service.
//!
//! `contract` reads the trait and refuses what cannot travel, each refusal at the token that causes it; `expand`
//! writes the code for what was read. The generated code stands on the public names of `rpc_core` only.

mod contract;
mod expand;
mod options;
mod text;

use proc_macro::TokenStream;
use quote::quote;

/// Makes a service of a trait: the trait to implement, a typed client, and the table to serve.
///
/// For `trait Calc` with `async fn add(&self, ctx: Ctx, a: i64, b: i64) -> Result<i64, Never>;` it writes
///
/// - the trait itself, with the supertraits `Send + Sync + 'static`, and with futures that are `Send`: implementors
///   write `async fn add(..)`;
/// - `CalcClient`, made by `CalcClient::new(remote)`, with `add(&self, a: i64, b: i64) -> Call<i64, Never>`: awaiting
///   the call sends it, and its options (timeout, lane, ..) are set on the call;
/// - `calc_services(service: Arc<impl Calc>) -> Services`, for a peer's builder, for `nest` and for `merge`;
/// - `CalcClient::METHODS`, the names of the methods in the order of the trait, and `CalcClient::SCHEMA`, what they
///   take and answer: signatures, fingerprints, `CalcClient::SCHEMA.cddl()` for other languages.
///
/// # A method
/// is an `async fn` without body and generics that takes `&self`, `ctx: Ctx` and up to 16 arguments by value, and
/// answers `Result<T, E>`; `E` travels typed and is `Never` for a method that cannot fail. All of these types are
/// `Serialize` and `Deserialize`. A plain `fn` is a method too; it runs on the peer's own task and must neither block
/// nor take long. A method that answers `Result<T, CallError<E>>` may also end in an error of the system, of its own or
/// of a call that it makes (`?` passes that on as the cause); its callers see the same `E`. `#[rpc(..)]` on a method sets
///
/// | option | meaning |
/// | --- | --- |
/// | `idempotent` | a repeated execution changes nothing: the call is retried after an unknown outcome too |
/// | `timeout = "300ms"` | how long a call may take unless told otherwise; a number of `ms`, `s` or `m` |
/// | `lane = control` | before what it is sent: `control`, `normal`, `bulk` |
/// | `max_concurrent = 8, max_queue = 64` | so many calls at once, so many waiting (64 unless given); others are refused, not executed |
/// | `exclusive` | one call at a time; `max_queue` wait |
/// | `exclusive = key` | one call at a time for each value of the argument `key` |
/// | `keyed` | the method keeps a durable table of idempotency keys: calls may carry one |
/// | `compress = true` | requests and answers are compressed, whatever the peers are set to; or never (`false`) |
/// | `version = 2` | changes the fingerprint when the meaning changes and no type does |
///
/// # Names
/// A method's name is its identifier; `#[service(name = "kv")]` puts the client and the table below `kv`, so that
/// both sides speak of `kv.get` without nesting by hand.
///
/// # Bodies (part of the protocol)
/// The arguments after `ctx` travel as one CBOR item: none as null, one as itself, two or more as the array of them.
/// This is what a method from a closure takes as `()`, `A`, or `(A, B, ..)`: the caller cannot tell the two apart.
#[proc_macro_attribute]
pub fn service(arguments: TokenStream, item: TokenStream) -> TokenStream {
    let arguments = syn::parse_macro_input!(arguments as options::ServiceOptions);
    let item = syn::parse_macro_input!(item as syn::Item);
    match contract::Contract::read(arguments, item) {
        Ok(contract) => expand::expand(&contract).into(),
        Err(errors) => {
            let errors = errors.to_compile_error();
            quote!(#errors).into()
        }
    }
}
