//! Logins: begun with a fresh PKCE verifier and state, finished by the callback or the pasted
//! address.

mod error;
mod listener;
mod logins;
mod page;
mod redeem;
mod register;

pub use error::{ListenerError, LoginError};
pub use listener::{CallbackListener, Serve, Serving};
pub use logins::{Begun, Logins, PATIENCE};
pub use page::{Page, is_navigation, protect};
pub use register::End;
