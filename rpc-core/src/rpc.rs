//! Calls above the transport: methods and their names, typed bodies, errors with an outcome, the service registry.
//!
//! Knows the endpoint's vocabulary (lanes, statuses), but no socket and no driver: a [`call::Channel`] carries single
//! transmissions, [`crate::peer`] brings one.

pub mod call;
pub mod codec;
pub mod describe;
pub mod error;
mod error_body;
pub mod path;
pub mod registry;
pub mod schema;

pub use call::{Call, Remote};
pub use error::{CallError, Code, Failure, Never, Outcome, RpcError};
pub use path::{MethodId, Path};
pub use registry::{Ctx, Services};
