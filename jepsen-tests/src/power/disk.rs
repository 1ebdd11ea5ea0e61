//! A disk with a volatile cache: what was written is lost in a power cut unless a flush came after it.
//!
//! Pure: bytes in memory. Sizes and offsets are in bytes. Copies share what is equal in them.

use std::sync::Arc;

use rpc_core::random::SeededRandom;

/// What a disk writes as a whole or not at all.
const SECTOR_SIZE: usize = 512;
/// The unit that copies of a disk share.
const BLOCK_SIZE: usize = 4_096;

/// What is on a disk without power. Cheap to copy.
#[derive(Clone)]
pub struct Image {
    /// `None`: zeros.
    blocks: Vec<Option<Arc<[u8; BLOCK_SIZE]>>>,
}

impl Image {
    /// A disk of zeros, of `size` bytes rounded up to whole blocks.
    pub fn new(size: u64) -> Self {
        Self { blocks: vec![None; size.div_ceil(BLOCK_SIZE as u64) as usize] }
    }

    /// Its size in bytes.
    pub fn size(&self) -> u64 {
        (self.blocks.len() * BLOCK_SIZE) as u64
    }

    /// Up to `length` bytes at `offset`; fewer at the end of the disk.
    pub fn read(&self, offset: u64, length: usize) -> Vec<u8> {
        let end = self.size().min(offset.saturating_add(length as u64));
        let mut bytes = vec![0; end.saturating_sub(offset) as usize];
        for_each_part(offset, bytes.len(), BLOCK_SIZE, |block, from, part| {
            if let Some(Some(content)) = self.blocks.get(block) {
                let length = part.len();
                bytes[part].copy_from_slice(&content[from..from + length]);
            }
        });
        bytes
    }

    /// Writes what fits on the disk.
    fn write(&mut self, offset: u64, bytes: &[u8]) {
        for_each_part(offset, bytes.len(), BLOCK_SIZE, |block, from, part| {
            if let Some(content) = self.blocks.get_mut(block) {
                let content = content.get_or_insert_with(|| Arc::new([0; BLOCK_SIZE]));
                Arc::make_mut(content)[from..from + part.len()].copy_from_slice(&bytes[part]);
            }
        });
    }
}

/// Cuts `length` bytes at `offset` at multiples of `unit`: number of the unit, position in it, range of the bytes.
fn for_each_part(
    offset: u64,
    length: usize,
    unit: usize,
    mut each: impl FnMut(usize, usize, std::ops::Range<usize>),
) {
    let mut start = 0;
    while start < length {
        let position = offset as usize + start;
        let size = (unit - position % unit).min(length - start);
        each(position / unit, position % unit, start..start + size);
        start += size;
    }
}

/// A disk that has power.
pub struct VolatileDisk {
    durable: Image,
    /// What reads see.
    current: Image,
    /// Writes since the last flush.
    volatile: Vec<(u64, Box<[u8]>)>,
    /// The power is gone: nothing can be written.
    is_dead: bool,
    flush_count: u64,
}

impl VolatileDisk {
    /// The disk that holds `image`.
    pub fn new(image: Image) -> Self {
        let (current, volatile) = (image.clone(), Vec::new());
        Self { durable: image, current, volatile, is_dead: false, flush_count: 0 }
    }

    /// Its size in bytes.
    pub fn size(&self) -> u64 {
        self.current.size()
    }

    /// Flushes so far.
    pub fn flush_count(&self) -> u64 {
        self.flush_count
    }

    /// Up to `length` bytes at `offset`.
    pub fn read(&self, offset: u64, length: usize) -> Vec<u8> {
        self.current.read(offset, length)
    }

