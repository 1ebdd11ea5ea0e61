//! The layout of a snapshot file, and its writer and reader.
//!
//! ```text
//! magic   "raftsnp" | version u8 = 1
//! block   length u32 (1..=64 KiB), its highest bit: compressed | crc32c u32 of length and payload | payload
//!         a compressed payload is one LZ4 block of at most 64 KiB of content
//!         the first holds the state head (CBOR); all further ones together one stream of rows:
//!         key length u16 | log index u64 | n u32 | value length u32 | key | value       keys ascending
//! footer  0 u32 | rows u64 | crc32c u32 of all block checksums | crc32c u32 of the footer so far
//! ```
//! Numbers are big-endian. A key is a class byte (0 the machine's rows, 1 sessions and records) and the key in that
//! class; (log index, n) is the write that made the row. Nothing follows the footer.

use std::io;
use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::{SUFFIX_BUILDING, SUFFIX_DONE, SnapshotFile, SnapshotName, SnapshotOffer, damaged};
use crate::disk::Files;
use crate::machine::{ROW_KEY_SIZE_MAX, ROW_VALUE_SIZE_MAX};
use crate::state_head::StateHead;

/// One row of a snapshot, its value whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SnapshotRow {
    /// Class byte and key.
    pub(crate) key: Bytes,
    /// The log index of the write that made the row.
    pub(crate) index: u64,
    /// Which change of that write.
    pub(crate) n: u32,
    pub(crate) value: Bytes,
}

impl SnapshotRow {
    /// About the memory that the row takes, in bytes.
    pub(crate) fn size(&self) -> usize {
        self.key.len() + self.value.len() + 64
    }
}

/// Writes a snapshot under a temporary name.
pub(crate) struct SnapshotWriter {
    files: Arc<dyn Files>,
    name: SnapshotName,
    block: BytesMut,
    size: u64,
    rows: u64,
    /// CRC32C of the file so far.
    crc: u32,
    /// CRC32C of the checksums of all blocks.
    block_crcs: u32,
    /// Where a payload is compressed.
    compressed: Vec<u8>,
}

impl SnapshotWriter {
    pub(crate) fn create(files: Arc<dyn Files>, name: SnapshotName, head: &StateHead) -> io::Result<Self> {
        files.create(&name.with(SUFFIX_BUILDING))?;
        let block = BytesMut::with_capacity(2 * BLOCK_SIZE_MAX);
        let compressed = vec![0; lz4_flex::block::get_maximum_output_size(BLOCK_SIZE_MAX)];
        let mut writer = Self { files, name, block, size: 0, rows: 0, crc: 0, block_crcs: 0, compressed };
        writer.append(MAGIC)?;
        let head = head.to_bytes().map_err(io::Error::other)?;
        if head.len() > BLOCK_SIZE_MAX {
            return Err(io::Error::other(format!(
                "state head of {} bytes exceeds {BLOCK_SIZE_MAX}",
                head.len()
            )));
        }
        writer.append_block(&head)?;
        Ok(writer)
    }

    pub(crate) fn row(&mut self, row: &SnapshotRow) -> io::Result<()> {
        let key_length = u16::try_from(row.key.len()).map_err(io::Error::other)?;
        let value_length = u32::try_from(row.value.len()).map_err(io::Error::other)?;
        self.block.put_u16(key_length);
        self.block.put_u64(row.index);
        self.block.put_u32(row.n);
        self.block.put_u32(value_length);
        self.block.put_slice(&row.key);
        self.block.put_slice(&row.value);
        self.rows += 1;
        while self.block.len() >= BLOCK_SIZE_MAX {
            let payload = self.block.split_to(BLOCK_SIZE_MAX);
            self.append_block(&payload)?;
        }
        Ok(())
    }

