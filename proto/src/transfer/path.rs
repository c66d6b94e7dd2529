//! Names: [`RelPath`] is the only way in which a name of the other side becomes a path, [`LinkTarget`] the same for
//! what a symbolic link points to.
//!
//! Decides which names are refused, on every system alike: what leaves the tree (`..`, absolute), control characters,
//! and names that are empty, too long or too deep. Names that only some disks can't hold are valid here (`a:b`, `x\y`,
//! `aux`): the receiver of a name puts it on its disk as [`super::local_names`] gives it, and never as it came. No state,
//! no timers. Bounds: [`MAX_COMPONENT`], [`MAX_PATH`], [`MAX_LEVELS`], [`MAX_TARGET`].

pub use super::component::MAX_COMPONENT;
use super::component::NameRules;
use crate::wire::Untrusted;

/// The longest path, in bytes.
pub const MAX_PATH: usize = 4096;
/// The most components of a path.
pub const MAX_LEVELS: usize = 64;
/// The longest target of a symbolic link, in bytes: what a system with a `PATH_MAX` of 4,096 can hold.
pub const MAX_TARGET: usize = 4095;
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
    /// It starts at a root: `/x`.
    #[error("absolute path")]
    Absolute,
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
        check_text(name, MAX_PATH)?;
        if name.starts_with('/') {
            return Err(PathError::Absolute);
        }
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
        let visible = NameRules::PORTABLE.local(first);
        NameRules::PORTABLE.push_key(visible.as_deref().unwrap_or(first), &mut key);
        let Some(id) = key.strip_prefix(PARTIAL_PREFIX) else { return false };
        let (digest, number) = id.split_once('-').unwrap_or((id, "0"));
        let is_hex = digest.len() == 16 && digest.bytes().all(|digit| digit.is_ascii_hexdigit());
        is_hex && !number.is_empty() && number.bytes().all(|digit| digit.is_ascii_digit())
    }
}

impl std::fmt::Debug for RelPath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.shown().escaped(SHOWN))
    }
}

/// What a symbolic link points to, as it is to be written into the link. Nothing here follows it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkTarget(Box<str>);

/// Why a symbolic link leads, or may lead, out of the tree that it is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LeadsOut {
    /// It starts at a root.
    #[error("link to an absolute path")]
    Absolute,
    /// It climbs above the received tree.
    #[error("link that leaves the received tree")]
    Escapes,
    /// It climbs after it descended, so where it ends can't be known.
    #[error("link with \"..\" after a name")]
    ClimbsLate,
}

impl LinkTarget {
    /// Reads a target as it came: any path without control characters.
    ///
    /// # Errors
    /// It is empty, too long, or has a control character.
    pub fn parse(target: &str) -> Result<Self, PathError> {
        check_text(target, MAX_TARGET)?;
        Ok(Self(target.into()))
    }

    /// Whether the target of the link at `link` is a relative path that stays inside the tree. `..` is allowed only at its
    /// start: since a link's parents in the tree are directories and never links, its climb is then known exactly, whatever
    /// links it passes afterwards.
    ///
    /// # Errors
    /// Why not.
    pub fn stays_inside(&self, link: &RelPath) -> Result<(), LeadsOut> {
        if self.0.starts_with('/') {
            return Err(LeadsOut::Absolute);
        }
        let (mut above, mut descended) = (link.levels().saturating_sub(1), false);
        for component in self.0.split('/') {
            match component {
                "" | "." => {}
                ".." if descended => return Err(LeadsOut::ClimbsLate),
                ".." => above = above.checked_sub(1).ok_or(LeadsOut::Escapes)?,
                _ => descended = true,
            }
        }
        Ok(())
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
fn check_text(text: &str, longest: usize) -> Result<(), PathError> {
    if text.is_empty() {
        return Err(PathError::Empty);
    }
    if text.len() > longest {
        return Err(PathError::TooLong);
    }
    // Plain ASCII is the common case and is judged by bytes; C1 needs the characters.
    let control = if text.is_ascii() {
        text.bytes().position(|byte| byte.is_ascii_control())
    } else {
        text.char_indices().find(|(_, c)| c.is_control()).map(|(at, _)| at)
    };
    control.map_or(Ok(()), |at| Err(PathError::Control(at)))
}

#[cfg(test)]
mod tests;
