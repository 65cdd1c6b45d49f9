//! What init says to a person at the console.

use std::{fs::File, os::unix::fs::OpenOptionsExt, path::Path, sync::Arc};

/// The kernel's console: all terminals named by `console=` that are up, in practice the last.
pub const DEVICE: &str = "/dev/console";

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
        use std::io::Write;
        let Some(device) = &self.device else { return };
        let mut line: String = text.chars().filter(|c| !c.is_control()).collect();
        line.push_str("\r\n");
        let _ = device.as_ref().write(line.as_bytes());
    }
}
