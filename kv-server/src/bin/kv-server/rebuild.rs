//! `kv-server run --rebuild`: a node whose data is damaged or gone is made anew from the other members.
//!
//! The rule: a vote or an acknowledged entry may be lost with damaged data, so the node never comes back as the one that it
//! was. Its folder is set aside, and only when the others serve without it; it starts empty, and the cluster replaces
//! its old identity by the new one.

use std::fmt::Display;
use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use kv_client::api::{ChangeError, MemberChange};
use kv_client::{Client, Endpoint, Resolver};
use rpc_core::driver::udp::UdpSocket;
use rpc_core::peer::Peer;
use rpc_core::rpc::CallError;
use rpc_core::runtime::{BoxFuture, Runtime};
use rpc_core::security::Security;

use crate::exit::Exit;

/// Asks the other members on behalf of this one.
#[derive(Clone)]
pub(crate) struct Rebuilder {
    runtime: Runtime,
    client: Client,
}

impl Rebuilder {
    /// `others`: the addresses of the other members.
    pub(crate) fn new(runtime: &Runtime, security: Security, others: &[String]) -> Result<Self, Exit> {
        let failed =
            |what: &dyn Display| Exit::Fatal(format!("nothing to ask the other members with: {what}"));
        let endpoints: Result<Vec<Endpoint>, _> = others.iter().map(|other| other.parse()).collect();
        let endpoints = endpoints.map_err(|error| failed(&error))?;
        let is_ipv6 = endpoints.iter().all(|it| it.literal().is_some_and(|address| address.is_ipv6()));
        let any = if is_ipv6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
        let socket = UdpSocket::bind(SocketAddr::new(any, 0)).map_err(|error| failed(&error))?;
        let peer = Peer::builder(runtime.clone()).security(security).start(socket);
        let client = Client::builder(runtime.clone(), peer.map_err(|error| failed(&error))?)
            .endpoints(endpoints)
            .resolver(Arc::new(SystemNames))
            .timeout(PATIENCE)
            .build();
        Ok(Self { runtime: runtime.clone(), client })
    }

    /// Sets a damaged folder aside, if the other members are a quorum without this one.
    pub(crate) async fn set_aside(&self, folder: &Path, damage: &str) -> Result<(), Exit> {
        eprintln!("kv-server: {damage}");
        // A linearizable read: whoever answers it has a quorum behind it.
        if let Err(refusal) = self.client.with_timeout(CHECK).get("rebuild").await {
            return Err(Exit::Fatal(format!(
                "not rebuilt: the other members do not serve without this node ({refusal}), so its data may be needed \
                 (kv-server recover); the folder {} is left as it is",
                folder.display()
            )));
        }
        let aside = free_name(folder);
        let moved = fs::rename(folder, &aside).and_then(|()| File::open(parent(folder))?.sync_all());
        moved.map_err(|error| Exit::Folder { folder: folder.to_owned(), error })?;
        eprintln!("kv-server: the damaged folder is set aside as {}", aside.display());
        Ok(())
    }

    /// Has the cluster replace the member `old` by this node, which it refuses under that id.
    pub(crate) async fn replace(&self, old: u64) {
        loop {
            let change = MemberChange::Replace { old, address: None };
            match self.client.member_change(change).await {
                Ok(changed) => {
                    eprintln!("kv-server: node {old} is rebuilt: it votes as node {}", changed.id);
                    return;
                }
                // The leader may take the old one for alive for a moment.
                Err(CallError::Method(ChangeError::StillAlive { .. })) => {}
                Err(error) => eprintln!("kv-server: not rebuilt yet: {error}"),
            }
            self.runtime.sleep(PAUSE).await;
        }
    }
}

/// A name beside the folder that nothing has.
fn free_name(folder: &Path) -> PathBuf {
    let named = |suffix: String| {
        let mut name = folder.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    };
    let numbered = (2..).map(|number: u64| named(format!(".damaged-{number}")));
    let mut names = std::iter::once(named(".damaged".to_owned())).chain(numbered);
    names.find(|name| !name.exists()).unwrap_or_else(|| named(".damaged".to_owned()))
}

fn parent(folder: &Path) -> &Path {
    folder.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."))
}

/// Resolves as every program of this machine does.
struct SystemNames;

impl Resolver for SystemNames {
    fn resolve(&self, name: String) -> BoxFuture<io::Result<Vec<SocketAddr>>> {
        Box::pin(async move { Ok(tokio::net::lookup_host(name).await?.collect()) })
    }
}

/// How long the others are given for one answer: a replacement sends the whole log.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long they are given to show that they are a quorum.
const CHECK: Duration = Duration::from_secs(10);
/// Between two attempts.
const PAUSE: Duration = Duration::from_secs(2);
