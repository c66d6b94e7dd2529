//! One component of a name: what it becomes on a disk that can't hold it as it is.
//!
//! Decides the local form of a component by the [`NameRules`] of a disk, the number that it gets beside another one,
//! and the key by which the disk takes two components for one. No state, no timers. Bound: [`MAX_COMPONENT`].

use caseless::Caseless;
use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::is_combining_mark;

use crate::wire::untrusted::is_invisible;

/// The longest component of a path, in bytes.
pub const MAX_COMPONENT: usize = 255;
/// The printable ASCII characters that some disks can't hold.
pub const SPECIAL: [char; 8] = ['"', '*', ':', '<', '>', '?', '\\', '|'];

/// What the names of a disk can't hold, and which names it takes for one. A disk that a receiver knows nothing of gets
/// [`NameRules::PORTABLE`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct NameRules {
    /// Which characters of [`SPECIAL`] it can't hold, in that order.
    pub refused: [bool; SPECIAL.len()],
    /// It can't hold a dot at the end of a component.
    pub no_trailing_dot: bool,
    /// It can't hold a space at the end of a component.
    pub no_trailing_space: bool,
    /// It can't hold the names of devices of Windows (`aux`, `con.txt`).
    pub no_devices: bool,
    /// It takes names for one that differ in case only.
    pub folds_case: bool,
    /// It takes names for one that differ in their Unicode normalisation only.
    pub normalizes: bool,
    /// It takes names for one that differ in invisible characters only.
    pub ignores_invisible: bool,
    /// The longest component, in bytes.
    pub longest: usize,
    /// Invisible characters stay in names, even where they mislead. This is a wish of the user: all disks hold them.
    pub keeps_invisible: bool,
}

impl NameRules {
    /// The disk holds every name, and no two are one: an ordinary file system of Linux.
    pub const EXACT: Self = Self {
        refused: [false; SPECIAL.len()],
        no_trailing_dot: false,
        no_trailing_space: false,
        no_devices: false,
        folds_case: false,
        normalizes: false,
        ignores_invisible: false,
        longest: MAX_COMPONENT,
        keeps_invisible: false,
    };

    /// Every system can hold the names, side by side.
    pub const PORTABLE: Self = Self {
        refused: [true; SPECIAL.len()],
        no_trailing_dot: true,
        no_trailing_space: true,
        no_devices: true,
        folds_case: true,
        normalizes: true,
        ignores_invisible: true,
        longest: MAX_COMPONENT,
        keeps_invisible: false,
    };

    /// Whether two different components can be one name.
    #[must_use]
    pub const fn folds(&self) -> bool {
        self.folds_case || self.normalizes || self.ignores_invisible
    }

    /// The local form of a component, if it differs: characters that the disk can't hold, and dots and spaces at the
    /// end, become `_`; a name that is too long is cut before its extension; a device name of Windows gets a `_` before
    /// it (in the place of its first letter where there is no room for a byte more); invisible characters go, except
    /// those that are part of writing ([`is_misleading`]). It is the same for every path that the component is in.
    #[must_use]
    pub fn local(&self, component: &str) -> Option<String> {
        if self.holds_plainly(component) {
            return None;
        }
        let mut local = String::with_capacity(component.len().saturating_add(1));
        let mut before = None;
        let mut chars = component.chars().peekable();
        while let Some(c) = chars.next() {
            if self.keeps_invisible || !is_misleading(before, c, chars.peek().copied()) {
                local.push(if self.refuses(c) { '_' } else { c });
            }
            before = Some(c);
        }
        if local.len() > self.longest {
            local = joined(&local, "", false, self.longest);
        }
        let kept =
            local.trim_end_matches(|c| (c == '.' && self.no_trailing_dot) || (c == ' ' && self.no_trailing_space));
        let ending = local.len().saturating_sub(kept.len());
        local.truncate(kept.len());
        local.extend(std::iter::repeat_n('_', ending));
        if self.no_devices && is_device(&local) {
            // The first letter of every device name is ASCII.
            let replaced = usize::from(local.len() >= self.longest);
            local.replace_range(..replaced, "_");
        }
        // What went can leave a name that is none, or that leads out of its directory.
        if matches!(local.as_str(), "" | "." | "..") {
            local = "_".repeat(local.len().max(1));
        }
        (local != component).then_some(local)
    }

