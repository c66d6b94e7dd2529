//! Names: [`RelPath`] is the only way in which a name of the other side becomes a path, [`LinkTarget`] the same for
//! what a symbolic link points to.
//!
//! Decides which names are refused, which are changed and reported, and which collide. Refused, on every system alike:
//! what leaves the tree (`..`, absolute, drive, UNC), what names a stream (`:`), backslashes, control characters, and
//! names that are empty, too long or too deep. Odd but harmless names are valid here; [`RelPath::portable`] gives the
//! form that a receiver uses instead. No state, no timers. Bounds: [`MAX_COMPONENT`], [`MAX_PATH`], [`MAX_LEVELS`].

use caseless::Caseless;
use unicode_normalization::UnicodeNormalization;

use crate::wire::Untrusted;
use crate::wire::untrusted::is_invisible;

/// The longest component of a path, in bytes.
pub const MAX_COMPONENT: usize = 255;
/// The longest path, in bytes.
pub const MAX_PATH: usize = 4096;
/// The most components of a path.
pub const MAX_LEVELS: usize = 64;
/// What the name of a directory begins with in which a receiver keeps a transfer that was interrupted.
pub const PARTIAL_PREFIX: &str = ".tallow-";
/// Characters that are shown of a name in a log.
const SHOWN: usize = 200;

/// A relative path of a manifest: one or more components joined by `/`, that stays below the place where it is put.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelPath(Box<str>);

/// Why a name is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PathError {
    /// No name at all.
    #[error("file name empty")]
    Empty,
    /// Nothing between two slashes, or after the last.
    #[error("file name with an empty part")]
    EmptyComponent,
    /// The component `.`.
    #[error("\".\" is not allowed")]
    Dot,
    /// The component `..`.
    #[error("\"..\" is not allowed")]
    DotDot,
    /// It starts at a root: `/x`, `\x`, `\\server\share`.
    #[error("absolute path")]
    Absolute,
    /// It starts with a drive: `C:x`.
    #[error("path with a drive")]
    Drive,
    /// A colon, which names a stream of a file on Windows.
    #[error("\":\" is not allowed (a stream)")]
    Stream,
    /// A backslash, which separates components on Windows.
    #[error("\"\\\" is not allowed")]
    Backslash,
    /// A control character (C0, DEL or C1), at this byte counted from 0.
    #[error("control character at byte {0}")]
    Control(usize),
    /// A component of more than [`MAX_COMPONENT`] bytes.
    #[error("file name too long (more than {MAX_COMPONENT} bytes)")]
    ComponentTooLong,
    /// A path of more than [`MAX_PATH`] bytes.
    #[error("path too long (more than {MAX_PATH} bytes)")]
    TooLong,
    /// More than [`MAX_LEVELS`] components.
    #[error("path too deep (more than {MAX_LEVELS} levels)")]
    TooDeep,
}

impl RelPath {
    /// Reads a name as it came.
    ///
    /// # Errors
    /// The first rule that it breaks.
    pub fn parse(name: &str) -> Result<Self, PathError> {
        check_text(name)?;
        for (level, component) in name.split('/').enumerate() {
            match component {
                "" => return Err(PathError::EmptyComponent),
                "." => return Err(PathError::Dot),
                ".." => return Err(PathError::DotDot),
                _ if component.len() > MAX_COMPONENT => return Err(PathError::ComponentTooLong),
                _ if level >= MAX_LEVELS => return Err(PathError::TooDeep),
                _ => {}
            }
        }
        // The portable form has a byte more for each device name, and must be a path, too.
        if name.len().saturating_add(MAX_LEVELS) > MAX_PATH {
            let lengths = name.split('/').map(|part| portable_component(part).map_or(part.len(), |part| part.len()));
            if lengths.fold(0_usize, |all, len| all.saturating_add(len).saturating_add(1)) > MAX_PATH.saturating_add(1)
            {
                return Err(PathError::TooLong);
            }
        }
        Ok(Self(name.into()))
    }

    /// The path with `/` between its components, to be opened or compared. It is shown only through [`RelPath::shown`].
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The components, at least one.
    pub fn components(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.0.split('/')
    }

