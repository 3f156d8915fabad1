use proptest::prelude::*;

use super::*;

fn map(lines: &[(&str, &str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in lines {
        map.append(
            HeaderName::try_from(*name).unwrap(),
            HeaderValue::try_from(*value).unwrap(),
        );
    }
    map
}

#[test]
fn the_usual_paths_are_descriptions_and_versions() {
    for good in [
        "/services/data",
        "/services/data/",
        "//services/data/",
        "/services/data/v60.0",
        "/services/data/v60.0/",
        "/services/data/v60.0/sobjects",
        "/services/data/v60.0/sobjects/",
        "/services/data/v60.0/sobjects/Account/describe",
        "/services/data/v60.0/sobjects/Account/describe/",
        "/services/data/v60.0/sobjects/ns__Thing__c/describe/layouts/012000000000000AAA",
        "/services/data/v60.0/tooling/sobjects/ApexClass/describe",
    ] {
        assert!(covers(good, &[]), "{good}");
    }
    for bad in [
        "/",
        "/services/data/v60.0/limits",
        "/services/data/v60.0/query",
        "/services/data/v60.0/sobjects/Account",
        "/services/data/v60.0/sobjects/Account/001000000000000AAA",
        "/services/data/v60.0/sobjects//describe",
        "/services/data/v60.0/sobjects/describe",
        "/services/data/60.0/sobjects",
        "/services/data/v60/sobjects",
        "/services/data/v60.0/tooling/query",
        "/services/data/v60.0/tooling/sobjects/ApexClass/describe/more",
        "/services/data/v60.0/x/sobjects/Account/describe",
        "/services/apexrest/v60.0/sobjects",
        "/services/data/v60.0/sobjects/Account/describ%65",
    ] {
        assert!(!covers(bad, &[]), "{bad}");
    }
}

#[test]
fn a_named_path_is_one_path_or_a_prefix() {
    let takes = |pattern: &str, path: &str| Pattern::new(pattern).takes(path);
    for (pattern, path, taken) in [
        ("/services/data/*/theme", "/services/data/v60.0/theme", true),
        ("/services/data/*/theme", "/services/data/v60.0/theme/", true),
        ("/services/data/*/theme", "/services/data/v60.0/theme/x", false),
        ("/services/data/*/theme", "/services/data/v60.0/x/theme", false),
        ("/services/data/*/theme", "/services/data/v60.0", false),
        ("/services/apexrest/a/", "/services/apexrest/a/b/c", true),
        ("/services/apexrest/a/", "/services/apexrest/ab", false),
        ("/services/apexrest/a/", "/services/apexrest/a", false),
        ("/services/apexrest/a/*/", "/services/apexrest/a/b/c", true),
    ] {
        assert_eq!(takes(pattern, path), taken, "{pattern} {path}");
    }
}

#[test]
fn dates_of_our_own_are_sent_only_where_they_are_documented() {
    for (path, known) in [
        ("/services/data/v60.0/sobjects/", true),
        ("/services/data/v60.0/sobjects/Account/describe", true),
        ("/services/data/v60.0/sobjects/Account/describe/layouts", false),
        ("/services/data/v60.0/tooling/sobjects/ApexClass/describe", false),
        ("/services/data", false),
    ] {
        assert_eq!(knows_dates(path), known, "{path}");
        let date = map(&[("date", "Sun, 06 Nov 1994 08:50:37 GMT")]);
        let found = conditions(path, &date);
        let wanted = vec![(
            header::IF_MODIFIED_SINCE,
            HeaderValue::from_static("Sun, 06 Nov 1994 08:49:37 GMT"),
        )];
        assert_eq!(found, if known { wanted } else { vec![] }, "{path}");
    }
}

#[test]
fn what_the_org_gave_to_ask_by_is_sent_as_it_came() {
    let answer = map(&[
        ("etag", "\"x-gzip\""),
        ("last-modified", "any"),
        ("date", "Sun, 06 Nov 1994 08:50:37 GMT"),
    ]);
    for path in ["/services/data", "/services/data/v60.0/sobjects"] {
        let found = conditions(path, &answer);
        let expected = vec![
            (header::IF_NONE_MATCH, HeaderValue::from_static("\"x-gzip\"")),
            (header::IF_MODIFIED_SINCE, HeaderValue::from_static("any")),
        ];
        assert_eq!(found, expected);
    }
    let odd = map(&[("date", "yesterday")]);
    assert!(conditions("/services/data/v60.0/sobjects", &odd).is_empty());
}

#[test]
fn what_a_call_asks_of_the_cache() {
    let any = Asks::Any { at_most: None };
    let at_most = |seconds| Asks::Any {
        at_most: Some(Duration::from_secs(seconds)),
    };
    let table: [(&[(&str, &str)], Asks); 17] = [
        (&[], any),
        (&[("accept", "*/*")], any),
        (&[("cache-control", "no-store")], Asks::Past),
        (&[("cache-control", "max-age=0, No-Store")], Asks::Past),
        (&[("cache-control", "no-cache")], Asks::Anew),
        (
            &[("cache-control", "max-age=60"), ("cache-control", "no-cache")],
            Asks::Anew,
        ),
        (&[("pragma", "no-cache")], Asks::Anew),
        (&[("pragma", "no-cache"), ("cache-control", "max-age=5")], at_most(5)),
        (&[("cache-control", "max-age=60")], at_most(60)),
        (&[("cache-control", "max-age=\"7\", max-age=60")], at_most(7)),
        (&[("cache-control", "max-age=soon")], at_most(0)),
        (&[("range", "bytes=0-1")], Asks::Past),
        (&[("if-none-match", "\"a\"")], Asks::Past),
        (&[("if-modified-since", "Sun, 06 Nov 1994 08:49:37 GMT")], Asks::Past),
        (&[("if-match", "*")], Asks::Past),
        (&[("if-unmodified-since", "x")], Asks::Past),
        (&[("if-range", "x")], Asks::Past),
    ];
    for (headers, expected) in table {
        assert_eq!(asks(&Method::GET, &map(headers), false), expected, "{headers:?}");
    }
    assert_eq!(asks(&Method::GET, &map(&[]), true), Asks::Past);
    for (method, expected) in [
        (Method::HEAD, Asks::Nothing),
        (Method::OPTIONS, Asks::Nothing),
        (Method::POST, Asks::Change),
        (Method::PATCH, Asks::Change),
        (Method::DELETE, Asks::Change),
    ] {
        assert_eq!(asks(&method, &map(&[]), false), expected, "{method}");
    }
}

#[test]
fn headers_that_shape_the_answer_are_told_apart_and_others_are_not() {
    let base = map(&[
        ("accept", "application/json"),
        ("user-agent", "a"),
        ("traceparent", "00-1"),
    ]);
    let same = map(&[
        ("traceparent", "00-2"),
        ("cookie", "BrowserId=x"),
        ("accept", "application/json"),
    ]);
    assert_eq!(shaping(&base), shaping(&same));
    for (name, value) in [
        ("accept", "application/xml"),
        ("accept-charset", "utf-16"),
        ("accept-encoding", "gzip"),
        ("accept-language", "de"),
        ("x-prettyprint", "1"),
        ("sforce-call-options", "client=x, defaultNamespace=ns"),
        ("sforce-query-options", "batchSize=200"),
        ("x-sfdc-packageversion-ns", "1.0"),
    ] {
        let mut other = base.clone();
        other.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        assert_ne!(shaping(&base), shaping(&other), "{name}");
    }
    // The order of different headers says nothing, that of one header's values does.
    let one = map(&[("accept", "a"), ("x-prettyprint", "1"), ("accept", "b")]);
    let two = map(&[("x-prettyprint", "1"), ("accept", "a"), ("accept", "b")]);
    let three = map(&[("x-prettyprint", "1"), ("accept", "b"), ("accept", "a")]);
    assert_eq!(shaping(&one), shaping(&two));
    assert_ne!(shaping(&one), shaping(&three));
}

#[test]
fn what_an_answer_varies_by_is_compared() {
    let request = map(&[("x-a", "1"), ("x-a", "2")]);
    let varies = varies(
        &map(&[("vary", "Accept-Encoding, X-A"), ("vary", "authorization,")]),
        &request,
    )
    .unwrap();
    assert_eq!(varies.len(), 1);
    assert!(is_alike(&varies, &request));
    for other in [map(&[]), map(&[("x-a", "1")]), map(&[("x-a", "2"), ("x-a", "1")])] {
        assert!(!is_alike(&varies, &other));
    }
    for never in ["*", "Accept, *", "a b"] {
        assert!(super::varies(&map(&[("vary", never)]), &request).is_none(), "{never}");
    }
}

#[test]
fn only_a_whole_200_is_kept() {
    assert!(may_be_kept(
        StatusCode::OK,
        &map(&[("cache-control", "no-store, private")]),
        true
    ));
    assert!(!may_be_kept(StatusCode::OK, &map(&[]), false));
    assert!(!may_be_kept(
        StatusCode::OK,
        &map(&[("content-range", "bytes 0-1/9")]),
        true
    ));
    for status in [203, 204, 206, 300, 301, 304, 400, 401, 404, 500, 503] {
        assert!(
            !may_be_kept(StatusCode::from_u16(status).unwrap(), &map(&[]), true),
            "{status}"
        );
    }
}

#[test]
fn what_is_of_one_call_is_not_kept_and_a_304_renews_the_rest() {
    let answer = map(&[
        ("set-cookie", "BrowserId=x"),
        ("sforce-limit-info", "api-usage=1/5"),
        ("age", "9"),
        ("content-type", "application/json"),
        ("content-encoding", "gzip"),
        ("etag", "\"a\""),
        ("date", "one"),
        ("x-b", "1"),
        ("x-b", "2"),
    ]);
    let mut left = kept(&answer);
    for gone in ["set-cookie", "sforce-limit-info", "age"] {
        assert!(!left.contains_key(gone), "{gone}");
    }
    assert_eq!(left["content-encoding"], "gzip");
    let said = map(&[
        ("date", "two"),
        ("etag", "\"b\""),
        ("content-length", "0"),
        ("content-encoding", "br"),
        ("set-cookie", "BrowserId=y"),
        ("x-b", "3"),
    ]);
    renew(&mut left, &said);
    let expected = map(&[
        ("content-type", "application/json"),
        ("content-encoding", "gzip"),
        ("etag", "\"b\""),
        ("date", "two"),
        ("x-b", "3"),
    ]);
    assert_eq!(left, expected);
}

proptest! {
    #[test]
    fn any_path_is_survived(path: String) {
        covers(&path, &[Pattern::new(&path)]);
        knows_dates(&path);
    }

    #[test]
    fn any_directives_are_survived(value in proptest::collection::vec(0x20u8..0xff, 0..40)) {
        if let Ok(value) = HeaderValue::from_bytes(&value) {
            let mut headers = HeaderMap::new();
            headers.insert(header::CACHE_CONTROL, value.clone());
            asks(&Method::GET, &headers, false);
            headers.insert(header::VARY, value);
            varies(&headers, &headers);
        }
    }
}
