//! The direct path between two peers: at which addresses each can be reached, and how one of them comes to carry the session.
//!
//! | file | decides |
//! |---|---|
//! | [`candidate`] | which addresses are offered, which of the other side's may be tried, and in which order |

pub mod budget;
pub mod candidate;
pub mod negotiate;
