//! The scheduler: which warp runs next, and for how long.
