//! NATS JetStream key-value with three replicas, which sync before they acknowledge (`sync_interval: always`).

use std::fmt::Write as _;
use std::ops::Range;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use async_nats::ConnectOptions;
use async_nats::jetstream::kv::{Store as Bucket, UpdateErrorKind};
use async_nats::jetstream::stream::{Config, DiscardPolicy, StorageType};
use async_nats::jetstream::{self, Context};
use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::try_join_all;

use super::Plan;
use crate::processes;
use crate::store::{Found, Session, Store, Target, Version, batch, key, value};

pub fn command(plan: &Plan, program: &Path, node: usize) -> Result<Command> {
    let folder = plan.node_folder(node)?;
    let path = folder.join("nats.conf");
    let mut text = String::new();
    writeln!(text, "server_name: n{node}\nlisten: \"{}\"", plan.address(node, 0))?;
    writeln!(text, "jetstream {{ store_dir: {:?}, sync_interval: always }}", folder.join("data"))?;
    let routes = plan.addresses("nats://", 1).join(", ");
    writeln!(text, "cluster {{ name: compare, listen: \"{}\", routes: [{routes}] }}", plan.address(node, 1))?;
    Plan::write_once(&path, &text)?;
    let mut command = processes::command(program);
    command.arg("-c").arg(path);
    Ok(command)
}

pub struct Nats {
    nodes: Vec<String>,
    replicas: usize,
}

impl Nats {
    pub fn new(plan: &Plan) -> Self {
        Self { nodes: plan.addresses("nats://", 0), replicas: plan.nodes }
    }

    async fn jetstream(&self, node: usize) -> Result<Context> {
        let client = ConnectOptions::new()
            .connection_timeout(CONNECT_TIMEOUT)
            .ignore_discovered_servers()
            .connect(&self.nodes[node])
            .await?;
        let mut jetstream = jetstream::new(client);
        jetstream.set_timeout(REQUEST_TIMEOUT);
        Ok(jetstream)
    }

    /// What the node says about who leads the bucket's stream.
    async fn leader_by(&self, node: usize) -> Result<usize> {
        let stream = self.jetstream(node).await?.get_stream(STREAM).await?;
        let cluster = stream.cached_info().cluster.as_ref();
        let leader = cluster.and_then(|cluster| cluster.leader.as_deref()).context("nobody leads")?;
        Ok(leader.trim_start_matches('n').parse()?)
    }
}

#[async_trait]
impl Store for Nats {
    async fn prepare(&self) -> Result<()> {
        let config = Config {
            // What a bucket is made of, except for direct reads: any replica answers those, however stale.
            name: STREAM.to_owned(),
            subjects: vec![format!("$KV.{BUCKET}.>")],
            max_messages_per_subject: 1,
            allow_direct: false,
            allow_rollup: true,
            deny_delete: true,
            discard: DiscardPolicy::New,
            num_replicas: self.replicas,
            max_messages: -1,
            max_bytes: -1,
            max_message_size: -1,
            storage: StorageType::File,
            ..Config::default()
        };
        self.jetstream(0).await?.get_or_create_stream(config).await?;
        Ok(())
    }

    async fn leader(&self) -> Result<usize> {
        // A node that was stopped may still name itself: the leader is whom most name.
        let mut named = vec![0; self.nodes.len()];
        for node in 0..self.nodes.len() {
            if let Ok(Ok(leader)) = tokio::time::timeout(STATUS_TIMEOUT, self.leader_by(node)).await
                && let Some(count) = named.get_mut(leader)
            {
                *count += 1;
            }
        }
        named.iter().position(|count| count * 2 > self.nodes.len()).context("nobody leads")
    }

    async fn connect(&self, to: Target) -> Result<Box<dyn Session>> {
        let node = match to {
            Target::Leader => self.leader().await?,
            Target::Node(node) => node,
        };
        Ok(Box::new(OneClient(self.jetstream(node).await?.get_key_value(BUCKET).await?)))
    }
}

struct OneClient(Bucket);

#[async_trait]
impl Session for OneClient {
    async fn put(&mut self, key: &str, value: Bytes) -> Result<()> {
        self.0.put(key, value).await?;
        Ok(())
    }

    async fn get(&mut self, key: &str) -> Result<Option<Found>> {
        let entry = self.0.entry(key).await?;
        Ok(entry.map(|entry| Found { value: entry.value, version: Version::Number(entry.revision) }))
    }

    async fn cas(&mut self, key: &str, expected: &Version, value: Bytes) -> Result<Option<Version>> {
        match self.0.update(key, value, expected.number()?).await {
            Ok(revision) => Ok(Some(Version::Number(revision))),
            Err(error) if error.kind() == UpdateErrorKind::WrongLastRevision => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    async fn fill(&mut self, mut keys: Range<u64>, size: usize) -> Result<()> {
        while !keys.is_empty() {
            let some = keys.start..keys.end.min(keys.start + batch(size, FILL_IN_FLIGHT));
            keys.start = some.end;
            let bucket = &self.0;
            try_join_all(some.map(|index| async move {
                let key = key(index);
                bucket.put(&key, value(&key, size, index)).await
            }))
            .await?;
        }
        Ok(())
    }
}

const BUCKET: &str = "compare";
/// The stream that keeps the bucket.
const STREAM: &str = "KV_compare";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a node may take to say who leads.
const STATUS_TIMEOUT: Duration = Duration::from_millis(1_500);
/// Puts in flight on one connection while it is filled.
const FILL_IN_FLIGHT: u64 = 200;
