"""scripts/launch: each file is read by its own tool, or by what stands for it here."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DistributedType
from accelerate.utils.launch import prepare_multi_gpu_env
from support.places import HANGS_AFTER, ROOT

from winwin_hf.training.sharding import Sharding, asked_for

LAUNCH = ROOT / "scripts/launch"
ACCELERATE = ("one-gpu", "one-node", "nodes", "fsdp2")
SHELL = ("elastic", "slurm", "hf-jobs")


def test_all_of_them_are_known_here():
    names = {*(f"{name}.yaml" for name in (*ACCELERATE, "kubernetes", "skypilot")), *(f"{name}.sh" for name in SHELL)}
    assert {path.name for path in LAUNCH.iterdir()} == names


@pytest.mark.parametrize("name", ACCELERATE)
def test_accelerate_reads_its_configuration(name, monkeypatch):
    """And hands on what it says, as `accelerate launch` does."""
    path = LAUNCH / f"{name}.yaml"
    config = load_config_from_file(str(path))  # refuses keys that it doesn't know
    arguments = ["--config_file", str(path), "scripts/train.py", "RECIPE", "--output", "RUN", "--resume"]
    found, *_ = _validate_launch_command(launch_command_parser().parse_args(arguments))
    kinds = {"one-gpu": DistributedType.NO, "fsdp2": DistributedType.FSDP}
    assert config.distributed_type == kinds.get(name, DistributedType.MULTI_GPU)
    assert (found.num_machines, found.num_processes) == {"one-gpu": (1, 1), "nodes": (2, 16)}.get(name, (1, 8))
    if name == "one-gpu":
        return
    environment = prepare_multi_gpu_env(found)
    assert environment.get("ACCELERATE_USE_FSDP", "false") == str(name == "fsdp2").lower()
    for variable, value in environment.items():
        if variable.startswith(("FSDP_", "ACCELERATE_USE_FSDP")):
            monkeypatch.setenv(variable, value)
    assert asked_for() == (Sharding(reshard=True, offload=True, checkpointing=True) if name == "fsdp2" else None)


@pytest.mark.parametrize("name", SHELL)
def test_a_shell_reads_its_script(name):
    assert subprocess.run(["bash", "-n", LAUNCH / f"{name}.sh"], capture_output=True).returncode == 0
    assert os.access(LAUNCH / f"{name}.sh", os.X_OK)


def tools(folder: Path, **scripts: str) -> dict[str, str]:
    """An environment whose first commands are these."""
    for name, script in scripts.items():
        path = folder / name
        path.write_text(f"#!/usr/bin/env bash\n{script}\n")
        path.chmod(0o755)
    return {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}


def test_slurm_starts_torchrun_once_a_machine(tmp_path):
    """With an `srun` that starts two tasks as Slurm would, and a Python that says what it is asked to run."""
    environment = tools(
        tmp_path,
        scontrol='[ "$*" = "show hostnames gpu-[3-4]" ] && printf "gpu-3\\ngpu-4\\n"',
        srun='for SLURM_NODEID in 0 1; do export SLURM_NODEID; "${@:2}"; done',
        python='echo "$@"',
    )
    environment |= {
        "SLURM_JOB_NODELIST": "gpu-[3-4]",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_JOB_ID": "17",
        "SLURM_SUBMIT_DIR": str(ROOT),
        "PROCESSES": "8",
    }
    done = subprocess.run([LAUNCH / "slurm.sh", "camvid", "/runs/a"], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "-m torch.distributed.run --nnodes 2 --nproc_per_node 8 --max-restarts 10 --rdzv-backend c10d --rdzv-endpoint gpu-3:29400 "
        f"--rdzv-id 17 --rdzv-conf is_host={host} scripts/train.py camvid --output /runs/a --resume"
        for host in ("true", "false")
    ]


@pytest.mark.parametrize(("makes", "code"), [('mkdir -p "$4/state-00000002"', 0), ("true", 1)])
def test_slurm_starts_a_job_again_that_came_to_a_new_state(tmp_path, makes, code):
    run = tmp_path / "run"
    (run / "state-00000001").mkdir(parents=True)
    os.utime(run / "state-00000001", (0, 0))
    said = tmp_path / "said.txt"
    environment = tools(tmp_path, scontrol=f'echo "$@" >> {said}; echo gpu-3', srun=f"{makes}; exit 1")
    environment |= {"SLURM_JOB_NODELIST": "gpu-3", "SLURM_JOB_NUM_NODES": "1", "SLURM_JOB_ID": "17"}
    environment["SLURM_SUBMIT_DIR"] = str(ROOT)
    done = subprocess.run([LAUNCH / "slurm.sh", "camvid", run], env=environment, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    assert ("requeue 17" in said.read_text()) == (code == 0)


def test_hugging_face_jobs_would_take_it(tmp_path):
    """`hf jobs run --dry-run` reads all options and sends nothing."""
    pytest.importorskip("huggingface_hub.cli.jobs")
    environment = tools(tmp_path, hf=f'exec "{sys.executable}" -m huggingface_hub.cli.hf "$@"')
    environment |= {"HF_TOKEN": "hf_localtest", "HF_HUB_OFFLINE": "1"}
    command = [LAUNCH / "hf-jobs.sh", "camvid", "me/model", "--dry-run"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=HANGS_AFTER)
    if done.returncode and ("--dry-run" in done.stderr or "offline mode is enabled" in done.stderr):
        pytest.skip("this huggingface_hub has no dry run, or none without the Hub")
    assert done.returncode == 0, done.stderr
    for said in (
        "a100-large",
        "hf://buckets/me/runs:/runs",
        "winwin train camvid --output /runs/camvid --resume",
        "12h",
    ):
        assert said in done.stdout
    assert "hf_localtest" not in done.stdout


def test_kubernetes_names_agree():
    """Its client read the file with all fields known (kubernetes 37.0); here only that its parts name each other."""
    service, job = yaml.safe_load_all((LAUNCH / "kubernetes.yaml").read_text())
    spec, pod = job["spec"], job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    environment = {entry["name"]: entry["value"] for entry in container["env"]}
    host, port = environment["HEAD"].split(":")
    assert host == f"{job['metadata']['name']}-0.{pod['subdomain']}" and pod["subdomain"] == service["metadata"]["name"]
    assert int(port) == service["spec"]["ports"][0]["port"]
    assert (
        int(environment["NODES"]) == spec["completions"] == spec["parallelism"] and spec["completionMode"] == "Indexed"
    )
    assert service["spec"]["selector"] == spec["template"]["metadata"]["labels"]
    assert {v["name"] for v in container["volumeMounts"]} == {v["name"] for v in pod["volumes"]}
    assert (ROOT / container["command"][0]).is_file()


def test_skypilot_runs_the_elastic_script(tmp_path):
    """Its task in a shell, with the variables that SkyPilot sets, and a Python that says what it is asked to run."""
    task = yaml.safe_load((LAUNCH / "skypilot.yaml").read_text())
    environment = tools(tmp_path, python='echo "$@"') | {**task["envs"]}
    environment |= {"SKYPILOT_NUM_NODES": "2", "SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2", "SKYPILOT_NODE_RANK": "1"}
    done = subprocess.run(["bash", "-ec", task["run"]], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert "--nnodes 2" in done.stdout and "--rdzv-endpoint 10.0.0.1:29400" in done.stdout, done.stderr
    assert done.stdout.endswith(
        "is_host=false scripts/train.py flow-synthetic --output /runs/flow-synthetic --resume\n"
    )
    assert list(task["file_mounts"]) == ["/runs"] and task["num_nodes"] == 2
