//! Files: ContentVersion uploads and downloads.
//!
//! Owns: nothing. Invariants: what is downloaded is what was uploaded, byte for byte. Fails with: an [`Answer`].
//! Source: Salesforce REST API guide, "Insert or Update Blob Data" (base64 in JSON, or multipart/form-data).

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use hyper::Method;
use serde_json::{Map, Value, json};

use super::{Call, rows};
use crate::demo::{
    answer::{Answer, Said},
    body::OrgBody,
    store::id18,
    world::World,
};

pub(super) fn create(world: &World, call: &Call) -> Result<Answer, Answer> {
    let kind = call.header("content-type").unwrap_or("").to_owned();
    let (mut values, file) = match kind.split_once("boundary=") {
        Some((start, boundary)) if start.to_ascii_lowercase().starts_with("multipart/form-data") => {
            let boundary = boundary.split(';').next().unwrap_or("").trim().trim_matches('"');
            multipart(&call.body, boundary)
                .ok_or_else(|| Answer::error(400, "INVALID_MULTIPART_REQUEST", "Multipart message is missing a part"))?
        }
        _ => {
            let mut values = rows::object_body(call)?;
            let coded = values.remove("VersionData");
            let file = coded.as_ref().and_then(Value::as_str).map(|text| STANDARD.decode(text));
            match file {
                Some(Ok(file)) => (values, Bytes::from(file)),
                _ => {
                    return Err(Answer::error(
                        400,
                        "INVALID_FIELD",
                        "VersionData: value not of required type",
                    ));
                }
            }
        }
    };
    values.remove("VersionData");
    values.insert("ContentSize".into(), json!(file.len()));
    let now = world.now();
    let mut store = world.store();
    let table = store.table("ContentVersion").ok_or_else(Answer::not_found)?;
    let place = table.insert(&values, now)?;
    let link = Map::from_iter([
        ("ContentDocumentId".to_owned(), json!(id18("069", place))),
        (
            "VersionData".to_owned(),
            json!(format!(
                "{}/sobjects/ContentVersion/{}/VersionData",
                call.base(),
                table.id(place)
            )),
        ),
    ]);
    table.update(place, &link, now)?;
    let answer = rows::created(table, place, &call.base());
    store.put_file(place, file);
    Ok(answer)
}

pub(super) fn download(world: &World, call: &Call, id: &str) -> Result<Answer, Answer> {
    if call.method != Method::GET {
        return Err(Answer::method_not_allowed(&call.method, "HEAD,GET"));
    }
    let store = world.store();
    let table = store.read("ContentVersion").ok_or_else(Answer::not_found)?;
    let place = table.living(id).map_err(|_| Answer::not_found())?;
    let file = store.file(place).ok_or_else(Answer::not_found)?;
    Ok(Answer::new(
        200,
        Said::Stream("application/octetstream", OrgBody::chunked(file)),
    ))
}

/// The JSON part and the binary part.
fn multipart(body: &Bytes, boundary: &str) -> Option<(Map<String, Value>, Bytes)> {
    let line = format!("--{boundary}");
    let (mut values, mut file) = (None, None);
    let mut at = position(body, line.as_bytes())? + line.len();
    while !body[at..].starts_with(b"--") {
        let end = at + position(&body[at..], format!("\r\n{line}").as_bytes())?;
        let head_end = at + position(&body[at..end], b"\r\n\r\n")?;
        let head = String::from_utf8_lossy(&body[at..head_end]).to_lowercase();
        let content = body.slice(head_end + 4..end);
        // A browser's FormData and Node's give every Blob a file name, the JSON part too; whether Salesforce goes by the name is not confirmed.
        let described = head.contains("name=\"entity_");
        if !described && (head.contains("filename=") || head.contains("name=\"versiondata\"")) {
            file = Some(content);
        } else {
            values = serde_json::from_slice(&content).ok();
        }
        at = end + 2 + line.len();
    }
    Some((values?, file?))
}

fn position(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    let mut from = 0;
    loop {
        // Skipping to the first byte keeps a debug build quick.
        from += haystack[from..].iter().position(|byte| *byte == needle[0])?;
        if haystack[from..].starts_with(needle) {
            return Some(from);
        }
        from += 1;
    }
}
