//! Bytes as a list of steps: a tag, a 16-bit length (big-endian), a body. Any byte string is such a list; the last
//! body may be short.

/// The steps.
pub fn steps(mut data: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    std::iter::from_fn(move || {
        let (&[tag, high, low], rest) = data.split_first_chunk::<3>()?;
        let (body, rest) = rest.split_at(usize::from(u16::from_be_bytes([high, low])).min(rest.len()));
        data = rest;
        Some((tag, body))
    })
}

/// One step.
///
/// # Panics
/// The body is too long for its length field.
#[must_use]
pub fn step(tag: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len()).expect("a short body");
    [&[tag], &length.to_be_bytes()[..], body].concat()
}

/// A failure that is compiled in with `TALLOW_FUZZ_CANARY`: `.ci/fuzz` checks that the fuzzer finds it.
///
/// # Panics
/// The fuzzer has found it.
pub fn canary(found: bool) {
    assert!(!(found && option_env!("TALLOW_FUZZ_CANARY").is_some()), "the canary was found");
}
