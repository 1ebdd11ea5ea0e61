//! `kv-server dev` as a process: three nodes in one command.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::io::{BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use crate::process::{Client, address, bytes, free_ports, is_alive, kv_server, lines, signal, with_client};

/// A running `kv-server dev` that serves.
struct Dev {
    child: Child,
    output: Lines<BufReader<ChildStdout>>,
    port: u16,
    /// Process id and folder of each node.
    nodes: Vec<(u32, PathBuf)>,
    /// The line that says what to type next.
    next: String,
}

impl Dev {
    async fn start(client: &Client, data: Option<&Path>) -> Self {
        let port = free_ports(3);
        let mut command = kv_server();
        command.args(["dev", "--port", &port.to_string()]).stdout(Stdio::piped());
        if let Some(data) = data {
            command.arg("--data").arg(data);
        }
        let mut child = command.spawn().unwrap();
        let mut output = lines(child.stdout.take());
        let mut nodes = Vec::new();
        for id in 1..=3 {
            let line = client.line_with(&mut output, &format!("node {id}  pid ")).await;
            let words: Vec<&str> = line.split_whitespace().collect();
            assert_eq!(words[4], address(port + id - 1).to_string(), "{line}");
            nodes.push((words[3].parse().unwrap(), PathBuf::from(words[5])));
        }
        client.line_with(&mut output, "ready: first write after ").await;
        let next = client.line_with(&mut output, "put greeting hello").await;
        Self { child, output, port, nodes, next }
    }

    /// Kills a node; the line that starts it again.
    async fn kill(&mut self, client: &Client, node: usize) -> String {
        signal("KILL", self.nodes[node - 1].0);
        client.line_with(&mut self.output, &format!("node {node} died (signal: 9 (SIGKILL))")).await;
        client.line_with(&mut self.output, &format!(" run --id {node} ")).await
    }

    fn ports(&self) -> [u16; 3] {
        [self.port, self.port + 1, self.port + 2]
    }
}

/// Types a line into a shell.
fn typed(line: &str) -> Child {
    Command::new("sh")
        .args(["-c", &format!("exec {line}")])
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

#[test]
fn dev_serves_and_leaves_nothing_behind() {
    with_client(async |client| {
        let mut dev = Dev::start(&client, None).await;
        assert!(dev.next.contains(&format!("--endpoints {}", address(dev.port))), "{}", dev.next);
        client.put(dev.port, "k", "v").await;
        for port in dev.ports() {
            assert_eq!(client.get(port, "k").await, Some(bytes("v")));
        }
        signal("INT", dev.child.id().unwrap());
        assert_eq!(client.ended(&mut dev.child).await.code(), Some(0));
        for (pid, folder) in &dev.nodes {
            assert!(!is_alive(*pid) && !folder.parent().unwrap().exists());
        }
    });
}

#[test]
fn nodes_end_with_a_killed_dev() {
    with_client(async |client| {
        let folder = tempfile::tempdir().unwrap();
        let mut dev = Dev::start(&client, Some(folder.path())).await;
        signal("KILL", dev.child.id().unwrap());
        client.ended(&mut dev.child).await;
        client
            .eventually("all nodes end", async || {
                dev.nodes.iter().all(|(pid, _)| !is_alive(*pid)).then_some(())
            })
            .await;
    });
}

#[test]
fn killed_nodes_come_back_with_the_printed_lines_and_all_data() {
    with_client(async |client| {
        let folder = tempfile::tempdir().unwrap();
        let mut dev = Dev::start(&client, Some(folder.path())).await;
        client.put(dev.port, "k", "v").await;
        let mut starts = Vec::new();
        for node in 1..=3 {
            starts.push(dev.kill(&client, node).await);
        }
        let _nodes: Vec<Child> = starts.iter().map(|line| typed(line)).collect();
        for port in dev.ports() {
            assert_eq!(client.get(port, "k").await, Some(bytes("v")));
        }
        client.put(dev.port, "k", "again").await;
        signal("TERM", dev.child.id().unwrap());
        assert_eq!(client.ended(&mut dev.child).await.code(), Some(0));
        assert!(folder.path().join("node1").exists(), "--data keeps the data");
    });
}

#[test]
fn a_node_with_a_lost_folder_is_refused_and_told_what_to_type() {
    with_client(async |client| {
        let folder = tempfile::tempdir().unwrap();
        let mut dev = Dev::start(&client, Some(folder.path())).await;
        client.put(dev.port, "k", "v").await;
        let start = dev.kill(&client, 2).await;
        std::fs::remove_dir_all(&dev.nodes[1].1).unwrap();
        let mut node = typed(&start);
        let mut said = lines(node.stderr.take());
        client.line_with(&mut said, "refused: the cluster knows node 2 with other data").await;
        client.line_with(&mut said, "member replace 2").await;
        client.put(dev.port, "k", "goes on").await;
        let status = client.status(dev.port + 1).await.unwrap();
        assert!(!status.ready, "{status:?}");
        signal("INT", dev.child.id().unwrap());
        client.ended(&mut dev.child).await;
    });
}

#[test]
fn a_taken_port_leaves_nothing_behind() {
    with_client(async |client| {
        let port = free_ports(3);
        let _taken = std::net::UdpSocket::bind(address(port + 2)).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        let mut command = kv_server();
        command.args(["dev", "--port", &port.to_string(), "--data"]).arg(&data);
        let (code, said) = client.failure(command).await;
        assert_eq!((code, said.lines().count()), (1, 1), "{said}");
        assert!(said.contains(&format!("UDP port {} of 127.0.0.1 is taken", port + 2)), "{said}");
        assert!(!data.exists());
    });
}
