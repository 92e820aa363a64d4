//! Operations with gradients, written once for all places.

use crate::memory::{Host, Operand, Place};
use candle_core::cpu_backend::CpuStorage;
use candle_core::{CustomOp1, CustomOp2, CustomOp3, Error, Layout, Result, Shape, Tensor};

/// An operation of `N` tensors that gradients go through.
pub(crate) trait Op<const N: usize> {
    const NAME: &'static str;

    fn forward<P: Place>(&self, place: &P, inputs: [Operand<'_, P>; N]) -> Result<(P::Memory, Shape)>;

    /// The gradients of the inputs. Every input that is part of the graph must get one, those of detached tensors are not asked for.
    /// Gradients of gradients are not there.
    fn backward(&self, _inputs: [&Tensor; N], _result: &Tensor, _gradient: &Tensor) -> Result<[Option<Tensor>; N]> {
        Err(Error::BackwardNotSupported { op: Self::NAME })
    }
}

/// An [`Op`] as candle takes it.
pub(crate) struct Custom<O>(pub(crate) O);

impl<O> Custom<O> {
    fn run<P: Place, const N: usize>(&self, inputs: [(&P::Memory, &Layout); N]) -> Result<(P::Memory, Shape)>
    where
        O: Op<N>,
    {
        let place = P::of(inputs[0].0)?;
        let result = self.0.forward(&place, inputs.map(|(memory, layout)| Operand { memory, layout }))?;
        place.finish()?;
        Ok(result)
    }
}

macro_rules! custom {
    ($trait:ident, $n:literal, $($memory:ident $layout:ident $input:ident),*; $gradients:ty) => {
        impl<O: Op<$n>> $trait for Custom<O> {
            fn name(&self) -> &'static str {
                O::NAME
            }

            fn cpu_fwd(&self, $($memory: &CpuStorage, $layout: &Layout),*) -> Result<(CpuStorage, Shape)> {
                self.run::<Host, $n>([$(($memory, $layout)),*])
            }

            #[cfg(feature = "cuda")]
            fn cuda_fwd(
                &self,
                $($memory: &candle_core::CudaStorage, $layout: &Layout),*
            ) -> Result<(candle_core::CudaStorage, Shape)> {
                self.run::<crate::cuda::Gpu, $n>([$(($memory, $layout)),*])
            }

            fn bwd(&self, $($input: &Tensor,)* result: &Tensor, gradient: &Tensor) -> Result<$gradients> {
                let [$($input),*] = self.0.backward([$($input),*], result, gradient)?;
                Ok(($($input),*))
            }
        }
    };
}

custom!(CustomOp1, 1, s1 l1 x1; Option<Tensor>);
custom!(CustomOp2, 2, s1 l1 x1, s2 l2 x2; (Option<Tensor>, Option<Tensor>));
custom!(CustomOp3, 3, s1 l1 x1, s2 l2 x2, s3 l3 x3; (Option<Tensor>, Option<Tensor>, Option<Tensor>));
