//! The org's metadata components, and the calls that read and change them at once.
//!
//! Owns: the components, deployed or made here; `deploy` keeps its jobs beside them.
//! Invariants: a component is named by its type and its full name; what was sent is what is read.
//! Units: at most 10 components a call; times are milliseconds since 1970. Fails with: [`Fault`], or a component's own errors.
//! Source: the metadata WSDL; Metadata API developer guide. That a CRUD call on Apex is refused is documented, the code is not confirmed.

use std::{collections::BTreeMap, time::SystemTime};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;

use super::{
    Call, Fault, deploy,
    login::date,
    types::{TYPES, Type, by_name},
};
use crate::demo::{
    store::{id18, schema::OBJECTS, unix_millis, user_id},
    xml::{self, Element, Writer},
};

const MOST: usize = 10;
const NAMESPACE: &str = "http://soap.sforce.com/2006/04/metadata";

pub(crate) struct Metadata {
    components: Vec<Component>,
    pub(super) jobs: BTreeMap<String, deploy::Job>,
    made: usize,
}

pub(super) struct Component {
    pub(super) kind: &'static Type,
    pub(super) full_name: String,
    pub(super) id: String,
    pub(super) created: u64,
    pub(super) modified: u64,
    /// Without the full name.
    content: Vec<Element>,
    /// As deployed, by their path in a package; none if the component was made by a call.
    files: BTreeMap<String, Bytes>,
}

impl Metadata {
    /// The store's objects, and the class behind the sample web service.
    pub(crate) fn seeded(now: SystemTime) -> Self {
        let mut metadata = Self {
            components: Vec::new(),
            jobs: BTreeMap::new(),
            made: 0,
        };
        let now = unix_millis(now);
        if let Some(kind) = by_name("CustomObject") {
            for object in OBJECTS {
                let label = Element {
                    name: "label".into(),
                    text: object.name.into(),
                    ..Element::default()
                };
                metadata.put(kind, object.name, vec![label], now);
            }
        }
        let source = "global class Echo { webservice static String echo(String text) { return text; } }";
        let meta = "<?xml version=\"1.0\" encoding=\"UTF-8\"?><ApexClass xmlns=\"http://soap.sforce.com/2006/04/metadata\">\
            <apiVersion>66.0</apiVersion><status>Active</status></ApexClass>";
        for (path, text) in [("classes/Echo.cls", source), ("classes/Echo.cls-meta.xml", meta)] {
            metadata.put_file(path, Bytes::from_static(text.as_bytes()), now);
        }
        metadata
    }

    pub(super) fn of_type<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Component> {
        self.components
            .iter()
            .filter(move |component| component.kind.name == name)
    }

    pub(super) fn next_id(&mut self, prefix: &str) -> String {
        self.made += 1;
        id18(prefix, self.made)
    }

    fn at(&self, kind: &Type, full_name: &str) -> Option<usize> {
        let same = |component: &Component| component.kind.name == kind.name && component.full_name == full_name;
        self.components.iter().position(same)
    }

    /// Whether the component was created.
    fn put(&mut self, kind: &'static Type, full_name: &str, content: Vec<Element>, now: u64) -> bool {
        let (component, created) = self.entry(kind, full_name, now);
        component.content = content;
        component.files.clear();
        created
    }

    fn entry(&mut self, kind: &'static Type, full_name: &str, now: u64) -> (&mut Component, bool) {
        let found = self.at(kind, full_name);
        let at = found.unwrap_or(self.components.len());
        if found.is_none() {
            let id = self.next_id(kind.prefix);
            self.components.push(Component {
                kind,
                full_name: full_name.to_owned(),
                id,
                created: now,
                modified: now,
                content: Vec::new(),
                files: BTreeMap::new(),
            });
        }
        let component = &mut self.components[at];
        component.modified = now;
        (component, found.is_none())
    }

