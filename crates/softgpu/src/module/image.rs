//! From the bytes a program loads to one PTX text: which entry of an image this device runs, and why another was refused.

use super::fatbin::{self, Entry, Kind};
use std::borrow::Cow;
use std::fmt;

/// The newest PTX version that is understood.
const NEWEST_PTX: (u32, u32) = (9, 0);

/// A compute capability such as 9.0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Capability {
    /// 8 for Ampere, 9 for Hopper.
    pub major: u32,
    /// The number after the point.
    pub minor: u32,
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// The `.target` of a PTX text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Target {
    capability: Capability,
    variant: Variant,
}

/// How far a target reaches: plain targets run on everything newer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Variant {
    Plain,
    /// `sm_100f`: devices of the same major version.
    Family,
    /// `sm_90a`: exactly this device.
    Exact,
}

impl Target {
    /// Reads `sm_80`, `sm_90a` or `sm_100f`.
    pub fn parse(text: &str) -> Option<Target> {
        let digits = text.strip_prefix("sm_")?;
        let (digits, variant) = match digits.as_bytes().last()? {
            b'a' => (&digits[..digits.len() - 1], Variant::Exact),
            b'f' => (&digits[..digits.len() - 1], Variant::Family),
            _ => (digits, Variant::Plain),
        };
        let number: u32 = digits.parse().ok().filter(|&number| number >= 10)?;
        Some(Target { capability: Capability { major: number / 10, minor: number % 10 }, variant })
    }

    /// Whether a device of this capability can run code for the target.
    pub fn runs_on(self, device: Capability) -> bool {
        match self.variant {
            Variant::Plain => self.capability <= device,
            Variant::Family => self.capability.major == device.major && self.capability.minor <= device.minor,
            Variant::Exact => self.capability == device,
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let suffix = match self.variant {
            Variant::Plain => "",
            Variant::Family => "f",
            Variant::Exact => "a",
        };
        write!(f, "sm_{}{}{suffix}", self.capability.major, self.capability.minor)
    }
}

/// Why an image cannot be loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImageError {
    /// The first bytes are neither PTX text nor a fatbin nor a cubin.
    NotAnImage,
    /// A container contradicts itself.
    Malformed {
        /// What it claims to be.
        container: &'static str,
        /// What is wrong with it.
        what: &'static str,
    },
    /// Only machine code: a cubin, or a fatbin without PTX.
    CubinOnly {
        /// The entries, in words.
        offered: String,
    },
    /// PTX is there, but for newer or other devices.
    NothingFits {
        /// The targets that are there.
        offered: String,
        /// The device that was to run one.
        device: Capability,
    },
    /// The PTX was written by a newer compiler.
    PtxVersion {
        /// Its version.
        found: (u32, u32),
    },
    /// The text lacks a `.version` or `.target` directive.
    MissingDirective {
        /// The directive.
        directive: &'static str,
    },
}

impl fmt::Display for ImageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ImageError::NotAnImage => write!(f, "the image is neither PTX text nor a fatbin nor a cubin"),
            ImageError::Malformed { container, what } => write!(f, "the {container} is malformed: {what}"),
            ImageError::CubinOnly { offered } => {
                write!(f, "cubin only: ship PTX beside it, softgpu cannot run machine code (found {offered})")
            }
            ImageError::NothingFits { offered, device } => {
                write!(f, "no PTX in the image runs on compute capability {device} (found {offered})")
            }
            ImageError::PtxVersion { found } => write!(
                f,
                "the PTX has version {}.{}, the newest that softgpu reads is {}.{}",
                found.0, found.1, NEWEST_PTX.0, NEWEST_PTX.1
            ),
            ImageError::MissingDirective { directive } => write!(f, "the PTX text has no {directive} directive"),
        }
    }
}

impl std::error::Error for ImageError {}

/// The PTX text that will be run, and where it came from.
#[derive(Debug)]
pub struct Chosen<'a> {
    /// The text, without the padding around it.
    pub ptx: Cow<'a, str>,
    /// For reports: `PTX text for sm_80` or `PTX for compute_80 of a fatbin`.
    pub origin: String,
}

/// How many bytes an image has, given a way to read it from its start.
///
/// The driver API passes images without a length: PTX text ends at its NUL, a fatbin knows its size, and of a cubin
/// the first bytes suffice, since it is refused.
pub fn measure(mut byte: impl FnMut(usize) -> u8) -> Result<usize, ImageError> {
    let mut head = Vec::with_capacity(fatbin::HEADER_BYTES);
    // Byte by byte, because a short text may end before four bytes are there.
    while head.len() < 4 {
        let next = byte(head.len());
        if next == 0 {
            break;
        }
        head.push(next);
    }
    if head == *b"\x7fELF" {
        return Ok(head.len());
    }
    if head == fatbin::MAGIC.to_le_bytes() {
        while head.len() < fatbin::HEADER_BYTES {
            head.push(byte(head.len()));
        }
        return fatbin::total_bytes(&head);
    }
    if !head.iter().all(|&c| c.is_ascii_graphic() || c.is_ascii_whitespace()) {
        return Err(ImageError::NotAnImage);
    }
    let mut length = head.len();
    while byte(length) != 0 {
        length += 1;
    }
    Ok(length)
}

/// Picks the PTX that a device of this capability runs: the highest target that fits.
pub fn choose(image: &[u8], device: Capability) -> Result<Chosen<'_>, ImageError> {
    if image.starts_with(b"\x7fELF") {
        return Err(ImageError::CubinOnly { offered: "one cubin".to_string() });
    }
    if !image.starts_with(&fatbin::MAGIC.to_le_bytes()) {
        let ptx = text(image)?;
        let target = target(ptx)?;
        if !target.runs_on(device) {
            return Err(ImageError::NothingFits { offered: target.to_string(), device });
        }
        return Ok(Chosen { ptx: Cow::Borrowed(ptx), origin: format!("PTX text for {target}") });
    }
    let entries = fatbin::entries(image)?;
    let ptx: Vec<&Entry<'_>> = entries.iter().filter(|entry| entry.kind == Kind::Ptx).collect();
    if ptx.is_empty() {
        return Err(ImageError::CubinOnly { offered: list(entries.iter().map(Entry::to_string)) });
    }
    let mut offered = Vec::new();
    let mut best: Option<(Target, Cow<'_, str>)> = None;
    for entry in ptx {
        let ptx = match entry.payload()? {
            Cow::Borrowed(payload) => Cow::Borrowed(text(payload)?),
            Cow::Owned(payload) => Cow::Owned(text(&payload)?.to_string()),
        };
        let target = target(&ptx)?;
        offered.push(target);
        if target.runs_on(device) && best.as_ref().is_none_or(|(best, _)| target > *best) {
            best = Some((target, ptx));
        }
    }
    match best {
        Some((target, ptx)) => Ok(Chosen { ptx, origin: format!("PTX for {target} of a fatbin") }),
        None => Err(ImageError::NothingFits { offered: list(offered.iter().map(Target::to_string)), device }),
    }
}

fn list(items: impl Iterator<Item = String>) -> String {
    let items: Vec<String> = items.collect();
    if items.is_empty() { "nothing".to_string() } else { items.join(", ") }
}

/// The text of a payload, which is padded with newlines in front and NULs behind.
fn text(payload: &[u8]) -> Result<&str, ImageError> {
    let end = payload.iter().position(|&c| c == 0).unwrap_or(payload.len());
    let text = std::str::from_utf8(&payload[..end]).map_err(|_| ImageError::NotAnImage)?;
    let mut version = directive(text, ".version")?.split('.').map(str::parse::<u32>);
    match (version.next(), version.next()) {
        (Some(Ok(major)), Some(Ok(minor))) if (major, minor) <= NEWEST_PTX => Ok(text.trim()),
        (Some(Ok(major)), Some(Ok(minor))) => Err(ImageError::PtxVersion { found: (major, minor) }),
        _ => Err(ImageError::MissingDirective { directive: ".version" }),
    }
}

fn target(text: &str) -> Result<Target, ImageError> {
    let missing = ImageError::MissingDirective { directive: ".target" };
    Target::parse(directive(text, ".target")?.trim_end_matches(',')).ok_or(missing)
}

