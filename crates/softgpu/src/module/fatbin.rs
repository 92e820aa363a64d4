//! The fatbin container: a header, then entries of PTX text and cubins for several architectures.

use super::image::ImageError;
use std::fmt;

/// First word of a fatbin.
pub const MAGIC: u32 = 0xBA55_ED50;

const HEADER: usize = 16;
const KIND_PTX: u16 = 1;
const KIND_ELF: u16 = 2;
const ZSTD: [u8; 4] = [0x28, 0xB5, 0x2F, 0xFD];

/// One entry of a fatbin.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// PTX text or a cubin.
    pub kind: Kind,
    /// The architecture number: 80 for `sm_80` and `compute_80`.
    pub arch: u32,
    /// Whether the payload is stored compressed.
    pub compressed: bool,
    /// The payload as stored.
    pub payload: &'a [u8],
}

/// What an entry holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// PTX text.
    Ptx,
    /// A cubin: machine code, which a software GPU cannot run.
    Elf,
    /// Anything else, such as link-time intermediate code.
    Other(u16),
}

impl fmt::Display for Entry<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            Kind::Ptx => write!(f, "PTX for compute_{}", self.arch),
            Kind::Elf => write!(f, "cubin for sm_{}", self.arch),
            Kind::Other(kind) => write!(f, "entry of kind {kind} for {}", self.arch),
        }
    }
}

fn read<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    read(bytes, at).map(u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    read(bytes, at).map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    read(bytes, at).map(u64::from_le_bytes)
}

/// The number of bytes the container occupies, read from its first [`HEADER_BYTES`] bytes.
///
/// `cuModuleLoadData` is given a pointer without a length, so this is what bounds every later read.
pub fn total_bytes(header: &[u8]) -> Result<usize, ImageError> {
    let malformed = |what: &'static str| ImageError::Malformed { container: "fatbin", what };
    if u32_at(header, 0) != Some(MAGIC) {
        return Err(malformed("the magic number is wrong"));
    }
    if u16_at(header, 4) != Some(1) {
        return Err(malformed("its version is not 1"));
    }
    let header_bytes = u16_at(header, 6).ok_or(malformed("its header is cut short"))?;
    let body = u64_at(header, 8).ok_or(malformed("its header is cut short"))?;
    if usize::from(header_bytes) != HEADER {
        return Err(malformed("its header does not have 16 bytes"));
    }
    let total = body.checked_add(HEADER as u64).filter(|&total| total <= isize::MAX as u64);
    Ok(total.ok_or(malformed("its size overflows"))? as usize)
}

/// Bytes that [`total_bytes`] needs.
pub const HEADER_BYTES: usize = HEADER;

/// The entries of a whole container, in the order in which they are stored.
pub fn entries(container: &[u8]) -> Result<Vec<Entry<'_>>, ImageError> {
    let malformed = |what: &'static str| ImageError::Malformed { container: "fatbin", what };
    let total = total_bytes(container)?;
    let container = container.get(..total).ok_or(malformed("it is shorter than its header says"))?;
    let mut found = Vec::new();
    let mut at = HEADER;
    while at < total {
        let entry = &container[at..];
        let short = malformed("an entry is cut short");
        let kind = match u16_at(entry, 0).ok_or(short.clone())? {
            KIND_PTX => Kind::Ptx,
            KIND_ELF => Kind::Elf,
            other => Kind::Other(other),
        };
        let header_bytes = u32_at(entry, 4).ok_or(short.clone())? as usize;
        let payload_bytes = u64_at(entry, 8).ok_or(short.clone())?;
        let arch = u32_at(entry, 28).ok_or(short.clone())?;
        let flags = u64_at(entry, 40).ok_or(short.clone())?;
        if header_bytes < 48 {
            return Err(malformed("an entry's header is too small"));
        }
        let payload_bytes = usize::try_from(payload_bytes).map_err(|_| short.clone())?;
        let end = header_bytes.checked_add(payload_bytes).ok_or(short.clone())?;
        let payload = entry.get(header_bytes..end).ok_or(short)?;
        // Bits 13 and 15 of the flags mark the two compression schemes; zstd is recognisable by itself.
        let compressed = flags & 0xA000 != 0 || payload.starts_with(&ZSTD);
        found.push(Entry { kind, arch, compressed, payload });
        at += end;
    }
    Ok(found)
}