    /// Whether a component needs no second look. Most need none.
    fn holds_plainly(&self, component: &str) -> bool {
        component.is_ascii()
            && component.len() <= self.longest
            && !component.chars().any(|c| self.refuses(c))
            && !(self.no_trailing_dot && component.ends_with('.'))
            && !(self.no_trailing_space && component.ends_with(' '))
            && !(self.no_devices && is_device(component))
    }

    fn refuses(&self, c: char) -> bool {
        SPECIAL.iter().zip(self.refused).any(|(special, refused)| refused && *special == c)
    }

    /// Appends the key of a local component: two with one key are one name on this disk. The folding is that of Unicode
    /// (compatible case folding, canonical decomposition; D145 of its section 3.13, UAX #15), and no disk folds more:
    /// some that fold less could hold two of these names.
    pub(super) fn push_key(&self, component: &str, key: &mut String) {
        if component.is_ascii() {
            key.extend(component.chars().map(|c| if self.folds_case { c.to_ascii_lowercase() } else { c }));
            return;
        }
        let seen = component.chars().filter(|c| !(self.ignores_invisible && is_ignorable(*c)));
        match (self.folds_case, self.normalizes) {
            (true, true) => key.extend(seen.nfd().default_case_fold().nfc()),
            (true, false) => key.extend(seen.default_case_fold()),
            (false, true) => key.extend(seen.nfc()),
            (false, false) => key.extend(seen),
        }
    }
}

/// Adds a number before the extension, as in `name (2).txt`, and shortens the name to `longest` bytes if necessary.
#[must_use]
pub fn numbered(name: &str, number: u32, is_dir: bool, longest: usize) -> String {
    joined(name, &format!(" ({number})"), is_dir, longest)
}

/// Puts `number` between stem and extension, and cuts the stem.
fn joined(name: &str, number: &str, is_dir: bool, longest: usize) -> String {
    let packed = [".gz", ".xz", ".zst"].iter().find_map(|ending| name.strip_suffix(ending));
    let dot = |name: &str| name.rfind('.').filter(|dot| *dot > 0 && !is_dir);
    let inner = packed.and_then(|name| dot(name).filter(|dot| name.get(*dot..) == Some(".tar")));
    let (stem, extension) = name.split_at_checked(inner.or(dot(name)).unwrap_or(name.len())).unwrap_or((name, ""));
    let has_room = number.len().saturating_add(extension.len()) < longest;
    let (stem, extension) = if has_room { (stem, extension) } else { (name, "") };
    let room = longest.saturating_sub(number.len()).saturating_sub(extension.len());
    let stem = stem.get(..stem.floor_char_boundary(room)).unwrap_or_default();
    format!("{stem}{number}{extension}")
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

/// Whether a character is invisible and not part of writing, so that a local name doesn't have it. Variation selectors
/// stay: they choose a glyph, and names in Japanese or with emoji hold them. A joiner (U+200C, U+200D) stays between
/// letters, digits, marks or emoji: Persian, the scripts of India and families of emoji are written with it.
#[must_use]
pub(crate) fn is_misleading(before: Option<char>, c: char, after: Option<char>) -> bool {
    if c.is_ascii() || is_variation(c) {
        return false;
    }
    if matches!(c, '\u{200c}' | '\u{200d}') {
        return !(before.is_some_and(can_be_joined) && after.is_some_and(can_be_joined));
    }
    is_invisible(c) || is_ignorable(c)
}

const fn is_variation(c: char) -> bool {
    matches!(c, '\u{fe00}'..='\u{fe0f}' | '\u{e0100}'..='\u{e01ef}')
}

/// Whether a joiner can stand beside this character.
fn can_be_joined(c: char) -> bool {
    // Emoji, by blocks: arrows to dingbats and supplementary symbols, and the few elsewhere.
    let is_emoji = matches!(c, '\u{2190}'..='\u{2bff}' | '\u{1f000}'..='\u{1faff}' | '\u{a9}' | '\u{ae}' | '\u{203c}'
        | '\u{2049}' | '\u{2122}' | '\u{3030}' | '\u{303d}' | '\u{3297}' | '\u{3299}');
    let is_seen = !is_ignorable(c) || is_variation(c);
    is_seen && (c.is_alphanumeric() || is_combining_mark(c) || is_emoji || is_variation(c))
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