/// The first word after a directive that stands at the start of a line.
fn directive<'a>(text: &'a str, name: &'static str) -> Result<&'a str, ImageError> {
    text.lines()
        .filter_map(|line| line.trim_start().strip_prefix(name))
        .find_map(|rest| rest.split_whitespace().next())
        .ok_or(ImageError::MissingDirective { directive: name })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SM_80: Capability = Capability { major: 8, minor: 0 };
    const SM_90: Capability = Capability { major: 9, minor: 0 };

    fn container(entries: &[(u16, u32, u64, &[u8])]) -> Vec<u8> {
        let mut body = Vec::new();
        for (kind, arch, flags, payload) in entries {
            let mut header = [0u8; 64];
            header[0..2].copy_from_slice(&kind.to_le_bytes());
            header[4..8].copy_from_slice(&64u32.to_le_bytes());
            header[8..16].copy_from_slice(&(payload.len() as u64).to_le_bytes());
            header[28..32].copy_from_slice(&arch.to_le_bytes());
            header[40..48].copy_from_slice(&flags.to_le_bytes());
            body.extend_from_slice(&header);
            body.extend_from_slice(payload);
        }
        let mut image = fatbin::MAGIC.to_le_bytes().to_vec();
        image.extend_from_slice(&1u16.to_le_bytes());
        image.extend_from_slice(&16u16.to_le_bytes());
        image.extend_from_slice(&(body.len() as u64).to_le_bytes());
        image.extend(body);
        image
    }

    fn ptx(target: &str) -> Vec<u8> {
        format!("\n\n.version 9.0\n.target {target}\n.address_size 64\n\0\0").into_bytes()
    }

    #[test]
    fn the_highest_target_that_fits_is_taken() {
        let (a, b, c) = (ptx("sm_80"), ptx("sm_90a"), ptx("sm_100"));
        let image = container(&[(2, 80, 0x11, b"\x7fELF"), (1, 80, 0x11, &a), (1, 90, 0x11, &b), (1, 100, 0x11, &c)]);
        assert!(choose(&image, SM_80).unwrap().ptx.contains("sm_80"));
        assert!(choose(&image, SM_90).unwrap().ptx.contains("sm_90a"));
        let newer = Capability { major: 12, minor: 0 };
        assert!(choose(&image, newer).unwrap().ptx.contains("sm_100"));
    }

    #[test]
    fn an_exact_target_runs_nowhere_else() {
        let target = Target::parse("sm_90a").unwrap();
        assert!(target.runs_on(SM_90));
        assert!(!target.runs_on(SM_80));
        assert!(!target.runs_on(Capability { major: 10, minor: 0 }));
    }

    #[test]
    fn refusals_have_their_own_sentences() {
        let cubin = container(&[(2, 80, 0x11, b"\x7fELF")]);
        assert!(choose(&cubin, SM_80).unwrap_err().to_string().starts_with("cubin only: ship PTX beside it"));
        assert!(matches!(choose(&ptx("sm_90a"), SM_80), Err(ImageError::NothingFits { .. })));
        let newer = b".version 9.1\n.target sm_80\n";
        assert!(matches!(choose(newer, SM_80), Err(ImageError::PtxVersion { found: (9, 1) })));
    }

    #[test]
    fn no_cut_of_a_container_is_read_past_its_end() {
        let text = ptx("sm_80");
        let image = container(&[(1, 80, 0x11, &text)]);
        for cut in 0..image.len() {
            assert!(choose(&image[..cut], SM_80).is_err(), "cut to {cut} bytes");
        }
        for at in 0..image.len() {
            let mut broken = image.clone();
            broken[at] ^= 0xFF;
            // Any answer will do, as long as it is one.
            let _ = choose(&broken, SM_80).map(|chosen| chosen.ptx.len());
        }
    }

    #[test]
    fn measure_stops_where_the_image_ends() {
        let bytes = b".version 9.0\n\0garbage";
        assert_eq!(measure(|at| bytes[at]), Ok(13));
        let image = container(&[(1, 80, 0x11, b"text")]);
        assert_eq!(measure(|at| image[at]), Ok(image.len()));
        assert_eq!(measure(|at| b"ab\0"[at]), Ok(2));
        assert_eq!(measure(|at| b"\x01\x02\x03\x04"[at]), Err(ImageError::NotAnImage));
    }
}
