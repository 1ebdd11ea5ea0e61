//! The built command, over real UDP on loopback: exit codes, JSON, exact bytes, signals.

use std::ffi::OsStr;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::ffi::OsStrExt as _;
use std::process::{Output, Stdio};
use std::time::Duration;

use bytes::Bytes;
use kv_client::Token;
use kv_client::api::{KvError, kv_services};
use rpc_core::driver::system;
use rpc_core::driver::udp::UdpSocket;
use rpc_core::peer::Peer;
use rpc_core::runtime::Runtime;
use tokio::io::AsyncWriteExt as _;
use tokio::process::{Child, Command};

use crate::played::{Manner, SNAPSHOT, Table};

/// A node that is played, on a real socket.
struct Real {
    table: Table,
    endpoint: String,
    runtime: Runtime,
    _peer: Peer,
}

impl Real {
    fn start() -> Self {
        let runtime = system::runtime(tokio::runtime::Handle::current());
        let table = Table::new(1);
        let socket = UdpSocket::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
        let services = kv_services(table.node(1));
        let peer = Peer::builder(runtime.clone()).services(services).start_insecure(socket).unwrap();
        Self { table, endpoint: peer.local_addr().to_string(), runtime, _peer: peer }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        command(&self.endpoint, arguments)
    }

    async fn run(&self, arguments: &[&str]) -> Ended {
        ended(self.command(arguments).output().await.unwrap())
    }

    /// Waits until the node got a request of this kind.
    async fn until_asked(&self, method: &'static str) {
        let asked = async {
            while self.table.calls(1, method) == 0 {
                self.runtime.sleep(Duration::from_millis(5)).await;
            }
        };
        self.runtime.timeout(Duration::from_secs(10), asked).await.unwrap();
    }
}

fn command(endpoint: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kv-client"));
    command.env_clear().env("KV_ENDPOINTS", endpoint).args(arguments).kill_on_drop(true).stdin(Stdio::null());
    command
}

/// How a command ended.
#[derive(Debug)]
struct Ended {
    code: Option<i32>,
    stdout: Vec<u8>,
    stderr: String,
}

impl Ended {
    fn text(&self) -> &str {
        std::str::from_utf8(&self.stdout).unwrap()
    }

    fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

fn ended(output: Output) -> Ended {
    let stderr = String::from_utf8(output.stderr).unwrap();
    Ended { code: output.status.code(), stdout: output.stdout, stderr }
}

async fn without_server(arguments: &[&str]) -> Ended {
    // Bound and silent: nobody else can take the port while the test runs.
    let silent = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let endpoint = silent.local_addr().unwrap().to_string();
    ended(command(&endpoint, arguments).output().await.unwrap())
}

async fn interrupt(child: &Child, signal: &str) {
    let pid = child.id().unwrap().to_string();
    assert!(Command::new("kill").args([signal, &pid]).status().await.unwrap().success());
}

fn token_in(text: &str) -> Token {
    let word = text.split_whitespace().find(|word| word.starts_with("kv1-"));
    word.unwrap_or_else(|| panic!("no token in {text:?}")).parse().unwrap()
}

#[tokio::test]
async fn put_get_cas_delete_as_typed() {
    let real = Real::start();
    let put = real.run(&["put", "greeting", "hello"]).await;
    assert_eq!(
        (put.code, put.text()),
        (Some(0), "committed at revision 102 (the key was not there before)\n")
    );
    let get = real.run(&["get", "greeting"]).await;
    assert_eq!((get.code, get.text()), (Some(0), "hello\n"));
    assert_eq!(real.run(&["cas", "greeting", "hello", "bye", "-q"]).await.text(), "");
    let wrong = real.run(&["cas", "greeting", "hello", "again"]).await;
    assert_eq!(wrong.code, Some(4));
    assert!(wrong.stderr.contains("the condition failed"), "{wrong:?}");
    let missing = real.run(&["get", "nothing"]).await;
    assert_eq!((missing.code, missing.text()), (Some(3), ""));
    assert!(missing.stderr.contains("key `nothing` not found"), "{missing:?}");
    assert_eq!(real.run(&["delete", "greeting"]).await.code, Some(0));
    assert_eq!(real.run(&["delete", "greeting"]).await.code, Some(0));
}

#[tokio::test]
async fn the_log_shows_calls_where_it_is_asked_to() {
    let real = Real::start();
    let put = real.command(&["put", "k", "v"]).env("KV_LOG", "rpc_core=debug").output().await.unwrap();
    let put = ended(put);
    assert_eq!((put.code, put.text().lines().count()), (Some(0), 1), "results only on stdout: {put:?}");
    let called = put.stderr.lines().find(|line| line.contains("DEBUG") && line.contains("called"));
    let called = called.unwrap_or_else(|| panic!("no call in the log: {put:?}"));
    for word in ["method=", "latency_us=", "code="] {
        assert!(called.contains(word), "no {word} in {called}");
    }
    assert_eq!(real.run(&["put", "k", "v"]).await.stderr, "", "nothing unless it is asked for");
}

/// A goodbye waits for a few milliseconds only: on a busy machine one may be cut short, but not one after the other.
#[tokio::test]
async fn a_session_without_unknown_writes_is_closed() {
    let real = Real::start();
    for _ in 0..20 {
        assert_eq!(real.run(&["put", "k", "v"]).await.code, Some(0));
        if real.table.lock().sessions.is_empty() {
            return;
        }
        real.table.lock().sessions.clear();
    }
    panic!("20 sessions in a row were left open");
}

#[tokio::test]
async fn json_follows_its_schema() {
    let real = Real::start();
    let put = real.run(&["--output", "json", "put", "k", "v"]).await.json();
    assert_eq!(
        put,
        serde_json::json!({"outcome": "committed", "rev": 102, "reason": null, "token": null, "existed": false})
    );
    let get = real.run(&["get", "k", "--output", "json"]).await.json();
    assert_eq!((&get["value"], &get["mod_rev"], &get["found"]), (&"v".into(), &102.into(), &true.into()));
    let by_revision = real.run(&["cas", "k", "--rev", "102", "w", "--output", "json"]).await.json();
    assert_eq!(by_revision["outcome"], "committed");
    let failed = real.run(&["cas", "k", "--absent", "w", "--output", "json"]).await;
    assert_eq!((failed.code, &failed.json()["reason"]), (Some(4), &"condition_failed".into()));
    let missing = real.run(&["get", "no", "--output", "json"]).await;
    assert_eq!((missing.code, &missing.json()["found"]), (Some(3), &false.into()));
    let absent = real.run(&["delete", "no", "--output", "json"]).await;
    assert_eq!((absent.code, &absent.json()["existed"]), (Some(0), &false.into()));
    let status = real.run(&["status", "--output", "json"]).await.json();
    assert_eq!(status["cluster"], format!("{:032x}", 0xc1));
    assert_eq!((&status["leader"], &status["nodes"][0]["id"]), (&1.into(), &1.into()));
    let bench =
        real.run(&["bench", "--seconds", "1", "--clients", "4", "--mix", "50", "--output", "json"]).await;
    assert_eq!(bench.code, Some(0), "{bench:?}");
    assert!(bench.json()["put_latency_us"]["p99"].as_u64() > Some(0), "{bench:?}");
    assert!(bench.json()["get_latency_us"]["p999"].as_u64() > Some(0), "{bench:?}");
}

#[tokio::test]
async fn a_traced_put_tells_its_id_and_the_way_it_took() {
    let real = Real::start();
    let put = real.run(&["put", "k", "v", "--trace"]).await;
    let id = put.stderr.strip_prefix("kv-client: trace ").map(str::trim_end).unwrap().to_owned();
    assert_eq!(
        (put.code, put.text()),
        (Some(0), "committed at revision 102 (the key was not there before)\n")
    );
    let trace = real.run(&["trace", &id]).await;
    assert_eq!(trace.code, Some(0), "{trace:?}");
    let steps: Vec<Vec<&str>> =
        trace.text().lines().skip(1).map(|line| line.split_whitespace().collect()).collect();
    let [open, write] = steps.as_slice() else { panic!("{trace:?}") };
    assert_eq!((&open[1..6], open[7]), (&["1.250", "1", "kv.open_session", "for", "client"][..], "answered"));
    assert_eq!(&write[1..4], ["1.250", "1", "kv.write"]);
    // The node says how long ago each was; the second came 1.5 ms after the first.
    assert_eq!((open[0], write[0]), ("0.000", "1.500"));

    let json = real.run(&["get", "k", "--trace", "--output", "json"]).await;
    assert_eq!(json.stderr, "", "the id is in the JSON");
    let id = json.json()["trace"].as_str().unwrap().to_owned();
    let trace = real.run(&["trace", &id, "--output", "json"]).await.json();
    assert_eq!((&trace["trace"], &trace["steps"][0]["method"]), (&id.into(), &"kv.get".into()), "{trace}");
    assert_eq!(trace["steps"][1], serde_json::Value::Null, "and nothing of the other one");
    let put = real.run(&["put", "k", "v", "--output", "json"]).await.json();
    assert_eq!(put.get("trace"), None, "not asked for");
}

#[tokio::test]
async fn a_batch_answers_each_line_in_its_place() {
    let real = Real::start();
    real.run(&["put", "here", "before"]).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("batch").display().to_string();
    let mut lines: Vec<String> =
        (0..300).map(|n| format!(r#"{{"op":"put","key":"k{n}","value":"v{n}"}}"#)).collect();
    lines.push(r#"{"op":"get","key":"here"}"#.to_owned());
    lines.push(String::new());
    lines.push(r#"{"op":"delete","key":"here too"}"#.to_owned());
    lines.push(r#"{"op":"get","key":"nowhere"}"#.to_owned());
    std::fs::write(&file, lines.join("\n")).unwrap();
    let batch = real.run(&["batch", &file]).await;
    assert_eq!((batch.code, batch.stderr.as_str()), (Some(0), ""));
    let answers: Vec<serde_json::Value> =
        batch.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let [puts @ .., read, deleted, missing] = answers.as_slice() else { panic!("{batch:?}") };
    assert_eq!(puts.len(), 300);
    assert!(puts.iter().all(|put| put["outcome"] == "committed"), "{batch:?}");
    assert_eq!((&read["value"], &deleted["existed"]), (&"before".into(), &false.into()));
    assert_eq!(missing["found"], false);
    assert_eq!(real.table.lock().rows[&Bytes::from("k299")].0, "v299");

    real.table.set(1, Manner::Refuse(KvError::NoQuorum));
    let refused = real.run(&["batch", &file, "--timeout", "300ms"]).await;
    assert_eq!((refused.code, refused.text().lines().count()), (Some(5), 303));
}

#[tokio::test]
async fn a_batch_names_the_token_of_each_unknown_write_and_sends_nothing_that_it_cannot_read() {
    let real = Real::start();
    let batch = async |text: &str, arguments: &[&str]| {
        let mut command = real.command(&[&["batch"], arguments].concat());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(text.as_bytes()).await.unwrap();
        ended(child.wait_with_output().await.unwrap())
    };
    let puts =
        "{\"op\":\"put\",\"key\":\"a\",\"value\":\"1\"}\n{\"op\":\"put\",\"key\":\"b\",\"value\":\"2\"}\n";
    for (wrong, sentence) in [("nonsense", "line 3"), (r#"{"op":"burn","key":"k"}"#, "line 3")] {
        let refused = batch(&format!("{puts}{wrong}\n"), &[]).await;
        assert_eq!((refused.code, refused.text()), (Some(2), ""), "{refused:?}");
        assert!(
            refused.stderr.contains(sentence) && refused.stderr.contains("nothing was sent"),
            "{refused:?}"
        );
    }
    assert_eq!(batch(puts, &["--token-file", "t"]).await.code, Some(2));
    assert_eq!(real.table.calls(1, "open_session"), 0);

    real.table.set(1, Manner::SwallowWrites);
    let unknown = batch(puts, &["--timeout", "500ms"]).await;
    assert_eq!(unknown.code, Some(6), "{unknown:?}");
    let tokens: Vec<Token> = unknown.text().lines().map(token_in_json).collect();
    assert!(tokens.len() == 2 && tokens[0] != tokens[1], "{unknown:?}");
}

fn token_in_json(line: &str) -> Token {
    let answer: serde_json::Value = serde_json::from_str(line).unwrap();
    answer["token"].as_str().unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_trace_that_nobody_remembers_is_not_found() {
    let real = Real::start();
    let unknown = real.run(&["trace", &"7".repeat(32)]).await;
    assert_eq!((unknown.code, unknown.text()), (Some(3), ""));
    assert!(unknown.stderr.contains("no node remembers trace 777"), "{unknown:?}");
    let silent = without_server(&["trace", &"7".repeat(32), "--timeout", "200ms"]).await;
    assert_eq!(silent.code, Some(5), "{silent:?}");
}

#[tokio::test]
async fn values_are_exact_bytes_in_and_out() {
    let real = Real::start();
    let mut value = vec![0; 1_048_576];
    real.table.lock().random.fill(&mut value);
    let mut put = real.command(&["put", "blob", "-"]);
    let mut put = put.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = put.stdin.take().unwrap();
    let written = value.clone();
    let feed = async move {
        stdin.write_all(&written).await.unwrap();
        drop(stdin);
    };
    let (ended, ()) = tokio::join!(put.wait(), feed);
    assert_eq!(ended.unwrap().code(), Some(0));
    let get = real.run(&["get", "blob", "--raw"]).await;
    assert!(get.code == Some(0) && get.stdout == value, "{} bytes", get.stdout.len());
    let with_newline = real.run(&["get", "blob"]).await;
    assert_eq!(with_newline.stdout.len(), value.len() + 1);

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("value");
    std::fs::write(&file, [0, 10, 255]).unwrap();
    assert_eq!(real.run(&["put", "file", &format!("@{}", file.display())]).await.code, Some(0));
    assert_eq!(real.run(&["get", "file", "--raw"]).await.stdout, [0, 10, 255]);
    assert_eq!(real.run(&["get", "file", "--output", "json"]).await.json()["value_b64"], "AAr/");

    let mut odd = real.command(&["put"]);
    let odd = odd.arg(OsStr::from_bytes(b"\xff")).arg(OsStr::from_bytes(b"-\xfe")).output().await.unwrap();
    assert_eq!(odd.status.code(), Some(0), "{odd:?}");
    assert!(real.table.lock().rows.contains_key(&Bytes::from_static(b"\xff")));
}

#[tokio::test]
async fn an_unknown_write_prints_the_line_that_settles_it() {
    let real = Real::start();
    real.run(&["put", "warm", "up"]).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token").display().to_string();
    real.table.set(1, Manner::SwallowWrites);
    let put = real.run(&["put", "k", "v", "--timeout", "1500ms", "--token-file", &file]).await;
    assert_eq!(put.code, Some(6), "{put:?}");
    let line = format!("kv-client --endpoints {} resolve kv1-", real.endpoint);
    assert!(put.stderr.contains(&line), "{put:?}");
    let token = token_in(&put.stderr);
    assert_eq!(token_in(&std::fs::read_to_string(&file).unwrap()), token, "it was saved before it was sent");

    let unresolved =
        real.run(&["resolve", &token.to_string(), "--timeout", "300ms", "--output", "json"]).await;
    assert_eq!((unresolved.code, &unresolved.json()["outcome"]), (Some(6), &"unknown".into()));
    real.table.heal();
    let resolved = real.run(&["resolve", "--token-file", &file]).await;
    assert_eq!(resolved.code, Some(5), "{resolved:?}");
    assert!(resolved.stderr.contains("rolled back"), "{resolved:?}");
    let again = real.run(&["resolve", &token.to_string(), "--output", "json"]).await;
    assert_eq!(again.json()["reason"], "rolled_back");
}

#[tokio::test]
async fn a_signal_after_sending_names_the_token() {
    for (signal, code) in [("-INT", 130), ("-TERM", 143)] {
        let real = Real::start();
        real.table.set(1, Manner::SwallowWrites);
        let child = real.command(&["put", "k", "v"]).stderr(Stdio::piped()).spawn().unwrap();
        real.until_asked("write").await;
        interrupt(&child, signal).await;
        let put = ended(child.wait_with_output().await.unwrap());
        assert_eq!(put.code, Some(code), "{put:?}");
        token_in(&put.stderr);
    }
}

#[tokio::test]
async fn a_signal_before_sending_names_none() {
    let real = Real::start();
    real.table.set(1, Manner::Swallow);
    let child = real.command(&["put", "k", "v"]).stderr(Stdio::piped()).spawn().unwrap();
    real.until_asked("open_session").await;
    interrupt(&child, "-INT").await;
    let put = ended(child.wait_with_output().await.unwrap());
    assert_eq!((put.code, put.stderr.as_str()), (Some(130), "kv-client: interrupted\n"));
}

#[tokio::test]
async fn a_reader_that_went_away_is_no_panic() {
    let real = Real::start();
    let script = format!("{} get k --raw | true; exit ${{PIPESTATUS[0]}}", env!("CARGO_BIN_EXE_kv-client"));
    real.table.lock().rows.insert("k".into(), (vec![7; 1_000_000].into(), 1));
    let mut shell = Command::new("bash");
    let shell = shell.args(["-c", &script]).env("KV_ENDPOINTS", &real.endpoint).output().await.unwrap();
    let shell = ended(shell);
    assert_eq!((shell.code, shell.stderr.as_str()), (Some(0), ""));
}

#[tokio::test]
async fn health_is_of_the_node_and_readiness_of_the_quorum() {
    let real = Real::start();
    assert_eq!(real.run(&["health", "--local"]).await.code, Some(0));
    assert_eq!(real.run(&["wait", "--ready"]).await.code, Some(0));
    real.table.set(1, Manner::Refuse(KvError::NoQuorum));
    let sick = real.run(&["health", "--local", "--output", "json"]).await;
    assert_eq!((sick.code, &sick.json()["reason"]), (Some(1), &"the disk failed".into()));
    let unready = real.run(&["wait", "--ready", "--timeout", "300ms"]).await;
    assert_eq!(unready.code, Some(5));
    assert!(unready.stderr.contains("no quorum answers"), "{unready:?}");
}

#[tokio::test]
async fn member_replace_names_the_successor() {
    let real = Real::start();
    let replaced = real.run(&["member", "replace", "3"]).await;
    assert_eq!(
        (replaced.code, replaced.text()),
        (Some(0), "node 3 is replaced: its successor votes as node 4\n")
    );
    let unknown = real.run(&["member", "replace", "8"]).await;
    assert_eq!(
        (unknown.code, unknown.stderr.as_str()),
        (Some(3), "kv-client: not changed: node 8 is not a member\n")
    );
}

#[tokio::test]
async fn members_are_added_removed_and_lead() {
    let real = Real::start();
    for (arguments, code, said) in [
        (&["member", "add", "node4:7301"][..], 0, "the node at node4:7301 votes as node 5\n"),
        (&["member", "add", "node4:7301", "--output", "json"], 0, "{\"added\":5}\n"),
        (&["leader", "move"], 0, "node 2 leads\n"),
        (&["leader", "move", "3", "--output", "json"], 0, "{\"leader\":3}\n"),
        (&["member", "add", "node4"], 2, ""),
    ] {
        let ended = real.run(arguments).await;
        assert_eq!((ended.code, ended.text()), (Some(code), said), "{arguments:?}: {}", ended.stderr);
    }
    let refused = real.run(&["member", "remove", "2"]).await;
    assert_eq!(refused.code, Some(5));
    assert!(
        refused.stderr.contains("not changed: only voters [1] answer, 2 are needed"),
        "{}",
        refused.stderr
    );
}

#[tokio::test]
async fn a_snapshot_is_saved_whole_and_overwrites_nothing() {
    let real = Real::start();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("backup");
    let path = file.to_str().unwrap();
    let saved = real.run(&["snapshot", "save", path]).await;
    assert_eq!(
        (saved.code, saved.text()),
        (Some(0), format!("{path}: 1000 bytes, every write up to revision 9\n").as_str())
    );
    assert_eq!(std::fs::read(&file).unwrap(), SNAPSHOT);
    let again = real.run(&["snapshot", "save", path]).await;
    assert_eq!(again.code, Some(1));
    assert!(again.stderr.contains("is there already"), "{}", again.stderr);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing else is left");
}

#[tokio::test]
async fn the_sessions_of_a_node_are_listed_and_closed() {
    let real = Real::start();
    let listed = real.run(&["admin", "sessions"]).await;
    assert_eq!(listed.code, Some(0));
    assert!(listed.text().contains("by it") && listed.text().contains("127.0.0.1:"), "{}", listed.text());
    let closed = real.run(&["admin", "sessions", "--close", "127.0.0.1:7301", "--output", "json"]).await;
    assert_eq!(closed.code, Some(0));
    assert!(
        closed.text().starts_with("{\"node\":1,\"closed\":1,\"connections\":[{\"address\":"),
        "{}",
        closed.text()
    );
    let none = real.run(&["admin", "sessions", "--close", "127.0.0.1:9"]).await;
    assert_eq!(none.code, Some(3));
}

#[tokio::test]
async fn without_a_server_nothing_is_applied_and_the_time_is_kept() {
    let clock = system::runtime(tokio::runtime::Handle::current());
    for arguments in
        [&["get", "k"][..], &["put", "k", "v"], &["delete", "k"], &["status"], &["wait", "--ready"]]
    {
        let begun = clock.now();
        let ended = without_server(&[arguments, &["--timeout", "400ms"]].concat()).await;
        assert_eq!(ended.code, Some(5), "{ended:?}");
        assert!(ended.stderr.starts_with("kv-client: ") && ended.stderr.lines().count() == 1, "{ended:?}");
        assert!(clock.now() - begun < Duration::from_secs(4), "{arguments:?}");
    }
    let token = Token { cluster: 1, session: 2, sequence: 3, expires_ms: 4 }.to_string();
    assert_eq!(
        without_server(&["resolve", &token, "--timeout", "300ms"]).await.code,
        Some(6),
        "still unknown"
    );
}

#[tokio::test]
async fn wrong_usage_is_2_and_a_limit_is_8_before_anything_is_sent() {
    let long_key = "k".repeat(4_097);
    let table: [(&[&str], i32, &str); 13] = [
        (&[], 2, "Usage"),
        (&["frobnicate"], 2, "frobnicate"),
        (&["put", "k"], 2, "<VALUE>"),
        (&["--endpoints", "nonsense", "get", "k"], 2, "bad address `nonsense`"),
        (&["get", "k", "--timeout", "soon"], 2, "soon"),
        (&["cas", "k", "v"], 2, "the new value is missing"),
        (&["cas", "k", "a", "b", "--absent"], 2, "one of them is too many"),
        (&["resolve", "kv1-nonsense"], 2, "71 characters"),
        (&["resolve"], 2, "no token"),
        (&["trace", "0123"], 2, "32 hexadecimal digits"),
        (&["put", "k", "@/does/not/exist"], 2, "/does/not/exist"),
        (&["put", "", "v"], 8, "the key is empty"),
        (&["get", &long_key], 8, "larger than the limit of 4096 bytes"),
    ];
    for (arguments, code, sentence) in table {
        let ended = without_server(arguments).await;
        assert_eq!(ended.code, Some(code), "{arguments:?}: {ended:?}");
        assert!(ended.stderr.contains(sentence), "{arguments:?}: {ended:?}");
    }
}

#[tokio::test]
async fn a_value_above_the_limit_is_refused_by_its_size() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("large");
    std::fs::write(&file, vec![7; 1_048_577]).unwrap();
    let ended = without_server(&["put", "k", &format!("@{}", file.display())]).await;
    assert_eq!(ended.code, Some(8));
    assert!(ended.stderr.contains("larger than the limit of 1048576 bytes"), "{ended:?}");
}
