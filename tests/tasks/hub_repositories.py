"""Small copies of the Hub repositories that secateur/tasks/hub_sets.py reads: real names, schemas and layout, made-up
problems."""

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from secateur.tasks.hub_sets import AMC_AIME, EURUS_SUFFIX, HUB_SETS

OLYMPIAD_GOLDS = {  # by id, as that set writes them
    1782: ["$m_{\\max }=n^{2}-n-1$"],
    2045: ["$t(0,4]$"],
    2212: ["$N=n$"],
    1650: ["$1,-2,-5$"],
    1651: ["$x=2, y=5$"],
    1652: ["$(2,3,3)$"],
    1653: ["$\\frac{\\pi}{3}+2 \\pi k, k \\in \\mathbb{Z}$"],
}
EURUS_SYSTEM = "\nWhen tackling complex reasoning tasks, you have access to the following actions.\n"
GPQA_OPTIONS = ("Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3")


def write_repositories(root: Path) -> Path:
    """All of them under `root`, each as `<owner>/<name>/<pinned commit>/`."""
    _eurus(_folder(root, AMC_AIME))
    _aime(_folder(root, "aime22"))
    _jsonl(
        _folder(root, "aime25") / "test.jsonl",
        [{"problem": f"Find {n}.", "answer": "336^\\circ" if n == 7 else str(n), "id": str(n)} for n in range(30)],
    )
    _jsonl(
        _folder(root, "math500") / "test.jsonl",
        [
            {
                "problem": f"What is $\\frac{{{n}}}{{7}}$?",
                "solution": "…",
                "answer": f"\\frac{{{n}}}{{7}}",
                "subject": "Algebra",
                "level": 3,
                "unique_id": f"test/algebra/{n}.json",
            }
            for n in range(500)
        ],
    )
    _parquet(
        _folder(root, "amc23") / "test-00000-of-00001.parquet",
        [{"id": n, "answer": float(n - 1), "url": "…", "question": f"What is {n}-1?"} for n in range(40)],
    )
    _gsm8k(_folder(root, "gsm8k"))
    _olympiad(_folder(root, "olympiadbench"))
    _gpqa(_folder(root, "gpqa_diamond"))
    return root


def _folder(root: Path, name: str) -> Path:
    folder = root / HUB_SETS[name].repository / HUB_SETS[name].revision
    folder.mkdir(parents=True)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n", encoding="utf-8")
    return folder


def _eurus(folder: Path) -> None:
    """2,500 of the wanted rows among others whose ground truth is a list of tests."""
    rows = []
    for n in range(2600):
        wanted = n % 26 != 0
        question = f"Add {n} and 1.{EURUS_SUFFIX}"
        rows.append(
            {
                "data_source": AMC_AIME if wanted else "taco",
                "prompt": [{"content": EURUS_SYSTEM, "role": "system"}, {"content": question, "role": "user"}],
                "ability": "math" if wanted else "code",
                "reward_model": {"ground_truth": str(n + 1) if wanted else '{"inputs": []}', "style": "rule"},
                "extra_info": {"index": 0, "split": "dummy"},
            }
        )
    _parquet(folder / "train.parquet", rows)
    _parquet(folder / "validation.parquet", rows[:5])


def _aime(folder: Path) -> None:
    rows = []
    for year in (2022, 2023, 2024):
        for n in range(30):
            contest, number = ("I", n + 1) if n < 15 else ("II", n - 14)
            url = f"https://artofproblemsolving.com/wiki/index.php/{year}_AIME_{contest}_Problems/Problem_{number}"
            rows.append(
                {
                    "id": len(rows),
                    "problem": f"Find {n} of {year}.",
                    "solution": "…",
                    "answer": f"{n:03d}",
                    "url": url,
                }
            )
    _parquet(folder / "data" / "train-00000-of-00001.parquet", rows)


def _gsm8k(folder: Path) -> None:
    paths = {name: f"{name}/test-00000-of-00001.parquet" for name in ("main", "socratic")}
    _configs(folder, {name: ("test", path) for name, path in paths.items()})
    for name, path in paths.items():
        answers = (f"She has {n} + 1000 = <<{n}+1000={n + 1000}>>{n + 1000}.\n#### {n + 1000:,}" for n in range(1319))
        _parquet(folder / path, [{"question": f"Add {name} {n}?", "answer": text} for n, text in enumerate(answers)])


def _olympiad(folder: Path) -> None:
    name = "OE_TO_maths_en_COMP"
    path = f"OlympiadBench/{name}/{name}.parquet"
    _configs(folder, {name: ("train", path), "TP_TO_maths_en_COMP": ("train", path)})
    rows = [
        {
            "id": 1600 + n,
            "question": f"Solve {n}.",
            "solution": ["…"],
            "final_answer": OLYMPIAD_GOLDS.get(1600 + n, [f"${n}$", "second"]),
            "context": "Let $k=1$." if n == 3 else None,
            "image_1": None,
            "modality": "Text-only",
            "subfield": "Algebra",
            "language": "English",
        }
        for n in range(674)
    ]
    _parquet(folder / path, rows)


def _gpqa(folder: Path) -> None:
    _configs(folder, {name: ("train", f"{name}.csv") for name in ("gpqa_extended", "gpqa_diamond")})
    columns = ["Record ID", "Question", "High-level domain", "Subdomain", *GPQA_OPTIONS]
    for name in ("gpqa_extended", "gpqa_diamond"):
        with open(folder / f"{name}.csv", "w", encoding="utf-8", newline="") as handle:
            writer = csv.writer(handle)
            writer.writerow(columns)
            for n in range(198):
                options = [f" right {n}\n", f"wrong a {n}", f"wrong b {n}", f"wrong c {n}"]
                writer.writerow([f"rec{n:03d}", f'Which of {n},\n"quoted"?\n', "Physics", "Optics", *options])


def _configs(folder: Path, configs: dict[str, tuple[str, str]]) -> None:
    entries = [
        {"config_name": name, "data_files": [{"split": split, "path": path}]}
        for name, (split, path) in configs.items()
    ]
    (folder / "README.md").write_text(f"---\nconfigs: {json.dumps(entries)}\n---\n", encoding="utf-8")


def _parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


def _jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
