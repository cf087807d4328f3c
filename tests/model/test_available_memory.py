import os
import stat

from automl_cxr.model import available_memory


def test_control_groups_of_both_versions_limit_the_memory(tmp_path):
    root, membership = tmp_path / "cgroup", tmp_path / "membership"
    for file, content in (
        ("memory.max", "max\n"),
        ("job/memory.max", "8000\n"),
        ("job/step/memory.max", "max\n"),
        ("memory/memory.limit_in_bytes", "9223372036854771712\n"),
        ("memory/job/memory.limit_in_bytes", "7000\n"),
    ):
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_text(content)
    membership.write_text("0::/job/step\n")
    assert min(available_memory._control_group_limits(root, membership)) == 8000
    membership.write_text("5:cpu,memory:/job\n1:name=systemd:/elsewhere\n")
    assert min(available_memory._control_group_limits(root, membership)) == 7000
    assert available_memory._control_group_limits(tmp_path / "no", tmp_path / "none") == []


def test_the_memory_of_a_share_of_a_gpu(tmp_path, monkeypatch):
    tool = tmp_path / "nvidia-smi"
    tool.write_text('#!/bin/sh\n[ "$3" = "--id=3" ] && echo 81920 || exit 6\n')
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path) + os.pathsep + os.environ["PATH"])
    monkeypatch.setattr(available_memory, "has_gpu", lambda: True)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,4")
    available_memory._gpu_memory.cache_clear()
    assert available_memory.available_memory_bytes() == 81920 * 2**20
    monkeypatch.setenv("AUTOML_CXR_GPUS", "0.25")
    assert available_memory.available_memory_bytes() == 20480 * 2**20
    available_memory._gpu_memory.cache_clear()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    assert available_memory.available_memory_bytes() is None, "a network is not refused if the memory is unknown"
    available_memory._gpu_memory.cache_clear()
