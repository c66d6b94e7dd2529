//! The code that a person reads aloud, `7-acorn-bicycle-canal`: what stands before the first dash names the room, what stands
//! after it is the password. This file decides what counts as a code and brings it into its one canonical form.
//!
//! Both sides apply the same form to every code, generated or chosen: ASCII, lower case, surrounding space and trailing marks
//! removed, each run of spaces, dashes and dots one dash. When every part after the nameplate is a word of the list, or its
//! first three letters or more, each becomes that word; otherwise all stay as typed.
//!
//! The password never leaves this machine in any form but as the input of the handshake's PAKE. It is erased when dropped and no
//! `Debug` shows it. Bounds: [`MAX_TYPED`] bytes of input are looked at, one pass over them and one over the list for each part.

mod link;

use diceware_wordlists::Wordlist;
use rand_core::CryptoRng;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::wire::relay::RoomId;

pub use link::{Link, LinkError};

/// The longest input that is looked at, and the longest code, in bytes.
pub const MAX_TYPED: usize = 1024;
/// How many words a generated code has when nobody says otherwise: 31 bits.
pub const DEFAULT_WORDS: u8 = 3;
/// How many words a fresh code can have.
pub const FRESH_WORDS: std::ops::RangeInclusive<u8> = 2..=8;
/// The longest nameplate, in characters.
const MAX_NAMEPLATE: usize = 32;
/// The shortest password of a chosen code in its canonical form, in characters.
const MIN_CHOSEN: usize = 8;
/// How many letters at least stand for a word.
const MIN_PREFIX: usize = 3;
/// Words in the list.
pub(crate) const WORDS: u16 = 1296;

/// A code: where to meet, and what proves that one was invited. `Debug` hides the password.
#[derive(Clone, Debug)]
pub struct Code {
    nameplate: Nameplate,
    password: Password,
}

impl Code {
    /// Reads what a person typed.
    ///
    /// # Errors
    /// The text cannot be a code. Nothing of it went anywhere.
    pub fn parse(typed: &str) -> Result<Self, CodeError> {
        let canonical = canonical(typed)?;
        if canonical.is_empty() {
            return Err(CodeError::Empty);
        }
        let (nameplate, password) = canonical.split_once('-').ok_or(CodeError::NoWords)?;
        let nameplate = Nameplate::parse(nameplate)?;
        if password.is_empty() {
            return Err(CodeError::NoWords);
        }
        let password = expanded(password).unwrap_or_else(|| Zeroizing::new(password.to_owned()));
        if nameplate.0.len().saturating_add(1).saturating_add(password.len()) > MAX_TYPED {
            return Err(CodeError::TooLong);
        }
        Ok(Self { nameplate, password: Password(password) })
    }

    /// Reads a code that the sender's person chose, which must not be too easy to guess.
    ///
    /// # Errors
    /// As [`Code::parse`]; and when fewer than 8 characters follow the first dash, or a single word of the list does.
    pub fn custom(typed: &str) -> Result<Self, CodeError> {
        let code = Self::parse(typed)?;
        if code.password.0.len() < MIN_CHOSEN {
            return Err(CodeError::TooShort);
        }
        if find(&code.password.0).is_some() {
            return Err(CodeError::OneWord);
        }
        Ok(code)
    }

    /// A fresh code of `words` words, each chosen evenly among 1,296 (10.3 bits); fewer than 2 count as 2, more than 8 as 8.
    #[must_use]
    pub fn generate(nameplate: Nameplate, words: u8, rng: &mut impl CryptoRng) -> Self {
        let mut password = Zeroizing::new(String::with_capacity(MAX_TYPED));
        for _ in 0..words.clamp(2, 8) {
            if !password.is_empty() {
                password.push('-');
            }
            password.push_str(random_word(rng));
        }
        Self { nameplate, password: Password(password) }
    }

    /// The part before the first dash.
    #[must_use]
    pub const fn nameplate(&self) -> &Nameplate {
        &self.nameplate
    }

    /// The part after the first dash.
    #[must_use]
    pub const fn password(&self) -> &Password {
        &self.password
    }

    /// The whole code in its canonical form, to be shown to the person who may know it.
    #[must_use]
    pub fn reveal(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::with_capacity(MAX_TYPED));
        text.push_str(&self.nameplate.0);
        text.push('-');
        text.push_str(&self.password.0);
        text
    }
}

/// What names the room: 1 to 32 of `[a-z0-9]`. It is no secret.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Nameplate(String);

impl Nameplate {
    /// The nameplate that a relay allocated: decimal, without leading zeros.
    #[must_use]
    pub fn from_number(number: u32) -> Self {
        Self(number.to_string())
    }

    /// Reads a nameplate in its canonical form.
    ///
    /// # Errors
    /// [`CodeError::Nameplate`] unless it is 1 to 32 of `[a-z0-9]`.
    pub fn parse(text: &str) -> Result<Self, CodeError> {
        let fits = (1..=MAX_NAMEPLATE).contains(&text.len());
        if fits && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit()) {
            Ok(Self(text.to_owned()))
        } else {
            Err(CodeError::Nameplate)
        }
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The relay's name for the room. It is made of the nameplate alone and hides nothing: nameplates can be tried one by one.
    #[must_use]
    pub fn room_id(&self) -> RoomId {
        RoomId(blake3::derive_key("tallow v1 room", self.0.as_bytes()))
    }
}

