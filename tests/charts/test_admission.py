"""The admission policy, evaluated by cel-python: which pods it takes, and what becomes of them.

cel-python knows neither JSONPatch nor Kubernetes' checks of types; what it evaluates here is the same expressions with JSONPatch as a map. That the
values of maps and lists are wrapped in dyn() is looked at apart, because Kubernetes refuses mixed ones without and cel-python does not.
"""

import json
import re

import celpy
import jsonpatch
import pytest

from forms import sidecar
from tools import one, rendered


def plain(value):
    """cel-python's value as JSON's."""
    return json.loads(json.dumps(value, cls=celpy.CELJSONEncoder))


def evaluate(expression, **names):
    # JSONPatch{op: "add"} is a message of a type that is not here: as a map.
    expression = re.sub(r"JSONPatch\{op: (.+?), path: (.+?), value: ", r'{"op": dyn(\1), "path": dyn(\2), "value": ', expression)
    program = celpy.Environment().program(celpy.Environment().compile(expression))
    return plain(program.evaluate({name: celpy.json_to_cel(value) for name, value in names.items()}))


def policy(name="admission-policy"):
    return one(rendered("sf-token-proxy", name), "MutatingAdmissionPolicy")["spec"]


def takes(spec, pod):
    return all(evaluate(condition["expression"], object=pod) for condition in spec["matchConditions"])


def mutated(spec, pod):
    variables = {variable["name"]: evaluate(variable["expression"]) for variable in spec["variables"]}
    for mutation in spec["mutations"]:
        assert mutation["patchType"] == "JSONPatch"
        pod = jsonpatch.apply_patch(pod, evaluate(mutation["jsonPatch"]["expression"], object=pod, variables=variables))
    return pod


def pod(**spec):
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [{"name": "app"}], **spec}}


INIT = {"initContainers": [{"name": "migrate"}, {"name": "istio-proxy", "restartPolicy": "Always"}]}
VOLUMES = {"volumes": [{"name": "kube-api-access"}]}
PODS = {"bare": {}, "init": INIT, "volumes": VOLUMES, "both": {**INIT, **VOLUMES}}


@pytest.mark.parametrize("name", PODS)
def test_the_sidecar_is_put_first(name):
    spec, before = policy("everything"), pod(**PODS[name])
    assert takes(spec, before)
    after = mutated(spec, before)
    container, volumes = sidecar()
    assert after["spec"]["initContainers"] == [container, *PODS[name].get("initContainers", [])]
    assert after["spec"]["volumes"] == [*PODS[name].get("volumes", []), *volumes]
    assert after["spec"]["containers"] == before["spec"]["containers"]


@pytest.mark.parametrize("name", PODS)
def test_not_twice(name):
    spec = policy()
    assert not takes(spec, mutated(spec, pod(**PODS[name])))


def test_not_beside_a_classic_one():
    assert not takes(policy(), pod(containers=[{"name": "sf-token-proxy"}, {"name": "app"}]))
    assert not takes(policy(), pod(initContainers=[{"name": "sf-token-proxy"}]))
    assert takes(policy(), pod(initContainers=[{"name": "sf-token-proxy-2"}]))


def test_values_with_any_characters_survive():
    container = mutated(policy(), pod())["spec"]["initContainers"][0]
    assert {"name": "QUOTED", "value": 'a "quoted" <text> \\ with ümlaut & more'} in container["env"]
    assert "sf-token-proxy-ca" in [volume["name"] for volume in mutated(policy(), pod())["spec"]["volumes"]]


def test_it_fails_closed_and_is_opted_into_twice():
    spec = policy()
    assert (spec["failurePolicy"], spec["reinvocationPolicy"]) == ("Fail", "IfNeeded")
    assert spec["matchConstraints"]["namespaceSelector"] == {"matchLabels": {"sf-token-proxy/injection": "enabled"}}
    assert spec["matchConstraints"]["objectSelector"] == {"matchLabels": {"sf-token-proxy/inject": "true"}}
    [rule] = spec["matchConstraints"]["resourceRules"]
    assert (rule["resources"], rule["operations"]) == (["pods"], ["CREATE"])
    beta = policy("admission-policy-beta")
    assert beta["matchConstraints"]["namespaceSelector"] == {"matchLabels": {"acme.example/salesforce": "yes"}}
    assert beta["failurePolicy"] == "Ignore"


def test_the_binding_is_of_the_policy():
    docs = rendered("sf-token-proxy", "admission-policy")
    assert one(docs, "MutatingAdmissionPolicyBinding")["spec"]["policyName"] == one(docs, "MutatingAdmissionPolicy")["metadata"]["name"]


def test_off_unless_asked_for():
    for name in ["default", "alerts", "dashboard", "podmonitor"]:
        assert not [document for document in rendered("sf-token-proxy", name) if "AdmissionPolicy" in document["kind"]]


def test_every_value_of_a_map_or_list_is_dyn():
    """Kubernetes checks types: the values of one map, and of one list, have to be of one type."""
    for variable in policy()["variables"]:
        bare = re.sub(r'"(?:[^"\\]|\\.)*"', '""', variable["expression"])
        assert bare.startswith("{")
        assert len(re.findall(r'"":', bare)) == len(re.findall(r'"": dyn\(', bare))
        assert not re.search(r"\[(?!dyn\(|\])", bare) and not re.search(r", (?!dyn\(|\"\": dyn\()", bare)
