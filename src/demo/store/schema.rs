//! Which objects and fields the practice org has.
//!
//! Owns: the list. Invariants: at most one external id field an object; system fields are not listed.
//! Fails with: [`Problem`] when a value does not fit its field.

use serde_json::{Value, json};

use crate::demo::answer::Problem;

#[derive(Debug)]
pub(crate) struct Object {
    pub(crate) name: &'static str,
    pub(crate) prefix: &'static str,
    pub(crate) fields: &'static [Field],
}

#[derive(Debug)]
pub(crate) struct Field {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) required: bool,
    pub(crate) external_id: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// At most so many characters.
    Text(usize),
    Number,
    Bool,
    /// An id of this object; the relationship's name is the field's without `Id`.
    Parent(&'static str),
}

const fn field(name: &'static str, kind: Kind) -> Field {
    Field {
        name,
        kind,
        required: false,
        external_id: false,
    }
}

const fn required(name: &'static str, kind: Kind) -> Field {
    Field {
        required: true,
        ..field(name, kind)
    }
}

const EXTERNAL: Field = Field {
    external_id: true,
    ..field("External_Id__c", Kind::Text(64))
};

pub(crate) static OBJECTS: &[Object] = &[
    Object {
        name: "Account",
        prefix: "001",
        fields: &[
            required("Name", Kind::Text(255)),
            field("Type", Kind::Text(255)),
            field("Industry", Kind::Text(255)),
            field("Phone", Kind::Text(40)),
            field("Website", Kind::Text(255)),
            field("Description", Kind::Text(32_000)),
            field("AnnualRevenue", Kind::Number),
            field("NumberOfEmployees", Kind::Number),
            field("BillingCity", Kind::Text(40)),
            EXTERNAL,
        ],
    },
    Object {
        name: "Contact",
        prefix: "003",
        fields: &[
            field("FirstName", Kind::Text(40)),
            required("LastName", Kind::Text(80)),
            field("Email", Kind::Text(80)),
            field("Phone", Kind::Text(40)),
            field("Title", Kind::Text(128)),
            field("AccountId", Kind::Parent("Account")),
            field("DoNotCall", Kind::Bool),
            EXTERNAL,
        ],
    },
    Object {
        name: "Lead",
        prefix: "00Q",
        fields: &[
            required("LastName", Kind::Text(80)),
            required("Company", Kind::Text(255)),
            field("Email", Kind::Text(80)),
            EXTERNAL,
        ],
    },
    Object {
        name: "ContentVersion",
        prefix: "068",
        fields: &[
            required("PathOnClient", Kind::Text(500)),
            field("Title", Kind::Text(255)),
            field("FirstPublishLocationId", Kind::Text(18)),
            field("ContentDocumentId", Kind::Text(18)),
            field("ContentSize", Kind::Number),
            field("VersionData", Kind::Text(255)),
        ],
    },
    Object {
        name: "User",
        prefix: "005",
        fields: &[required("Username", Kind::Text(80)), field("Name", Kind::Text(121))],
    },
    Object {
        name: "Organization",
        prefix: "00D",
        fields: &[
            required("Name", Kind::Text(80)),
            field("IsSandbox", Kind::Bool),
            field("OrganizationType", Kind::Text(40)),
            field("InstanceName", Kind::Text(5)),
            field("NamespacePrefix", Kind::Text(15)),
            field("TrialExpirationDate", Kind::Text(28)),
        ],
    },
];

pub(super) const SYSTEM: [(&str, &str); 5] = [
    ("Id", "id"),
    ("CreatedDate", "datetime"),
    ("LastModifiedDate", "datetime"),
    ("SystemModstamp", "datetime"),
    ("IsDeleted", "boolean"),
];

impl Object {
    pub(crate) fn field(&self, name: &str) -> Option<usize> {
        self.fields.iter().position(|f| f.name.eq_ignore_ascii_case(name))
    }

