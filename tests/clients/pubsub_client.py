"""Pub/Sub: the client that gRPC's own compiler makes from Salesforce's pubsub_api.proto; over plain HTTP/2, or with the
argument `tls` over TLS, as Salesforce's own examples do.

Events are in Avro, read and written with the schema that the org gives.
"""

import io
import json
import os
import queue
import sys
import urllib.parse

sys.path.insert(0, os.path.join(os.environ["TOOLS"], "pubsub"))

import fastavro
import grpc
import pubsub_api_pb2 as api
import pubsub_api_pb2_grpc

import scenario
from scenario import CLIENT, check, revoke, same

TLS = sys.argv[1:] == ["tls"]
TOPIC = "/event/Practice_Event__e"
SECONDS = 60
# What Salesforce's examples send with each call; of the three only the token is a secret, and it is none here.
METADATA = (("accesstoken", "placeholder"), ("instanceurl", "https://practice.my.salesforce.com"), ("tenantid", "00D000000000000EAA"))
steps = scenario.Steps()


def channel():
    if not TLS:
        return grpc.insecure_channel(urllib.parse.urlsplit(scenario.BASE).netloc)
    with open(os.environ["CA_FILE"], "rb") as ca:
        credentials = grpc.ssl_channel_credentials(ca.read())
    return grpc.secure_channel(urllib.parse.urlsplit(os.environ["TLS_BASE"]).netloc, credentials)


stub = pubsub_api_pb2_grpc.PubSubStub(channel())


def seen(call, *messages):
    headers = dict(call.initial_metadata()) | dict(call.trailing_metadata() or ())
    steps.trace("grpc", scenario.Answer(200, headers, "".join(map(str, messages)).encode()))


def unary(method, request, metadata=METADATA):
    answer, call = method.with_call(request, metadata=metadata, timeout=SECONDS)
    seen(call, answer)
    return answer


class Stream:
    """A call whose requests are sent one by one."""

    END = object()

    def __init__(self, method):
        self.requests = queue.SimpleQueue()
        self.call = method(iter(self.requests.get, self.END), metadata=METADATA, timeout=SECONDS)

    def ask(self, request):
        self.requests.put(request)

    def next(self):
        answer = next(self.call)
        seen_part(answer)
        return answer

    def close(self):
        self.requests.put(self.END)
        for answer in self.call:
            seen_part(answer)
        same(self.call.code(), grpc.StatusCode.OK, "the stream's end")
        seen(self.call)


def seen_part(answer):
    steps.trace("grpc", scenario.Answer(200, {}, str(answer).encode()))


topic = schema = None


def event(message):
    out = io.BytesIO()
    fastavro.schemaless_writer(out, schema, {"CreatedDate": 0, "CreatedById": "005000000000000AAA", "Message__c": f"{CLIENT} {message}", "Number__c": None})
    return api.ProducerEvent(id=message, schema_id=topic.schema_id, payload=out.getvalue())


def ours(answer):
    """The messages of ours in an answer, in order, and the last replay id."""
    found = []
    for one in answer.events:
        text = fastavro.schemaless_reader(io.BytesIO(one.event.payload), schema)["Message__c"] or ""
        if text.startswith(f"{CLIENT} "):
            found.append(text.removeprefix(f"{CLIENT} "))
    return found


def get_topic():
    global topic
    for metadata in (METADATA, ()):
        revoke()
        topic = unary(stub.GetTopic, api.TopicRequest(topic_name=TOPIC), metadata)
        check(topic.topic_name == TOPIC and topic.can_publish and topic.can_subscribe, f"the topic, found {topic}")


def get_schema():
    global schema
    revoke()
    schema = fastavro.parse_schema(json.loads(unary(stub.GetSchema, api.SchemaRequest(schema_id=topic.schema_id)).schema_json))
    check("Message__c" in [field["name"] for field in schema["fields"]], "the field")


def publish():
    """Each once, although the session is dead when it is sent: seen by a subscription from the beginning."""
    for n in range(5):
        revoke()
        answer = unary(stub.Publish, api.PublishRequest(topic_name=TOPIC, events=[event(f"publish {n}")]))
        check(len(answer.results) == 1 and answer.results[0].replay_id, f"a replay id, found {answer}")
    revoke()
    same(received("publish", 5)[0], [f"publish {n}" for n in range(5)], "what a subscriber got")


def received(kind, count, replay=None):
    """The first so many of a kind, and the replay id of each, from the beginning or from after `replay`."""
    start = {"replay_preset": api.CUSTOM, "replay_id": replay} if replay else {"replay_preset": api.EARLIEST}
    stream, found, ids = Stream(stub.Subscribe), [], []
    stream.ask(api.FetchRequest(topic_name=TOPIC, num_requested=100, **start))
    while len(found) < count:
        answer = stream.next()
        for one in answer.events:
            text = ours(api.FetchResponse(events=[one]))
            if text and text[0].startswith(kind):
                found += text
                ids.append(one.replay_id)
        if answer.pending_num_requested < 50:
            stream.ask(api.FetchRequest(topic_name=TOPIC, num_requested=50))
    stream.close()
    return found, ids


def publish_stream():
    """The session ends before the stream is opened, and again and again while it is open."""
    revoke()
    stream = Stream(stub.PublishStream)
    for n in range(10):
        stream.ask(api.PublishRequest(topic_name=TOPIC, events=[event(f"stream {n}-{part}") for part in range(3)]))
        same(len(stream.next().results), 3, "results")
        revoke()
    stream.close()
    same(received("stream", 30)[0], [f"stream {n}-{part}" for n in range(10) for part in range(3)], "what a subscriber got")


def subscribe():
    """Open while sessions end, and new ones begin."""
    revoke()
    stream = Stream(stub.Subscribe)
    stream.ask(api.FetchRequest(topic_name=TOPIC, replay_preset=api.EARLIEST, num_requested=100))
    found = []
    for n in range(5):
        revoke()
        unary(stub.Publish, api.PublishRequest(topic_name=TOPIC, events=[event(f"live {n}")]))
        while f"live {n}" not in found:
            answer = stream.next()
            found += ours(answer)
            if answer.pending_num_requested < 50:
                stream.ask(api.FetchRequest(num_requested=50))
        revoke()
    stream.close()
    same([text for text in found if text.startswith("live")], [f"live {n}" for n in range(5)], "each once")


def replay():
    """A new stream goes on after the replay id of the last one."""
    _, ids = received("stream", 10)
    for at in (0, 4, 9):
        revoke()
        same(received("stream", 5, ids[at])[0][0], "stream {}-{}".format(*divmod(at + 1, 3)), "the next")


def not_found():
    """The org's own refusal passes as it came."""
    revoke()
    try:
        unary(stub.GetTopic, api.TopicRequest(topic_name="/event/Nothing__e"))
        raise AssertionError("expected an error")
    except grpc.RpcError as error:
        seen(error)
        same(error.code(), grpc.StatusCode.NOT_FOUND, "the code")
        check("error-code" in dict(error.trailing_metadata()), "the org's own word")


for step in (get_topic, get_schema, publish, publish_stream, subscribe, replay, not_found):
    steps.run(step.__name__.replace("_", "-"), step)
steps.end()
