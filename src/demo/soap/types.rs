//! Which kinds of metadata the practice org has, and where their files live in a package.
//!
//! Owns: the list. Invariants: a directory belongs to one type. Fails with: nothing.
//! Source: Metadata API developer guide, `DescribeMetadataObject`.

use crate::demo::xml::Writer;

#[derive(Debug)]
pub(super) struct Type {
    pub(super) name: &'static str,
    pub(super) directory: &'static str,
    pub(super) suffix: &'static str,
    /// The content has a second file beside it, `…-meta.xml`.
    pub(super) meta_file: bool,
    children: &'static [&'static str],
    /// Of the component's id.
    pub(super) prefix: &'static str,
}

pub(super) static TYPES: &[Type] = &[
    Type {
        name: "ApexClass",
        directory: "classes",
        suffix: "cls",
        meta_file: true,
        children: &[],
        prefix: "01p",
    },
    Type {
        name: "ApexTrigger",
        directory: "triggers",
        suffix: "trigger",
        meta_file: true,
        children: &[],
        prefix: "01q",
    },
    Type {
        name: "CustomObject",
        directory: "objects",
        suffix: "object",
        meta_file: false,
        children: &["CustomField", "ListView", "RecordType", "ValidationRule"],
        prefix: "01I",
    },
    Type {
        name: "PermissionSet",
        directory: "permissionsets",
        suffix: "permissionset",
        meta_file: false,
        children: &[],
        prefix: "0PS",
    },
];

pub(super) fn by_name(name: &str) -> Option<&'static Type> {
    TYPES.iter().find(|kind| kind.name == name)
}

impl Type {
    /// `objects/Account.object`.
    pub(super) fn file(&self, full_name: &str) -> String {
        format!("{}/{full_name}.{}", self.directory, self.suffix)
    }

    /// `DescribeMetadataObject`.
    pub(super) fn describe(&self, out: &mut Writer) {
        for child in self.children {
            out.word("childXmlNames", child);
        }
        out.word("directoryName", self.directory);
        out.show("inFolder", false);
        out.show("metaFile", self.meta_file);
        out.word("suffix", self.suffix);
        out.word("xmlName", self.name);
    }
}

/// The type, the full name, and the file's path in a package, of a path in a deployed zip, whatever directory the package stands in.
pub(super) fn of_path(path: &str) -> Option<(&'static Type, String, String)> {
    let mut segments = path.rsplit('/');
    let file = segments.next()?;
    let directory = segments.next()?;
    let kind = TYPES.iter().find(|kind| kind.directory == directory)?;
    let stem = file
        .strip_suffix("-meta.xml")
        .filter(|_| kind.meta_file)
        .unwrap_or(file);
    let full_name = stem.strip_suffix(kind.suffix)?.strip_suffix('.')?;
    (!full_name.is_empty()).then(|| (kind, full_name.to_owned(), format!("{directory}/{file}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_tells_its_component() {
        let of = |path: &str| of_path(path).map(|(kind, name, file)| format!("{} {name} {file}", kind.name));
        for (path, expected) in [
            ("classes/A.cls", Some("ApexClass A classes/A.cls")),
            (
                "unpackaged/classes/A.cls-meta.xml",
                Some("ApexClass A classes/A.cls-meta.xml"),
            ),
            ("objects/A__c.object", Some("CustomObject A__c objects/A__c.object")),
            ("objects/A__c.object-meta.xml", None),
            ("package.xml", None),
            ("classes/.cls", None),
            ("classes/A.txt", None),
            ("other/A.cls", None),
        ] {
            assert_eq!(of(path).as_deref(), expected, "{path}");
        }
    }
}
