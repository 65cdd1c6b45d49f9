//! The unified kernel image: systemd's EFI stub with kernel, initrd and command line as further PE sections.
//!
//! Bytes in, bytes out, after the UAPI specification of unified kernel images and the PE format: section headers go
//! into the room left in the stub's header, contents to the end of the file and above the stub's last address.

/// One section to add.
#[derive(Debug, Clone, Copy)]
pub struct Section<'a> {
    /// Name with its dot, at most 8 bytes: `.linux`.
    pub name: &'static str,
    /// Content.
    pub data: &'a [u8],
}

/// Why a stub cannot take the sections.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UkiError {
    /// The stub is not a PE32+ file.
    #[error("the EFI stub is not a PE32+ file: {0}")]
    NotPe(&'static str),
    /// The stub is for another processor.
    #[error("the EFI stub is for machine {found:#06x}, not {expected:#06x}")]
    Machine {
        /// In its header.
        found: u16,
        /// Of the image.
        expected: u16,
    },
    /// The header has no room for more sections.
    #[error("the EFI stub's header has room for {room} more sections, {needed} are needed")]
    NoRoom {
        /// Free section headers.
        room: usize,
        /// Sections to add.
        needed: usize,
    },
    /// The stub is signed; adding to it would only break its signature.
    #[error("the EFI stub is signed, an unsigned one is needed")]
    Signed,
    /// A section name that PE cannot hold or that the stub has already.
    #[error("section {0} is in the stub already or its name is longer than 8 bytes")]
    Name(&'static str),
    /// The image would be larger than PE can address.
    #[error("the unified kernel image would be larger than 4 GiB")]
    TooLarge,
}

const SECTION_HEADER: usize = 40;
/// Sections start on pages, so that firmware can protect each on its own.
const PAGE: u32 = 4096;
/// `IMAGE_SCN_CNT_INITIALIZED_DATA | IMAGE_SCN_MEM_READ`
const READ_ONLY_DATA: u32 = 0x4000_0040;

/// Adds `sections` to `stub` in the order given.
///
/// # Errors
/// When the stub is not an unsigned PE32+ file for `machine` with room for them.
pub fn build(stub: &[u8], machine: u16, sections: &[Section<'_>]) -> Result<Vec<u8>, UkiError> {
    let layout = Layout::read(stub, machine)?;
    let room = layout.header_room(stub);
    if room < sections.len() {
        return Err(UkiError::NoRoom { room, needed: sections.len() });
    }

    let mut image = stub.to_vec();
    let mut address = layout.end_address;
    let mut added = 0_u32;
    for (index, section) in sections.iter().enumerate() {
        let name = padded_name(section.name)?;
        if layout.names.contains(&name) {
            return Err(UkiError::Name(section.name));
        }
        address = align(address, PAGE.max(layout.section_alignment))?;
        let offset = align(size(image.len())?, layout.file_alignment)?;
        let length = size(section.data.len())?;
        let stored = align(length, layout.file_alignment)?;

        image.resize(offset as usize, 0);
        image.extend_from_slice(section.data);
        image.resize(offset.checked_add(stored).ok_or(UkiError::TooLarge)? as usize, 0);

        let header = layout.section_table + (layout.names.len() + index) * SECTION_HEADER;
        put(&mut image, header, &name);
        put(&mut image, header + 8, &length.to_le_bytes());
        put(&mut image, header + 12, &address.to_le_bytes());
        put(&mut image, header + 16, &stored.to_le_bytes());
        put(&mut image, header + 20, &offset.to_le_bytes());
        put(&mut image, header + 36, &READ_ONLY_DATA.to_le_bytes());
        address = address.checked_add(length).ok_or(UkiError::TooLarge)?;
        added = added.checked_add(stored).ok_or(UkiError::TooLarge)?;
    }

    let count = layout.names.len() + sections.len();
    put(
        &mut image,
        layout.coff + 2,
        &u16::try_from(count).map_err(|_| UkiError::TooLarge)?.to_le_bytes(),
    );
    let initialized = layout.initialized_data.checked_add(added).ok_or(UkiError::TooLarge)?;
    put(&mut image, layout.optional + 8, &initialized.to_le_bytes());
    put(&mut image, layout.optional + 56, &align(address, layout.section_alignment)?.to_le_bytes());
    // Zero is "no checksum": UEFI does not look at it, signatures leave it out.
    put(&mut image, layout.optional + 64, &[0; 4]);
    Ok(image)
}

/// What the headers of the stub say.
struct Layout {
    /// Offset of the COFF header.
    coff: usize,
    /// Offset of the optional header.
    optional: usize,
    /// Offset of the section headers.
    section_table: usize,
    names: Vec<[u8; 8]>,
    section_alignment: u32,
    file_alignment: u32,
    initialized_data: u32,
    /// First address above all sections.
    end_address: u32,
    /// First byte of a section's content in the file.
    first_content: u32,
}

impl Layout {
    fn read(stub: &[u8], machine: u16) -> Result<Self, UkiError> {
        if stub.get(..2) != Some(b"MZ") {
            return Err(UkiError::NotPe("no MZ at its start"));
        }
        let pe = u32_at(stub, 0x3c)? as usize;
        if pe.checked_add(4).and_then(|end| stub.get(pe..end)) != Some(b"PE\0\0") {
            return Err(UkiError::NotPe("no PE header"));
        }
        let coff = pe + 4;
        let found = u16_at(stub, coff)?;
        if found != machine {
            return Err(UkiError::Machine { found, expected: machine });
        }
        let optional = coff + 20;
        if u16_at(stub, optional)? != 0x20b {
            return Err(UkiError::NotPe("it is not 64 bit"));
        }
        let section_alignment = u32_at(stub, optional + 32)?;
        let file_alignment = u32_at(stub, optional + 36)?;
        if !section_alignment.is_power_of_two() || !file_alignment.is_power_of_two() {
            return Err(UkiError::NotPe("an alignment is not a power of two"));
        }
        // The certificate table is the fifth data directory, after 112 bytes of fields.
        if u32_at(stub, optional + 108)? > 4 && u32_at(stub, optional + 112 + 4 * 8 + 4)? != 0 {
            return Err(UkiError::Signed);
        }
        let section_table = optional + usize::from(u16_at(stub, coff + 16)?);
        let mut layout = Self {
            coff,
            optional,
            section_table,
            names: Vec::new(),
            section_alignment,
            file_alignment,
            initialized_data: u32_at(stub, optional + 8)?,
            end_address: 0,
            first_content: u32_at(stub, optional + 60)?,
        };
        for index in 0..usize::from(u16_at(stub, coff + 2)?) {
            let header = section_table + index * SECTION_HEADER;
            let name = stub
                .get(header..)
                .and_then(<[u8]>::first_chunk)
                .ok_or(UkiError::NotPe("it is cut off"))?;
            layout.names.push(*name);
            let end = u32_at(stub, header + 12)?
                .checked_add(u32_at(stub, header + 8)?)
                .ok_or(UkiError::TooLarge)?;
            layout.end_address = layout.end_address.max(end);
            let content = u32_at(stub, header + 20)?;
            if content != 0 {
                layout.first_content = layout.first_content.min(content);
            }
        }
        Ok(layout)
    }

    /// How many more section headers fit between the table and the first content, where only zeros may be.
    fn header_room(&self, stub: &[u8]) -> usize {
        let start = self.section_table + self.names.len() * SECTION_HEADER;
        let room = stub.get(start..self.first_content as usize).unwrap_or_default();
        room.iter().take_while(|byte| **byte == 0).count() / SECTION_HEADER
    }
}

fn padded_name(name: &'static str) -> Result<[u8; 8], UkiError> {
    let mut padded = [0; 8];
    padded.get_mut(..name.len()).ok_or(UkiError::Name(name))?.copy_from_slice(name.as_bytes());
    Ok(padded)
}

fn align(value: u32, alignment: u32) -> Result<u32, UkiError> {
    value.checked_next_multiple_of(alignment).ok_or(UkiError::TooLarge)
}

fn size(length: usize) -> Result<u32, UkiError> {
    u32::try_from(length).map_err(|_| UkiError::TooLarge)
}

fn u16_at(bytes: &[u8], offset: usize) -> Result<u16, UkiError> {
    let bytes = bytes
        .get(offset..)
        .and_then(<[u8]>::first_chunk)
        .ok_or(UkiError::NotPe("it is cut off"))?;
    Ok(u16::from_le_bytes(*bytes))
}

fn u32_at(bytes: &[u8], offset: usize) -> Result<u32, UkiError> {
    let bytes = bytes
        .get(offset..)
        .and_then(<[u8]>::first_chunk)
        .ok_or(UkiError::NotPe("it is cut off"))?;
    Ok(u32::from_le_bytes(*bytes))
}

/// Overwrites header bytes; [`Layout::read`] and the check for room have seen to it that they are there.
fn put(image: &mut [u8], offset: usize, bytes: &[u8]) {
    if let Some(target) = image.get_mut(offset..).and_then(|rest| rest.get_mut(..bytes.len())) {
        target.copy_from_slice(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::{Section, UkiError, build};
    use object::read::pe::PeFile64;
    use object::{Object as _, ObjectSection as _};
    use proptest::prelude::*;

    const MACHINE: u16 = 0x8664;

    /// The smallest stub that has all that a real one has: one section and room for `room` headers.
    fn stub(room: usize) -> Vec<u8> {
        let mut stub = vec![0; 0x40 + 24 + 240 + 40 * (1 + room)];
        stub[..2].copy_from_slice(b"MZ");
        stub[0x3c] = 0x40;
        stub[0x40..0x44].copy_from_slice(b"PE\0\0");
        stub[0x44..0x46].copy_from_slice(&MACHINE.to_le_bytes());
        stub[0x46] = 1;
        stub[0x54..0x56].copy_from_slice(&240_u16.to_le_bytes());
        let optional = 0x58;
        let content = u32::try_from(stub.len().next_multiple_of(512)).unwrap();
        for (offset, value) in
            [(32, 512_u32), (36, 512), (56, 0x1200), (60, content), (64, 77), (108, 16)]
        {
            stub[optional + offset..optional + offset + 4].copy_from_slice(&value.to_le_bytes());
        }
        stub[optional..optional + 2].copy_from_slice(&0x20b_u16.to_le_bytes());
        let section = optional + 240;
        stub[section..section + 5].copy_from_slice(b".text");
        for (offset, value) in
            [(8, 100_u32), (12, 0x1000), (16, 512), (20, content), (36, 0x6000_0020)]
        {
            stub[section + offset..section + offset + 4].copy_from_slice(&value.to_le_bytes());
        }
        stub.resize(content as usize, 0);
        stub.extend([0xc3; 512]);
        // No headers fit into the padding that follows the table.
        let end = section + 40 * (1 + room);
        stub[end..content as usize].fill(0xff);
        stub
    }

    #[test]
    fn another_reader_finds_the_sections_page_aligned_and_in_order() {
        let kernel = vec![7; 70_000];
        let sections = [
            Section { name: ".cmdline", data: b"quiet" },
            Section { name: ".linux", data: &kernel },
        ];
        let image = build(&stub(2), MACHINE, &sections).unwrap();
        let pe = PeFile64::parse(&*image).unwrap();
        let found: Vec<_> = pe
            .sections()
            .map(|section| (section.name().unwrap().to_owned(), section.address(), section.size()))
            .collect();
        assert_eq!(
            found,
            [
                (".text".into(), 0x1000, 100),
                (".cmdline".into(), 0x2000, 5),
                (".linux".into(), 0x3000, 70_000)
            ]
        );
        assert_eq!(pe.section_by_name(".linux").unwrap().data().unwrap()[..70_000], kernel);
        let header = pe.nt_headers().optional_header;
        assert_eq!(
            header.size_of_image.get(object::LittleEndian),
            (0x3000_u32 + 70_000).next_multiple_of(512)
        );
        assert_eq!(header.check_sum.get(object::LittleEndian), 0);
    }

    #[test]
    fn refuses_what_would_not_start() {
        let section = [Section { name: ".linux", data: b"x" }];
        assert_eq!(
            build(&stub(0), MACHINE, &section),
            Err(UkiError::NoRoom { room: 0, needed: 1 })
        );
        assert_eq!(
            build(&stub(1), 0xaa64, &section),
            Err(UkiError::Machine { found: MACHINE, expected: 0xaa64 })
        );
        assert!(matches!(build(b"\x7fELF", MACHINE, &section), Err(UkiError::NotPe(_))));
        let twice = [Section { name: ".text", data: b"x" }];
        assert_eq!(build(&stub(1), MACHINE, &twice), Err(UkiError::Name(".text")));
        let mut signed = stub(1);
        signed[0x58 + 112 + 36] = 1;
        assert_eq!(build(&signed, MACHINE, &section), Err(UkiError::Signed));
    }

    proptest! {
        #[test]
        fn damaged_stubs_give_errors_not_panics(at in 0_usize..700, value: u8, cut in 0_usize..1200) {
            let mut damaged = stub(3);
            damaged.truncate(cut);
            if let Some(byte) = damaged.get_mut(at) {
                *byte = value;
            }
            let _ = build(&damaged, MACHINE, &[Section { name: ".linux", data: b"x" }]);
        }
    }
}
