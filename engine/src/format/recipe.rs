//! Recipes: a segment's bytes as an immutable object, without the bytes of its files.
//!
//! ```text
//! blocks   the literal bytes (headers, padding) in runs of 1 MiB, each a zstd frame or, where
//!          that is no shorter, as it is
//! zeros    up to a multiple of 8
//! table    16 bytes per block: u64 offset in the object, u32 length stored, u32 length raw
//! pieces   24 bytes each: u64 where, u64 how many bytes, u32 source, u32 zero.
//!          source 0xffffffff: `where` counts in the literal bytes; 0xfffffffe: zeros;
//!          otherwise `where` is an offset in the pack of that index
//! packs    32 bytes each: names of the objects that pieces are ranges of
//! footer   64 bytes: magic "kiln recipe 1\0\0\0", u64 blocks, u64 pieces, u64 packs,
//!          u64 literal bytes, u64 bytes it stands for, u64 zero
//! ```
//! All integers are little-endian. Headers of a tar are mostly zeros and repetition: compressed,
//! 1.5 KiB per file become some 40 bytes. The object's name identifies the bytes it stands for.

use std::collections::HashMap;
use std::io::Write;
use std::ops::Range;

use bytemuck::{Pod, Zeroable};
use kiln_cache::{Cache, CacheError, Digest, Mapping, ObjectWriter};

use super::{Form, FormatError, Segment};

const MAGIC: &[u8; 16] = b"kiln recipe 1\0\0\0";
const FOOTER_BYTES: usize = 64;
const BLOCK_BYTES: usize = 1 << 20;
const LITERAL: u32 = u32::MAX;
const ZEROS: u32 = u32::MAX - 1;
/// zstd level of literal blocks: headers shrink to a fortieth at the fastest level already.
const BLOCK_LEVEL: i32 = 1;
/// Runs of zeros shorter than this are literal bytes: a piece costs more than they do.
const ZEROS_MIN_BYTES: u64 = 4096;
/// The most pieces, blocks or packs one recipe may hold.
const COUNT_MAX: u64 = 1 << 28;

/// Takes the bytes of an archive in order: what a header writer writes to.
pub trait Sink {
    /// Takes bytes.
    ///
    /// # Errors
    /// When they cannot be kept or written.
    fn literal(&mut self, bytes: &[u8]) -> Result<(), FormatError>;
    /// Takes a range of an object.
    ///
    /// # Errors
    /// When it cannot be kept, read or written.
    fn range(&mut self, pack: &Digest, offset: u64, len: u64) -> Result<(), FormatError>;
    /// Takes a run of zeros.
    ///
    /// # Errors
    /// When they cannot be kept or written.
    fn zeros(&mut self, len: u64) -> Result<(), FormatError>;
    /// Returns how many bytes it took.
    fn len(&self) -> u64;
    /// Returns true when it took none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Block {
    offset: u64,
    stored: u32,
    raw: u32,
}

#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Record {
    at: u64,
    len: u64,
    source: u32,
    zero: u32,
}

/// Writes a recipe. Memory: one block, and 24 bytes per piece.
pub struct RecipeWriter<'a> {
    root: &'a std::path::Path,
    object: ObjectWriter<'a>,
    compressor: zstd::bulk::Compressor<'static>,
    pending: Vec<u8>,
    blocks: Vec<Block>,
    pieces: Vec<Record>,
    packs: Vec<Digest>,
    pack_index: HashMap<Digest, u32>,
    literal_len: u64,
    len: u64,
}

impl<'a> RecipeWriter<'a> {
    /// Starts a recipe.
    ///
    /// # Errors
    /// When the object cannot be made.
    pub fn new(cache: &'a Cache) -> Result<Self, FormatError> {
        let compressor =
            zstd::bulk::Compressor::new(BLOCK_LEVEL).map_err(|source| FormatError::Compress {
                compressor: "zstd",
                source,
            })?;
        Ok(Self {
            root: cache.root(),
            object: cache.object_writer()?,
            compressor,
            pending: Vec::with_capacity(BLOCK_BYTES),
            blocks: Vec::new(),
            pieces: Vec::new(),
            packs: Vec::new(),
            pack_index: HashMap::new(),
            literal_len: 0,
            len: 0,
        })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), FormatError> {
        self.object
            .write_all(bytes)
            .map_err(CacheError::io("write", self.root))?;
        Ok(())
    }

