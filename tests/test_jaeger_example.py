"""The example with Jaeger: its files are sound, and its pipeline arrives at a collector."""

from __future__ import annotations

import json
import re
from pathlib import Path
from textwrap import dedent
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from dlt.common import known_env
from dlt.common.configuration.specs import RuntimeConfiguration
from opentelemetry.sdk import environment_variables as sdk_variables

from dltobs._settings.settings import FIELDS
from scripts import run_script
from servers import attributes_of

if TYPE_CHECKING:
    import subprocess

    from servers import OtlpServer

JAEGER = Path(__file__).parents[1] / "examples" / "jaeger"


def in_the_cluster(kind: str) -> list[dict[str, Any]]:
    """The objects of a kind that the manifest creates."""
    documents = yaml.safe_load_all((JAEGER / "cronjob.yaml").read_text("utf-8"))
    return [document for document in documents if document["kind"] == kind]


def job_of_the_cluster() -> dict[str, Any]:
    (cron,) = in_the_cluster("CronJob")
    return dict(cron["spec"]["jobTemplate"])


def variables_of(name: str) -> dict[str, str]:
    """The environment of the pipeline's container in a manifest; a secret is some value."""
    if name == "compose.yaml":
        document = yaml.safe_load((JAEGER / name).read_text("utf-8"))
        return dict(document["services"]["pipeline"]["environment"])
    pod = job_of_the_cluster()["spec"]["template"]["spec"]
    return {one["name"]: one.get("value", "from-elsewhere") for one in pod["containers"][0]["env"]}