    /// Writes into the cache.
    ///
    /// # Errors
    /// When the power is gone.
    pub fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), NoPower> {
        self.check_power()?;
        self.current.write(offset, bytes);
        self.volatile.push((offset, bytes.into()));
        Ok(())
    }

    /// Makes durable what was written before.
    ///
    /// # Errors
    /// When the power is gone: who is told that a flush succeeded goes on to what rests on it, and says so.
    pub fn flush(&mut self) -> Result<(), NoPower> {
        self.check_power()?;
        self.flush_count += 1;
        for (offset, bytes) in self.volatile.drain(..) {
            self.durable.write(offset, &bytes);
        }
        Ok(())
    }

    fn check_power(&self) -> Result<(), NoPower> {
        if self.is_dead { Err(NoPower) } else { Ok(()) }
    }

    /// Takes the power away. What was flushed stays; of the rest the sectors that `survival` and chance let through, in
    /// any combination: an older write to a sector may have reached the disk where a newer one has not.
    pub fn cut(&mut self, survival: Survival, random: &mut SeededRandom) -> Image {
        self.is_dead = true;
        let mut image = self.durable.clone();
        for (offset, bytes) in &self.volatile {
            for_each_part(*offset, bytes.len(), survival.unit(), |unit, from, part| {
                if survival.reaches(random) {
                    image.write((unit * survival.unit() + from) as u64, &bytes[part]);
                }
            });
        }
        image
    }
}

/// The disk has no power any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoPower;

/// How much of the cache reaches the disk in a cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Survival {
    /// Nothing.
    None,
    /// All: as if the process had been killed.
    All,
    /// So many of a million sectors, each by chance: writes are torn.
    Sectors(u32),
    /// So many of a million blocks, each by chance.
    Blocks(u32),
}

impl Survival {
    /// One of them, all kinds alike.
    pub fn draw(random: &mut SeededRandom) -> Self {
        let share = [20_000, 300_000, 700_000, 980_000][random.below(4) as usize];
        match random.below(8) {
            0..3 => Self::None,
            3 => Self::All,
            4 | 5 => Self::Sectors(share),
            _ => Self::Blocks(share),
        }
    }

    fn unit(self) -> usize {
        if matches!(self, Self::Sectors(_)) { SECTOR_SIZE } else { BLOCK_SIZE }
    }

    fn reaches(self, random: &mut SeededRandom) -> bool {
        match self {
            Self::None => false,
            Self::All => true,
            Self::Sectors(share) | Self::Blocks(share) => random.chance(share),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk() -> VolatileDisk {
        let mut disk = VolatileDisk::new(Image::new(100_000));
        disk.write(1_000, &[1; 6_000]).unwrap();
        disk.flush().unwrap();
        disk.write(3_000, &[2; 6_000]).unwrap();
        disk
    }

    #[test]
    fn reads_see_the_cache_and_stop_at_the_end() {
        let disk = disk();
        assert_eq!(disk.size(), 102_400);
        assert_eq!(disk.read(2_999, 2), [1, 2]);
        assert_eq!(disk.read(102_398, 10), [0, 0]);
        assert_eq!(disk.read(200_000, 10), [0; 0]);
    }

    #[test]
    fn a_cut_keeps_what_was_flushed_and_loses_the_rest() {
        let image = disk().cut(Survival::None, &mut SeededRandom::new(1));
        assert_eq!(image.read(0, 10_000), [vec![0; 1_000], vec![1; 6_000], vec![0; 3_000]].concat());
    }

    #[test]
    fn a_cut_may_keep_all_or_any_sectors() {
        let all = disk().cut(Survival::All, &mut SeededRandom::new(1));
        assert_eq!(all.read(3_000, 6_000), [2; 6_000]);
        let torn = disk().cut(Survival::Sectors(500_000), &mut SeededRandom::new(1)).read(3_000, 6_000);
        let first = torn[0];
        // 3,000 lies 440 bytes into a sector.
        assert!(torn[..72].iter().all(|byte| *byte == first));
        assert!(torn.contains(&2) && torn.iter().any(|byte| *byte != 2));
    }

    #[test]
    fn a_disk_without_power_takes_nothing_and_says_so() {
        let mut disk = disk();
        drop(disk.cut(Survival::None, &mut SeededRandom::new(1)));
        assert_eq!(disk.write(0, &[9]), Err(NoPower));
        assert_eq!(disk.flush(), Err(NoPower));
        assert_eq!(disk.read(0, 1), [0]);
        assert_eq!(disk.flush_count(), 1);
    }
}
