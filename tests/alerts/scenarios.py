"""What goes wrong in the live test, what has to fire for it, and what stops when it is healed.

One proxy (and so one job) for each, all at once. Rates are calls a second at factor 60; the full-length run calls at a tenth.
"""

import dataclasses
import pathlib
import shutil
import subprocess
from collections.abc import Callable

from stage import JOB

FAST, SLOW, TICKET = (f"SfTokenProxyErrorBudgetBurn{kind}" for kind in ("PageFast", "PageSlow", "Ticket"))
GOOD = "/services/data/v60.0/limits"
# The wait of a call for a token: the callers' pace is to stay steady while there is none.
IMPATIENT = {"token": {"refresh_wait": "200ms"}}
RELOAD = {"interval": "1s"}
REFUSAL = {"fail": -1, "status": 400, "error": "invalid_client", "error_description": "invalid client credentials"}
OUTAGE = {"fail": -1, "status": 503, "body": "away"}


def get(path=GOOD, headers=None):
    return lambda n: ("GET", path, headers or {}, None)


def mixed(every, stranger):
    """Each `every`-th call names a user whom the org does not know: it ends with 503, by our fault."""
    return lambda n: ("GET", GOOD, {"X-SFPROXY-User": stranger(n)} if n % every == every - 1 else {}, None)


@dataclasses.dataclass
class Scenario:
    name: str
    #: Of the orgs that are started, those whose logins or sessions are this scenario's alone; the others share `common`.
    org: str
    make: Callable
    #: (org, rate, call), one caller each.
    flows: list
    #: What fires, as (alert, org); nothing else may, but for `may`.
    must: set = dataclasses.field(default_factory=set)
    #: What fires at full length; the proxy's own back-off is not scaled, so at factor 60 too few logins fall into a window.
    may: set = dataclasses.field(default_factory=set)
    #: What does not resolve within the run: its long window has to be left behind.
    stays: set = dataclasses.field(default_factory=set)
    #: Before the proxy starts.
    before: Callable = lambda stage: None
    #: When it runs.
    fault: Callable = lambda stage, proxy: None
    #: Called again and again until all that must fire does.
    keep_on: Callable = lambda stage, proxy: None
    heal: Callable = lambda stage, proxy: None
    #: Errors among the calls in the past, so that windows of days are true.
    past_errors: float = 0.0
    #: Whether it has one.
    past: bool = True

    @property
    def job(self):
        return JOB + self.name


def all_of(names, org="main"):
    return {(name, org) for name in names}


