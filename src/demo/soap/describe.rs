//! What the objects are, for SOAP.
//!
//! Owns: nothing. Invariants: every element that the partner WSDL requires is there, in the WSDL's order, since strict clients look for it.
//! Fails with: [`Fault`]. Source: the partner WSDL.

use serde_json::Value;

use super::{Call, Fault};
use crate::demo::{
    store::schema::{OBJECTS, Object},
    xml::Writer,
};

pub(super) fn global(_: &Call<'_>, out: &mut Writer) -> Result<(), Fault> {
    out.group("result", |out| {
        out.word("encoding", "UTF-8");
        out.show("maxBatchSize", 200);
        for object in OBJECTS {
            out.group("sobjects", |out| summary(object, out));
        }
    });
    Ok(())
}

pub(super) fn one(call: &Call<'_>, out: &mut Writer) -> Result<(), Fault> {
    object(call.operation.word("sObjectType"), out)
}

pub(super) fn several(call: &Call<'_>, out: &mut Writer) -> Result<(), Fault> {
    call.operation
        .words("sObjectType")
        .try_for_each(|name| object(name, out))
}

fn object(name: &str, out: &mut Writer) -> Result<(), Fault> {
    let found = OBJECTS.iter().find(|object| object.name.eq_ignore_ascii_case(name));
    let object = found.ok_or_else(|| Fault::new("INVALID_TYPE", format!("sObject type '{name}' is not supported.")))?;
    out.group("result", |out| {
        let described = object.describe("");
        out.show("activateable", false);
        flags(out, &["compactLayoutable", "createable"], true);
        flags(out, &["custom", "customSetting", "deepCloneable"], false);
        out.show("deletable", true);
        flags(out, &["deprecatedAndHidden", "feedEnabled"], false);
        for field in described["fields"].as_array().into_iter().flatten() {
            out.group("fields", |out| self::field(object, field, out));
        }
        out.show("hasSubtypes", false);
        out.show("idEnabled", true);
        flags(out, &["isInterface", "isSubtype"], false);
        names(object, out);
        out.show("layoutable", true);
        flags(out, &["mergeable", "mruEnabled"], false);
        out.word("name", object.name);
        flags(
            out,
            &[
                "queryable",
                "replicateable",
                "retrieveable",
                "searchable",
                "undeletable",
                "updateable",
            ],
            true,
        );
    });
    Ok(())
}

/// `DescribeGlobalSObjectResult`.
fn summary(object: &Object, out: &mut Writer) {
    out.show("activateable", false);
    out.show("createable", true);
    flags(out, &["custom", "customSetting", "deepCloneable"], false);
    out.show("deletable", true);
    flags(out, &["deprecatedAndHidden", "feedEnabled", "hasSubtypes"], false);
    out.show("idEnabled", true);
    flags(out, &["isInterface", "isSubtype"], false);
    names(object, out);
    out.show("layoutable", true);
    flags(out, &["mergeable", "mruEnabled"], false);
    out.word("name", object.name);
    flags(out, &["queryable", "replicateable", "retrieveable", "searchable"], true);
    out.show("triggerable", false);
    flags(out, &["undeletable", "updateable"], true);
}

fn names(object: &Object, out: &mut Writer) {
    out.word("keyPrefix", object.prefix);
    out.word("label", object.name);
    out.word("labelPlural", &format!("{}s", object.name));
}

fn flags(out: &mut Writer, names: &[&str], value: bool) {
    names.iter().for_each(|name| out.show(name, value));
}

/// A field from its REST form.
fn field(object: &Object, field: &Value, out: &mut Writer) {
    let name = field["name"].as_str().unwrap_or("");
    let kind = field["type"].as_str().unwrap_or("");
    let says = |what: &str| field[what].as_bool().unwrap_or(false);
    let length = field["length"].as_u64().unwrap_or(0);
    let parent = name.strip_suffix("Id").and_then(|relation| object.parent(relation));
    let is_number = kind == "double";
    flags(out, &["aggregatable"], true);
    flags(out, &["aiPredictionField", "autoNumber"], false);
    out.show("byteLength", length * 3);
    flags(out, &["calculated", "caseSensitive"], false);
    out.show("createable", says("createable"));
    out.show("custom", name.ends_with("__c"));
    flags(out, &["defaultedOnCreate", "deprecatedAndHidden"], false);
    out.show("digits", 0);
    out.show("externalId", says("externalId"));
    flags(out, &["filterable", "groupable"], true);
    out.show("idLookup", says("idLookup"));
    out.word("label", field["label"].as_str().unwrap_or(name));
    out.show("length", length);
    out.word("name", name);
    out.show("nameField", name == "Name");
    out.show("nillable", says("nillable"));
    flags(out, &["permissionable", "polymorphicForeignKey"], false);
    out.show("precision", if is_number { 18 } else { 0 });
    out.show("queryByDistance", false);
    if let Some((_, target)) = parent {
        out.word("referenceTo", target);
        out.word("relationshipName", name.trim_end_matches("Id"));
    }
    out.show("restrictedPicklist", false);
    out.show("scale", 0);
    out.show("searchPrefilterable", false);
    let soap = match kind {
        "id" | "reference" => "tns:ID",
        "double" => "xsd:double",
        "boolean" => "xsd:boolean",
        "datetime" => "xsd:dateTime",
        _ => "xsd:string",
    };
    out.word("soapType", soap);
    out.show("sortable", true);
    out.word("type", kind);
    out.show("unique", says("externalId"));
    out.show("updateable", says("updateable"));
}
