//! The code that a user reads aloud, `7-acorn-bicycle-canal`: the nameplate before the first dash names the room, the
//! rest is the password. This module parses codes and brings them into their one canonical form.
//!
//! Both sides bring every code, generated or chosen, into the same form: ASCII, lower case, without surrounding space
//! and trailing punctuation, and with one dash for each run of spaces, dashes and dots. If every part after the
//! nameplate is a word of the list, or a prefix of one with at least three letters, each part is replaced by its word;
//! otherwise all parts stay as typed.
//!
//! The password is used only as the input of the handshake's PAKE and is never sent. It is erased when dropped, and no
//! `Debug` shows it. Bounds: at most [`MAX_TYPED`] bytes of input, one pass over them, and one pass over the list for
//! each part.

mod link;

use diceware_wordlists::Wordlist;
use rand_core::CryptoRng;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::wire::relay::RoomId;

pub use link::{Link, LinkError};

/// Maximum length of the input, and of a code, in bytes.
pub const MAX_TYPED: usize = 1024;
/// Default number of words of a generated code: 31 bits.
pub const DEFAULT_WORDS: u8 = 3;
/// How many words a generated code can have.
pub const FRESH_WORDS: std::ops::RangeInclusive<u8> = 2..=8;
/// Maximum length of a nameplate, in characters.
const MAX_NAMEPLATE: usize = 32;
/// Minimum length of a chosen code's password in its canonical form, in characters.
const MIN_CHOSEN: usize = 8;
/// Minimum length of a prefix that stands for a word.
const MIN_PREFIX: usize = 3;
/// Number of words in the list.
pub(crate) const WORDS: u16 = 1296;

/// A code: the nameplate of the room in which the peers meet, and the password that they prove. `Debug` hides the
/// password.
#[derive(Clone, Debug)]
pub struct Code {
    nameplate: Nameplate,
    password: Password,
}

impl Code {
    /// Parses a code that a user typed.
    ///
    /// # Errors
    /// [`CodeError`] if the text is not a code. Nothing was sent in this case.
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

    /// Parses a code that the sender's user chose, which must not be too easy to guess.
    ///
    /// # Errors
    /// As [`Code::parse`]; also if the password has fewer than 8 characters or is a single word of the list.
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

    /// Generates a code of `words` words (clamped to 2..=8), each drawn uniformly from 1,296 (10.3 bits).
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

    /// The whole code in its canonical form. Show it only to the user.
    #[must_use]
    pub fn reveal(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::with_capacity(MAX_TYPED));
        text.push_str(&self.nameplate.0);
        text.push('-');
        text.push_str(&self.password.0);
        text
    }
}

/// The public part of a code, which names the room: 1 to 32 characters of `[a-z0-9]`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Nameplate(String);

impl Nameplate {
    /// The nameplate that a relay allocated: decimal, without leading zeros.
    #[must_use]
    pub fn from_number(number: u32) -> Self {
        Self(number.to_string())
    }

    /// Parses a nameplate in its canonical form.
    ///
    /// # Errors
    /// [`CodeError::Nameplate`] unless the text has 1 to 32 characters of `[a-z0-9]`.
    pub fn parse(text: &str) -> Result<Self, CodeError> {
        let fits = (1..=MAX_NAMEPLATE).contains(&text.len());
        if fits && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit()) {
            Ok(Self(text.to_owned()))
        } else {
            Err(CodeError::Nameplate)
        }
    }

    /// The nameplate as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name of the room at the relay. It is a hash of the nameplate alone and not a secret: all nameplates can be
    /// enumerated.
    #[must_use]
    pub fn room_id(&self) -> RoomId {
        RoomId(blake3::derive_key("tallow v1 room", self.0.as_bytes()))
    }
}

/// The secret part of a code, in its canonical form. Erased when dropped; `Debug` hides it.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Password(Zeroizing<String>);

impl Password {
    /// The PAKE's password input (PRS). No other value may be derived from it.
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

/// Why a text is not a valid code. The messages show an example and repeat no part of the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CodeError {
    /// The text has only spaces and punctuation.
    #[error("not a valid code: it is empty; a code looks like 7-acorn-bicycle-canal")]
    Empty,
    /// The text is longer than [`MAX_TYPED`] bytes.
    #[error("not a valid code: it is longer than 1024 characters; a code looks like 7-acorn-bicycle-canal")]
    TooLong,
    /// The text contains a character that is not printable ASCII.
    #[error(
        "not a valid code: only ASCII letters, digits and signs are allowed; a code looks like 7-acorn-bicycle-canal"
    )]
    Character,
    /// No password follows the nameplate.
    #[error("not a valid code: no words follow the number; a code looks like 7-acorn-bicycle-canal")]
    NoWords,
    /// The text before the first dash is not a nameplate.
    #[error(
        "not a valid code: 1 to 32 letters or digits stand before the first dash; a code looks like \
        7-acorn-bicycle-canal"
    )]
    Nameplate,
    /// The chosen password has fewer than 8 characters.
    #[error("this code is too easy to guess: at least 8 characters follow the first dash, as in 7-acorn-bicycle-canal")]
    TooShort,
    /// The chosen password is one word of the list.
    #[error("this code is too easy to guess: more than one word follows the first dash, as in 7-acorn-bicycle-canal")]
    OneWord,
}

/// Completions for a prompt: the words that begin with the last part of the input. Empty while the user types the
/// nameplate.
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

/// The word with this index, for indices below [`WORDS`].
pub(crate) fn word(number: u16) -> Option<&'static str> {
    list().nth(usize::from(number))
}

/// The words of the list. They contain no dash, because a dash separates the words of a code.
fn list() -> impl Iterator<Item = &'static str> {
    Wordlist::EffShort2.get_list().iter().map(|&word| if word == "yo-yo" { "yoyo" } else { word })
}

/// Draws a word uniformly.
fn random_word(rng: &mut impl CryptoRng) -> &'static str {
    loop {
        // Rejects numbers from 50 × 1,296 up, which would favour the words at the start of the list.
        let [low, high, ..] = rng.next_u32().to_le_bytes();
        let number = u16::from_le_bytes([low, high]);
        if number < 50 * WORDS
            && let Some(word) = word(number % WORDS)
        {
            return word;
        }
    }
}

/// The canonical form of a code before its words are looked up.
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

/// Whether the character separates words: a space, dash or dot.
const fn is_separator(c: char) -> bool {
    c.is_ascii_whitespace() || matches!(c, '-' | '.')
}

/// Replaces each part by the word of the list that it stands for; `None` if a part stands for no word.
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

/// The word of the list that begins with `part`, which must have at least three letters. No two words share their first
/// three.
fn find(part: &str) -> Option<&'static str> {
    if part.len() < MIN_PREFIX { None } else { list().find(|word| word.starts_with(part)) }
}

#[cfg(test)]
mod tests;
