//! The kernel command line. The first occurrence of a key counts: additions (for example through
//! SMBIOS, which the EFI stub honours even under Secure Boot) come at the end and must not win
//! against what was signed. Nothing in it starts a program.

/// Value of `key=` in `line`, of its first occurrence.
pub fn value<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    line.split_ascii_whitespace().find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
}

/// The verity root hash that the command line pins.
///
/// # Errors
/// If `roothash=` is missing or not 64 hexadecimal digits.
pub fn root_hash(line: &str) -> Result<[u8; 32], String> {
    let text = value(line, "roothash").ok_or("the kernel command line has no roothash=")?;
    let wrong = || format!("roothash={text}: must be 64 hexadecimal digits");
    if text.len() != 64 || !text.is_ascii() {
        return Err(wrong());
    }
    let mut hash = [0; 32];
    for (byte, digits) in hash.iter_mut().zip(text.as_bytes().chunks(2)) {
        let digits = std::str::from_utf8(digits).map_err(|_| wrong())?;
        // from_str_radix would take a sign.
        if !digits.chars().all(|c| c.is_ascii_hexdigit()) {
            return Err(wrong());
        }
        *byte = u8::from_str_radix(digits, 16).map_err(|_| wrong())?;
    }
    Ok(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_occurrence_counts() {
        let (good, evil) = ("ab".repeat(32), "cd".repeat(32));
        let line = format!("quiet xroothash=1 roothash={good} console=ttyS0 roothash={evil}\n");
        assert_eq!(root_hash(&line), Ok([0xab; 32]));
        assert_eq!(value(&line, "console"), Some("ttyS0"));
        assert_eq!(value(&line, "quiet"), None);
    }

    #[test]
    fn wrong_hashes_are_refused() {
        for text in ["", "ab", &"+a".repeat(32), &"xy".repeat(32), &"ä".repeat(32)] {
            let error = root_hash(&format!("roothash={text}")).unwrap_err();
            assert!(error.contains("64 hexadecimal digits"), "{error}");
        }
        assert!(root_hash("quiet").unwrap_err().contains("no roothash="));
    }
}
