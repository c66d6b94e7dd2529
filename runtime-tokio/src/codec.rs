//! The protocol's frames and messages as a [`tokio_util::codec`], for applications with their own transport.
//!
//! The messages on a stream of a link change their types: first those of a client and a relay, then those of the
//! handshake of two peers, then sealed records. So the codec is generic over the types of both directions, and
//! [`TallowCodec::turn_into`] changes them, keeping bytes that arrived early:
//!
//! ```
//! # use bytes::Bytes;
//! # use tallow_proto::wire::{ClientMessage, HandshakeMessage, RelayMessage};
//! # use tallow_tokio::codec::TallowCodec;
//! # use tokio_util::codec::Framed;
//! # let (stream, _) = tokio::io::duplex(64);
//! let talk_to_relay = Framed::new(stream, TallowCodec::<ClientMessage, RelayMessage>::new());
//! // …until `RelayMessage::Paired` arrived:
//! let handshake = talk_to_relay.map_codec(|codec| codec.turn_into::<HandshakeMessage, HandshakeMessage>());
//! // …and once both sides have the keys:
//! let records = handshake.map_codec(|codec| codec.turn_into::<Bytes, Bytes>());
//! ```

use std::io;
use std::marker::PhantomData;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tallow_proto::wire::frame::{
    CHUNK, CONTROL, Caps, Decoder as FrameDecoder, Frame, GREETING, KIND_CHUNK, KIND_CONTROL, PREFIX,
};
use tallow_proto::wire::{self, ClientMessage, HandshakeMessage, RelayMessage, Violation};
use tokio_util::codec::{Decoder, Encoder};

/// Why a stream can't be used any further.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CodecError {
    /// The transport failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The other side violated the protocol.
    #[error(transparent)]
    Violation(#[from] Violation),
    /// The stream ended within a frame.
    #[error("the stream ended in the middle of a message")]
    Truncated,
    /// The current frame type does not allow this message. None of its bytes were written.
    #[error("not a message that can be sent")]
    Unsendable,
}

/// A type that a frame can contain.
pub trait Body: Sized {
    /// The limit of its length.
    const CAPS: Caps;
    /// Its bytes.
    fn into_bytes(self) -> Bytes;
    /// Decodes it.
    ///
    /// # Errors
    /// The bytes are not a valid encoding.
    fn from_frame(frame: Frame) -> Result<Self, Violation>;
}

macro_rules! message {
    ($($message:ty),*) => { $(
        impl Body for $message {
            const CAPS: Caps = Caps::Greeting;
            fn into_bytes(self) -> Bytes {
                wire::encode(&self).into()
            }
            fn from_frame(frame: Frame) -> Result<Self, Violation> {
                wire::decode(&frame.into_bytes()).map_err(|_| Violation::Malformed)
            }
        }
    )* };
}

message!(ClientMessage, RelayMessage, HandshakeMessage);

/// A sealed record: header, ciphertext and tag.
impl Body for Bytes {
    const CAPS: Caps = Caps::Records;
    fn into_bytes(self) -> Bytes {
        self
    }
    fn from_frame(frame: Frame) -> Result<Self, Violation> {
        Ok(frame.into_bytes())
    }
}

/// Writes `Out` and reads `In`, each in a frame.
#[derive(Debug)]
pub struct TallowCodec<Out, In>(PhantomData<fn(Out) -> In>);

impl<Out: Body, In: Body> TallowCodec<Out, In> {
    /// A codec for these types.
    #[must_use]
    pub const fn new() -> Self {
        Self(PhantomData)
    }

    /// Continues the same stream with other types. Bytes that arrived and were not decoded are decoded as the new
    /// type.
    #[must_use]
    pub const fn turn_into<NextOut: Body, NextIn: Body>(self) -> TallowCodec<NextOut, NextIn> {
        TallowCodec::new()
    }
}

impl<Out: Body, In: Body> Default for TallowCodec<Out, In> {
    fn default() -> Self {
        Self::new()
    }
}

impl<Out: Body, In> Encoder<Out> for TallowCodec<Out, In> {
    type Error = CodecError;

    fn encode(&mut self, message: Out, dst: &mut BytesMut) -> Result<(), CodecError> {
        let body = message.into_bytes();
        let most = match (Out::CAPS, body.first()) {
            (_, None) => 0,
            (Caps::Greeting, Some(_)) => GREETING,
            (Caps::Records, Some(&KIND_CONTROL)) => CONTROL,
            (Caps::Records, Some(&KIND_CHUNK)) => CHUNK,
            (Caps::Records, Some(_)) => 0,
        };
        let prefix = u32::try_from(body.len()).map_err(|_| CodecError::Unsendable)?;
        if body.is_empty() || body.len() > most {
            return Err(CodecError::Unsendable);
        }
        dst.reserve(PREFIX + body.len());
        dst.put_u32(prefix);
        dst.put(body);
        Ok(())
    }
}

impl<Out, In: Body> Decoder for TallowCodec<Out, In> {
    type Item = In;
    type Error = CodecError;

    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<In>, CodecError> {
        // The length is checked before it is used, and no memory is reserved for it. Bytes after the frame stay in
        // `src`: the next codec may need them.
        let mut judge = FrameDecoder::new(In::CAPS);
        let head = src.len().min(PREFIX + 1);
        judge.push(Bytes::copy_from_slice(&src[..head]));
        let frame = match (judge.next_frame()?, src.first_chunk::<PREFIX>()) {
            (Some(frame), _) => {
                src.advance(head);
                frame
            }
            (None, Some(&prefix)) if head > PREFIX => {
                let len = PREFIX + u32::from_be_bytes(prefix) as usize;
                if src.len() < len {
                    return Ok(None);
                }
                Frame::from(src.split_to(len).split_off(PREFIX).freeze())
            }
            (None, _) => return Ok(None),
        };
        Ok(Some(In::from_frame(frame)?))
    }

    fn decode_eof(&mut self, src: &mut BytesMut) -> Result<Option<In>, CodecError> {
        match self.decode(src)? {
            None if !src.is_empty() => Err(CodecError::Truncated),
            message => Ok(message),
        }
    }
}
