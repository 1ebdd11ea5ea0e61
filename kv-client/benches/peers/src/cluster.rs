//! The nodes of one contestant: started, stopped, killed.

use std::fs;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;

use crate::contestant::Plan;
use crate::processes::Process;
use crate::programs::Programs;

/// Dropped, its processes are killed and its data is removed.
pub struct Cluster<'a> {
    pub plan: Plan,
    programs: &'a Programs,
    nodes: Vec<Option<Process>>,
}

impl<'a> Cluster<'a> {
    /// Nothing is started yet.
    pub fn new(plan: Plan, programs: &'a Programs) -> Result<Self> {
        for port in plan.ports() {
            let address = (Ipv4Addr::LOCALHOST, port);
            TcpListener::bind(address).with_context(|| format!("TCP port {port} (--port)"))?;
            UdpSocket::bind(address).with_context(|| format!("UDP port {port} (--port)"))?;
        }
        fs::create_dir(&plan.folder)?;
        let nodes = (0..plan.nodes).map(|_| None).collect();
        Ok(Self { plan, programs, nodes })
    }

    pub fn start_all(&mut self) -> Result<()> {
        (0..self.plan.nodes).try_for_each(|node| self.start(node))
    }

    /// To be called from the main thread: a child dies with the thread that started it.
    pub fn start(&mut self, node: usize) -> Result<()> {
        let command = self.plan.command(self.programs, node)?;
        let process = Process::start(command, &self.plan.node_folder(node)?, &self.plan.log(node))?;
        self.nodes[node] = Some(process);
        Ok(())
    }

    /// Asks all to end, as an operator does, and waits until they have.
    pub fn stop_all(&mut self) -> Result<()> {
        for node in self.nodes.iter().flatten() {
            node.signal(Signal::SIGTERM)?;
        }
        self.nodes.iter_mut().filter_map(Option::take).try_for_each(|node| node.stop(STOP_PATIENCE))
    }

    pub fn kill(&mut self, node: usize) {
        self.nodes[node] = None;
    }

    pub fn signal(&self, node: usize, signal: Signal) -> Result<()> {
        self.nodes[node].as_ref().context("it does not run")?.signal(signal)
    }

    pub fn pids(&self) -> Vec<u32> {
        self.nodes.iter().flatten().map(Process::id).collect()
    }

    /// Fails if a node has died, with what it said last.
    pub fn check(&self) -> Result<()> {
        for (node, process) in self.nodes.iter().enumerate() {
            let ended = process.as_ref().map(Process::ended).transpose()?.flatten();
            if let Some(status) = ended {
                bail!("node {} ended ({status}): {}", node + 1, self.last_words(node));
            }
        }
        Ok(())
    }

    /// The last lines of a node's log.
    fn last_words(&self, node: usize) -> String {
        let log = fs::read(self.plan.log(node)).unwrap_or_default();
        let text = String::from_utf8_lossy(&log);
        let lines: Vec<_> = text.lines().rev().take(3).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join(" / ")
    }
}

impl Drop for Cluster<'_> {
    fn drop(&mut self) {
        self.nodes.clear();
        // What is left goes with the folder above it.
        let _ = fs::remove_dir_all(&self.plan.folder);
    }
}

/// How long nodes may take to end.
const STOP_PATIENCE: Duration = Duration::from_secs(30);
