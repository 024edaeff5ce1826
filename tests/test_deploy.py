"""What is deployed, checked offline: Ray's own schema of clusters and services, Kubernetes' of pods, KubeRay's names of fields."""

import copy
import re
import shlex
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from egoray import __version__
from egoray.cli import main
from egoray.config import ServeConfig

ROOT = Path(__file__).parents[1]
KUBERNETES = "1.34.0"
RAY = "2.60.0"
KUBERAY = {  # names of the fields in KubeRay v1.7.0, ray-operator/apis/ray/v1/{rayjob,rayservice,raycluster}_types.go
    "RayJobSpec": "activeDeadlineSeconds backoffLimit clusterSelector deletionStrategy entrypoint entrypointNumCpus entrypointNumGpus "
    "entrypointResources jobId managedBy metadata preRunningDeadlineSeconds rayClusterSpec runtimeEnvYAML shutdownAfterJobFinishes "
    "submissionMode submitterConfig submitterPodTemplate suspend ttlSecondsAfterFinished",
    "RayServiceSpec": "deploymentUnhealthySecondThreshold excludeHeadPodFromServeSvc managedBy rayClusterConfig "
    "rayClusterDeletionDelaySeconds serveConfigV2 serveService serviceUnhealthySecondThreshold suspend upgradeStrategy",
    "RayClusterSpec": "authOptions autoscalerOptions enableInTreeAutoscaling gcsFaultToleranceOptions headGroupSpec headServiceAnnotations "
    "historyServerOptions managedBy networkPolicy rayVersion suspend tlsOptions upgradeStrategy workerGroupSpecs",
    "AuthOptions": "enableK8sTokenAuth mode secretName",
    "GcsFaultToleranceOptions": "backend externalStorageNamespace redisAddress redisPassword redisUsername storage",
    "RedisCredential": "value valueFrom",
    "AutoscalerOptions": "args command env envFrom idleTimeoutSeconds image imagePullPolicy resources securityContext upscalingMode "
    "version volumeMounts",
    "HeadGroupSpec": "enableIngress headService ingressOptions labels rayStartParams resources serviceType template",
    "WorkerGroupSpec": "groupName idleTimeoutSeconds labels maxReplicas minReplicas numOfHosts priority rayStartParams replicas resources "
    "scaleStrategy suspend template",
}
INSIDE = {  # which field of which holds another of them
    "rayClusterSpec": "RayClusterSpec",
    "rayClusterConfig": "RayClusterSpec",
    "authOptions": "AuthOptions",
    "gcsFaultToleranceOptions": "GcsFaultToleranceOptions",
    "redisPassword": "RedisCredential",
    "autoscalerOptions": "AutoscalerOptions",
    "headGroupSpec": "HeadGroupSpec",
    "workerGroupSpecs": "WorkerGroupSpec",
}


def load(name):
    return yaml.safe_load((ROOT / name).read_text())


def prepared(config):
    from ray.autoscaler._private.util import prepare_config, validate_config

    whole = prepare_config(copy.deepcopy(config))
    validate_config(whole)
    return whole


@pytest.fixture
def aws():
    return load("cluster.yaml")


def merged(base, edits):
    """``edits`` put over ``base`` by key; node configs, images, disks and roles are replaced whole."""
    if not isinstance(base, dict) or not isinstance(edits, dict):
        return edits
    whole = {"provider", "auth", "node_config"}
    return base | {key: value if key in whole else merged(base.get(key), value) for key, value in edits.items()}


def test_the_cluster_is_one_by_rays_own_schema(aws):
    whole = prepared(aws)
    assert whole["head_node_type"] in whole["available_node_types"]
    import jsonschema

    with pytest.raises(jsonschema.ValidationError):
        prepared(aws | {"idle_timeout_mins": 5})


def test_the_documented_edits_make_it_one_on_gcp(aws):
    docs = (ROOT / "docs" / "operations.md").read_text()
    (block,) = [yaml.safe_load(text) for text in re.findall(r"```yaml\n(.*?)```", docs, re.DOTALL) if "type: gcp" in text]
    assert set(block["available_node_types"]) == set(aws["available_node_types"])
    whole = prepared(merged(aws, block))
    assert "InstanceType" not in str(whole["available_node_types"])
    assert whole["available_node_types"]["gpu-spot"]["priority"] == 10


