//! The resource limits of the process.

use std::fmt;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors that are not connections: standard streams, those of the runtime, listening sockets.
const SPARE: u64 = 32;

/// The limit of open descriptors of this process; `None`: no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Descriptors(Option<u64>);

/// Raises the limit of open descriptors as far as the system allows.
pub fn raise_descriptors() -> Descriptors {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum {
        // If this fails, the old limit stays and is the one reported.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    }
    Descriptors(getrlimit(Resource::Nofile).current)
}

impl Descriptors {
    /// A warning if the limit allows fewer TCP connections than are configured.
    pub fn too_few_for(self, connections: usize) -> Option<String> {
        let needed = u64::try_from(connections).unwrap_or(u64::MAX).saturating_add(SPARE);
        let limit = self.0.filter(|limit| *limit < needed)?;
        let possible = limit.saturating_sub(SPARE);
        Some(format!(
            "the descriptor limit of {limit} leaves room for about {possible} TCP connections, fewer than the \
            {connections} of \
             --max-connections; raise the limit (ulimit -n, LimitNOFILE=) or lower --max-connections"
        ))
    }
}

impl fmt::Display for Descriptors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(limit) => limit.fmt(f),
            None => f.write_str("unlimited"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_low_limit_causes_a_warning_with_both_numbers() {
        let warning = Descriptors(Some(64)).too_few_for(20_000).unwrap();
        assert!(warning.contains("limit of 64 ") && warning.contains("the 20000 of"), "{warning}");
        assert!(Descriptors(Some(20_031)).too_few_for(20_000).is_some());
        assert_eq!(Descriptors(Some(20_032)).too_few_for(20_000), None);
        assert_eq!(Descriptors(None).too_few_for(usize::MAX), None);
    }
}
