//! Errors with what caused them, in one line.

use std::error::Error;

/// What an error says, and then each of its causes that it does not say itself: of a map that the kernel
/// refuses to change the reason stands in the last.
pub fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let said = next.to_string();
        if !text.ends_with(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        cause = next.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io;

    use aya::{maps::MapError, sys::SyscallError};

    use super::*;
    use crate::{datapath::DatapathError, engine::EngineError};

    #[test]
    fn the_reason_of_the_kernel_is_told_with_the_map_and_nothing_twice() {
        let io_error = io::Error::from_raw_os_error(28);
        let refused = MapError::from(SyscallError { call: "bpf_map_update_elem", io_error });
        let error = DatapathError::Map { name: "NAT_SOURCES", source: Box::new(refused) };
        assert_eq!(
            with_causes(&EngineError::from(error)),
            "map NAT_SOURCES: `bpf_map_update_elem` failed: No space left on device (os error 28)"
        );
    }
}