    /// One file of a deployed package; its component, and whether that was created. `None`: a file of no type we have.
    pub(super) fn put_file(&mut self, path: &str, bytes: Bytes, now: u64) -> Option<(&Component, bool)> {
        let (kind, full_name, file) = super::types::of_path(path)?;
        let (component, created) = self.entry(kind, &full_name, now);
        // The XML says what the component is; the other file is its content.
        if let Ok(root) = xml::parse(&bytes) {
            component.content = root.children;
        }
        component.files.insert(file, bytes);
        Some((component, created))
    }
}

impl Component {
    /// As files of a package.
    pub(super) fn files(&self) -> Vec<(String, Bytes)> {
        if !self.files.is_empty() {
            return self
                .files
                .iter()
                .map(|(path, bytes)| (path.clone(), bytes.clone()))
                .collect();
        }
        let mut out = Writer("<?xml version=\"1.0\" encoding=\"UTF-8\"?>".to_owned());
        let open = format!(
            "{} xmlns=\"{NAMESPACE}\" xmlns:xsi=\"{}\"",
            self.kind.name,
            super::INSTANCE
        );
        out.group(&open, |out| self.content.iter().for_each(|child| out.copy(child)));
        vec![(self.kind.file(&self.full_name), out.0.into())]
    }

    /// The text of an Apex class.
    pub(super) fn source(&self) -> String {
        let file = self.files.get(&self.kind.file(&self.full_name));
        file.map_or_else(String::new, |bytes| String::from_utf8_lossy(bytes).into_owned())
    }

    /// `FileProperties`.
    pub(super) fn properties(&self, out: &mut Writer) {
        let user = "integration@practice.example";
        out.word("createdById", &user_id(user));
        out.word("createdByName", "Practice User");
        out.word("createdDate", &date(self.created));
        out.word("fileName", &self.kind.file(&self.full_name));
        out.word("fullName", &self.full_name);
        out.word("id", &self.id);
        out.word("lastModifiedById", &user_id(user));
        out.word("lastModifiedByName", "Practice User");
        out.word("lastModifiedDate", &date(self.modified));
        out.word("manageableState", "unmanaged");
        out.word("type", self.kind.name);
    }

    /// As `readMetadata` shows it.
    fn record(&self, out: &mut Writer) {
        out.group(&format!("records xsi:type=\"{}\"", self.kind.name), |out| {
            out.word("fullName", &self.full_name);
            self.content.iter().for_each(|child| out.copy(child));
            if self.kind.meta_file {
                out.word("content", &STANDARD.encode(self.source()));
            }
        });
    }
}

pub(super) fn describe(_: &Call<'_>, out: &mut Writer) -> Result<(), Fault> {
    out.group("result", |out| {
        for kind in TYPES {
            out.group("metadataObjects", |out| kind.describe(out));
        }
        out.word("organizationNamespace", "");
        out.show("partialSaveAllowed", true);
        out.show("testRequired", false);
    });
    Ok(())
}

pub(super) fn list(call: &Call<'_>, out: &mut Writer) -> Result<(), Fault> {
    let metadata = call.world.metadata();
    for query in call.operation.all("queries") {
        let name = query.word("type");
        if by_name(name).is_none() {
            return Err(Fault::new("INVALID_TYPE", format!("Unknown type:{name}")));
        }
        for component in metadata.of_type(name) {
            out.group("result", |out| component.properties(out));
        }
    }
    Ok(())
}

