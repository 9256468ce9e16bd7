"""What `docker-compose.yml` and the Dockerfile promise, read from the files; and, where asked for, seen in Docker."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
PROFILES = {"engine-gpu": ["gpu"], "learner": ["learn"], "loadtest": ["load"]}
END_BY_THEMSELVES = {"bootstrap", "loadtest"}
PUBLISHED = {"api", "dashboard"}

every_service = pytest.mark.parametrize("name", sorted(SERVICES))


def test_services_and_profiles() -> None:
    core = {"redis", "worker", "bootstrap", "engine", "api", "dashboard"}
    assert set(SERVICES) == core | set(PROFILES)
    assert {name: s["profiles"] for name, s in SERVICES.items() if "profiles" in s} == PROFILES


@every_service
def test_runs_without_privileges(name: str) -> None:
    service = SERVICES[name]
    assert service["user"].split(":")[0] not in {"", "0", "root"}
    assert service["cap_drop"] == ["ALL"]
    assert "cap_add" not in service
    assert "privileged" not in service
    assert service["security_opt"] == ["no-new-privileges:true"]


@every_service
def test_writes_only_to_volumes_and_a_bounded_tmp(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert all(re.match(r"/tmp:size=\d+m", mount) for mount in service["tmpfs"])
    for volume in service.get("volumes", []):
        source, target, *mode = volume.split(":")
        assert source in COMPOSE["volumes"], "no folder of the host is mounted"
        assert target == ("/cache" if source == "cache" else "/data")
        assert mode == ["ro"] or source == "cache" or name in {"redis", "bootstrap", "learner"}


@every_service
def test_is_bounded(name: str) -> None:
    service = SERVICES[name]
    limits = service["deploy"]["resources"]["limits"]
    # Docker refuses a limit above the cores that there are; two is what a small machine has.
    assert 0 < float(limits["cpus"]) <= 2
    assert re.fullmatch(r"\d+[mg]", limits["memory"])
    assert re.fullmatch(r"\d+s", service["stop_grace_period"])
    assert {"max-size", "max-file"} <= set(service["logging"]["options"])
    assert service["restart"] == ("no" if name in END_BY_THEMSELVES else "unless-stopped")


@every_service
def test_is_watched(name: str) -> None:
    check = SERVICES[name]["healthcheck"]
    if name in END_BY_THEMSELVES:
        assert check == {"disable": True}
    else:
        assert {"test", "interval", "timeout", "retries"} <= set(check)
        # Older engines refuse the whole file for it.
        assert "start_interval" not in check


@every_service
def test_publishes_on_the_loopback_or_not_at_all(name: str) -> None:
    ports = SERVICES[name].get("ports", [])
    assert bool(ports) == (name in PUBLISHED)
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_redis_is_reached_by_the_service_alone() -> None:
    assert COMPOSE["networks"]["backend"]["internal"] is True
    assert set(SERVICES["redis"]["networks"]) == {"backend"}
    assert set(SERVICES["dashboard"]["networks"]) == set(SERVICES["loadtest"]["networks"]) == {"edge"}


def test_redis_keeps_and_never_evicts() -> None:
    command = " ".join(SERVICES["redis"]["command"])
    assert "--appendonly yes" in command
    assert "--appendfsync always" in command, "with everysec a killed Redis may lose what it had accepted"
    assert "--maxmemory-policy noeviction" in command
    assert any(volume.startswith("redis:") for volume in SERVICES["redis"]["volumes"])


@every_service
def test_waits_for_what_it_needs(name: str) -> None:
    needs = SERVICES[name].get("depends_on", {})
    assert all(SERVICES[other] and "condition" in how for other, how in needs.items())
    if name.startswith("engine"):
        assert needs["bootstrap"]["condition"] == "service_completed_successfully"
    if name == "api":
        assert not {"engine", "bootstrap"} & set(needs), "the API answers without an engine"


@every_service
def test_images_are_built_here_or_pinned(name: str) -> None:
    service = SERVICES[name]
    if "build" in service:
        assert re.search(rf"^FROM \S+ AS {service['build']['target']}$", DOCKERFILE, re.MULTILINE)
    else:
        assert re.search(r":\d+\.\d+\.\d+-\w+$", service["image"])


def test_base_image_is_pinned() -> None:
    assert re.search(r"^ARG PYTHON_IMAGE=python:3\.\d+\.\d+-slim-\w+$", DOCKERFILE, re.MULTILINE)
    stages = re.findall(r"^FROM (\S+) AS (\S+)$", DOCKERFILE, re.MULTILINE)
    names = {"${PYTHON_IMAGE}"} | {name for _, name in stages}
    assert len(stages) == DOCKERFILE.count("\nFROM ")
    assert {source for source, _ in stages} <= names


def test_images_run_as_nobody_in_particular() -> None:
    """Each final stage ends unprivileged, so that `docker run` without compose does too."""
    for stage in re.split(r"^FROM ", DOCKERFILE, flags=re.MULTILINE)[1:]:
        target = stage.split()[2]
        users = re.findall(r"^USER (\S+)$", stage, re.MULTILINE)
        assert users[-1:] == (["10001:10001"] if target in _targets() else []), target


def test_cpu_build_of_torch_is_the_default_and_cuda_a_choice() -> None:
    default = re.search(r"^ARG TORCH_INDEX_URL=(\S+)$", DOCKERFILE, re.MULTILINE)
    assert default is not None
    assert default[1].endswith("/cpu")
    assert default[1] in SERVICES["engine"]["build"]["args"]["TORCH_INDEX_URL"]
    assert SERVICES["engine-gpu"]["build"]["args"] == {"TORCH_INDEX_URL": "", "ENGINE_EXTRAS": "engine,gpu"}


def test_engines_serve_under_one_name() -> None:
    assert SERVICES["api"]["environment"]["RECSYS_ENGINE__ENDPOINT"] == "tcp://engine:5555"
    assert SERVICES["engine-gpu"]["networks"]["backend"]["aliases"] == ["engine"]


def test_settings_exist() -> None:
    """A misspelt setting would be ignored in silence."""
    from recsys.config import Settings

    sections = {name: field.annotation for name, field in Settings.model_fields.items()}
    names = {
        f"RECSYS_{section}__{name}".upper()
        for section, model in sections.items()
        for name in getattr(model, "model_fields", {})
    }
    names |= {"RECSYS_LOG_JSON", "RECSYS_SEED", "RECSYS_API_URL", "RECSYS_DASHBOARD_KEY"}
    for service in SERVICES.values():
        assert {name for name in service.get("environment", {}) if name.startswith("RECSYS_")} <= names


def test_every_variable_is_in_the_example() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    used = set(re.findall(r"\$\{(\w+)", text))
    used |= {name for s in SERVICES.values() for name, value in s.get("environment", {}).items() if value is None}
    shown = set(re.findall(r"^#?(\w+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))
    assert shown == used | {"COMPOSE_PROFILES"}


def test_context_holds_only_what_images_need() -> None:
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert kept == {"pyproject.toml", "README.md", "LICENSE", "recsys", "router", "kernels", "dashboard", "loadtest"}
    assert all((ROOT / name).exists() for name in kept)


def test_check_skips_without_docker(tmp_path: Path) -> None:
    done = _run_check({"PATH": str(tmp_path)})
    assert (done.returncode, done.stdout) == (0, "skipped: there is no docker command here\n")


def test_check_skips_where_no_engine_answers(tmp_path: Path) -> None:
    docker = tmp_path / "docker"
    docker.write_text("#!/bin/sh\nexit 1\n")
    docker.chmod(0o755)
    done = _run_check({"PATH": str(tmp_path)})
    assert done.returncode == 0
    assert done.stdout.startswith("skipped: `docker info` fails")


@pytest.mark.e2e
@pytest.mark.skipif(not os.environ.get("RECSYS_TEST_DOCKER"), reason="takes minutes; RECSYS_TEST_DOCKER=1 asks for it")
def test_stack_in_docker() -> None:
    done = _run_check(dict(os.environ))
    if done.stdout.startswith("skipped"):
        pytest.skip(done.stdout.strip())
    assert done.returncode == 0, done.stdout + done.stderr


def _targets() -> set[str]:
    return {service["build"]["target"] for service in SERVICES.values() if "build" in service}


def _run_check(environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "scripts/compose_check.py"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=1_800,
        check=False,
    )
