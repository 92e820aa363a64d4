//! Values that are made by functions that check, never field by field. A line that must not compile says with which error;
//! everything else must compile.
#![allow(unused)]

use sumexp::*;

fn shapes_are_checked() -> Result<()> {
    let made = Shape::new("mine", &[1 << 20, 8])?;
    let made = Shape {
        dims: [1 << 60; 8], //~ E0451
        rank: 8,
    };
    Ok(())
}

fn layouts_are_checked(shape: Shape) {
    let made = Layout::contiguous(shape);
    let made = Layout {
        shape, //~ E0451
        strides: [1 << 40; 8],
    };
}

fn a_dim_counts_from_a_known_end() {
    let made = Dim::front(3);
    let made = Dim {
        index: 3, //~ E0451
        ..Dim::LAST
    };
}

fn a_mask_says_what_its_bytes_mean(bytes: View<u8>) {
    let made = keep(bytes);
    let made = BoolTensor {
        bytes, //~ E0451
        polarity: Polarity::Keep,
    };
}