pub(super) fn read(call: &Call<'_>, out: &mut Writer) -> Result<(), Fault> {
    let kind = known(call.operation.word("type"))?;
    let names: Vec<&str> = call.operation.words("fullNames").collect();
    within(names.len())?;
    let metadata = call.world.metadata();
    out.group("result", |out| {
        for name in names {
            match metadata.at(kind, name) {
                Some(at) => metadata.components[at].record(out),
                None => out.nil("records"),
            }
        }
    });
    Ok(())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Save {
    Create,
    Update,
    Upsert,
}

pub(super) fn create(call: &Call<'_>, out: &mut Writer) -> Result<(), Fault> {
    save(call, out, Save::Create)
}

pub(super) fn update(call: &Call<'_>, out: &mut Writer) -> Result<(), Fault> {
    save(call, out, Save::Update)
}

pub(super) fn upsert(call: &Call<'_>, out: &mut Writer) -> Result<(), Fault> {
    save(call, out, Save::Upsert)
}

fn save(call: &Call<'_>, out: &mut Writer, how: Save) -> Result<(), Fault> {
    let sent: Vec<&Element> = call.operation.all("metadata").collect();
    within(sent.len())?;
    let kinds = sent.iter().map(|one| writable(one.kind.as_deref().unwrap_or("")));
    let kinds: Vec<&'static Type> = kinds.collect::<Result<_, _>>()?;
    let now = unix_millis(call.world.now());
    let mut metadata = call.world.metadata();
    for (one, kind) in sent.into_iter().zip(kinds) {
        let name = one.word("fullName");
        let problem = match (how, metadata.at(kind, name)) {
            _ if name.is_empty() => Some((
                "REQUIRED_FIELD_MISSING",
                "Required field is missing: fullName".to_owned(),
            )),
            (Save::Create, Some(_)) => Some((
                "DUPLICATE_DEVELOPER_NAME",
                format!("There is already an item named {name}."),
            )),
            (Save::Update, None) => Some(missing(kind, name)),
            _ => None,
        };
        let created = problem.is_none() && {
            let content = one.children.iter().filter(|child| child.name != "fullName");
            metadata.put(kind, name, content.cloned().collect(), now)
        };
        let created = (how == Save::Upsert).then_some(created);
        result(out, name, created, problem);
    }
    Ok(())
}

pub(super) fn delete(call: &Call<'_>, out: &mut Writer) -> Result<(), Fault> {
    let kind = writable(call.operation.word("type"))?;
    let names: Vec<&str> = call.operation.words("fullNames").collect();
    within(names.len())?;
    let mut metadata = call.world.metadata();
    for name in names {
        let found = metadata.at(kind, name);
        if let Some(at) = found {
            metadata.components.remove(at);
        }
        let problem = found.is_none().then(|| missing(kind, name));
        result(out, name, None, problem);
    }
    Ok(())
}

fn known(name: &str) -> Result<&'static Type, Fault> {
    by_name(name).ok_or_else(|| {
        Fault::new(
            "INVALID_TYPE",
            "This type of metadata is not available for this organization",
        )
    })
}

/// A type that calls may change; Apex is only deployed.
fn writable(name: &str) -> Result<&'static Type, Fault> {
    let kind = known(name)?;
    if kind.meta_file {
        return Err(Fault::new("INVALID_TYPE", format!("{name} can only be deployed")));
    }
    Ok(kind)
}

fn within(count: usize) -> Result<(), Fault> {
    if count <= MOST {
        return Ok(());
    }
    Err(Fault::new(
        "EXCEEDED_ID_LIMIT",
        format!("record limit reached. cannot submit more than {MOST} records in this operation"),
    ))
}

fn missing(kind: &Type, name: &str) -> (&'static str, String) {
    (
        "INVALID_CROSS_REFERENCE_KEY",
        format!("no {} named {name} found", kind.name),
    )
}

/// `SaveResult`, `UpsertResult` or `DeleteResult`.
fn result(out: &mut Writer, name: &str, created: Option<bool>, problem: Option<(&str, String)>) {
    out.group("result", |out| {
        if let Some(created) = created {
            out.show("created", created);
        }
        if let Some((code, message)) = &problem {
            out.group("errors", |out| {
                out.word("message", message);
                out.word("statusCode", code);
            });
        }
        out.word("fullName", name);
        out.show("success", problem.is_none());
    });
}
