//! The console: lines out, keys in.
use core::fmt::{self, Write as _};
use core::time::Duration;
use portcullis_bootloader::flow::Choice;
use uefi::boot::{EventType, TimerTrigger, Tpl};
use uefi::proto::console::text::Key;
use uefi::{Event, Result, boot, system};

/// How long to wait where no key can be read, so that a loop of retries stays slow and readable.
const WITHOUT_KEYS: Duration = Duration::from_secs(60);

/// Shows a line.
pub fn say(line: fmt::Arguments<'_>) {
    // A console that fails must not keep the computer from booting.
    let _ = system::with_stdout(|console| writeln!(console, "{line}"));
}

/// Waits for a key that is a choice, at most `wait` if given. `None` also where no key can be read.
pub fn ask(wait: Option<Duration>) -> Option<Choice> {
    match read_choice(wait) {
        Ok(choice) => choice,
        Err(_) => {
            boot::stall(wait.unwrap_or(WITHOUT_KEYS));
            None
        }
    }
}

fn read_choice(wait: Option<Duration>) -> Result<Option<Choice>> {
    // SAFETY: a timer without a notification function has nothing to do when boot services end.
    let timer = unsafe { boot::create_event(EventType::TIMER, Tpl::APPLICATION, None, None)? };
    let answer = set_timer(&timer, wait).and_then(|()| wait_for_choice(&timer));
    boot::close_event(timer)?;
    answer
}

fn set_timer(timer: &Event, wait: Option<Duration>) -> Result {
    match wait {
        Some(wait) => boot::set_timer(timer, TimerTrigger::Relative(wait)),
        // Never signalled.
        None => Ok(()),
    }
}

fn wait_for_choice(timer: &Event) -> Result<Option<Choice>> {
    loop {
        let key = system::with_stdin(|input| input.wait_for_key_event())?;
        // SAFETY: the timer outlives the copy, which is not closed.
        let timer = unsafe { timer.unsafe_clone() };
        let signalled = boot::wait_for_event(&[key, timer]).map_err(|error| error.status())?;
        if signalled == 1 {
            return Ok(None);
        }
        let key = system::with_stdin(|input| input.read_key())?;
        if let Some(Key::Printable(key)) = key
            && let Some(choice) = Choice::of_key(key.into())
        {
            return Ok(Some(choice));
        }
    }
}
