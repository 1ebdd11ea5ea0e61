//! `kv-server run` as a process: starts, stops, refusals.

use std::process::Stdio;

use crate::process::{address, bytes, free_ports, kv_server, signal, single, with_client};

#[test]
fn sigterm_stops_a_node_and_its_restart_keeps_the_data() {
    with_client(async |client| {
        let (port, folder) = (free_ports(1), tempfile::tempdir().unwrap());
        let mut node = single(port, folder.path()).spawn().unwrap();
        client.put(port, "k", "v").await;
        for name in ["TERM", "INT"] {
            signal(name, node.id().unwrap());
            assert_eq!(client.ended(&mut node).await.code(), Some(0), "SIG{name}");
            node = single(port, folder.path()).spawn().unwrap();
            assert_eq!(client.get(port, "k").await, Some(bytes("v")));
        }
    });
}

#[test]
fn kill_9_loses_nothing_that_was_answered() {
    with_client(async |client| {
        let (port, folder) = (free_ports(1), tempfile::tempdir().unwrap());
        for round in 0..3 {
            let mut node = single(port, folder.path()).spawn().unwrap();
            if round > 0 {
                assert_eq!(client.get(port, "k").await, Some(bytes(&format!("{}", round - 1))));
            }
            client.put(port, "k", &format!("{round}")).await;
            signal("KILL", node.id().unwrap());
            client.ended(&mut node).await;
        }
    });
}

#[test]
fn a_supervised_node_stops_when_its_pipe_closes() {
    with_client(async |client| {
        let (port, folder) = (free_ports(1), tempfile::tempdir().unwrap());
        let mut node = single(port, folder.path()).arg("--supervised").stdin(Stdio::piped()).spawn().unwrap();
        client.put(port, "k", "v").await;
        drop(node.stdin.take());
        assert_eq!(client.ended(&mut node).await.code(), Some(0));
    });
}

#[test]
fn a_node_with_a_key_serves_who_has_it_and_is_silent_to_others() {
    with_client(async |client| {
        let (port, folder) = (free_ports(1), tempfile::tempdir().unwrap());
        let key = folder.path().join("key");
        let keygen = || {
            let mut command = kv_server();
            command.arg("keygen").arg("--out").arg(&key);
            command
        };
        assert!(keygen().stdout(Stdio::null()).status().await.unwrap().success());
        let (code, said) = client.failure(keygen()).await;
        assert!(code == 1 && said.contains("is not overwritten"), "{code}: {said}");
        let _node = single(port, &folder.path().join("data")).arg("--key-file").arg(&key).spawn().unwrap();
        let keyed = client.with_key(&key);
        keyed.put(port, "k", "v").await;
        assert_eq!(keyed.get(port, "k").await, Some(bytes("v")));
        assert!(!keyed.status(port).await.unwrap().insecure);
        assert_eq!(client.status(port).await, None);
    });
}

#[test]
fn a_bad_configuration_is_one_sentence_and_exit_2() {
    with_client(async |client| {
        let folder = tempfile::tempdir().unwrap();
        let cases = [
            (["--id", "1", "--members", "1=nonsense"], "must be HOST:PORT"),
            (["--id", "x", "--members", "1=127.0.0.1:7301"], "setting `id` = `x` (from --id) must be"),
        ];
        for (arguments, expected) in cases {
            let mut command = kv_server();
            command.arg("run").args(arguments).arg("--data").arg(folder.path());
            let (code, said) = client.failure(command).await;
            assert_eq!((code, said.lines().count()), (2, 1), "{said}");
            assert!(said.contains(expected), "{said}");
        }
        let mut unknown = kv_server();
        unknown.args(["run", "--no-such-flag"]);
        assert_eq!(client.failure(unknown).await.0, 2);
    });
}

#[test]
fn a_taken_port_is_one_sentence_and_leaves_no_folder() {
    with_client(async |client| {
        let taken = std::net::UdpSocket::bind(address(0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        let (code, said) = client.failure(single(port, &data)).await;
        assert_eq!((code, said.lines().count()), (1, 1), "{said}");
        assert!(said.contains(&format!("UDP port {port} of 127.0.0.1 is taken")), "{said}");
        assert!(!data.exists());
    });
}

#[test]
fn an_unusable_data_folder_is_one_sentence() {
    with_client(async |client| {
        let folder = tempfile::tempdir().unwrap();
        // A file stands where a folder must be made: unlike missing permission this stops root, too.
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        let (code, said) = client.failure(single(free_ports(1), &file.join("data"))).await;
        assert_eq!((code, said.lines().count()), (1, 1), "{said}");
        assert!(said.contains("data folder") && said.contains("Not a directory"), "{said}");
    });
}

#[test]
fn a_folder_of_another_node_is_refused_with_exit_7() {
    with_client(async |client| {
        let (port, folder) = (free_ports(1), tempfile::tempdir().unwrap());
        let mut node = single(port, folder.path()).spawn().unwrap();
        client.put(port, "k", "v").await;
        signal("TERM", node.id().unwrap());
        client.ended(&mut node).await;
        let mut foreign = kv_server();
        let members = format!("2={}", address(port));
        foreign
            .args(["run", "--id", "2", "--log", "off", "--members", &members, "--data"])
            .arg(folder.path());
        let (code, said) = client.failure(foreign).await;
        assert_eq!((code, said.lines().count()), (7, 1), "{said}");
        assert!(said.contains("belongs to node 1, not to node 2"), "{said}");
    });
}

#[test]
fn a_folder_in_use_is_refused() {
    with_client(async |client| {
        let (port, folder) = (free_ports(1), tempfile::tempdir().unwrap());
        let _node = single(port, folder.path()).spawn().unwrap();
        client.put(port, "k", "v").await;
        let (code, said) = client.failure(single(free_ports(1), folder.path())).await;
        assert_eq!((code, said.lines().count()), (1, 1), "{said}");
        assert_eq!(client.get(port, "k").await, Some(bytes("v")));
    });
}

#[test]
fn garbage_at_the_port_is_counted_and_nothing_else() {
    with_client(async |client| {
        let (port, folder) = (free_ports(1), tempfile::tempdir().unwrap());
        let _node = single(port, folder.path()).spawn().unwrap();
        client.put(port, "k", "v").await;
        let dropped = async || {
            let counters = client.status(port).await?.counters;
            Some(
                counters
                    .iter()
                    .filter(|(name, _)| name.starts_with("dropped_"))
                    .map(|(_, count)| count)
                    .sum(),
            )
        };
        let before: u64 = dropped().await.unwrap();
        let socket = std::net::UdpSocket::bind(address(0)).unwrap();
        let mut random = rpc_core::random::SeededRandom::new(1);
        for size in 1..=200 {
            let mut datagram = vec![0; size * 7];
            random.fill(&mut datagram);
            socket.send_to(&datagram, address(port)).unwrap();
        }
        client
            .eventually("all are counted", async || dropped().await.filter(|now: &u64| now - before >= 200))
            .await;
        client.put(port, "k", "still here").await;
        assert_eq!(client.get(port, "k").await, Some(bytes("still here")));
    });
}