    fn flush_block(&mut self) -> Result<(), FormatError> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let raw = std::mem::take(&mut self.pending);
        let packed = self
            .compressor
            .compress(&raw)
            .map_err(|source| FormatError::Compress {
                compressor: "zstd",
                source,
            })?;
        let stored = if packed.len() < raw.len() {
            &packed
        } else {
            &raw
        };
        // Blocks are 1 MiB at most.
        #[expect(clippy::cast_possible_truncation)]
        self.blocks.push(Block {
            offset: self.object.len(),
            stored: stored.len() as u32,
            raw: raw.len() as u32,
        });
        self.write(stored)?;
        self.pending = raw;
        self.pending.clear();
        Ok(())
    }

    /// Adds a piece, joined to the last one where it continues it.
    fn piece(&mut self, source: u32, at: u64, len: u64) {
        self.len += len;
        if let Some(last) = self.pieces.last_mut() {
            let continues = match source {
                ZEROS => true,
                _ => last.at + last.len == at,
            };
            if last.source == source && continues {
                last.len += len;
                return;
            }
        }
        self.pieces.push(Record {
            at,
            len,
            source,
            zero: 0,
        });
    }

    fn pack(&mut self, pack: &Digest) -> u32 {
        if let Some(index) = self.pack_index.get(pack) {
            return *index;
        }
        let index = u32::try_from(self.packs.len()).unwrap_or(ZEROS - 1);
        self.packs.push(*pack);
        self.pack_index.insert(*pack, index);
        index
    }

    /// Stores the recipe.
    ///
    /// # Errors
    /// When the object cannot be written.
    pub fn finish(mut self) -> Result<Segment, FormatError> {
        self.flush_block()?;
        let at = self.object.len();
        self.write(&[0; 8][..(at.wrapping_neg() % 8) as usize])?;
        let blocks = std::mem::take(&mut self.blocks);
        self.write(bytemuck::cast_slice(&blocks))?;
        let pieces = std::mem::take(&mut self.pieces);
        self.write(bytemuck::cast_slice(&pieces))?;
        let packs: Vec<u8> = self
            .packs
            .iter()
            .flat_map(|pack| *pack.as_bytes())
            .collect();
        self.write(&packs)?;
        let mut footer = MAGIC.to_vec();
        for number in [
            blocks.len() as u64,
            pieces.len() as u64,
            self.packs.len() as u64,
            self.literal_len,
            self.len,
            0,
        ] {
            footer.extend(number.to_le_bytes());
        }
        self.write(&footer)?;
        let len = self.len;
        Ok(Segment {
            digest: self.object.commit()?,
            len,
            form: Form::Recipe,
        })
    }
}

impl Sink for RecipeWriter<'_> {
    fn literal(&mut self, mut bytes: &[u8]) -> Result<(), FormatError> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.piece(LITERAL, self.literal_len, bytes.len() as u64);
        self.literal_len += bytes.len() as u64;
        while !bytes.is_empty() {
            let room = BLOCK_BYTES - self.pending.len();
            let (head, tail) = bytes.split_at(room.min(bytes.len()));
            self.pending.extend_from_slice(head);
            bytes = tail;
            if self.pending.len() == BLOCK_BYTES {
                self.flush_block()?;
            }
        }
        Ok(())
    }

    fn range(&mut self, pack: &Digest, offset: u64, len: u64) -> Result<(), FormatError> {
        if len > 0 {
            let source = self.pack(pack);
            self.piece(source, offset, len);
        }
        Ok(())
    }

    fn zeros(&mut self, len: u64) -> Result<(), FormatError> {
        if len >= ZEROS_MIN_BYTES {
            self.piece(ZEROS, 0, len);
            return Ok(());
        }
        // Below the limit, so it fits.
        #[expect(clippy::cast_possible_truncation)]
        self.literal(&[0; ZEROS_MIN_BYTES as usize][..len as usize])
    }

    fn len(&self) -> u64 {
        self.len
    }
}

