//! Hostile inputs, on stable Rust: bytes become views, PTX, images, targets and masks, and nothing may panic, hang, read
//! out of bounds or give another answer than the obvious one.
//!
//! Inputs are mutations of a committed corpus. An input whose outcome was not seen before joins the pool that later ones
//! are made from, so an outcome is what a target returns: which checks refused it, and what came out. Everything follows
//! from a seed. An ordinary run makes some thousand inputs; `SUMEXP_FUZZ_SECONDS=60` runs each target for a minute
//! (`make fuzz`), and `SUMEXP_FUZZ_SEED` chooses other inputs. An input that fails is left in a file, which fails at once
//! when it is put into the corpus.

#[path = "../common/mod.rs"]
mod common;

mod engine;
mod images;
mod kernels;
mod views;

use engine::fuzz;

#[test]
fn views_reach_what_the_same_steps_on_a_list_of_offsets_reach() {
    fuzz("views", views::steps, 4000);
}

#[test]
fn raw_views_are_accepted_exactly_if_their_last_element_is_in_bounds() {
    fuzz("raw_views", views::raw, 4000);
}

#[test]
fn any_ptx_is_read_or_refused() {
    fuzz("ptx", images::ptx, 600);
}

#[test]
fn any_fatbin_is_read_or_refused() {
    fuzz("fatbin", images::fatbin, 4000);
}

#[test]
fn any_targets_give_the_same_answer_on_every_device() {
    fuzz("losses", kernels::losses, 150);
}

#[test]
fn any_masks_and_logits_give_the_same_answer_on_every_device() {
    fuzz("masks", kernels::masks, 150);
}
