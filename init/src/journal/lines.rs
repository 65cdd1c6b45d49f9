//! From a stream of bytes to lines, bounded.

/// Longest line that is kept; the rest of a longer one is dropped and marked.
const LONGEST: usize = 8192;

/// What marks a line that was cut.
const CUT: &str = " [cut]";

/// Puts lines together from the pieces that a pipe delivers.
#[derive(Debug, Default)]
pub struct Lines {
    partial: Vec<u8>,
    cut: bool,
}

impl Lines {
    /// Takes the next piece and returns the lines that it ends, without line ends; empty lines
    /// are left out.
    pub fn push(&mut self, piece: &[u8]) -> Vec<String> {
        let mut lines = Vec::new();
        let mut parts = piece.split(|&byte| byte == b'\n').peekable();
        while let Some(part) = parts.next() {
            let room = LONGEST.saturating_sub(self.partial.len());
            self.cut |= part.len() > room;
            self.partial.extend_from_slice(part.get(..part.len().min(room)).unwrap_or_default());
            if parts.peek().is_some() {
                lines.extend(self.rest());
            }
        }
        lines
    }

    /// The line that no line end followed.
    pub fn rest(&mut self) -> Option<String> {
        let bytes = std::mem::take(&mut self.partial);
        let cut = std::mem::take(&mut self.cut);
        let mut line = String::from_utf8_lossy(&bytes).trim_end().to_owned();
        if cut {
            line.push_str(CUT);
        }
        (!line.is_empty()).then_some(line)
    }
}
