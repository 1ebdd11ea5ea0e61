//! `kv-server dev` as a process: three nodes in one command.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use kv_client::api::{Resolved, WriteReply};
use kv_client::{Outcome, Reason};
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

    /// Kills a node, which dev starts again in a second.
    async fn kill(&mut self, client: &Client, node: usize) {
        signal("KILL", self.nodes[node - 1].0);
        let died = format!("node {node} died (signal: 9 (SIGKILL)) and is started again in ");
        client.line_with(&mut self.output, &died).await;
    }

    /// Stops a node; the line that starts it again.
    async fn stop(&mut self, client: &Client, node: usize) -> String {
        signal("TERM", self.nodes[node - 1].0);
        client.line_with(&mut self.output, &format!("node {node} ended (exit status: 0)")).await;
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
fn killed_nodes_come_back_by_themselves_with_all_data() {
    with_client(async |client| {
        let folder = tempfile::tempdir().unwrap();
        let mut dev = Dev::start(&client, Some(folder.path())).await;
        client.put(dev.port, "k", "v").await;
        for node in 1..=3 {
            dev.kill(&client, node).await;
        }
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
fn a_node_that_fails_says_why_and_is_tried_again_later_each_time() {
    with_client(async |client| {
        let folder = tempfile::tempdir().unwrap();
        let mut dev = Dev::start(&client, Some(folder.path())).await;
        client.put(dev.port, "k", "v").await;
        dev.kill(&client, 3).await;
        let identity = dev.nodes[2].1.join("files/identity");
        let whole = std::fs::read(&identity).unwrap();
        std::fs::write(&identity, &whole[1..]).unwrap();
        for pause in ["2s", "4s"] {
            let died = format!("node 3 died (exit status: 1) and is started again in {pause}");
            client.line_with(&mut dev.output, &died).await;
            client.line_with(&mut dev.output, "it said: kv-server: the data folder is damaged").await;
        }
        std::fs::write(&identity, whole).unwrap();
        assert_eq!(client.get(dev.port + 2, "k").await, Some(bytes("v")));
        signal("INT", dev.child.id().unwrap());
        client.ended(&mut dev.child).await;
    });
}

#[test]
fn a_node_that_was_told_to_stop_stays_down_until_the_printed_line_is_typed() {
    with_client(async |client| {
        let folder = tempfile::tempdir().unwrap();
        let mut dev = Dev::start(&client, Some(folder.path())).await;
        client.put(dev.port, "k", "v").await;
        let line = dev.stop(&client, 2).await;
        let mut node = typed(&line);
        assert_eq!(client.get(dev.port + 1, "k").await, Some(bytes("v")));
        signal("INT", dev.child.id().unwrap());
        client.line_with(&mut dev.output, "node 2 was started by hand and is not stopped").await;
        assert_eq!(client.ended(&mut dev.child).await.code(), Some(0));
        signal("TERM", node.id().unwrap());
        client.ended(&mut node).await;
    });
}

#[test]
fn a_node_with_a_lost_folder_is_refused_and_told_what_to_type() {
    with_client(async |client| {
        let folder = tempfile::tempdir().unwrap();
        let mut dev = Dev::start(&client, Some(folder.path())).await;
        client.put(dev.port, "k", "v").await;
        let start = dev.stop(&client, 2).await;
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
fn writes_go_on_when_the_leader_is_killed_and_none_is_lost() {
    with_client(async |client| {
        let mut dev = Dev::start(&client, None).await;
        let library = client.library(&dev.ports());
        let leader = client.status(dev.port).await.unwrap().leader.unwrap().id;
        let mut committed = 0;
        for number in 0..60 {
            if number == 20 {
                dev.kill(&client, usize::try_from(leader).unwrap()).await;
            }
            let (key, value) = (format!("k{number}"), format!("v{number}"));
            match library.put(key, value).await {
                Outcome::Committed { .. } => committed += 1,
                Outcome::Unknown(token) => {
                    let resolved = library.resolve(&token).await.unwrap();
                    assert!(matches!(resolved, Resolved::Settled(_)), "{resolved:?}");
                    committed +=
                        usize::from(matches!(resolved, Resolved::Settled(WriteReply::Committed { .. })));
                }
                Outcome::NotCommitted(reason) => panic!("put {number}: {reason}"),
            }
        }
        let mut found = 0;
        for number in 0..60 {
            let reply = library.get(format!("k{number}")).await.unwrap();
            let held = reply.value.map(|versioned| versioned.value);
            assert!(held.is_none() || held == Some(bytes(&format!("v{number}"))));
            found += usize::from(held.is_some());
        }
        assert_eq!(found, committed);
        assert!(committed >= 59, "one write at most was in flight: {committed}");
        signal("INT", dev.child.id().unwrap());
        assert_eq!(client.ended(&mut dev.child).await.code(), Some(0));
    });
}

#[test]
fn without_a_quorum_nothing_is_answered_wrongly() {
    with_client(async |client| {
        let mut dev = Dev::start(&client, None).await;
        let library = client.library(&dev.ports());
        assert!(matches!(library.put("k", "v").await, Outcome::Committed { .. }));
        let leader = client.status(dev.port).await.unwrap().leader.unwrap().id;
        let followers: Vec<u32> =
            (1..=3).zip(&dev.nodes).filter(|(id, _)| *id != leader).map(|(_, (pid, _))| *pid).collect();
        for pid in &followers {
            signal("STOP", *pid);
        }
        let short = library.with_timeout(Duration::from_secs(1));
        // On a slow machine the lease may have ended by now; then this one is refused, too.
        let in_doubt = short.put("k", "in doubt").await;
        let refused = short.put("k", "too late").await;
        assert!(matches!(refused, Outcome::NotCommitted(Reason::Refused(_))), "{refused:?}");
        assert!(short.get("k").await.is_err(), "a read must not be stale");
        for pid in &followers {
            signal("CONT", *pid);
        }
        let is_committed = match in_doubt {
            Outcome::Unknown(token) => {
                let resolved =
                    client.eventually("an answer", async || library.resolve(&token).await.ok()).await;
                let Resolved::Settled(reply) = resolved else { panic!("{resolved:?}") };
                matches!(reply, WriteReply::Committed { .. })
            }
            Outcome::NotCommitted(_) => false,
            Outcome::Committed { .. } => panic!("one of three nodes is no majority"),
        };
        let value = client.eventually("a read", async || library.get("k").await.ok()).await.value;
        assert_eq!(value.unwrap().value, if is_committed { "in doubt" } else { "v" });
        signal("INT", dev.child.id().unwrap());
        assert_eq!(client.ended(&mut dev.child).await.code(), Some(0));
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
