//! Number formats and rounding: halves, directed rounding, approximate functions.
