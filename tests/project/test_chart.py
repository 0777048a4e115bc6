"""The Helm chart, linted and rendered by Helm's own library and held against Kubernetes' published schemas.

Kinds that are not Kubernetes' own (RayCluster, ServiceMonitor, PrometheusRule) have no schema in a package: of a
RayCluster its pods are checked as the pod templates that they are, and its other fields against the list below.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import helm_python as helm
import kubernetes_validate
import pytest
import yaml

from orchestrator.settings import Settings

CHART = Path(__file__).parents[2] / "deploy/chart"
ROOT = CHART.parents[1]
EVERYTHING = {
    "api": {"autoscaling": {"enabled": True}},
    "ingress": {"enabled": True, "className": "nginx", "tlsSecret": "certificate", "annotations": {"a/b": "c"}},
    "monitoring": {"serviceMonitor": True, "rules": True, "dashboard": True, "labels": {"release": "prometheus"}},
    "image": {"pullSecrets": ["registry"]},
}
OTHERS_KINDS = {"RayCluster", "ServiceMonitor", "PrometheusRule"}
# KubeRay 1.6, `RayClusterSpec` and below: ray-operator/apis/ray/v1/raycluster_types.go.
RAY_FIELDS = {
    "rayVersion",
    "authOptions",
    "enableInTreeAutoscaling",
    "autoscalerOptions",
    "headGroupSpec",
    "workerGroupSpecs",
}
AUTOSCALER_FIELDS = {"version", "upscalingMode", "idleTimeoutSeconds", "resources"}
HEAD_FIELDS = {"serviceType", "rayStartParams", "template"}
GROUP_FIELDS = {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"}


def rendered(values: dict[str, Any]) -> list[dict[str, Any]]:
    with helm.Chart.load(CHART) as chart:
        files = chart.render(values, name="demo", namespace="prod", is_install=True)
    texts = [text for name, text in files.items() if name.endswith(".yaml")]
    return [found for text in texts for found in yaml.safe_load_all(text) if found]


@pytest.fixture(scope="module")
def default() -> list[dict[str, Any]]:
    return rendered({})


@pytest.fixture(scope="module")
def everything() -> list[dict[str, Any]]:
    return rendered(EVERYTHING)


def one(objects: list[dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    (found,) = [o for o in objects if o["kind"] == kind and o["metadata"]["name"] == name]
    return found


def pods(objects: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Pod templates by the name of what makes them."""
    found = {}
    for o in objects:
        if o["kind"] in ("Deployment", "Job"):
            found[o["metadata"]["name"]] = o["spec"]["template"]
        if o["kind"] == "RayCluster":
            found["head"] = o["spec"]["headGroupSpec"]["template"]
            found |= {group["groupName"]: group["template"] for group in o["spec"]["workerGroupSpecs"]}
    return found


@pytest.mark.parametrize("values", [{}, EVERYTHING], ids=["default", "everything"])
def test_helm_lints_it_strictly(values: dict[str, Any]):
    report = helm.lint(CHART, values, strict=True)
    assert report["errors"] == []
    assert [m for m in report["messages"] if m["severity"] > 1] == []


@pytest.mark.parametrize("version", ["1.30", "1.34"])
def test_every_object_fits_kubernetes_schema(everything: list[dict[str, Any]], version: str):
    kinds = [o["kind"] for o in everything]
    assert {"Deployment", "Job", "Service", "PodDisruptionBudget", "NetworkPolicy", "HorizontalPodAutoscaler"} < set(
        kinds
    )
    for o in everything:
        if o["kind"] not in OTHERS_KINDS:
            kubernetes_validate.validate(o, version, strict=True)
    for name, template in pods(everything).items():
        wrapped = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": name}, "template": template}
        kubernetes_validate.validate(wrapped, version, strict=True)


def test_the_ray_cluster_has_fields_that_kuberay_knows(default: list[dict[str, Any]]):
    spec = one(default, "RayCluster", "demo-ray")["spec"]
    assert set(spec) == RAY_FIELDS
    assert set(spec["autoscalerOptions"]) <= AUTOSCALER_FIELDS
    assert set(spec["headGroupSpec"]) <= HEAD_FIELDS
    assert all(set(group) <= GROUP_FIELDS for group in spec["workerGroupSpecs"])
    assert spec["authOptions"] == {"mode": "token", "secretName": "stylefoundry-ray-token"}
    assert spec["enableInTreeAutoscaling"] is True
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    starts = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    assert all(isinstance(value, str) for group in starts for value in group["rayStartParams"].values())


