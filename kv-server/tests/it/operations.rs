//! What operators do, on real processes and folders.

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kv_client::Outcome;
use kv_client::api::{MemberChange, SnapshotPart};
use tokio::process::{Child, Command};

use crate::process::{Client, address, bytes, free_ports, kv_server, signal, single, with_client};

/// `kv-server run` for node `id` of three on the ports from `port` on.
fn member(port: u16, id: u16, data: &Path) -> Command {
    let members: Vec<String> = (1..=3).map(|id| format!("{id}={}", address(port + id - 1))).collect();
    let mut command = kv_server();
    command.args(["run", "--id", &id.to_string(), "--members", &members.join(","), "--data"]);
    command.arg(data.join(format!("node{id}")));
    command
}

fn offline(verb: &str, data: &Path) -> Command {
    let mut command = kv_server();
    command.arg(verb).arg(data);
    command
}

/// What a command printed that must be done with exit code 0.
async fn printed(client: &Client, mut command: Command) -> String {
    let output =
        client.runtime.timeout(crate::process::DEADLINE, command.stdout(Stdio::piped()).output()).await;
    let output = output.unwrap().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

async fn stop(client: &Client, node: &mut Child) {
    signal("TERM", node.id().unwrap());
    assert_eq!(client.ended(node).await.code(), Some(0));
}

#[test]
fn each_node_is_restarted_under_load_and_no_write_fails() {
    with_client(async |client| {
        let (port, folder) = (free_ports(3), tempfile::tempdir().unwrap());
        let ports = [port, port + 1, port + 2];
        let mut nodes: Vec<Child> =
            (1..=3).map(|id| member(port, id, folder.path()).spawn().unwrap()).collect();
        client.put(port, "before", "v").await;
        let done = Arc::new(AtomicBool::new(false));
        let writers: Vec<_> = (0..3)
            .map(|writer| {
                let (library, done) =
                    (client.library(&ports).with_timeout(Duration::from_secs(20)), Arc::clone(&done));
                client.runtime.spawn("writer", async move {
                    let mut outcomes = Vec::new();
                    while !done.load(Ordering::Relaxed) {
                        let key = format!("w{writer}-{}", outcomes.len());
                        outcomes.push(library.put(key, "v").await);
                    }
                    outcomes
                })
            })
            .collect();
        for id in 1..=3 {
            let before = client.status(port + id % 3).await.unwrap().revision;
            let node = &mut nodes[usize::from(id) - 1];
            stop(&client, node).await;
            *node = member(port, id, folder.path()).spawn().unwrap();
            client
                .eventually("it serves again, and has what was written meanwhile", async || {
                    client.status(port + id - 1).await.filter(|it| it.ready && it.revision > before)
                })
                .await;
        }
        done.store(true, Ordering::Relaxed);
        for (writer, task) in writers.into_iter().enumerate() {
            let outcomes = task.await.unwrap();
            assert!(outcomes.len() >= 20, "only {} writes", outcomes.len());
            for (number, outcome) in outcomes.iter().enumerate() {
                assert!(matches!(outcome, Outcome::Committed { .. }), "w{writer}-{number}: {outcome:?}");
            }
            let last = format!("w{writer}-{}", outcomes.len() - 1);
            assert_eq!(client.get(port, &last).await, Some(bytes("v")));
        }
    });
}

#[test]
fn a_folder_is_inspected_once_its_node_has_stopped() {
    with_client(async |client| {
        let (port, folder) = (free_ports(1), tempfile::tempdir().unwrap());
        let data = folder.path().join("data");
        let (code, said) = client.failure(offline("inspect", &data)).await;
        assert_eq!((code, said.lines().count()), (1, 1), "{said}");
        assert!(said.contains("there is no node's data") && !data.exists(), "{said}");

        let mut node = single(port, &data).spawn().unwrap();
        client.put(port, "k", "v").await;
        let status = client.status(port).await.unwrap();
        let (code, said) = client.failure(offline("inspect", &data)).await;
        assert_eq!((code, said.lines().count()), (1, 1), "{said}");
        assert!(said.contains("another process uses it"), "{said}");
        stop(&client, &mut node).await;

        let mut command = offline("inspect", &data);
        command.args(["--output", "json"]);
        let text = printed(&client, command).await;
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(json["id"], 1);
        assert_eq!(json["cluster"], format!("{:032x}", status.cluster.unwrap()));
        assert_eq!(json["incarnation"], format!("{:032x}", status.incarnation));
        assert_eq!(json["members"][0]["address"], address(port).to_string());
        assert!(json["last_log"]["index"].as_u64() >= status.last_log, "{text}");
        let told = printed(&client, offline("inspect", &data)).await;
        assert!(told.contains(json["state_hash"].as_str().unwrap()), "{told}");

        let identity = data.join("files/identity");
        std::fs::write(&identity, b"raftid").unwrap();
        let (code, said) = client.failure(offline("inspect", &data)).await;
        assert!(code == 1 && said.contains("damaged"), "{code}: {said}");
    });
}

/// Saves a snapshot as a client does.
async fn save(client: &Client, port: u16, file: &Path) {
    let offer = client.at(port).snapshot().await.unwrap();
    let mut whole = Vec::new();
    while (whole.len() as u64) < offer.size {
        let part = SnapshotPart { name: offer.name.clone(), offset: whole.len() as u64 };
        whole.extend_from_slice(&client.at(port).snapshot_part(part).await.unwrap().bytes);
    }
    std::fs::write(file, whole).unwrap();
}

#[test]
fn a_saved_snapshot_becomes_a_new_cluster_of_three() {
    with_client(async |client| {
        let (old, port, folder) = (free_ports(1), free_ports(3), tempfile::tempdir().unwrap());
        let mut source = single(old, &folder.path().join("source")).spawn().unwrap();
        for number in 0..20 {
            client.put(old, &format!("k{number}"), "v").await;
        }
        let file = folder.path().join("backup");
        save(&client, old, &file).await;
        let before = client.status(old).await.unwrap();
        stop(&client, &mut source).await;
        let told = printed(&client, offline("verify", &file)).await;
        assert!(told.contains("whole"), "{told}");

        let restore = || {
            let mut command = member(port, 2, folder.path());
            let arguments: Vec<_> = command.as_std().get_args().skip(1).map(ToOwned::to_owned).collect();
            command = offline("restore", &file);
            command.args(arguments);
            command
        };
        let told = printed(&client, restore()).await;
        assert!(
            told.contains("the first member of the new cluster") && told.contains("member add"),
            "{told}"
        );
        let (code, said) = client.failure(restore()).await;
        assert!(code == 1 && said.contains("nothing is overwritten"), "{code}: {said}");

        let mut nodes: Vec<Child> =
            (1..=3).map(|id| member(port, id, folder.path()).spawn().unwrap()).collect();
        for other in [port, port + 2] {
            let change = MemberChange::Add { address: address(other).to_string() };
            client
                .eventually("it is taken in", async || {
                    client.at(port + 1).member_change(change.clone()).await.ok()
                })
                .await;
        }
        for port in [port, port + 1, port + 2] {
            assert_eq!(client.get(port, "k19").await, Some(bytes("v")));
            let status = client.status(port).await.unwrap();
            assert!(status.cluster.is_some() && status.cluster != before.cluster);
            assert!(status.revision > 1_000_000_000_000, "{}", status.revision);
            assert_eq!(status.members.iter().filter(|member| member.voter).count(), 3);
        }
        client.put(port, "k", "v").await;

        // The same snapshot restored once more is another cluster, which has no place here.
        let foreign = folder.path().join("foreign");
        let place = |mut command: Command, verb: &[&std::ffi::OsStr]| {
            let arguments: Vec<_> = command.as_std().get_args().skip(1).map(ToOwned::to_owned).collect();
            command = kv_server();
            command.args(verb).args(arguments);
            command
        };
        let again = member(port, 2, &foreign);
        printed(&client, place(again, &["restore".as_ref(), file.as_os_str()])).await;
        stop(&client, &mut nodes[1]).await;
        let (code, said) = client.failure(member(port, 2, &foreign)).await;
        assert_eq!((code, said.lines().count()), (7, 1), "{said}");
        assert!(said.contains("the listed members [1, 3] to cluster"), "{said}");

        let mut damaged = std::fs::read(&file).unwrap();
        let middle = damaged.len() / 2;
        damaged[middle] ^= 1;
        std::fs::write(&file, damaged).unwrap();
        let (code, said) = client.failure(offline("verify", &file)).await;
        assert!(code == 1 && said.contains("damaged"), "{code}: {said}");
    });
}

#[test]
fn after_the_loss_of_a_quorum_one_folder_becomes_a_new_cluster() {
    with_client(async |client| {
        let (port, folder) = (free_ports(3), tempfile::tempdir().unwrap());
        let mut nodes: Vec<Child> =
            (1..=3).map(|id| member(port, id, folder.path()).spawn().unwrap()).collect();
        for number in 0..10 {
            client.put(port, &format!("k{number}"), "v").await;
        }
        for node in &mut nodes {
            signal("KILL", node.id().unwrap());
            client.ended(node).await;
        }
        let (left, new) = (folder.path().join("node3"), folder.path().join("new"));
        let mut command = offline("recover", &left);
        command.arg("--dry-run");
        let told = printed(&client, command).await;
        assert!(told.contains("on the members [1, 2]") && told.contains("nothing was changed"), "{told}");
        let (code, said) = client.failure(offline("recover", &left)).await;
        assert!(code == 2 && said.contains("--data"), "{code}: {said}");

        let port = free_ports(1);
        let members = format!("3={}", address(port));
        let mut command = offline("recover", &left);
        command.args(["--id", "3", "--members", &members, "--data"]).arg(&new);
        printed(&client, command).await;
        let mut command = kv_server();
        command.args(["run", "--id", "3", "--members", &members, "--data"]).arg(&new);
        let _node = command.spawn().unwrap();
        for number in 0..10 {
            assert_eq!(client.get(port, &format!("k{number}")).await, Some(bytes("v")));
        }
        client.put(port, "k", "v").await;
        assert!(left.join("files/identity").exists(), "what was left is evidence");
    });
}

/// Damages what a start must read.
fn damage(folder: &Path) {
    let identity = folder.join("files/identity");
    let mut bytes = std::fs::read(&identity).unwrap();
    bytes[20] ^= 1;
    std::fs::write(&identity, bytes).unwrap();
}

#[test]
fn a_damaged_node_is_rebuilt_by_one_command_unless_its_data_may_be_needed() {
    with_client(async |client| {
        let (port, folder) = (free_ports(3), tempfile::tempdir().unwrap());
        let mut nodes: Vec<Child> =
            (1..=3).map(|id| member(port, id, folder.path()).spawn().unwrap()).collect();
        client.put(port, "k", "v").await;
        let data = folder.path().join("node2");
        stop(&client, &mut nodes[1]).await;
        damage(&data);
        let (code, said) = client.failure(member(port, 2, folder.path())).await;
        assert!(code == 1 && said.contains("start it once more with --rebuild"), "{code}: {said}");
        let rebuild = |id| {
            let mut command = member(port, id, folder.path());
            command.arg("--rebuild").stderr(Stdio::piped());
            command
        };
        nodes[1] = rebuild(2).spawn().unwrap();
        let mut said = crate::process::lines(nodes[1].stderr.take());
        client.line_with(&mut said, "the damaged folder is set aside as").await;
        client.line_with(&mut said, "node 2 is rebuilt: it votes as node").await;
        assert_eq!(client.get(port + 1, "k").await, Some(bytes("v")));
        assert!(folder.path().join("node2.damaged").exists());

        // Two of three damaged: what is left may be needed.
        for id in [0, 2] {
            stop(&client, &mut nodes[id]).await;
            damage(&folder.path().join(format!("node{}", id + 1)));
        }
        let mut command = rebuild(1);
        command.env("KV_LOG", "off");
        let (code, said) = client.failure(command).await;
        assert!(code == 1 && said.contains("not rebuilt: the other members do not serve"), "{code}: {said}");
        assert!(folder.path().join("node1/files/identity").exists());
        assert!(!folder.path().join("node1.damaged").exists());
    });
}

#[test]
fn the_sessions_of_a_node_are_listed_and_one_is_closed() {
    with_client(async |client| {
        let (port, folder) = (free_ports(1), tempfile::tempdir().unwrap());
        let _node = single(port, folder.path()).spawn().unwrap();
        client.put(port, "k", "v").await;
        let other = client.another();
        other.put(port, "k", "v").await;
        let list = async |close| {
            client.at(port).connections(kv_client::api::ConnectionsRequest { close }).await.unwrap()
        };
        let listed = list(None).await;
        assert_eq!((listed.node, listed.closed, listed.connections.len()), (1, 0, 2), "{listed:?}");
        let theirs = address(other.local_port());
        assert!(listed.connections.iter().any(|it| it.address == theirs && it.inbound), "{listed:?}");
        let listed = list(Some(theirs)).await;
        assert_eq!((listed.closed, listed.connections.len()), (1, 1), "{listed:?}");
        other.put(port, "k", "it may come back").await;
    });
}