/// The secret part of a code, in its canonical form. Erased when dropped; `Debug` hides it.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Password(Zeroizing<String>);

impl Password {
    /// The bytes that the PAKE takes (its PRS). Nothing else may be derived from them.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

/// Why a text is no code. The texts say what one looks like and repeat nothing of what was typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CodeError {
    /// Nothing but space and marks.
    #[error("not a valid code: it is empty; a code looks like 7-acorn-bicycle-canal")]
    Empty,
    /// More than [`MAX_TYPED`] bytes.
    #[error("not a valid code: it is longer than 1024 characters; a code looks like 7-acorn-bicycle-canal")]
    TooLong,
    /// A character that is not printable ASCII.
    #[error(
        "not a valid code: only plain letters, digits and signs can be in it; a code looks like 7-acorn-bicycle-canal"
    )]
    Character,
    /// Nothing follows the nameplate: there is no password.
    #[error("not a valid code: no words follow the number; a code looks like 7-acorn-bicycle-canal")]
    NoWords,
    /// What stands before the first dash is no nameplate.
    #[error(
        "not a valid code: 1 to 32 letters or digits stand before the first dash; a code looks like 7-acorn-bicycle-canal"
    )]
    Nameplate,
    /// A chosen password of fewer than 8 characters.
    #[error("this code is too easy to guess: at least 8 characters follow the first dash, as in 7-acorn-bicycle-canal")]
    TooShort,
    /// A chosen password that is one word of the list.
    #[error("this code is too easy to guess: more than one word follows the first dash, as in 7-acorn-bicycle-canal")]
    OneWord,
}

/// The words that begin with the last part of what was typed so far, for a prompt. Nothing for the nameplate.
#[must_use]
pub fn complete(typed: &str) -> Vec<&'static str> {
    if typed.len() > MAX_TYPED {
        return Vec::new();
    }
    match typed.trim_start().rsplit_once(is_separator) {
        Some((before, part)) if !before.is_empty() && !part.is_empty() => {
            let part = Zeroizing::new(part.to_ascii_lowercase());
            list().filter(|word| word.starts_with(part.as_str())).collect()
        }
        _ => Vec::new(),
    }
}

/// The word with this number, for numbers below [`WORDS`].
pub(crate) fn word(number: u16) -> Option<&'static str> {
    list().nth(usize::from(number))
}

/// The words as they are used: without a dash, since a dash separates them.
fn list() -> impl Iterator<Item = &'static str> {
    Wordlist::EffShort2.get_list().iter().map(|&word| if word == "yo-yo" { "yoyo" } else { word })
}

/// Each word with the same probability.
fn random_word(rng: &mut impl CryptoRng) -> &'static str {
    loop {
        // Numbers from 50 × 1,296 up would favour the words at the start of the list.
        let [low, high, ..] = rng.next_u32().to_le_bytes();
        let number = u16::from_le_bytes([low, high]);
        if number < 50 * WORDS
            && let Some(word) = word(number % WORDS)
        {
            return word;
        }
    }
}

/// The one form of a code, its words not yet looked up.
fn canonical(typed: &str) -> Result<Zeroizing<String>, CodeError> {
    if typed.len() > MAX_TYPED {
        return Err(CodeError::TooLong);
    }
    if !typed.bytes().all(|byte| byte.is_ascii_graphic() || byte.is_ascii_whitespace()) {
        return Err(CodeError::Character);
    }
    let bare = typed.trim_start().trim_end_matches(|c: char| is_separator(c) || ",;:!?".contains(c));
    let mut canonical = Zeroizing::new(String::with_capacity(bare.len()));
    for c in bare.chars() {
        if !is_separator(c) {
            canonical.push(c.to_ascii_lowercase());
        } else if !canonical.ends_with('-') {
            canonical.push('-');
        }
    }
    Ok(canonical)
}

/// Space, dash, dot: what people put between words.
const fn is_separator(c: char) -> bool {
    c.is_ascii_whitespace() || matches!(c, '-' | '.')
}

/// Each part as the word of the list that it stands for; `None` when one of them stands for none.
fn expanded(password: &str) -> Option<Zeroizing<String>> {
    // A part of three letters and its dash become at most ten letters and a dash.
    let mut words = Zeroizing::new(String::with_capacity(password.len().saturating_mul(3)));
    for part in password.split('-') {
        if !words.is_empty() {
            words.push('-');
        }
        words.push_str(find(part)?);
    }
    Some(words)
}

/// The word of the list that is the part or begins with it, from three letters up. No two words share their first three.
fn find(part: &str) -> Option<&'static str> {
    if part.len() < MIN_PREFIX { None } else { list().find(|word| word.starts_with(part)) }
}

#[cfg(test)]
#[path = "code_tests.rs"]
mod tests;
