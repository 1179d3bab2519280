"""The doctor: each kind of trouble, made, with its verdict and its fix; the page, the JSON and the exit code."""

import importlib
import json
import stat
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from egrc_mega.launch.doctor import diagnosis, servers
from egrc_mega.launch.doctor.diagnosis import diagnose
from egrc_mega.launch.doctor.finding import Finding, Verdict, fail, ok, warn, worst
from egrc_mega.launch.doctor.gpu import Driver, Torch, gpu_findings, look_for_driver, nccl_finding
from egrc_mega.launch.doctor.packages import (
    PACKAGES,
    engine_finding,
    installed_versions,
    name_finding,
    package_findings,
    python_finding,
)
from egrc_mega.launch.doctor.servers import TESTED_SGLANG, Environment, environment_finding, look_into, server_findings
from egrc_mega.launch.doctor.system import GIB, System, look_at_system, system_findings
from egrc_mega.testing.fake_server import FakeServer

RIGHT = {"torch": "2.13.0+cpu", "megatron-core": "0.16.1", "transformers": "5.23.0", "math-verify": "0.9.0"}
RIGHT |= {"safetensors": "0.8.0", "aiohttp": "3.14.5", "pydantic": "2.14.3", "psutil": "7.2.2"}
H100 = Driver("580.95.05", ("NVIDIA H100 80GB HBM3 (81559 MiB)",) * 2)
FINE = System(
    disk_path=Path("/data"),
    disk_free=500 * GIB,
    disk_writable=True,
    shared_free=16 * GIB,
    memory=64 * GIB,
    memory_limit=None,
    num_cores=16,
    open_files=65536,
    locked_memory=-1,
    now=time.time(),
    clock_is_synchronised=True,
)


def of_package(name: str, here: dict[str, str], *, has_gpu: bool = False, is_true_apex: bool = True) -> Finding:
    found = list(package_findings(here, has_gpu=has_gpu, is_true_apex=is_true_apex))
    assert [finding.name for finding in found] == [package.name for package in PACKAGES]
    return next(finding for finding in found if finding.name == name)


@pytest.mark.parametrize(
    ("name", "here", "has_gpu", "verdict", "found", "fix"),
    [
        ("torch", {}, False, "fail", "missing", "'torch>=2.11'"),
        (
            "megatron-core",
            {"megatron-core": "0.15.0"},
            False,
            "fail",
            "0.15.0, out of range",
            "'megatron-core>=0.16,<0.17'",
        ),
        ("torch", {"torch": "2.13.0+cu130"}, True, "ok", "2.13.0+cu130", ""),
        ("triton", {}, False, "ok", "absent", ""),
        ("triton", {}, True, "warn", "absent", "GPU kernels"),
        ("transformer-engine", {}, True, "warn", "absent", "fused layers"),
        ("sglang", {"sglang": "0.5.23"}, False, "warn", "in the trainer's environment", "serve_env.sh"),
        ("apex", {}, True, "ok", "absent", ""),
    ],
)
def test_packages(name: str, here: dict[str, str], has_gpu: bool, verdict: str, found: str, fix: str) -> None:
    finding = of_package(name, here, has_gpu=has_gpu)
    assert (finding.verdict, bool(finding.fix)) == (verdict, bool(fix))
    assert found in finding.found and fix in finding.fix


def test_another_projects_apex_is_told_from_nvidias() -> None:
    apex = of_package("apex", {"apex": "0.9"}, is_true_apex=False)
    assert apex.verdict is Verdict.WARN and "another project" in apex.found and "pip uninstall apex" in apex.fix
    assert of_package("apex", {"apex": "0.1"}).verdict is Verdict.OK


def test_a_transformer_engine_that_cannot_be_imported_fails() -> None:
    assert engine_finding("2.12", imports=False).verdict is Verdict.FAIL
    assert engine_finding("2.12", imports=True) == ok("Transformer Engine", "2.12 can be imported")


def test_old_and_untested_pythons() -> None:
    verdicts = [python_finding(version).verdict for version in ((3, 10, 9), (3, 11, 0), (3, 13, 2), (3, 14, 0))]
    assert verdicts == ["fail", "ok", "ok", "warn"]


def test_a_kernels_package_that_is_not_hugging_faces_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "kernels", raising=False)  # what another test has imported would be found first
    assert name_finding(tmp_path, None) == ok("the name kernels", "free")
    module = tmp_path / "kernels"
    module.mkdir()
    assert name_finding(tmp_path, None).verdict is Verdict.OK  # a plain folder gives way to any package
    (module / "__init__.py").touch()
    importlib.invalidate_caches()  # a folder that changes twice within a tick of its clock looks unchanged
    here = name_finding(tmp_path, None)
    assert here.verdict is Verdict.FAIL and str(module / "__init__.py") in here.found and "remove that file" in here.fix
    monkeypatch.syspath_prepend(tmp_path)
    elsewhere = name_finding(Path("/"), None)
    assert elsewhere.verdict is Verdict.FAIL and "not Hugging Face's" in elsewhere.found
    assert name_finding(Path("/"), "0.17.2") == ok("the name kernels", "Hugging Face's 0.17.2")


