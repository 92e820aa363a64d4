//! Results that must not be mistaken for logits.
//!
//! Probabilities, log-probabilities and log-sum-exps are tensors of the same element types as logits, and feeding one
//! where another is meant compiles in most libraries and trains a wrong model. Here each is a type of its own: none of
//! them dereferences to [`Tensor`] or converts into a [`View`], and the way out is a method with a name that says so.

use super::{Tensor, View};
use crate::device::Device;
use crate::dtype::Element;
use crate::error::Result;
use crate::shape::Shape;
use std::fmt;

macro_rules! typed {
    ($(#[$doc:meta])* $name:ident, $what:literal $(, <$generic:ident>)?; $element:ty) => {
        $(#[$doc])*
        pub struct $name$(<$generic>)?(Tensor<$element>);

        impl$(<$generic: Element>)? $name$(<$generic>)? {
            #[doc = concat!("Declares that a tensor holds ", $what, ". Nothing is checked: a wrong claim gives wrong")]
            /// numbers downstream, nothing worse.
            pub fn from_tensor(tensor: Tensor<$element>) -> Self {
                Self(tensor)
            }

            /// Gives up the type: the plain tensor.
            pub fn into_tensor(self) -> Tensor<$element> {
                self.0
            }

            /// The values as a plain view. What receives it no longer knows what they are.
            pub fn view_values(&self) -> View<'_, $element> {
                self.0.view()
            }

            /// Copies the values to the host, as [`Tensor::to_vec`].
            ///
            /// # Errors
            /// As [`Tensor::to_vec`].
            pub fn to_vec(&self) -> Result<Vec<$element>> {
                self.0.to_vec()
            }

            /// The same values for another device, as [`Tensor::to_device`].
            ///
            /// # Errors
            /// As [`Tensor::to_device`].
            pub fn to_device(&self, device: &Device) -> Result<Self> {
                Ok(Self(self.0.to_device(device)?))
            }

            /// The shape.
            pub fn shape(&self) -> &Shape {
                self.0.shape()
            }

            /// The lengths of the dims.
            pub fn dims(&self) -> &[usize] {
                self.0.dims()
            }

            /// The device that holds the values.
            pub fn device(&self) -> &Device {
                self.0.device()
            }
        }

        impl$(<$generic: Element>)? fmt::Debug for $name$(<$generic>)? {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_tuple(stringify!($name)).field(&self.0).finish()
            }
        }
    };
}

typed! {
    /// Probabilities along one dim: the result of a softmax.
    ///
    /// They do not pass for logits:
    /// ```compile_fail,E0277
    /// # use sumexp::{Device, Probabilities, Tensor, View};
    /// fn takes_logits<'a>(logits: impl Into<View<'a, f32>>) {}
    /// let p = Probabilities::from_tensor(Tensor::<f32>::zeros(&Device::cpu(), &[2])?);
    /// takes_logits(&p);
    /// # Ok::<(), sumexp::Error>(())
    /// ```
    /// With intent they do:
    /// ```
    /// # use sumexp::{Device, Probabilities, Tensor, View};
    /// fn takes_logits<'a>(logits: impl Into<View<'a, f32>>) {}
    /// let p = Probabilities::from_tensor(Tensor::<f32>::zeros(&Device::cpu(), &[2])?);
    /// takes_logits(p.view_values());
    /// # Ok::<(), sumexp::Error>(())
    /// ```
    Probabilities, "probabilities", <T>; T
}

typed! {
    /// Natural logarithms of probabilities along one dim: the result of a log-softmax.
    ///
    /// They are neither logits nor probabilities:
    /// ```compile_fail,E0308
    /// # use sumexp::{LogProbabilities, Probabilities};
    /// fn mistaken(log: LogProbabilities<f32>) -> Probabilities<f32> { log }
    /// ```
    /// ```compile_fail,E0277
    /// # use sumexp::{Device, LogProbabilities, Tensor, View};
    /// fn takes_logits<'a>(logits: impl Into<View<'a, f32>>) {}
    /// let log = LogProbabilities::from_tensor(Tensor::<f32>::zeros(&Device::cpu(), &[2])?);
    /// takes_logits(&log);
    /// # Ok::<(), sumexp::Error>(())
    /// ```
    LogProbabilities, "natural logarithms of probabilities", <T>; T
}

typed! {
    /// Natural logarithms of sums of exponentials, one per row, always in `f32`: the result of a logsumexp.
    ///
    /// ```compile_fail,E0277
    /// # use sumexp::{Device, Lse, Tensor, View};
    /// fn takes_logits<'a>(logits: impl Into<View<'a, f32>>) {}
    /// let lse = Lse::from_tensor(Tensor::<f32>::zeros(&Device::cpu(), &[2])?);
    /// takes_logits(&lse);
    /// # Ok::<(), sumexp::Error>(())
    /// ```
    Lse, "natural logarithms of sums of exponentials"; f32
}
