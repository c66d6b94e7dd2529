//! The wire format: frames, versions, and the messages between client and relay and between two peers.
//!
//! The body of a frame is a postcard-encoded value in its one canonical form. postcard itself accepts overlong varints
//! and ignores bytes behind a value; [`decode`] refuses both.
//!
//! The enums of messages are exhaustive: who speaks a version of the protocol has to know all of its messages. Reasons
//! are not: a program can show one that it does not know.

#[cfg(feature = "internals")]
pub mod candidate;
#[cfg(not(feature = "internals"))]
pub(crate) mod candidate;
#[cfg(feature = "internals")]
pub mod close;
#[cfg(not(feature = "internals"))]
pub(crate) mod close;
pub mod frame;
#[cfg(feature = "internals")]
pub mod peer;
#[cfg(not(feature = "internals"))]
pub(crate) mod peer;
#[cfg(feature = "internals")]
pub mod relay;
#[cfg(not(feature = "internals"))]
pub(crate) mod relay;
#[cfg(feature = "internals")]
pub mod relay_auth;
#[cfg(not(feature = "internals"))]
pub(crate) mod relay_auth;
#[cfg(feature = "internals")]
pub mod untrusted;
#[cfg(not(feature = "internals"))]
pub(crate) mod untrusted;
#[cfg(feature = "internals")]
pub mod version;
#[cfg(not(feature = "internals"))]
pub(crate) mod version;
mod violation;

use serde::{Serialize, de::DeserializeOwned};

#[cfg(feature = "internals")]
pub use frame::{Caps, Decoder, Frame};
#[cfg(not(feature = "internals"))]
pub(crate) use frame::{Caps, Decoder, Frame};
pub use peer::{HandshakeMessage, Mode};
pub use relay::{ClientMessage, Former, Owner, RefusalReason, RelayMessage, Role, RoomId};
pub use untrusted::{Untrusted, is_harmless};
pub use version::{Features, Hello, SPOKEN, Versions};
pub use violation::Violation;

/// The bytes are not the one canonical encoding of an allowed message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed message")]
pub struct Malformed;

/// The canonical encoding of a message.
#[must_use]
pub fn encode<T: Serialize>(message: &T) -> Vec<u8> {
    // Encoding fails only if the `Serialize` of a type fails, and the wire types are plain data.
    postcard::to_allocvec(message).unwrap_or_default()
}

/// Decodes exactly one message: no bytes may follow it, and [`encode`] must give the same bytes.
///
/// # Errors
/// [`Malformed`] for all other input.
pub fn decode<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> Result<T, Malformed> {
    let (message, rest) = postcard::take_from_bytes::<T>(bytes).map_err(|_| Malformed)?;
    if rest.is_empty() && encode(&message) == bytes { Ok(message) } else { Err(Malformed) }
}

/// A list of at most `MAX` items. The decoder checks the count before it allocates memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BoundedVec<T, const MAX: usize>(Vec<T>);

impl<T, const MAX: usize> BoundedVec<T, MAX> {
    /// Wraps the list if it is not too long.
    ///
    /// # Errors
    /// Returns the list if it has more than `MAX` items.
    pub fn new(items: Vec<T>) -> Result<Self, Vec<T>> {
        if items.len() <= MAX { Ok(Self(items)) } else { Err(items) }
    }

    /// Wraps the first `MAX` items of the list.
    #[must_use]
    pub fn truncated(mut items: Vec<T>) -> Self {
        items.truncate(MAX);
        Self(items)
    }

    /// The items.
    #[must_use]
    pub fn as_slice(&self) -> &[T] {
        &self.0
    }

    /// The items, by value.
    #[must_use]
    pub fn into_vec(self) -> Vec<T> {
        self.0
    }
}

impl<T, const MAX: usize> Default for BoundedVec<T, MAX> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: Serialize, const MAX: usize> Serialize for BoundedVec<T, MAX> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de, T: serde::Deserialize<'de>, const MAX: usize> serde::Deserialize<'de> for BoundedVec<T, MAX> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor<T, const MAX: usize>(std::marker::PhantomData<T>);
        impl<'de, T: serde::Deserialize<'de>, const MAX: usize> serde::de::Visitor<'de> for Visitor<T, MAX> {
            type Value = BoundedVec<T, MAX>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, "at most {MAX} items")
            }
            fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                if seq.size_hint().is_some_and(|claimed| claimed > MAX) {
                    return Err(serde::de::Error::custom("too many items"));
                }
                let mut items = Vec::new();
                while let Some(item) = seq.next_element()? {
                    if items.len() == MAX {
                        return Err(serde::de::Error::custom("too many items"));
                    }
                    items.push(item);
                }
                Ok(BoundedVec(items))
            }
        }
        deserializer.deserialize_seq(Visitor(std::marker::PhantomData))
    }
}

/// Raw bytes, at most `MAX` of them.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Blob<const MAX: usize>(pub bytes::Bytes);

impl<const MAX: usize> std::fmt::Debug for Blob<MAX> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Blob({} bytes)", self.0.len())
    }
}

impl<const MAX: usize> Serialize for Blob<MAX> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de, const MAX: usize> serde::Deserialize<'de> for Blob<MAX> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor<const MAX: usize>;
        impl<const MAX: usize> serde::de::Visitor<'_> for Visitor<MAX> {
            type Value = Blob<MAX>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, "at most {MAX} bytes")
            }
            fn visit_bytes<E: serde::de::Error>(self, bytes: &[u8]) -> Result<Self::Value, E> {
                if bytes.len() > MAX {
                    return Err(E::custom("too many bytes"));
                }
                Ok(Blob(bytes::Bytes::copy_from_slice(bytes)))
            }
        }
        deserializer.deserialize_bytes(Visitor)
    }
}