def test_the_version_of_ray_is_one_that_the_project_takes(default: list[dict[str, Any]]):
    version = one(default, "RayCluster", "demo-ray")["spec"]["rayVersion"]
    bounds = re.search(r'"ray\[client\]>=([\d.]+),<([\d.]+)"', (ROOT / "pyproject.toml").read_text())
    assert bounds is not None

    def number(text: str) -> tuple[int, ...]:
        return tuple(int(part) for part in text.split("."))

    assert number(bounds[1]) <= number(version) < number(bounds[2])


def test_rays_ports_are_open_to_the_dispatcher_and_its_own_nodes_only(default: list[dict[str, Any]]):
    policy = one(default, "NetworkPolicy", "demo-ray")["spec"]
    assert policy["podSelector"] == {"matchLabels": {"ray.io/cluster": "demo-ray"}}
    assert set(policy["policyTypes"]) == {"Ingress", "Egress"}
    nodes, dispatcher = policy["ingress"]
    assert nodes == {"from": [{"podSelector": policy["podSelector"]}]}
    labels = one(default, "Deployment", "demo-dispatcher")["spec"]["template"]["metadata"]["labels"]
    assert dispatcher["from"] == [{"podSelector": {"matchLabels": labels}}]
    assert dispatcher["ports"] == [{"protocol": "TCP", "port": 10001}]
    services = [o for o in default if o["kind"] in ("Service", "Ingress")]
    assert not any("ray" in str(o["spec"]) for o in services)


def test_every_pod_has_a_policy_and_none_may_do_more_than_it_needs(default: list[dict[str, Any]]):
    policies = [o["spec"]["podSelector"]["matchLabels"] for o in default if o["kind"] == "NetworkPolicy"]
    for name, template in pods(default).items():
        labels = template["metadata"]["labels"]
        of_ray = labels["app.kubernetes.io/component"] == "ray"  # KubeRay adds the label of the cluster
        assert of_ray or any(selector.items() <= labels.items() for selector in policies), name
        assert template["spec"]["securityContext"]["runAsNonRoot"] is True, name
        for container in template["spec"]["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False, name
            assert container["resources"]["limits"]["memory"], name


def test_secrets_are_files_by_reference(default: list[dict[str, Any]]):
    assert not [o for o in default if o["kind"] == "Secret"]
    for name, template in pods(default).items():
        for container in template["spec"]["containers"]:
            names = {entry["name"] for entry in container["env"]}
            assert not {n for n in names if re.search("PASSWORD|_KEY$|DATABASE_URL|REDIS_URL|TOKEN$", n)}, name
        volumes = {volume["name"]: volume for volume in template["spec"]["volumes"]}
        given = {item["key"] for item in volumes["secrets"]["secret"]["items"]}
        assert {key.removeprefix("stylefoundry_") for key in given} <= set(Settings.model_fields), name
        assert ("stylefoundry_admin_key" in given) is (name == "demo-api")


def test_every_variable_of_ours_is_a_setting(everything: list[dict[str, Any]]):
    known = {f"STYLEFOUNDRY_{name.upper()}" for name in Settings.model_fields} | {"STYLEFOUNDRY_SECRETS_DIR"}
    for name, template in pods(everything).items():
        for container in template["spec"]["containers"]:
            used = {entry["name"] for entry in container["env"] if entry["name"].startswith("STYLEFOUNDRY_")}
            assert used <= known, name


def test_the_schema_comes_before_everything_else(default: list[dict[str, Any]]):
    job = one(default, "Job", "demo-migrate")
    assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
    assert job["spec"]["template"]["spec"]["containers"][0]["command"] == ["stylefoundry", "migrate"]


def test_a_gpu_group_has_the_gpu_image_and_asks_for_gpus(default: list[dict[str, Any]]):
    gpu, cpu = (pods(default)[name]["spec"]["containers"][0] for name in ("gpu", "cpu"))
    assert gpu["image"] == "stylefoundry:cuda"
    assert gpu["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert cpu["image"] == "stylefoundry:cpu"
    assert "nvidia.com/gpu" not in cpu["resources"]["limits"]


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"api": {"replicas": 0}}, "replicas"),
        ({"settings": {"database_url": "postgresql://me:secret@host/db"}}, "database_url"),
        ({"ray": {"version": "latest"}}, "version"),
        ({"replicas": 3}, "replicas"),
    ],
)
def test_wrong_values_are_refused_by_name(values: dict[str, Any], named: str):
    with pytest.raises(helm.HelmError, match=named):
        rendered(values)
