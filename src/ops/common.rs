//! What several operations hand to the reference.

use crate::dtype::Element;
use crate::reference::Operand;
use crate::shape::Layout;
use crate::tensor::View;

/// A view on the host as the reference takes it; none if it is on a GPU.
pub(super) fn operand<'a, T: Element>(view: &'a View<'_, T>) -> Option<Operand<'a, T>> {
    Some(Operand { data: view.on_host()?, strides: view.layout().strides() })
}

/// A view on the host that is repeated to a larger shape by `layout`.
pub(super) fn repeated<'a, T: Element>(view: &View<'a, T>, layout: &'a Layout) -> Option<Operand<'a, T>> {
    Some(Operand { data: view.on_host()?, strides: layout.strides() })
}
