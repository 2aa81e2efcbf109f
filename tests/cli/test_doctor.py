"""`sar2opt-doctor` on broken installations, made with real packages and programs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from sar2optical.cli.doctor import page
from sar2optical.doctor import Finding


def doctor(*arguments: str, **environment: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sar2optical.cli.doctor", *arguments]
    settings = {**os.environ, **{name: str(value) for name, value in environment.items()}}
    return subprocess.run(command, env=settings, capture_output=True, text=True, timeout=120, check=False)


def findings(result: subprocess.CompletedProcess[str]) -> dict[str, dict[str, str]]:
    return {finding["name"]: finding for finding in json.loads(result.stdout)["findings"]}


def package(folder: Path, name: str, code: str) -> None:
    (folder / name).mkdir(parents=True)
    (folder / name / "__init__.py").write_text(code)


def hide(folder: Path, *names: str) -> None:
    """Make libraries fail on import at once, so that a test waits only for its own."""
    for name in names:
        package(folder, name, f"raise ModuleNotFoundError({name!r})")


def wheel(folder: Path, name: str, version: str) -> None:
    """Write the metadata of an installed wheel."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


def program(folder: Path, name: str, lines: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{lines}\n")
    (folder / name).chmod(0o755)
    return folder


def test_everything_works_on_this_machine():
    result = doctor()
    assert result.returncode == 0, result.stdout
    assert result.stderr == ""
    lines = [line.split() for line in result.stdout.splitlines()]
    for name in ("openvino", "onnxruntime", "pytorch"):
        assert any(line[:2] == ["ok", name] and "correct" in line for line in lines)
    assert any(line[:3] == ["ok", "bundled", "generator"] for line in lines)
    assert [line[0] for line in lines if len(line) == 1] == [
        "python", "backends", "model", "gpu", "rasters", "machine", "extras"
    ]  # fmt: skip


def test_broken_libraries_are_lines_of_the_report(tmp_path):
    package(tmp_path, "openvino", "raise ImportError('libtbb.so.12: cannot open shared object file')")
    package(tmp_path, "torch", "import os\nprint('about to die', flush=True)\nos.abort()")
    wheel(tmp_path, "onnxruntime-gpu", "1.31.0")
    result = doctor("--json", "--only", "backends", PYTHONPATH=tmp_path)
    assert result.returncode == 1
    assert json.loads(result.stdout)["ok"] is False
    found = findings(result)
    assert found["openvino"]["state"] == "broken"
    assert found["openvino"]["detail"] == "ImportError: libtbb.so.12: cannot open shared object file"
    assert found["pytorch"]["state"] == "broken"
    assert "SIGABRT" in found["pytorch"]["detail"]
    assert found["onnxruntime"]["state"] == "ok"
    both = found["onnxruntime's wheels"]
    assert both["state"] == "broken"
    assert both["remedy"].startswith("pip uninstall -y onnxruntime onnxruntime-gpu, then pip install")
    assert all(finding["remedy"] for finding in found.values() if finding["state"] in ("broken", "warning"))


def test_a_broken_numpy_is_reported_before_its_consequences(tmp_path):
    package(tmp_path, "numpy", "raise ImportError('numpy._core.multiarray failed to import')")
    result = doctor("--only", "python", "--only", "rasters", PYTHONPATH=tmp_path)
    assert result.returncode == 1
    assert result.stderr == ""
    assert result.stdout.splitlines()[-1] == "broken: importing numpy, rasters"
    assert "> pip install --force-reinstall numpy" in result.stdout


def test_a_library_that_hangs_is_broken(tmp_path):
    package(tmp_path, "openvino", "import time\ntime.sleep(60)")
    hide(tmp_path, "onnxruntime", "torch")
    found = findings(doctor("--json", "--only", "backends", "--timeout", "2", PYTHONPATH=tmp_path))
    assert found["openvino"]["state"] == "broken"
    assert found["openvino"]["detail"] == "no response within 2 s"


def test_with_no_backend_nothing_runs(tmp_path):
    hide(tmp_path, "openvino", "onnxruntime", "torch")
    result = doctor("--only", "backends", "--only", "model", PYTHONPATH=tmp_path)
    assert result.returncode == 1
    assert "no backend works, so no model can run" in result.stdout
    assert "> pip install 'sar2optical[cpu]'" in result.stdout
    last = result.stdout.splitlines()[-1]
    assert last.startswith("broken: openvino, onnxruntime, pytorch, ")
    assert "any backend" in last
    assert "Traceback" not in result.stdout + result.stderr


def test_a_library_that_computes_another_output_is_broken(tmp_path):
    hide(tmp_path, "openvino", "torch")
    # The real ONNX Runtime, wrapped so that its output loses the sign.
    package(
        tmp_path,
        "sitecustomize",
        "import sys\n"
        "class Finder:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name != 'onnxruntime':\n"
        "            return None\n"
        "        sys.meta_path.remove(self)\n"
        "        import onnxruntime\n"
        "        run = onnxruntime.InferenceSession.run\n"
        "        onnxruntime.InferenceSession.run = lambda *a, **k: [abs(out) for out in run(*a, **k)]\n"
        "        return onnxruntime.__spec__\n"
        "sys.meta_path.insert(0, Finder())\n",
    )
    result = doctor("--json", "--only", "backends", PYTHONPATH=tmp_path)
    found = findings(result)["onnxruntime"]
    assert (found["state"], result.returncode) == ("broken", 1)
    assert "wrong output on cpu" in found["detail"]


def test_tensorrt_without_a_driver_is_a_warning(tmp_path):
    if Path("/proc/driver/nvidia").exists():
        pytest.skip("this machine has a driver")
    package(tmp_path, "tensorrt", "__version__ = '11.4.0'")
    hide(tmp_path, "openvino", "torch")
    result = doctor("--json", "--only", "backends", PYTHONPATH=tmp_path)
    found = findings(result)["tensorrt"]
    assert found["state"] == "warning"
    assert found["detail"].startswith("11.4.0 cannot run without a GPU: libcuda")
    assert "install NVIDIA's driver" in found["remedy"]


def test_gpus_are_listed_and_an_unused_one_is_a_warning(tmp_path):
    path = program(tmp_path / "bin", "nvidia-smi", "echo 'NVIDIA L4, 580.95.05, 8.9, 23034, 22500'")
    hide(tmp_path, "openvino", "torch")
    environment = {"PATH": f"{path}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(tmp_path)}
    found = findings(doctor("--json", "--only", "gpu", "--only", "backends", **environment))
    assert found["GPU 0"]["detail"] == (
        "NVIDIA L4, compute capability 8.9, driver 580.95.05, 22500 of 23034 MiB free"
    )
    assert found["any on a GPU"]["state"] == "warning"
    assert "pip install 'sar2optical[gpu]'" in found["any on a GPU"]["remedy"]


def test_a_driver_that_does_not_respond_is_a_warning(tmp_path):
    message = "Failed to initialize NVML: Driver/library mismatch"
    path = program(tmp_path / "bin", "nvidia-smi", f"echo '{message}'; exit 18")
    result = doctor("--json", "--only", "gpu", PATH=f"{path}{os.pathsep}{os.environ['PATH']}")
    found = findings(result)["GPUs"]
    assert found["state"] == "warning"
    assert found["detail"] == f"nvidia-smi failed: {message}"
    assert result.returncode == 0


def test_the_database_of_another_proj_is_broken(tmp_path):
    result = doctor("--only", "rasters", PROJ_DATA=tmp_path, PROJ_LIB=tmp_path)
    assert result.returncode == 1
    assert "PROJ" in result.stdout.splitlines()[-1]
    assert "> unset PROJ_DATA and PROJ_LIB" in result.stdout


def test_a_folder_with_the_name_of_a_library_is_not_imported(tmp_path, monkeypatch):
    package(tmp_path, "rasterio", "raise ImportError('not me')")
    monkeypatch.chdir(tmp_path)
    command = [sys.executable, "-P", "-m", "sar2optical.cli.doctor", "--only", "rasters"]  # as installed commands run
    assert subprocess.run(command, capture_output=True, timeout=60, check=False).returncode == 0


def test_remedies_are_below_their_findings():
    findings = [
        Finding("python", "Python", "ok", "3.11"),
        Finding("backends", "openvino", "broken", "ImportError: x", "pip install y"),
        Finding("machine", "memory", "warning", "1 GB", "end other programs"),
    ]
    assert click.unstyle(page(findings)) == (
        "python\n"
        "  ok       Python    3.11\n"
        "\n"
        "backends\n"
        "  broken   openvino  ImportError: x\n"
        "                     > pip install y\n"
        "\n"
        "machine\n"
        "  warning  memory    1 GB\n"
        "                     > end other programs\n"
        "\n"
        "broken: openvino; warning: memory"
    )


def test_help_loads_no_heavy_library():
    from tests.test_layering import loaded_by

    out, names = loaded_by(
        "from sar2optical.cli.doctor import main\n"
        "try:\n    main(['--help'], prog_name='sar2opt-doctor')\n"
        "except SystemExit as end:\n    assert end.code == 0"
    )
    assert "Usage: sar2opt-doctor" in out
    assert names == []
