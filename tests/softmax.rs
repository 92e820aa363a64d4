//! The softmax family on every device.

mod common;