    pub(crate) fn all_fields(&self) -> impl Iterator<Item = &'static str> + use<> {
        let own = self.fields.iter().map(|field| field.name);
        SYSTEM.iter().map(|(name, _)| *name).chain(own)
    }

    /// The field behind a relationship's name, and the object it leads to.
    pub(crate) fn parent(&self, relation: &str) -> Option<(&'static str, &'static str)> {
        self.fields.iter().find_map(|field| match field.kind {
            Kind::Parent(target) if field.name.trim_end_matches("Id").eq_ignore_ascii_case(relation) => {
                Some((field.name, target))
            }
            _ => None,
        })
    }

    /// The entry in `/sobjects`.
    pub(crate) fn summary(&self, base: &str) -> Value {
        let at = format!("{base}/sobjects/{}", self.name);
        json!({
            "name": self.name,
            "label": self.name,
            "labelPlural": format!("{}s", self.name),
            "keyPrefix": self.prefix,
            "custom": false,
            "createable": true,
            "updateable": true,
            "deletable": true,
            "queryable": true,
            "searchable": true,
            "urls": {"sobject": at, "describe": format!("{at}/describe"), "rowTemplate": format!("{at}/{{ID}}")},
        })
    }

    pub(crate) fn describe(&self, base: &str) -> Value {
        let system = SYSTEM.iter().map(|(name, kind)| {
            json!({"name": name, "label": name, "type": kind, "nillable": false, "createable": false, "updateable": false,
                "externalId": false, "idLookup": *name == "Id", "length": if *name == "Id" {18} else {0}})
        });
        let own = self.fields.iter().map(Field::describe);
        let mut value = self.summary(base);
        value["fields"] = system.chain(own).collect();
        value["childRelationships"] = json!([]);
        value["recordTypeInfos"] = json!([]);
        value
    }
}

impl Field {
    fn describe(&self) -> Value {
        let (kind, length) = match self.kind {
            Kind::Text(length) => ("string", length),
            Kind::Number => ("double", 0),
            Kind::Bool => ("boolean", 0),
            Kind::Parent(_) => ("reference", 18),
        };
        json!({"name": self.name, "label": self.name, "type": kind, "length": length, "nillable": !self.required,
            "createable": true, "updateable": true, "externalId": self.external_id, "idLookup": self.external_id})
    }

    /// A JSON value for this field.
    pub(crate) fn accept(&self, value: &Value) -> Result<Value, Problem> {
        let wrong = |what: &str| {
            Problem::new(
                "JSON_PARSER_ERROR",
                format!(
                    "Cannot deserialize instance of {what} from {value} or request may be missing a required field at [line:1, column:1]"
                ),
            )
        };
        match (self.kind, value) {
            (_, Value::Null) => Ok(Value::Null),
            (Kind::Text(_) | Kind::Parent(_), Value::String(text)) => self.accept_text(text),
            (Kind::Number, Value::Number(_)) | (Kind::Bool, Value::Bool(_)) => Ok(value.clone()),
            (Kind::Number, Value::String(text)) => self.accept_text(text),
            (Kind::Text(_) | Kind::Parent(_), _) => Err(wrong("string")),
            (Kind::Number, _) => Err(wrong("double")),
            (Kind::Bool, _) => Err(wrong("boolean")),
        }
    }

    /// A word for this field, as CSV has them; empty is null.
    pub(crate) fn accept_text(&self, text: &str) -> Result<Value, Problem> {
        if text.is_empty() {
            return Ok(Value::Null);
        }
        let bad = || {
            Problem::new(
                "INVALID_TYPE_ON_FIELD_IN_RECORD",
                format!("{}: value not of required type: {text}", self.name),
            )
        };
        match self.kind {
            Kind::Text(length) if text.len() > length && text.chars().count() > length => {
                let message = format!("{}: data value too large: (max length={length})", self.name);
                Err(Problem {
                    fields: vec![self.name.to_owned()],
                    ..Problem::new("STRING_TOO_LONG", message)
                })
            }
            Kind::Text(_) | Kind::Parent(_) => Ok(Value::String(text.to_owned())),
            Kind::Number => text
                .parse::<f64>()
                .ok()
                .filter(|n| n.is_finite())
                .map(|n| json!(n))
                .ok_or_else(bad),
            Kind::Bool => match text.to_ascii_lowercase().as_str() {
                "true" | "1" => Ok(json!(true)),
                "false" | "0" => Ok(json!(false)),
                _ => Err(bad()),
            },
        }
    }
}