/// One piece of a recipe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece<'a> {
    /// `len` bytes of the literals, from `at`.
    Literal {
        /// Offset among all literal bytes.
        at: u64,
        /// How many.
        len: u64,
    },
    /// A range of a pack.
    Range {
        /// The pack.
        pack: &'a Digest,
        /// Offset of the first byte.
        offset: u64,
        /// How many.
        len: u64,
    },
    /// Zeros.
    Zeros {
        /// How many.
        len: u64,
    },
}

/// A recipe, mapped.
#[derive(Debug)]
pub struct Recipe {
    digest: Digest,
    map: Mapping,
    packs: Vec<Digest>,
    blocks: Range<usize>,
    pieces: Range<usize>,
    literal_len: u64,
    len: u64,
}

impl Recipe {
    /// Gives everything it stands for to `sink`, in order.
    ///
    /// # Errors
    /// When a literal is damaged, or the sink cannot take a piece.
    pub fn replay(&self, sink: &mut dyn Sink) -> Result<(), FormatError> {
        let mut literals = Literals::new(self)?;
        for piece in self.pieces() {
            match piece {
                Piece::Literal { mut at, mut len } => {
                    while len > 0 {
                        let run = literals.from(at)?;
                        let run = &run[..run.len().min(usize::try_from(len).unwrap_or(usize::MAX))];
                        sink.literal(run)?;
                        at += run.len() as u64;
                        len -= run.len() as u64;
                    }
                }
                Piece::Range { pack, offset, len } => sink.range(pack, offset, len)?,
                Piece::Zeros { len } => sink.zeros(len)?,
            }
        }
        Ok(())
    }

    /// Opens and checks a recipe: every piece lies inside and the lengths add up.
    ///
    /// # Errors
    /// When the object is missing or no recipe.
    pub fn open(cache: &Cache, digest: &Digest) -> Result<Self, FormatError> {
        let object = cache.open_object(digest)?;
        let map = object.map().map_err(CacheError::io("map", cache.root()))?;
        Self::check(*digest, map).map_err(|reason| FormatError::MalformedRecipe {
            digest: *digest,
            reason,
        })
    }

    fn check(digest: Digest, map: Mapping) -> Result<Self, &'static str> {
        let footer = map.len().checked_sub(FOOTER_BYTES).ok_or("not a recipe")?;
        if &map[footer..footer + 16] != MAGIC {
            return Err("not a recipe");
        }
        let number = |index: usize| {
            let at = footer + 16 + index * 8;
            u64::from_le_bytes(map[at..at + 8].try_into().unwrap_or_default())
        };
        let count = |index: usize| {
            usize::try_from(number(index))
                .ok()
                .filter(|count| *count as u64 <= COUNT_MAX)
                .ok_or("absurd footer")
        };
        let packs_at = footer.checked_sub(count(2)? * 32);
        let pieces_at = packs_at.and_then(|at| at.checked_sub(count(1).ok()? * 24));
        let blocks_at = pieces_at.and_then(|at| at.checked_sub(count(0).ok()? * 16));
        let (Some(packs_at), Some(pieces_at), Some(blocks_at)) = (packs_at, pieces_at, blocks_at)
        else {
            return Err("absurd footer");
        };
        if blocks_at % 8 != 0 {
            return Err("absurd footer");
        }
        let packs = map[packs_at..footer]
            .chunks_exact(32)
            .map(|name| Digest::from_bytes(name.try_into().unwrap_or_default()))
            .collect();
        let recipe = Self {
            digest,
            packs,
            blocks: blocks_at..pieces_at,
            pieces: pieces_at..packs_at,
            literal_len: number(3),
            len: number(4),
            map,
        };
        recipe.check_blocks()?;
        recipe.check_pieces()?;
        Ok(recipe)
    }

    fn check_blocks(&self) -> Result<(), &'static str> {
        let (last, full) = self.blocks().split_last().unzip();
        let full = full.unwrap_or_default();
        let sound = |block: &Block| {
            block.raw as usize <= BLOCK_BYTES
                && block.stored <= block.raw
                && block
                    .offset
                    .checked_add(u64::from(block.stored))
                    .is_some_and(|end| end <= self.blocks.start as u64)
        };
        let all_full = full.iter().all(|block| block.raw as usize == BLOCK_BYTES);
        let raw = (full.len() * BLOCK_BYTES) as u64 + last.map_or(0, |block| u64::from(block.raw));
        if !all_full || !self.blocks().iter().all(sound) || raw != self.literal_len {
            return Err("literal blocks do not add up");
        }
        Ok(())
    }

    fn check_pieces(&self) -> Result<(), &'static str> {
        let mut total = 0_u64;
        for piece in self.records() {
            let end = piece.at.checked_add(piece.len);
            let inside = match piece.source {
                LITERAL => end.is_some_and(|end| end <= self.literal_len),
                ZEROS => true,
                pack => (pack as usize) < self.packs.len() && end.is_some(),
            };
            total = total.checked_add(piece.len).ok_or("absurd length")?;
            if !inside {
                return Err("a piece points outside");
            }
        }
        if total != self.len {
            return Err("pieces do not add up");
        }
        Ok(())
    }

    fn blocks(&self) -> &[Block] {
        bytemuck::cast_slice(&self.map[self.blocks.clone()])
    }

    fn records(&self) -> &[Record] {
        bytemuck::cast_slice(&self.map[self.pieces.clone()])
    }

    /// Returns the length of the bytes it stands for.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Returns true when it stands for no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns the objects that pieces are ranges of: what must live as long as this recipe.
    #[must_use]
    pub fn packs(&self) -> &[Digest] {
        &self.packs
    }

    /// Returns the pieces, in order.
    pub fn pieces(&self) -> impl Iterator<Item = Piece<'_>> {
        self.records().iter().map(|record| match record.source {
            LITERAL => Piece::Literal {
                at: record.at,
                len: record.len,
            },
            ZEROS => Piece::Zeros { len: record.len },
            pack => Piece::Range {
                pack: &self.packs[pack as usize],
                offset: record.at,
                len: record.len,
            },
        })
    }
}

