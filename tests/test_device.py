"""What a device other than the CPU needs, tested without one: see `elsewhere.py`."""

import subprocess
import sys
from pathlib import Path

import pytest
from torch.utils import backend_registration

ELSEWHERE = Path(__file__).with_name("elsewhere.py")


@pytest.mark.skipif(
    not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"), reason="this torch emulates no device"
)
def test_everything_runs_on_a_device_that_is_not_the_cpu(tmp_path):
    command = [sys.executable, "-m", "pytest", "-q", "--basetemp", tmp_path / "own", "-p", "no:cacheprovider", ELSEWHERE]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout
