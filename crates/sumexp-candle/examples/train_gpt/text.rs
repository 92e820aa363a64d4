//! The text: read and checked, turned into numbers, split, and a bigram model to be measured against.

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Rarer characters than this many share one class: a logit per character of a large script would drown the rest.
const MAX_CLASSES: usize = 256;
/// Too little text for a model and a held-out part.
const MIN_CHARACTERS: usize = 2000;
/// The most bytes of a file: training sees less than this, and a device file or a pipe may never end.
const MAX_BYTES: u64 = 128 << 20;
/// The most characters that are held out. More would say the same and take longer than the training.
const MAX_HELD_OUT: usize = 50_000;
/// Stands for the rare characters.
const OTHER: char = '\u{fffd}';

/// A text as numbers.
pub struct Text {
    /// The class of every character.
    pub codes: Vec<u32>,
    /// The character of every class.
    pub alphabet: Vec<char>,
}

/// Why a file cannot be trained on.
#[derive(Debug)]
pub enum TextError {
    Unreadable { file: String, error: std::io::Error },
    Long { file: String },
    NotText { file: String, at: usize, byte: u8 },
    Short { file: String, characters: usize },
}

impl fmt::Display for TextError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TextError::Unreadable { file, error } => write!(f, "{file} cannot be read: {error}"),
            TextError::Long { file } => write!(f, "{file} is longer than {} MiB", MAX_BYTES >> 20),
            TextError::NotText { file, at, byte } => {
                write!(f, "{file} is not UTF-8 text: byte {at} is 0x{byte:02x}")
            }
            TextError::Short { file, characters } => {
                write!(f, "{file} has {characters} characters, training needs at least {MIN_CHARACTERS}")
            }
        }
    }
}

impl std::error::Error for TextError {}

impl Text {
    /// Reads a file.
    pub fn read(path: &Path) -> Result<Text, TextError> {
        let file = path.display().to_string();
        let mut bytes = Vec::new();
        let read = File::open(path).and_then(|source| source.take(MAX_BYTES + 1).read_to_end(&mut bytes));
        match read {
            Err(error) => Err(TextError::Unreadable { file, error }),
            Ok(_) if bytes.len() as u64 > MAX_BYTES => Err(TextError::Long { file }),
            Ok(_) => Text::new(&file, &bytes),
        }
    }

    /// Checks and encodes `bytes`; line ends become `\n`, control characters of old file formats are dropped.
    pub fn new(file: &str, bytes: &[u8]) -> Result<Text, TextError> {
        let not_text = |at: usize| TextError::NotText { file: file.to_string(), at, byte: bytes[at] };
        let text = std::str::from_utf8(bytes).map_err(|error| not_text(error.valid_up_to()))?;
        // Valid UTF-8 can still be a program or an archive: no text holds NUL.
        if let Some(at) = bytes.iter().position(|byte| *byte == 0) {
            return Err(not_text(at));
        }
        let text: Vec<char> = text.chars().filter(|c| !c.is_control() || *c == '\n' || *c == '\t').collect();
        if text.len() < MIN_CHARACTERS {
            return Err(TextError::Short { file: file.to_string(), characters: text.len() });
        }

        let mut counts: HashMap<char, usize> = HashMap::new();
        for c in &text {
            *counts.entry(*c).or_default() += 1;
        }
        let mut alphabet: Vec<char> = counts.keys().copied().collect();
        alphabet.sort_by_key(|c| (std::cmp::Reverse(counts[c]), *c));
        if alphabet.len() > MAX_CLASSES {
            alphabet.truncate(MAX_CLASSES - 1);
            alphabet.retain(|c| *c != OTHER);
            alphabet.push(OTHER);
        }
        alphabet.sort_unstable();
        let classes: HashMap<char, u32> = alphabet.iter().zip(0..).map(|(c, class)| (*c, class)).collect();
        let codes = text.iter().map(|c| *classes.get(c).unwrap_or_else(|| &classes[&OTHER])).collect();
        Ok(Text { codes, alphabet })
    }

    /// A number that tells texts apart (FNV-1a over the classes and their characters).
    pub fn fingerprint(&self) -> u64 {
        let numbers = self.codes.iter().copied().chain(self.alphabet.iter().map(|c| u32::from(*c)));
        numbers.fold(0xcbf2_9ce4_8422_2325, |hash, n| (hash ^ u64::from(n)).wrapping_mul(0x0100_0000_01b3))
    }

    /// The part to learn from, and the last tenth of a text of ordinary length, which the model never sees.
    pub fn split(&self) -> (&[u32], &[u32]) {
        self.codes.split_at((self.codes.len() / 10 * 9).max(self.codes.len().saturating_sub(MAX_HELD_OUT)))
    }
}

/// Bits per character of `held_out` under the pair counts of `train`, each count raised by the `prior` that suits
/// `held_out` best: a bigram model at its most favourable.
pub fn bigram_bits(train: &[u32], held_out: &[u32], classes: usize) -> f64 {
    let mut counts = vec![0_u32; classes * classes];
    for pair in train.windows(2) {
        counts[pair[0] as usize * classes + pair[1] as usize] += 1;
    }
    let bits = |prior: f64| {
        let cost = held_out.windows(2).map(|pair| {
            let row = &counts[pair[0] as usize * classes..][..classes];
            let total: u32 = row.iter().sum();
            -((f64::from(row[pair[1] as usize]) + prior) / (f64::from(total) + prior * classes as f64)).log2()
        });
        cost.sum::<f64>() / (held_out.len() - 1) as f64
    };
    [1.0, 0.3, 0.1, 0.03, 0.01].into_iter().map(bits).fold(f64::INFINITY, f64::min)
}
