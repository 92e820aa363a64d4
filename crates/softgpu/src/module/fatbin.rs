//! The fatbin container: a header, then entries of PTX text and cubins for several architectures, compressed or not.

use super::image::ImageError;
use ruzstd::decoding::FrameDecoder;
use std::borrow::Cow;
use std::fmt;

/// First word of a fatbin.
pub const MAGIC: u32 = 0xBA55_ED50;

const HEADER: usize = 16;
const KIND_PTX: u16 = 1;
const KIND_ELF: u16 = 2;

/// Flags of an entry: its payload is one block of LZ4 (`nvcc --compress-mode=speed`) or one frame of Zstandard (the others).
const LZ4: u64 = 1 << 13;
const ZSTD: u64 = 1 << 15;

/// The most that an entry may claim to unpack to: what a hostile image can make this process allocate.
const MOST_UNPACKED: usize = 1 << 30;

/// One entry of a fatbin.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// PTX text or a cubin.
    pub kind: Kind,
    /// The architecture number: 80 for `sm_80` and `compute_80`.
    pub arch: u32,
    /// The payload as stored, with padding to 8 bytes behind it.
    stored: &'a [u8],
    packed: Option<Packed>,
}

/// How a compressed payload is stored.
#[derive(Clone, Copy, Debug)]
struct Packed {
    scheme: Scheme,
    /// Bytes of the compressed payload without its padding.
    stored: usize,
    /// Bytes of the payload.
    unpacked: usize,
}

#[derive(Clone, Copy, Debug)]
enum Scheme {
    Lz4,
    Zstd,
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

impl<'a> Entry<'a> {
    /// The payload, unpacked if it is compressed; padding may follow a payload that is not.
    pub fn payload(&self) -> Result<Cow<'a, [u8]>, ImageError> {
        let Some(Packed { scheme, stored, unpacked }) = self.packed else { return Ok(Cow::Borrowed(self.stored)) };
        let malformed = |what| ImageError::Malformed { container: "fatbin", what };
        let stored = self.stored.get(..stored).ok_or(malformed("a compressed entry is longer than its payload"))?;
        if unpacked > MOST_UNPACKED {
            return Err(malformed("an entry claims to unpack to more than 1 GiB"));
        }
        let mut payload = vec![0; unpacked];
        let written = match scheme {
            Scheme::Lz4 => lz4_flex::block::decompress_into(stored, &mut payload).ok(),
            Scheme::Zstd => FrameDecoder::new().decode_all(stored, &mut payload).ok(),
        };
        match written {
            Some(written) if written == unpacked => Ok(Cow::Owned(payload)),
            Some(_) => Err(malformed("an entry unpacks to fewer bytes than it claims")),
            None => Err(malformed("a compressed entry cannot be unpacked")),
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
        let stored = entry.get(header_bytes..end).ok_or(short.clone())?;
        let scheme = match flags & (LZ4 | ZSTD) {
            LZ4 => Some(Scheme::Lz4),
            ZSTD => Some(Scheme::Zstd),
            _ => None,
        };
        // Only a header of 64 bytes has room for the size of what is packed.
        let packed = match scheme {
            Some(_) if header_bytes < 64 => return Err(malformed("an entry's header is too small")),
            Some(scheme) => {
                let packed_bytes = u32_at(entry, 16).ok_or(short.clone())? as usize;
                let unpacked = u64_at(entry, 56).ok_or(short.clone())?;
                Some(Packed { scheme, stored: packed_bytes, unpacked: usize::try_from(unpacked).unwrap_or(usize::MAX) })
            }
            None => None,
        };
        found.push(Entry { kind, arch, stored, packed });
        at += end;
    }
    Ok(found)
}