def run_example(
    folder: Path, variables: dict[str, str], server: OtlpServer, after: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run `pipeline.py` with these variables, but with the places of this test."""
    source = """
    import runpy
    import dlt
    runpy.run_path(PATH, run_name="__main__")
    """
    places = {"DLT_DATA_DIR": str(folder / "dlt"), "OTEL_EXPORTER_OTLP_ENDPOINT": server.url}
    places["DESTINATION__DUCKDB__CREDENTIALS"] = str(folder / "shop.duckdb")
    given = {key: value for key, value in variables.items() if key != "SENTRY_DSN"}
    script = dedent(source).replace("PATH", repr(str(JAEGER / "pipeline.py"))) + dedent(after)
    return run_script(script, folder, prelude="", **(given | places))


def images() -> set[str]:
    services = yaml.safe_load((JAEGER / "compose.yaml").read_text("utf-8"))["services"]
    job = job_of_the_cluster()
    of_compose = {service["image"] for service in services.values() if "image" in service}
    return of_compose | {one["image"] for one in job["spec"]["template"]["spec"]["containers"]}


@pytest.mark.parametrize("name", ["compose.yaml", "cronjob.yaml"])
def test_the_example_sets_variables_that_somebody_reads(tmp_path: Path, name: str, otlp: OtlpServer) -> None:
    """dltobs, OpenTelemetry, or dlt, whose trace says what it has looked up; and the script arrives."""
    variables = variables_of(name)
    own = {f"DLTOBS__{field.upper()}" for field in FIELDS}
    own |= {variable for field in FIELDS.values() for variable in field.metadata["fallbacks"]}
    known = own | set(vars(sdk_variables))
    known |= {value for value in vars(known_env).values() if isinstance(value, str)}
    known |= {f"RUNTIME__{field.upper()}" for field in RuntimeConfiguration.get_resolvable_fields()}
    # expanded into another one by Kubernetes itself
    rest = {
        variable for variable in variables if variable not in known and f"$({variable})" not in str(variables)
    }

    source = """
    for one in dlt.pipeline("shop").last_trace.resolved_config_values:
        print("@", "__".join((*one.sections, one.key)).upper())
    """
    run = run_example(tmp_path, variables, otlp, source)
    assert run.returncode == 0, run.stderr
    resolved = {line[2:] for line in run.stdout.splitlines() if line.startswith("@ ")}
    assert rest <= resolved, rest - resolved
    assert attributes_of(otlp.named("run shop"))["dlt.tag.team"] == "sales"
    assert otlp.resources[0]["service.name"] == "shop-loader"


def test_the_example_sends_what_its_readme_says(tmp_path: Path, otlp: OtlpServer) -> None:
    """One trace with the parts of each step, whose id is in the JSON lines; the run in metrics; no key."""
    run = run_example(tmp_path, variables_of("compose.yaml"), otlp)
    assert run.returncode == 0, run.stderr
    root = otlp.named("run shop")
    assert {span.trace_id for span in otlp.spans} == {root.trace_id}
    names = {span.name for span in otlp.spans}
    assert names >= {"extract", "normalize", "load", "extract orders", "extract customers"}
    assert names >= {"normalize orders", "normalize orders__items", "load orders", "load customers"}
    assert attributes_of(root)["dlt.outcome"] == "ok"
    assert {attributes_of(span)["dlt.tag.team"] for span in otlp.spans} == {"sales"}
    steps = {span.name for span in otlp.spans if "dlt.load_id" in attributes_of(span)}
    assert steps == {"extract", "normalize", "load"}
    with_rows = {span.name for span in otlp.spans if "dlt.rows" in attributes_of(span)}
    assert {"extract", "normalize"} <= with_rows
    assert not {"load", "run shop"} & with_rows
    assert root.trace_id.hex() == attributes_of(root)["dlt.transaction_id"]
    lines = [json.loads(line) for line in run.stderr.splitlines()]
    assert {line["trace_id"] for line in lines if "trace_id" in line} == {root.trace_id.hex()}
    assert [point.value for point in otlp.points if point.name == "dlt.runs"] == [1]
    assert b"not-a-real-key" not in otlp.raw


def test_the_example_without_its_key_is_a_red_trace_that_names_the_cause(
    tmp_path: Path, otlp: OtlpServer
) -> None:
    variables = variables_of("compose.yaml") | {"SOURCES__PIPELINE__ORDERS__API_KEY": ""}
    run = run_example(tmp_path, variables, otlp)
    assert run.returncode == 1
    root = otlp.named("run shop")
    assert (root.status.code, attributes_of(root)["dlt.outcome"]) == (2, "failed")
    assert attributes_of(root)["error.type"] in (JAEGER / "README.md").read_text("utf-8")
    assert [event.name for event in root.events] == ["exception"]


JAEGER_ALONE = [{"OTEL_METRICS_EXPORTER": "none"}, {"DLTOBS__METRICS": "off"}]


@pytest.mark.parametrize("variables", JAEGER_ALONE)
def test_jaeger_alone_gets_spans_and_is_not_asked_for_more(
    tmp_path: Path, otlp: OtlpServer, variables: dict[str, str]
) -> None:
    """With either variable that the README names; Jaeger answers 404 to metrics."""
    otlp.metric_status = 404
    (pair,) = variables.items()
    assert f"{pair[0]}={pair[1]}" in (JAEGER / "README.md").read_text("utf-8")
    run = run_example(tmp_path, variables_of("compose.yaml") | variables, otlp)
    assert run.returncode == 0, run.stderr
    assert otlp.named("run shop")
    assert otlp.metric_requests == []
    assert "could not be delivered" not in run.stderr


def test_jaeger_alone_without_that_is_one_warning(tmp_path: Path, otlp: OtlpServer) -> None:
    """The spans arrive all the same."""
    otlp.metric_status = 404
    run = run_example(tmp_path, variables_of("compose.yaml"), otlp)
    assert run.returncode == 0, run.stderr
    assert otlp.named("run shop")
    lost = [line for line in run.stderr.splitlines() if "could not be delivered" in line]
    assert len(lost) == 1
    assert re.search(r"otlp_metrics: \d+ points could not be delivered: HTTP 404", lost[0])


def test_the_example_s_images_are_pinned() -> None:
    assert len(images()) == 4
    assert all(re.fullmatch(r"[\w./-]+:\d+\.\d+\.\d+", image) for image in images())


def test_the_example_s_collector_uses_what_it_defines() -> None:
    config = yaml.safe_load((JAEGER / "collector.yaml").read_text("utf-8"))
    for signal, pipeline in config["service"]["pipelines"].items():
        assert signal in {"traces", "metrics"}
        for kind, names in pipeline.items():
            assert set(names) <= config[kind].keys()
    assert set(config["service"]["extensions"]) <= config["extensions"].keys()


def test_the_example_s_cron_job_is_safe_to_apply() -> None:
    """No root, no privileges, bounded memory, secrets by reference, time to deliver, a volume that stays."""
    pod = job_of_the_cluster()["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert not container["securityContext"]["allowPrivilegeEscalation"]
    assert container["resources"].keys() == {"requests", "limits"}
    assert pod["terminationGracePeriodSeconds"] > FIELDS["flush_timeout"].default
    for one in container["env"]:
        if one["name"] == "SENTRY_DSN" or "KEY" in one["name"]:
            assert "secretKeyRef" in one["valueFrom"]
    mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert variables_of("cronjob.yaml")["DLT_DATA_DIR"] in mounted
    assert {mount["name"] for mount in container["volumeMounts"]} == {
        volume["name"] for volume in pod["volumes"]
    }


def test_every_claim_that_the_cron_job_mounts_is_created_with_it() -> None:
    """Else its pods wait for ever."""
    volumes = job_of_the_cluster()["spec"]["template"]["spec"]["volumes"]
    mounted = {one["persistentVolumeClaim"]["claimName"] for one in volumes if "persistentVolumeClaim" in one}
    created = {claim["metadata"]["name"] for claim in in_the_cluster("PersistentVolumeClaim")}
    assert mounted
    assert mounted <= created
