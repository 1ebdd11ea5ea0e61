//! What processes and machine used, as the kernel counts it.

use std::fs;

use anyhow::{Context, Result};
use nix::unistd::{SysconfVar, sysconf};

/// What one process has used since it started.
#[derive(Clone, Copy, Debug, Default)]
struct Used {
    cpu_s: f64,
    written_bytes: f64,
}

/// A moment from which use is counted.
pub struct Mark {
    pids: Vec<u32>,
    nodes: Vec<Used>,
    own: Used,
    machine_cpu_s: f64,
}

/// What was used since a mark.
#[derive(Clone, Debug)]
pub struct Use {
    /// Processor time of each node.
    pub nodes_cpu_s: Vec<f64>,
    /// Processor time of this program.
    pub own_cpu_s: f64,
    /// Processor time of anybody else, except the kernel's own threads, which write for the nodes; and what the
    /// hypervisor gave to other machines.
    pub foreign_cpu_s: f64,
    /// What all nodes had the kernel write to the disk.
    pub written_bytes: f64,
}

impl Mark {
    pub fn now(pids: &[u32]) -> Result<Self> {
        Ok(Self {
            pids: pids.to_vec(),
            nodes: pids.iter().map(|pid| used(*pid)).collect::<Result<_>>()?,
            own: used(std::process::id())?,
            machine_cpu_s: machine_cpu_s()?,
        })
    }

    pub fn until_now(&self) -> Result<Use> {
        let now = Self::now(&self.pids)?;
        let nodes = || now.nodes.iter().zip(&self.nodes);
        let nodes_cpu_s: Vec<_> = nodes().map(|(now, before)| now.cpu_s - before.cpu_s).collect();
        let written_bytes = nodes().map(|(now, before)| now.written_bytes - before.written_bytes).sum();
        let own_cpu_s = now.own.cpu_s - self.own.cpu_s;
        let contestant_cpu_s = nodes_cpu_s.iter().sum::<f64>() + own_cpu_s;
        let foreign_cpu_s = now.machine_cpu_s - self.machine_cpu_s - contestant_cpu_s;
        // The machine's time is sampled, that of processes is exact: the difference may fall below nothing.
        Ok(Use { nodes_cpu_s, own_cpu_s, foreign_cpu_s: foreign_cpu_s.max(0.0), written_bytes })
    }
}

/// Resident memory of a process, in MB (10^6 bytes).
pub fn resident_mb(pid: u32) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<f64>()? * 1024.0 / 1e6)
}

fn used(pid: u32) -> Result<Used> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let io = fs::read_to_string(format!("/proc/{pid}/io"))?;
    let written = io.lines().find_map(|line| line.strip_prefix("write_bytes:")).context("no write_bytes")?;
    Ok(Used { cpu_s: cpu_s(&stat)?, written_bytes: written.trim().parse()? })
}

/// User and system time, fields 14 and 15 of `/proc/PID/stat` (proc_pid_stat(5)). The name before them may hold
/// anything.
fn cpu_s(stat: &str) -> Result<f64> {
    let (_, fields) = stat.rsplit_once(") ").context("no name in stat")?;
    let mut fields = fields.split(' ').skip(11);
    let mut next = || -> Result<f64> { Ok(fields.next().context("stat is short")?.parse()?) };
    Ok((next()? + next()?) / ticks_per_s()?)
}

/// What the machine has worked, without its idle time and without kernel threads.
fn machine_cpu_s() -> Result<f64> {
    let stat = fs::read_to_string("/proc/stat")?;
    let line = stat.lines().next().context("/proc/stat is empty")?;
    let fields = line.split_whitespace().skip(1).map(str::parse).collect::<Result<Vec<f64>, _>>()?;
    // user nice system idle iowait irq softirq steal (proc_stat(5)).
    let busy: f64 = [0, 1, 2, 5, 6, 7].iter().filter_map(|index| fields.get(*index)).sum();
    Ok(busy / ticks_per_s()? - kernel_threads_cpu_s()?)
}

/// Processor time of the children of kthreadd, process 2.
fn kernel_threads_cpu_s() -> Result<f64> {
    let mut sum = 0.0;
    for entry in fs::read_dir("/proc")? {
        let path = entry?.path();
        let is_process = path.file_name().is_some_and(|name| name.as_encoded_bytes()[0].is_ascii_digit());
        if !is_process {
            continue;
        }
        // It may have ended meanwhile.
        let Ok(stat) = fs::read_to_string(path.join("stat")) else { continue };
        let parent = stat.rsplit_once(") ").and_then(|(_, fields)| fields.split(' ').nth(1));
        if parent == Some("2") {
            sum += cpu_s(&stat)?;
        }
    }
    Ok(sum)
}

fn ticks_per_s() -> Result<f64> {
    Ok(sysconf(SysconfVar::CLK_TCK)?.context("no CLK_TCK")? as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_work_is_no_foreign_work() {
        let mark = Mark::now(&[std::process::id()]).unwrap();
        let mut sum = 0u64;
        let begun = std::time::Instant::now();
        while begun.elapsed().as_millis() < 300 {
            sum = sum.wrapping_mul(31).wrapping_add(1);
        }
        let used = mark.until_now().unwrap();
        assert!(sum > 0 && used.own_cpu_s > 0.05, "{used:?}");
        assert_eq!(used.nodes_cpu_s.len(), 1);
    }

    #[test]
    fn names_may_hold_anything() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 0 1 2 3 4 200 100 0 0 20 0 1 0";
        assert_eq!(cpu_s(stat).unwrap(), 300.0 / ticks_per_s().unwrap());
    }
}