    /// The last component.
    #[must_use]
    pub fn name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or_default()
    }

    /// How many components there are: 1 for a name at the top.
    #[must_use]
    pub fn levels(&self) -> usize {
        self.components().count()
    }

    /// For people: everything that a terminal could obey or that could mislead is made visible.
    #[must_use]
    pub fn shown(&self) -> Untrusted {
        Untrusted::new(self.0.clone().into())
    }

    /// The form that a receiver uses and reports, when this one is odd but harmless: a device name of Windows gets a
    /// `_` before it (in the place of its first letter where the name has no room for a byte more), trailing dots and
    /// spaces become `_`, invisible characters go. Each component is changed by itself, so that paths below one
    /// directory stay below one. `None`: it is portable as it stands.
    #[must_use]
    pub fn portable(&self) -> Option<Self> {
        let changed: Vec<_> = self.components().map(portable_component).collect();
        if changed.iter().all(Option::is_none) {
            return None;
        }
        let parts: Vec<_> = self.components().zip(&changed).map(|(part, new)| new.as_deref().unwrap_or(part)).collect();
        Self::parse(&parts.join("/")).ok()
    }

    /// Whether the first component is, on some system, the name of a directory in which a receiver keeps a transfer
    /// that was interrupted: `.tallow-`, 16 hexadecimal digits, and perhaps a dash and a number. Content that came as
    /// such a directory would be taken for what an earlier transfer left.
    #[must_use]
    pub fn is_partial(&self) -> bool {
        let first = self.components().next().unwrap_or_default();
        // No key is longer than its name: all names but a few are judged by their length.
        if first.len() < PARTIAL_PREFIX.len().saturating_add(16) {
            return false;
        }
        let mut key = String::new();
        push_component_key(first, &mut key);
        let Some(id) = key.strip_prefix(PARTIAL_PREFIX) else { return false };
        let (digest, number) = id.split_once('-').unwrap_or((id, "0"));
        let is_hex = digest.len() == 16 && digest.bytes().all(|digit| digit.is_ascii_hexdigit());
        is_hex && !number.is_empty() && number.bytes().all(|digit| digit.is_ascii_digit())
    }

    /// Two paths with one key may be one file on some system: compatible case folding of the canonical decomposition of
    /// the portable form, without what is ignored in comparisons, composed again (Unicode 3.13, D145; UAX #15).
    #[must_use]
    pub fn collision_key(&self) -> String {
        let mut key = String::with_capacity(self.0.len());
        for component in self.components() {
            if !key.is_empty() {
                key.push('/');
            }
            push_component_key(component, &mut key);
        }
        key
    }
}

impl std::fmt::Debug for RelPath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.shown().escaped(SHOWN))
    }
}

/// What a symbolic link points to: a relative path that stays inside the received tree.
///
/// `..` is allowed only at its start. Since a link's parents in the tree are directories and never links, its climb is
/// then known exactly, whatever links it passes afterwards.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkTarget(Box<str>);

/// Why the target of a symbolic link is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LinkError {
    /// The text breaks a rule for names.
    #[error("link target: {0}")]
    Text(#[from] PathError),
    /// It climbs above the received tree.
    #[error("link that leaves the received tree")]
    Escapes,
    /// It climbs after it descended, so where it ends can't be known.
    #[error("link with \"..\" after a name")]
    ClimbsLate,
}

impl LinkTarget {
    /// Reads the target of the link at `link`.
    ///
    /// # Errors
    /// The first rule that it breaks.
    pub fn parse(target: &str, link: &RelPath) -> Result<Self, LinkError> {
        check_text(target)?;
        let (mut above, mut descended) = (link.levels().saturating_sub(1), 0_usize);
        for component in target.split('/') {
            match component {
                "" | "." => {}
                ".." if descended > 0 => return Err(LinkError::ClimbsLate),
                ".." => above = above.checked_sub(1).ok_or(LinkError::Escapes)?,
                _ if component.len() > MAX_COMPONENT => return Err(PathError::ComponentTooLong.into()),
                _ if descended >= MAX_LEVELS => return Err(PathError::TooDeep.into()),
                _ => descended = descended.saturating_add(1),
            }
        }
        Ok(Self(target.into()))
    }

