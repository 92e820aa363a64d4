//! The parts of the example `train_characters`: what it refuses to read, and that its network learns.
#![allow(dead_code)] // The example uses all of them.

#[path = "../examples/train_characters/matrix.rs"]
mod matrix;
#[path = "../examples/train_characters/model.rs"]
mod model;
#[path = "../examples/train_characters/picture.rs"]
mod picture;
#[path = "../examples/train_characters/random.rs"]
mod random;
#[path = "../examples/train_characters/text.rs"]
mod text;

use matrix::{add_product, transposed};
use model::{CONTEXT, Model};
use random::Random;
use std::path::Path;
use sumexp::{CrossEntropy, Device, Dim, Tensor, cross_entropy, cross_entropy_backward};
use text::{Text, bigram_bits};

#[test]
fn files_that_are_not_text_are_refused_in_one_sentence() {
    let refused = |bytes: &[u8]| Text::new("file", bytes).map(|_| ()).unwrap_err().to_string();
    let text = "a line of text\n".repeat(200);
    let with = |at: usize, byte: u8| {
        let mut bytes = text.clone().into_bytes();
        bytes[at] = byte;
        bytes
    };
    assert_eq!(refused(&with(24, 0xd0)), "file is not UTF-8 text: byte 24 is 0xd0");
    assert_eq!(refused(&with(7, 0)), "file is not UTF-8 text: byte 7 is 0x00");
    assert_eq!(refused(b""), "file has 0 characters, training needs at least 2000");
    assert_eq!(refused(&text.as_bytes()[..1999]), "file has 1999 characters, training needs at least 2000");
    let missing = Text::read(Path::new("no/such/file")).map(|_| ()).unwrap_err().to_string();
    assert!(missing.starts_with("no/such/file cannot be read: "), "{missing}");
    // Neither a folder nor a file without an end is read for ever.
    let folder = Text::read(Path::new(env!("CARGO_MANIFEST_DIR"))).map(|_| ()).unwrap_err().to_string();
    assert!(folder.contains(" cannot be read: "), "{folder}");
    if cfg!(unix) {
        let endless = Text::read(Path::new("/dev/zero")).map(|_| ()).unwrap_err().to_string();
        assert_eq!(endless, "/dev/zero is longer than 128 MiB");
    }
    assert!(Text::new("file", text.as_bytes()).is_ok());
}

#[test]
fn a_tenth_is_held_out_but_not_of_a_long_text() {
    for (characters, held_out) in [(2000, 200), (400_000, 40_000), (1_000_000, 50_000)] {
        let text = Text::new("file", "abcdefghi\n".repeat(characters / 10).as_bytes()).unwrap();
        let (train, held) = text.split();
        assert_eq!((train.len(), held.len()), (characters - held_out, held_out));
    }
}

#[test]
fn the_bundled_text_is_read_whole() {
    let text = Text::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/alice29.txt")).unwrap();
    let back: String = text.codes.iter().map(|code| text.alphabet[*code as usize]).collect();
    assert!(back.contains("Alice was beginning to get very tired of sitting by her sister\non the bank"));
    assert!(!back.contains('\r') && back.len() > 140_000);
}

#[test]
fn rare_characters_share_a_class() {
    // 1000 different characters, each as often as the others.
    let many: String = (0..1000).map(|i| char::from_u32(0x4e00 + i).unwrap()).collect();
    let text = Text::new("file", many.repeat(3).as_bytes()).unwrap();
    assert_eq!(text.alphabet.len(), 256);
    let other = text.alphabet.iter().position(|c| *c == '\u{fffd}').unwrap() as u32;
    assert_eq!(text.codes.iter().filter(|code| **code == other).count(), 3 * 745);
}

#[test]
fn a_bigram_model_knows_what_follows() {
    // After every a comes a b and after every b an a or a c: half a bit per character, up to the prior.
    let codes: Vec<u32> = (0..4000).map(|i| if i % 2 == 0 { 0 } else { 1 + (i / 2 * 7 / 5) % 2 }).collect();
    let bits = bigram_bits(&codes[..3000], &codes[3000..], 3);
    assert!((bits - 0.5).abs() < 0.01, "{bits}");
}

#[test]
fn the_product_is_that_of_three_loops() {
    let mut random = Random::new(5);
    for (rows, inner, columns) in [(1, 1, 1), (4, 3, 8), (33, 17, 9), (70, 5, 31)] {
        let mut numbers = |n: usize| (0..n).map(|_| random.symmetric(1.0)).collect::<Vec<f32>>();
        let (x, w, mut y) = (numbers(rows * inner), numbers(inner * columns), numbers(rows * columns));
        let mut want = y.clone();
        for r in 0..rows {
            for c in 0..columns {
                want[r * columns + c] += (0..inner).map(|i| x[r * inner + i] * w[i * columns + c]).sum::<f32>();
            }
        }
        add_product(&mut y, &x, &w, inner, columns);
        for (got, want) in y.iter().zip(&want) {
            assert!((got - want).abs() < 1e-5, "{rows} {inner} {columns}: {got} for {want}");
        }
        assert_eq!(transposed(&transposed(&x, inner), rows), x);
    }
}

#[test]
fn the_network_learns_a_rule() {
    // The next character is the one before last: nothing that a bigram model could see.
    let device = Device::cpu();
    let mut random = Random::new(7);
    let mut model = Model::new(4, &mut random);
    let mut losses = Vec::new();
    for _ in 0..150 {
        let contexts: Vec<u32> = (0..64 * CONTEXT).map(|_| random.below(4) as u32).collect();
        let targets: Vec<u32> = contexts.chunks(CONTEXT).map(|context| context[CONTEXT - 2]).collect();
        let forward = model.forward(contexts);
        let logits = Tensor::from_slice(&device, &[64, 4], &forward.logits).unwrap();
        let targets = Tensor::from_slice(&device, &[64], &targets).unwrap();
        let options = CrossEntropy::default();
        let output = cross_entropy(&logits, Dim::LAST, &targets, &options).unwrap();
        let one = Tensor::from_slice(&device, &[], &[1.0f32]).unwrap();
        let dlogits = cross_entropy_backward(&logits, Dim::LAST, &targets, &output.saved, &one, &options).unwrap();
        model.backward(&forward, &dlogits.to_vec().unwrap());
        model.step(3e-3);
        losses.push(output.loss.to_vec().unwrap()[0]);
    }
    assert!(losses[0] > 1.0, "four characters at random cost ln 4: {}", losses[0]);
    assert!(losses[140..].iter().all(|loss| *loss < 0.2), "{:?}", &losses[140..]);
}

#[test]
fn the_picture_holds_every_point() {
    let level = picture::Level { bits: 3.5, label: "a < b & c".to_string() };
    let svg = picture::draw(&[(1, 4.0), (2, 3.0), (3, 2.5)], &[(3, 2.6)], &[level]);
    let points = svg.split("points=\"").nth(1).unwrap().split('"').next().unwrap();
    assert_eq!(points.split(' ').count(), 3);
    assert!(svg.contains("a &lt; b &amp; c") && svg.ends_with("</svg>\n"));
}