/// Reads a recipe's literal bytes, keeping the block it is in.
pub struct Literals<'a> {
    recipe: &'a Recipe,
    decompressor: zstd::bulk::Decompressor<'static>,
    block: Option<usize>,
    raw: Vec<u8>,
}

impl<'a> Literals<'a> {
    /// Returns a reader.
    ///
    /// # Errors
    /// When zstd cannot be set up.
    pub fn new(recipe: &'a Recipe) -> Result<Self, FormatError> {
        let decompressor =
            zstd::bulk::Decompressor::new().map_err(|source| FormatError::Compress {
                compressor: "zstd",
                source,
            })?;
        Ok(Self {
            recipe,
            decompressor,
            block: None,
            raw: Vec::new(),
        })
    }

    /// Returns literal bytes from `at`: as many as the block there still has.
    ///
    /// # Errors
    /// When the block is damaged.
    pub fn from(&mut self, at: u64) -> Result<&[u8], FormatError> {
        let malformed = |reason| FormatError::MalformedRecipe {
            digest: self.recipe.digest,
            reason,
        };
        let index = usize::try_from(at / BLOCK_BYTES as u64).unwrap_or(usize::MAX);
        if self.block != Some(index) {
            let block = self
                .recipe
                .blocks()
                .get(index)
                .ok_or_else(|| malformed("a piece points outside"))?;
            let start = usize::try_from(block.offset).unwrap_or(usize::MAX);
            let stored = &self.recipe.map[start..start + block.stored as usize];
            self.block = None;
            if block.stored == block.raw {
                self.raw.clear();
                self.raw.extend_from_slice(stored);
            } else {
                self.raw.resize(block.raw as usize, 0);
                let len = self
                    .decompressor
                    .decompress_to_buffer(stored, &mut self.raw[..])
                    .map_err(|_| malformed("a literal block is damaged"))?;
                if len != block.raw as usize {
                    return Err(malformed("a literal block is damaged"));
                }
            }
            self.block = Some(index);
        }
        let skip = usize::try_from(at % BLOCK_BYTES as u64).unwrap_or(usize::MAX);
        self.raw
            .get(skip..)
            .ok_or_else(|| malformed("a piece points outside"))
    }
}
