//! What this program does in the guest.

use anyhow::{Result, ensure};
use serde_json::Value;

use super::Task;
use crate::datapath::{clock::Meter, instructions};

/// Measures; the machine's first process reports the result.
///
/// # Errors
/// If the clock does not count instructions, or a measurement fails.
pub fn perform() -> Result<Value> {
    let meter = Meter::new()?;
    calibrate(meter)?;
    let wanted = std::env::var(Task::VARIABLE).unwrap_or_default();
    Ok(if wanted == Task::Profile.name() {
        serde_json::to_value(&instructions::profile(meter)?)?
    } else {
        serde_json::to_value(&instructions::measure(meter)?)?
    })
}

/// Holds the meter against a loop of a known number of instructions.
fn calibrate(meter: Meter) -> Result<()> {
    const TURNS: u64 = 10_000_000;
    const EACH: u64 = 2;
    let before = meter.read()?;
    // SAFETY: counts a register down to zero and touches nothing else.
    unsafe {
        std::arch::asm!("2: dec {turns}", "jnz 2b", turns = inout(reg) TURNS => _, options(nomem, nostack));
    }
    let counted = meter.read()? - before;
    let ratio = counted as f64 / (TURNS * EACH) as f64;
    ensure!((0.99..1.01).contains(&ratio), "the clock counts {ratio:.3} for each instruction");
    Ok(())
}
