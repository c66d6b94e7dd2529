//! A small file of the state directory whose lines are a name and a value. Other lines are kept unchanged, so that a
//! damaged file, or one of a later version, loses nothing.
//!
//! Bounds: [`MOST_LINES`]; the oldest line is removed first. No states, no timers.

use std::path::{Path, PathBuf};

use crate::state::{self, StoreError};

/// The maximum number of lines.
pub const MOST_LINES: usize = 1000;

/// A file of names and values.
#[derive(Debug)]
pub struct NamedLines {
    dir: PathBuf,
    file: &'static str,
    lines: Vec<String>,
}

impl NamedLines {
    /// Reads the file of a state directory, which need not exist.
    ///
    /// # Errors
    /// The file exists and can't be read.
    pub fn load(dir: &Path, file: &'static str) -> Result<Self, StoreError> {
        Ok(Self { dir: dir.to_owned(), file, lines: read(dir, file)? })
    }

    /// The newest value of this name that `read` can parse.
    pub fn get<T>(&self, name: &str, read: impl Fn(&str) -> Option<T>) -> Option<T> {
        let name = name.to_ascii_lowercase();
        let values = self.lines.iter().rev().filter_map(|line| parse(line)).filter(|(of, _)| *of == name);
        values.into_iter().find_map(|(_, value)| read(value))
    }

    /// Stores this value, or removes the name. `ours` decides whether a value of this name belongs to the caller and is
    /// replaced.
    ///
    /// # Errors
    /// The file could not be written, or the name is invalid.
    pub fn put(&mut self, name: &str, value: Option<&str>, ours: impl Fn(&str) -> bool) -> Result<(), StoreError> {
        let name = name.to_ascii_lowercase();
        if name.is_empty() || name.contains(|c: char| c.is_whitespace() || c.is_control() || c == '#') {
            return Err(StoreError::Content { path: self.path(), why: "not a name of a relay" });
        }
        let _lock = state::lock(&self.dir)?;
        let mut lines = read(&self.dir, self.file)?;
        lines.retain(|line| parse(line).is_none_or(|(of, value)| of != name || !ours(value)));
        if let Some(value) = value {
            lines.push(format!("{name} {value}"));
        }
        lines.drain(..lines.len().saturating_sub(MOST_LINES));
        let mut text = lines.join("\n");
        if !text.is_empty() {
            text.push('\n');
        }
        state::write_private(&self.dir, self.file, text.as_bytes(), false)?;
        self.lines = lines;
        Ok(())
    }

    /// The path of the file.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.dir.join(self.file)
    }
}

fn read(dir: &Path, file: &str) -> Result<Vec<String>, StoreError> {
    let contents = state::read_private(&dir.join(file))?.unwrap_or_default();
    Ok(String::from_utf8_lossy(&contents).lines().map(str::to_owned).collect())
}

fn parse(line: &str) -> Option<(String, &str)> {
    let mut words = line.split_ascii_whitespace();
    let (name, value, None) = (words.next()?, words.next()?, words.next()) else { return None };
    if name.starts_with('#') {
        return None;
    }
    Some((name.to_ascii_lowercase(), value))
}
