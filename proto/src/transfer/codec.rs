//! zstd (RFC 8878), which is written in C, with the feature `zstd`. Without the feature no chunk is compressed, and a
//! compressed chunk can't be opened.

#[cfg(not(feature = "zstd"))]
pub(super) use absent::{Compressor, Decompressor};
#[cfg(feature = "zstd")]
pub(super) use zstd::bulk::{Compressor, Decompressor};

#[cfg(not(feature = "zstd"))]
mod absent {
    use std::convert::Infallible;
    use std::marker::PhantomData;

    /// This build has no zstd.
    #[derive(Debug)]
    pub(in crate::transfer) struct Absent;

    /// Has no values, because this build has no zstd.
    pub(in crate::transfer) struct Compressor<'a>(Infallible, PhantomData<&'a ()>);

    /// Has no values, because this build has no zstd.
    pub(in crate::transfer) struct Decompressor<'a>(Infallible, PhantomData<&'a ()>);

    impl Compressor<'_> {
        pub const fn new(_: i32) -> Result<Self, Absent> {
            Err(Absent)
        }
        pub const fn set_compression_level(&mut self, _: i32) -> Result<(), Absent> {
            match self.0 {}
        }
        pub const fn compress_to_buffer(&mut self, _: &[u8], _: &mut Vec<u8>) -> Result<usize, Absent> {
            match self.0 {}
        }
    }

    impl Decompressor<'_> {
        pub const fn new() -> Result<Self, Absent> {
            Err(Absent)
        }
        pub const fn decompress_to_buffer(&mut self, _: &[u8], _: &mut [u8]) -> Result<usize, Absent> {
            match self.0 {}
        }
    }
}
