//! Zip files, as packages of metadata travel.
//!
//! Owns: nothing; pure. Invariants: what is read is bounded; what is written is stored, not compressed.
//! Units: at most 64 MiB unpacked. Fails with: `None`. Source: PKWARE's APPNOTE, sections 4.3.7, 4.3.12, 4.3.16; no zip64, no encryption.

use std::io::Read as _;

use bytes::Bytes;
use flate2::{Crc, read::DeflateDecoder};

const MOST: usize = 64 * 1024 * 1024;
const LOCAL: u32 = 0x0403_4b50;
const CENTRAL: u32 = 0x0201_4b50;
const END: u32 = 0x0605_4b50;
const END_LENGTH: usize = 22;

/// The files, in the order of the directory; folders are left out.
pub(crate) fn read(bytes: &[u8]) -> Option<Vec<(String, Bytes)>> {
    // A comment of up to 64 KiB may follow the end record.
    let from = bytes.len().saturating_sub(END_LENGTH + 0xffff);
    let end = (from..=bytes.len().checked_sub(END_LENGTH)?)
        .rev()
        .find(|at| u32_at(bytes, *at) == Some(END))?;
    let count = u16_at(bytes, end + 10)?;
    let mut at = u32_at(bytes, end + 16)? as usize;
    let mut left = MOST;
    let mut files = Vec::new();
    for _ in 0..count {
        if u32_at(bytes, at)? != CENTRAL {
            return None;
        }
        let (method, crc) = (u16_at(bytes, at + 10)?, u32_at(bytes, at + 16)?);
        let packed = u32_at(bytes, at + 20)? as usize;
        let lengths = [28, 30, 32].map(|field| u16_at(bytes, at + field).map(usize::from));
        let [Some(name), Some(extra), Some(comment)] = lengths else {
            return None;
        };
        let local = u32_at(bytes, at + 42)? as usize;
        let path = std::str::from_utf8(bytes.get(at + 46..at + 46 + name)?)
            .ok()?
            .to_owned();
        at += 46 + name + extra + comment;
        if path.ends_with('/') {
            continue;
        }
        if u32_at(bytes, local)? != LOCAL {
            return None;
        }
        let data = local + 30 + usize::from(u16_at(bytes, local + 26)?) + usize::from(u16_at(bytes, local + 28)?);
        let content = unpack(method, bytes.get(data..data.checked_add(packed)?)?, left)?;
        if checksum(&content) != crc {
            return None;
        }
        left -= content.len();
        files.push((path, content.into()));
    }
    Some(files)
}

fn unpack(method: u16, packed: &[u8], most: usize) -> Option<Vec<u8>> {
    let mut content = Vec::new();
    match method {
        0 => content.extend_from_slice(packed),
        8 => {
            let reader = DeflateDecoder::new(packed).take(most as u64 + 1);
            { reader }.read_to_end(&mut content).ok()?;
        }
        _ => return None,
    }
    (content.len() <= most).then_some(content)
}

/// `None` for what does not fit a zip without extensions.
pub(crate) fn write(files: &[(String, Bytes)]) -> Option<Vec<u8>> {
    let (mut out, mut directory) = (Vec::new(), Vec::new());
    for (path, content) in files {
        let offset = u32::try_from(out.len()).ok()?;
        let size = u32::try_from(content.len()).ok()?;
        let name = u16::try_from(path.len()).ok()?;
        let mut shared = Vec::new();
        // Version 2.0; UTF-8 names; stored; 1 January 1980.
        for word in [20u16, 0x0800, 0, 0, 0x0021] {
            shared.extend_from_slice(&word.to_le_bytes());
        }
        for word in [checksum(content), size, size] {
            shared.extend_from_slice(&word.to_le_bytes());
        }
        shared.extend_from_slice(&name.to_le_bytes());
        shared.extend_from_slice(&[0; 2]);
        out.extend_from_slice(&LOCAL.to_le_bytes());
        out.extend_from_slice(&shared);
        out.extend_from_slice(path.as_bytes());
        out.extend_from_slice(content);
        directory.extend_from_slice(&CENTRAL.to_le_bytes());
        directory.extend_from_slice(&20u16.to_le_bytes());
        directory.extend_from_slice(&shared);
        // No comment, disk 0, no attributes.
        directory.extend_from_slice(&[0; 10]);
        directory.extend_from_slice(&offset.to_le_bytes());
        directory.extend_from_slice(path.as_bytes());
    }
    let count = u16::try_from(files.len()).ok()?;
    let (start, size) = (u32::try_from(out.len()).ok()?, u32::try_from(directory.len()).ok()?);
    out.extend_from_slice(&directory);
    out.extend_from_slice(&END.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&count.to_le_bytes());
    out.extend_from_slice(&count.to_le_bytes());
    out.extend_from_slice(&size.to_le_bytes());
    out.extend_from_slice(&start.to_le_bytes());
    out.extend_from_slice(&[0; 2]);
    Some(out)
}

fn checksum(bytes: &[u8]) -> u32 {
    let mut crc = Crc::new();
    crc.update(bytes);
    crc.sum()
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let two = bytes.get(at..at.checked_add(2)?)?;
    Some(u16::from_le_bytes(two.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let four = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(four.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Made by Python's `zipfile`, deflated: `classes/A.cls` with 40 times `a`.
    const DEFLATED: &str = "UEsDBBQAAAAIAAAAIQAlilvJBgAAACgAAAANAAAAY2xhc3Nlcy9BLmNsc0tMJA4AAFBLAQIUAxQAAAAIAAAAIQAlilvJBgAAACgAAAANAAAAAAAAAAAAAACAAQAAAABjbGFzc2VzL0EuY2xzUEsFBgAAAAABAAEAOwAAADEAAAAAAA==";

    #[test]
    fn what_another_program_packed_is_read() {
        use base64::{Engine as _, engine::general_purpose::STANDARD};
        let bytes = STANDARD.decode(DEFLATED).unwrap();
        let expected = vec![("classes/A.cls".to_owned(), Bytes::from(vec![b'a'; 40]))];
        assert_eq!(read(&bytes), Some(expected));
    }

    #[test]
    fn a_changed_content_is_refused() {
        let mut bytes = write(&[("a".into(), Bytes::from_static(b"content"))]).unwrap();
        let at = bytes.windows(7).position(|w| w == b"content").unwrap();
        bytes[at] = b'C';
        assert_eq!(read(&bytes), None);
        assert_eq!(read(b"no zip"), None);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(files in prop::collection::vec(("[a-zé]{1,5}", prop::collection::vec(any::<u8>(), 0..20)), 0..4)) {
            let files: Vec<(String, Bytes)> = files.into_iter().map(|(path, content)| (path, content.into())).collect();
            prop_assert_eq!(read(&write(&files).unwrap()), Some(files));
        }

        #[test]
        fn nothing_makes_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..90), at in 0usize..60) {
            let mut zip = write(&[("a".into(), Bytes::from_static(b"x"))]).unwrap();
            let end = (at + bytes.len()).min(zip.len());
            zip.splice(at..end.max(at), bytes.iter().copied());
            let _: Option<Vec<(String, Bytes)>> = read(&zip);
        }
    }
}
