//! The programs: one per hook.

mod tables;
mod tcx;
mod xdp;

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // The verifier refuses programs that could get here: it is an endless loop.
    loop {}
}

/// The helpers that redirect packets are open to GPL-compatible programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";