def scenarios(full):
    """All of them. `full`: at factor 1, where lives are as long as they are."""
    single = lambda **org: (lambda stage, s: {"orgs": {"main": stage.orgs[s.org].settings(**org)}})  # noqa: E731  a word for a table

    def single_with_reload(stage, s):
        return {"orgs": {"main": stage.orgs[s.org].settings()}, "reload": RELOAD}

    def healthy(stage, s):
        org = stage.orgs["common"]
        return {
            "orgs": {
                "main": org.settings(
                    data_cloud={"dataspace": "default"}, cache={"ttl": "2s", "paths": ["/services/data/v60.0/limits"]},
                    pub_sub={"endpoint": org.summary["apps"]["pubsub_url"]},
                )
            },
            "listeners": {"main": {"users": {"allow": ["*@practice.example"]}}},
            "store": {"file": store(stage.scratch / "healthy-store")},
        }

    def users(stage, s):
        return {"orgs": {"main": stage.orgs[s.org].settings(**IMPATIENT)}, "listeners": {"main": {"users": {
            "allow": ["*@practice.example"], "login_budget": {"burst": 3600, "per_minute": 3600}, "max": 100000,
            # A user who was refused is tried again every five minutes until he is idle.
            "idle": "1m"}}}}

    def limits(stage, s):
        org = stage.orgs["common"]
        # On an error: on a good answer the practice org tells the truth.
        for name, usage in (("near", "850/1000"), ("critical", "970/1000"), ("zero", "5/0"), ("below", "799/1000")):
            org.tell("api", fail=-1, status=404, path_prefix=f"/services/data/v60.0/{name}", headers={"sforce-limit-info": f"api-usage={usage}"})
        return {"orgs": {name: org.settings() for name in ("near", "critical", "zero", "below")}}

    def store_of(stage, s):
        return {"orgs": {"main": stage.orgs[s.org].settings()}, "store": {"file": store(stage.scratch / "store-store")}}

    def away(stage, proxy):
        directory = pathlib.Path(proxy.configuration["store"]["file"]["directory"])
        shutil.rmtree(directory)
        # A file in its place: nothing can be written below it, by root neither.
        directory.write_text("")
        stage.orgs["store"].tell("revoke")

    def back(stage, proxy):
        directory = pathlib.Path(proxy.configuration["store"]["file"]["directory"])
        directory.unlink()
        directory.mkdir(0o700)
        stage.orgs["store"].tell("revoke")

    def eat_logins(stage, proxy):
        """Something that ends the session whenever there is a login left for the next."""
        if stage.gauge(proxy, "login_budget_remaining") >= 1:
            stage.orgs["budget"].tell("revoke")

    def own_secret(stage, s):
        """The org with a key file of the scenario's own, which it may spoil."""
        org = stage.orgs["common"].settings()
        key = stage.scratch / "secret.pem"
        key.write_text(pathlib.Path(org["grant"]["jwt_bearer"]["private_key"].removeprefix("file:")).read_text())
        org["grant"]["jwt_bearer"]["private_key"] = f"file:{key}"
        return {"orgs": {"main": org}, "reload": RELOAD}

    def spoil_secret(stage, proxy):
        key = stage.scratch / "secret.pem"
        (stage.scratch / "secret.good").write_text(key.read_text())
        key.write_text("no key")

    def mend_secret(stage, proxy):
        (stage.scratch / "secret.pem").write_text((stage.scratch / "secret.good").read_text())

    def certificate(stage, days):
        """A listener's, for so many days; where it is."""
        key, cert = stage.scratch / "listener.key", stage.scratch / "listener.crt"
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", str(days)]
        names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
        subprocess.run([*command, *names, "-keyout", key, "-out", cert], check=True, capture_output=True, timeout=30)
        return {"certificate_file": str(cert), "key_file": str(key)}

    def with_certificate(stage, s):
        return {"orgs": {"main": stage.orgs["common"].settings()}, "listeners": {"main": {"tls": certificate(stage, 10)}}, "reload": RELOAD}

    life = "20m" if full else "1m"
    burn = {FAST, SLOW, TICKET}
    # At full length the half hour of SLOW is not waited for but in its own scenario.
    kept = all_of({SLOW, TICKET} if full else {TICKET})
    logins = all_of({"SfTokenProxyLoginFailures"})
    return [
        # Nothing may fire.
        Scenario("healthy", "common", healthy, [
            ("main", 5, get()), ("main", 2, lambda n: ("POST", "/services/data/v60.0/sobjects/Account", {"Content-Type": "application/json"}, '{"Name":"A"}')),
            ("main", 2, lambda n: ("POST", "/api/v2/query", {"Content-Type": "application/json"}, '{"sql":"SELECT 1"}')),
            ("main", 0.5, get("/services/data/v60.0/sobjects", {"X-SFPROXY-User": "integration@practice.example"})),
        ]),
        # The org's own errors, and calls that the guard refuses, are nobody's page.
        Scenario("org-errors", "common", single(), [
            ("main", 5, get("/services/data/v60.0/broken")), ("main", 5, get("/services/data/v60.0/sobjects/Nothing/001000000000000")), ("main", 5, get("/not/served")),
        ], before=lambda stage: stage.orgs["common"].tell("api", fail=-1, status=503, path_prefix="/services/data/v60.0/broken")),
        Scenario("refused", "refused", single(**IMPATIENT), [("main", 5, get())],
            must=all_of(burn | {"SfTokenProxyCredentialsRefused"}), may=logins, stays=kept,
            before=lambda stage: stage.orgs["refused"].tell("token", **REFUSAL), heal=lambda stage, proxy: stage.orgs["refused"].tell("reset")),
        # Too few calls for a burn rate; the cause pages.
        Scenario("quiet", "refused", single(**IMPATIENT), [("main", 0.05, get())], past=False,
            must=all_of({"SfTokenProxyCredentialsRefused"}), may=logins),
        # Two orgs of one proxy: only the one that is away.
        Scenario("outage", "outage", lambda stage, s: {"orgs": {"main": stage.orgs["outage"].settings(**IMPATIENT), "other": stage.orgs["common"].settings()}},
            [("main", 5, get()), ("other", 5, get())],
            must=all_of(burn | {"SfTokenProxyNoToken"}), may=logins, stays=kept,
            before=lambda stage: stage.orgs["outage"].tell("token", **OUTAGE), heal=lambda stage, proxy: stage.orgs["outage"].tell("reset")),
        Scenario("burn-slow", "burn", users, [("main", 10, mixed(100, lambda n: "stranger@practice.example"))], past_errors=0.01,
            must=all_of({SLOW, TICKET}), stays=all_of({TICKET}), heal=lambda stage, proxy: stage.heal_flows("burn-slow")),
        Scenario("burn-ticket", "burn", users, [("main", 10, mixed(333, lambda n: "stranger@practice.example"))], past_errors=0.003,
            must=all_of({TICKET}), stays=all_of({TICKET}), heal=lambda stage, proxy: stage.heal_flows("burn-ticket")),
        # The login host goes away while a token lives: no call fails.
        Scenario("expiry", "expiry", single(token={"lifetime": life}), [("main", 5, get())],
            must=all_of({"SfTokenProxyRenewalFailing", "SfTokenProxyTokenExpiring", "SfTokenProxyTokenPastExpiry"}), may=logins,
            fault=lambda stage, proxy: stage.with_token(proxy) and stage.orgs["expiry"].tell("token", **OUTAGE),
            heal=lambda stage, proxy: stage.orgs["expiry"].tell("reset") and stage.orgs["expiry"].tell("revoke")),
        # The credential is withdrawn while a token lives: no call fails, and nothing heals it.
        Scenario("denied", "denied", single(token={"lifetime": life}), [("main", 5, get())],
            must=all_of({"SfTokenProxyRenewalRefused", "SfTokenProxyTokenExpiring", "SfTokenProxyTokenPastExpiry"}), may=logins,
            fault=lambda stage, proxy: stage.with_token(proxy) and stage.orgs["denied"].tell("token", **REFUSAL),
            heal=lambda stage, proxy: stage.orgs["denied"].tell("reset")),
        # Users who cannot log in, ever new ones.
        Scenario("logins", "common", users, [("main", 5, get()), ("main", 2, mixed(1, lambda n: f"stranger{n}@practice.example"))],
            must=all_of(burn | {"SfTokenProxyLoginFailures"}), stays=kept, heal=lambda stage, proxy: stage.heal_flows("logins")),
        Scenario("budget", "budget", single(login_budget={"burst": 2, "per_minute": 1}), [("main", 5, get())],
            must=all_of({"SfTokenProxyLoginBudgetSpent"}), keep_on=eat_logins),
        Scenario("refused-again", "common", single(), [("main", 5, get("/services/data/v60.0/denied"))],
            must=all_of({"SfTokenProxyRefusedAgain"}),
            before=lambda stage: stage.orgs["common"].tell("api", fail=-1, status=401, path_prefix="/services/data/v60.0/denied"),
            heal=lambda stage, proxy: stage.heal_flows("refused-again")),
        Scenario("store", "store", store_of, [("main", 5, get())], must=all_of({"SfTokenProxyStoreUnreachable"}),
            fault=lambda stage, proxy: stage.with_token(proxy) and away(stage, proxy), heal=back),
        Scenario("limits", "common", limits, [(name, 2, get(f"/services/data/v60.0/{name}")) for name in ("near", "critical", "zero", "below")],
            must={("SfTokenProxyApiLimitNear", "near"), ("SfTokenProxyApiLimitNear", "critical"), ("SfTokenProxyApiLimitCritical", "critical")},
            heal=lambda stage, proxy: stage.heal_flows("limits")),
        Scenario("config", "common", single_with_reload, [("main", 2, get())], must=all_of({"SfTokenProxyConfigReloadFailed"}, ""),
            fault=lambda stage, proxy: proxy.file.write_text("orgs: nothing"), heal=lambda stage, proxy: proxy.write()),
        Scenario("secret", "common", own_secret, [("main", 2, get())], must=all_of({"SfTokenProxySecretReloadFailed"}),
            fault=lambda stage, proxy: stage.with_token(proxy) and spoil_secret(stage, proxy), heal=mend_secret),
        Scenario("certificate", "common", with_certificate, [], must=all_of({"SfTokenProxyCertificateExpiring"}, ""), past=False,
            heal=lambda stage, proxy: certificate(stage, 90)),
        Scenario("down", "common", single(), [], must=all_of({"SfTokenProxyTargetDown"}, ""), past=False,
            fault=lambda stage, proxy: proxy.stop(), heal=lambda stage, proxy: proxy.start()),
    ]


def store(directory):
    """A store of sealed files in a new folder."""
    directory.mkdir(0o700)
    key = directory.with_name(directory.name + ".key")
    key.write_text("00112233445566778899aabbccddeeff" * 2)
    return {"directory": str(directory), "key": f"file:{key}"}
