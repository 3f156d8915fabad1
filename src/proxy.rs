//! What happens to one call. Read [`handle`] first.
//!
//! | File | Answers | |
//! |---|---|---|
//! | [`handle`] | the story of a call, from guard to response | |
//! | [`guard`] | may this call pass? | pure |
//! | [`surface`] | which API family is this path? | pure |
//! | [`account`] | whose token does it carry, and does that one live? | |
//! | [`users`] | which of many users does the caller name? | |
//! | [`headers`] | what is changed in request and response headers? | pure |
//! | [`body`] | how are request bodies streamed, and kept for a repeat? | |
//! | [`read_ahead`] | what must be known of a body before it is sent? | |
//! | [`envelope`] | where does the session go in a SOAP envelope? | pure |
//! | [`splice`] [`inflate`] | how is a body changed while it streams? | pure |
//! | [`cached`] | is the answer kept already, and may this one be? | |
//! | [`in_body`] | how does an answer's body pass? | |
//! | [`upstream`] | how is a call sent, and a connection made? | |
//! | [`pool`] [`streams`] | which connections wait for the next call (HTTP/1.1), or are shared by many (HTTP/2)? | |
//! | [`read_first`] | how is an early answer read although writing failed? | |
//! | [`verdict`] | what does the org's answer say of the token? | pure |
//! | [`watch`] | what does an answer say of the token while it passes? | |
//! | [`probe`] | is a token alive, when an answer leaves it open? | |
//! | [`envelope`] | where does the session go in a SOAP envelope? | pure |
//! | [`limit_info`] | what does `Sforce-Limit-Info` say? | pure |
//! | [`error`] | what do our own errors look like? | pure |
//! | [`record`] | what is counted and logged of a call? | |

pub mod account;
pub mod body;
mod cached;
pub mod envelope;
pub mod error;
pub mod guard;
pub mod handle;
pub mod headers;
pub mod in_body;
pub mod inflate;
pub mod limit_info;
pub mod pool;
pub mod probe;
pub mod read_ahead;
pub mod read_first;
pub mod record;
pub mod splice;
pub mod streams;
pub mod surface;
pub mod upstream;
pub mod users;
pub mod verdict;
pub mod watch;

pub use self::handle::{Door, Proxy};
