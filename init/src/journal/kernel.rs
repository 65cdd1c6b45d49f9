//! Kernel messages: one record for each read of /dev/kmsg (Documentation/ABI/testing/dev-kmsg).

use std::{io, path::Path};

use tokio::io::{Interest, unix::AsyncFd};

use super::{Journal, Level, Record};

/// Longest record that the kernel hands out.
const LONGEST: usize = 8192;

/// Follows the kernel's messages into the journal until the device fails.
///
/// # Errors
/// If the device cannot be opened or read.
pub async fn follow(device: &Path, journal: Journal) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let file =
        std::fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(device)?;
    // SAFETY: a `File` keeps its descriptor open and the same for as long as it lives.
    let kmsg = unsafe { AsyncFd::register_with_interest(file, Interest::READABLE) }?;
    let mut buffer = vec![0; LONGEST];
    loop {
        let mut ready = kmsg.readable().await?;
        match ready.try_io(|file| rustix::io::read(file.get_ref(), &mut buffer).map_err(Into::into))
        {
            Ok(Ok(length)) => {
                let bytes = buffer.get(..length).unwrap_or_default();
                // Anew for each: the clock may have been set since the last.
                if let Some(record) = parse(bytes, start_unix_ms()) {
                    journal.append(record);
                }
            }
            // Records were overwritten before they were read; the next read goes on after them.
            Ok(Err(error)) if error.raw_os_error() == Some(libc::EPIPE) => {}
            Ok(Err(error)) => return Err(error),
            Err(_would_block) => {}
        }
    }
}

/// When the kernel started, by the clock as it is now.
fn start_unix_ms() -> u64 {
    let since_start = u64::try_from(crate::clock::since_start().as_millis()).unwrap_or(0);
    crate::clock::unix_ms().saturating_sub(since_start)
}

/// Reads one record, of the kernel itself: facility 0. Others were written there by programs.
fn parse(bytes: &[u8], start_unix_ms: u64) -> Option<Record> {
    let text = String::from_utf8_lossy(bytes);
    let (prefix, message) = text.split_once(';')?;
    let mut fields = prefix.split(',');
    let priority: u32 = fields.next()?.parse().ok()?;
    let _sequence = fields.next()?;
    let microseconds: u64 = fields.next()?.parse().ok()?;
    if priority >> 3 != 0 {
        return None;
    }
    let level = match priority & 7 {
        0..=3 => Level::Error,
        4 => Level::Warn,
        5 | 6 => Level::Info,
        _ => Level::Debug,
    };
    Some(Record {
        cursor: 0,
        unix_ms: start_unix_ms.saturating_add(microseconds / 1000),
        service: "kernel".to_owned(),
        level,
        message: message.lines().next().unwrap_or_default().to_owned(),
        fields: String::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_of_the_kernel() {
        let record = parse(b"4,1206,5140900,-;eth0: link down\n SUBSYSTEM=net\n", 1000).unwrap();
        assert_eq!(
            (record.level, record.unix_ms, record.message.as_str()),
            (Level::Warn, 6140, "eth0: link down")
        );
    }

    #[test]
    fn what_programs_write_there_and_what_is_torn_is_left_out() {
        assert_eq!(parse(b"30,1,2,-;from a program\n", 0), None);
        assert_eq!(parse(b"4,1", 0), None);
        assert_eq!(parse(b"", 0), None);
    }
}
