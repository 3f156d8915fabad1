//! CSV as Bulk 2.0 reads and writes it.
//!
//! Owns: nothing. Invariants: a quoted word may hold delimiters, line ends and doubled quotes; what is written has every word quoted.
//! Fails with: nothing; an unclosed quote ends with the text. Source: RFC 4180.

/// Reads one record after another.
pub(crate) struct Records<'a> {
    rest: &'a [u8],
    delimiter: u8,
}

impl<'a> Records<'a> {
    pub(crate) fn new(text: &'a [u8], delimiter: u8) -> Self {
        let rest = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
        Self { rest, delimiter }
    }

    /// What has not been read yet.
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    fn word(&mut self) -> (String, bool) {
        if self.rest.first() == Some(&b'"') {
            return self.quoted();
        }
        let delimiter = self.delimiter;
        let ends = |byte: &u8| *byte == delimiter || *byte == b'\n';
        let end = self.rest.iter().position(ends).unwrap_or(self.rest.len());
        let mut word = &self.rest[..end];
        let more = self.rest.get(end) == Some(&delimiter);
        if !more {
            word = word.strip_suffix(b"\r").unwrap_or(word);
        }
        self.rest = self.rest.get(end + 1..).unwrap_or_default();
        (String::from_utf8_lossy(word).into_owned(), more)
    }

    fn quoted(&mut self) -> (String, bool) {
        let mut out = Vec::new();
        self.rest = &self.rest[1..];
        loop {
            let quote = self.rest.iter().position(|byte| *byte == b'"');
            let end = quote.unwrap_or(self.rest.len());
            out.extend_from_slice(&self.rest[..end]);
            self.rest = self.rest.get(end + 1..).unwrap_or_default();
            if self.rest.first() == Some(&b'"') && quote.is_some() {
                out.push(b'"');
                self.rest = &self.rest[1..];
            } else {
                break;
            }
        }
        // Up to the delimiter or the line's end.
        let more = self.rest.first() == Some(&self.delimiter);
        let skip = match self.rest {
            [b'\r', b'\n', ..] => 2,
            [] => 0,
            _ => 1,
        };
        self.rest = &self.rest[skip..];
        (String::from_utf8_lossy(&out).into_owned(), more)
    }
}

impl Iterator for Records<'_> {
    type Item = Vec<String>;

    /// The next record; empty lines are skipped.
    fn next(&mut self) -> Option<Vec<String>> {
        loop {
            if self.rest.is_empty() {
                return None;
            }
            let mut record = Vec::new();
            loop {
                let (word, more) = self.word();
                record.push(word);
                if !more {
                    break;
                }
            }
            if record.len() > 1 || !record[0].is_empty() {
                return Some(record);
            }
        }
    }
}

/// Appends one record.
pub(crate) fn write<'a>(out: &mut String, words: impl IntoIterator<Item = &'a str>, delimiter: u8, line_end: &str) {
    for (at, word) in words.into_iter().enumerate() {
        if at > 0 {
            out.push(char::from(delimiter));
        }
        out.push('"');
        if word.contains('"') {
            out.push_str(&word.replace('"', "\"\""));
        } else {
            out.push_str(word);
        }
        out.push('"');
    }
    out.push_str(line_end);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn quotes_hold_delimiters_lines_and_quotes() {
        let text = b"a,b\r\n\"x,\"\"y\"\"\",\"two\nlines\"\n\n1,\n\"open";
        let records: Vec<Vec<String>> = Records::new(text, b',').collect();
        let expected = [
            vec!["a", "b"],
            vec!["x,\"y\"", "two\nlines"],
            vec!["1", ""],
            vec!["open"],
        ];
        assert_eq!(records, expected);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(records in prop::collection::vec(prop::collection::vec("[a-z\",;\r\n é]{0,6}", 2..4), 1..5)) {
            for (delimiter, end) in [(b',', "\n"), (b';', "\r\n")] {
                let mut text = String::new();
                for record in &records {
                    write(&mut text, record.iter().map(String::as_str), delimiter, end);
                }
                let read: Vec<Vec<String>> = Records::new(text.as_bytes(), delimiter).collect();
                prop_assert_eq!(&read, &records);
            }
        }

        #[test]
        fn nothing_makes_it_panic(text in prop::collection::vec(any::<u8>(), 0..60)) {
            let count = Records::new(&text, b',').count();
            prop_assert!(count <= text.len());
        }
    }
}
