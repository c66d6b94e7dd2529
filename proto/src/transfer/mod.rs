//! A transfer: one manifest and one virtual byte stream, moved in chunks.

mod collision;
pub mod layout;
pub mod manifest;
pub mod path;
