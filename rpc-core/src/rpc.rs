//! Calls above the transport: methods and their names, typed bodies, errors with an outcome, the service registry.
//!
//! Knows the endpoint's vocabulary (lanes, statuses), but no socket and no driver: a [`call::Channel`] carries single
//! transmissions, [`crate::peer`] brings one.

pub mod call;
pub mod codec;
pub mod describe;
pub mod error;
mod error_body;
pub mod handle;
pub mod path;
pub mod reference;
pub mod registry;
pub mod schema;
pub mod session;
pub mod stream;

pub use call::{Call, Remote};
pub use error::{CallError, Code, Failure, MethodError, Never, Outcome, RpcError};
pub use path::{MethodId, Path};
pub use reference::ServiceRef;
pub use registry::{Ctx, Services};
pub use stream::{Sink, Source};
