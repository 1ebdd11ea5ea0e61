//! Calls above the transport: methods and their names, typed bodies, errors with an outcome, the service registry.
//!
//! Knows the endpoint's vocabulary (lanes, statuses), but no socket and no driver: a [`channel::Channel`] carries single
//! transmissions, [`crate::peer`] brings one.

pub mod batch;
pub mod call;
pub mod channel;
pub mod codec;
pub mod context;
pub mod describe;
pub(crate) mod dispatch;
pub(crate) mod envelope;
pub mod error;
mod error_body;
mod exchange;
mod explain;
pub mod handle;
pub mod interceptor;
pub mod limits;
pub mod meta;
pub mod metrics;
pub mod notify;
mod observe;
pub mod path;
pub mod policy;
#[cfg(test)]
mod recorded;
pub mod reference;
pub mod registry;
pub(crate) mod reserved;
pub mod retry;
pub mod schema;
pub mod scope;
pub mod session;
pub mod stream;
mod window;

pub use batch::Batch;
pub use call::{Call, Calling, Remote};
pub use context::Ctx;
pub use error::{CallError, Code, Failure, MethodError, Never, Outcome, RpcError};
pub use path::{MethodId, Path};
pub use policy::MethodPolicy;
pub use reference::ServiceRef;
pub use registry::Services;
pub use stream::{Sink, Source};
