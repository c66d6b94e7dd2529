//! Child processes and their resource usage: CPU seconds and peak memory, read from /proc.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// The resource usage of a process.
#[derive(Debug, Clone, Copy, Default)]
pub struct Usage {
    /// User and system, in seconds (steps of 10 ms).
    pub cpu: f64,
    /// Largest resident set, in MiB.
    pub peak_mib: f64,
}

/// A running child.
pub struct Process {
    child: Child,
    usage: Usage,
    lines: Option<BufReader<Box<dyn Read + Send>>>,
}

impl Process {
    /// Starts it; its standard error can be read by line.
    pub fn start(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let stderr: Option<Box<dyn Read + Send>> = child.stderr.take().map(|pipe| Box::new(pipe) as _);
        Self { child, usage: Usage::default(), lines: stderr.map(BufReader::new) }
    }

    /// Reads its standard error up to a line that contains `mark`, and returns the rest of that line.
    pub fn wait_for(&mut self, mark: &str) -> String {
        let lines = self.lines.as_mut().expect("standard error is read");
        let mut seen = String::new();
        loop {
            let mut line = String::new();
            let count = lines.read_line(&mut line).expect("standard error is text");
            assert!(count > 0, "it ended before '{mark}':\n{seen}");
            if let Some((_, rest)) = line.split_once(mark) {
                return rest.trim().to_owned();
            }
            seen.push_str(&line);
        }
    }

    /// Waits for its end, which must be a good one.
    pub fn finish(mut self) -> Usage {
        // Its further output must not fill the pipe.
        let drain = self.lines.take().map(|mut lines| {
            std::thread::spawn(move || {
                let mut rest = String::new();
                let _ = lines.read_to_string(&mut rest);
                rest
            })
        });
        while !self.sample() {
            std::thread::sleep(Duration::from_millis(2));
        }
        let status = self.child.wait().expect("a child can be waited for");
        let said = drain.map(|drain| drain.join().unwrap_or_default()).unwrap_or_default();
        assert!(status.success(), "it ended with {status}:\n{said}");
        self.usage
    }

    /// Ends the process and returns its resource usage.
    pub fn stop(mut self) -> Usage {
        self.sample();
        self.child.kill().expect("a child can be ended");
        let _ = self.child.wait();
        self.usage
    }

    /// Reads /proc; true once it ended (and was not waited for).
    fn sample(&mut self) -> bool {
        let pid = self.child.id();
        if let Ok(status) = std::fs::read_to_string(format!("/proc/{pid}/status"))
            && let Some(peak) = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))
        {
            let kib: f64 = peak.trim().trim_end_matches(" kB").parse().unwrap_or(0.0);
            self.usage.peak_mib = self.usage.peak_mib.max(kib / 1024.0);
        }
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))
            .expect("a child has a stat file until it is waited for");
        // Fields after the name in brackets: state is the first, utime and stime the 12th and 13th.
        let fields: Vec<&str> = stat.rsplit_once(')').expect("stat has a name").1.split_whitespace().collect();
        let ticks = |index: usize| fields[index].parse::<f64>().unwrap_or(0.0);
        self.usage.cpu = (ticks(11) + ticks(12)) / 100.0;
        fields[0] == "Z"
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
