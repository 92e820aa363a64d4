//! What is exported has the types that the header declares: another one does not compile.

use crate::header;

/// Each exported function beside its declaration.
macro_rules! same {
    ($($name:ident($($argument:tt)*) -> $result:tt;)*) => {
        const _: () = {
            $(let _: [unsafe extern "C" fn($($argument)*) -> $result; 2] = [crate::$name, header::$name];)*
        };

        /// The functions that are compared.
        #[cfg(test)]
        const COMPARED: &[&str] = &[$(stringify!($name)),*];
    };
}

same! {
    sumexp_argmax(_, _, _, _) -> _;
    sumexp_attention_backward(_, _, _, _, _, _, _, _, _, _, _, _, _) -> _;
    sumexp_attention_forward(_, _, _, _, _, _, _, _) -> _;
    sumexp_attention_options_init(_) -> _;
    sumexp_bce_with_logits(_, _, _, _, _, _, _) -> _;
    sumexp_bce_with_logits_backward(_, _, _, _, _, _, _, _) -> _;
    sumexp_check(_, _) -> _;
    sumexp_confidence(_, _, _, _, _, _) -> _;
    sumexp_cross_entropy(_, _, _, _, _, _) -> _;
    sumexp_cross_entropy_backward(_, _, _, _, _, _, _) -> _;
    sumexp_cross_entropy_options_init(_) -> _;
    sumexp_distillation(_, _, _, _, _, _, _, _) -> _;
    sumexp_distillation_backward(_, _, _, _, _, _, _, _, _) -> _;
    sumexp_forget_stream(_, _) -> _;
    sumexp_last_error() -> _;
    sumexp_log_softmax(_, _, _, _, _, _) -> _;
    sumexp_log_softmax_backward(_, _, _, _, _, _) -> _;
    sumexp_logsumexp(_, _, _, _, _, _) -> _;
    sumexp_logsumexp_backward(_, _, _, _, _, _, _, _) -> _;
    sumexp_sample(_, _, _, _, _) -> _;
    sumexp_sample_options_init(_) -> _;
    sumexp_softmax(_, _, _, _, _, _) -> _;
    sumexp_softmax_backward(_, _, _, _, _, _) -> _;
    sumexp_version() -> _;
}

/// No function of the header is left out above.
#[test]
fn every_declared_function_is_compared() {
    let header = include_str!("../include/sumexp.h");
    let words = header.split(|c: char| !c.is_alphanumeric() && c != '_' && c != '(');
    let mut declared: Vec<&str> = words.filter_map(|word| word.split_once('(').map(|(name, _)| name)).collect();
    declared.retain(|name| name.starts_with("sumexp_"));
    declared.sort_unstable();
    assert_eq!(declared, COMPARED);
}
