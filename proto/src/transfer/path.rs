//! Names: a name from the other side becomes a path only as a [`RelPath`], and the target of a symbolic link only as
//! a [`LinkTarget`].
//!
//! It decides which names are refused, on every system: names that leave the tree (`..`, absolute), contain control
//! characters, or are empty, too long or too deep. Names that only some disks can't hold are valid here (`a:b`, `x\y`,
//! `aux`): a receiver stores an entry under the name that [`super::local_names`] gives it. No state, no timers. Bounds:
//! [`MAX_COMPONENT`], [`MAX_PATH`], [`MAX_LEVELS`], [`MAX_TARGET`].

pub use super::component::MAX_COMPONENT;
use super::component::NameRules;
use crate::wire::Untrusted;

/// The longest path, in bytes.
pub const MAX_PATH: usize = 4096;
/// The largest number of components of a path.
pub const MAX_LEVELS: usize = 64;
/// The maximum length of the target of a symbolic link, in bytes: what a system with a `PATH_MAX` of 4,096 allows.
pub const MAX_TARGET: usize = 4095;
/// The prefix of a directory in which a receiver keeps an interrupted transfer.
pub const PARTIAL_PREFIX: &str = ".tallow-";
/// How many characters of a name are shown in a log.
const SHOWN: usize = 200;

/// A relative path of a manifest: one or more components joined by `/`. It can't leave the directory that it is
/// joined to.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelPath(Box<str>);

/// Why a name is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PathError {
    /// No name at all.
    #[error("file name empty")]
    Empty,
    /// A component without characters: between two slashes, or after the last one.
    #[error("file name with an empty part")]
    EmptyComponent,
    /// The component `.`.
    #[error("\".\" is not allowed")]
    Dot,
    /// The component `..`.
    #[error("\"..\" is not allowed")]
    DotDot,
    /// The path starts at a root: `/x`.
    #[error("absolute path")]
    Absolute,
    /// A control character (C0, DEL or C1) at this byte, counted from 0.
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
    /// Parses a name as it was received.
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

    /// The path with `/` between its components, for opening and comparing. Display it only through
    /// [`RelPath::shown`].
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

    /// The name for display: characters that a terminal could interpret or that could mislead are made visible.
    #[must_use]
    pub fn shown(&self) -> Untrusted {
        Untrusted::new(self.0.clone().into())
    }

    /// Whether the first component is, on some system, the name of a directory in which a receiver keeps an
    /// interrupted transfer: `.tallow-`, 16 hexadecimal digits, and optionally a dash and a number. A received
    /// directory of that name would be mistaken for the remains of an earlier transfer.
    #[must_use]
    pub fn is_partial(&self) -> bool {
        let first = self.components().next().unwrap_or_default();
        // No key is longer than its name, so the length alone decides for almost all names.
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

/// The target of a symbolic link, as it is written into the link. It is never followed here.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkTarget(Box<str>);

/// Why a symbolic link leads, or may lead, out of the tree that it is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LeadsOut {
    /// It starts at a root: `/x`.
    #[error("link to an absolute path")]
    Absolute,
    /// It leaves the received tree.
    #[error("link that leaves the received tree")]
    Escapes,
    /// It has `..` after a name, so the place where it ends can't be known.
    #[error("link with \"..\" after a name")]
    ClimbsLate,
}

impl LinkTarget {
    /// Parses a target: any path without control characters.
    ///
    /// # Errors
    /// It is empty or too long, or contains a control character.
    pub fn parse(target: &str) -> Result<Self, PathError> {
        check_text(target, MAX_TARGET)?;
        Ok(Self(target.into()))
    }

    /// Whether the target of the link at `link` is a relative path that stays inside the tree. `..` is allowed only at
    /// its start: the parents of a link in the tree are directories and never links, so the number of levels that the
    /// target goes up is known exactly, whatever links it goes through afterwards.
    ///
    /// # Errors
    /// The reason, if it leads out or may lead out.
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

    /// The target as it is written into the link.
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

/// The rules that apply to names and to targets.
fn check_text(text: &str, longest: usize) -> Result<(), PathError> {
    if text.is_empty() {
        return Err(PathError::Empty);
    }
    if text.len() > longest {
        return Err(PathError::TooLong);
    }
    // Plain ASCII is the common case and is checked byte by byte; C1 needs the characters.
    let control = if text.is_ascii() {
        text.bytes().position(|byte| byte.is_ascii_control())
    } else {
        text.char_indices().find(|(_, c)| c.is_control()).map(|(at, _)| at)
    };
    control.map_or(Ok(()), |at| Err(PathError::Control(at)))
}

#[cfg(test)]
mod tests;