def test_the_head_does_no_work_and_nothing_runs_when_nobody_asks(aws):
    kinds = aws["available_node_types"]
    assert kinds["head"]["resources"] == {"CPU": 0}
    assert all("--num-cpus=0" in line for line in starts(aws, "head"))
    assert all(kind.get("min_workers", 0) == 0 for kind in kinds.values())
    assert 0 < aws["idle_timeout_minutes"] <= 10
    assert sum(kind.get("max_workers", 0) for kind in kinds.values()) >= aws["max_workers"]


def test_gpus_are_spot_first_and_on_demand_after(aws):
    spot, other = (aws["available_node_types"][name] for name in ("gpu-spot", "gpu-on-demand"))
    assert spot["priority"] > other["priority"]
    assert spot["resources"] == other["resources"]
    assert spot["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert "InstanceMarketOptions" not in other["node_config"]


def starts(config, kind):
    return [line for line in config[f"{kind}_start_ray_commands"] if "ray start" in line]


def test_machines_ask_for_a_token_and_show_nothing_to_the_outside(aws):
    for kind in ("head", "worker"):
        (line,) = starts(aws, kind)
        assert "export RAY_AUTH_MODE=token" in line
        assert "--object-spilling-directory=/mnt/egoray/spill" in line
    assert "--dashboard-host=127.0.0.1" in starts(aws, "head")[0]
    assert any(path.endswith("/.ray/auth_token") for path in aws["file_mounts"])
    rules = aws["provider"]["security_group"]["IpPermissions"]
    assert [(rule["FromPort"], rule["ToPort"]) for rule in rules] == [(22, 22)]
    assert "0.0.0.0" not in (ROOT / "cluster.yaml").read_text()


def test_what_ray_start_is_told_it_understands(aws):
    from click.testing import CliRunner
    from ray.scripts.scripts import cli

    known = CliRunner().invoke(cli, ["start", "--help"]).output
    for kind in ("head", "worker"):
        for option in re.findall(r"--[\w-]+", starts(aws, kind)[0].partition("ray start")[2]):
            assert option in known, option


def test_every_machine_installs_this_wheel(aws):
    commands = "\n".join(aws["setup_commands"])
    assert f"egoray-{__version__}-py3-none-any.whl" in commands
    assert all("-c ~/constraints.txt" in line for line in aws["setup_commands"] if "pip install" in line and "headless" not in line)
    assert set(aws["file_mounts"].values()) == {"dist", "constraints.txt", "~/.ray/auth_token"}


def test_every_worker_has_a_disk_for_frames_and_a_role_for_the_bucket(aws):
    for name, kind in aws["available_node_types"].items():
        (disk,) = kind["node_config"]["BlockDeviceMappings"]
        assert disk["Ebs"]["VolumeSize"] >= (100 if name == "head" else 500)
        assert name == "head" or kind["node_config"]["IamInstanceProfile"]
        assert name == "head" or kind["labels"]["egoray.io/kind"] in ("cpu", "gpu")


def pods(manifest):
    cluster = manifest["spec"].get("rayClusterSpec") or manifest["spec"]["rayClusterConfig"]
    groups = [("head", cluster["headGroupSpec"])] + [(group["groupName"], group) for group in cluster["workerGroupSpecs"]]
    return {name: group["template"] for name, group in groups}


def unknown(value, kind):
    """Names of fields that KubeRay does not have."""
    found = [f"{kind}.{name}" for name in value if name not in KUBERAY[kind].split()]
    for name, inner in value.items():
        for one in inner if isinstance(inner, list) else [inner]:
            found += unknown(one, INSIDE[name]) if name in INSIDE else []
    return found


@pytest.mark.parametrize(("name", "kind"), [("rayjob", "RayJobSpec"), ("rayservice", "RayServiceSpec")])
def test_kuberay_knows_the_fields_and_kubernetes_the_pods(name, kind):
    manifest = load(f"deploy/{name}.yaml")
    assert manifest["apiVersion"] == "ray.io/v1"
    assert set(manifest) == {"apiVersion", "kind", "metadata", "spec"}
    assert unknown(manifest["spec"], kind) == []
    for pod, template in pods(manifest).items():
        whole = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": pod}, "spec": template["spec"]}
        kubernetes_validate.validate(whole, KUBERNETES, strict=True)
    planted = copy.deepcopy(manifest["spec"])
    planted["rayClusterSpec" if name == "rayjob" else "rayClusterConfig"]["authOption"] = {}
    assert unknown(planted, kind) == ["RayClusterSpec.authOption"]
    whole["spec"]["containers"][0]["readinesProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(whole, KUBERNETES, strict=True)


@pytest.mark.parametrize("name", ["rayjob", "rayservice"])
def test_pods_are_bounded_watched_and_not_root(name):
    manifest = load(f"deploy/{name}.yaml")
    cluster = manifest["spec"].get("rayClusterSpec") or manifest["spec"]["rayClusterConfig"]
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["rayVersion"] == RAY
    assert cluster["gcsFaultToleranceOptions"]["redisPassword"]["valueFrom"]["secretKeyRef"] == {"name": "egoray-redis", "key": "password"}
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    for pod, template in pods(manifest).items():
        (container,) = template["spec"]["containers"]
        assert container["image"].endswith(f":{__version__}")
        assert {"livenessProbe", "readinessProbe", "resources"} <= set(container), pod
        assert container["resources"]["limits"]["memory"] == container["resources"]["requests"]["memory"]
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert template["spec"]["securityContext"]["runAsNonRoot"] is True
        assert "password" not in str(container["env"])


def test_the_redis_is_kubernetes_own():
    documents = list(yaml.safe_load_all((ROOT / "deploy" / "redis.yaml").read_text()))
    for document in documents:
        kubernetes_validate.validate(document, KUBERNETES, strict=True)
    assert [document["kind"] for document in documents] == ["Service", "StatefulSet", "NetworkPolicy"]


def test_the_job_is_one_that_the_command_line_takes():
    entry = shlex.split(load("deploy/rayjob.yaml")["spec"]["entrypoint"])
    script = entry[1]
    assert entry[0] == "python"
    assert (ROOT / script).is_file()
    command = main.commands[Path(script).stem]
    context = command.make_context("job", entry[2:])
    load(context.params["config_file"])


def test_the_service_is_one_by_rays_own_schema_and_builds_what_serve_configs_do():
    import importlib

    from ray.serve.schema import HTTPOptionsSchema, ServeApplicationSchema, ServeDeploySchema

    config = yaml.safe_load(load("deploy/rayservice.yaml")["spec"]["serveConfigV2"])
    ServeDeploySchema.model_validate(config)
    (application,) = config["applications"]
    # Ray takes unknown keys in silence.
    assert set(config) <= set(ServeDeploySchema.model_fields)
    assert set(config["http_options"]) <= set(HTTPOptionsSchema.model_fields)
    assert set(application) <= set(ServeApplicationSchema.model_fields)
    module, _, function = application["import_path"].partition(":")
    assert callable(getattr(importlib.import_module(module), function))
    ServeConfig.model_validate(application["args"])
    (alone,) = load("serve_configs/grounded_sam2.yaml")["applications"]
    assert application["args"] == alone["args"] | {"ingress_replicas": 2}
    assert application | {"args": alone["args"]} == alone


def test_the_image_is_slim_pinned_and_not_root():
    lines = [line for line in (ROOT / "deploy" / "Dockerfile").read_text().splitlines() if not line.startswith("#")]
    assert [line.split()[1] for line in lines if line.startswith("FROM")] == ["python:3.12-slim-bookworm"] * 2
    assert [line for line in lines if line.startswith("USER")] == ["USER 1000"]
    assert not [line for line in lines if line.startswith("ADD")]
    for line in lines:
        if line.startswith("COPY") and "--from" not in line:
            assert all((ROOT / source).exists() for source in line.split()[1:-1] if not source.startswith("--")), line
    assert any("opencv-python-headless" in line for line in lines)
    for name in ("rayjob", "rayservice"):
        assert {template["spec"]["securityContext"]["runAsUser"] for template in pods(load(f"deploy/{name}.yaml")).values()} == {1000}
