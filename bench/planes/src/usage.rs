//! What a process takes, as the system counts it.

use std::fs;
use std::net::SocketAddr;
use std::process::Command;

use anyhow::{Context, ensure};

/// Bytes in memory that are its own, with its share of what it shares.
pub fn pss(pid: u32) -> anyhow::Result<u64> {
    kilobytes(&format!("/proc/{pid}/smaps_rollup"), "Pss:")
}

/// Bytes in memory.
pub fn rss(pid: u32) -> anyhow::Result<u64> {
    kilobytes(&format!("/proc/{pid}/status"), "VmRSS:")
}

/// The most bytes that it ever had in memory.
pub fn peak(pid: u32) -> anyhow::Result<u64> {
    kilobytes(&format!("/proc/{pid}/status"), "VmHWM:")
}

fn kilobytes(file: &str, field: &str) -> anyhow::Result<u64> {
    let text = fs::read_to_string(file).with_context(|| format!("cannot read {file}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(field)).context("the field is missing")?;
    let number = line.split_whitespace().next().context("the field is empty")?;
    Ok(number.parse::<u64>()? << 10)
}

/// Seconds of processor time, its own and that of the system in its name, of all its threads.
///
/// From `schedstat`, which counts nanoseconds: `stat` counts hundredths of a second, and by samples.
pub fn processor(pid: u32) -> anyhow::Result<f64> {
    let mut nanos = 0;
    for thread in fs::read_dir(format!("/proc/{pid}/task")).context("the process has ended")? {
        // A thread may end meanwhile.
        let Ok(text) = fs::read_to_string(thread?.path().join("schedstat")) else { continue };
        nanos += text.split(' ').next().context("schedstat is empty")?.parse::<u64>()?;
    }
    Ok(nanos as f64 / 1e9)
}

/// Bytes of TCP that a server sent and received on the connections that it has now.
pub fn wire(server: SocketAddr) -> anyhow::Result<Wire> {
    let (ip, port) = (server.ip(), server.port());
    let ss = Command::new("ss").args(["-tinHO", "src", &format!("{ip}:{port}")]).output();
    let ss = ss.context("cannot run ss: install iproute2")?;
    ensure!(ss.status.success(), "ss failed: {}", String::from_utf8_lossy(&ss.stderr));
    let text = String::from_utf8_lossy(&ss.stdout);
    let sum = |field: &str| {
        let of = |line: &str| line.split(' ').find_map(|word| word.strip_prefix(field)?.parse::<u64>().ok());
        text.lines().filter_map(of).sum()
    };
    Ok(Wire { sent: sum("bytes_sent:"), received: sum("bytes_received:") })
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Wire {
    pub sent: u64,
    pub received: u64,
}

impl Wire {
    pub fn all(self) -> u64 {
        self.sent + self.received
    }
}
