//! The limit of calls over TCP: `u32 length | u64 id | bytes`, all writes of a turn in one system call, and nothing
//! that makes an RPC useful: no types, no methods, no deadlines, no limits.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;

use crate::contract::{Caller, MESSAGE_SIZE_MAX, Ready};

const HEADER_SIZE: usize = 12;
const READ_SIZE: usize = 64 << 10;

pub async fn serve(address: SocketAddr) -> Result<()> {
    let listener = TcpListener::bind(address).await?;
    Ready::tell(listener.local_addr()?, &[])?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let (reader, writer) = stream.into_split();
        let outbox = Arc::new(Outbox::default());
        // A reader that also wrote would stall when both sides send more than the socket buffers hold.
        let writing = tokio::spawn(Arc::clone(&outbox).write_to(writer));
        tokio::spawn(async move {
            let ended = read_frames(reader, |frames| outbox.push(frames)).await;
            writing.abort();
            ended
        });
    }
}

pub struct Client {
    outbox: Arc<Outbox>,
    waiting: Arc<Mutex<Waiting>>,
    tasks: [JoinHandle<Result<()>>; 2],
}

#[derive(Default)]
struct Waiting {
    next_id: u64,
    by_id: HashMap<u64, oneshot::Sender<Bytes>>,
}

impl Caller for Client {
    async fn connect(server: SocketAddr, _secret: &str) -> Result<Self> {
        let stream = TcpStream::connect(server).await?;
        stream.set_nodelay(true)?;
        let (reader, writer) = stream.into_split();
        let outbox = Arc::new(Outbox::default());
        let waiting = Arc::new(Mutex::new(Waiting::default()));
        let writing = tokio::spawn(Arc::clone(&outbox).write_to(writer));
        let answered = Arc::clone(&waiting);
        let reading = tokio::spawn(read_frames(reader, move |frames| {
            let mut waiting = answered.lock().unwrap_or_else(PoisonError::into_inner);
            for (id, data) in frames {
                if let Some(caller) = waiting.by_id.remove(&id) {
                    let _ = caller.send(data);
                }
            }
        }));
        Ok(Self { outbox, waiting, tasks: [writing, reading] })
    }

    async fn echo(&self, data: Bytes) -> Result<Bytes> {
        let (caller, answer) = oneshot::channel();
        let id = {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            waiting.next_id += 1;
            let id = waiting.next_id;
            waiting.by_id.insert(id, caller);
            id
        };
        self.outbox.push([(id, data)]);
        answer.await.context("connection ended")
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// Frames that wait for the writer.
#[derive(Default)]
struct Outbox {
    bytes: Mutex<BytesMut>,
    filled: Notify,
}

impl Outbox {
    fn push(&self, frames: impl IntoIterator<Item = (u64, Bytes)>) {
        {
            let mut bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
            for (id, data) in frames {
                bytes.put_u32_le(u32::try_from(data.len()).expect("messages are below 4 GiB"));
                bytes.put_u64_le(id);
                bytes.put_slice(&data);
            }
        }
        self.filled.notify_one();
    }

    async fn write_to(self: Arc<Self>, mut writer: OwnedWriteHalf) -> Result<()> {
        let mut writing = BytesMut::new();
        loop {
            self.filled.notified().await;
            std::mem::swap(&mut writing, &mut self.bytes.lock().unwrap_or_else(PoisonError::into_inner));
            writer.write_all(&writing).await?;
            writing.clear();
        }
    }
}

/// Hands the frames of each read to `handle` together, until the peer closes.
async fn read_frames(mut reader: OwnedReadHalf, mut handle: impl FnMut(Vec<(u64, Bytes)>)) -> Result<()> {
    let mut bytes = BytesMut::with_capacity(READ_SIZE);
    while reader.read_buf(&mut bytes).await? > 0 {
        let mut frames = Vec::new();
        while let Some(frame) = next_frame(&mut bytes)? {
            frames.push(frame);
        }
        handle(frames);
        bytes.reserve(READ_SIZE);
    }
    Ok(())
}

fn next_frame(bytes: &mut BytesMut) -> Result<Option<(u64, Bytes)>> {
    let Some(mut header) = bytes.get(..HEADER_SIZE) else { return Ok(None) };
    let length = header.get_u32_le() as usize;
    let id = header.get_u64_le();
    anyhow::ensure!(length <= MESSAGE_SIZE_MAX, "a frame of {length} bytes");
    if bytes.len() < HEADER_SIZE + length {
        bytes.reserve(HEADER_SIZE + length - bytes.len());
        return Ok(None);
    }
    bytes.advance(HEADER_SIZE);
    Ok(Some((id, bytes.split_to(length).freeze())))
}
