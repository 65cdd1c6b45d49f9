//! What init says to a person at the console.

use std::{fs::File, io::Write, os::unix::fs::OpenOptionsExt, path::Path, sync::Arc};

/// The last of the terminals named by `console=` that are up.
pub const DEVICE: &str = "/dev/console";

/// The kernel's log, which it shows on all of them.
const LOG: &str = "/dev/kmsg";

/// Says on all consoles why the machine cannot go on: whoever looks at the screen of a box that has
/// a serial line as well would see nothing of what goes to [`DEVICE`] alone.
pub fn alarm(text: &str) {
    if log(Path::new(LOG), text).is_err() {
        Console::open(Path::new(DEVICE)).say(text);
    }
}

/// One record of the level "error", which the image's command line lets through.
fn log(device: &Path, text: &str) -> std::io::Result<()> {
    let mut log = File::options().write(true).open(device)?;
    log.write_all(format!("<3>{}\n", printable(text)).as_bytes())
}

fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).collect()
}

/// The console; cheap to clone. Lines that it cannot take at once are lost, so that a stopped
/// serial line never holds up PID 1.
#[derive(Clone, Debug, Default)]
pub struct Console {
    device: Option<Arc<File>>,
}

impl Console {
    /// Opens `device`; without it there is silence.
    pub fn open(device: &Path) -> Self {
        let file = std::fs::OpenOptions::new()
            .write(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
            .open(device);
        Self { device: file.ok().map(Arc::new) }
    }

    /// Writes a line; control characters in it are left out.
    pub fn say(&self, text: &str) {
        let Some(device) = &self.device else { return };
        let mut line = printable(text);
        line.push_str("\r\n");
        let _ = device.as_ref().write(line.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alarm_is_one_record_of_the_kernels_log() {
        let log_file = tempfile::NamedTempFile::new().unwrap();
        log(log_file.path(), "no slot:\n<0>vda3 \u{1b}[31m").unwrap();
        assert_eq!(std::fs::read_to_string(log_file.path()).unwrap(), "<3>no slot:<0>vda3 [31m\n");
        assert!(log(Path::new("/nonexistent/log"), "").is_err());
    }
}
