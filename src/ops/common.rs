//! What several operations do with operands on the host.

use crate::dtype::Element;
use crate::error::Result;
use crate::reference::Operand;
use crate::shape::Layout;
use crate::tensor::{View, ViewMut};

/// A view on the host as the reference takes it; none if it is on a GPU.
pub(super) fn operand<'a, T: Element>(view: &'a View<'_, T>) -> Option<Operand<'a, T>> {
    Some(Operand { data: view.on_host()?, strides: view.layout().strides() })
}

/// A view on the host that is repeated to a larger shape by `layout`.
pub(super) fn repeated<'a, T: Element>(view: &View<'a, T>, layout: &'a Layout) -> Option<Operand<'a, T>> {
    Some(Operand { data: view.on_host()?, strides: layout.strides() })
}

/// Fills a contiguous output on the host.
pub(super) fn write<T: Element>(
    op: &'static str,
    name: &'static str,
    output: &mut ViewMut<T>,
    values: impl IntoIterator<Item = T>,
) -> Result<()> {
    let data = output.on_host(op, name)?.expect("outputs are where the inputs are");
    data.iter_mut().zip(values).for_each(|(place, value)| *place = value);
    Ok(())
}
