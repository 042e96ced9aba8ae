"""`dry_run: true`: what a run would do, need and cost, from configs and data alone; no GPU is used, no weight loaded.

python schedules/run.py --config configs/…/X.yaml --accelerate_config configs/accelerate/Y.yaml --dry_run true
"""

from engines.model_shape import read_shape
from runtime.config import split_command_line
from runtime.errors import InputError
from runtime.launch_file import read_launch_file
from schedules.config import RunConfig
from trainers.dry_run_report import show_plan
from trainers.grpo_job import RoundJob


def plan_only(config: RunConfig, options: dict[str, str]) -> None:
    """Check a launch that is not made, and with `dry_run` print its plan.

    options: `check_for_processes` and `accelerate_config`, the launch that is meant.
    """
    file, processes = options.get("accelerate_config"), options.get("check_for_processes")
    if file is None:
        if config.schedule.dry_run:
            raise InputError("key 'dry_run': name the launch that is planned with --accelerate_config FILE")
        RoundJob(config, int(processes or 1)).check_arguments()
        return
    launch = read_launch_file(file, int(processes) if processes else None)
    job = RoundJob(config, launch.processes)
    job.check_arguments()
    if config.schedule.dry_run:
        shape = read_shape(config.schedule.model)
        show_plan(job, launch, shape)


def take_plan_options(argv: list[str]) -> tuple[list[str], dict[str, str]]:
    """`--check_for_processes N` and `--accelerate_config FILE` describe a launch to be checked, not made."""
    names = ("check_for_processes", "accelerate_config")
    _, overrides = split_command_line(argv)
    taken = {name: str(overrides[name]) for name in names if name in overrides}
    for name in taken:
        word = next(word for word in argv if word.partition("=")[0] == f"--{name}")
        index = argv.index(word)
        argv = argv[:index] + argv[index + (1 if "=" in word else 2) :]
    return argv, taken
