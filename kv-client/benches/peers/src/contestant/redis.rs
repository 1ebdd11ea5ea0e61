//! Redis as one would make it safe without consensus: a primary that syncs before it answers, and two replicas of which
//! one must have received a write.

use std::fmt::Write as _;
use std::ops::Range;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail};
use async_trait::async_trait;
use bytes::Bytes;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, Pipeline, Script};

use super::Plan;
use crate::processes;
use crate::store::{Found, Session, Store, Target, Version, batch, key, value};

pub fn command(plan: &Plan, program: &Path, node: usize) -> Result<Command> {
    let folder = plan.node_folder(node)?;
    let path = folder.join("redis.conf");
    let mut text = String::new();
    writeln!(text, "bind 127.0.0.1\nport {}\ndir {:?}", plan.port(node, 0), folder)?;
    // Snapshots and rewrites of the log would run beside the measurement.
    writeln!(text, "appendonly yes\nappendfsync always\nsave \"\"\nauto-aof-rewrite-percentage 0")?;
    writeln!(text, "repl-diskless-sync-delay 0\nrepl-backlog-size 64mb")?;
    if node != PRIMARY {
        writeln!(text, "replicaof 127.0.0.1 {}", plan.port(PRIMARY, 0))?;
    }
    Plan::write_once(&path, &text)?;
    let mut command = processes::command(program);
    command.arg(path);
    Ok(command)
}

pub struct Redis {
    nodes: Vec<String>,
    /// Replicas that must have received a write: with the primary a majority.
    replicas: usize,
}

impl Redis {
    pub fn new(plan: &Plan) -> Self {
        Self { nodes: plan.addresses("redis://", 0), replicas: plan.nodes / 2 }
    }
}

#[async_trait]
impl Store for Redis {
    async fn leader(&self) -> Result<usize> {
        Ok(PRIMARY)
    }

    async fn connect(&self, to: Target) -> Result<Box<dyn Session>> {
        let node = match to {
            Target::Leader => PRIMARY,
            Target::Node(node) => node,
        };
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(RESPONSE_TIMEOUT));
        let client = Client::open(self.nodes[node].as_str())?;
        let connection = client.get_multiplexed_async_connection_with_config(&config).await?;
        Ok(Box::new(OneClient { connection, replicas: self.replicas, is_script_loaded: false }))
    }
}

struct OneClient {
    connection: MultiplexedConnection,
    replicas: usize,
    is_script_loaded: bool,
}

impl OneClient {
    /// Sends a write and the wait for its replicas in one go; what the write answered.
    async fn write<R: redis::FromRedisValue>(&mut self, pipeline: &mut Pipeline) -> Result<R> {
        pipeline.cmd("WAIT").arg(self.replicas).arg(WAIT_MS);
        let (answer, received): (R, usize) = pipeline.query_async(&mut self.connection).await?;
        if received < self.replicas {
            bail!("{received} replicas have it");
        }
        Ok(answer)
    }
}

#[async_trait]
impl Session for OneClient {
    async fn put(&mut self, key: &str, value: Bytes) -> Result<()> {
        let mut pipeline = redis::pipe();
        pipeline.cmd("SET").arg(key).arg(&value[..]);
        let answer: String = self.write(&mut pipeline).await?;
        if answer != "OK" {
            bail!("{answer}");
        }
        Ok(())
    }

    async fn get(&mut self, key: &str) -> Result<Option<Found>> {
        let found: Option<Vec<u8>> = redis::cmd("GET").arg(key).query_async(&mut self.connection).await?;
        Ok(found.map(Bytes::from).map(|value| Found { version: Version::Value(value.clone()), value }))
    }

    async fn cas(&mut self, key: &str, expected: &Version, value: Bytes) -> Result<Option<Version>> {
        let Version::Value(expected) = expected else { bail!("a version of another store") };
        let script = Script::new(CAS);
        if !self.is_script_loaded {
            let load = redis::cmd("SCRIPT").arg("LOAD").arg(CAS).to_owned();
            let _: String = load.query_async(&mut self.connection).await?;
            self.is_script_loaded = true;
        }
        let mut pipeline = redis::pipe();
        pipeline.cmd("EVALSHA").arg(script.get_hash()).arg(1).arg(key).arg(&expected[..]).arg(&value[..]);
        let swapped: bool = self.write(&mut pipeline).await?;
        Ok(swapped.then_some(Version::Value(value)))
    }

    async fn fill(&mut self, mut keys: Range<u64>, size: usize) -> Result<()> {
        while !keys.is_empty() {
            let some = keys.start..keys.end.min(keys.start + batch(size, PIPELINED));
            keys.start = some.end;
            let mut pipeline = redis::pipe();
            for index in some {
                let key = key(index);
                pipeline.cmd("SET").arg(&key).arg(&value(&key, size, index)[..]).ignore();
            }
            let (): () = pipeline.query_async(&mut self.connection).await?;
        }
        Ok(())
    }
}

/// Swaps if the key holds the first argument.
const CAS: &str = "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2])
return 1";
/// The node that takes writes; the others replicate it.
const PRIMARY: usize = 0;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a replica may take, in milliseconds.
const WAIT_MS: u64 = 2_000;
/// Writes sent at once while it is filled.
const PIPELINED: u64 = 200;
