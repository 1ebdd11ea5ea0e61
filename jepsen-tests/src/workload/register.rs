//! Gets, puts, cas and deletes on a few keys that all clients share.

use bytes::Bytes;
use rpc_core::random::SeededRandom;

use super::{Change, Worker};

/// How often what is done, in percent; the rest are deletes.
pub(super) struct Mix {
    name: &'static str,
    keys: u64,
    gets: u64,
    puts: u64,
    cas: u64,
    is_large: bool,
}

pub(super) const REGISTER: Mix = Mix { name: "k", keys: 3, gets: 40, puts: 30, cas: 22, is_large: false };
pub(super) const LARGE: Mix = Mix { name: "large/", keys: 1, gets: 40, puts: 40, cas: 15, is_large: true };
pub(super) const RECREATE: Mix =
    Mix { name: "recreate/", keys: 1, gets: 25, puts: 5, cas: 40, is_large: false };

/// One of so many gets goes through a node that is drawn.
const GETS_PER_PROBE: u64 = 4;

/// Works on the keys of `mix`.
pub(super) async fn run(mut worker: Worker, mix: &Mix) {
    let mut process = worker.recorder.process();
    let mut written = 0u64;
    // What this client saw last of each key in use: a cas that expects it has a chance.
    let mut seen: Vec<(String, Option<Bytes>)> = Vec::new();
    while !worker.is_over() {
        let number = worker.random.below(mix.keys);
        let key = worker.key(mix.name, mix.keys, number);
        let known = seen.iter().find(|(other, _)| *other == key).map(|(_, value)| value.clone());
        written += 1;
        let name = format!("{process}.{written}");
        let value = if mix.is_large { padded(&name, &mut worker.random) } else { name.into() };
        let draw = worker.random.below(100);
        let is_known = if draw < mix.gets {
            // Some through one node, whoever leads: one that was away may take itself for the leader.
            let through = worker.random.below(GETS_PER_PROBE) == 0;
            let node = through.then(|| worker.random.below(worker.nodes.len() as u64) as usize);
            let node = node.and_then(|index| worker.nodes.get(index));
            let (name, client) = node.map_or((None, &worker.client), |(node, client)| (Some(*node), client));
            if let Some(value) = worker.recorder.get(client, process, name, &key).await {
                seen.retain(|(other, _)| *other != key);
                seen.push((key, value));
                seen.drain(..seen.len().saturating_sub(mix.keys as usize));
            }
            true
        } else {
            let change = match draw - mix.gets {
                put if put < mix.puts => Change::Put(value),
                cas if cas < mix.puts + mix.cas => Change::Cas(known.flatten(), value),
                _ => Change::Delete,
            };
            worker.recorder.write(&worker.client, process, &key, change).await
        };
        if !is_known {
            process = worker.recorder.process();
        }
        worker.rest().await;
        if mix.is_large {
            worker.rest().await;
        }
    }
}

/// Puts each key once, and reads some of its own again.
pub(super) async fn insert(mut worker: Worker) {
    let mut process = worker.recorder.process();
    let mut keys: Vec<String> = Vec::new();
    while !worker.is_over() {
        if !keys.is_empty() && worker.random.below(4) == 0 {
            let key = &keys[worker.random.below(keys.len() as u64) as usize];
            worker.recorder.get(&worker.client, process, None, key).await;
        } else {
            let name = format!("{process}.{}", keys.len());
            let key = worker.recorder.key(&format!("set/{name}"));
            keys.push(key.clone());
            let change = Change::Put(name.into());
            if !worker.recorder.write(&worker.client, process, &key, change).await {
                process = worker.recorder.process();
            }
        }
        worker.rest().await;
    }
}

/// `name` with so much behind it that it reaches a size at which something is cut: a datagram, a piece of the store.
fn padded(name: &str, random: &mut SeededRandom) -> Bytes {
    let limit = LIMITS[random.below(LIMITS.len() as u64) as usize];
    let size = random.between(limit - AROUND, limit + AROUND) as usize;
    let mut value = format!("{name}:").into_bytes();
    let first = value.len();
    // No two places look the same: a part that is put in the wrong place shows.
    value.extend((first..size.max(first)).map(|place| (place % 251) as u8));
    value.into()
}

/// The payload of one datagram, ten of them, a piece of the store, four of those.
const LIMITS: [u64; 5] = [300, 1_200, 12_000, 16 * 1_024, 64 * 1_024];
const AROUND: u64 = 200;
