//! The patterns of `modules.alias`: fnmatch(3) with `*`, `?` and `[...]`, as depmod writes them.

/// Whether `text` as a whole matches `pattern`. Takes time proportional to the product of both
/// lengths at most.
pub(super) fn matches(pattern: &str, text: &str) -> bool {
    let (mut pattern, mut text) = (pattern.as_bytes(), text.as_bytes());
    // Where to go on if what follows the last star does not fit: one byte later.
    let mut retry: Option<(&[u8], &[u8])> = None;
    loop {
        if let [b'*', rest @ ..] = pattern {
            pattern = rest;
            retry = Some((rest, text));
            continue;
        }
        match (step(pattern, text), text.is_empty() && pattern.is_empty()) {
            (_, true) => return true,
            (Some((p, t)), _) => (pattern, text) = (p, t),
            (None, _) => match retry {
                Some((p, [_, t @ ..])) => {
                    (pattern, text) = (p, t);
                    retry = Some((p, t));
                }
                _ => return false,
            },
        }
    }
}

/// What is left of both after one element that is no star, if it fits.
fn step<'a>(pattern: &'a [u8], text: &'a [u8]) -> Option<(&'a [u8], &'a [u8])> {
    let [byte, text @ ..] = text else { return None };
    match pattern {
        [b'?', pattern @ ..] => Some((pattern, text)),
        [b'[', class @ ..] => {
            let end = class.iter().position(|&b| b == b']')?;
            let (class, pattern) = class.split_at_checked(end)?;
            in_class(class, *byte).then_some((pattern.get(1..)?, text))
        }
        [literal, pattern @ ..] if literal == byte => Some((pattern, text)),
        _ => None,
    }
}

/// Single bytes and ranges: `0-9af`.
fn in_class(mut class: &[u8], byte: u8) -> bool {
    loop {
        match class {
            [from, b'-', to, rest @ ..] => {
                if (*from..=*to).contains(&byte) {
                    return true;
                }
                class = rest;
            }
            [one, rest @ ..] => {
                if *one == byte {
                    return true;
                }
                class = rest;
            }
            [] => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::matches;

    #[test]
    fn patterns_as_depmod_writes_them() {
        let virtio = "pci:v00001AF4d00001000sv00001AF4sd00000001bc02sc00i00";
        assert!(matches("pci:v00001AF4d*sv*sd*bc*sc*i*", virtio));
        assert!(!matches("pci:v00008086d*sv*sd*bc*sc*i*", virtio));
        assert!(matches("usb:v0BDAp8153d[0-2]*dc*", "usb:v0BDAp8153d2000dc00"));
        assert!(!matches("usb:v0BDAp8153d[0-2]*dc*", "usb:v0BDAp8153d3000dc00"));
        assert!(matches("acpi*:PNP0A0[38]:*", "acpi:PNP0A08:PNP0A03:"));
        assert!(matches("dmi:*:svn?emu*", "dmi:bvn:svnQemu"));
        assert!(!matches("dmi:*:svnqemu*", "dmi:bvn:svnQemu"));
        assert!(matches("*", "") && matches("", "") && !matches("?", "") && !matches("[a", "a"));
    }

    proptest! {
        /// Against the definition: a star is any text, the rest letter by letter.
        #[test]
        fn agrees_with_the_definition(pattern in "[ab?*]{0,9}", text in "[ab]{0,9}") {
            fn defined(p: &[u8], t: &[u8]) -> bool {
                match (p, t) {
                    ([], []) => true,
                    ([b'*', p @ ..], _) => (0..=t.len()).any(|n| defined(p, &t[n..])),
                    ([b'?', p @ ..], [_, t @ ..]) => defined(p, t),
                    ([a, p @ ..], [b, t @ ..]) => a == b && defined(p, t),
                    _ => false,
                }
            }
            prop_assert_eq!(matches(&pattern, &text), defined(pattern.as_bytes(), text.as_bytes()));
        }
    }
}