@pytest.mark.parametrize(
    ("driver", "torch", "wants_gpu", "expected"),
    [
        (Driver(), Torch(), False, [("gpu", "ok", "on the CPU with gloo")]),
        (Driver(), Torch("13.0"), True, [("gpu", "fail", "no NVIDIA driver")]),
        (
            Driver(trouble="nvidia-smi says: Driver/library version mismatch"),
            Torch(),
            False,
            [("driver", "fail", "mismatch")],
        ),
        (H100, Torch(), False, [("gpu", "fail", "no CUDA")]),
        (H100, Torch("13.0", 2), True, [("driver", "ok", "580.95.05"), ("gpu", "ok", "2 x NVIDIA H100")]),
        (replace(H100, version="535.1"), Torch("13.0", 2), False, [("driver", "fail", "too old"), ("gpu", "ok", "")]),
        (H100, Torch("12.8", 1), False, [("driver", "ok", ""), ("gpu", "warn", "torch can use 1")]),
        (H100, Torch("12.8", 0), False, [("driver", "ok", ""), ("gpu", "fail", "torch can use 0")]),
    ],
)
def test_gpus(driver: Driver, torch: Torch, wants_gpu: bool, expected: list[tuple[str, str, str]]) -> None:
    found = list(gpu_findings(driver, torch, wants_gpu=wants_gpu))
    assert [(f.name, f.verdict) for f in found] == [(name, verdict) for name, verdict, _ in expected]
    for finding, (_, verdict, words) in zip(found, expected, strict=True):
        assert words in finding.found and bool(finding.fix) == (verdict != "ok")


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("echo 'NVIDIA H100, 81559 MiB, 580.95.05'", Driver("580.95.05", ("NVIDIA H100 (81559 MiB)",))),
        ("echo 'Failed to initialize NVML'; exit 9", Driver(trouble="nvidia-smi says: Failed to initialize NVML")),
    ],
)
def test_the_driver_is_asked_by_its_own_tool(
    script: str, expected: Driver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert look_for_driver() == expected


@pytest.mark.parametrize(
    ("ours", "theirs", "has_gpu", "verdict"),
    [
        ("", None, False, "ok"),
        ("", None, True, "warn"),
        ("2.28.9", None, True, "ok"),
        ("2.28.9", "2.28.9", True, "ok"),
        ("2.28.9", "2.27.3", True, "fail"),
    ],
)
def test_nccl_of_both_environments(ours: str, theirs: str | None, has_gpu: bool, verdict: str) -> None:
    finding = nccl_finding(ours, theirs, has_gpu)
    assert finding.verdict == verdict and ours in finding.found and (theirs or "") in finding.found


def test_the_servers_environment(tmp_path: Path) -> None:
    def there(**versions: str) -> Environment:
        return Environment(tmp_path / "python", versions)

    cases: list[tuple[Environment | None, bool, str]] = [
        (None, False, "ok"),
        (None, True, "fail"),
        (there(sglang=TESTED_SGLANG, torch="2.13.0"), True, "ok"),
        (there(sglang="0.5.1"), True, "warn"),
        (there(torch="2.13.0"), True, "fail"),
        (there(torch="2.13.0"), False, "warn"),
        (look_into(tmp_path / "python"), False, "fail"),
    ]
    for environment, wanted, verdict in cases:
        assert environment_finding(environment, wanted=wanted).verdict == verdict, (environment, wanted)
    assert look_into(Path(sys.executable)).versions["torch"] == installed_versions()["torch"]


def test_the_sglang_that_is_tested_is_the_one_that_is_installed(root: Path) -> None:
    assert f"\nsglang=={TESTED_SGLANG}\n" in (root / "scripts/serve/cuda.lock").read_text()


def test_servers_are_asked(monkeypatch: pytest.MonkeyPatch, free_port: int) -> None:
    monkeypatch.setattr(servers, "ANSWER_S", 1.0)
    with FakeServer() as well, FakeServer() as ill, FakeServer() as old, FakeServer() as foreign:
        well.info = {"model_path": "m", "weight_version": "v3", "version": TESTED_SGLANG}
        ill.is_ill, foreign.is_missing = True, True
        old.info = {"model_path": "m", "weight_version": "v3", "version": "0.4.0"}
        found = server_findings([well.url, ill.url, old.url, foreign.url, f"http://127.0.0.1:{free_port}"])
    assert [finding.verdict for finding in found] == ["ok", "fail", "warn", "fail", "fail"]
    assert found[0] == ok(f"server {well.url}", f"SGLang {TESTED_SGLANG}: m, weights v3")
    assert "/health" in found[1].found and "0.4.0" in found[2].found and TESTED_SGLANG in found[2].fix
    assert found[4].found == "cannot be reached: Connection refused" and "egrc serve" in found[4].fix
    assert server_findings([]) == []


@pytest.mark.parametrize(
    ("change", "has_gpu", "name", "verdict"),
    [
        ({}, True, "disk", "ok"),
        ({"disk_writable": False}, False, "disk", "fail"),
        ({"disk_free": GIB // 2}, False, "disk", "fail"),
        ({"disk_free": 5 * GIB}, False, "disk", "warn"),
        ({"shared_free": None}, False, "shared memory", "warn"),
        ({"shared_free": 64 * 2**20}, False, "shared memory", "warn"),
        ({"shared_free": 64 * 2**20}, True, "shared memory", "fail"),
        ({"open_files": 200}, False, "open files", "fail"),
        ({"open_files": 1024}, False, "open files", "warn"),
        ({"open_files": -1}, False, "open files", "ok"),
        ({"locked_memory": 65536}, True, "locked memory", "warn"),
        ({"memory": 2 * GIB}, False, "memory", "warn"),
        ({"memory_limit": 2 * GIB}, False, "memory", "warn"),
        ({"now": 1e9}, False, "clock", "fail"),
        ({"clock_is_synchronised": False}, False, "clock", "warn"),
        ({"clock_is_synchronised": None}, False, "clock", "ok"),
    ],
)
def test_the_system(change: dict[str, Any], has_gpu: bool, name: str, verdict: str) -> None:
    found = list(system_findings(replace(FINE, **change), has_gpu=has_gpu))
    assert {f.name: f.verdict.value for f in found if f.verdict is not Verdict.OK} == (
        {} if verdict == "ok" else {name: verdict}
    )
    (own,) = (finding for finding in found if finding.name == name)
    assert bool(own.fix) == (verdict != "ok")
    assert ("locked memory" in {f.name for f in found}) == has_gpu


def test_this_machine_is_looked_at_where_a_run_would_be_made(tmp_path: Path) -> None:
    seen = look_at_system(tmp_path / "not" / "yet")
    assert seen.disk_path == tmp_path and seen.disk_writable and seen.disk_free > 0
    assert abs(seen.now - time.time()) < 600 and seen.num_cores > 0 and seen.memory > 0


def test_a_missing_package_is_said_where_nothing_that_needs_it_can_be_asked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(diagnosis, "installed_versions", lambda: RIGHT | {"torch": "2.4.0"})
    monkeypatch.setitem(sys.modules, "egrc_mega.launch.doctor.further", None)
    assert diagnose([], [], [], in_json=True) == 1
    told = json.loads(capsys.readouterr().out)
    checks = {check["name"]: check for check in told["checks"]}
    assert told["verdict"] == "fail" and told["parts"] == {}
    assert checks["torch"]["verdict"] == "fail" and "torch>=2.11" in checks["torch"]["fix"]
    assert checks["further checks"]["verdict"] == "warn"
    assert set(checks["torch"]) == {"name", "verdict", "found", "fix", "needed"}


@pytest.mark.parametrize(("verdict", "code"), [(ok("a", "b"), 0), (warn("a", "b", "c"), 0), (fail("a", "b", "c"), 1)])
def test_only_what_fails_fails(
    verdict: Finding, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(diagnosis, "findings", lambda *_: ([ok("first", "\x1b[2Jall"), verdict], {"linear": "ours"}))
    assert diagnose([], [], [], in_json=False) == code
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["ok    first  \\x1b[2Jall", f"{verdict.verdict.value:<4}  a      b"]
    assert lines[2:] == ["      -> c"] * bool(verdict.fix) + ["  linear: ours"]
    assert worst([]) is Verdict.OK


def test_a_configuration_says_which_servers_and_which_folder_are_looked_at(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], free_port: int
) -> None:
    sets = [f"run.dir={tmp_path}/run", "rollout.server=external", f"rollout.urls=[http://127.0.0.1:{free_port}]"]
    assert diagnose([root / "configs/quickstart.yaml"], [*sets, "rollout.device=cuda"], [], in_json=True) == 1
    checks = {check["name"]: check for check in json.loads(capsys.readouterr().out)["checks"]}
    assert checks[f"server http://127.0.0.1:{free_port}"]["verdict"] == "fail"
    assert str(tmp_path) in checks["disk"]["found"]
