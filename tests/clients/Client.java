// The JDK's own HttpClient, as `java Client.java`. By default it asks every plain http server to go over to HTTP/2
// (`Connection: Upgrade, HTTP2-Settings`, `Upgrade: h2c`). It knows no JSON, so answers are read with patterns.

import java.io.*;
import java.net.*;
import java.net.http.*;
import java.nio.charset.StandardCharsets;
import java.nio.file.*;
import java.time.Duration;
import java.util.*;
import java.util.regex.*;
import java.util.stream.*;

public class Client {
    static final String BASE = System.getenv("BASE");
    static final String CONTROL = System.getenv("CONTROL");
    static final String CLIENT = System.getenv("CLIENT");
    static final String COMPANY = CLIENT + ", Inc.";
    static final String DATA = "/services/data/v60.0";
    static final int ROWS = 50_000;

    static final HttpClient http = HttpClient.newBuilder().connectTimeout(Duration.ofSeconds(10)).build();
    static final HttpClient plain = HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).build();
    static OutputStream trace;
    static boolean failed;

    interface Step {
        void run() throws Exception;
    }

    /** Prints one line for each step, which the runner reads. */
    static void step(String name, Step action) {
        long started = System.nanoTime();
        String how = "ok", why = "";
        try {
            action.run();
        } catch (Exception | AssertionError error) {
            failed = true;
            how = "fail";
            String text = error.toString().replaceAll("\\s+", " ");
            why = " " + text.substring(0, Math.min(600, text.length()));
        }
        System.out.println("STEP " + how + " " + name + " " + (System.nanoTime() - started) / 1_000_000 + why);
    }

    static void check(boolean condition, String what) {
        if (!condition) throw new AssertionError(what);
    }

    static void same(Object found, Object expected, String what) {
        check(expected.equals(found), what + ": expected " + expected + ", found " + found);
    }

    record Answer(int status, HttpHeaders headers, byte[] bytes) {
        String text() {
            return new String(bytes, StandardCharsets.UTF_8);
        }

        String field(String name) {
            Matcher found = Pattern.compile("\"" + name + "\":\"?([^\",}]*)").matcher(text());
            check(found.find(), name + " is in the answer: " + text());
            return found.group(1);
        }

        String header(String name) {
            return headers.firstValue(name).orElse("");
        }

        int count(String text) {
            return text().split(Pattern.quote(text), -1).length - 1;
        }
    }

    static Answer send(String method, String target, int status, String kind, HttpRequest.BodyPublisher body, String... headers) throws Exception {
        var request = HttpRequest.newBuilder(URI.create(BASE + target)).timeout(Duration.ofSeconds(60)).method(method, body);
        if (kind != null) request.header("Content-Type", kind);
        if (headers.length > 0) request.headers(headers);
        var answer = http.send(request.build(), HttpResponse.BodyHandlers.ofByteArray());
        var head = new StringBuilder(method + " " + answer.statusCode() + "\n");
        answer.headers().map().forEach((name, values) -> values.forEach(value -> head.append(name + ": " + value + "\n")));
        trace.write(head.append("\n").toString().getBytes());
        trace.write(answer.body(), 0, Math.min(4096, answer.body().length));
        trace.write("\n\n".getBytes());
        var seen = new Answer(answer.statusCode(), answer.headers(), answer.body());
        same(answer.version(), HttpClient.Version.HTTP_1_1, "the protocol");
        check(status == seen.status, method + " " + target + ": expected " + status + ", found " + seen.status + " " + seen.text());
        return seen;
    }

    static final HttpRequest.BodyPublisher NONE = HttpRequest.BodyPublishers.noBody();

    static Answer get(String target, String... headers) throws Exception {
        return send("GET", target, 200, null, NONE, headers);
    }

    static Answer json(String method, String target, int status, String body) throws Exception {
        return send(method, target, status, "application/json", HttpRequest.BodyPublishers.ofString(body));
    }

    /** Ends every session of the org, now, without the proxy. */
    static void revoke() throws Exception {
        var request = HttpRequest.newBuilder(URI.create(CONTROL + "/control/revoke")).POST(NONE).build();
        same(plain.send(request, HttpResponse.BodyHandlers.discarding()).statusCode(), 200, "the revoker");
    }

    static String query(String soql) {
        return DATA + "/query?q=" + URLEncoder.encode(soql, StandardCharsets.UTF_8);
    }

    static String lead(int n) {
        return String.format("Lead %05d é", n);
    }

    static String quoted(String... words) {
        return Stream.of(words).map(word -> "\"" + word.replace("\"", "\"\"") + "\"").collect(Collectors.joining(","));
    }

    static Answer finished(String job) throws Exception {
        for (int tries = 0; tries < 600; tries++) {
            var state = get(job);
            if (!List.of("UploadComplete", "InProgress").contains(state.field("state"))) {
                same(state.field("state"), "JobComplete", "the job's end");
                return state;
            }
            Thread.sleep(100);
        }
        throw new AssertionError("the job did not end within 60 s");
    }

    static String account;

    public static void main(String[] arguments) throws Exception {
        trace = new BufferedOutputStream(new FileOutputStream(System.getenv("TRACE"), true));
        step("versions", () -> {
            revoke();
            check(get("/services/data").text().contains("\"version\":\"60.0\""), "60.0 among the versions");
        });
        step("describe", () -> {
            revoke();
            check(get(DATA + "/sobjects/Account/describe").text().contains("External_Id__c"), "the external id field");
        });
        step("limits", () -> {
            revoke();
            var answer = get(DATA + "/limits");
            check(answer.text().contains("DailyApiRequests"), "DailyApiRequests");
            check(answer.header("sforce-limit-info").startsWith("api-usage="), "Sforce-Limit-Info");
        });
        step("insert", () -> {
            revoke();
            var made = json("POST", DATA + "/sobjects/Account", 201, "{\"Name\": \"" + CLIENT + " é\"}");
            account = DATA + "/sobjects/Account/" + made.field("id");
            same(made.header("location"), account, "Location");
            same(get(query("SELECT Id FROM Account WHERE Name = '" + CLIENT + " é'")).field("totalSize"), "1", "rows made by one insert");
        });
        step("read", () -> {
            revoke();
            same(get(account).field("Name"), CLIENT + " é", "the name");
        });
        step("update", () -> {
            revoke();
            json("PATCH", account, 204, "{\"Phone\": \"1\"}");
            same(get(account + "?fields=Phone").field("Phone"), "1", "the phone");
        });
        step("upsert", () -> {
            for (int status : new int[] {201, 200}) {
                revoke();
                var answer = json("PATCH", DATA + "/sobjects/Account/External_Id__c/" + CLIENT + "%20x", status, "{\"Name\": \"upserted\"}");
                same(answer.field("created"), status == 201 ? "true" : "false", "created");
            }
        });
        step("delete", () -> {
            revoke();
            send("DELETE", account, 204, null, NONE);
            revoke();
            send("GET", account, 404, null, NONE);
        });
        step("composite", () -> {
            revoke();
            var answer = json("POST", DATA + "/composite", 200, """
                {"allOrNone": true, "compositeRequest": [
                  {"method": "POST", "url": "%1$s/sobjects/Account", "referenceId": "a", "body": {"Name": "composite"}},
                  {"method": "POST", "url": "%1$s/sobjects/Contact", "referenceId": "c", "body": {"LastName": "composite", "AccountId": "@{a.id}"}}
                ]}""".formatted(DATA));
            same(answer.count("\"httpStatusCode\":201"), 2, "parts that succeeded");
        });
        step("collections", () -> {
            for (int part = 0; part < 3; part++) {
                revoke();
                String first = "{\"attributes\": {\"type\": \"Contact\"}, \"FirstName\": \"" + CLIENT + "\", \"LastName\": \"" + part + "-";
                var records = IntStream.range(0, 200).mapToObj(n -> first + String.format("%03d\"}", n)).collect(Collectors.joining(","));
                var answer = json("POST", DATA + "/composite/sobjects", 200, "{\"allOrNone\": true, \"records\": [" + records + "]}");
                same(answer.count("\"success\":true"), 200, "successes");
            }
        });
        step("query", () -> {
            String target = query("SELECT LastName FROM Contact WHERE FirstName = '" + CLIENT + "' ORDER BY LastName");
            int pages = 0;
            var names = new ArrayList<String>();
            while (target != null) {
                revoke();
                var page = get(target, "Sforce-Query-Options", "batchSize=200");
                Matcher name = Pattern.compile("\"LastName\":\"([^\"]*)\"").matcher(page.text());
                while (name.find()) names.add(name.group(1));
                target = page.text().contains("nextRecordsUrl") ? page.field("nextRecordsUrl") : null;
                pages++;
            }
            var all = IntStream.range(0, 600).mapToObj(n -> String.format("%d-%03d", n / 200, n % 200)).toList();
            same(names, all, "the names");
            same(pages, 3, "pages");
        });
        step("bulk-ingest", () -> {
            revoke();
            String jobs = DATA + "/jobs/ingest";
            String job = jobs + "/" + json("POST", jobs, 200, "{\"operation\": \"insert\", \"object\": \"Lead\", \"contentType\": \"CSV\"}").field("id");
            var rows = IntStream.range(0, ROWS).mapToObj(n -> quoted(lead(n), COMPANY, n + "@example.com")).toList();
            String csv = "LastName,Company,Email\n" + String.join("\n", rows) + "\n";
            revoke();
            // Of a stream the client knows no length: it sends chunks.
            var stream = HttpRequest.BodyPublishers.ofInputStream(() -> new ByteArrayInputStream(csv.getBytes(StandardCharsets.UTF_8)));
            send("PUT", job + "/batches", 201, "text/csv", stream);
            revoke();
            json("PATCH", job, 200, "{\"state\": \"UploadComplete\"}");
            var state = finished(job);
            same(state.field("numberRecordsProcessed") + " " + state.field("numberRecordsFailed"), ROWS + " 0", "rows processed and failed");
            revoke();
            var results = get(job + "/successfulResults");
            same(results.header("sforce-numberofrecords"), "" + ROWS, "Sforce-NumberOfRecords");
            var lines = results.text().lines().toList();
            same(lines.size(), ROWS + 1, "lines");
            same(lines.get(0), quoted("sf__Id", "sf__Created", "LastName", "Company", "Email"), "the header");
            // Before the row as sent: "ID","true",
            for (int n = 0; n < ROWS; n++) same(lines.get(n + 1).substring(28), rows.get(n), "row " + n);
        });
        step("bulk-query", () -> {
            revoke();
            String jobs = DATA + "/jobs/query";
            String soql = "SELECT LastName FROM Lead WHERE Company = '" + COMPANY + "'";
            String job = jobs + "/" + json("POST", jobs, 200, "{\"operation\": \"query\", \"query\": \"" + soql + "\"}").field("id");
            finished(job);
            int pages = 0, rows = 0;
            for (String locator = ""; !locator.equals("null"); pages++) {
                revoke();
                var page = get(job + "/results?maxRecords=20000" + (locator.isEmpty() ? "" : "&locator=" + URLEncoder.encode(locator, StandardCharsets.UTF_8)));
                for (String line : page.text().lines().skip(1).toList()) same(line, quoted(lead(rows++)), "a row");
                locator = page.header("sforce-locator");
            }
            same(pages + " " + rows, "3 " + ROWS, "pages and rows");
        });
        step("file", () -> {
            byte[] content = new byte[256 * 5_000];
            for (int n = 0; n < content.length; n++) content[n] = (byte) n;
            String head = "--line\r\nContent-Disposition: form-data; name=\"entity_content\"\r\nContent-Type: application/json\r\n\r\n"
                + "{\"PathOnClient\": \"bytes.bin\"}\r\n--line\r\n"
                + "Content-Disposition: form-data; name=\"VersionData\"; filename=\"bytes.bin\"\r\nContent-Type: application/octet-stream\r\n\r\n";
            var body = HttpRequest.BodyPublishers.ofByteArrays(List.of(head.getBytes(), content, "\r\n--line--\r\n".getBytes()));
            revoke();
            var made = send("POST", DATA + "/sobjects/ContentVersion", 201, "multipart/form-data; boundary=line", body);
            revoke();
            var found = get(DATA + "/sobjects/ContentVersion/" + made.field("id") + "/VersionData");
            check(Arrays.equals(found.bytes, content), "the file came back different");
        });
        step("head", () -> {
            revoke();
            var answer = send("HEAD", DATA + "/limits", 200, null, NONE);
            same(answer.bytes.length, 0, "bytes");
            check(answer.header("content-type").startsWith("application/json"), "Content-Type");
        });
        step("not-found", () -> {
            revoke();
            var answer = send("GET", DATA + "/sobjects/Account/001000000000000AAA", 404, null, NONE);
            same(answer.text(), "[{\"errorCode\":\"NOT_FOUND\",\"message\":\"The requested resource does not exist\"}]", "the org's words");
        });
        step("bad-request", () -> {
            revoke();
            var answer = json("POST", DATA + "/sobjects/Account", 400, "{}");
            same(answer.field("errorCode"), "REQUIRED_FIELD_MISSING", "the org's words");
            same(answer.header("proxy-status"), "", "Proxy-Status");
        });
        step("upgrade-h2c", () -> {
            // A new client asks again: the upgrade is asked for with the first request of each connection.
            revoke();
            var fresh = HttpClient.newHttpClient();
            var request = HttpRequest.newBuilder(URI.create(BASE + DATA + "/limits?upgrade-of=" + CLIENT)).build();
            var answer = fresh.send(request, HttpResponse.BodyHandlers.ofString());
            same(answer.statusCode() + " " + answer.version(), "200 HTTP_1_1", "status and protocol");
            var last = HttpRequest.newBuilder(URI.create(CONTROL + "/control/requests?last=500")).build();
            String seen = Stream.of(plain.send(last, HttpResponse.BodyHandlers.ofString()).body().split("\"body_bytes\""))
                .filter(one -> one.contains("limits?upgrade-of=" + CLIENT)).collect(Collectors.joining());
            check(!seen.isEmpty(), "the org saw the call");
            check(!seen.toLowerCase().contains("http2-settings") && !seen.contains("h2c"), "nothing of the upgrade reaches the org: " + seen);
        });
        step("expect-100", () -> {
            // Without a 100 the client would never send the body.
            revoke();
            var body = HttpRequest.BodyPublishers.ofString("{\"Name\": \"expect\"}");
            var request = HttpRequest.newBuilder(URI.create(BASE + DATA + "/sobjects/Account")).expectContinue(true)
                .timeout(Duration.ofSeconds(20)).header("Content-Type", "application/json").POST(body).build();
            same(http.send(request, HttpResponse.BodyHandlers.ofString()).statusCode(), 201, "status");
        });
        trace.close();
        System.exit(failed ? 1 : 0);
    }
}
