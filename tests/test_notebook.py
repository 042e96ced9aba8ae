"""examples/first_steps.ipynb: its cells run in their order, and what it promises is there."""

import json
import os
import subprocess
import sys
from pathlib import Path


def test_the_notebook_runs_in_ten_cells_from_a_model_folder_to_a_picture(repository: Path, tmp_path: Path) -> None:
    folder = repository / "examples"
    notebook = json.loads((folder / "first_steps.ipynb").read_text(encoding="utf-8"))
    assert len(notebook["cells"]) == 10
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] for cell in cells), "run it once, so that readers see what it prints"
    assert any("image/png" in output.get("data", {}) for output in cells[-1]["outputs"])
    program = tmp_path / "cells.py"
    source = "\n\n".join("".join(cell["source"]) for cell in cells)
    program.write_text(f"{source}\nassert result.usage.generated < full.usage.generated and same\n", encoding="utf-8")
    environment = {**os.environ, "MPLBACKEND": "Agg", "PYTHONPATH": str(repository)}
    done = subprocess.run([sys.executable, str(program)], cwd=folder, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert "never started" in done.stdout and "shortest wait" in done.stdout
    assert str(Path.home()) not in json.dumps(notebook) and str(repository) not in json.dumps(notebook)
