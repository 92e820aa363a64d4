//! The executable form of a kernel, and the way from PTX statements to it.

mod cfg;
mod control;
pub(crate) mod decode;
mod flow;
mod inst;
mod kernel;
mod layout;
mod live;
mod lower;
mod reach;
mod routine;
mod slots;
mod text;

pub use control::{Barrier, BarrierAction, Control};
pub use flow::{Flows, Place, Rule};
pub use inst::{Class, Inst, Kind};
pub use kernel::{Fill, Kernel, Param, SharedLayout, SharedVariable, Source, Special, Unsupported};
pub use layout::Signature;
pub use reach::{Callee, callee};
pub use routine::{Call, Frame, FrameVariable, Piece, Routine, Undefined};