    /// Makes the file durable under its final name.
    pub(crate) async fn finish(mut self) -> io::Result<SnapshotFile> {
        if !self.block.is_empty() {
            let payload = self.block.split();
            self.append_block(&payload)?;
        }
        let mut footer = BytesMut::with_capacity(FOOTER_SIZE);
        footer.put_u32(0);
        footer.put_u64(self.rows);
        footer.put_u32(self.block_crcs);
        footer.put_u32(crc32c::crc32c(&footer));
        self.append(&footer)?;
        let (building, done) = (self.name.with(SUFFIX_BUILDING), self.name.with(SUFFIX_DONE));
        self.files.sync(&building).await?;
        self.files.rename(&building, &done)?;
        self.files.sync_directory().await?;
        let offer = SnapshotOffer { name: done, size: self.size, crc: self.crc };
        Ok(SnapshotFile::new(self.files, offer))
    }

    /// Removes the unfinished file.
    pub(crate) fn abandon(self) -> io::Result<()> {
        self.files.remove(&self.name.with(SUFFIX_BUILDING))
    }

    fn append_block(&mut self, content: &[u8]) -> io::Result<()> {
        // Its buffer is large enough for whatever comes out.
        let size = lz4_flex::block::compress_into(content, &mut self.compressed).map_err(io::Error::other)?;
        let (payload, flag) = match size < content.len() {
            true => (&self.compressed[..size], COMPRESSED),
            false => (content, 0),
        };
        let mut block = BytesMut::with_capacity(BLOCK_HEADER_SIZE + payload.len());
        // A payload has at most BLOCK_SIZE_MAX bytes.
        block.put_u32(payload.len() as u32 | flag);
        let crc = block_crc(&block, payload);
        block.put_u32(crc);
        block.put_slice(payload);
        self.block_crcs = crc32c::crc32c_append(self.block_crcs, &crc.to_be_bytes());
        self.append(&block)
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.files.write(&self.name.with(SUFFIX_BUILDING), self.size, bytes)?;
        self.size += bytes.len() as u64;
        self.crc = crc32c::crc32c_append(self.crc, bytes);
        Ok(())
    }
}

/// Reads a snapshot from its beginning to its end, and checks every byte on the way.
pub(crate) struct SnapshotReader {
    file: SnapshotFile,
    head: StateHead,
    /// Read ahead of the rows.
    buffer: BytesMut,
    offset: u64,
    rows: u64,
    crc: u32,
    block_crcs: u32,
    last_key: Bytes,
    done: bool,
}

impl SnapshotReader {
    /// Reads the head.
    pub(crate) fn open(file: SnapshotFile) -> io::Result<Self> {
        let head = StateHead::default();
        let (buffer, last_key) = (BytesMut::new(), Bytes::new());
        let mut reader =
            Self { file, head, buffer, offset: 0, rows: 0, crc: 0, block_crcs: 0, last_key, done: false };
        if reader.take(MAGIC.len())?.as_ref() != MAGIC {
            return Err(reader.damaged("not a snapshot of this version"));
        }
        if !reader.read_block()? {
            return Err(reader.damaged("no head"));
        }
        let head = reader.buffer.split();
        reader.head = StateHead::from_bytes(&head).map_err(|error| reader.damaged(&error))?;
        Ok(reader)
    }

    /// The state apart from its rows. To be believed only after the last row.
    pub(crate) fn head(&self) -> &StateHead {
        &self.head
    }

    /// The next row; `None` after the last, and then the whole file was as it was written.
    pub(crate) fn next_row(&mut self) -> io::Result<Option<SnapshotRow>> {
        if !self.fill(ROW_HEADER_SIZE)? {
            return Ok(None);
        }
        let mut header = self.buffer.split_to(ROW_HEADER_SIZE);
        let (key_length, index) = (usize::from(header.get_u16()), header.get_u64());
        let (n, value_length) = (header.get_u32(), header.get_u32() as usize);
        if key_length > 1 + ROW_KEY_SIZE_MAX || value_length > ROW_VALUE_SIZE_MAX {
            return Err(self.damaged("a row exceeds the limits"));
        }
        if !self.fill(key_length + value_length)? {
            return Err(self.damaged("it ends within a row"));
        }
        let key = self.buffer.split_to(key_length).freeze();
        let value = self.buffer.split_to(value_length).freeze();
        if key.first().is_none_or(|class| *class > 1) || key <= self.last_key {
            return Err(self.damaged("rows out of order"));
        }
        self.last_key = key.clone();
        self.rows += 1;
        Ok(Some(SnapshotRow { key, index, n, value }))
    }