    /// The target as it is to be written into the link.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for LinkTarget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", Untrusted::new(self.0.clone().into()).escaped(SHOWN))
    }
}

/// The rules that hold for names and for targets.
fn check_text(text: &str) -> Result<(), PathError> {
    let mut start = text.bytes();
    match (start.next(), start.next()) {
        (None, _) => return Err(PathError::Empty),
        _ if text.len() > MAX_PATH => return Err(PathError::TooLong),
        // Plain ASCII is the common case and is judged by bytes; C1 needs the characters.
        _ if text.is_ascii() => {
            if let Some(at) = text.bytes().position(|byte| byte.is_ascii_control()) {
                return Err(PathError::Control(at));
            }
        }
        _ => {
            if let Some((at, _)) = text.char_indices().find(|(_, c)| c.is_control()) {
                return Err(PathError::Control(at));
            }
        }
    }
    let mut start = text.bytes();
    match (start.next(), start.next()) {
        (Some(b'/' | b'\\'), _) => Err(PathError::Absolute),
        (Some(letter), Some(b':')) if letter.is_ascii_alphabetic() => Err(PathError::Drive),
        _ if text.contains(':') => Err(PathError::Stream),
        _ if text.contains('\\') => Err(PathError::Backslash),
        _ => Ok(()),
    }
}

/// Appends the collision key of one component.
pub(super) fn push_component_key(component: &str, key: &mut String) {
    let changed = portable_component(component);
    let component = changed.as_deref().unwrap_or(component);
    if component.is_ascii() {
        key.extend(component.chars().map(|c| c.to_ascii_lowercase()));
    } else {
        key.extend(component.chars().filter(|c| !is_ignorable(*c)).nfd().default_case_fold().nfc());
    }
}

/// The portable form of one component, if it differs. The same for every path that the component is
/// in: collision keys rely on it.
fn portable_component(component: &str) -> Option<String> {
    if component.is_ascii() && !component.ends_with(['.', ' ']) && !is_device(component) {
        return None;
    }
    let visible: String = component.chars().filter(|c| !is_misleading(*c)).collect();
    let kept = visible.trim_end_matches(['.', ' ']);
    let mut portable = String::with_capacity(component.len().saturating_add(1));
    let is_device = is_device(kept);
    if is_device {
        portable.push('_');
    }
    // A name at the limit has no room for another byte; there the first letter is replaced,
    // which is ASCII in all device names.
    let is_full = is_device && visible.len() >= MAX_COMPONENT;
    portable.extend(kept.chars().skip(usize::from(is_full)));
    portable.extend(visible.chars().skip(kept.chars().count()).map(|_| '_'));
    if portable.is_empty() {
        portable.push('_');
    }
    (portable != component).then_some(portable)
}

/// Whether Windows takes the name for a device: the part before the first dot, without its trailing spaces, in any case
/// ("Naming Files, Paths, and Namespaces", learn.microsoft.com).
fn is_device(name: &str) -> bool {
    let stem = name.split('.').next().unwrap_or_default().trim_end_matches(' ');
    if ["CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$"].iter().any(|device| stem.eq_ignore_ascii_case(device)) {
        return true;
    }
    let numbered =
        stem.get(..3).is_some_and(|port| port.eq_ignore_ascii_case("COM") || port.eq_ignore_ascii_case("LPT"));
    let mut number = stem.chars().skip(3);
    numbered && matches!((number.next(), number.next()), (Some('0'..='9' | '¹' | '²' | '³'), None))
}

/// Invisible characters that a portable name doesn't have. Variation selectors stay: they only choose a glyph, and
/// names in Japanese or with emoji hold them.
fn is_misleading(c: char) -> bool {
    !c.is_ascii()
        && !matches!(c, '\u{fe00}'..='\u{fe0f}' | '\u{e0100}'..='\u{e01ef}')
        && (is_invisible(c) || is_ignorable(c))
}

/// Default_Ignorable_Code_Point (DerivedCoreProperties.txt, Unicode 16).
fn is_ignorable(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}'
        | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}'
        | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fff8}' | '\u{1bca0}'..='\u{1bca3}'
        | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

#[cfg(test)]
mod tests;