    /// Reads blocks until `size` bytes of rows are there; `false` if the rows end here, exactly between two.
    fn fill(&mut self, size: usize) -> io::Result<bool> {
        while self.buffer.len() < size {
            if self.done || !self.read_block()? {
                self.done = true;
                return if self.buffer.is_empty() {
                    Ok(false)
                } else {
                    Err(self.damaged("it ends within a row"))
                };
            }
        }
        Ok(true)
    }

    /// Adds the next block to the buffer; `false` if the footer came instead.
    fn read_block(&mut self) -> io::Result<bool> {
        let length_bytes = self.take(4)?;
        let length = length_bytes.as_ref().get_u32();
        let (length, is_compressed) = ((length & !COMPRESSED) as usize, length & COMPRESSED != 0);
        if length == 0 {
            return self.read_footer(length_bytes).map(|()| false);
        }
        if length > BLOCK_SIZE_MAX {
            return Err(self.damaged("a block exceeds the limit"));
        }
        let crc = self.take(4)?.get_u32();
        let payload = self.take(length)?;
        if block_crc(&length_bytes, &payload) != crc {
            return Err(self.damaged(&format!("checksum of the block that ends at {}", self.offset)));
        }
        self.block_crcs = crc32c::crc32c_append(self.block_crcs, &crc.to_be_bytes());
        if is_compressed {
            let start = self.buffer.len();
            self.buffer.resize(start + BLOCK_SIZE_MAX, 0);
            let size = lz4_flex::block::decompress_into(&payload, &mut self.buffer[start..])
                .map_err(|error| self.damaged(&format!("a block cannot be decompressed: {error}")))?;
            self.buffer.truncate(start + size);
        } else {
            self.buffer.extend_from_slice(&payload);
        }
        Ok(true)
    }

    fn read_footer(&mut self, marker: Bytes) -> io::Result<()> {
        let mut footer = self.take(FOOTER_SIZE - marker.len())?;
        let crc = crc32c::crc32c_append(crc32c::crc32c(&marker), &footer[..12]);
        let (rows, block_crcs) = (footer.get_u64(), footer.get_u32());
        if footer.get_u32() != crc {
            return Err(self.damaged("checksum of the footer"));
        }
        if (rows, block_crcs) != (self.rows, self.block_crcs) {
            return Err(self.damaged("the footer belongs to other rows"));
        }
        if self.offset != self.file.offer.size || self.crc != self.file.offer.crc {
            return Err(self.damaged("other size or checksum than offered"));
        }
        Ok(())
    }

    fn take(&mut self, length: usize) -> io::Result<Bytes> {
        let bytes = self.file.read(self.offset, length)?;
        if bytes.len() != length {
            return Err(self.damaged(&format!("it ends at {}", self.offset + bytes.len() as u64)));
        }
        self.offset += length as u64;
        self.crc = crc32c::crc32c_append(self.crc, &bytes);
        Ok(bytes)
    }

    fn damaged(&self, what: &str) -> io::Error {
        damaged(&self.file.offer.name, what)
    }
}

fn block_crc(length: &[u8], payload: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(length), payload)
}

const MAGIC: &[u8; 8] = b"raftsnp\x01";
/// The most bytes of payload in a block.
const BLOCK_SIZE_MAX: usize = 64 * 1024;
/// In the length of a block: its payload is compressed.
const COMPRESSED: u32 = 1 << 31;
const BLOCK_HEADER_SIZE: usize = 8;
const ROW_HEADER_SIZE: usize = 18;
const FOOTER_SIZE: usize = 20;
